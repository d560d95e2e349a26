//! A thread that observes every shard. It logs when a single step takes long, and in which plugin,
//! and which calls of plugins were slow (`slow.rs`). It sleeps while all shards are idle. Started by
//! `supervise` before the shards; ends with the process or when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use grapnel_engine::hook::Called;

use super::handle::ShardHandle;
use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::slow::SlowCalls;

/// Maximum time between two checks while a shard has work, milliseconds.
const LOOK_EVERY_MS: u64 = 50;
/// Minimum time between two checks, milliseconds.
const LOOK_EVERY_MS_MIN: u64 = 5;
/// Time without work after which the watchdog sleeps until a shard wakes it, milliseconds. Being
/// woken costs the shard a system call.
const SLEEP_AFTER_MS: u64 = 1000;

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
    stop: Arc<AtomicBool>,
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
        let mut watched: Vec<Watched> = shards.into_iter().map(Watched::new).collect();
        let handles: Vec<ShardHandle> = watched.iter().map(|shard| shard.handle.clone()).collect();
        let Thresholds { stall_ms: warning_ms, slow_call_ms } = thresholds;
        let from_ns = if slow_call_ms == 0 { u64::MAX } else { slow_call_ms.saturating_mul(1_000_000) };
        watched.iter().for_each(|shard| shard.handle.heartbeat().call().set_slow_from_ns(from_ns));
        let idle_ms = (warning_ms / 4).clamp(LOOK_EVERY_MS_MIN, LOOK_EVERY_MS);
        let busy_ms =
            if slow_call_ms == 0 { idle_ms } else { slow_call_ms.clamp(LOOK_EVERY_MS_MIN, idle_ms) };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let (mut period_ms, mut idle_for_ms) = (idle_ms, 0);
            loop {
                std::thread::park_timeout(Duration::from_millis(period_ms));
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let now = clock.mono_ms();
                let busy = watched.iter_mut().filter_map(|shard| shard.has_moved().then_some(())).count() > 0;
                for shard in &mut watched {
                    shard.report(now, (warning_ms, slow_call_ms), &name);
                }
                // An idle shard has no slow calls.
                idle_for_ms = if busy { 0 } else { idle_for_ms + period_ms };
                period_ms = if busy { busy_ms } else { idle_ms };
                if idle_for_ms >= SLEEP_AFTER_MS {
                    sleep(&mut watched);
                    idle_for_ms = 0;
                }
            }
        })?;
        handles.iter().for_each(|handle| handle.heartbeat().set_watchdog(thread.thread().clone()));
        Ok(Watchdog { stop, thread: Some(thread) })
    }
}

/// Sleeps until a shard has work, or the watchdog ends.
fn sleep(watched: &mut [Watched]) {
    watched.iter().for_each(|shard| shard.handle.heartbeat().watchdog_sleeps());
    if watched.iter_mut().filter_map(|shard| shard.has_moved().then_some(())).count() == 0 {
        std::thread::park();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
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
    /// The number of steps at the last check.
    steps: u64,
    slow: SlowCalls,
}

impl Watched {
    fn new(handle: ShardHandle) -> Watched {
        Watched { handle, logged: None, steps: 0, slow: SlowCalls::default() }
    }

    /// Whether a step has begun since the last check, or is running.
    fn has_moved(&mut self) -> bool {
        let heartbeat = self.handle.heartbeat();
        let before = std::mem::replace(&mut self.steps, heartbeat.steps());
        before != self.steps || heartbeat.step_ms(0).is_some()
    }

    /// Logs what is worth a line.
    fn report(&mut self, now_ms: u64, (warning_ms, slow_call_ms): (u64, u64), name: &NamePlugin) {
        let id = self.handle.id();
        if let Some(slow) = self.slow.look(self.handle.heartbeat().call(), now_ms, slow_call_ms) {
            let plugin = name(slow.called).unwrap_or_else(|| unnamed(slow.called));
            tracing::warn!("{}", slow.sentence(&plugin, id));
        }
        match self.look(now_ms, warning_ms) {
            Some(Finding::Stalled { ms }) => {
                let what = describe(&self.handle, name);
                tracing::warn!("shard {id} has been in one step for {ms} ms: {what}");
            }
            Some(Finding::Recovered { ms }) => tracing::warn!("shard {id} goes on after about {ms} ms"),
            None => {}
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
    fn a_watchdog_sleeps_until_a_shard_has_work_and_then_observes_it() {
        let shard = ShardHandle::new(ShardId(0));
        let (named, names) = std::sync::mpsc::channel();
        let name: NamePlugin = Box::new(move |_| {
            let _ = named.send(());
            None
        });
        let thresholds = Thresholds { stall_ms: 10, slow_call_ms: 0 };
        let clock = Clock::start();
        let watchdog = Watchdog::start(vec![shard.clone()], clock, thresholds, name).expect("a thread");
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !shard.heartbeat().watchdog_is_asleep() {
            assert!(std::time::Instant::now() < until, "it does not sleep");
            std::thread::yield_now();
        }
        // A step that does not end is found, also by a watchdog that slept.
        shard.heartbeat().call().enter(HookPoint::MessagePublish, 0);
        shard.heartbeat().call().turn_of(LinkIdentity(3));
        shard.heartbeat().begin(clock.mono_ms());
        shard.heartbeat().wake_watchdog();
        names.recv_timeout(Duration::from_secs(20)).expect("the step is not found");
        drop(watchdog);
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
