//! A plugin for the tests of the loader: it panics or fails where its configuration selects, and
//! otherwise does nothing.

use std::sync::Arc;

use grapnel_plugin_abi::{Error, Flow, Host, Plugin, Publish};

#[derive(serde::Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Where {
    #[default]
    Load,
    InitShard,
    Activate,
    Deactivate,
    Hook,
    DropShard,
    Nowhere,
}

#[derive(serde::Deserialize)]
struct Config {
    #[serde(default)]
    panic_in: Where,
    /// Shard on which `init_shard` panics.
    #[serde(default)]
    shard: u32,
    /// Makes `activate` and `init_shard` return an error instead.
    #[serde(default)]
    fail: bool,
}

struct Panic(Config);

struct PanicShard(Arc<Panic>);

impl Panic {
    fn at(&self, here: Where) -> Result<(), Error> {
        if self.0.panic_in != here {
            return Ok(());
        }
        if self.0.fail {
            return Err(Error::new("failed as configured"));
        }
        panic!("panicked as configured");
    }
}

impl Plugin for Panic {
    type Config = Config;
    type Shard = PanicShard;

    fn load(config: Config, _host: &Host) -> Result<Panic, Error> {
        let panic = Panic(config);
        panic.at(Where::Load)?;
        Ok(panic)
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<PanicShard, Error> {
        if shard == self.0.shard {
            self.at(Where::InitShard)?;
        }
        Ok(PanicShard(Arc::clone(self)))
    }

    fn activate(self: &Arc<Self>) -> Result<(), Error> {
        self.at(Where::Activate)
    }

    fn deactivate(self: &Arc<Self>) {
        let _ = self.at(Where::Deactivate);
    }
}

impl PanicShard {
    fn publish(&mut self, _message: &mut Publish<'_>) -> Result<Flow, Error> {
        self.0.at(Where::Hook)?;
        Ok(Flow::Continue)
    }
}

impl Drop for PanicShard {
    fn drop(&mut self) {
        let _ = self.0.at(Where::DropShard);
    }
}

grapnel_plugin_abi::plugin!(Panic { message.publish => PanicShard::publish });
