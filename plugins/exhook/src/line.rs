//! The line between the shards and the thread of one worker: calls wait here, put together already, until the thread sends them.
//! The lock is held for the writing of one call, or to take all of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapnel_plugin_abi::Error;
use rustix::event::EventfdFlags;

use crate::verdict::Ticket;
use crate::wire::Writer;

/// A call that the broker waits for.
#[derive(Debug)]
pub struct Asked {
    /// Which.
    pub id: u64,
    /// Who waits.
    pub ticket: Ticket,
    /// Since when.
    pub since: Instant,
}

/// Calls that were put together, in order.
#[derive(Debug, Default)]
pub struct Calls {
    /// All of them, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each ends.
    pub ends: Vec<usize>,
    /// Those that are waited for.
    pub asked: Vec<Asked>,
}

#[derive(Debug)]
struct State {
    calls: Calls,
    /// Goes up with each process: what a client's number means is forgotten with it.
    epoch: u64,
    /// Whether somebody takes calls, now or after a pause.
    open: bool,
    /// Whether the thread sleeps, or is about to.
    asleep: bool,
    next_id: u64,
}

/// Figures of a worker; any thread reads them.
#[derive(Debug, Default)]
pub struct Figures {
    /// Calls that were handed over.
    pub calls: AtomicU64,
    /// Calls that only told, and were dropped because too many waited or the worker ended.
    pub dropped: AtomicU64,
    /// Answers that said what is wrong, or were wrong.
    pub failed: AtomicU64,
    /// Answers that did not come in time.
    pub timeouts: AtomicU64,
    /// Processes that were started after the first.
    pub restarts: AtomicU64,
}

impl Figures {
    /// Adds to one.
    pub fn add(which: &AtomicU64, count: u64) {
        which.fetch_add(count, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    wake: OwnedFd,
    calls_max: usize,
    bytes_max: usize,
    /// What has happened on it.
    pub figures: Figures,
}

/// A line that is being written to.
pub struct Writing<'a> {
    line: &'a Line,
    state: MutexGuard<'a, State>,
}

impl Line {
    /// With room for so many calls and bytes.
    ///
    /// # Errors
    /// Where the system gives no descriptor.
    pub fn new(calls_max: usize, bytes_max: usize) -> Result<Line, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = State { calls: Calls::default(), epoch: 1, open: true, asleep: false, next_id: 1 };
        Ok(Line { state: Mutex::new(state), wake, calls_max, bytes_max, figures: Figures::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread waits for.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Begins to write, unless nobody takes calls; then also the number of the process they are for.
    pub fn write(&self) -> Option<Writing<'_>> {
        let state = self.lock();
        state.open.then_some(Writing { line: self, state })
    }

    /// All that waits, into `into`, which is empty; whether there was any.
    pub fn take(&self, into: &mut Calls) -> bool {
        let mut state = self.lock();
        std::mem::swap(&mut state.calls, into);
        !into.ends.is_empty()
    }

    /// Whether nothing waits; the next call then wakes the thread.
    pub fn sleeps(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.calls.ends.is_empty();
        state.asleep
    }

    /// The process has ended: what waits is for nobody, and what comes is for the next one, if there is to be one.
    pub fn cut(&self, open: bool) -> Calls {
        let mut state = self.lock();
        state.epoch += 1;
        state.open = open;
        std::mem::take(&mut state.calls)
    }

    /// Those who have waited here since `before` or longer, and will not any more.
    pub fn overdue(&self, before: Instant) -> Vec<Asked> {
        let asked = &mut self.lock().calls.asked;
        let count = asked.iter().take_while(|asked| asked.since <= before).count();
        asked.drain(..count).collect()
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        // It cannot fail but for a counter that is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.lock().calls.ends.len()
    }
}

impl Writing<'_> {
    /// Which process it is for, by number.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Whether there is room for one more call.
    pub fn has_room(&self) -> bool {
        self.state.calls.ends.len() < self.line.calls_max
            && self.state.calls.bytes.len() < self.line.bytes_max
    }

    /// The number that the next call which is waited for gets.
    pub fn next_id(&mut self) -> u64 {
        self.state.next_id += 1;
        self.state.next_id - 1
    }

    /// One call.
    pub fn call(&mut self, id: u64, point: i64, client: u64, data: impl FnOnce(&mut Writer<'_>)) {
        let calls = &mut self.state.calls;
        let mut writer = Writer(&mut calls.bytes);
        writer.list(4).number(id).signed(point).number(client);
        data(&mut writer);
        calls.ends.push(calls.bytes.len());
    }

    /// Who waits for the call that was written last.
    pub fn asked(&mut self, id: u64, ticket: Ticket) {
        self.state.calls.asked.push(Asked { id, ticket, since: Instant::now() });
    }

    /// The end: the thread hears of it.
    pub fn done(mut self) {
        if std::mem::take(&mut self.state.asleep) {
            self.line.wake();
        }
    }
}
