//! The harness of the black-box tests: starts real broker processes and drives them with real
//! clients over real sockets. Used by the test binaries in `tests/tests`. It does not use the
//! broker's code, so that an expectation can only come from the MQTT specification, from the
//! documentation, or from another broker (`GRAPNEL_TESTS_PEER=mosquitto`).
#![allow(clippy::print_stderr, reason = "a harness talks to whoever reads a failed test")]

use std::time::Duration;

pub mod broker;
pub mod bystander;
pub mod certificates;
pub mod churn;
pub mod client;
pub mod ctl;
pub mod flood;
pub mod layers;
pub mod ledger;
mod line;
pub mod load;
pub mod markdown;
pub mod mosquitto;
pub mod paho;
pub mod plugin;
pub mod process;
pub mod repository;
pub mod row;
pub mod site;
pub mod socket;
pub mod storm;
pub mod transport;
pub mod wire;

pub use broker::{Broker, Peer};
pub use client::Client;
pub use site::{Io, Kind, Site};
pub use socket::Socket;
pub use transport::Transport;
pub use wire::{Connect, Packet, Publish, Subscribe, Version, Will};

/// Timeout for an event that must happen. It is long because CI has two busy cores; only a failing
/// test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Sleeps between two checks of a condition that has its own deadline, or until the next moment of
/// a steady rate.
#[allow(clippy::disallowed_methods, reason = "the two cases in which time itself is what is meant")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Makes tests with 1, 2 and 8 shards out of a scenario with a running broker: `NAME::shards_1`,
/// `_2` and `_8`. The second form takes a builder's settings, the third the MQTT version too. In
/// the third form, each number of shards and each version is part of one test that always runs;
/// `scripts/test --every` runs the other pairs.
#[macro_export]
macro_rules! scenario {
    ($(#[$meta:meta])* fn $name:ident($broker:ident) $body:block) => {
        $crate::scenario! { $(#[$meta])* fn $name($broker in $crate::Broker::builder()) $body }
    };
    ($(#[$meta:meta])* fn $name:ident($broker:ident in $builder:expr) $body:block) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every scenario needs all that its file uses")]
            use super::*;
            fn scenario($broker: &$crate::Broker) $body
            #[test] fn shards_1() { if let Some(broker) = $builder.start_with_shards(1) { scenario(&broker) } }
            #[test] fn shards_2() { if let Some(broker) = $builder.start_with_shards(2) { scenario(&broker) } }
            #[test] fn shards_8() { if let Some(broker) = $builder.start_with_shards(8) { scenario(&broker) } }
        }
    };
    ($(#[$meta:meta])* fn $name:ident($broker:ident, $version:ident) $body:block) => {
        $crate::scenario! { $(#[$meta])* fn $name($broker in $crate::Broker::builder(), $version) $body }
    };
    ($(#[$meta:meta])* fn $name:ident($broker:ident in $builder:expr, $version:ident) $body:block) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every scenario needs all that its file uses")]
            use super::*;
            fn scenario($broker: &$crate::Broker, $version: $crate::Version) $body
            fn run(shards: usize, version: $crate::Version) {
                if let Some(broker) = $builder.start_with_shards(shards) { scenario(&broker, version) }
            }
            #[test] #[ignore = "scripts/test --every"] fn shards_1_v31() { run(1, $crate::Version::V31) }
            #[test] fn shards_1_v311() { run(1, $crate::Version::V311) }
            #[test] #[ignore = "scripts/test --every"] fn shards_1_v5() { run(1, $crate::Version::V5) }
            #[test] #[ignore = "scripts/test --every"] fn shards_2_v31() { run(2, $crate::Version::V31) }
            #[test] #[ignore = "scripts/test --every"] fn shards_2_v311() { run(2, $crate::Version::V311) }
            #[test] fn shards_2_v5() { run(2, $crate::Version::V5) }
            #[test] fn shards_8_v31() { run(8, $crate::Version::V31) }
            #[test] #[ignore = "scripts/test --every"] fn shards_8_v311() { run(8, $crate::Version::V311) }
            #[test] #[ignore = "scripts/test --every"] fn shards_8_v5() { run(8, $crate::Version::V5) }
        }
    };
}
