//! A plugin for the tests of fatal signals: it crashes the process in its hook or in a thread of
//! its own.
#![allow(unsafe_code, reason = "safe code cannot do what this plugin is for")]

use std::sync::Arc;

use grapnel_plugin_abi::{Error, Flow, Host, NoConfig, Plugin, Publish};

#[derive(Clone, Copy)]
struct Crasher {
    host: Host,
}

impl Plugin for Crasher {
    type Config = NoConfig;
    type Shard = Crasher;

    fn load(_config: NoConfig, host: &Host) -> Result<Crasher, Error> {
        Ok(Crasher { host: *host })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Crasher, Error> {
        Ok(**self)
    }
}

/// Writes into the first page, which is never writable: a null pointer with an offset, as from a
/// field of a null struct.
fn write_to_null() {
    let nowhere = std::ptr::without_provenance_mut::<u8>(16);
    // SAFETY: none; it ends the process, which is what it is for.
    unsafe { nowhere.write_volatile(1) };
}

impl Crasher {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Error> {
        match message.topic() {
            "crash/null" => write_to_null(),
            "crash/abort" => std::process::abort(),
            "crash/spawned" => self.host.spawn("doomed", |_| write_to_null())?,
            // A thread that the broker did not start.
            "crash/own-thread" => drop(std::thread::spawn(write_to_null)),
            _ => {}
        }
        Ok(Flow::Continue)
    }

    fn second(&mut self, message: &mut Publish<'_>) -> Result<Flow, Error> {
        if message.topic() == "crash/second" {
            write_to_null();
        }
        Ok(Flow::Continue)
    }
}

grapnel_plugin_abi::plugin!(Crasher {
    message.publish => Crasher::publish,
    message.publish => Crasher::second,
});
