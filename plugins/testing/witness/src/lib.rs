//! A plugin for the tests with a hook at every point. It writes what it sees to the log and changes
//! nothing.

use std::sync::Arc;

use grapnel_plugin_abi::{
    Acked, Authenticate, Authorize, Broker, Connack, Connect, Connected, Delivered, Disconnected, Dropped,
    Error, Host, NoConfig, Packet, Plugin, Publish, Retained, Session, Subscribe, Subscription, Unsubscribe,
};

struct Witness;

impl Plugin for Witness {
    type Config = NoConfig;
    type Shard = Witness;

    fn load(_config: NoConfig, _host: &Host) -> Result<Witness, Error> {
        Ok(Witness)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Witness, Error> {
        Ok(Witness)
    }
}

/// A method for each point: its name, its event, and what the line says behind the point's name.
macro_rules! witnesses {
    ($($method:ident($event:ident: $type:ident) $point:literal $($part:expr),*;)*) => {
        impl Witness {
            $(fn $method(&mut self, $event: &mut $type<'_>) {
                let parts: Vec<String> = vec![$($part.to_string()),*];
                $event.host().info(format_args!("saw {} {}", $point, parts.join(" ")));
            })*
        }
    };
}

witnesses! {
    connect(e: Connect) "client.connect" e.client_id();
    authenticate(e: Authenticate) "client.authenticate" e.client_id();
    authorize(e: Authorize) "client.authorize" e.client_id(), e.topic();
    connack(e: Connack) "client.connack" e.client_id(), e.reason().0;
    connected(e: Connected) "client.connected" e.client_id();
    disconnected(e: Disconnected) "client.disconnected" e.client_id(), e.reason().0;
    subscribe(e: Subscribe) "client.subscribe" e.client_id(), e.filters().count();
    unsubscribe(e: Unsubscribe) "client.unsubscribe" e.client_id(), e.filters().count();
    created(e: Session) "session.created" e.client_id();
    resumed(e: Session) "session.resumed" e.client_id(), e.subscriptions();
    discarded(e: Session) "session.discarded" e.client_id();
    takenover(e: Session) "session.takenover" e.client_id();
    terminated(e: Session) "session.terminated" e.client_id(), e.cause().unwrap_or("-");
    subscribed(e: Subscription) "session.subscribed" e.client_id(), e.filter().filter;
    unsubscribed(e: Subscription) "session.unsubscribed" e.client_id(), e.filter().filter;
    publish(e: Publish) "message.publish" e.client_id(), e.topic();
    delivered(e: Delivered) "message.delivered" e.client_id(), e.topic();
    acked(e: Acked) "message.acked" e.client_id(), e.topic();
    dropped(e: Dropped) "message.dropped" e.by(), e.topic(), e.cause();
    retained(e: Retained) "message.retained" e.topic(), format_args!("{:?}", e.change());
    received(e: Packet) "packet.received" e.client_id(), e.packet_type(), e.size();
    sent(e: Packet) "packet.sent" e.client_id(), e.packet_type(), e.size();
    starting(e: Broker) "broker.starting" e.version(), e.listeners().count();
    started(e: Broker) "broker.started" e.version(), e.listeners().next().unwrap_or("-");
    stopping(e: Broker) "broker.stopping" e.version(), e.listeners().count();
    stopped(e: Broker) "broker.stopped" e.version(), e.listeners().count();
}

grapnel_plugin_abi::plugin!(Witness {
    client.connect => Witness::connect,
    client.authenticate => Witness::authenticate,
    client.authorize => Witness::authorize,
    client.connack => Witness::connack,
    client.connected => Witness::connected,
    client.disconnected => Witness::disconnected,
    client.subscribe => Witness::subscribe,
    client.unsubscribe => Witness::unsubscribe,
    session.created => Witness::created,
    session.resumed => Witness::resumed,
    session.discarded => Witness::discarded,
    session.takenover => Witness::takenover,
    session.terminated => Witness::terminated,
    session.subscribed => Witness::subscribed,
    session.unsubscribed => Witness::unsubscribed,
    message.publish => Witness::publish,
    message.delivered => Witness::delivered,
    message.acked => Witness::acked,
    message.dropped => Witness::dropped,
    message.retained => Witness::retained,
    packet.received => Witness::received,
    packet.sent => Witness::sent,
    broker.starting => Witness::starting,
    broker.started => Witness::started,
    broker.stopping => Witness::stopping,
    broker.stopped => Witness::stopped,
});
