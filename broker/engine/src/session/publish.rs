//! The stored state of a waiting publish at each of its stages. `flow/pump.rs` moves it on.

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

/// What is stored of a publish beside its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishMetadata {
    /// Packet identifier with QoS 1 and 2; none for a will.
    pub packet_id: Option<NonZeroU16>,
    /// QoS of the packet. The acknowledgement follows it even if hooks change the message.
    pub packet_qos: QoS,
    /// DUP of the packet.
    pub dup: bool,
}

impl PublishMetadata {
    /// For a message that did not come in a packet.
    pub fn of_message(message: &Message) -> PublishMetadata {
        PublishMetadata { packet_id: None, packet_qos: message.qos, dup: false }
    }
}

/// The result of a publish for its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Reason code of the acknowledgement.
    pub code: ReasonCode,
    /// Reason string of the acknowledgement.
    pub text: Option<Bytes>,
    /// Whether the client is disconnected instead.
    pub disconnect: bool,
}

impl Verdict {
    /// An acknowledgement without a reason string.
    pub fn code(code: ReasonCode) -> Verdict {
        Verdict { code, text: None, disconnect: false }
    }
}

/// The stage of a publish, with the state that the next stage needs.
#[derive(Debug)]
pub enum Stage {
    /// Not authorized and not passed to a hook, because a packet in front prevents that.
    Unstarted,
    /// At client.authorize. It waits for a ticket; without a ticket it waits until the publish in
    /// front has been there.
    Authorize(Box<Authorization>),
    /// At message.publish. It waits for a ticket; without a ticket it waits until the publish in
    /// front has been there.
    Chain(Suspended<Draft>),
    /// The chains are complete. It waits for its turn, or for lanes.
    Decided {
        /// Whether its message is stored, if it is to be retained.
        storage: Storage,
        /// Messages that links have added; they are published after this one.
        extra: Extras,
    },
}

/// A publish at client.authorize.
#[derive(Debug)]
pub struct Authorization {
    /// The authorization request.
    pub request: AuthorizationRequest,
    /// The draft from message.publish, if that came first: hooks changed the topic, or the rules
    /// changed.
    pub after: Option<Draft>,
    /// The publish as sent, if the request is about that form and the changed form is authorized
    /// next.
    pub first: Option<Box<OriginalPublish>>,
}

/// A publish as sent, before hooks changed its topic. Both topics must be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalPublish {
    /// Topic name.
    pub topic: Box<str>,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
}

impl OriginalPublish {
    /// The publish as sent, if `topic` is another topic than that of the message.
    pub fn of_moved(message: &MessageView<'_>, topic: &str) -> Option<Box<OriginalPublish>> {
        let moved = topic != message.topic;
        moved.then(|| {
            Box::new(OriginalPublish {
                topic: message.topic.into(),
                qos: message.qos,
                retain: message.retain,
            })
        })
    }

    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<OriginalPublish>() + self.topic.len()
    }
}

/// State of the request to the owner of the retained topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// No request was sent, or none is needed.
    NotRequested,
    /// The owner is storing the message; this is the number of the request.
    Requested(u64),
    /// The owner has stored it under this number; 0 if it had no room.
    Answered(u64),
}

/// The source of a publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A PUBLISH of the session's client.
    Client,
    /// The will of a session, which was authorized at CONNECT.
    Will,
    /// A plugin; such a publish is not authorized.
    Plugin,
    /// A plugin; the message is stored and not routed.
    Store,
    /// A plugin on behalf of a client; authorized as if the client had sent it.
    Behalf,
    /// No source: a plugin checks whether a client may do this with a message of this topic.
    AuthorizationRequest(Action),
}

impl Source {
    /// The action for client.authorize.
    pub fn action(self) -> Action {
        match self {
            Source::Will => Action::Will,
            Source::AuthorizationRequest(action) => action,
            Source::Client | Source::Plugin | Source::Store | Source::Behalf => Action::Publish,
        }
    }

    /// Whether a plugin requests it on behalf of a client.
    pub fn is_on_behalf(self) -> bool {
        matches!(self, Source::Behalf | Source::AuthorizationRequest(_))
    }

    /// Whether it is from a client, directly or through a plugin, so that the rules for clients
    /// apply.
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
    /// The message, with the changes of the chain once the chain is complete. It is shared, so that
    /// neither hooks nor routing copy it.
    pub message: Arc<Message>,
    /// The rest of the publish.
    pub metadata: PublishMetadata,
    /// Its source.
    pub source: Source,
    /// The request of a plugin on behalf of a client, if it comes from one.
    pub behalf: Option<Box<Behalf>>,
    /// Version of the rules under which client.authorize allowed it.
    pub epoch: u64,
    /// How often it was authorized again because the rules changed, after a request that was open.
    pub rounds: u8,
    /// Whether a request about it was open, and answered later, since it was last authorized again.
    pub was_open: bool,
    /// The publish as sent, if hooks changed its topic.
    pub as_sent: Option<Box<OriginalPublish>>,
    /// Its stage.
    pub stage: Stage,
}

/// A refused publish that waits for the acknowledgements in front of it [MQTT-4.6.0-2]
/// [MQTT-4.6.0-3]. Its message is not stored. A request of a plugin that needs no authorization
/// waits in the same way.
#[derive(Debug)]
pub struct Refused {
    /// Metadata of the publish.
    pub metadata: PublishMetadata,
    /// The result for its client.
    pub verdict: Verdict,
    /// The request of a plugin on behalf of a client, if it came from one.
    pub behalf: Option<Box<Behalf>>,
}

/// The ordering limit of a publish: the links of each chain that the publish in front has
/// completed. This one may not go further; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderingLimit {
    /// At client.authorize.
    pub authorize: Option<SmallVec<[LinkIdentity; 4]>>,
    /// At message.publish.
    pub publish: Option<SmallVec<[LinkIdentity; 4]>>,
}

impl Stage {
    /// The stage of a publish whose chains are complete and have added these messages.
    pub fn decided(extra: Extras) -> Stage {
        Stage::Decided { storage: Storage::NotRequested, extra }
    }

    /// Bytes of the results of plugins and of their changes to the message.
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

    /// The ticket for which it waits.
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
    /// A publish for which no plugin has answered yet.
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

    /// Whether it can still be refused: it has had no effect yet.
    pub fn may_be_refused(&self) -> bool {
        !matches!(self.stage, Stage::Decided { storage: Storage::Requested(_) | Storage::Answered(_), .. })
    }

    /// Whether it waits for a plugin, or behind a publish that does.
    pub(super) fn is_in_progress(&self) -> bool {
        match &self.stage {
            Stage::Authorize(authorization) => authorization.after.is_none(),
            Stage::Chain(_) => true,
            Stage::Unstarted | Stage::Decided { .. } => false,
        }
    }

    /// Its position in the chains, for the publishes behind it; `None` if its chains are complete.
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
