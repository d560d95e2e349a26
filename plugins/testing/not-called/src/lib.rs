//! A plugin for the tests of the loader: it mounts on a hook point that is named but not called yet.

use std::sync::Arc;

use grapnel_plugin_abi::{Error, Host, NoConfig, Notice, Plugin};

struct Early;

impl Plugin for Early {
    type Config = NoConfig;
    type Shard = Early;

    fn load(_config: NoConfig, _host: &Host) -> Result<Early, Error> {
        Ok(Early)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Early, Error> {
        Ok(Early)
    }
}

impl Early {
    fn acked(&mut self, _event: &mut Notice<'_>) {}
}

grapnel_plugin_abi::plugin!(Early { broker.stopped => Early::acked });
