//! An MQTT session (MQTT 5.0 section 4.1): what outlives the network connection. It holds
//! subscriptions, the packets in flight both ways, queued messages, and the slots of received packets
//! that wait. It decides packet identifiers and windows. It keeps types of hooks and routes for what
//! waits for them; it calls no hook, looks up no route, and knows no socket.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::rc::Rc;

use crate::hook::notification::SessionView;
use crate::id::{ConnKey, SessionKey, ShardSet};
use crate::packet::{QoS, SubscriptionOptions};
use crate::shared_message::Pool;
use crate::time::Now;
use crate::timer::Timer;

pub mod behalf;
pub(crate) mod deliveries;
pub mod delivery;
pub mod ending;
pub mod fetch;
pub mod filters;
pub mod identity;
pub mod inflight;
pub mod publish;
pub mod readers;
pub(crate) mod ready;
pub mod slots;
pub mod subscriptions;

pub use behalf::{Behalf, Deed};
pub use delivery::Delivery;
pub use ending::{End, EndCause, EndReason, LifecycleState, Will};
pub use identity::{Host, Identity, Principal, host_of};
pub use inflight::{Inflight, Outgoing, Phase};
pub use publish::{PublishSlot, Source, Stage, Storage};
pub use readers::Readers;
pub use ready::Ready;
pub use slots::{Slot, SlotBody, Slots};
pub use subscriptions::Subscriptions;

/// A subscription of a session, under its full filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// As granted.
    pub options: SubscriptionOptions,
    /// Subscription identifier, 0 where there is none.
    pub id: u32,
    /// Number of the reader of its retained messages, 0 where there never was one.
    pub reader: u64,
    /// Whether it is being authorized again.
    pub recheck: Recheck,
}

/// How it stands with the recheck of a subscription in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recheck {
    /// None is under way.
    #[default]
    None,
    /// One waits for a plugin, under this number.
    Open(u64),
    /// Nobody has answered the last one: another follows.
    Again,
}

/// How long a packet in front still waits until its client has released another one with PUBREL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseWait {
    /// Until the PUBREL comes.
    NotTimed,
    /// A deadline is armed, in case the PUBREL is behind what is not read.
    Timed(Timer),
    /// No longer: its connection was left unread too long. So it is until as many are released that another may wait.
    Over,
}

impl ReleaseWait {
    /// The timer of its deadline.
    pub(crate) fn timer(self) -> Option<Timer> {
        match self {
            ReleaseWait::Timed(timer) => Some(timer),
            ReleaseWait::NotTimed | ReleaseWait::Over => None,
        }
    }
}

/// What the shared subscriptions of a session are told, a slice at a time.
#[derive(Debug)]
pub struct Telling {
    /// The last one that has been told, by its full filter; `None` before the first.
    pub after: Option<Box<str>>,
    /// Whether they are also told that the session's queue has drained.
    pub drained: bool,
}

/// One session on its home shard.
#[derive(Debug)]
pub struct Session {
    /// Its key.
    pub key: SessionKey,
    /// Who it is, as of the last CONNECT.
    pub identity: Rc<Identity>,
    /// The connection, if there is one.
    pub conn: Option<ConnKey>,
    /// Session expiry interval in force, seconds; `u32::MAX` is never.
    pub expiry_s: u32,
    /// Created, milliseconds since 1970.
    pub created_wall_ms: u64,
    /// Connected or disconnected since, milliseconds since 1970.
    pub since_wall_ms: u64,
    /// How often it has been connected and disconnected.
    pub epoch: u32,
    /// When its expiry interval is over, while it has no connection.
    pub expiry_timer: Option<Timer>,
    /// When the delay of its will is over.
    pub will_timer: Option<Timer>,
    /// When a SUBSCRIBE waits for other shards no longer.
    pub barrier_timer: Option<Timer>,
    /// Why it ends, if that is known before its connection's end decides it.
    pub end_reason: Option<EndReason>,
    /// Whether `LifecycleState::Ends` was decided; it lives until its slots have drained.
    pub lifecycle: LifecycleState,
    /// Whether the client id no longer leads here: it drains its slots and is taken down.
    pub detached: bool,
    /// Whether it stands in the row of those being taken down.
    pub in_teardown: bool,
    /// What of it may go on, for which it stands in the run queue.
    pub ready: Ready,
    /// Lanes to other shards that it stands in a row for.
    pub lanes_waited: ShardSet,
    /// Whether a shared subscription of it has been called full on this shard, which ends when its queue has drained.
    pub in_full_group: bool,
    /// What its shared subscriptions are still to be told, for which it stands in the row of those that go on in the next turn.
    pub telling: Option<Box<Telling>>,
    /// How long a packet in front still waits for a PUBREL.
    pub release_wait: ReleaseWait,
    /// Subscriptions by full filter.
    pub subscriptions: Subscriptions,
    /// Packets sent and not acknowledged.
    pub inflight: Inflight,
    /// Messages that wait for the window or the connection.
    pub queue: VecDeque<Delivery>,
    /// Their bytes.
    pub queue_bytes: usize,
    /// Packet identifiers of QoS 2 publishes that wait for PUBREL.
    pub awaiting_rel: BTreeSet<NonZeroU16>,
    /// Received packets that wait for their turn.
    pub slots: Slots,
    /// The will of the connection, until it ends.
    pub will: Option<Box<Will>>,
    /// The will of a connection that has ended, until its delay is over.
    pub delayed_will: Option<Box<Will>>,
    /// Retained messages that it is still to get; `None` if there are none.
    pub readers: Option<Box<Readers>>,
    /// Under which time it stands among those whose readers settle, monotonic milliseconds; `None` if it does not.
    pub settles_ms: Option<u64>,
    /// Deliveries that are authorised one by one, where a plugin asks for that.
    pub deliveries: Option<Box<crate::session::deliveries::Deliveries>>,
    /// Messages dropped for it.
    pub dropped: u64,
    /// The connection of another principal that is to go on with it, and waits for that.
    pub heir: Option<ConnKey>,
    /// Where messages that it holds are counted for the shard.
    pub pool: Pool,
    /// The number of the plugin that asks for what waits here on behalf of the client, where the session is a line for that.
    pub request_queue: Option<u32>,
}

impl Session {
    /// A session without a connection, created now. `window` is how many packets may be in flight.
    pub fn new(key: SessionKey, identity: &Rc<Identity>, now: Now, window: usize, pool: Pool) -> Session {
        Session {
            key,
            identity: Rc::clone(identity),
            conn: None,
            expiry_s: identity.expiry_s,
            created_wall_ms: now.wall_ms,
            since_wall_ms: now.wall_ms,
            epoch: 0,
            expiry_timer: None,
            will_timer: None,
            barrier_timer: None,
            end_reason: None,
            lifecycle: LifecycleState::Stays,
            detached: false,
            in_teardown: false,
            ready: Ready::default(),
            lanes_waited: ShardSet::EMPTY,
            in_full_group: false,
            telling: None,
            release_wait: ReleaseWait::NotTimed,
            subscriptions: Subscriptions::default(),
            inflight: Inflight::new(window),
            queue: VecDeque::new(),
            queue_bytes: 0,
            awaiting_rel: BTreeSet::new(),
            slots: Slots::default(),
            will: None,
            delayed_will: None,
            readers: None,
            settles_ms: None,
            deliveries: None,
            dropped: 0,
            heir: None,
            pool,
            request_queue: None,
        }
    }

    /// Notes a PUBLISH that is being sent under an identifier of [`Inflight::next_packet_id`].
    pub fn in_flight(&mut self, packet_id: NonZeroU16, delivery: Delivery) {
        self.pool.count(&delivery.message);
        self.inflight.publish(packet_id, delivery);
    }

    /// Whether the client's acknowledgements of these publishes are still owed by us: what counts against Receive Maximum.
    pub fn unacknowledged_publishes(&self) -> usize {
        self.awaiting_rel.len() + self.slots.acknowledgements_owed()
    }

    /// Whether something is to be sent to its client as soon as there is room.
    #[inline]
    pub fn has_outgoing(&self) -> bool {
        !self.queue.is_empty() || self.inflight.has_resends() || self.readers.is_some()
    }

    /// Whether its client may begin another QoS 2 exchange. Clients of MQTT 5 keep to the Receive Maximum that they were given.
    pub fn may_await_release(&self, awaiting_rel_max: u64) -> bool {
        self.identity.version.is_v5()
            || self.release_wait == ReleaseWait::Over
            || (self.awaiting_rel.len() as u64) < awaiting_rel_max
    }

    /// Publishes beyond `awaiting_rel_max` wait for a PUBREL again, from now on; the deadline there was means nothing any more.
    pub fn end_release_wait(&mut self) -> Option<Timer> {
        std::mem::replace(&mut self.release_wait, ReleaseWait::NotTimed).timer()
    }

    /// Whether the publish in front waits until its client has released another one with PUBREL. Nobody will where the
    /// connection has gone.
    pub fn waits_for_release(&self, awaiting_rel_max: u64) -> bool {
        self.slots.front().is_some_and(|slot| match &slot.body {
            SlotBody::Publish(publish) => {
                matches!(publish.stage, Stage::Unstarted)
                    && publish.source == Source::Client
                    && publish.metadata.packet_qos == QoS::ExactlyOnce
                    && slot.conn == self.conn
                    && !self.may_await_release(awaiting_rel_max)
                    && !self.slots.has_disconnect()
            }
            _ => false,
        })
    }

    /// Whether another connection may come while packets of this one's wait: the end of the connection there is, with its will,
    /// will wait behind them.
    pub fn has_room_for_end(&self, slots_max: u64, bytes_max: u64) -> bool {
        let will_bytes = self.will.as_ref().map_or(0, |will| will.message.bytes());
        self.slots.is_empty()
            || (self.slots.len() as u64) < slots_max && (self.slots.bytes() + will_bytes) as u64 <= bytes_max
    }

    /// Forgets its readers if they have nothing to remember.
    pub fn tidy_readers(&mut self) {
        if self.readers.as_ref().is_some_and(|readers| readers.is_empty()) {
            self.readers = None;
        }
    }

    /// What hooks see of it.
    pub fn view(&self) -> SessionView {
        SessionView {
            created_at_ms: self.created_wall_ms,
            persistent: self.is_persistent(),
            expiry_s: self.expiry_s,
            subscriptions: self.subscriptions.len(),
            inflight: self.inflight.len(),
            queued: self.queue.len(),
            awaiting_rel: self.awaiting_rel.len(),
        }
    }

    /// The timers that it holds: for its end, on the 1 s wheel, and for packets of its client that wait, on the 10 ms wheel.
    #[inline]
    pub(crate) fn timers(&self) -> ([Option<Timer>; 2], [Option<Timer>; 2]) {
        ([self.expiry_timer, self.will_timer], [self.barrier_timer, self.release_wait.timer()])
    }

    /// Whether it outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// Whether it outlives its connection and nothing has ended it.
    pub fn goes_on(&self) -> bool {
        self.is_persistent() && self.lifecycle != LifecycleState::Ends
    }

    /// Whether it is there for its client: connected, or to be resumed.
    pub fn is_there(&self) -> bool {
        self.goes_on() || self.conn.is_some() && self.lifecycle != LifecycleState::Ends
    }

    /// Puts a delivery at the end of the queue. False, and nothing done, when a limit is reached.
    pub fn enqueue(&mut self, delivery: Delivery, messages_max: u64, bytes_max: u64) -> bool {
        let room = self.has_queue_room(&delivery, messages_max, bytes_max);
        if room {
            if let (Some(readers), true) = (&mut self.readers, delivery.reader != 0) {
                readers.queued(delivery.reader);
            }
            self.pool.count(&delivery.message);
            self.queue_bytes += delivery.message.bytes();
            self.queue.push_back(delivery);
        }
        room
    }

    /// Whether the queue has room for a delivery.
    pub fn has_queue_room(&self, delivery: &Delivery, messages_max: u64, bytes_max: u64) -> bool {
        (self.queue.len() as u64) < messages_max
            && (self.queue_bytes + delivery.message.bytes()) as u64 <= bytes_max
    }

    /// Takes out of the queue what may not stay.
    pub fn withdraw_queued(&mut self, mut stays: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let (kept, gone): (VecDeque<Delivery>, VecDeque<Delivery>) =
            std::mem::take(&mut self.queue).into_iter().partition(|delivery| stays(delivery));
        self.queue = kept;
        for delivery in &gone {
            self.queue_bytes -= delivery.message.bytes();
            if let (Some(readers), true) = (&mut self.readers, delivery.reader != 0) {
                readers.dequeued(delivery.reader);
            }
        }
        gone.into()
    }

    /// Whether something that it has received, or is to be sent, waits for a plugin, a lane or another shard.
    pub fn is_busy(&self) -> bool {
        !self.slots.is_empty() || self.deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_empty())
    }

    /// Takes the first delivery of the queue.
    /// Takes the first delivery of the queue. A retained message whose subscription has ended meanwhile is passed over.
    pub fn dequeue(&mut self) -> Option<Delivery> {
        loop {
            let delivery = self.queue.pop_front()?;
            self.queue_bytes -= delivery.message.bytes();
            if self.queue.is_empty() && self.queue.capacity() > 1024 {
                self.queue = VecDeque::new();
            }
            let reader = delivery.reader;
            if reader == 0 || self.readers.as_mut().is_some_and(|readers| readers.dequeued(reader)) {
                return Some(delivery);
            }
        }
    }
}
