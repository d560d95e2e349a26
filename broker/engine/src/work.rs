//! Work that one turn does not finish, and who waits for what of it: fan-outs, scans, sessions that end, lanes, the barrier.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use crate::held::Held;
use crate::id::{ConnKey, SessionKey, ShardId};
use crate::route::Matched;
use crate::run_queue::{LaneWaiters, RunQueue};
use crate::session::readers::PageAsk;

/// A message on its way to more sessions than one turn serves.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) message: Held,
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
    pub(crate) asker: ShardId,
    pub(crate) session: SessionKey,
    pub(crate) ask: PageAsk,
}

/// What a shard has begun and not finished.
#[derive(Debug)]
pub(crate) struct Work {
    /// Deliveries of messages with more recipients than a turn takes, in order.
    pub(crate) fanouts: VecDeque<FanOut>,
    /// Sessions whose subscriptions are being taken down, a slice at a time.
    pub(crate) ending: VecDeque<SessionKey>,
    /// Sessions that may go on.
    pub(crate) run: RunQueue,
    /// Sessions whose publish in front waits for a lane.
    pub(crate) lanes: LaneWaiters,
    /// Sessions whose SUBACK waits for the other shards, by the number of the change that these must acknowledge.
    pub(crate) barrier_waiters: BTreeSet<(u64, SessionKey)>,
    /// Sessions whose SUBSCRIBE or UNSUBSCRIBE goes on in the next turn.
    pub(crate) subscribing: VecDeque<SessionKey>,
    /// Units of work that this turn may still do for them, and for retained messages.
    pub(crate) turn_left: u64,
    /// Retained publishes that their owner is storing: which slot waits.
    pub(crate) stores: HashMap<u64, (SessionKey, u64), ahash::RandomState>,
    pub(crate) next_store: u64,
    /// The last number of a batch, reader or page of retained messages.
    pub(crate) next_reader: u64,
    /// Connections whose CONNECT goes on with the session of another principal, or with its authorization, in the next turn.
    pub(crate) heirs: VecDeque<ConnKey>,
    /// Until when nobody is told again that the retained store is full, monotonic milliseconds.
    pub(crate) full_noted_until_ms: u64,
    /// Pages of retained messages to be looked for.
    pub(crate) scans: VecDeque<Scan>,
    /// Sessions whose readers settle, with the time of the first of their batches, monotonic milliseconds: one entry for each.
    pub(crate) settling: BTreeSet<(u64, SessionKey)>,
    /// Whether the clock looks after them.
    pub(crate) settling_watched: bool,
}

impl Work {
    pub(crate) fn new(shards: usize, turn_left: u64, hasher: &ahash::RandomState) -> Work {
        Work {
            fanouts: VecDeque::new(),
            ending: VecDeque::new(),
            run: RunQueue::default(),
            lanes: LaneWaiters::new(shards),
            barrier_waiters: BTreeSet::new(),
            subscribing: VecDeque::new(),
            turn_left,
            stores: HashMap::with_hasher(hasher.clone()),
            next_store: 1,
            next_reader: 0,
            full_noted_until_ms: 0,
            heirs: VecDeque::new(),
            scans: VecDeque::new(),
            settling: BTreeSet::new(),
            settling_watched: false,
        }
    }
}
