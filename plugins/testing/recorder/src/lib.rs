//! A plugin for the tests with a hook at every point. It logs what it sees and changes nothing.

use std::sync::Arc;

use grapnel_plugin_abi::{Error, HookPoint, Host, NoConfig, Plugin};

struct Recorder;

impl Plugin for Recorder {
    type Config = NoConfig;
    type Shard = Recorder;

    fn load(_config: NoConfig, _host: &Host) -> Result<Recorder, Error> {
        Ok(Recorder)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Recorder, Error> {
        Ok(Recorder)
    }
}

/// The text after the point's name: client and topic, and for some types more.
macro_rules! parts {
    ($e:ident Connack) => { ($e.client_id(), $e.reason().0) };
    ($e:ident Disconnected) => { ($e.client_id(), $e.reason().0) };
    ($e:ident Session) => { ($e.client_id(), $e.cause().unwrap_or("-")) };
    ($e:ident Dropped) => { ($e.by(), format!("{} {}", $e.topic(), $e.cause())) };
    ($e:ident Retained) => { ($e.topic(), format!("{:?}", $e.change())) };
    ($e:ident Packet) => { ($e.client_id(), format!("{} {}", $e.packet_type(), $e.size())) };
    ($e:ident Broker) => { ($e.version(), $e.listeners().next().unwrap_or("-")) };
    ($e:ident $other:ident) => { $e.__at_hand() };
}

/// A hook for each point.
macro_rules! record_hooks {
    ($($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident $about:tt)*) => {
        impl Recorder {
            $(fn $hook(&mut self, event: &mut grapnel_plugin_abi::$type<'_>) {
                let (client, what) = parts!(event $type);
                event.host().info(format_args!("saw {} {client} {what}", HookPoint::$point.name()));
            })*
        }

        grapnel_plugin_abi::plugin!(Recorder { $($group.$event => Recorder::$hook,)* });
    };
}

grapnel_plugin_abi::for_each_point! { record_hooks }
