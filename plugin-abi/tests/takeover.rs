//! Tests of the test bed: the state of a version that takes over, from its first call.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::testing::{self, TestPlugin};
use grapnel_plugin_abi::{Error, Host, NoConfig, Plugin, Timer};

/// Sets a timer as soon as it is on a shard, and reports the result.
struct Early(Host);

impl Plugin for Early {
    type Config = NoConfig;
    type Shard = Arc<Early>;

    fn load(_config: NoConfig, host: &Host) -> Result<Early, Error> {
        Ok(Early(*host))
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Arc<Early>, Error> {
        let armed = self.0.timer(Duration::from_secs(1), 7);
        self.0.info(if armed.is_ok() { "armed" } else { "refused" });
        Ok(Arc::clone(self))
    }

    fn on_timer(shard: &mut Arc<Early>, _timer: Timer, number: u64) {
        shard.0.info(format_args!("due {number}"));
    }
}

grapnel_plugin_abi::plugin!(Early {});

/// A version that takes over has the previous version's clock from its first call, and is refused
/// timers where the previous one was.
#[test]
fn a_new_version_has_the_clock_and_timer_limits_of_the_previous_one() {
    let lines = |plugin: &TestPlugin<Early>| -> Vec<String> {
        plugin.logs().into_iter().map(|(_, line)| line).collect()
    };
    let mut plugin = testing::load::<Early>("").unwrap();
    plugin.advance(Duration::from_secs(100));
    assert_eq!(lines(&plugin), ["armed", "due 7"]);
    let mut plugin = plugin.reloaded("").unwrap();
    plugin.advance(Duration::from_millis(900));
    assert_eq!(lines(&plugin), ["armed"], "a second is a second");
    plugin.advance(Duration::from_millis(200));
    assert_eq!(lines(&plugin), ["armed", "due 7"]);
    plugin.refuse_timers(true);
    let mut plugin = plugin.reloaded("").unwrap();
    assert_eq!(lines(&plugin), ["refused"]);
    plugin.refuse_timers(false);
    assert_eq!(lines(&plugin.reloaded("").unwrap()), ["armed"]);
}
