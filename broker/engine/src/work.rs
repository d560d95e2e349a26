//! Work that one turn does not finish, and who waits for what of it: fan-outs, scans, sessions that end, lanes, the barrier.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use crate::id::{ConnKey, SessionKey, ShardId};
use crate::log_rate::LogRate;
use crate::route::Matched;
use crate::run_queue::{LaneWaiters, RunQueue};
use crate::session::readers::{PageFor, PageRequest};
use crate::shared_message::SharedMessage;
use crate::timer::Timer;

/// A message on its way to more sessions than one turn serves.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) message: SharedMessage,
    /// See [`MessageView::stored`](crate::message::MessageView::stored).
    pub(crate) stored: u64,
    pub(crate) matched: Rc<Matched>,
    /// The next target.
    pub(crate) next: usize,
}

/// A page of this shard's own store that is to be looked through.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Who asks.
    pub(crate) requester: ShardId,
    pub(crate) whose: PageFor,
    pub(crate) request: PageRequest,
}

/// Sessions whose readers settle, with the time of the first of their batches, monotonic milliseconds: one entry for each.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    sessions: BTreeSet<(u64, SessionKey)>,
    /// When the clock looks after them.
    watch: Option<Timer>,
}

/// What a shard has begun and not finished.
#[derive(Debug)]
pub(crate) struct Work {
    /// Deliveries of messages with more recipients than a turn takes, in order.
    fanouts: VecDeque<FanOut>,
    /// Sessions whose subscriptions are being taken down, a slice at a time.
    ending: VecDeque<SessionKey>,
    /// Sessions whose shared subscriptions are being told, a slice at a time, that their clients have come or gone.
    telling: VecDeque<SessionKey>,
    /// Sessions that may go on.
    run: RunQueue,
    /// Sessions whose publish in front waits for a lane.
    lanes: LaneWaiters,
    /// Sessions whose SUBACK waits for the other shards, by the number of the change that these must acknowledge.
    barrier_waiters: BTreeSet<(u64, SessionKey)>,
    /// Sessions whose SUBSCRIBE or UNSUBSCRIBE goes on in the next turn.
    subscribing: VecDeque<SessionKey>,
    /// Units of work that this turn may still do for them, and for retained messages.
    turn_left: u64,
    /// Retained publishes that their owner is storing: which slot waits.
    stores: HashMap<u64, (SessionKey, u64), ahash::RandomState>,
    next_store: u64,
    /// The last number of a batch, reader or page of retained messages.
    last_reader: u64,
    /// Connections whose CONNECT goes on with the session of another principal, or with its authorization, in the next turn.
    heirs: VecDeque<ConnKey>,
    /// Of the line about a full retained store.
    full_notes: LogRate,
    /// Pages of retained messages to be looked for.
    scans: VecDeque<Scan>,
    settling: Settling,
    /// Connections that are not read because there is too much to do for what they have sent.
    unread: Vec<ConnKey>,
}

/// Fan-outs under way from which on clients of the shard are not read.
const FANOUTS_MAX: usize = 16;

impl Work {
    pub(crate) fn new(shards: usize, turn_left: u64, hasher: &ahash::RandomState) -> Work {
        Work {
            fanouts: VecDeque::new(),
            ending: VecDeque::new(),
            telling: VecDeque::new(),
            run: RunQueue::default(),
            lanes: LaneWaiters::new(shards),
            barrier_waiters: BTreeSet::new(),
            subscribing: VecDeque::new(),
            turn_left,
            stores: HashMap::with_hasher(hasher.clone()),
            next_store: 1,
            last_reader: 0,
            full_notes: LogRate::default(),
            heirs: VecDeque::new(),
            scans: VecDeque::new(),
            settling: Settling::default(),
            unread: Vec::new(),
        }
    }

    /// A connection is not read until a turn has done its part. The caller sees to it that it is here once.
    pub(crate) fn push_unread(&mut self, conn: ConnKey) {
        self.unread.push(conn);
    }

    /// Those connections; none is left.
    pub(crate) fn take_unread(&mut self) -> Vec<ConnKey> {
        std::mem::take(&mut self.unread)
    }

    /// Whether so many fan-outs are under way that nothing more is read.
    #[inline]
    pub(crate) fn has_many_fanouts(&self) -> bool {
        self.fanouts.len() >= FANOUTS_MAX
    }

    /// Messages of the fan-outs that are under way.
    pub(crate) fn fanout_messages(&self) -> impl Iterator<Item = &SharedMessage> {
        self.fanouts.iter().map(|fanout| &fanout.message)
    }

    /// Sessions that may go on, and what is left of this step for them.
    #[inline]
    pub(crate) fn run(&mut self) -> &mut RunQueue {
        &mut self.run
    }

    /// Sessions whose publish in front waits for a lane.
    #[inline]
    pub(crate) fn lanes(&mut self) -> &mut LaneWaiters {
        &mut self.lanes
    }

    /// Sessions whose readers settle.
    pub(crate) fn settling(&mut self) -> &mut Settling {
        &mut self.settling
    }

    /// Whether some session may go on at this moment.
    #[inline]
    pub(crate) fn has_ready(&self) -> bool {
        !self.run.is_empty() || self.lanes.has_open()
    }

    /// Whether others wait for a lane before this session.
    #[inline]
    pub(crate) fn are_before(&self, session: SessionKey, lane: ShardId) -> bool {
        self.lanes.are_before(session, lane)
    }

    /// Whether the next turn has something to go on with, beside sessions that are ready, replays and rechecks.
    pub(crate) fn is_left(&self) -> bool {
        !self.fanouts.is_empty()
            || !self.scans.is_empty()
            || !self.subscribing.is_empty()
            || !self.ending.is_empty()
            || !self.telling.is_empty()
            || !self.heirs.is_empty()
            || !self.unread.is_empty()
    }

    // --- the budget of a turn

    /// A turn begins, with so many units for packets with filters and for retained messages.
    pub(crate) fn begin_turn(&mut self, units: u64) {
        self.turn_left = units;
    }

    /// The turn gets more.
    pub(crate) fn add_to_turn(&mut self, units: u64) {
        self.turn_left += units;
    }

    /// Takes from what is left of the turn.
    #[inline]
    pub(crate) fn spend_turn(&mut self, units: u64) {
        self.turn_left = self.turn_left.saturating_sub(units);
    }

    /// Whether nothing is left of the turn.
    #[inline]
    pub(crate) fn is_turn_spent(&self) -> bool {
        self.turn_left == 0
    }

    // --- deliveries of large fan-outs

    /// Whether some fan-out is under way: what comes later goes behind it.
    #[inline]
    pub(crate) fn has_fanouts(&self) -> bool {
        !self.fanouts.is_empty()
    }

    /// A fan-out begins behind those that are under way.
    pub(crate) fn push_fanout(&mut self, fanout: FanOut) {
        self.fanouts.push_back(fanout);
    }

    /// The fan-out that is in front. What a slice leaves of it is [put back](Work::put_back_fanout).
    pub(crate) fn pop_fanout(&mut self) -> Option<FanOut> {
        self.fanouts.pop_front()
    }

    /// A fan-out has more recipients than a slice: it goes on before the others.
    pub(crate) fn put_back_fanout(&mut self, fanout: FanOut) {
        self.fanouts.push_front(fanout);
    }

    // --- sessions that end

    /// A session is taken down from the next turn on. The caller sees to it that it is here once.
    pub(crate) fn push_ending(&mut self, session: SessionKey) {
        self.ending.push_back(session);
    }

    /// The session that is taken down next. One with more than a slice is [put back](Work::put_back_ending).
    pub(crate) fn pop_ending(&mut self) -> Option<SessionKey> {
        self.ending.pop_front()
    }

    /// A session has more subscriptions than a slice: it goes on before the others.
    pub(crate) fn put_back_ending(&mut self, session: SessionKey) {
        self.ending.push_front(session);
    }

    // --- sessions with many shared subscriptions

    /// More shared subscriptions of a session are to be told. The caller sees to it that it is here once.
    pub(crate) fn push_telling(&mut self, session: SessionKey) {
        self.telling.push_back(session);
    }

    /// The session that goes on with that next.
    pub(crate) fn pop_telling(&mut self) -> Option<SessionKey> {
        self.telling.pop_front()
    }

    // --- packets with filters

    /// The SUBSCRIBE or UNSUBSCRIBE of a session goes on in the next turn. The caller sees to it that it is here once.
    pub(crate) fn push_subscribing(&mut self, session: SessionKey) {
        self.subscribing.push_back(session);
    }

    /// How many such packets wait for their turn.
    pub(crate) fn subscribing_len(&self) -> usize {
        self.subscribing.len()
    }

    /// The session whose packet with filters goes on next.
    pub(crate) fn pop_subscribing(&mut self) -> Option<SessionKey> {
        self.subscribing.pop_front()
    }

    /// The SUBACK of a session waits until the other shards have acknowledged change `seq`.
    pub(crate) fn await_barrier(&mut self, seq: u64, session: SessionKey) {
        self.barrier_waiters.insert((seq, session));
    }

    /// A SUBACK waits no longer for change `seq`.
    pub(crate) fn forget_barrier(&mut self, seq: u64, session: SessionKey) {
        self.barrier_waiters.remove(&(seq, session));
    }

    /// The next session whose SUBACK waits for a change that all shards have acknowledged: `barrier` or an earlier one.
    pub(crate) fn pop_past_barrier(&mut self, barrier: u64) -> Option<SessionKey> {
        let (seq, _) = *self.barrier_waiters.first()?;
        if seq > barrier {
            return None;
        }
        self.barrier_waiters.pop_first().map(|(_, session)| session)
    }

    // --- CONNECT for the session of another principal

    /// A CONNECT goes on in the next turn. The caller sees to it that it is here once.
    pub(crate) fn push_heir(&mut self, conn: ConnKey) {
        self.heirs.push_back(conn);
    }

    /// The CONNECT that goes on next.
    pub(crate) fn pop_heir(&mut self) -> Option<ConnKey> {
        self.heirs.pop_front()
    }

    // --- retained messages

    /// Another shard is asked to store the message of a slot: the number of the request.
    #[inline]
    pub(crate) fn begin_store(&mut self, session: SessionKey, slot: u64) -> u64 {
        let id = self.next_store;
        self.next_store += 1;
        self.stores.insert(id, (session, slot));
        id
    }

    /// The owner has answered: session and slot that wait for it.
    pub(crate) fn end_store(&mut self, id: u64) -> Option<(SessionKey, u64)> {
        self.stores.remove(&id)
    }

    /// A number for a batch, a reader or a page of retained messages.
    #[inline]
    pub(crate) fn next_reader(&mut self) -> u64 {
        self.last_reader += 1;
        self.last_reader
    }

    /// Whether the shell is to hear at this time, monotonic milliseconds, that the retained store is full: once in a while.
    pub(crate) fn begin_full_note(&mut self, now_ms: u64) -> bool {
        self.full_notes.say(now_ms).is_some()
    }

    /// A page is to be looked through.
    pub(crate) fn push_scan(&mut self, scan: Scan) {
        self.scans.push_back(scan);
    }

    /// How many pages are to be looked through.
    pub(crate) fn scans_len(&self) -> usize {
        self.scans.len()
    }

    /// The page that is looked through next.
    pub(crate) fn pop_scan(&mut self) -> Option<Scan> {
        self.scans.pop_front()
    }
}

impl Settling {
    /// A session has something to settle at that time. The caller sees to it that it is here once.
    pub(crate) fn insert(&mut self, due_ms: u64, session: SessionKey) {
        self.sessions.insert((due_ms, session));
    }

    /// A session has nothing to settle any more. Where no other has, the clock need not look: its timer.
    pub(crate) fn remove(&mut self, due_ms: u64, session: SessionKey) -> Option<Timer> {
        self.sessions.remove(&(due_ms, session));
        if self.sessions.is_empty() { self.watch.take() } else { None }
    }

    /// The next session with something to settle by now.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<SessionKey> {
        let (due_ms, _) = *self.sessions.first()?;
        if due_ms > now_ms {
            return None;
        }
        self.sessions.pop_first().map(|(_, session)| session)
    }

    /// When the first of those that are left is due.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.sessions.first().map(|(due_ms, _)| *due_ms)
    }

    /// The timer with which the clock looks after them.
    pub(crate) fn timer(&self) -> Option<Timer> {
        self.watch
    }

    /// Whether the clock will look after them.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// This has the clock look after them.
    pub(crate) fn begin_watch(&mut self, timer: Timer) {
        self.watch = Some(timer);
    }

    /// The clock has looked after them.
    pub(crate) fn end_watch(&mut self) {
        self.watch = None;
    }
}
