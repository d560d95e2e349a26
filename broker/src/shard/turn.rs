//! The main task of a shard. It takes what other threads and shards have sent, updates the engine's
//! time, serves the one timer, and starts the tasks of new connections. Each poll is one turn; a
//! turn never waits.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll};

use grapnel_engine::log_rate::EVERY_MS;

use super::acceptor::Acceptor;
use super::connection::Connection;
use super::handle::Command;
use super::start::Event;
use super::state::{Shared, State};
use crate::net::Listening;
use crate::rt;

/// A shard's main task; the shard ends with it.
pub(crate) struct Turn {
    shared: Rc<Shared>,
    timer: rt::Timer,
    events: Sender<Event>,
    /// The first turn is over and was reported.
    running: bool,
    /// All clients have gone, which was reported.
    drained: bool,
}

/// Work that a turn leaves to be done outside the borrow of the state.
#[derive(Default)]
struct DeferredWork {
    listen: Vec<Listening>,
    again: bool,
    stop: bool,
}

impl Turn {
    /// Must be called inside a task of the shard.
    pub fn new(shared: Rc<Shared>, events: Sender<Event>) -> Turn {
        Turn { shared, timer: rt::Timer::new(), events, running: false, drained: false }
    }

    /// Reports to `main`. Nothing receives the reports if the process is already ending for another
    /// reason.
    fn report(&mut self, state: &State) {
        if !self.running {
            self.running = true;
            let _ = self.events.send(Event::Running(state.id()));
        }
        if state.draining && !self.drained && state.conns.is_empty() && state.engine.drained() {
            self.drained = true;
            let _ = self.events.send(Event::Drained(state.id()));
        }
    }

    fn arm(timer: &mut rt::Timer, state: &mut State, cx: &mut Context<'_>) {
        let Some(due_ms) = state.next_due_ms() else { return };
        if state.armed_ms.is_some_and(|armed_ms| armed_ms <= due_ms) {
            return;
        }
        // Work that is due but was not done in this turn must not block the rest of the shard.
        let due_ms = due_ms.max(state.now.mono_ms + 1);
        state.armed_ms = Some(due_ms);
        if timer.poll_after(state.config.clock.until(due_ms), cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = Rc::clone(&this.shared);
        let mut state = shared.state.borrow_mut();
        state.set_turn(cx.waker());
        let left = state.turn();
        this.report(&state);
        Turn::arm(&mut this.timer, &mut state, cx);
        state.config.handle.heartbeat().end();
        drop(state);
        if left.stop {
            return Poll::Ready(());
        }
        for listening in left.listen {
            rt::spawn(Acceptor::new(Rc::clone(&this.shared), listening));
        }
        spawn_opened(&this.shared);
        if left.again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl State {
    fn turn(&mut self) -> DeferredWork {
        let now = self.config.clock.now();
        self.config.handle.heartbeat().begin(now.mono_ms);
        if self.armed_ms.is_some_and(|armed_ms| armed_ms <= now.mono_ms) {
            self.armed_ms = None;
        }
        let mut left = DeferredWork { again: self.advance(now), ..DeferredWork::default() };
        self.take_commands(&mut left);
        left.again |= self.take_arrivals(self.config.limits.turn_envelopes_max as usize);
        left.again |= self.take_completions();
        left.again |= self.take_plugin_commands();
        left.again |= self.run_jobs();
        self.ring_alarms();
        self.wake_acceptors();
        self.empty_outbox();
        left
    }

    fn take_commands(&mut self, left: &mut DeferredWork) {
        while let Some(command) = self.config.handle.next_command() {
            match command {
                Command::Listen(listening) => left.listen.extend(listening),
                Command::Drain => {
                    self.draining = true;
                    self.engine.drain();
                }
                Command::Stop => left.stop = true,
            }
        }
    }

    /// Takes refused answers and completions. Returns whether there may be more.
    fn take_completions(&mut self) -> bool {
        while let Some((ticket, reason)) = self.config.handle.next_refused() {
            self.engine.refuse_answer(ticket, &reason);
        }
        for _ in 0..self.config.limits.turn_completions_max {
            let Some(completion) = self.config.handle.next_completion() else { return false };
            self.engine.complete(completion);
        }
        true
    }

    /// Counts refused commands of plugins, and logs that at a limited rate.
    #[cold]
    fn note_commands_refused(&mut self, refused: u64) {
        self.engine.note_commands_refused(refused);
        if let Some(refused) = self.commands_refused.record_many(refused, EVERY_MS, self.now.mono_ms) {
            let shard = self.config.handle.id();
            tracing::warn!(
                "{refused} commands of plugins were refused on shard {shard}, because too many wait there \
                 (limits.plugin_commands_max) or too much (limits.plugin_commands_bytes_max)"
            );
        }
    }

    /// Takes commands of plugins. Returns whether there may be more.
    fn take_plugin_commands(&mut self) -> bool {
        for scope in self.config.handle.take_invalidations() {
            self.engine.invalidate(scope);
        }
        let refused = self.config.handle.take_refused_requests();
        self.engine.note_requests_refused(refused);
        let refused = self.config.handle.take_refused_plugin_commands();
        if refused > 0 {
            self.note_commands_refused(refused);
        }
        for _ in 0..self.config.limits.turn_plugin_commands_max {
            let Some(command) = self.config.handle.next_plugin_command() else { return false };
            self.engine.command(command);
        }
        true
    }

    /// Runs jobs. Returns whether there may be more.
    fn run_jobs(&mut self) -> bool {
        for _ in 0..self.config.limits.turn_jobs_max {
            let Some(job) = self.config.handle.next_job() else { return false };
            job(&mut self.engine);
        }
        true
    }

    fn wake_acceptors(&mut self) {
        for (_, (until_ms, waker)) in &mut self.acceptors {
            if self.draining || (*until_ms > 0 && *until_ms <= self.now.mono_ms) {
                *until_ms = 0;
                waker.wake_by_ref();
            }
        }
    }
}

/// Starts the tasks of new connections; each is polled at once. Called only by the turn and the
/// acceptors: if connections called it, their polls would nest on the stack.
pub(crate) fn spawn_opened(shared: &Rc<Shared>) {
    loop {
        let opened = shared.state.borrow_mut().next_opened();
        let Some(token) = opened else { return };
        rt::spawn(Connection { shared: Rc::clone(shared), token });
    }
}

/// The task that other threads wake, and no other event: see [`Signal`](super::handle::Signal).
pub(crate) struct WakerTask {
    shared: Rc<Shared>,
}

impl WakerTask {
    /// Must be called inside a task of the shard.
    pub fn new(shared: Rc<Shared>) -> WakerTask {
        WakerTask { shared }
    }
}

impl Future for WakerTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.shared.state.borrow();
        let signal = state.config.handle.signal();
        signal.register(cx.waker());
        // The turn takes everything that was pushed before this; a later push wakes again.
        if signal.lower() {
            state.wake_turn();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use grapnel_engine::id::ShardId;
    use grapnel_engine::shard::{Input, ListenerInfo, Next, Peer, Setup, Shard};

    use super::*;
    use crate::shard::conn::Phase;
    use crate::shard::handle::ShardHandle;
    use crate::shard::heartbeat::Clock;
    use crate::shard::limits::ShellLimits;
    use crate::shard::mesh::Mesh;
    use crate::shard::state::{ShardConfig, share};

    fn shared(handle: &ShardHandle) -> Rc<Shared> {
        let limits = Arc::new(ShellLimits::default());
        let setup = Setup {
            id: handle.id(),
            shards: 1,
            limits: Arc::default(),
            no_match_allow: true,
            keys: [1, 2, 3, 4],
            seed: 5,
        };
        let mesh = Arc::new(Mesh::new(std::slice::from_ref(handle), &limits));
        let config = ShardConfig { limits, handle: handle.clone(), mesh, clock: Clock::start(), shards: 1 };
        share(Shard::new(setup), config).unwrap()
    }

    #[test]
    fn a_connection_that_ends_is_seen_off_although_another_gets_its_place_at_once() {
        let handle = ShardHandle::new(ShardId(0));
        rt::Executor::new().unwrap().run(async move {
            let shared = shared(&handle);
            let mut state = shared.state.borrow_mut();
            let address = "127.0.0.1:1883".parse().unwrap();
            let listener = Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true });
            let peer = Peer { listener, peer: address, local: address };
            let (ours, _client) = std::os::unix::net::UnixStream::pair().unwrap();
            state.open(ours.into(), peer.clone(), None);
            let first = state.conns[0].key;
            // PINGREQ before CONNECT ends it.
            assert_eq!(state.engine.receive(first, Input::Scratch(&[0xC0, 0])).next, Next::Closed);
            let (ours, _client) = std::os::unix::net::UnixStream::pair().unwrap();
            state.open(ours.into(), peer, None);
            assert_eq!(state.conns[1].key.index, first.index, "both have had the same place");
            state.finish(true);
            assert!(matches!(state.conns[0].phase, Phase::Lingering(_)));
            assert!(matches!(state.conns[1].phase, Phase::Serving));
        });
    }

    #[test]
    fn any_number_of_wakes_of_a_busy_shard_from_other_threads_is_one() {
        // The runtime counts wakes from other threads in 16 bits. When the count overflows, the
        // waking thread panics.
        let handle = ShardHandle::new(ShardId(0));
        let stop = Instant::now() + Duration::from_millis(500);
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    let mut wakes = 0_u64;
                    while Instant::now() < stop {
                        for _ in 0..1000 {
                            handle.wake();
                        }
                        wakes += 1000;
                    }
                    wakes
                })
            })
            .collect();
        rt::Executor::new().unwrap().run(async move {
            let shared = shared(&handle);
            rt::spawn(WakerTask::new(Rc::clone(&shared)));
            // Every executor has a guard: without it, it may sleep although tasks are ready.
            rt::spawn(rt::Guard::new(|| true));
            // Busy without a check of the wakes, as a shard with a slow hook is, and then polled
            // often.
            poll_fn(|cx| {
                shared.state.borrow_mut().set_turn(cx.waker());
                let step = Instant::now();
                while step.elapsed() < Duration::from_micros(250) {
                    std::hint::spin_loop();
                }
                if Instant::now() >= stop {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        });
        let wakes: u64 =
            wakers.into_iter().map(|waker| waker.join().expect("a waking thread panicked")).sum();
        assert!(wakes > 40_000, "only {wakes} wakes in half a second");
    }

    #[test]
    fn a_wake_from_another_thread_reaches_the_turn_of_a_sleeping_shard_each_time() {
        const ROUNDS: usize = 200;
        let handle = ShardHandle::new(ShardId(0));
        let (woken, wait) = channel();
        let ringer = {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for round in 0..=ROUNDS {
                    wait.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| panic!("lost wake {round}"));
                    handle.wake();
                }
            })
        };
        rt::Executor::new().unwrap().run(async move {
            let shared = shared(&handle);
            rt::spawn(WakerTask::new(Rc::clone(&shared)));
            // Every executor has a guard: without it, it may sleep although tasks are ready.
            rt::spawn(rt::Guard::new(|| true));
            let mut polls = 0;
            poll_fn(|cx| {
                shared.state.borrow_mut().set_turn(cx.waker());
                polls += 1;
                woken.send(()).unwrap();
                if polls > ROUNDS { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
        ringer.join().unwrap();
    }
}
