//! The lanes between shards. Each ordered pair of shards has a control lane, which never refuses,
//! and a data lane, which is limited in batches and bytes. Each shard's turn puts batches in and
//! takes them out; nothing here waits. A receiver always empties the control lane; it leaves
//! messages in the data lane while it has many deliveries to make.
//!
//! Generic in the items, because only the engine can make its envelopes, and the lanes are tested
//! without the engine.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::{ArrayQueue, SegQueue};
use crossbeam::utils::CachePadded;
use grapnel_engine::id::{ShardId, ShardSet};

use super::handle::ShardHandle;
use super::limits::ShellLimits;

/// Maximum number of envelopes in a batch.
pub(crate) const BATCH_ENVELOPES: usize = 64;

/// Number of empty vectors that a pair stores for its next batches. One is enough: the number of
/// pairs is the square of the number of shards, and a new vector costs one allocation for up to 64
/// envelopes.
const SPARES: usize = 1;

/// An item of a control lane: the engine's envelopes, or an item `C` of the shell, in one order.
#[derive(Debug)]
pub(crate) enum Control<T, C> {
    /// Envelopes of the engine.
    Batch(Vec<T>),
    /// An item of the shell.
    Own(C),
}

/// Messages with their size.
#[derive(Debug)]
pub(crate) struct DataBatch<T> {
    /// The envelopes.
    pub envelopes: Vec<T>,
    /// Their size in bytes, as the engine counts them.
    pub bytes: usize,
}

/// The room that a data lane has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    /// Batches.
    pub batches: usize,
    /// Bytes; the last batch may exceed them.
    pub bytes: usize,
}

/// The lanes from one shard to another.
struct Pair<T, C> {
    control: SegQueue<Control<T, C>>,
    data: SegQueue<DataBatch<T>>,
    batches: AtomicUsize,
    bytes: AtomicUsize,
    /// The sender has a batch for this lane and found no room.
    starved: AtomicBool,
    spares: ArrayQueue<Vec<T>>,
}

impl<T, C> Pair<T, C> {
    fn new() -> Pair<T, C> {
        Pair {
            control: SegQueue::new(),
            data: SegQueue::new(),
            batches: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
            spares: ArrayQueue::new(SPARES),
        }
    }
}

/// All lanes of a broker.
pub(crate) struct Mesh<T, C> {
    shards: usize,
    batches_max: usize,
    bytes_max: usize,
    pairs: Box<[Pair<T, C>]>,
    /// For each shard: the shards from which something has arrived since it last checked.
    arrived: Box<[CachePadded<AtomicU64>]>,
    handles: Box<[ShardHandle]>,
}

impl<T, C> Mesh<T, C> {
    /// Makes empty lanes between these shards.
    pub fn new(handles: &[ShardHandle], limits: &ShellLimits) -> Mesh<T, C> {
        let shards = handles.len();
        Mesh {
            shards,
            batches_max: limits.lane_batches_max as usize,
            bytes_max: limits.lane_transit_bytes_max as usize,
            pairs: (0..shards * shards).map(|_| Pair::new()).collect(),
            arrived: (0..shards).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
            handles: handles.into(),
        }
    }

    fn pair(&self, from: ShardId, to: ShardId) -> &Pair<T, C> {
        &self.pairs[from.index() * self.shards + to.index()]
    }

    /// An empty vector for the next batch.
    pub fn spare(&self, from: ShardId, to: ShardId) -> Vec<T> {
        self.pair(from, to).spares.pop().unwrap_or_else(|| Vec::with_capacity(BATCH_ENVELOPES))
    }

    /// Puts an item into the control lane. [`Mesh::announce`] then wakes the receiver.
    pub fn send_control(&self, from: ShardId, to: ShardId, item: Control<T, C>) {
        self.pair(from, to).control.push(item);
    }

    /// The room of a data lane. If there is none, the sender is woken when there is room again.
    pub fn room(&self, from: ShardId, to: ShardId) -> Option<Room> {
        let room = self.room_now(from, to);
        if room.is_some() {
            return room;
        }
        // Checks again after the flag is set: a receiver that made room in between has not seen the
        // flag.
        self.pair(from, to).starved.store(true, Ordering::SeqCst);
        self.room_now(from, to)
    }

    fn room_now(&self, from: ShardId, to: ShardId) -> Option<Room> {
        let pair = self.pair(from, to);
        let batches = self.batches_max.checked_sub(pair.batches.load(Ordering::SeqCst))?;
        let bytes = self.bytes_max.checked_sub(pair.bytes.load(Ordering::SeqCst))?;
        (batches > 0 && bytes > 0).then_some(Room { batches, bytes })
    }

    /// Puts a batch into the data lane, after [`Mesh::room`] was checked. [`Mesh::announce`] then
    /// wakes the receiver.
    pub fn send_data(&self, from: ShardId, to: ShardId, batch: DataBatch<T>) {
        let pair = self.pair(from, to);
        pair.batches.fetch_add(1, Ordering::SeqCst);
        pair.bytes.fetch_add(batch.bytes, Ordering::SeqCst);
        pair.data.push(batch);
    }

    /// Wakes the receivers of items, each once.
    pub fn announce(&self, from: ShardId, to: ShardSet) {
        for shard in to.iter() {
            self.arrived[shard.index()].fetch_or(1 << from.0, Ordering::AcqRel);
            self.handles[shard.index()].wake();
        }
    }

    /// Takes the set of shards from which something has arrived. A caller that does not take all
    /// items must call [`Mesh::not_done`].
    pub fn arrivals(&self, to: ShardId) -> ShardSet {
        ShardSet(self.arrived[to.index()].swap(0, Ordering::AcqRel))
    }

    /// The receiver has left items of these shards for its next turn.
    pub fn not_done(&self, to: ShardId, from: ShardSet) {
        self.arrived[to.index()].fetch_or(from.0, Ordering::AcqRel);
    }

    /// The oldest item of the control lane.
    pub fn next_control(&self, from: ShardId, to: ShardId) -> Option<Control<T, C>> {
        self.pair(from, to).control.pop()
    }

    /// The oldest batch of the data lane. Call [`Mesh::taken`] when its messages are queued, to
    /// release its room.
    pub fn next_data(&self, from: ShardId, to: ShardId) -> Option<DataBatch<T>> {
        self.pair(from, to).data.pop()
    }

    /// Releases the room of a batch. A sender that waits for room is woken when the lane is at most
    /// half full.
    pub fn taken(&self, from: ShardId, to: ShardId, bytes: usize) {
        let pair = self.pair(from, to);
        let bytes = pair.bytes.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let batches = pair.batches.fetch_sub(1, Ordering::SeqCst) - 1;
        let low = batches <= self.batches_max / 2 && bytes <= self.bytes_max / 2;
        if low && pair.starved.swap(false, Ordering::SeqCst) {
            self.handles[from.index()].wake();
        }
    }

    /// Returns an emptied vector to its sender.
    pub fn recycle(&self, from: ShardId, to: ShardId, spent: Vec<T>) {
        debug_assert!(spent.is_empty(), "a batch goes back with envelopes in it");
        // Fails if the pair has a spare vector already; this one is then freed.
        let _ = self.pair(from, to).spares.push(spent);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Bench {
        mesh: Mesh<u32, &'static str>,
        handles: Vec<ShardHandle>,
        wakes: Vec<Arc<Wakes>>,
    }

    fn bench(batches: u64, bytes: u64) -> Bench {
        let limits = ShellLimits {
            lane_batches_max: batches,
            lane_transit_bytes_max: bytes,
            ..ShellLimits::default()
        };
        let handles: Vec<ShardHandle> = [A, B].map(ShardHandle::new).into();
        let wakes: Vec<Arc<Wakes>> = handles.iter().map(|_| Arc::default()).collect();
        for (handle, wakes) in handles.iter().zip(&wakes) {
            handle.signal().register(Waker::from(Arc::clone(wakes)));
        }
        Bench { mesh: Mesh::new(&handles, &limits), handles, wakes }
    }

    impl Bench {
        fn woken(&self, shard: ShardId) -> usize {
            self.wakes[shard.index()].0.load(Ordering::SeqCst)
        }

        fn data(&self, envelopes: &[u32], bytes: usize) {
            self.mesh.send_data(A, B, DataBatch { envelopes: envelopes.to_vec(), bytes });
        }
    }

    #[test]
    fn each_lane_keeps_its_order() {
        let bench = bench(8, 1000);
        bench.mesh.send_control(A, B, Control::Batch(vec![1, 2]));
        bench.mesh.send_control(A, B, Control::Own("handoff"));
        bench.mesh.send_control(A, B, Control::Batch(vec![3]));
        bench.data(&[10, 11], 5);
        bench.data(&[12], 5);
        let mut seen = Vec::new();
        while let Some(item) = bench.mesh.next_control(A, B) {
            match item {
                Control::Batch(batch) => seen.extend(batch),
                Control::Own(what) => seen.extend([what.len() as u32 + 900]),
            }
        }
        assert_eq!(seen, [1, 2, 907, 3]);
        let data: Vec<u32> =
            std::iter::from_fn(|| bench.mesh.next_data(A, B)).flat_map(|b| b.envelopes).collect();
        assert_eq!(data, [10, 11, 12]);
        assert!(bench.mesh.next_data(B, A).is_none(), "the other direction is another lane");
    }

    #[test]
    fn a_data_lane_is_full_in_batches() {
        let bench = bench(2, 1000);
        bench.data(&[1], 1);
        assert_eq!(bench.mesh.room(A, B), Some(Room { batches: 1, bytes: 999 }));
        bench.data(&[2], 1);
        assert_eq!(bench.mesh.room(A, B), None);
        assert_eq!(bench.mesh.room(B, A), Some(Room { batches: 2, bytes: 1000 }));
    }

    #[test]
    fn a_data_lane_is_full_in_bytes_and_stands_one_batch_beyond() {
        let bench = bench(8, 100);
        bench.data(&[1], 99);
        assert_eq!(bench.mesh.room(A, B), Some(Room { batches: 7, bytes: 1 }));
        bench.data(&[2], 500);
        assert_eq!(bench.mesh.room(A, B), None);
    }

    #[test]
    fn room_counts_until_the_batch_is_where_it_belongs() {
        let bench = bench(1, 100);
        bench.data(&[1], 10);
        let batch = bench.mesh.next_data(A, B).unwrap();
        assert_eq!(bench.mesh.room(A, B), None);
        bench.mesh.taken(A, B, batch.bytes);
        assert_eq!(bench.mesh.room(A, B), Some(Room { batches: 1, bytes: 100 }));
    }

    #[test]
    fn a_blocked_sender_is_woken_once_below_half() {
        let bench = bench(4, 1000);
        for n in 0..4 {
            bench.data(&[n], 1);
        }
        assert_eq!(bench.mesh.room(A, B), None);
        let mut woken = Vec::new();
        for _ in 0..4 {
            let batch = bench.mesh.next_data(A, B).unwrap();
            bench.mesh.taken(A, B, batch.bytes);
            woken.push(bench.woken(A));
            // As in the sender's loop: a later wake wakes it again.
            bench.handles[0].signal().lower();
        }
        assert_eq!(woken, [0, 1, 1, 1]);
    }

    #[test]
    fn a_sender_that_had_room_is_not_woken() {
        let bench = bench(4, 1000);
        bench.data(&[1], 1);
        assert!(bench.mesh.room(A, B).is_some());
        let batch = bench.mesh.next_data(A, B).unwrap();
        bench.mesh.taken(A, B, batch.bytes);
        assert_eq!(bench.woken(A), 0);
    }

    #[test]
    fn many_announcements_wake_a_receiver_once_until_it_looks() {
        let bench = bench(8, 1000);
        let to = ShardSet(1 << B.0);
        for _ in 0..40_000 {
            bench.mesh.announce(A, to);
        }
        assert_eq!(bench.woken(B), 1);
        assert!(bench.handles[1].signal().lower());
        assert_eq!(bench.mesh.arrivals(B), ShardSet(1 << A.0));
        assert_eq!(bench.mesh.arrivals(B), ShardSet::EMPTY);
        bench.mesh.announce(A, to);
        assert_eq!(bench.woken(B), 2);
    }

    #[test]
    fn items_left_by_a_receiver_are_received_later() {
        let bench = bench(8, 1000);
        bench.mesh.announce(A, ShardSet(1 << B.0));
        let from = bench.mesh.arrivals(B);
        bench.mesh.not_done(B, from);
        assert_eq!(bench.mesh.arrivals(B), from);
    }

    #[test]
    fn emptied_vectors_go_back_to_the_sender() {
        let bench = bench(8, 1000);
        let mut batch = bench.mesh.spare(A, B);
        batch.extend([1, 2, 3]);
        let place = batch.as_ptr();
        batch.clear();
        bench.mesh.recycle(A, B, batch);
        let again = bench.mesh.spare(A, B);
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn two_threads_lose_nothing_and_both_end() {
        // The sender stops when the lane is full and continues when it is woken. With a lost wake,
        // it would wait for ever.
        const MESSAGES: u32 = 20_000;
        let bench = Arc::new(bench(4, 50));
        let sender = {
            let bench = Arc::clone(&bench);
            std::thread::spawn(move || {
                let mut next = 0;
                let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
                while next < MESSAGES {
                    assert!(std::time::Instant::now() < until, "waited for room in vain at {next}");
                    bench.handles[0].signal().lower();
                    while next < MESSAGES && bench.mesh.room(A, B).is_some() {
                        bench.data(&[next], 7);
                        next += 1;
                    }
                    bench.mesh.announce(A, ShardSet(1 << B.0));
                    while next < MESSAGES && !bench.handles[0].signal().is_raised() {
                        assert!(std::time::Instant::now() < until, "was not woken at {next}");
                        std::thread::yield_now();
                    }
                }
            })
        };
        let mut expected = 0;
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while expected < MESSAGES {
            assert!(std::time::Instant::now() < until, "nothing came after {expected}");
            bench.handles[1].signal().lower();
            for from in bench.mesh.arrivals(B).iter() {
                while let Some(batch) = bench.mesh.next_data(from, B) {
                    assert_eq!(batch.envelopes, [expected]);
                    expected += 1;
                    bench.mesh.taken(from, B, batch.bytes);
                }
            }
            std::thread::yield_now();
        }
        sender.join().unwrap();
    }
}
