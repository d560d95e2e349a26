//! A plugin for the tests of stalls: its hook sleeps, which no hook may do, for topics with the
//! configured prefix.

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::{Error, Flow, Host, Plugin, Publish};

#[derive(serde::Deserialize, Clone)]
struct Sleeper {
    /// Time to sleep, milliseconds.
    sleep_ms: u64,
    /// Prefix of the topic names.
    topic_prefix: String,
}

impl Plugin for Sleeper {
    type Config = Sleeper;
    type Shard = Sleeper;

    fn load(config: Sleeper, _host: &Host) -> Result<Sleeper, Error> {
        Ok(config)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Sleeper, Error> {
        Ok(Sleeper::clone(self))
    }
}

impl Sleeper {
    #[allow(clippy::disallowed_methods, reason = "holding the shard up is what this plugin is for")]
    fn publish(&mut self, message: &mut Publish<'_>) -> Flow {
        if message.topic().starts_with(&self.topic_prefix) {
            std::thread::sleep(Duration::from_millis(self.sleep_ms));
        }
        Flow::Continue
    }
}

grapnel_plugin_abi::plugin!(Sleeper { message.publish => Sleeper::publish });
