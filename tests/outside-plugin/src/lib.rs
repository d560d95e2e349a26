//! A plugin outside of the workspace, for the tests: it uses only the published crate, as an author
//! does.

use std::sync::Arc;

use grapnel_plugin_abi::{Connected, Error, Host, Plugin, Publish, Refused};

/// What the operator configures.
#[derive(serde::Deserialize)]
pub struct Config {
    greeting: String,
}

/// The shared part.
pub struct Outside {
    config: Config,
}

/// The instance of a shard.
pub struct OutsideShard {
    shared: Arc<Outside>,
    published: u64,
}

impl Plugin for Outside {
    type Config = Config;
    type Shard = OutsideShard;

    fn load(config: Config, _host: &Host) -> Result<Outside, Error> {
        Ok(Outside { config })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<OutsideShard, Error> {
        Ok(OutsideShard { shared: Arc::clone(self), published: 0 })
    }
}

impl OutsideShard {
    fn connected(&mut self, client: &mut Connected<'_>) {
        client.host().info(format_args!("{}, {}", self.shared.config.greeting, client.client_id()));
    }

    fn publish(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        self.published += 1;
        message.add_user_property("outside", &self.published.to_string())
    }
}

grapnel_plugin_abi::plugin!(Outside {
    client.connected => OutsideShard::connected,
    message.publish => OutsideShard::publish,
});
