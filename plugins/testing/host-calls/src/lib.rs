//! A plugin for the tests of what the broker does for plugins: metrics of each kind.

use std::sync::Arc;

use grapnel_plugin_abi::{Counter, Error, Gauge, Histogram, Host, Plugin, Publish};

#[derive(serde::Deserialize)]
struct Config {
    /// Asks for a metric of this name, too, and fails where it gets none.
    #[serde(default)]
    metric: Option<String>,
}

#[derive(Clone, Copy)]
struct HostCalls {
    publishes: Counter,
    last_payload: Gauge,
    payload: Histogram,
}

impl Plugin for HostCalls {
    type Config = Config;
    type Shard = HostCalls;

    fn load(config: Config, host: &Host) -> Result<HostCalls, Error> {
        if let Some(name) = config.metric {
            host.counter(&name, "as the test asked for")?;
        }
        Ok(HostCalls {
            publishes: host.counter("publishes", "messages that came in")?,
            last_payload: host.gauge("last_payload_bytes", "size of the last one")?,
            payload: host.histogram("payload_bytes", "sizes of all", &[4, 16])?,
        })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<HostCalls, Error> {
        Ok(**self)
    }
}

impl HostCalls {
    fn publish(&mut self, message: &mut Publish<'_>) {
        let bytes = message.payload().len() as i64;
        self.publishes.add_one();
        self.last_payload.set(bytes);
        self.payload.record(bytes);
    }
}

grapnel_plugin_abi::plugin!(HostCalls { message.publish => HostCalls::publish });
