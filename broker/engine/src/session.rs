//! An MQTT session (MQTT 5.0 section 4.1), which outlives the network connection. It holds the
//! subscriptions, the packets in flight in both directions, the queued messages, and the slots of
//! received packets that wait. It decides packet identifiers and windows. It stores hook and route
//! types for the packets that wait. It calls no hook, looks up no route and uses no socket.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::rc::Rc;

use crate::hook::notification::SessionView;
use crate::id::{ConnKey, SessionKey, ShardSet};
use crate::on_demand::{Empty, OnDemand};
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
pub mod queue;
pub mod readers;
pub(crate) mod ready;
pub mod slots;
pub mod subscriptions;

pub use behalf::{Behalf, BehalfKind};
pub use delivery::Delivery;
pub use ending::{End, EndCause, EndReason, LifecycleState, Will};
pub use identity::{Entrance, Identity, Principal};
pub use inflight::{Inflight, Outgoing, Phase};
pub use publish::{PublishSlot, Source, Stage, Storage};
pub use queue::Queue;
pub use readers::Readers;
pub use ready::Ready;
pub use slots::{Slot, SlotBody, Slots};
pub use subscriptions::Subscriptions;

/// A subscription of a session, stored under its full filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The options as granted.
    pub options: SubscriptionOptions,
    /// Subscription identifier; 0 if there is none.
    pub id: u32,
    /// Number of the reader of its retained messages; 0 if there was never one.
    pub reader: u64,
    /// The state of its recheck.
    pub recheck: Recheck,
}

/// State of the recheck of a subscription in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recheck {
    /// No recheck is under way.
    #[default]
    None,
    /// A recheck with this number waits for a plugin.
    Open(u64),
    /// The last recheck got no answer; it is repeated.
    Again,
}

/// How long the packet in front waits for a PUBREL that completes another QoS 2 exchange of its
/// client.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ReleaseWait {
    /// Without a deadline, until the PUBREL comes.
    #[default]
    NotTimed,
    /// With a deadline: the connection is not read, so the PUBREL may be among the unread bytes.
    Timed(Timer),
    /// The deadline has passed. The state stays until enough exchanges are complete for another
    /// publish to wait.
    Over,
}

impl ReleaseWait {
    /// The timer of the deadline.
    pub(crate) fn timer(self) -> Option<Timer> {
        match self {
            ReleaseWait::Timed(timer) => Some(timer),
            ReleaseWait::NotTimed | ReleaseWait::Over => None,
        }
    }
}

/// Progress of the notifications to the shared subscriptions of a session, which are sent in
/// slices.
#[derive(Debug)]
pub struct GroupUpdate {
    /// Full filter of the last shared subscription that was notified; `None` before the first.
    pub after: Option<Box<str>>,
    /// Whether they are also notified that the queue of the session has drained.
    pub drained: bool,
}

/// What few sessions have, or only for a moment.
#[derive(Debug, Default)]
pub struct Rare {
    /// Timer of the will delay.
    pub will_timer: Option<Timer>,
    /// Timer that ends the wait of a SUBSCRIBE for other shards.
    pub barrier_timer: Option<Timer>,
    /// Shards to which it waits for room in the lane.
    pub lanes_waited: ShardSet,
    /// Notifications that its shared subscriptions are still to get. While it is set, the session
    /// is in the queue for the next turn.
    pub group_update: Option<Box<GroupUpdate>>,
    /// How long the packet in front waits for a PUBREL.
    pub release_wait: ReleaseWait,
    /// The will of a connection that has ended, until its delay is over.
    pub delayed_will: Option<Box<Will>>,
    /// The time at which its readers settle, monotonic milliseconds; `None` if no time is set.
    pub settles_ms: Option<u64>,
    /// A connection of another principal that waits to take over this session.
    pub pending_takeover: Option<ConnKey>,
    /// Number of the plugin, if this session is a request queue: it holds requests of that plugin
    /// on behalf of a client.
    pub request_queue: Option<u32>,
}

impl Empty for Rare {
    const EMPTY: &'static Rare = &Rare {
        will_timer: None,
        barrier_timer: None,
        lanes_waited: ShardSet::EMPTY,
        group_update: None,
        release_wait: ReleaseWait::NotTimed,
        delayed_will: None,
        settles_ms: None,
        pending_takeover: None,
        request_queue: None,
    };
}

impl Rare {
    /// Whether a session that has none of it would be the same.
    fn is_empty(&self) -> bool {
        // Named one by one, so that none is forgotten.
        let Rare {
            will_timer,
            barrier_timer,
            lanes_waited,
            group_update,
            release_wait,
            delayed_will,
            settles_ms,
            pending_takeover,
            request_queue,
        } = self;
        will_timer.is_none()
            && barrier_timer.is_none()
            && lanes_waited.is_empty()
            && group_update.is_none()
            && *release_wait == ReleaseWait::NotTimed
            && delayed_will.is_none()
            && settles_ms.is_none()
            && pending_takeover.is_none()
            && request_queue.is_none()
    }
}

/// One session on its home shard.
#[derive(Debug)]
pub struct Session {
    /// Its key.
    pub key: SessionKey,
    /// Identity of the client, as of the last CONNECT.
    pub identity: Rc<Identity>,
    /// The connection; `None` if there is none.
    pub conn: Option<ConnKey>,
    /// Session expiry interval in force, seconds; `u32::MAX` is never.
    pub expiry_s: u32,
    /// Created, milliseconds since 1970.
    pub created_wall_ms: u64,
    /// Connected or disconnected since, milliseconds since 1970.
    pub since_wall_ms: u64,
    /// Number of connects and disconnects so far.
    pub epoch: u32,
    /// Timer of the session expiry interval while there is no connection.
    pub expiry_timer: Option<Timer>,
    /// The end reason, if it is decided before the connection ends.
    pub end_reason: Option<EndReason>,
    /// The lifecycle state. A session with `LifecycleState::Ends` lives until its slots have
    /// drained.
    pub lifecycle: LifecycleState,
    /// Whether the session is detached: the client id leads to another session. This one drains its
    /// slots and is then removed.
    pub detached: bool,
    /// Whether it is in the queue of sessions that are being removed.
    pub in_teardown: bool,
    /// Parts of the session that can continue; for these it is in the run queue.
    pub ready: Ready,
    /// Whether one of its shared subscriptions was marked full on this shard. The mark is removed
    /// when the queue has drained.
    pub in_full_group: bool,
    /// Subscriptions by full filter.
    pub subscriptions: Subscriptions,
    /// Packets that were sent and are not acknowledged.
    pub inflight: Inflight,
    /// Messages that wait for the window or the connection.
    pub queue: Queue,
    /// Packet identifiers of received QoS 2 publishes that wait for PUBREL.
    pub(crate) awaiting_rel: OnDemand<BTreeSet<NonZeroU16>>,
    /// Received packets that wait for their turn.
    pub slots: Slots,
    /// The will of the connection, until it ends.
    pub will: Option<Box<Will>>,
    /// Retained messages that are still to be delivered; `None` if there are none.
    pub readers: Option<Box<Readers>>,
    /// Deliveries that are authorized one by one, if a plugin requests that.
    pub deliveries: Option<Box<crate::session::deliveries::Deliveries>>,
    /// Messages dropped for this session; the count stops at the maximum.
    pub dropped: u32,
    /// The pool of the shard in which its messages are counted.
    pub pool: Pool,
    /// What few sessions have.
    rare: OnDemand<Rare>,
}

impl Session {
    /// Creates a session without a connection. `window` is the maximum number of packets in flight.
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
            end_reason: None,
            lifecycle: LifecycleState::Stays,
            detached: false,
            in_teardown: false,
            ready: Ready::default(),
            in_full_group: false,
            subscriptions: Subscriptions::default(),
            inflight: Inflight::new(window),
            queue: Queue::default(),
            awaiting_rel: OnDemand::default(),
            slots: Slots::default(),
            will: None,
            readers: None,
            deliveries: None,
            dropped: 0,
            pool,
            rare: OnDemand::default(),
        }
    }

    /// What few sessions have.
    #[inline]
    pub fn rare(&self) -> &Rare {
        &self.rare
    }

    /// What few sessions have, to set something of it; allocates if this session has none of it.
    pub fn set_rare(&mut self) -> &mut Rare {
        self.rare.make()
    }

    /// Takes something out of what few sessions have. Frees its memory if nothing else is left.
    pub fn take_rare<T: Default>(&mut self, take: impl FnOnce(&mut Rare) -> T) -> T {
        let Some(rare) = self.rare.get_mut() else { return T::default() };
        let taken = take(rare);
        if rare.is_empty() {
            self.rare.release();
        }
        taken
    }

    /// Records a PUBLISH that is being sent with an identifier from [`Inflight::next_packet_id`].
    pub fn in_flight(&mut self, packet_id: NonZeroU16, delivery: Delivery) {
        self.pool.count(&delivery.message);
        self.inflight.publish(packet_id, delivery);
    }

    /// Number of received publishes that the broker has not acknowledged yet; they count against
    /// its Receive Maximum.
    pub fn unacknowledged_publishes(&self) -> usize {
        self.awaiting_rel.len() + self.slots.acknowledgements_owed()
    }

    /// Whether something can be sent to the client as soon as there is room.
    #[inline]
    pub fn has_outgoing(&self) -> bool {
        !self.queue.is_empty() || self.inflight.has_resends() || self.readers.is_some()
    }

    /// Whether the client may begin another QoS 2 exchange. Only MQTT 3 needs the limit: MQTT 5
    /// clients obey the Receive Maximum.
    pub fn may_await_release(&self, awaiting_rel_max: u64) -> bool {
        self.identity.version.is_v5()
            || self.rare.release_wait == ReleaseWait::Over
            || (self.awaiting_rel.len() as u64) < awaiting_rel_max
    }

    /// Ends the wait for a PUBREL. Returns the timer of the deadline, which no longer applies.
    pub fn end_release_wait(&mut self) -> Option<Timer> {
        self.take_rare(|rare| std::mem::take(&mut rare.release_wait).timer())
    }

    /// Whether the publish in front waits for a PUBREL of its client. False without a connection,
    /// because no PUBREL can come.
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

    /// Whether there is room for another connection while packets of the present one wait. The end
    /// of the present connection, with its will, takes a slot behind them.
    pub fn has_room_for_end(&self, slots_max: u64, bytes_max: u64) -> bool {
        let will_bytes = self.will.as_ref().map_or(0, |will| will.message.bytes());
        self.slots.is_empty()
            || (self.slots.len() as u64) < slots_max && (self.slots.bytes() + will_bytes) as u64 <= bytes_max
    }

    /// Drops the readers if they hold nothing.
    pub fn drop_empty_readers(&mut self) {
        if self.readers.as_ref().is_some_and(|readers| readers.is_empty()) {
            self.readers = None;
        }
    }

    /// The view of the session for hooks.
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

    /// Its timers: first those for its end, on the 1 s wheel, then those for waiting packets, on
    /// the 10 ms wheel.
    #[inline]
    pub(crate) fn timers(&self) -> ([Option<Timer>; 2], [Option<Timer>; 2]) {
        ([self.expiry_timer, self.rare.will_timer], [self.rare.barrier_timer, self.rare.release_wait.timer()])
    }

    /// Whether the session outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// Whether the session outlives its connection and has not been ended.
    pub fn outlives_connection(&self) -> bool {
        self.is_persistent() && self.lifecycle != LifecycleState::Ends
    }

    /// Whether the client can use the session: it is connected or can resume it.
    pub fn is_usable(&self) -> bool {
        self.outlives_connection() || self.conn.is_some() && self.lifecycle != LifecycleState::Ends
    }

    /// Puts a delivery at the end of the queue. Returns false and changes nothing if a limit is
    /// reached.
    pub fn enqueue(&mut self, delivery: Delivery, messages_max: u64, bytes_max: u64) -> bool {
        let room = self.has_queue_room(&delivery, messages_max, bytes_max);
        if room {
            if let (Some(readers), true) = (&mut self.readers, delivery.reader != 0) {
                readers.queued(delivery.reader);
            }
            self.pool.count(&delivery.message);
            self.queue.push(delivery);
        }
        room
    }

    /// Whether the queue has room for a delivery.
    pub fn has_queue_room(&self, delivery: &Delivery, messages_max: u64, bytes_max: u64) -> bool {
        (self.queue.len() as u64) < messages_max
            && (self.queue.bytes() + delivery.message.bytes()) as u64 <= bytes_max
    }

    /// Removes from the queue the deliveries for which `stays` returns false, and returns them.
    pub fn withdraw_queued(&mut self, mut stays: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let (kept, gone): (Vec<Delivery>, Vec<Delivery>) =
            self.queue.take().into_iter().partition(|delivery| stays(delivery));
        kept.into_iter().for_each(|delivery| self.queue.push(delivery));
        for delivery in &gone {
            if let (Some(readers), true) = (&mut self.readers, delivery.reader != 0) {
                readers.dequeued(delivery.reader);
            }
        }
        gone
    }

    /// Bytes of its parts that have memory, without what is in them.
    pub(crate) fn parts_bytes(&self) -> usize {
        self.queue.part_bytes()
            + self.inflight.part_bytes()
            + self.slots.part_bytes()
            + self.awaiting_rel.memory()
            + self.rare.memory()
    }

    /// Whether a received packet or a delivery waits for a plugin, a lane or another shard.
    pub fn is_busy(&self) -> bool {
        !self.slots.is_empty() || self.deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_empty())
    }

    /// Takes the first delivery of the queue. Skips a retained message whose subscription has
    /// ended.
    pub fn dequeue(&mut self) -> Option<Delivery> {
        loop {
            let delivery = self.queue.pop()?;
            let reader = delivery.reader;
            if reader == 0 || self.readers.as_mut().is_some_and(|readers| readers.dequeued(reader)) {
                return Some(delivery);
            }
        }
    }
}
