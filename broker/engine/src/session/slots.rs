//! The ordered queue of received packets that wait: for a deferred verdict, the owner of a retained message, a full lane, the
//! SUBACK barrier, or simply for those in front. They take effect and are acknowledged in order of arrival.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::Ticket;
use smallvec::SmallVec;

use crate::hook::draft::{Draft, Extra};
use crate::hook::requested::Requested;
use crate::hook::suspended::{AuthorizationRequest, Suspended};
use crate::hook::{HookPoint, LinkIdentity};
use crate::id::ConnKey;
use crate::message::Message;
use crate::packet::{Leave, OwnedProperties, QoS, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::reason::ReasonCode;
use crate::session::ending::{EndCause, Will};

/// What is known of a publish apart from its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Packet identifier of QoS 1 and 2; none for a will.
    pub packet_id: Option<NonZeroU16>,
    /// QoS of the packet, which the acknowledgement goes by whatever hooks make of the message.
    pub packet_qos: QoS,
    /// DUP of the packet.
    pub dup: bool,
}

impl Head {
    /// Of a message that came in no packet.
    pub fn of_message(message: &Message) -> Head {
        Head { packet_id: None, packet_qos: message.qos, dup: false }
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
        extra: Option<Box<Vec<Extra>>>,
    },
}

/// A publish at client.authorize.
#[derive(Debug)]
pub struct Authorization {
    /// The question.
    pub ask: Ask,
    /// What message.publish has left of it, where it has been there first and has another topic since.
    pub after: Option<Draft>,
}

/// How a publish stands with the owner of its retained topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// It has not been asked, or need not be.
    NotAsked,
    /// It is storing the message, under this number of the request.
    Asked(u64),
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
}

/// A publish that waits.
#[derive(Debug)]
pub struct PublishSlot {
    /// The message, with the changes of the chain once that is through. Shared, so that neither a hook's look at it nor
    /// its effect copies it.
    pub message: Arc<Message>,
    /// What else is known of it.
    pub head: Head,
    /// Where it comes from.
    pub source: Source,
    /// How far it has come.
    pub stage: Stage,
}

/// A publish that is refused, and waits for those in front to be acknowledged [MQTT-4.6.0-2] [MQTT-4.6.0-3]. Of the message
/// nothing is kept.
#[derive(Debug)]
pub struct Refused {
    /// Which it was.
    pub head: Head,
    /// What its client is told.
    pub verdict: Verdict,
}

/// A subscription that waits for the barrier, to be followed by retained messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Place in the SUBSCRIBE packet.
    pub place: usize,
    /// Full filter.
    pub filter: Arc<str>,
    /// Sequence number it waits for, 0 for none.
    pub barrier_seq: u64,
    /// Whether the subscription was not there before.
    pub is_new: bool,
    /// Number of the reader of its retained messages; 0 where none are wanted.
    pub reader: u64,
    /// Number of its filter in the routes.
    pub number: u32,
    /// Options.
    pub options: SubscriptionOptions,
    /// Subscription identifier, 0 for none.
    pub id: u32,
}

impl Granted {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<Granted>() + self.filter.len()
    }
}

/// A request to client.authorize that is on its way along the chain.
pub type Ask = AuthorizationRequest;

/// Whether a filter may be subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// That is still asked.
    Open(Box<Ask>),
    /// It may, or not for this reason, under the rules of this version.
    Done(Result<(), ReasonCode>, u64),
}

/// A SUBSCRIBE or UNSUBSCRIBE. It begins when it is in front.
#[derive(Debug)]
pub struct FilterPacket {
    /// Its packet identifier; `None` where a plugin subscribes for the client, which gets no SUBACK.
    pub packet_id: Option<NonZeroU16>,
    /// Which of the two it is.
    pub subscribe: bool,
    /// Its properties as they came, for hooks.
    pub properties: OwnedProperties,
    /// The filters as they came, or as the chain has left them; none while it is on its way there.
    pub requested: Vec<Requested>,
    /// Filters of the packet beyond those, which are refused.
    pub beyond: usize,
    /// One for each filter that has been put to client.authorize.
    pub permits: Vec<Permit>,
    /// Reason codes so far.
    pub codes: Vec<u8>,
    /// What was granted.
    pub granted: Vec<Granted>,
    /// Number of the batch of its retained messages.
    pub batch: u64,
    /// How many of those granted are known to that batch.
    pub in_batch: usize,
    /// How far it has come.
    pub step: FilterStep,
    /// Whether it stands in the row of those that go on in the next turn.
    pub is_queued: bool,
}

/// How far a SUBSCRIBE or UNSUBSCRIBE has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FilterStep {
    /// Something is in front.
    Unstarted,
    /// At the packet's own hook point, with the filters as its links have left them so far.
    Chain(Suspended<Vec<Requested>>),
    /// At client.authorize: so many filters wait for an answer.
    Authorize(usize),
    /// Its filters are being put into force, or taken out of it.
    Apply,
    /// Until the other shards have acknowledged the changes of interest up to this number, or until this time, monotonic
    /// milliseconds.
    Barrier(u64, u64),
    /// Until the owners of retained messages have set their marks, or until this time.
    Marks(u64),
    /// SUBACK is out; so many of what was granted have been told of.
    Tell(usize),
}

impl FilterPacket {
    /// Of a SUBSCRIBE, of which at most so many filters are kept.
    pub fn of_subscribe(subscribe: &Subscribe<'_>, most: usize) -> FilterPacket {
        let mut filters = subscribe.filters;
        let kept = filters.by_ref().take(most).map(|(filter, options)| Requested::new(filter, options));
        FilterPacket {
            packet_id: Some(subscribe.packet_id),
            properties: OwnedProperties::of(&subscribe.properties),
            requested: kept.collect(),
            beyond: filters.count(),
            ..FilterPacket::at(FilterStep::Unstarted, true)
        }
    }

    /// Of an UNSUBSCRIBE, of which at most so many filters are kept.
    pub fn of_unsubscribe(unsubscribe: &Unsubscribe<'_>, most: usize) -> FilterPacket {
        let mut filters = unsubscribe.filters;
        let kept = filters.by_ref().take(most);
        let kept = kept.map(|filter| Requested::new(filter, SubscriptionOptions::default()));
        FilterPacket {
            packet_id: Some(unsubscribe.packet_id),
            properties: OwnedProperties::of(&unsubscribe.properties),
            requested: kept.collect(),
            beyond: filters.count(),
            ..FilterPacket::at(FilterStep::Unstarted, false)
        }
    }

    /// What a plugin has put into force for a client, so that its retained messages follow.
    pub fn of_plugin(granted: Granted, batch: u64) -> FilterPacket {
        FilterPacket { granted: vec![granted], batch, ..FilterPacket::at(FilterStep::Apply, true) }
    }

    fn at(step: FilterStep, subscribe: bool) -> FilterPacket {
        FilterPacket {
            packet_id: None,
            subscribe,
            properties: OwnedProperties::default(),
            requested: Vec::new(),
            beyond: 0,
            permits: Vec::new(),
            codes: Vec::new(),
            granted: Vec::new(),
            batch: 0,
            in_batch: 0,
            step,
            is_queued: false,
        }
    }

    /// Begins its own chain.
    pub fn begin_chain(&mut self, epoch: u64) {
        let point = if self.subscribe { HookPoint::ClientSubscribe } else { HookPoint::ClientUnsubscribe };
        self.step = FilterStep::Chain(Suspended::new(point, std::mem::take(&mut self.requested), epoch));
    }

    /// Its own chain is through, and has left these filters.
    pub fn end_chain(&mut self, requested: Vec<Requested>) {
        self.requested = requested;
        self.step = if self.subscribe { FilterStep::Authorize(0) } else { FilterStep::Apply };
    }
}

/// What waits.
#[derive(Debug)]
pub enum SlotBody {
    /// A PUBLISH, or the will.
    Publish(Box<PublishSlot>),
    /// A PUBLISH that has no effect.
    Refused(Box<Refused>),
    /// A SUBSCRIBE or UNSUBSCRIBE.
    Filters(Box<FilterPacket>),
    /// A DISCONNECT.
    Disconnect(Leave),
    /// The connection has ended in this way; whatever it sent is in front.
    End(EndCause, Option<Box<Will>>),
}

/// A received packet that waits.
#[derive(Debug)]
pub struct Slot {
    /// The connection it came from.
    pub conn: Option<ConnKey>,
    /// What it counts against `slot_bytes_max`.
    pub bytes: usize,
    /// What it is.
    pub body: SlotBody,
}

impl Slot {
    /// A packet that begins to wait.
    pub fn new(conn: Option<ConnKey>, body: SlotBody) -> Slot {
        Slot { conn, bytes: body.bytes(), body }
    }

    /// What it counts in a ledger.
    pub fn charge(&self) -> usize {
        SLOT_BYTES + self.bytes
    }
}

impl SlotBody {
    /// What it counts against `slot_bytes_max`.
    fn bytes(&self) -> usize {
        match self {
            SlotBody::Publish(publish) => publish.message.bytes(),
            SlotBody::Refused(refused) => refused.verdict.text.as_ref().map_or(0, Bytes::len),
            SlotBody::Filters(packet) => {
                let filters = packet.requested.iter();
                let filters = filters.map(|one| one.filter.len() + size_of::<Requested>());
                packet.properties.len() + filters.sum::<usize>()
            }
            SlotBody::Disconnect(_) => 0,
            SlotBody::End(_, will) => will.as_ref().map_or(0, |will| will.bytes()),
        }
    }
}

/// What every slot is charged for beside its packet.
const SLOT_BYTES: usize = size_of::<Slot>() + size_of::<PublishSlot>();

/// Where a publish may not go because one in front has not been there: links of each chain that the one in front has been to;
/// `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// At client.authorize.
    pub authorize: Option<SmallVec<[LinkIdentity; 4]>>,
    /// At message.publish.
    pub publish: Option<SmallVec<[LinkIdentity; 4]>>,
}

impl Stage {
    /// Its chains are through, and have added these messages.
    pub fn decided(extra: Option<Box<Vec<Extra>>>) -> Stage {
        Stage::Decided { storage: Storage::NotAsked, extra }
    }

    /// The ticket it waits for.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Stage::Authorize(authorization) => authorization.ask.ticket,
            Stage::Chain(suspended) => suspended.ticket,
            Stage::Unstarted | Stage::Decided { .. } => None,
        }
    }

    /// Whether it is at a hook point and waits for the publish in front.
    pub fn is_blocked(&self) -> bool {
        matches!(self, Stage::Authorize(_) | Stage::Chain(_)) && self.ticket().is_none()
    }
}

impl PublishSlot {
    /// Whether it waits for a plugin, or behind a publish that does.
    fn is_on_its_way(&self) -> bool {
        match &self.stage {
            Stage::Authorize(authorization) => authorization.after.is_none(),
            Stage::Chain(_) => true,
            Stage::Unstarted | Stage::Decided { .. } => false,
        }
    }

    /// How far it is on its way along the chains, for those behind it; `None` where it is through.
    fn position(&self) -> Option<Behind> {
        match &self.stage {
            Stage::Authorize(authorization) if authorization.after.is_none() => Some(Behind {
                authorize: Some(authorization.ask.visited.clone()),
                publish: Some(SmallVec::new()),
            }),
            Stage::Chain(suspended) => {
                Some(Behind { authorize: None, publish: Some(suspended.visited.clone()) })
            }
            _ => None,
        }
    }
}

/// The slots of a session.
#[derive(Debug, Default)]
pub struct Slots {
    queue: VecDeque<Slot>,
    first: u64,
    bytes: usize,
}

impl Slots {
    /// Number of waiting packets.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the waiting packets.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the waiting packets count in a ledger.
    pub fn charge(&self) -> usize {
        self.queue.len() * SLOT_BYTES + self.bytes
    }

    /// Whether only publishes wait, so that another may begin its chain behind them.
    pub fn only_publishes(&self) -> bool {
        self.queue.iter().all(|slot| match &slot.body {
            SlotBody::Publish(publish) => !matches!(publish.stage, Stage::Unstarted),
            SlotBody::Refused(_) => true,
            _ => false,
        })
    }

    /// Puts a packet at the end; its number names it until it leaves.
    pub fn push(&mut self, slot: Slot) -> u64 {
        self.bytes += slot.bytes;
        self.queue.push_back(slot);
        self.first + self.queue.len() as u64 - 1
    }

    /// Puts a packet before all others, in the place of the one that was just taken.
    pub fn push_front(&mut self, slot: Slot) {
        self.bytes += slot.bytes;
        self.queue.push_front(slot);
        self.first -= 1;
    }

    /// The number that the next packet will have.
    pub fn next_number(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    /// The packet in front.
    pub fn front_mut(&mut self) -> Option<&mut Slot> {
        self.queue.front_mut()
    }

    /// Whether a DISCONNECT waits: its client sends nothing more.
    pub fn has_disconnect(&self) -> bool {
        self.queue.iter().any(|slot| matches!(slot.body, SlotBody::Disconnect(_)))
    }

    /// How the client of a connection has taken its leave, where its DISCONNECT waits.
    pub fn disconnect_of(&self, conn: ConnKey) -> Option<Leave> {
        self.queue.iter().filter(|slot| slot.conn == Some(conn)).find_map(|slot| match slot.body {
            SlotBody::Disconnect(leave) => Some(leave),
            _ => None,
        })
    }

    /// The packet in front.
    pub fn front(&self) -> Option<&Slot> {
        self.queue.front()
    }

    /// Number of the packet in front.
    pub fn front_number(&self) -> u64 {
        self.first
    }

    /// Takes the packet in front.
    pub fn pop(&mut self) -> Option<Slot> {
        let slot = self.queue.pop_front()?;
        self.first += 1;
        self.bytes -= slot.bytes;
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Some(slot)
    }

    /// A packet by its number.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Slot> {
        self.queue.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// A waiting publish by its number.
    pub fn publish_mut(&mut self, number: u64) -> Option<&mut PublishSlot> {
        match &mut self.get_mut(number)?.body {
            SlotBody::Publish(publish) => Some(publish),
            _ => None,
        }
    }

    /// A waiting publish is refused: its message is let go of, and its place kept.
    pub fn refuse(&mut self, number: u64, verdict: Verdict) {
        let Some(slot) = self.get_mut(number) else { return };
        let SlotBody::Publish(publish) = &slot.body else { return };
        let refused =
            Slot::new(slot.conn, SlotBody::Refused(Box::new(Refused { head: publish.head, verdict })));
        let (before, after) = (slot.bytes, refused.bytes);
        *slot = refused;
        self.bytes = self.bytes - before + after;
    }

    /// Where the nearest publish in front of `number` waits that is still on its way along the chains.
    pub fn in_front(&self, number: u64) -> Behind {
        let Ok(before) = usize::try_from(number.saturating_sub(self.first)) else { return Behind::default() };
        let ahead = self.queue.iter().take(before).rev().find_map(|slot| match &slot.body {
            SlotBody::Publish(publish) => publish.position(),
            _ => None,
        });
        ahead.unwrap_or_default()
    }

    /// Publishes that wait for a plugin, or behind one that does.
    pub fn deferred(&self) -> usize {
        self.publishes().filter(|publish| publish.is_on_its_way()).count()
    }

    /// Whether a publish with this identifier waits for its acknowledgement: a resend joins it.
    pub fn has_publish(&self, packet_id: NonZeroU16) -> bool {
        self.owed().any(|head| head.packet_id == Some(packet_id))
    }

    /// Publishes that we owe an acknowledgement for.
    pub fn acknowledgements_owed(&self) -> usize {
        if self.queue.is_empty() { 0 } else { self.owed().count() }
    }

    /// Publishes of clients that begin a QoS 2 exchange when they are acknowledged.
    pub fn exactly_once(&self) -> usize {
        if self.queue.is_empty() {
            0
        } else {
            self.owed().filter(|head| head.packet_qos == QoS::ExactlyOnce).count()
        }
    }

    /// What is known of the publishes that we owe an acknowledgement for.
    fn owed(&self) -> impl Iterator<Item = &Head> {
        let heads = self.queue.iter().filter_map(|slot| match &slot.body {
            SlotBody::Publish(publish) => Some(&publish.head),
            SlotBody::Refused(refused) => Some(&refused.head),
            _ => None,
        });
        heads.filter(|head| head.packet_id.is_some())
    }

    /// All waiting publishes in order.
    pub fn publishes(&self) -> impl Iterator<Item = &PublishSlot> {
        self.queue.iter().filter_map(|slot| match &slot.body {
            SlotBody::Publish(publish) => Some(&**publish),
            _ => None,
        })
    }

    /// A parked DISCONNECT of a connection that is gone: the end of that connection becomes the client's own.
    pub fn mark_end(&mut self, conn: ConnKey, cause: EndCause) {
        for slot in &mut self.queue {
            if let SlotBody::End(end, _) = &mut slot.body
                && slot.conn == Some(conn)
            {
                *end = cause;
            }
        }
    }

    /// The connection whose end waits last.
    pub fn last_end(&self) -> Option<ConnKey> {
        self.queue.iter().rev().find(|slot| matches!(slot.body, SlotBody::End(..))).and_then(|slot| slot.conn)
    }

    /// All waiting packets in order.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.queue.iter()
    }
}
