//! The queue between the shards and the thread of one worker. It holds encoded calls until the
//! thread has sent them. The lock is held while one call is written, or while one frame is taken:
//! shards wait for it.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapnel_plugin_abi::{Error, HookPoint};
use rustix::event::EventfdFlags;

pub use crate::pending_calls::{PendingCall, PendingCalls};
use crate::queue::{Account, Call, Kind, Limits, NamedClient, Owner, Queue};
use crate::stats::{Lost, Waiting, WorkerStats};
use crate::verdict::Ticket;
use crate::wire::Writer;

/// Used in place of a hook point's number: a client is described, or forgotten.
pub const DESCRIBED: i64 = -1;
/// See [`DESCRIBED`].
pub const FORGOTTEN: i64 = -2;

/// Most overdue calls that are taken out under one lock.
const OVERDUE_MAX: usize = 512;

/// Encodes a call.
pub fn write_call(bytes: &mut Vec<u8>, id: u64, point: i64, client: u64, data: impl FnOnce(&mut Writer<'_>)) {
    let mut writer = Writer(bytes);
    writer.list(4).number(id).signed(point).number(client);
    data(&mut writer);
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Queued calls that the broker waits for.
    pending: PendingCalls,
    /// Number of the process. It increases with each process, which makes the numbers of clients
    /// invalid.
    epoch: u64,
    /// Whether calls are taken, now or after a pause.
    open: bool,
    /// Whether the next call is for another process than the running one.
    outdated: bool,
    /// Whether the thread sleeps, or is about to.
    asleep: bool,
    next_id: u64,
    /// Buffers: calls that enter the queue together, and the bytes of one call.
    staged: Vec<Call>,
    written: Vec<u8>,
    /// What was lost since the last log line.
    lost: Lost,
    /// The metrics of the queue.
    shown: Waiting,
}

/// The locked state. The metrics are updated when it is unlocked.
#[derive(Debug)]
struct Locked<'a>(MutexGuard<'a, State>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let usage = self.0.queue.usage();
        self.0.shown.set(usage);
    }
}

/// See the module.
#[derive(Debug)]
pub struct CallQueue {
    state: Mutex<State>,
    wake: OwnedFd,
    /// Whether the queued calls are for another process than the running one. Changes under the
    /// lock.
    renews: AtomicBool,
    /// Counters of the worker.
    pub stats: WorkerStats,
}

/// The locked queue, while calls for one event are written.
pub struct QueueWriter<'a> {
    call_queue: &'a CallQueue,
    state: Locked<'a>,
    /// Whose queue the calls enter, and who is charged.
    owners: (Owner<'a>, Owner<'a>),
    account: Option<Account>,
    kind: Kind,
}

impl CallQueue {
    /// An empty queue with these limits.
    ///
    /// # Errors
    /// The system gave no descriptor.
    pub fn new(limits: Limits, stats: WorkerStats) -> Result<CallQueue, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = State {
            queue: Queue::new(limits),
            pending: PendingCalls::new(),
            epoch: 1,
            open: true,
            outdated: false,
            asleep: false,
            next_id: 1,
            staged: Vec::new(),
            written: Vec::new(),
            lost: Lost::default(),
            shown: stats.waiting(),
        };
        Ok(CallQueue { state: Mutex::new(state), wake, renews: AtomicBool::new(false), stats })
    }

    fn lock(&self) -> Locked<'_> {
        Locked(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The descriptor that wakes the thread.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Begins to write calls for an event into the queue of `owners.0`, charged to `owners.1`.
    /// `None` if no calls are taken; that is counted.
    pub fn write<'a>(
        &'a self,
        owners: (Owner<'a>, Owner<'a>),
        kind: Kind,
        point: HookPoint,
    ) -> Option<QueueWriter<'a>> {
        let mut state = self.lock_to_write();
        if !state.open {
            self.stats.lost(&mut state.lost, kind, point, None);
            return None;
        }
        Some(QueueWriter { call_queue: self, state, owners, account: None, kind })
    }

    /// Begins to write that a client's number will not be used again. `None` if no calls are taken.
    pub fn write_forgotten<'a>(&'a self, owner: Owner<'a>) -> Option<QueueWriter<'a>> {
        let state = self.lock_to_write();
        state.open.then(|| QueueWriter {
            call_queue: self,
            state,
            owners: (owner, owner),
            account: None,
            kind: Kind::Forgotten,
        })
    }

    /// Takes at most one frame of calls into the empty `frame`, and their tickets into `pending`.
    /// Calls whose tickets have ended are left out. All taken calls stay charged until
    /// [`CallQueue::release`] or [`CallQueue::put_back`].
    pub fn take(
        &self,
        calls_max: usize,
        bytes_max: usize,
        frame: &mut Vec<Call>,
        pending: &mut PendingCalls,
    ) {
        let State { queue, pending: waiting, .. } = &mut *self.lock();
        if self.renews() {
            return;
        }
        queue.take(calls_max, bytes_max, frame);
        let nobody_waits = |call: &mut Call| match waiting.remove(call.id) {
            Some(waits) => pending.insert(call.id, waits).is_some(),
            None => call.id != 0,
        };
        frame.extract_if(.., nobody_waits).for_each(|call| queue.release(call));
    }

    /// These calls have been sent or dropped: they are no longer charged.
    pub fn release(&self, calls: &mut Vec<Call>) {
        if !calls.is_empty() {
            let mut state = self.lock();
            calls.drain(..).for_each(|call| state.queue.release(call));
        }
    }

    /// Whether the queue is empty; if so, the next call wakes the thread.
    pub fn sleeps(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.queue.is_empty();
        state.asleep
    }

    /// Later calls are for another process: the state of the running one may be outdated by then.
    pub fn outdate(&self) {
        self.lock().outdated = true;
    }

    fn lock_to_write(&self) -> Locked<'_> {
        let mut state = self.lock();
        if std::mem::take(&mut state.outdated) {
            self.renews.store(true, Ordering::Relaxed);
        }
        state
    }

    /// Whether such a call has come and that process has not been started yet.
    pub fn renews(&self) -> bool {
        self.renews.load(Ordering::Relaxed)
    }

    /// The running process may get all calls: it has received none yet.
    pub fn goes_on(&self) {
        let _state = self.lock();
        self.renews.store(false, Ordering::Relaxed);
    }

    /// Calls are taken again.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// Whether any queued call is waited for.
    pub fn has_pending(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    /// The process has ended, and no other follows: the queue is emptied, and takes no more calls.
    /// `here` are calls that were taken and not sent. Returns the tickets, and the number of lost
    /// notifications. The lock is not held while the calls are freed.
    pub fn cut(&self, here: Vec<Call>) -> (PendingCalls, usize) {
        let (mut queue, pending) = {
            let mut state = self.lock();
            state.epoch += 1;
            state.open = false;
            self.renews.store(false, Ordering::Relaxed);
            (state.queue.take_all(), std::mem::take(&mut state.pending))
        };
        queue.put_back(here);
        let (mut count, mut lost) = (0, Lost::default());
        for call in queue.drain() {
            if call.id == 0
                && let Some(point) = point_of(&call)
            {
                self.stats.lost(&mut lost, Kind::Notification, point, None);
                count += 1;
            }
            queue.release(call);
        }
        self.lock().lost.add(lost);
        (pending, count)
    }

    /// The process has ended. These unsent calls, and the queued ones, are for the next process.
    pub fn put_back(&self, calls: Vec<Call>, pending: PendingCalls) {
        let mut state = self.lock();
        state.epoch += 1;
        state.open = true;
        self.renews.store(false, Ordering::Relaxed);
        state.queue.put_back(calls);
        state.pending.extend(pending);
    }

    /// Takes out calls that have waited since `before` or longer, at most [`OVERDUE_MAX`]; empty if
    /// there are no more.
    pub fn overdue(&self, before: Instant) -> Vec<PendingCall> {
        take_overdue(&mut self.lock().pending, before)
    }

    /// Number of the process that takes calls, now or next.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        // It can only fail if the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The memory and calls in use.
    #[cfg(test)]
    pub fn usage(&self) -> crate::queue::Usage {
        self.lock().queue.usage()
    }

    /// What was lost since the last call.
    pub fn take_lost(&self) -> Lost {
        std::mem::take(&mut self.lock().lost)
    }
}

/// Takes out the first ones that have waited since `before` or longer, [`OVERDUE_MAX`] at most.
/// They are in the order of their numbers, which is that of time, so no others are visited.
fn take_overdue<T>(pending: &mut PendingCalls<T>, before: Instant) -> Vec<PendingCall<T>> {
    std::iter::from_fn(|| pending.pop_overdue(before)).take(OVERDUE_MAX).collect()
}

/// The hook point of a call, if it has one.
fn point_of(call: &Call) -> Option<HookPoint> {
    u16::try_from(call.point).ok().and_then(HookPoint::from_number)
}

impl<'a> QueueWriter<'a> {
    /// Charges the calls to this account too.
    #[must_use]
    pub fn for_account(self, account: Option<Account>) -> QueueWriter<'a> {
        let mut writer = self;
        writer.account = account;
        writer
    }
}

impl QueueWriter<'_> {
    /// Number of the process that the calls are for.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Whether there is room for a call, before it is encoded. A failure is counted.
    pub fn has_room(&mut self, point: HookPoint) -> bool {
        let room = self.state.queue.has_room(self.owners.1, self.account, self.kind);
        if let Err(full) = room {
            self.call_queue.stats.lost(&mut self.state.lost, self.kind, point, Some(full));
        }
        room.is_ok()
    }

    /// The number for the next call that is waited for.
    pub fn next_id(&mut self) -> u64 {
        self.state.next_id += 1;
        self.state.next_id - 1
    }

    fn put_together(
        &mut self,
        id: u64,
        point: i64,
        client: NamedClient,
        data: impl FnOnce(&mut Writer<'_>),
    ) -> Call {
        let State { written, epoch, .. } = &mut *self.state;
        written.clear();
        write_call(written, id, point, client.number, data);
        let call = Call::new(written, id, point, client, *epoch);
        if written.capacity() > WRITTEN_MAX {
            *written = Vec::new();
        }
        call
    }

    /// Adds one call; [`QueueWriter::is_taken`] puts it into the queue.
    pub fn call(&mut self, id: u64, point: i64, client: NamedClient, data: impl FnOnce(&mut Writer<'_>)) {
        let mut call = self.put_together(id, point, client, data);
        call.account = self.account;
        self.state.staged.push(call);
    }

    /// Adds the description of a client, before a call about it.
    pub fn describe(&mut self, client: NamedClient, described: &[u8]) {
        self.call(0, DESCRIBED, client, |data| data.0.extend_from_slice(described));
    }

    /// Adds that a client's number will not be used again, after its queued calls. Without
    /// `client_id`, none of them is in a client's queue. `epoch` is the last process that was
    /// notified of the client; 0 for none. A later process gets this call only if it got the
    /// description with another call.
    pub fn forget(&mut self, client_id: Option<&str>, number: u64, epoch: u64) {
        if epoch == 0 {
            return;
        }
        let client = NamedClient { number, ..NamedClient::default() };
        let mut call = self.put_together(0, FORGOTTEN, client, |data| {
            data.nil();
        });
        call.epoch = epoch;
        self.state.queue.push_forgotten(client_id.map(Owner::Client), call);
    }

    /// Puts all written calls into the queue if there is room, otherwise none. A failure is
    /// counted.
    pub fn is_taken(&mut self, point: HookPoint) -> bool {
        let State { queue, staged, lost, .. } = &mut *self.state;
        let taken = queue.push(self.owners, self.kind, staged);
        if let Err(full) = taken {
            self.call_queue.stats.lost(lost, self.kind, point, Some(full));
        }
        taken.is_ok()
    }

    /// Records the ticket of a queued call about this client.
    pub fn wait_for(&mut self, id: u64, client: u64, ticket: Ticket) {
        self.state.pending.insert(id, PendingCall { ticket, since: Instant::now(), client });
    }

    /// Ends the writing, and wakes the thread if it sleeps.
    pub fn done(mut self) {
        if !self.state.queue.is_empty() && std::mem::take(&mut self.state.asleep) {
            self.call_queue.wake();
        }
    }
}

/// Capacity in bytes that the buffer of a call retains.
const WRITTEN_MAX: usize = 64 << 10;

impl Drop for QueueWriter<'_> {
    fn drop(&mut self) {
        // Left over after a panic.
        self.state.staged.clear();
    }
}

#[cfg(test)]
mod tests;
