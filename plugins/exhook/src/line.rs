//! The line between the shards and the thread of one worker: calls wait here, put together already, until the thread sends them.
//! The lock is held for the writing of one call, or to take all of them.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapnel_plugin_abi::Error;
use rustix::event::EventfdFlags;

use crate::figures::Figures;
use crate::kept::Kept;
use crate::verdict::Ticket;
use crate::wire::Writer;

/// Described, and forgotten: numbers in the place of a hook point's.
pub const DESCRIBED: i64 = -1;
/// See [`DESCRIBED`].
pub const FORGOTTEN: i64 = -2;

/// A client as calls name it.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Its number; 0 for nobody.
    pub number: u64,
    /// Its description for a process that has not been told of it: a map, as MessagePack has it.
    pub about: Option<Arc<[u8]>>,
}

/// Where a call ends, and what it is about.
#[derive(Clone, Debug)]
pub struct End {
    /// Where.
    pub at: usize,
    /// What an answer to it names; 0 where nobody waits.
    pub id: u64,
    point: i64,
    client: Named,
}

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
    pub ends: Vec<End>,
    /// Those that are waited for.
    pub asked: Vec<Asked>,
}

impl Calls {
    /// One more.
    fn push(&mut self, bytes: &[u8], end: End) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(End { at: self.bytes.len(), ..end });
    }

    /// All calls with their bytes.
    fn each(&self) -> impl Iterator<Item = (&[u8], &End)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|end| end.at));
        starts.zip(&self.ends).map(|(start, end)| (&self.bytes[start..end.at], end))
    }

    /// Those from one on, with those of `asked` that they are waited for by.
    pub fn split_off(&mut self, first: usize, mut asked: impl FnMut(u64) -> Option<Asked>) -> Calls {
        let mut rest = Calls::default();
        for (bytes, end) in self.each().skip(first) {
            rest.push(bytes, end.clone());
            rest.asked.extend(Some(end.id).filter(|id| *id != 0).and_then(&mut asked));
        }
        self.ends.truncate(first);
        rest
    }

    /// Behind these, `more` for a process that has been told only of those who have been `described` here: the others are described first.
    /// What nobody waits for any more is left out.
    fn carry(&mut self, more: Calls, described: &mut HashSet<u64>, kept: &Kept) {
        let waited_for: HashSet<u64> = more.asked.iter().map(|asked| asked.id).collect();
        for (bytes, end) in more.each() {
            if end.id != 0 && !waited_for.contains(&end.id) {
                continue;
            }
            let number = end.client.number;
            match (end.point, &end.client.about) {
                (FORGOTTEN, _) if !described.remove(&number) => continue,
                (FORGOTTEN, _) => {}
                (point, Some(about)) if described.insert(number) => {
                    let mut written = Vec::new();
                    write_call(&mut written, 0, DESCRIBED, number, |data| data.0.extend_from_slice(about));
                    let client = end.client.clone();
                    self.push(&written, End { at: 0, id: 0, point: DESCRIBED, client: client.clone() });
                    if let Some(login) = kept.described(about) {
                        written.clear();
                        write_call(&mut written, 0, DESCRIBED, number, |data| {
                            data.0.extend_from_slice(&login)
                        });
                        self.push(&written, End { at: 0, id: 0, point: DESCRIBED, client });
                    }
                    if point == DESCRIBED {
                        continue;
                    }
                }
                (DESCRIBED, None) => {
                    described.insert(number);
                }
                _ => {}
            }
            self.push(bytes, end.clone());
        }
        self.asked.extend(more.asked);
    }
}

fn write_call(bytes: &mut Vec<u8>, id: u64, point: i64, client: u64, data: impl FnOnce(&mut Writer<'_>)) {
    let mut writer = Writer(bytes);
    writer.list(4).number(id).signed(point).number(client);
    data(&mut writer);
}

#[derive(Debug)]
struct State {
    calls: Calls,
    /// Goes up with each process: what a client's number means is forgotten with it.
    epoch: u64,
    /// Whether somebody takes calls, now or after a pause.
    open: bool,
    /// Calls and bytes that are away to be put back in front.
    away: (usize, usize),
    /// Whether the thread sleeps, or is about to.
    asleep: bool,
    next_id: u64,
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
    pub fn new(calls_max: usize, bytes_max: usize, figures: Figures) -> Result<Line, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state =
            State { calls: Calls::default(), epoch: 1, open: true, away: (0, 0), asleep: false, next_id: 1 };
        Ok(Line { state: Mutex::new(state), wake, calls_max, bytes_max, figures })
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

    /// Somebody takes calls again.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// Whether somebody waits here for an answer.
    pub fn is_asked(&self) -> bool {
        !self.lock().calls.asked.is_empty()
    }

    /// The process has ended: what waits is for nobody, and what comes is for the next one, if there is to be one.
    pub fn cut(&self, open: bool) -> Calls {
        let mut state = self.lock();
        state.epoch += 1;
        state.open = open;
        std::mem::take(&mut state.calls)
    }

    /// The process has ended, and was not given `rest`: that, and what waits here, is for the next one, which is told of the clients in it
    /// first, with what their logins gave.
    pub fn carry(&self, rest: Calls, kept: &Kept) {
        let waiting = {
            let mut state = self.lock();
            state.epoch += 1;
            state.open = true;
            let waiting = std::mem::take(&mut state.calls);
            let calls = rest.ends.len() + waiting.ends.len();
            state.away = (calls, rest.bytes.len() + waiting.bytes.len());
            waiting
        };
        // Shards write meanwhile, for the next process.
        let (mut all, mut described) = (Calls::default(), HashSet::new());
        all.carry(rest, &mut described, kept);
        all.carry(waiting, &mut described, kept);
        let mut state = self.lock();
        let newer = std::mem::take(&mut state.calls);
        for (bytes, end) in newer.each() {
            all.push(bytes, end.clone());
        }
        all.asked.extend(newer.asked);
        state.calls = all;
        state.away = (0, 0);
    }

    /// Those who have waited here since `before` or longer, and will not any more.
    pub fn overdue(&self, before: Instant) -> Vec<Asked> {
        let asked = &mut self.lock().calls.asked;
        let count = asked.iter().take_while(|asked| asked.since <= before).count();
        asked.drain(..count).collect()
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
        let (calls, bytes) = self.state.away;
        self.state.calls.ends.len() + calls < self.line.calls_max
            && self.state.calls.bytes.len() + bytes < self.line.bytes_max
    }

    /// The number that the next call which is waited for gets.
    pub fn next_id(&mut self) -> u64 {
        self.state.next_id += 1;
        self.state.next_id - 1
    }

    /// One call.
    pub fn call(&mut self, id: u64, point: i64, client: Named, data: impl FnOnce(&mut Writer<'_>)) {
        let calls = &mut self.state.calls;
        write_call(&mut calls.bytes, id, point, client.number, data);
        calls.ends.push(End { at: calls.bytes.len(), id, point, client });
    }

    /// A client is described from now on.
    pub fn describe(&mut self, client: Named, described: &[u8]) {
        self.call(0, DESCRIBED, client, |data| data.0.extend_from_slice(described));
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
