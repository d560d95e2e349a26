//! tap: counts messages and bytes by topic prefix, and drops by cause, on every shard, and reports
//! them in the log. Changes nothing. The broker loads it as `libgrapnel_tap.so`.

pub mod config;
pub mod count;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::{Dropped, Error, Host, Plugin, Publish};

use config::Config;
use count::{Counter, Counts};
use report::Reporter;

/// The counters of all shards and the thread that reports them.
#[derive(Debug)]
pub struct Tap {
    config: Config,
    counts: Arc<Counts>,
    /// Dropped with the plugin, after the last shard has stopped counting, so that the last report
    /// has the final counts.
    _reporter: Reporter,
}

/// The counter of one shard.
#[derive(Debug)]
pub struct TapShard {
    counter: Counter,
}

impl Plugin for Tap {
    type Config = Config;
    type Shard = TapShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<Tap, Error> {
        config.check().map_err(Error::new)?;
        let counts = Counts::new(&config, host.shards() as usize);
        let host = *host;
        let every = Duration::from_secs(config.log_every_s);
        let _reporter = Reporter::start(Arc::clone(&counts), every, move |line| host.info(line))?;
        Ok(Tap { config, counts, _reporter })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<TapShard, Error> {
        Ok(TapShard { counter: Counter::new(&self.config, Arc::clone(&self.counts), shard as usize) })
    }
}

impl TapShard {
    fn publish(&mut self, message: &mut Publish<'_>) {
        self.counter.count(message.topic(), message.payload().len());
    }

    fn dropped(&mut self, message: &mut Dropped<'_>) {
        self.counter.count_drop(message.cause());
    }
}

// Late in the chain: the counted topic is the one that the message is routed by.
grapnel_plugin_abi::plugin!(Tap {
    message.publish(priority = -100) => TapShard::publish,
    message.dropped => TapShard::dropped,
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};

    use super::*;

    #[test]
    fn it_counts_on_every_shard_and_changes_nothing() {
        let config = r#"{"prefixes": ["sensors/"], "log_every_s": 0}"#;
        let mut plugin = testing::load_on::<Tap>(2, config).unwrap();
        for (shard, topic) in [(0, "sensors/a"), (1, "sensors/b"), (1, "other")] {
            let mut message = FakeEvent::publish(topic, b"12345");
            assert_eq!(plugin.run_on(shard, &mut message), Outcome::Continue);
            assert_eq!((message.topic(), message.payload()), (topic, &b"12345"[..]));
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let error_of = |config| testing::load::<Tap>(config).unwrap_err();
        assert_eq!(error_of(r#"{"groups_max": 0}"#), "groups_max = 0: must be from 1 to 100000");
        assert_eq!(error_of(r#"{"prefix": []}"#), "the key prefix is not known; did you mean prefixes?");
    }
}
