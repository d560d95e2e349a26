//! A thread that observes every shard. It logs when a single step takes long, and in which plugin,
//! and which calls of plugins were slow (`slow.rs`). It wakes a shard that sleeps although it has
//! work (see [`Guard`](crate::rt::Guard)). Started by `supervise` before the shards; ends with the
//! process or when dropped.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use grapnel_engine::hook::Called;

use super::handle::ShardHandle;
use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::slow::SlowCalls;

/// Maximum time between two checks, milliseconds. It is longer than the longest interval between
/// two rounds of a shard's guard.
const LOOK_EVERY_MS: u64 = 50;
/// Minimum time between two checks, milliseconds.
const LOOK_EVERY_MS_MIN: u64 = 5;

/// What is worth a log line.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Steps longer than this, milliseconds.
    pub stall_ms: u64,
    /// Calls of a plugin of at least this duration, milliseconds; 0 for none.
    pub slow_call_ms: u64,
}

impl Thresholds {
    /// The thresholds of the configuration.
    pub fn of(limits: &ShellLimits) -> Thresholds {
        Thresholds { stall_ms: limits.stall_warning_ms, slow_call_ms: limits.slow_call_ms }
    }
}

/// Returns the name of the plugin that is called, for the log.
pub type NamePlugin = Box<dyn Fn(Called) -> Option<String> + Send>;

/// The watchdog; it runs until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts a watchdog for these shards.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        shards: Vec<ShardHandle>,
        clock: Clock,
        thresholds: Thresholds,
        name: NamePlugin,
    ) -> std::io::Result<Watchdog> {
        let (stop, stopped) = channel();
        let mut watched: Vec<Watched> = shards.into_iter().map(Watched::new).collect();
        let Thresholds { stall_ms: warning_ms, slow_call_ms } = thresholds;
        let from_ns = if slow_call_ms == 0 { u64::MAX } else { slow_call_ms.saturating_mul(1_000_000) };
        watched.iter().for_each(|shard| shard.handle.heartbeat().call().set_slow_from_ns(from_ns));
        let idle_ms = (warning_ms / 4).clamp(LOOK_EVERY_MS_MIN, LOOK_EVERY_MS);
        let busy_ms =
            if slow_call_ms == 0 { idle_ms } else { slow_call_ms.clamp(LOOK_EVERY_MS_MIN, idle_ms) };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut period = Duration::from_millis(idle_ms);
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let now = clock.mono_ms();
                // An idle shard has no slow calls.
                let busy = watched.iter_mut().filter_map(|shard| shard.has_moved().then_some(())).count() > 0;
                period = Duration::from_millis(if busy { busy_ms } else { idle_ms });
                for shard in &mut watched {
                    shard.wake_if_asleep();
                    if let Some(slow) = shard.slow.look(shard.handle.heartbeat().call(), now, slow_call_ms) {
                        let plugin = name(slow.called).unwrap_or_else(|| unnamed(slow.called));
                        tracing::warn!("{}", slow.sentence(&plugin, shard.handle.id()));
                    }
                    match shard.look(now, warning_ms) {
                        Some(Finding::Stalled { ms }) => {
                            let what = describe(&shard.handle, &name);
                            tracing::warn!(
                                "shard {} has been in one step for {ms} ms: {what}",
                                shard.handle.id()
                            );
                        }
                        Some(Finding::Recovered { ms }) => {
                            tracing::warn!("shard {} goes on after about {ms} ms", shard.handle.id());
                        }
                        None => {}
                    }
                }
            }
        })?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the watchdog is logged already.
            let _ = thread.join();
        }
    }
}

fn unnamed(called: Called) -> String {
    match called {
        Called::Hook(link) => format!("hook {}", link.0),
        Called::Plugin(plugin) => format!("plugin {}", plugin.0),
    }
}

fn describe(handle: &ShardHandle, name: &NamePlugin) -> String {
    match handle.heartbeat().call().current_name() {
        Some((called, function)) => {
            let plugin = name(called).unwrap_or_else(|| unnamed(called));
            format!("{plugin} has not returned from {function}")
        }
        None => "it is calling no plugin".to_owned(),
    }
}

/// The result of a check of a shard.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// A step has been running for this time; reported once.
    Stalled { ms: u64 },
    /// The reported step is over.
    Recovered { ms: u64 },
}

#[derive(Debug)]
struct Watched {
    handle: ShardHandle,
    /// The reported step, and how long it had been running at the last check.
    logged: Option<(u64, u64)>,
    /// The guard's rounds at the last check.
    beats: u64,
    /// The number of steps at the last check.
    steps: u64,
    slow: SlowCalls,
}

impl Watched {
    fn new(handle: ShardHandle) -> Watched {
        Watched { handle, logged: None, beats: 0, steps: 0, slow: SlowCalls::default() }
    }

    /// Whether a step has begun since the last check, or is running.
    fn has_moved(&mut self) -> bool {
        let heartbeat = self.handle.heartbeat();
        let before = std::mem::replace(&mut self.steps, heartbeat.steps());
        before != self.steps || heartbeat.step_ms(0).is_some()
    }

    /// Wakes a shard whose guard has had no round since the last check, if no step is running.
    fn wake_if_asleep(&mut self) {
        let heartbeat = self.handle.heartbeat();
        let beats = heartbeat.beats();
        let asleep = beats == self.beats && beats > 0;
        self.beats = beats;
        if asleep && heartbeat.step_ms(0).is_none() {
            self.handle.signal().kick();
        }
    }

    fn look(&mut self, now_ms: u64, warning_ms: u64) -> Option<Finding> {
        let heartbeat = self.handle.heartbeat();
        let step = heartbeat.steps();
        let lasting = heartbeat.step_ms(now_ms);
        if let Some((told, last_ms)) = self.logged {
            if told == step && lasting.is_some() {
                self.logged = Some((told, lasting.unwrap_or(last_ms)));
                return None;
            }
            self.logged = None;
            return Some(Finding::Recovered { ms: last_ms });
        }
        let ms = lasting.filter(|ms| *ms > warning_ms)?;
        self.logged = Some((step, ms));
        Some(Finding::Stalled { ms })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use grapnel_engine::hook::{HookPoint, LinkIdentity};
    use grapnel_engine::id::ShardId;

    use super::*;

    fn watched() -> Watched {
        Watched::new(ShardHandle::new(ShardId(0)))
    }

    #[test]
    fn an_idle_shard_is_no_stall_however_long() {
        let mut shard = watched();
        shard.handle.heartbeat().begin(0);
        shard.handle.heartbeat().end();
        assert_eq!(shard.look(1_000_000, 200), None);
    }

    #[test]
    fn a_long_step_and_its_end_are_logged_once_each() {
        let mut shard = watched();
        shard.handle.heartbeat().begin(1000);
        assert_eq!(shard.look(1200, 200), None);
        assert_eq!(shard.look(1201, 200), Some(Finding::Stalled { ms: 201 }));
        assert_eq!(shard.look(1900, 200), None);
        shard.handle.heartbeat().end();
        assert_eq!(shard.look(2000, 200), Some(Finding::Recovered { ms: 900 }));
        assert_eq!(shard.look(2100, 200), None);
    }

    #[test]
    fn another_long_step_is_logged_again() {
        let mut shard = watched();
        shard.handle.heartbeat().begin(0);
        assert_eq!(shard.look(300, 200), Some(Finding::Stalled { ms: 300 }));
        shard.handle.heartbeat().end();
        shard.handle.heartbeat().begin(310);
        assert_eq!(shard.look(600, 200), Some(Finding::Recovered { ms: 300 }));
        assert_eq!(shard.look(601, 200), Some(Finding::Stalled { ms: 291 }));
    }

    #[test]
    fn a_shard_whose_guard_does_not_come_round_is_woken_unless_a_step_holds_it() {
        #[derive(Default)]
        struct Wakes(AtomicUsize);
        impl Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let wakes = Arc::new(Wakes::default());
        let mut shard = watched();
        shard.handle.signal().register(&Waker::from(Arc::clone(&wakes)));
        let mut look = |prepare: fn(&ShardHandle)| {
            prepare(&shard.handle);
            shard.wake_if_asleep();
            wakes.0.load(Ordering::SeqCst)
        };
        assert_eq!(look(|_| {}), 0, "it has not started");
        assert_eq!(look(|shard| shard.heartbeat().beat()), 0);
        assert_eq!(look(|shard| shard.heartbeat().beat()), 0);
        assert_eq!(look(|_| {}), 1, "asleep");
        assert_eq!(look(|shard| shard.heartbeat().begin(5)), 1, "held by a step");
        assert_eq!(look(|shard| shard.heartbeat().end()), 2);
        assert_eq!(look(|shard| shard.heartbeat().beat()), 2);
    }

    #[test]
    fn the_plugin_that_holds_a_shard_is_named() {
        let shard = watched();
        let name: NamePlugin =
            Box::new(|called| (called == Called::Hook(LinkIdentity(3))).then(|| "tap".to_owned()));
        assert_eq!(describe(&shard.handle, &name), "it is calling no plugin");
        shard.handle.heartbeat().call().enter(HookPoint::MessagePublish, 0);
        shard.handle.heartbeat().call().turn_of(LinkIdentity(3));
        assert_eq!(describe(&shard.handle, &name), "tap has not returned from message.publish");
        shard.handle.heartbeat().call().enter(HookPoint::MessagePublish, 0);
        shard.handle.heartbeat().call().turn_of(LinkIdentity(4));
        assert_eq!(describe(&shard.handle, &name), "hook 4 has not returned from message.publish");
    }
}
