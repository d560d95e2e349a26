//! All shards of the process, from start to end: waits for signals and for shards that end, drains,
//! and returns the exit code. Used by the main thread alone, which does nothing else while the
//! broker runs.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use grapnel_engine::id::{ShardId, ShardSet};
use grapnel_engine::shard::Setup;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator;

use super::handle::{Command, ShardHandle};
use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::listeners::Listeners;
use super::start::{Event, StartError, start};
use super::watchdog::{NamePlugin, Thresholds, Watchdog};
use crate::net::Bound;
use crate::rt::Io;

/// Exit code of a process whose shard died: EX_SOFTWARE of sysexits.
pub const EXIT_CODE_DIED: u8 = 70;

/// Time in which the shards must have started their executors.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the shards could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError {
    /// A thread could not be made.
    #[error(transparent)]
    Thread(#[from] StartError),
    /// The watchdog or the signal handlers could not be started.
    #[error("cannot start {what}: {cause}")]
    Helper {
        /// What could not be started.
        what: &'static str,
        /// The system's error.
        #[source]
        cause: std::io::Error,
    },
    /// A shard ended before it ran.
    #[error("shard {shard} cannot start: {cause}")]
    Died {
        /// The shard.
        shard: ShardId,
        /// The cause.
        cause: String,
    },
    /// A shard did not report in time.
    #[error("shard {shard} has not started within {} s; the machine is overloaded", START_TIMEOUT.as_secs())]
    Silent {
        /// The first such shard.
        shard: ShardId,
    },
}

/// Why the broker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The process got this signal.
    Signal(i32),
    /// A shard died. The broker does not go on with the other shards.
    Died {
        /// The shard.
        shard: ShardId,
        /// The cause.
        cause: String,
    },
}

impl End {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            End::Signal(_) => 0,
            End::Died { .. } => EXIT_CODE_DIED,
        }
    }
}

/// Signals that have a meaning in other brokers and would end a process without a handler. Each has
/// the log line that it causes.
const IGNORED: [(i32, &str); 2] = [
    (SIGUSR1, "SIGUSR1 is ignored: everything is in memory, so there is nothing to save"),
    (
        SIGUSR2,
        "SIGUSR2 is ignored: `grapnel-ctl subscriptions list` shows who has subscribed to what, `grapnel-ctl status` the rest",
    ),
];

/// The log line of a signal that is ignored; `None` for signals that end the broker.
fn ignored(signal: i32) -> Option<&'static str> {
    IGNORED.iter().find(|(known, _)| *known == signal).map(|(_, sentence)| *sentence)
}

/// The signals of the process. From [`Signals::take`] on, SIGHUP and ignored signals do not end the
/// process; they have their effect once [`Shards::handle_signals`] is called.
#[derive(Debug)]
pub struct Signals(iterator::Signals);

impl Signals {
    /// Installs handlers for SIGHUP and the ignored signals. SIGTERM and SIGINT still end the process, which
    /// has nothing to drain yet.
    ///
    /// # Errors
    /// The handlers cannot be made.
    pub fn take() -> Result<Signals, ShardsError> {
        let ignored = IGNORED.iter().map(|(signal, _)| signal);
        let signals = iterator::Signals::new(ignored.chain([&SIGHUP])).map_err(no_handlers)?;
        Ok(Signals(signals))
    }
}

fn no_handlers(cause: std::io::Error) -> ShardsError {
    ShardsError::Helper { what: "the signal handlers", cause }
}

/// The running shards.
#[derive(Debug)]
pub struct Shards {
    handles: Vec<ShardHandle>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    _watchdog: Watchdog,
}

impl Shards {
    /// Starts a shard for each setup and waits until all run. `name` returns a plugin's name, for
    /// the log.
    ///
    /// # Errors
    /// [`ShardsError`]; the process must then end, because shards that have started are not
    /// stopped.
    pub fn start(
        setups: Vec<Setup>,
        limits: &Arc<ShellLimits>,
        (clock, io): (Clock, Io),
        name: NamePlugin,
    ) -> Result<Shards, ShardsError> {
        let handles: Vec<ShardHandle> = setups.iter().map(|setup| ShardHandle::new(setup.id)).collect();
        let (sender, events) = channel();
        let watchdog = Watchdog::start(handles.clone(), clock, Thresholds::of(limits), name)
            .map_err(|cause| ShardsError::Helper { what: "the watchdog", cause })?;
        start(setups, &handles, limits, (clock, io), &sender)?;
        let shards = Shards { handles, events, sender, _watchdog: watchdog };
        shards.wait_until_running()?;
        Ok(shards)
    }

    fn wait_until_running(&self) -> Result<(), ShardsError> {
        let mut missing = ShardSet::all(self.handles.len());
        let until = Instant::now() + START_TIMEOUT;
        while let Some(shard) = missing.iter().next() {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Running(shard)) => missing.remove(shard),
                Ok(Event::Ended(shard, cause)) => {
                    let cause = cause.unwrap_or_else(|| "it ended".to_owned());
                    return Err(ShardsError::Died { shard, cause });
                }
                Ok(Event::Drained(_) | Event::Signal(_)) => {}
                Err(_) => return Err(ShardsError::Silent { shard }),
            }
        }
        Ok(())
    }

    /// The handle of each shard, in order of their ids.
    pub fn handles(&self) -> &[ShardHandle] {
        &self.handles
    }

    /// Opens and closes listeners on the shards. Any thread may use what is returned.
    pub fn listeners(&self) -> Listeners {
        Listeners::new(self.handles.clone())
    }

    /// As [`Listeners::listen`].
    pub fn listen(&self, bound: Bound) {
        self.listeners().listen(bound);
    }

    /// Delivers SIGTERM and SIGINT to [`Shards::wait`], and calls `hang_up` for SIGHUP; the other
    /// signals are logged. `hang_up` must return at once.
    ///
    /// # Errors
    /// The handlers or their thread cannot be made.
    pub fn handle_signals(
        &self,
        signals: Signals,
        hang_up: impl Fn() + Send + 'static,
    ) -> Result<(), ShardsError> {
        let Signals(mut signals) = signals;
        for signal in [SIGTERM, SIGINT] {
            signals.add_signal(signal).map_err(no_handlers)?;
        }
        let sender = self.sender.clone();
        let forward = move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    hang_up();
                } else if let Some(sentence) = ignored(signal) {
                    tracing::info!("{sentence}");
                } else if sender.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(forward);
        thread.map(drop).map_err(no_handlers)
    }

    /// Waits for a signal that ends the broker, or until a shard dies.
    pub fn wait(&self) -> End {
        loop {
            match self.events.recv() {
                Ok(Event::Signal(signal)) => return End::Signal(signal),
                Ok(Event::Ended(shard, cause)) => return died(shard, cause),
                Ok(Event::Running(_) | Event::Drained(_)) => {}
                // This object has a sender itself, so that the channel is never closed.
                Err(_) => return died(ShardId::default(), None),
            }
        }
    }

    /// Stops accepting and disconnects all clients. Runs `last` when all clients have gone or
    /// `timeout` is over; `last` may take `patience` longer. The shards answer until then, and are
    /// ended after that. A second signal while clients are awaited ends that wait at once, and
    /// `last` gets `LAST_TIMEOUT`; a second signal during `last` ends the wait for it. A shard
    /// that dies meanwhile ends all waits, and the broker with it.
    pub fn drain(
        self,
        asked: i32,
        timeout: Duration,
        patience: Duration,
        last: impl FnOnce() + Send + 'static,
    ) -> End {
        let until = Instant::now() + timeout;
        self.command_all(|| Command::Drain);
        let mut missing = ShardSet::all(self.handles.len());
        let mut asked_again = false;
        while !missing.is_empty() {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Drained(shard)) => missing.remove(shard),
                Ok(Event::Ended(shard, cause)) => return died(shard, cause),
                Ok(Event::Running(_)) => {}
                Ok(Event::Signal(_)) => {
                    tracing::warn!("second signal: stops without waiting for clients and plugins");
                    asked_again = true;
                    break;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let shards: Vec<String> = missing.iter().map(|shard| shard.to_string()).collect();
                    tracing::warn!("clients of shard {} have not gone in time; leaves", shards.join(", "));
                    break;
                }
            }
        }
        let least = Instant::now() + LAST_TIMEOUT;
        let patient = if asked_again { least } else { until.max(least) + patience };
        if let Err(died) = self.do_within(patient, last) {
            return died;
        }
        match self.stop(until.max(Instant::now() + STOP_TIMEOUT)) {
            Ok(()) => End::Signal(asked),
            Err(died) => died,
        }
    }

    /// Runs `work` on a thread of its own and waits for it until `until`, or until a further
    /// signal.
    ///
    /// # Errors
    /// A shard has died, and nobody need wait for the work any longer.
    fn do_within(&self, until: Instant, work: impl FnOnce() + Send + 'static) -> Result<(), End> {
        let (done, wait) = channel::<()>();
        let thread = std::thread::Builder::new().name("last words".to_owned()).spawn(move || {
            work();
            drop(done);
        });
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Nothing is sent, so that the wait ends with the thread or with the time.
            match wait.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(RecvTimeoutError::Disconnected) if thread.is_ok() => return Ok(()),
                _ => {
                    tracing::warn!("the plugins could not be ended in time; leaves");
                    return Ok(());
                }
            }
            for event in self.events.try_iter() {
                match event {
                    Event::Ended(shard, cause) => return Err(died(shard, cause)),
                    Event::Signal(_) => {
                        tracing::warn!("second signal: stops without waiting for plugins");
                        return Ok(());
                    }
                    Event::Running(_) | Event::Drained(_) => {}
                }
            }
        }
    }

    /// Ends all shards and waits for them until `until`.
    ///
    /// # Errors
    /// A shard has died instead, or had died before.
    fn stop(&self, until: Instant) -> Result<(), End> {
        self.command_all(|| Command::Stop);
        let mut missing = ShardSet::all(self.handles.len());
        while !missing.is_empty() {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(shard, None)) => missing.remove(shard),
                Ok(Event::Ended(shard, cause)) => return Err(died(shard, cause)),
                Ok(_) => {}
                // A hook may block a shard; the process ends without that shard.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn command_all(&self, command: impl Fn() -> Command) {
        for handle in &self.handles {
            handle.command(command());
        }
    }
}

/// Minimum time of the plugins to end if the clients have used up theirs. It is also their whole
/// time after a second signal while clients are awaited.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval in which a second signal is checked while the plugins end.
const LOOK: Duration = Duration::from_millis(50);

/// Time for the shards to end after all clients have gone.
const STOP_TIMEOUT: Duration = Duration::from_millis(200);

fn died(shard: ShardId, cause: Option<String>) -> End {
    End::Died { shard, cause: cause.unwrap_or_else(|| "ended by itself".to_owned()) }
}
