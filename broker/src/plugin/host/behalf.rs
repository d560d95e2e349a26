//! Requests of plugins on behalf of clients: passes them to `commands`, which checks them, and logs
//! those that shards have refused.

use grapnel_engine::shard::BehalfRefused;
use grapnel_plugin_abi::host::{Behalf, BehalfServices, HostServices, PageRequest, PluginMessage};
use grapnel_plugin_abi::raw::{Action, Status};

use super::services::Services;

impl BehalfServices for Services {
    fn publish_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        message: &PluginMessage<'_>,
    ) -> Result<(), Status> {
        self.commands.publish_as(plugin, behalf, message)
    }

    fn subscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Status> {
        self.commands.subscribe_as(plugin, behalf, filter, options, subscription_id)
    }

    fn unsubscribe_as(&self, plugin: u64, behalf: &Behalf<'_>, filter: &str) -> Result<(), Status> {
        self.commands.unsubscribe_as(plugin, behalf, filter)
    }

    fn authorize_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        action: Action,
        topic: &str,
        qos: u8,
        retain: bool,
    ) -> Result<(), Status> {
        self.commands.authorize_as(plugin, behalf, action, topic, (qos, retain))
    }

    fn fetch_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        page: PageRequest<'_>,
    ) -> Result<(), Status> {
        self.commands.fetch_as(plugin, behalf, filter, page)
    }
}

impl Services {
    /// Logs that a plugin's request on behalf of a client was refused, and why.
    pub(in crate::plugin) fn behalf_refused(&self, refused: &BehalfRefused) {
        let BehalfRefused { client_id, what, topic, reason, unlogged, .. } = refused;
        let more =
            if *unlogged > 0 { format!("; {unlogged} more since the last line") } else { String::new() };
        self.log(
            refused.plugin.0,
            2,
            &format!("{what} {topic:?} on behalf of client {client_id:?} was refused: {reason}{more}"),
        );
    }
}
