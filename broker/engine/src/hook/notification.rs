//! Events that only notify: about a session, a subscription, a message, a packet, or the broker. A
//! flow creates one after the fact. A link may end the chain and can change nothing.

use grapnel_plugin_abi::host::{ClientIdentity, EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, FLAG_DUP, FLAG_RETAIN, FLAG_SYS, Field, Slice, Status, Ticket};

use super::chain::{DispatchScope, Fold};
use super::view::ClientView;
use super::{FaultPolicy, HookPoint, Link};
use crate::id::ShardId;
use crate::message::MessageView;
use crate::packet::{PacketType, SubscriptionOptions};
use crate::reason::ReasonCode;
use crate::topic;

/// Fields of a session for hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Creation time, milliseconds since 1970.
    pub created_at_ms: u64,
    /// Whether it outlives its connection.
    pub persistent: bool,
    /// Expiry interval in force, seconds.
    pub expiry_s: u32,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// QoS 1 and 2 messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages that wait for the client.
    pub queued: usize,
    /// QoS 2 messages of the client that wait for PUBREL.
    pub awaiting_rel: usize,
}

impl SessionView {
    fn get(&self, field: Field) -> Option<u64> {
        Some(match field {
            Field::SESSION_CREATED_AT_MS => self.created_at_ms,
            Field::SESSION_PERSISTENT => u64::from(self.persistent),
            Field::SESSION_EXPIRY_S => u64::from(self.expiry_s),
            Field::SESSION_SUBSCRIPTIONS => self.subscriptions as u64,
            Field::SESSION_INFLIGHT => self.inflight as u64,
            Field::SESSION_QUEUED => self.queued as u64,
            Field::SESSION_AWAITING_REL => self.awaiting_rel as u64,
            _ => return None,
        })
    }
}

/// A subscription that begins or ends.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionView<'a> {
    /// The topic filter, `$share` prefix included.
    pub filter: &'a str,
    /// The options as granted.
    pub options: SubscriptionOptions,
    /// Subscription identifier; 0 if there is none.
    pub id: u32,
    /// Whether it is new; `None` if it ends.
    pub is_new: Option<bool>,
    /// Why it ends.
    pub cause: Option<&'a str>,
}

/// The change of a retained message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetainedChange {
    /// It was stored.
    Set = 1,
    /// It was removed by an empty message.
    Cleared = 2,
    /// It expired.
    Expired = 3,
}

/// Fields of the broker for hooks.
#[derive(Clone, Copy, Debug)]
pub struct BrokerView<'a> {
    /// Its version.
    pub version: &'a str,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Addresses of the listeners.
    pub listeners: &'a [String],
}

/// The subject of a notification, beside the client.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// A session; if it ends, the cause and the reason code.
    Session(SessionView, Option<(&'a str, ReasonCode)>),
    /// A subscription of a session.
    Subscription(SessionView, SubscriptionView<'a>),
    /// A message that a subscriber has acknowledged.
    Acked(MessageView<'a>),
    /// A message that was dropped, the client it was for, and the drop reason.
    Dropped(MessageView<'a>, &'a str, &'a str),
    /// A retained message.
    Retained(MessageView<'a>, RetainedChange),
    /// A packet: its type, its first contiguous bytes, and its total length in bytes.
    Packet(PacketType, &'a [u8], usize),
    /// The broker.
    Broker(BrokerView<'a>),
}

/// A notification in its chain.
#[derive(Debug)]
pub struct Notification<'a> {
    point: HookPoint,
    client: Option<ClientView<'a>>,
    about: About<'a>,
    now_ms: u64,
}

impl<'a> Notification<'a> {
    /// An event at `point`, about a client if there is one; `now_ms` is the monotonic time.
    pub fn new(
        point: HookPoint,
        client: Option<ClientView<'a>>,
        about: About<'a>,
        now_ms: u64,
    ) -> Notification<'a> {
        Notification { point, client, about, now_ms }
    }

    fn message(&self) -> Option<&MessageView<'a>> {
        match &self.about {
            About::Acked(view) | About::Dropped(view, ..) | About::Retained(view, _) => Some(view),
            _ => None,
        }
    }

    /// The dispatch scope: without the plugins that led to the message.
    pub fn scope(&self) -> DispatchScope<'static> {
        DispatchScope::of_message(self.message().map_or(0, |view| view.ancestry))
    }

    /// The event for this notification.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        let mut event = match &self.client {
            Some(client) => client.event(self.point, shard, wall_ms),
            None => super::view::clientless_event(self.point, shard, wall_ms),
        };
        match &self.about {
            About::Session(_, end) => event.reason_code = end.map_or(0, |(_, reason)| reason.0),
            About::Subscription(_, subscription) => {
                event.topic = Slice::of(subscription.filter.as_bytes());
                event.qos = subscription.options.qos.as_u8();
            }
            About::Acked(view) | About::Dropped(view, ..) | About::Retained(view, _) => {
                event.topic = Slice::of(view.topic.as_bytes());
                event.payload = Slice::of(view.payload.as_slice());
                event.qos = view.qos.as_u8();
                event.flags &= !FLAG_DUP;
                if view.retain {
                    event.flags |= FLAG_RETAIN;
                }
                if view.is_sys() {
                    event.flags |= FLAG_SYS;
                }
            }
            About::Packet(kind, bytes, _) => {
                event.action = *kind as u8;
                event.payload = Slice::of(bytes);
            }
            About::Broker(_) => {}
        }
        event
    }

    fn own(&self, field: Field, index: u32) -> Option<Result<FieldValue<'a>, Status>> {
        let number = |number: u64| Some(Ok(FieldValue::Number(number)));
        let text = |text: &'a str| Some(Ok(FieldValue::Bytes(text.as_bytes())));
        match (&self.about, field) {
            (About::Session(session, end), _) => match (field, end) {
                (Field::CAUSE, Some((cause, _))) => text(cause),
                (Field::REASON_CODE, Some((_, reason))) => number(u64::from(reason.0)),
                (Field::CAUSE | Field::REASON_CODE, None) => Some(Err(Status::ABSENT)),
                _ => session.get(field).and_then(number),
            },
            (About::Subscription(session, subscription), _) => match field {
                // There is only one filter.
                Field::FILTER | Field::FILTER_OPTIONS | Field::SHARE_GROUP if index > 0 => {
                    Some(Err(Status::ABSENT))
                }
                Field::FILTER | Field::TOPIC => text(subscription.filter),
                Field::FILTERS => number(1),
                Field::FILTER_OPTIONS => number(u64::from(subscription.options.to_byte())),
                Field::QOS => number(u64::from(subscription.options.qos.as_u8())),
                Field::SHARE_GROUP => {
                    share_group(subscription.filter).map_or(Some(Err(Status::ABSENT)), text)
                }
                Field::SUBSCRIPTION_ID if subscription.id == 0 => Some(Err(Status::ABSENT)),
                Field::SUBSCRIPTION_ID => number(u64::from(subscription.id)),
                Field::IS_NEW => {
                    subscription.is_new.map_or(Some(Err(Status::ABSENT)), |new| number(new.into()))
                }
                Field::CAUSE => subscription.cause.map_or(Some(Err(Status::ABSENT)), text),
                _ => session.get(field).and_then(number),
            },
            (About::Dropped(_, by, _), Field::DROPPED_BY) => text(by),
            (About::Dropped(_, _, cause), Field::CAUSE) => text(cause),
            (About::Retained(_, change), Field::RETAINED_CHANGE) => number(*change as u64),
            (About::Acked(view) | About::Dropped(view, ..) | About::Retained(view, _), _) => {
                view.field(field, index, self.now_ms)
            }
            (About::Packet(kind, _, _), Field::PACKET_TYPE) => number(*kind as u64),
            (About::Packet(_, bytes, _), Field::PAYLOAD) => Some(Ok(FieldValue::Bytes(bytes))),
            (About::Packet(_, _, len), Field::PACKET_BYTES) => number(*len as u64),
            (About::Broker(broker), Field::BROKER_VERSION) => text(broker.version),
            (About::Broker(broker), Field::BROKER_UPTIME_MS) => number(broker.uptime_ms),
            (About::Broker(broker), Field::BROKER_LISTENER) => {
                broker.listeners.get(index as usize).map_or(Some(Err(Status::ABSENT)), |one| text(one))
            }
            _ => None,
        }
    }
}

/// The share group that a topic filter names.
pub(super) fn share_group(filter: &str) -> Option<&str> {
    topic::parse_filter(filter).ok().and_then(|parsed| parsed.share)
}

impl EventAccess for Notification<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        if let Some(own) = self.own(field, index) {
            return own;
        }
        self.client.as_ref().map_or(Err(Status::UNSUPPORTED), |client| client.get(field, index))
    }

    fn set(&mut self, _change: FieldChange<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        self.client.as_ref().map(ClientView::identity).ok_or(Status::UNSUPPORTED)
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, _deadline_ms: u32) -> Result<Ticket, Status> {
        Err(Status::UNSUPPORTED)
    }
}

impl<'a> Fold<'a> for Notification<'a> {
    #[inline]
    fn begin(&mut self, _link: &'a Link) {}

    fn commit(&mut self, _event: &mut Event) -> bool {
        false
    }

    fn topic(&self) -> &str {
        self.message().map_or("", |view| view.topic)
    }

    fn rollback(&mut self) {}

    fn ticket(&self) -> Option<Ticket> {
        None
    }

    fn fail(&mut self, _policy: FaultPolicy) {}
}
