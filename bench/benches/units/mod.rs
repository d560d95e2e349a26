//! The measured units: small steps of the engine that leave its state unchanged, so that each can
//! be repeated. `instructions.rs` counts one step of each under callgrind, `time.rs` times many;
//! both select them by name.

#![allow(missing_docs, clippy::unwrap_used)]

mod bed;
mod chain;
mod codec;
mod session;
mod trie;

/// One measured step. It must leave the state unchanged; otherwise a later step may have another
/// cost.
pub trait Unit {
    /// The measured work. The result depends on all of it, so that the compiler cannot remove any.
    fn step(&mut self) -> u64;
}

impl<F: FnMut() -> u64> Unit for F {
    fn step(&mut self) -> u64 {
        self()
    }
}

/// Steps before the first measured one: buffers grow, caches are filled.
const WARM_UP_STEPS: u32 = 300;

/// Makes the names of all units and the function that makes a unit: from its group, its name, and
/// how it is made.
macro_rules! units {
    ($($group:ident { $($name:ident => $make:expr;)* })*) => {
        /// All names, in order.
        pub const NAMES: &[&str] = &[$($(concat!(stringify!($group), "/", stringify!($name))),*),*];

        fn make(name: &str) -> Box<dyn Unit> {
            $($(if name == concat!(stringify!($group), "/", stringify!($name)) {
                return Box::new($make);
            })*)*
            panic!("there is no unit {name:?}; there are {NAMES:?}");
        }
    };
}

units! {
    codec {
        decode_connect_v5 => codec::decode_connect_v5();
        decode_publish_v311 => codec::decode_publish_v311();
        decode_publish_v5 => codec::decode_publish_v5();
        decode_subscribe_v5 => codec::decode_subscribe_v5();
        encode_connack_v5 => codec::encode_connack_v5();
        encode_publish_v311 => codec::encode_publish_v311();
        encode_publish_v5 => codec::encode_publish_v5();
    }
    trie {
        match_cached => trie::match_cached();
        match_deep => trie::match_deep();
        match_literal => trie::match_literal();
        match_none => trie::match_none();
        match_wildcards => trie::match_wildcards();
        subscribe_literal => trie::subscribe("site/new/temperature");
        subscribe_wildcard => trie::subscribe("site/+/new/#");
    }
    chain {
        idle_c_4 => chain::idle(chain::Idle::C, 4);
        idle_c_16 => chain::idle(chain::Idle::C, 16);
        idle_sdk_4 => chain::idle(chain::Idle::Sdk, 4);
        idle_sdk_16 => chain::idle(chain::Idle::Sdk, 16);
        idle_filtered_4 => chain::idle(chain::Idle::Filtered, 4);
        idle_filtered_16 => chain::idle(chain::Idle::Filtered, 16);
        links_0 => chain::publish(0);
        links_1 => chain::publish(1);
        links_4 => chain::publish(4);
        links_16 => chain::publish(16);
        rewrite_1 => chain::rewrite();
    }
    session {
        connect_disconnect => session::connect_disconnect();
        fan_out_500_qos0 => session::fan_out(500, 0);
        fan_out_500_qos1 => session::fan_out(500, 1);
        ping => session::ping();
        publish_qos0 => session::publish(0);
        publish_qos0_links_4 => session::publish_through(4);
        publish_qos0_v5 => session::publish_v5();
        publish_qos1 => session::publish(1);
        publish_qos2 => session::publish(2);
        publish_unrouted => session::publish_unrouted();
        resume_10_queued => session::resume(10);
        retained_set_clear => session::retained_set_clear();
        shared_10_members => session::shared(10);
        subscribe_unsubscribe => session::subscribe_unsubscribe();
    }
}

/// A unit, warmed up.
pub fn prepare(name: &str) -> Box<dyn Unit> {
    let mut unit = make(name);
    for _ in 0..WARM_UP_STEPS {
        std::hint::black_box(unit.step());
    }
    unit
}
