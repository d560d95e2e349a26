//! The hooks: encode each event for the worker of its client (`calls.rs`). A hook is mounted only
//! if a worker requests it.

mod packets;
mod transport;

use std::sync::atomic::Ordering;

use grapnel_plugin_abi::{
    Acked, Authenticate, Authorize, Broker, Connack, Connect, Connected, Delivered, Disconnected, Dropped,
    Flow, HookPoint, IntoFlow, Packet, Publish, Reason, Refused, Retained, RetainedChange, Session,
    Subscribe, Subscription, Unsubscribe, Verdict,
};

use crate::clients::{ConnectDetails, ConnectionState, EventClient};
use crate::verdict::Ticket;
use crate::wire::Writer;
use crate::{Exhook, ExhookShard, PoolShard};
use packets::{AUTH, CONNACK, CONNECT, DISCONNECT, connack_reason, ended};
use transport::tls;

/// The client of an event; every event about a client has these getters.
macro_rules! who {
    ($event:expr) => {
        EventClient {
            client_id: $event.client_id(),
            username: $event.username(),
            superuser: $event.is_superuser(),
            anonymous: $event.is_anonymous(),
            version: $event.proto_ver(),
            peer_host: $event.peer_host(),
            peer_port: $event.peer_port(),
            local_port: $event.sock_port(),
            listener: $event.listener(),
            session: $event.session_number().unwrap_or(0),
        }
    };
}

/// What an event about CONNECT adds to the client.
macro_rules! connecting {
    ($event:expr, password $password:expr) => {
        ConnectDetails {
            will: $event.will().map(|will| (will.topic, will.payload, will.qos, will.retain)),
            password: $password,
            late: false,
            certified: $event.username_is_certified().then(|| $event.connect_username()),
            ..connecting!($event, false)
        }
    };
    ($event:expr, $is_login_call:expr) => {
        ConnectDetails {
            late: true,
            connection: $event.connection(),
            is_login_call: $is_login_call,
            password: None,
            will: None,
            clean_start: $event.clean_start(),
            keep_alive_s: $event.keep_alive_s(),
            session_expiry_s: $event.session_expiry_s(),
            receive_maximum: $event.receive_maximum(),
            connected_at_ms: $event.connected_at_ms(),
            properties: $event.user_properties().collect(),
            transport: $event.transport().unwrap_or(""),
            certified: $event.username_is_certified().then_some(None),
            tls: tls!($event),
        }
    };
}

/// Writes a message.
macro_rules! message {
    ($event:expr, $out:expr) => {
        message!($event, $out, false)
    };
    ($event:expr, $out:expr, $will:expr) => {{
        let (event, out): (_, &mut Writer<'_>) = (&*$event, $out);
        out.list(9).number(event.message_id().unwrap_or(0)).text(event.topic()).bytes(event.payload());
        out.number(event.qos()).flag(event.retain()).flag(event.dup()).text(event.from().unwrap_or(""));
        out.number(event.timestamp_ms().unwrap_or_else(|| event.wall_ms()));
        let users: Vec<_> = event.user_properties().collect();
        let (kind, response) = (event.content_type(), event.response_topic());
        let (data, expiry, format) =
            (event.correlation_data(), event.message_expiry_s(), event.payload_format());
        let there =
            [kind.is_some(), response.is_some(), data.is_some(), expiry.is_some(), format.is_some(), $will];
        out.map(there.into_iter().filter(|there| *there).count() + usize::from(!users.is_empty()));
        if let Some(kind) = kind {
            out.text("content_type").text(kind);
        }
        if let Some(topic) = response {
            out.text("response_topic").text(topic);
        }
        if let Some(data) = data {
            out.text("correlation_data").bytes(data);
        }
        if let Some(seconds) = expiry {
            out.text("message_expiry_s").number(seconds);
        }
        if let Some(format) = format {
            out.text("payload_format").number(format);
        }
        if $will {
            out.text("will").flag(true);
        }
        if !users.is_empty() {
            out.text("user");
            pairs(out, &users);
        }
    }};
}

fn pairs(out: &mut Writer<'_>, pairs: &[(&str, &str)]) {
    out.list(pairs.len());
    for (key, value) in pairs {
        out.list(2).text(key).text(value);
    }
}

/// One method for each point, which encodes the data for the worker. The comment above a method is
/// its row in PROTOCOL.md and names the event's class in Python: `just abi` copies both.
impl PoolShard {
    /// `[]`. Python: `ConnectEvent`.
    fn client_connect(&mut self, event: &mut Connect<'_>) -> Result<Flow, Refused> {
        let (who, connecting) = (who!(event), connecting!(event, password None));
        let data = |out: &mut Writer<'_>| {
            out.list(0);
        };
        let defer = |deadline| event.defer(deadline).map(Ticket::Connect);
        Ok(self.request(
            HookPoint::ClientConnect,
            (&who, ConnectionState::Connecting),
            Some(&connecting),
            defer,
            data,
        ))
    }

    /// `[verdict, method, auth_data, session]`: verdict so far 0 none, 1 allow, 2 deny; whether a session
    /// exists under the client identifier. Python: `AuthenticateEvent`.
    fn client_authenticate(&mut self, event: &mut Authenticate<'_>) -> Result<Flow, Refused> {
        let (who, connecting) = (who!(event), connecting!(event, password event.password()));
        let (verdict, method, data) = (event.verdict(), event.auth_method(), event.auth_data());
        let there = event.has_session();
        let connection_state =
            if event.is_renewal() { ConnectionState::Connected } else { ConnectionState::Connecting };
        let data = |out: &mut Writer<'_>| {
            out.list(4).number(verdict_number(verdict)).text_or_nil(method).bytes_or_nil(data).flag(there);
        };
        let defer = |deadline| event.defer(deadline).map(Ticket::Authenticate);
        Ok(self.request(
            HookPoint::ClientAuthenticate,
            (&who, connection_state),
            Some(&connecting),
            defer,
            data,
        ))
    }

    /// `[action, topic, qos, retain, verdict]`: action 1 publish, 2 subscribe, 3 will, 4 deliver. Python:
    /// `AuthorizeEvent`.
    fn client_authorize(&mut self, event: &mut Authorize<'_>) -> Result<Flow, Refused> {
        use grapnel_plugin_abi::Action;
        let who = who!(event);
        let connection_state = match event.action() {
            Action::Publish => ConnectionState::Connected,
            Action::Will => ConnectionState::Unknown,
            Action::Subscribe | Action::Deliver => ConnectionState::Authorizing,
        };
        let action = match event.action() {
            Action::Publish => 1_u64,
            Action::Subscribe => 2,
            Action::Will => 3,
            Action::Deliver => 4,
        };
        let (topic, qos, retain, verdict) = (event.topic(), event.qos(), event.retain(), event.verdict());
        let data = |out: &mut Writer<'_>| {
            out.list(5).number(action).text(topic).number(qos).flag(retain).number(verdict_number(verdict));
        };
        let defer = |deadline| event.defer(deadline).map(Ticket::Authorize);
        Ok(self.request(HookPoint::ClientAuthorize, (&who, connection_state), None, defer, data))
    }

    /// `[[[filter, options], …], subscription_id, properties]`; nil for no subscription identifier; options
    /// as in MQTT 5, section 3.8.3.1. Python: `SubscribeEvent`.
    fn client_subscribe(&mut self, event: &mut Subscribe<'_>) -> Result<Flow, Refused> {
        let who = who!(event);
        let filters: Vec<_> = event.filters().map(|filter| (filter.filter, filter.options)).collect();
        let (id, users) = (event.subscription_id(), event.user_properties().collect::<Vec<_>>());
        let count = u32::try_from(filters.len()).unwrap_or(u32::MAX);
        let data = |out: &mut Writer<'_>| {
            out.list(3).list(filters.len());
            for (filter, options) in &filters {
                out.list(2).text(filter).number(*options);
            }
            out.number_or_nil(id.map(u64::from));
            pairs(out, &users);
        };
        let defer = |deadline| event.defer(deadline).map(|ticket| Ticket::Filters(ticket, count));
        Ok(self.request(HookPoint::ClientSubscribe, (&who, ConnectionState::Connected), None, defer, data))
    }

    /// `[[filter, …], properties]`. Python: `UnsubscribeEvent`.
    fn client_unsubscribe(&mut self, event: &mut Unsubscribe<'_>) -> Result<Flow, Refused> {
        let who = who!(event);
        let filters: Vec<_> = event.filters().map(|filter| filter.filter).collect();
        let users: Vec<_> = event.user_properties().collect();
        let count = u32::try_from(filters.len()).unwrap_or(u32::MAX);
        let data = |out: &mut Writer<'_>| {
            out.list(2).list(filters.len());
            for filter in &filters {
                out.text(filter);
            }
            pairs(out, &users);
        };
        let defer = |deadline| event.defer(deadline).map(|ticket| Ticket::Filters(ticket, count));
        Ok(self.request(HookPoint::ClientUnsubscribe, (&who, ConnectionState::Connected), None, defer, data))
    }

    /// `message`. Python: `MessageEvent`.
    fn message_publish(&mut self, event: &mut Publish<'_>) -> Result<Flow, Refused> {
        let who = who!(event);
        // Encoded before the ticket is taken: both borrow the event.
        let mut bytes = Vec::new();
        message!(event, &mut Writer(&mut bytes), event.is_will());
        let defer = |deadline| event.defer(deadline).map(Ticket::Publish);
        let data = |out: &mut Writer<'_>| out.0.extend_from_slice(&bytes);
        Ok(self.request(HookPoint::MessagePublish, (&who, ConnectionState::Connected), None, defer, data))
    }

    /// `[reason, session_present]`. Python: `ConnackEvent`.
    fn client_connack(&mut self, event: &mut Connack<'_>) {
        let (who, reason, present) = (who!(event), event.reason().0, event.session_present());
        let connection_state =
            if reason == Reason::SUCCESS.0 { ConnectionState::Admitted } else { ConnectionState::Refused };
        self.is_answered(&who, connection_state == ConnectionState::Admitted, present);
        self.notify(HookPoint::ClientConnack, (&who, connection_state), None, |out| {
            out.list(2).number(reason).flag(present);
        });
    }

    /// `[]`. Python: `ConnectedEvent`.
    fn client_connected(&mut self, event: &mut Connected<'_>) {
        let is_login_call = self.pool.wanted.contains_key(&HookPoint::ClientAuthenticate);
        let who = who!(event);
        self.is_connected(&who, event.connection());
        self.notify(
            HookPoint::ClientConnected,
            (&who, ConnectionState::Admitted),
            Some(&connecting!(event, is_login_call)),
            |out| {
                out.list(0);
            },
        );
    }

    /// `[reason, name]`. Python: `DisconnectedEvent`.
    fn client_disconnected(&mut self, event: &mut Disconnected<'_>) {
        let reason = event.reason();
        self.notify(HookPoint::ClientDisconnected, (&who!(event), ConnectionState::Connected), None, |out| {
            out.list(2).number(reason.0).text(ended(reason));
        });
    }

    fn session(&mut self, point: HookPoint, event: &Session<'_>) {
        let reason = event.reason();
        let cause = match (event.cause(), reason) {
            // The session ended with its connection, and the connection's reason is more precise.
            (Some("closed"), Some(reason)) => Some(ended(reason)),
            (cause, _) => cause,
        };
        let who = who!(event);
        let comes = matches!(point, HookPoint::SessionCreated | HookPoint::SessionResumed);
        let connection_state = if comes { ConnectionState::Admitted } else { ConnectionState::Connected };
        self.notify(point, (&who, connection_state), None, |out| {
            out.list(4).flag(event.is_persistent()).number(event.expiry_s());
            out.text_or_nil(cause).number_or_nil(reason.map(|reason| u64::from(reason.0)));
        });
        if self.pool.stores_logins
            && matches!(point, HookPoint::SessionTerminated | HookPoint::SessionDiscarded)
        {
            // After the call, which includes the stored data.
            self.clients_of(who.client_id).session_ended(&who);
        }
    }

    /// `[persistent, expiry_s, cause, reason]`: cause text or nil, reason a number or nil. A session that
    /// ends with its connection has the name of `client.disconnected` as its cause. Python: `SessionEvent`.
    fn session_created(&mut self, event: &mut Session<'_>) {
        self.session(HookPoint::SessionCreated, event);
    }

    /// As `session_created`.
    fn session_resumed(&mut self, event: &mut Session<'_>) {
        self.session(HookPoint::SessionResumed, event);
    }

    /// As `session_created`.
    fn session_discarded(&mut self, event: &mut Session<'_>) {
        self.session(HookPoint::SessionDiscarded, event);
    }

    /// As `session_created`.
    fn session_takenover(&mut self, event: &mut Session<'_>) {
        self.session(HookPoint::SessionTakenover, event);
    }

    /// As `session_created`.
    fn session_terminated(&mut self, event: &mut Session<'_>) {
        self.session(HookPoint::SessionTerminated, event);
    }

    /// `[filter, options, is_new, subscription_id, cause]`: cause `plugin` if a plugin made the
    /// subscription, otherwise nil. Python: `SubscribedEvent`.
    fn session_subscribed(&mut self, event: &mut Subscription<'_>) {
        let filter = event.filter();
        self.notify(HookPoint::SessionSubscribed, (&who!(event), ConnectionState::Connected), None, |out| {
            out.list(5).text(filter.filter).number(filter.options).flag(event.is_new());
            out.number_or_nil(event.subscription_id().map(u64::from)).text_or_nil(event.cause());
        });
    }

    /// `[filter, cause]`. Python: `UnsubscribedEvent`.
    fn session_unsubscribed(&mut self, event: &mut Subscription<'_>) {
        let filter = event.filter();
        self.notify(
            HookPoint::SessionUnsubscribed,
            (&who!(event), ConnectionState::Connected),
            None,
            |out| {
                out.list(2).text(filter.filter).text_or_nil(event.cause());
            },
        );
    }

    /// As `message_publish`.
    fn message_delivered(&mut self, event: &mut Delivered<'_>) {
        self.notify(HookPoint::MessageDelivered, (&who!(event), ConnectionState::Connected), None, |out| {
            message!(event, out)
        });
    }

    /// As `message_publish`.
    fn message_acked(&mut self, event: &mut Acked<'_>) {
        self.notify(HookPoint::MessageAcked, (&who!(event), ConnectionState::Connected), None, |out| {
            message!(event, out)
        });
    }

    /// `[message, by, cause]`. Python: `DroppedEvent`.
    fn message_dropped(&mut self, event: &mut Dropped<'_>) {
        let data = |out: &mut Writer<'_>| {
            out.list(3);
            message!(event, out);
            out.text(event.by()).text(event.cause());
        };
        if event.client_id().is_empty() {
            let from = event.from().unwrap_or("");
            self.notify_without_client(HookPoint::MessageDropped, (Some(from), from), data);
        } else {
            self.notify(HookPoint::MessageDropped, (&who!(event), ConnectionState::Connected), None, data);
        }
    }

    /// `[message, change]`: change 0 stored, in the place of an older one or not; 2 cleared; 3 expired.
    /// Python: `RetainedEvent`.
    fn message_retained(&mut self, event: &mut Retained<'_>) {
        // All in one queue: the last change of a topic counts, from any client.
        let from = event.from().unwrap_or("");
        self.notify_without_client(HookPoint::MessageRetained, (None, from), |out| {
            out.list(2);
            message!(event, out);
            out.number(match event.change() {
                RetainedChange::Set => 0_u64,
                RetainedChange::Cleared => 2,
                RetainedChange::Expired => 3,
            });
        });
    }

    fn packet(&mut self, point: HookPoint, event: &Packet<'_>) {
        let who = who!(event);
        // Packets to a client that has connected, or from one that is authenticated.
        let connection_state = match (point, event.packet_type()) {
            (_, CONNECT) => ConnectionState::Connecting,
            (HookPoint::PacketSent, CONNACK) => match connack_reason(event.bytes()) {
                Some(0) => ConnectionState::Admitted,
                Some(_) => ConnectionState::Refused,
                None => ConnectionState::Packet,
            },
            (_, CONNACK | DISCONNECT | AUTH) => ConnectionState::Packet,
            (HookPoint::PacketReceived, _) if who.anonymous => ConnectionState::PacketSeen,
            _ => ConnectionState::Connected,
        };
        self.notify(point, (&who, connection_state), None, |out| {
            out.list(2).number(event.packet_type()).bytes(event.bytes());
        });
    }

    /// `[type, bytes]`. Python: `PacketEvent`.
    fn packet_received(&mut self, event: &mut Packet<'_>) {
        self.packet(HookPoint::PacketReceived, event);
    }

    /// As `packet_received`.
    fn packet_sent(&mut self, event: &mut Packet<'_>) {
        self.packet(HookPoint::PacketSent, event);
    }

    fn broker(&self, point: HookPoint, event: &Broker<'_>) {
        self.notify_without_client(point, (None, ""), |out| {
            out.list(2).text(event.version()).number(event.uptime_ms());
        });
    }

    /// `[version, uptime_ms]`. Python: `BrokerEvent`.
    fn broker_starting(&mut self, event: &mut Broker<'_>) {
        self.broker(HookPoint::BrokerStarting, event);
    }

    /// As `broker_starting`.
    fn broker_started(&mut self, event: &mut Broker<'_>) {
        // A restarted process is informed of this.
        self.pool.started.store(true, Ordering::Relaxed);
        self.broker(HookPoint::BrokerStarted, event);
    }

    /// As `broker_starting`.
    fn broker_stopping(&mut self, event: &mut Broker<'_>) {
        self.broker(HookPoint::BrokerStopping, event);
    }

    /// As `broker_starting`.
    fn broker_stopped(&mut self, event: &mut Broker<'_>) {
        self.broker(HookPoint::BrokerStopped, event);
    }
}

fn verdict_number(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Unanswered => 0,
        Verdict::Allow => 1,
        Verdict::Deny => 2,
    }
}

/// The hooks of the driver with index `PLACE`. Events go to the pool with that index; without a
/// pool no hook is mounted.
struct At<const PLACE: usize>;

/// Writes the `plugin!` lines, once for each index, and maps points to hooks.
macro_rules! hooks {
    ($($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident $about:tt)*) => {
        /// The hook of a point, for the driver at a place.
        pub(crate) fn name(point: HookPoint, place: usize) -> &'static str {
            match (point, place) {
                $(
                    (HookPoint::$point, 0) => stringify!($hook),
                    (HookPoint::$point, _) => concat!("java_", stringify!($hook)),
                )*
            }
        }

        impl<const PLACE: usize> At<PLACE> {
            $(fn $hook(shard: &mut ExhookShard, event: &mut $type<'_>) -> Result<Flow, String> {
                shard.end_of_handover();
                match &mut shard.pools[PLACE] {
                    Some(pool) => pool.$hook(event).into_flow(),
                    None => Ok(Flow::Continue),
                }
            })*
        }

        grapnel_plugin_abi::plugin!(Exhook {
            $($group.$event(manual = true) => At::<0>::$hook,)*
            $($group.$event(manual = true, name = concat!("java_", stringify!($hook))) => At::<1>::$hook,)*
        });
    };
}

grapnel_plugin_abi::for_each_point! { hooks }
