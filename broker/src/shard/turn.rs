//! The loop of a shard. A round takes what the driver has collected, continues connections, and
//! sends; a turn, if one is due, takes what other threads and shards have sent and serves the
//! timers. The loop waits in the driver and nowhere else.

use std::sync::mpsc::Sender;
use std::time::Duration;

use grapnel_engine::log_rate::EVERY_MS;

use super::decode::HANDSHAKE_STEPS;
use super::handle::Command;
use super::start::Event;
use super::state::State;

/// What has been reported to `main`.
#[derive(Default)]
struct Reports {
    /// The first turn is over.
    running: bool,
    /// All clients have gone.
    drained: bool,
}

impl Reports {
    /// Reports to `main`. Nothing receives the reports if the process is already ending for another
    /// reason.
    fn send(&mut self, state: &State, events: &Sender<Event>) {
        if !self.running {
            self.running = true;
            let _ = events.send(Event::Running(state.id()));
        }
        if state.draining && !self.drained && state.conns.is_empty() && state.engine.drained() {
            self.drained = true;
            let _ = events.send(Event::Drained(state.id()));
        }
    }
}

/// Runs a shard until it is told to stop.
///
/// # Errors
/// The driver cannot wait.
pub(super) fn run(state: &mut State, events: &Sender<Event>) -> std::io::Result<()> {
    let mut reports = Reports::default();
    loop {
        state.begin();
        state.config.handle.heartbeat().wake_watchdog();
        let due = state.next_due_ms().is_some_and(|due_ms| due_ms <= state.now.mono_ms);
        if state.config.handle.signal().lower() || std::mem::take(&mut state.turn_due) || due {
            if state.turn() {
                return Ok(());
            }
            reports.send(state, events);
        }
        state.handshake_steps = HANDSHAKE_STEPS;
        state.take_events();
        state.continue_listed();
        state.turn_due |= state.accept_waiting();
        state.flush();
        let State { alarms, conns, .. } = &mut *state;
        alarms.sweep(conns.len(), |alarm| conns.get(alarm.token).is_some_and(|conn| conn.is_current(alarm)));
        // A drain is over when the last connection has been removed.
        state.turn_due |= state.draining && !reports.drained && state.conns.is_empty();
        state.wait()?;
    }
}

impl State {
    /// Takes what other threads and shards have sent. Returns whether the shard is to stop.
    fn turn(&mut self) -> bool {
        let now = self.config.clock.now();
        let mut again = self.advance(now);
        let stop = self.take_commands();
        again |= self.take_arrivals(self.config.limits.turn_envelopes_max as usize);
        again |= self.take_completions();
        again |= self.take_plugin_commands();
        again |= self.run_jobs();
        self.ring_alarms();
        // Whoever may send again does so in this round.
        self.wake_resumed();
        self.turn_due |= again;
        stop
    }

    /// Waits for the next event, unless there is work.
    fn wait(&mut self) -> std::io::Result<()> {
        self.config.handle.heartbeat().end();
        if self.turn_due || !self.listed.is_empty() {
            return self.driver.wait(Some(Duration::ZERO));
        }
        // Work that is due but was not done in this round must not keep the shard busy.
        let until = |due_ms: u64| self.config.clock.until(due_ms.max(self.now.mono_ms + 1));
        let timeout = self.next_due_ms().map(until);
        self.wakeup.begin_wait();
        let timeout = if self.config.handle.signal().is_raised() { Some(Duration::ZERO) } else { timeout };
        let waited = self.driver.wait(timeout);
        self.wakeup.end_wait();
        waited
    }

    /// Takes requests to the shell. Returns whether the shard is to stop.
    fn take_commands(&mut self) -> bool {
        while let Some(command) = self.config.handle.next_command() {
            match command {
                Command::Listen(listening) => {
                    listening.into_iter().for_each(|listening| self.listen(listening));
                }
                Command::Unlisten(name) => self.unlisten(&name),
                Command::Relisten(name, rules) => self.relisten(&name, &rules),
                Command::Limits(limits) => self.config.limits = limits,
                Command::Drain => {
                    self.draining = true;
                    self.unlisten_all();
                    self.engine.drain();
                }
                Command::Stop => return true,
            }
        }
        false
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
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use grapnel_engine::id::ShardId;
    use grapnel_engine::shard::{Input, ListenerInfo, Next, Peer, Setup, Shard};

    use super::*;
    use crate::rt::Io;
    use crate::shard::conn::Phase;
    use crate::shard::handle::ShardHandle;
    use crate::shard::heartbeat::Clock;
    use crate::shard::limits::ShellLimits;
    use crate::shard::mesh::Mesh;
    use crate::shard::state::{Arrival, ShardConfig};

    fn state(handle: &ShardHandle, io: Io) -> State {
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
        let config =
            ShardConfig { limits, handle: handle.clone(), mesh, clock: Clock::start(), shards: 1, io };
        State::new(Shard::new(setup), config).unwrap()
    }

    fn arrival(socket: std::os::unix::net::UnixStream, peer: Peer) -> Arrival {
        Arrival { socket: socket.into(), peer, unread: None, layered: None, place: None }
    }

    #[test]
    fn a_connection_that_ends_is_closed_although_another_gets_its_place_at_once() {
        let mut state = state(&ShardHandle::new(ShardId(0)), Io::Epoll);
        let address: std::net::SocketAddr = "127.0.0.1:1883".parse().unwrap();
        let listener =
            Arc::new(ListenerInfo { name: "test".into(), allow_anonymous: true, ..ListenerInfo::default() });
        let peer = Peer::new(listener, address, address);
        let (ours, _client) = std::os::unix::net::UnixStream::pair().unwrap();
        state.open(arrival(ours, peer.clone()));
        let first = state.conns[0].key;
        // PINGREQ before CONNECT ends it.
        assert_eq!(state.engine.receive(first, Input::Scratch(&[0xC0, 0])).next, Next::Closed);
        let (ours, _client) = std::os::unix::net::UnixStream::pair().unwrap();
        state.open(arrival(ours, peer));
        assert_eq!(state.conns[1].key.index, first.index, "both have had the same place");
        state.empty_outbox();
        assert!(matches!(state.conns[0].phase, Phase::Lingering(_)));
        assert!(matches!(state.conns[1].phase, Phase::Serving));
    }

    #[test]
    fn a_wake_from_another_thread_reaches_a_waiting_shard_each_time() {
        const ROUNDS: usize = 200;
        for io in [Io::IoUring, Io::Epoll] {
            let handle = ShardHandle::new(ShardId(0));
            let (woken, wait) = channel();
            let ringer = {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    for round in 0..ROUNDS {
                        wait.recv_timeout(Duration::from_secs(5))
                            .unwrap_or_else(|_| panic!("lost wake {round}"));
                        handle.wake();
                    }
                })
            };
            let mut state = state(&handle, io);
            for _ in 0..ROUNDS {
                state.turn_due = false;
                woken.send(()).unwrap();
                while !handle.signal().lower() {
                    state.wait().unwrap();
                }
            }
            ringer.join().unwrap();
        }
    }

    #[test]
    fn an_idle_shard_is_woken_by_nothing() {
        // On threads of their own: closing a ring interrupts later waits of its thread once.
        for io in [Io::IoUring, Io::Epoll] {
            std::thread::spawn(move || an_idle_shard_waits(io)).join().unwrap();
        }
    }

    fn an_idle_shard_waits(io: Io) {
        {
            let began = Instant::now();
            let handle = ShardHandle::new(ShardId(0));
            let (done, wait) = channel::<()>();
            let ringer = {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    // The wait of the test ends with this wake alone.
                    let _ = wait.recv_timeout(Duration::from_millis(200));
                    handle.wake();
                })
            };
            let mut state = state(&handle, io);
            state.turn_due = false;
            state.wait().unwrap();
            assert!(began.elapsed() >= Duration::from_millis(200), "woken after {:?}", began.elapsed());
            drop(done);
            ringer.join().unwrap();
        }
    }
}
