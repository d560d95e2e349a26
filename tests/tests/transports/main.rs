//! TLS, WebSocket, Unix sockets and the PROXY protocol as black boxes: what MQTT promises holds on
//! each of them, on both drivers of the shards and when connections move between shards; their
//! settings; tools and proxies that users have; and peers that misuse them.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

/// Makes two tests of a scenario with a running [`Site`](grapnel_tests::Site): with a ring on two
/// shards, and with epoll on one. The second form changes the plan of the site.
macro_rules! on_both {
    ($(#[$meta:meta])* fn $name:ident($site:ident) $body:block) => {
        on_both! { $(#[$meta])* fn $name($site in |plan| plan) $body }
    };
    ($(#[$meta:meta])* fn $name:ident($site:ident in $change:expr) $body:block) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every scenario needs all that its file uses")]
            use super::*;
            const CHANGE: fn(grapnel_tests::site::Plan) -> grapnel_tests::site::Plan = $change;
            fn scenario($site: &grapnel_tests::Site) $body
            #[test]
            fn ring_on_2_shards() {
                scenario(&CHANGE(grapnel_tests::Site::plan(grapnel_tests::Io::Ring)).start());
            }
            #[test]
            fn epoll_on_1_shard() {
                scenario(&CHANGE(grapnel_tests::Site::plan(grapnel_tests::Io::Epoll)).shards(1).start());
            }
        }
    };
}

mod browser;
mod drain;
mod ends;
mod generator;
mod handoff;
mod hostile;
mod idle;
mod messages;
mod pieces;
mod proxies;
mod reload;
mod settings;
mod slow;
mod tools;
mod without_ring;
