//! The line between the shards and the thread of one worker: calls wait here, put together already, until the thread has sent them.
//! The lock is held for the writing of one call, or for as many as a frame has: shards wait for it.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapnel_plugin_abi::{Error, HookPoint};
use rustix::event::EventfdFlags;

pub use crate::pending_calls::{PendingCall, PendingCalls};
use crate::queue::{Call, Kind, Limits, Named, Owner, Queue};
use crate::stats::{Lost, Waiting, WorkerStats};
use crate::verdict::Ticket;
use crate::wire::Writer;

/// Described, and forgotten: numbers in the place of a hook point's.
pub const DESCRIBED: i64 = -1;
/// See [`DESCRIBED`].
pub const FORGOTTEN: i64 = -2;

/// Most of them that are looked at under one lock, where more may have waited for too long.
const OVERDUE_MAX: usize = 512;

/// Writes a call.
pub fn write_call(bytes: &mut Vec<u8>, id: u64, point: i64, client: u64, data: impl FnOnce(&mut Writer<'_>)) {
    let mut writer = Writer(bytes);
    writer.list(4).number(id).signed(point).number(client);
    data(&mut writer);
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Those in the queue that are waited for.
    pending: PendingCalls,
    /// Goes up with each process: what a client's number means is forgotten with it.
    epoch: u64,
    /// Whether somebody takes calls, now or after a pause.
    open: bool,
    /// Whether the next call is for another process than the one that runs.
    outdated: bool,
    /// Whether the thread sleeps, or is about to.
    asleep: bool,
    next_id: u64,
    /// What is put together: calls that go into the queue all at once, and the bytes of one.
    staged: Vec<Call>,
    written: Vec<u8>,
    /// What has been lost since the log was last told.
    lost: Lost,
    /// What is shown of the queue.
    shown: Waiting,
}

/// The lock. What is shown is true when it is let go.
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
    /// Whether what waits here is for another process than the one that runs. Changes under the lock.
    renews: AtomicBool,
    /// What has happened on it.
    pub stats: WorkerStats,
}

/// A line that is being written to, for one event.
pub struct Writing<'a> {
    call_queue: &'a CallQueue,
    state: Locked<'a>,
    /// Whose queue it goes to, and who is charged.
    whose: (Owner<'a>, Owner<'a>),
    kind: Kind,
}

impl CallQueue {
    /// With room for so much.
    ///
    /// # Errors
    /// Where the system gives no descriptor.
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

    /// What the thread waits for.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Begins to write about an event of `whose.0`, which `whose.1` is charged for. `None` where nobody takes calls; that is counted.
    pub fn write<'a>(
        &'a self,
        whose: (Owner<'a>, Owner<'a>),
        kind: Kind,
        point: HookPoint,
    ) -> Option<Writing<'a>> {
        let mut state = self.lock_to_write();
        if !state.open {
            self.stats.lost(&mut state.lost, kind, point, None);
            return None;
        }
        Some(Writing { call_queue: self, state, whose, kind })
    }

    /// Begins to write that a client will not be named again. `None` where nobody takes calls.
    pub fn write_forgotten<'a>(&'a self, owner: Owner<'a>) -> Option<Writing<'a>> {
        let state = self.lock_to_write();
        state.open.then(|| Writing { call_queue: self, state, whose: (owner, owner), kind: Kind::Forgotten })
    }

    /// Takes what fits into a frame, into `frame`, which is empty, and what is waited for of that into `asked`. What somebody had
    /// waited for and does not any more is left out. All of it is held until it is given to [`CallQueue::release`] or
    /// [`CallQueue::put_back`].
    pub fn take(&self, calls_max: usize, bytes_max: usize, frame: &mut Vec<Call>, asked: &mut PendingCalls) {
        let State { queue, pending: waiting, .. } = &mut *self.lock();
        if self.renews() {
            return;
        }
        queue.take(calls_max, bytes_max, frame);
        let nobody_waits = |call: &mut Call| match waiting.remove(call.id) {
            Some(waits) => asked.insert(call.id, waits).is_some(),
            None => call.id != 0,
        };
        frame.extract_if(.., nobody_waits).for_each(|call| queue.release(call));
    }

    /// These calls have been sent, or are for nobody any more: they are held no longer.
    pub fn release(&self, calls: &mut Vec<Call>) {
        if !calls.is_empty() {
            let mut state = self.lock();
            calls.drain(..).for_each(|call| state.queue.release(call));
        }
    }

    /// Whether nothing waits; the next call then wakes the thread.
    pub fn sleeps(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.queue.is_empty();
        state.asleep
    }

    /// The next call, and those behind it, are for another process: the one that runs may know what is no longer true by then.
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

    /// Whether such a call has come, and that process is yet to be started.
    pub fn renews(&self) -> bool {
        self.renews.load(Ordering::Relaxed)
    }

    /// The process that runs may be given all: it has been given nothing yet.
    pub fn goes_on(&self) {
        let _state = self.lock();
        self.renews.store(false, Ordering::Relaxed);
    }

    /// Somebody takes calls again.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// Whether somebody waits here for an answer.
    pub fn has_pending(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    /// The process has ended, and there is none to wait for: what waits is for nobody, and nothing is taken any more. Gives what was
    /// waited for, and how many notifications have been lost with it. `here` was taken, and has not been given to the process. However
    /// much it is, shards wait for no more of it than that it is taken out.
    pub fn cut(&self, here: Vec<Call>) -> (PendingCalls, usize) {
        let (mut queue, asked) = {
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
        (asked, count)
    }

    /// The process has ended, and was not given these calls: they, and what waits here, are for the next one.
    pub fn put_back(&self, calls: Vec<Call>, asked: PendingCalls) {
        let mut state = self.lock();
        state.epoch += 1;
        state.open = true;
        self.renews.store(false, Ordering::Relaxed);
        state.queue.put_back(calls);
        state.pending.extend(asked);
    }

    /// Those who have waited here since `before` or longer, and will not any more: some of them, none where there are no others.
    pub fn overdue(&self, before: Instant) -> Vec<PendingCall> {
        take_overdue(&mut self.lock().pending, before)
    }

    /// The process that takes calls now, or will.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        // It cannot fail but for a counter that is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// How much is held.
    #[cfg(test)]
    pub fn usage(&self) -> crate::queue::Usage {
        self.lock().queue.usage()
    }

    /// What has been lost since this was asked last.
    pub fn take_lost(&self) -> Lost {
        std::mem::take(&mut self.lock().lost)
    }
}

/// The first of those who have waited since `before` or longer, [`OVERDUE_MAX`] at most. They are in the order of their numbers, which
/// is that of time: nobody else is looked at.
fn take_overdue<T>(asked: &mut PendingCalls<T>, before: Instant) -> Vec<PendingCall<T>> {
    std::iter::from_fn(|| asked.pop_overdue(before)).take(OVERDUE_MAX).collect()
}

/// The hook point of a call, if it is about one.
fn point_of(call: &Call) -> Option<HookPoint> {
    u16::try_from(call.point).ok().and_then(HookPoint::from_number)
}

impl Writing<'_> {
    /// Which process it is for, by number.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Whether there is room for a call at all, before it is put together; it is counted where there is not.
    pub fn has_room(&mut self, point: HookPoint) -> bool {
        let room = self.state.queue.has_room(self.whose.1, self.kind);
        if let Err(full) = room {
            self.call_queue.stats.lost(&mut self.state.lost, self.kind, point, Some(full));
        }
        room.is_ok()
    }

    /// The number that the next call which is waited for gets.
    pub fn next_id(&mut self) -> u64 {
        self.state.next_id += 1;
        self.state.next_id - 1
    }

    fn put_together(
        &mut self,
        id: u64,
        point: i64,
        client: Named,
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

    /// One call, which waits for [`Writing::is_taken`].
    pub fn call(&mut self, id: u64, point: i64, client: Named, data: impl FnOnce(&mut Writer<'_>)) {
        let call = self.put_together(id, point, client, data);
        self.state.staged.push(call);
    }

    /// A client is described, before a call about it.
    pub fn describe(&mut self, client: Named, described: &[u8]) {
        self.call(0, DESCRIBED, client, |data| data.0.extend_from_slice(described));
    }

    /// A client will not be named again, behind what waits of it; without an identifier nothing of it waits in the queue of a client. Process `epoch` was told of it last, 0 for none; one after that hears
    /// this where it was told with a call that it was given besides.
    pub fn forget(&mut self, client_id: Option<&str>, number: u64, epoch: u64) {
        if epoch == 0 {
            return;
        }
        let client = Named { number, about: None };
        let mut call = self.put_together(0, FORGOTTEN, client, |data| {
            data.nil();
        });
        call.epoch = epoch;
        self.state.queue.push_forgotten(client_id.map(Owner::Client), call);
    }

    /// Puts what was written into the queue, all of it, if there is room; else none of it, which is counted.
    pub fn is_taken(&mut self, point: HookPoint) -> bool {
        let State { queue, staged, lost, .. } = &mut *self.state;
        let taken = queue.push(self.whose, self.kind, staged);
        if let Err(full) = taken {
            self.call_queue.stats.lost(lost, self.kind, point, Some(full));
        }
        taken.is_ok()
    }

    /// Who waits for a call about this client that was taken.
    pub fn wait_for(&mut self, id: u64, client: u64, ticket: Ticket) {
        self.state.pending.insert(id, PendingCall { ticket, since: Instant::now(), client });
    }

    /// The end: the thread hears of it.
    pub fn done(mut self) {
        if !self.state.queue.is_empty() && std::mem::take(&mut self.state.asleep) {
            self.call_queue.wake();
        }
    }
}

/// Bytes of a call that the place where calls are put together keeps for the next one.
const WRITTEN_MAX: usize = 64 << 10;

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        // Of a panic in between.
        self.state.staged.clear();
    }
}

#[cfg(test)]
mod tests;
