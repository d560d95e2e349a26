//! A plugin for the tests of the loader and for measurements: its hook at message.publish does
//! nothing.

use std::sync::Arc;

use grapnel_plugin_abi::{Error, Flow, Host, NoConfig, Plugin, Publish};

struct Noop;

impl Plugin for Noop {
    type Config = NoConfig;
    type Shard = Noop;

    // It has neither threads nor thread-locals.
    const CLOSABLE: bool = true;

    fn load(_config: NoConfig, _host: &Host) -> Result<Noop, Error> {
        Ok(Noop)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Noop, Error> {
        Ok(Noop)
    }
}

impl Noop {
    fn publish(&mut self, _message: &mut Publish<'_>) -> Flow {
        Flow::Continue
    }
}

grapnel_plugin_abi::plugin!(Noop { message.publish => Noop::publish });
