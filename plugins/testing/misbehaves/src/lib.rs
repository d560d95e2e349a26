//! A plugin for the tests of a broker with bad plugins. Its configuration selects what it does
//! wrong.

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::{Error, Host, Outgoing, Plugin, Publish};

/// What it does for each message.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Panics.
    Panic,
    /// Blocks its shard for 5 ms at every tenth message.
    Sleep,
    /// Publishes a hundred messages of its own.
    Flood,
    /// Publishes the message again under `echo/`, if its topic is below that.
    Echo,
    /// Starts a thread that does not end when requested.
    Threads,
}

#[derive(Clone, Copy, serde::Deserialize)]
struct Config {
    how: How,
}

struct Misbehaves {
    host: Host,
    how: How,
}

struct Instance {
    host: Host,
    how: How,
    seen: u64,
}

impl Plugin for Misbehaves {
    type Config = Config;
    type Shard = Instance;

    fn load(config: Config, host: &Host) -> Result<Misbehaves, Error> {
        Ok(Misbehaves { host: *host, how: config.how })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Instance, Error> {
        Ok(Instance { host: self.host, how: self.how, seen: 0 })
    }
}

impl Instance {
    #[allow(clippy::panic, clippy::disallowed_methods, reason = "it misbehaves on purpose")]
    fn publish(&mut self, message: &mut Publish<'_>) {
        self.seen += 1;
        match self.how {
            How::Panic => panic!("on purpose"),
            How::Sleep if self.seen.is_multiple_of(10) => std::thread::sleep(Duration::from_millis(5)),
            How::Sleep => {}
            How::Flood => {
                for number in 0..100 {
                    // Most are refused, because of the limit under test.
                    let _ = self.host.publish(&Outgoing::new(format!("flood/{number}"), "x"));
                }
            }
            How::Echo if message.topic().starts_with("echo/") => {
                let again = Outgoing::new(message.topic(), message.payload()).qos(1);
                if let Err(refused) = self.host.publish(&again) {
                    self.host.error(refused);
                }
            }
            How::Echo => {}
            How::Threads => {
                let _ = self.host.spawn("stubborn", |_| std::thread::sleep(Duration::from_secs(4)));
            }
        }
    }
}

grapnel_plugin_abi::plugin!(Misbehaves { message.publish => Instance::publish });
