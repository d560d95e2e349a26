//! A publish that waits: what of it is kept at each stage. `flow/pump.rs` moves it.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::Ticket;
use smallvec::SmallVec;

use super::behalf::Behalf;
use crate::hook::LinkIdentity;
use crate::hook::draft::{self, Draft, Extras};
use crate::hook::suspended::{AuthorizationRequest, Suspended};
use crate::hook::view::Action;
use crate::message::{Message, MessageView};
use crate::packet::QoS;
use crate::reason::ReasonCode;

/// What is known of a publish apart from its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishMetadata {
    /// Packet identifier of QoS 1 and 2; none for a will.
    pub packet_id: Option<NonZeroU16>,
    /// QoS of the packet, which the acknowledgement goes by whatever hooks make of the message.
    pub packet_qos: QoS,
    /// DUP of the packet.
    pub dup: bool,
}

impl PublishMetadata {
    /// Of a message that came in no packet.
    pub fn of_message(message: &Message) -> PublishMetadata {
        PublishMetadata { packet_id: None, packet_qos: message.qos, dup: false }
    }
}

/// The end of a publish, for its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What its acknowledgement says.
    pub code: ReasonCode,
    /// The same in words.
    pub text: Option<Bytes>,
    /// Whether the client is disconnected for it instead.
    pub disconnect: bool,
}

impl Verdict {
    /// An acknowledgement without words.
    pub fn code(code: ReasonCode) -> Verdict {
        Verdict { code, text: None, disconnect: false }
    }
}

/// How far a publish has come, with what it needs to go on from there.
#[derive(Debug)]
pub enum Stage {
    /// Neither authorised nor shown to a hook: something in front forbids it.
    Unstarted,
    /// At client.authorize: it waits for a ticket, or without one until the publish in front has been there.
    Authorize(Box<Authorization>),
    /// At message.publish: it waits for a ticket, or without one until the publish in front has been there.
    Chain(Suspended<Draft>),
    /// The chains are through: it waits for its turn, or for lanes.
    Decided {
        /// Whether its message is stored, where it is to be retained.
        storage: Storage,
        /// Messages that links have added, to be published after this one.
        extra: Extras,
    },
}

/// A publish at client.authorize.
#[derive(Debug)]
pub struct Authorization {
    /// The question.
    pub request: AuthorizationRequest,
    /// What message.publish has left of it, where it has been there first: it has another topic since, or the rules have changed.
    pub after: Option<Draft>,
    /// What the question is about where that is not what hooks have made of the publish, about which is asked next.
    pub first: Option<Box<AsSent>>,
}

/// A publish as it was before hooks moved it to another topic: it must be allowed both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsSent {
    /// Topic name.
    pub topic: Box<str>,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
}

impl AsSent {
    /// What a message was, if hooks make it one of this topic and that is another one.
    pub fn of_moved(message: &MessageView<'_>, topic: &str) -> Option<Box<AsSent>> {
        let moved = topic != message.topic;
        moved.then(|| {
            Box::new(AsSent { topic: message.topic.into(), qos: message.qos, retain: message.retain })
        })
    }

    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<AsSent>() + self.topic.len()
    }
}

/// How a publish stands with the owner of its retained topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// It has not been asked, or need not be.
    NotRequested,
    /// It is storing the message, under this number of the request.
    Requested(u64),
    /// It has stored it under this number, or has no room for it (0).
    Answered(u64),
}

/// Where a publish comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A PUBLISH of the session's client.
    Client,
    /// Its will, which was authorised at CONNECT.
    Will,
    /// A plugin, which nobody authorises.
    Plugin,
    /// A plugin that has it stored, and not routed.
    Store,
    /// A plugin on behalf of a client, which is authorised as if the client had sent it.
    Behalf,
    /// Nobody: a plugin asks whether a client may do this with a message of this topic.
    AuthorizationRequest(Action),
}

impl Source {
    /// What client.authorize is asked about it.
    pub fn action(self) -> Action {
        match self {
            Source::Will => Action::Will,
            Source::AuthorizationRequest(action) => action,
            Source::Client | Source::Plugin | Source::Store | Source::Behalf => Action::Publish,
        }
    }

    /// Whether a plugin asks for it on behalf of a client.
    pub fn is_on_behalf(self) -> bool {
        matches!(self, Source::Behalf | Source::AuthorizationRequest(_))
    }

    /// Whether a client has said it, by itself or through a plugin: what clients must obey holds for it.
    pub fn is_clients(self) -> bool {
        match self {
            Source::Client | Source::Will | Source::Behalf | Source::AuthorizationRequest(_) => true,
            Source::Plugin | Source::Store => false,
        }
    }
}

/// A publish that waits.
#[derive(Debug)]
pub struct PublishSlot {
    /// The message, with the changes of the chain once that is through. Shared, so that neither a hook's look at it nor
    /// its effect copies it.
    pub message: Arc<Message>,
    /// What else is known of it.
    pub metadata: PublishMetadata,
    /// Where it comes from.
    pub source: Source,
    /// For whom a plugin asks for it, if for anybody.
    pub behalf: Option<Box<Behalf>>,
    /// Version of the rules under which client.authorize allowed it.
    pub epoch: u64,
    /// How often it has been asked about anew because they had changed, after a question that was open.
    pub rounds: u8,
    /// Whether a question about it has been open, which was answered later, since it was asked about anew last.
    pub was_open: bool,
    /// What it was before hooks moved it to another topic, if they have.
    pub as_sent: Option<Box<AsSent>>,
    /// How far it has come.
    pub stage: Stage,
}

/// A publish that is refused, and waits for those in front to be acknowledged [MQTT-4.6.0-2] [MQTT-4.6.0-3]. Of the message
/// nothing is kept. What a plugin asks for and need not be authorized waits in the same way.
#[derive(Debug)]
pub struct Refused {
    /// Which it was.
    pub head: PublishMetadata,
    /// What its client is told.
    pub verdict: Verdict,
    /// For whom a plugin had asked for it, if for anybody.
    pub behalf: Option<Box<Behalf>>,
}

/// Where a publish may not go because one in front has not been there: links of each chain that the one in front has been to;
/// `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderingLimit {
    /// At client.authorize.
    pub authorize: Option<SmallVec<[LinkIdentity; 4]>>,
    /// At message.publish.
    pub publish: Option<SmallVec<[LinkIdentity; 4]>>,
}

impl Stage {
    /// Its chains are through, and have added these messages.
    pub fn decided(extra: Extras) -> Stage {
        Stage::Decided { storage: Storage::NotRequested, extra }
    }

    /// Bytes of what plugins have said of it, and of what they have made of its message.
    pub fn bytes(&self) -> usize {
        match self {
            Stage::Unstarted => 0,
            Stage::Authorize(authorization) => {
                let after = authorization.after.as_ref().map_or(0, Draft::bytes);
                let first = authorization.first.as_ref().map_or(0, |first| first.bytes());
                size_of::<Authorization>()
                    + authorization.request.accumulator.bytes()
                    + authorization.request.before_bytes()
                    + after
                    + first
            }
            Stage::Chain(suspended) => suspended.accumulator.bytes() + suspended.before_bytes(),
            Stage::Decided { extra, .. } => draft::extra_bytes(extra),
        }
    }

    /// The ticket it waits for.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Stage::Authorize(authorization) => authorization.request.ticket(),
            Stage::Chain(suspended) => suspended.ticket(),
            Stage::Unstarted | Stage::Decided { .. } => None,
        }
    }

    /// Whether it is at a hook point and waits for the publish in front.
    pub fn is_blocked(&self) -> bool {
        matches!(self, Stage::Authorize(_) | Stage::Chain(_)) && self.ticket().is_none()
    }
}

impl PublishSlot {
    /// One about which nothing has been said yet.
    pub fn new(
        message: Arc<Message>,
        metadata: PublishMetadata,
        source: Source,
        stage: Stage,
    ) -> PublishSlot {
        let (behalf, as_sent) = (None, None);
        PublishSlot {
            message,
            metadata,
            source,
            behalf,
            epoch: 0,
            rounds: 0,
            was_open: false,
            as_sent,
            stage,
        }
    }

    /// Whether it has not begun to have its effect.
    pub fn may_be_refused(&self) -> bool {
        !matches!(self.stage, Stage::Decided { storage: Storage::Requested(_) | Storage::Answered(_), .. })
    }

    /// Whether it waits for a plugin, or behind a publish that does.
    pub(super) fn is_on_its_way(&self) -> bool {
        match &self.stage {
            Stage::Authorize(authorization) => authorization.after.is_none(),
            Stage::Chain(_) => true,
            Stage::Unstarted | Stage::Decided { .. } => false,
        }
    }

    /// How far it is on its way along the chains, for those behind it; `None` where it is through.
    pub(super) fn position(&self) -> Option<OrderingLimit> {
        match &self.stage {
            Stage::Authorize(authorization) if authorization.after.is_none() => Some(OrderingLimit {
                authorize: Some(authorization.request.visited().into()),
                publish: Some(SmallVec::new()),
            }),
            Stage::Chain(suspended) => {
                Some(OrderingLimit { authorize: None, publish: Some(suspended.visited().into()) })
            }
            _ => None,
        }
    }
}
