//! Work that one turn does not finish, and who waits for it: fan-outs, scans, sessions that end,
//! lanes, the barrier.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use crate::id::{ConnKey, SessionKey, ShardId};
use crate::log_rate::LogRate;
use crate::route::Matched;
use crate::run_queue::{LaneWaiters, RunQueue};
use crate::session::readers::{PageReceiver, PageRequest};
use crate::shared_message::SharedMessage;
use crate::timer::Timer;

/// A message for more sessions than one turn serves.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) message: SharedMessage,
    /// See [`MessageView::stored`](crate::message::MessageView::stored).
    pub(crate) stored: u64,
    pub(crate) matched: Rc<Matched>,
    /// The next target.
    pub(crate) next: usize,
}

/// A page of retained messages of this shard that is still to be read.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The shard that requested the page.
    pub(crate) requester: ShardId,
    pub(crate) receiver: PageReceiver,
    pub(crate) request: PageRequest,
}

/// Sessions whose readers settle: one entry for each, with the time of its first batch in monotonic
/// milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    sessions: BTreeSet<(u64, SessionKey)>,
    /// The timer of the first entry.
    watch: Option<Timer>,
}

/// Work that a shard has begun and not finished.
#[derive(Debug)]
pub(crate) struct Work {
    /// Fan-outs with more recipients than a turn serves, in order.
    fanouts: VecDeque<FanOut>,
    /// Sessions that are taken down, a slice of their subscriptions at a time.
    ending: VecDeque<SessionKey>,
    /// Sessions whose clients have connected or disconnected and whose shared subscriptions are
    /// still to be updated, a slice at a time.
    group_update: VecDeque<SessionKey>,
    /// Sessions that are ready to go on.
    run: RunQueue,
    /// Sessions whose front publish waits for a lane.
    lanes: LaneWaiters,
    /// Sessions whose SUBACK waits for the other shards, by the number of the change that they must
    /// acknowledge.
    barrier_waiters: BTreeSet<(u64, SessionKey)>,
    /// Sessions whose SUBSCRIBE or UNSUBSCRIBE goes on in the next turn.
    subscribing: VecDeque<SessionKey>,
    /// Units of work that are left in this turn for packets with filters and for retained messages.
    turn_left: u64,
    /// Retained publishes whose owner has not answered yet: the slot that waits, by request number.
    stores: HashMap<u64, (SessionKey, u64), ahash::RandomState>,
    next_store: u64,
    /// The last number given to a batch, reader or page of retained messages.
    last_reader: u64,
    /// Connections whose CONNECT takes over the session of another principal and goes on in the
    /// next turn.
    pending_takeovers: VecDeque<ConnKey>,
    /// Limits how often a full retained store is logged.
    full_notes: LogRate,
    /// Pages of retained messages that are still to be read.
    scans: VecDeque<Scan>,
    settling: Settling,
    /// Connections that are not read while there are too many fan-outs.
    unread: Vec<ConnKey>,
}

/// With this many fan-outs under way, the shard stops reading its clients.
const FANOUTS_MAX: usize = 16;

impl Work {
    pub(crate) fn new(shards: usize, turn_left: u64, hasher: &ahash::RandomState) -> Work {
        Work {
            fanouts: VecDeque::new(),
            ending: VecDeque::new(),
            group_update: VecDeque::new(),
            run: RunQueue::default(),
            lanes: LaneWaiters::new(shards),
            barrier_waiters: BTreeSet::new(),
            subscribing: VecDeque::new(),
            turn_left,
            stores: HashMap::with_hasher(hasher.clone()),
            next_store: 1,
            last_reader: 0,
            full_notes: LogRate::default(),
            pending_takeovers: VecDeque::new(),
            scans: VecDeque::new(),
            settling: Settling::default(),
            unread: Vec::new(),
        }
    }

    /// Notes a connection that is not read until the next turn. The caller adds each connection
    /// only once.
    pub(crate) fn push_unread(&mut self, conn: ConnKey) {
        self.unread.push(conn);
    }

    /// Removes and returns these connections.
    pub(crate) fn take_unread(&mut self) -> Vec<ConnKey> {
        std::mem::take(&mut self.unread)
    }

    /// Whether too many fan-outs are under way to read more packets.
    #[inline]
    pub(crate) fn has_many_fanouts(&self) -> bool {
        self.fanouts.len() >= FANOUTS_MAX
    }

    /// Messages of the fan-outs under way.
    pub(crate) fn fanout_messages(&self) -> impl Iterator<Item = &SharedMessage> {
        self.fanouts.iter().map(|fanout| &fanout.message)
    }

    /// Sessions that are ready to go on, with the remaining budget of this step.
    #[inline]
    pub(crate) fn run(&mut self) -> &mut RunQueue {
        &mut self.run
    }

    /// Sessions whose front publish waits for a lane.
    #[inline]
    pub(crate) fn lanes(&mut self) -> &mut LaneWaiters {
        &mut self.lanes
    }

    /// Sessions whose readers settle.
    pub(crate) fn settling(&mut self) -> &mut Settling {
        &mut self.settling
    }

    /// Whether a session is ready to go on.
    #[inline]
    pub(crate) fn has_ready(&self) -> bool {
        !self.run.is_empty() || self.lanes.has_open()
    }

    /// Whether other sessions wait for this lane ahead of this session.
    #[inline]
    pub(crate) fn are_before(&self, session: SessionKey, lane: ShardId) -> bool {
        self.lanes.are_before(session, lane)
    }

    /// Whether the next turn has work left, besides ready sessions, replays and rechecks.
    pub(crate) fn is_left(&self) -> bool {
        !self.fanouts.is_empty()
            || !self.scans.is_empty()
            || !self.subscribing.is_empty()
            || !self.ending.is_empty()
            || !self.group_update.is_empty()
            || !self.pending_takeovers.is_empty()
            || !self.unread.is_empty()
    }

    // --- the budget of a turn

    /// Begins a turn with a budget of `units` for packets with filters and for retained messages.
    pub(crate) fn begin_turn(&mut self, units: u64) {
        self.turn_left = units;
    }

    /// Adds to the budget of the turn.
    pub(crate) fn add_to_turn(&mut self, units: u64) {
        self.turn_left += units;
    }

    /// Takes from the budget of the turn.
    #[inline]
    pub(crate) fn charge_turn(&mut self, units: u64) {
        self.turn_left = self.turn_left.saturating_sub(units);
    }

    /// Whether the budget of the turn is used up.
    #[inline]
    pub(crate) fn is_turn_spent(&self) -> bool {
        self.turn_left == 0
    }

    // --- deliveries of large fan-outs

    /// Whether a fan-out is under way. Later messages must queue behind it.
    #[inline]
    pub(crate) fn has_fanouts(&self) -> bool {
        !self.fanouts.is_empty()
    }

    /// Adds a fan-out behind those under way.
    pub(crate) fn push_fanout(&mut self, fanout: FanOut) {
        self.fanouts.push_back(fanout);
    }

    /// Removes the first fan-out. The caller [puts back](Work::put_back_fanout) what is left after
    /// a slice.
    pub(crate) fn pop_fanout(&mut self) -> Option<FanOut> {
        self.fanouts.pop_front()
    }

    /// Puts a fan-out back in front: it has more recipients than one slice.
    pub(crate) fn put_back_fanout(&mut self, fanout: FanOut) {
        self.fanouts.push_front(fanout);
    }

    // --- sessions that end

    /// Has a session taken down from the next turn on. The caller adds each session only once.
    pub(crate) fn push_ending(&mut self, session: SessionKey) {
        self.ending.push_back(session);
    }

    /// Removes the next session to take down. The caller [puts back](Work::put_back_ending) one
    /// with more than a slice.
    pub(crate) fn pop_ending(&mut self) -> Option<SessionKey> {
        self.ending.pop_front()
    }

    /// Puts a session back in front: it has more subscriptions than one slice.
    pub(crate) fn put_back_ending(&mut self, session: SessionKey) {
        self.ending.push_front(session);
    }

    // --- sessions with many shared subscriptions

    /// Notes that more shared subscriptions of a session are to be updated. The caller adds each
    /// session only once.
    pub(crate) fn push_group_update(&mut self, session: SessionKey) {
        self.group_update.push_back(session);
    }

    /// Removes the next session whose shared subscriptions are updated.
    pub(crate) fn pop_group_update(&mut self) -> Option<SessionKey> {
        self.group_update.pop_front()
    }

    // --- packets with filters

    /// Has the SUBSCRIBE or UNSUBSCRIBE of a session go on in the next turn. The caller adds each
    /// session only once.
    pub(crate) fn push_subscribing(&mut self, session: SessionKey) {
        self.subscribing.push_back(session);
    }

    /// Number of such packets that wait for their turn.
    pub(crate) fn subscribing_len(&self) -> usize {
        self.subscribing.len()
    }

    /// Removes the next session whose packet with filters goes on.
    pub(crate) fn pop_subscribing(&mut self) -> Option<SessionKey> {
        self.subscribing.pop_front()
    }

    /// Has the SUBACK of a session wait until the other shards have acknowledged change `seq`.
    pub(crate) fn await_barrier(&mut self, seq: u64, session: SessionKey) {
        self.barrier_waiters.insert((seq, session));
    }

    /// Removes a SUBACK that waits for change `seq`.
    pub(crate) fn forget_barrier(&mut self, seq: u64, session: SessionKey) {
        self.barrier_waiters.remove(&(seq, session));
    }

    /// Removes the next session whose SUBACK waits for change `barrier` or an earlier one.
    pub(crate) fn pop_before_barrier(&mut self, barrier: u64) -> Option<SessionKey> {
        let (seq, _) = *self.barrier_waiters.first()?;
        if seq > barrier {
            return None;
        }
        self.barrier_waiters.pop_first().map(|(_, session)| session)
    }

    // --- CONNECT for the session of another principal

    /// Has a CONNECT go on in the next turn. The caller adds each connection only once.
    pub(crate) fn push_takeover(&mut self, conn: ConnKey) {
        self.pending_takeovers.push_back(conn);
    }

    /// Removes the next CONNECT that goes on.
    pub(crate) fn pop_takeover(&mut self) -> Option<ConnKey> {
        self.pending_takeovers.pop_front()
    }

    // --- retained messages

    /// Notes that another shard is requested to store the message of a slot. Returns the number of
    /// the request.
    #[inline]
    pub(crate) fn begin_store(&mut self, session: SessionKey, slot: u64) -> u64 {
        let id = self.next_store;
        self.next_store += 1;
        self.stores.insert(id, (session, slot));
        id
    }

    /// Takes the session and slot that wait for request `id`, which the owner has answered.
    pub(crate) fn end_store(&mut self, id: u64) -> Option<(SessionKey, u64)> {
        self.stores.remove(&id)
    }

    /// Returns a new number for a batch, a reader or a page of retained messages.
    #[inline]
    pub(crate) fn next_reader(&mut self) -> u64 {
        self.last_reader += 1;
        self.last_reader
    }

    /// Whether to log now (monotonic milliseconds) that the retained store is full. The rate is
    /// limited.
    pub(crate) fn begin_full_note(&mut self, now_ms: u64) -> bool {
        self.full_notes.record(now_ms).is_some()
    }

    /// Adds a page to read.
    pub(crate) fn push_scan(&mut self, scan: Scan) {
        self.scans.push_back(scan);
    }

    /// Number of pages to read.
    pub(crate) fn scans_len(&self) -> usize {
        self.scans.len()
    }

    /// Removes the next page to read.
    pub(crate) fn pop_scan(&mut self) -> Option<Scan> {
        self.scans.pop_front()
    }
}

impl Settling {
    /// Adds a session that has something to settle at `due_ms`. The caller adds each session only
    /// once.
    pub(crate) fn insert(&mut self, due_ms: u64, session: SessionKey) {
        self.sessions.insert((due_ms, session));
    }

    /// Removes a session. When none is left, returns the timer, which the caller cancels.
    pub(crate) fn remove(&mut self, due_ms: u64, session: SessionKey) -> Option<Timer> {
        self.sessions.remove(&(due_ms, session));
        if self.sessions.is_empty() { self.watch.take() } else { None }
    }

    /// Removes the next session that is due.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<SessionKey> {
        let (due_ms, _) = *self.sessions.first()?;
        if due_ms > now_ms {
            return None;
        }
        self.sessions.pop_first().map(|(_, session)| session)
    }

    /// When the first of the remaining sessions is due, in monotonic milliseconds.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.sessions.first().map(|(due_ms, _)| *due_ms)
    }

    /// The timer of the first session.
    pub(crate) fn timer(&self) -> Option<Timer> {
        self.watch
    }

    /// Whether the timer is armed.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Stores the armed timer.
    pub(crate) fn begin_watch(&mut self, timer: Timer) {
        self.watch = Some(timer);
    }

    /// Forgets the timer, which has expired.
    pub(crate) fn end_watch(&mut self) {
        self.watch = None;
    }
}
