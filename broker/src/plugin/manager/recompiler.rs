//! The recompiler: a thread for jobs that plugins and shards request and that no shard may wait
//! for. It puts hooks that were mounted at run time into the chains, trips a plugin on all shards
//! and re-arms it, and ends generations whose threads need time. It takes the loader's lock as
//! every transaction does. Started and ended with the manager.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grapnel_engine::hook::PluginHandle;
use grapnel_engine::id::ShardId;

use super::active::{Active, slots};
use super::loader_state::LoaderState;
use super::view::View;
use crate::plugin::host::jobs::{Job, Jobs};
use crate::plugin::host::revocations::Revocations;

/// Time after which a step that a shard did not answer is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it checks whether retiring generations have ended.
const RETIRING_CHECK_EVERY: Duration = Duration::from_millis(100);

/// The thread. Dropping it ends it.
pub(in crate::plugin) struct Recompiler {
    jobs: Jobs,
    thread: Option<JoinHandle<()>>,
}

impl Recompiler {
    /// Starts the thread on the manager's loader and view.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(in crate::plugin) fn start(
        loader: Arc<Mutex<LoaderState>>,
        view: Arc<RwLock<View>>,
    ) -> std::io::Result<Recompiler> {
        let (sender, receiver) = channel();
        let jobs = Jobs { sender, waiting: Arc::default(), revoked: Arc::default() };
        let (waiting, revoked) = (Arc::clone(&jobs.waiting), Arc::clone(&jobs.revoked));
        let thread = std::thread::Builder::new()
            .name("recompiler".to_owned())
            .spawn(move || serve(&receiver, (&waiting, &revoked), &loader, &view))?;
        Ok(Recompiler { jobs, thread: Some(thread) })
    }

    pub(in crate::plugin) fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }
}

impl Drop for Recompiler {
    fn drop(&mut self) {
        // The thread ends early only by a panic, which is logged already.
        let _ = self.jobs.sender.send(Job::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    jobs: &Receiver<Job>,
    (waiting, revoked): (&AtomicBool, &Mutex<Revocations>),
    loader: &Mutex<LoaderState>,
    view: &RwLock<View>,
) {
    let (mut again, mut retiring) = (false, false);
    let mut rearm: Vec<(Instant, PluginHandle)> = Vec::new();
    loop {
        let next = rearm.iter().map(|(at, _)| *at).min();
        let until_rearm = next.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        let mut timeout = if again { RETRY.min(until_rearm) } else { until_rearm };
        if retiring {
            timeout = timeout.min(RETIRING_CHECK_EVERY);
        }
        let revocations = || revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = revocations().due() {
            timeout = timeout.min(at.saturating_duration_since(Instant::now()));
        }
        match jobs.recv_timeout(timeout) {
            Ok(Job::Compile) => waiting.store(false, Ordering::Release),
            Ok(Job::Tripped(plugin, shard)) => {
                let after = trip(loader, view, plugin, shard);
                rearm.extend(after.map(|after| (Instant::now() + after, plugin)));
            }
            Ok(Job::Revoked | Job::Retiring) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => {
                revocations().log();
                return;
            }
        }
        let now = Instant::now();
        if revocations().due().is_some_and(|at| at <= now) {
            revocations().log();
        }
        for (_, plugin) in rearm.extract_if(.., |(at, _)| *at <= now) {
            arm(view, plugin);
        }
        again = !compile(loader, view);
        retiring = loader.lock().unwrap_or_else(PoisonError::into_inner).end_retiring();
    }
}

fn active(view: &RwLock<View>) -> Vec<Arc<Active>> {
    view.read().unwrap_or_else(PoisonError::into_inner).active.clone()
}

/// Trips a plugin, unless it is tripped already or has ended. Returns the time after which it is
/// re-armed.
fn trip(
    loader: &Mutex<LoaderState>,
    view: &RwLock<View>,
    plugin: PluginHandle,
    shard: ShardId,
) -> Option<Duration> {
    // The lock ensures that no transaction is running, which could be about to load the plugin.
    let turn = loader.lock().unwrap_or_else(PoisonError::into_inner);
    let active = active(view);
    let active = active.iter().find(|active| active.handle() == plugin);
    if let Some(active) = active.filter(|active| active.trip(shard)) {
        turn.services.count_trip(&active.name);
        tracing::error!(
            plugin = &*active.name,
            "the plugin is tripped, because it failed too often on shard {shard}: its hooks are not called and act by their \
             fault policies; `grapnel-ctl plugins rearm {}` calls it again",
            active.name
        );
    }
    turn.services.rearm_after()
}

fn arm(view: &RwLock<View>, plugin: PluginHandle) {
    let active = active(view);
    if let Some(active) = active.iter().find(|active| active.handle() == plugin)
        && active.rearm().is_some()
    {
        tracing::warn!(plugin = &*active.name, "the plugin is called again after breaker_rearm_ms");
    }
}

/// Compiles the chains and swaps them if a plugin's hooks have changed; false if a shard did not
/// answer.
fn compile(loader: &Mutex<LoaderState>, view: &RwLock<View>) -> bool {
    let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
    let active = active(view);
    let Some(changed) = active.iter().find(|plugin| plugin.is_changed()) else { return true };
    let slots = slots(&active);
    let result = loader.swap(&changed.name, &slots, &slots);
    let mut view = view.write().unwrap_or_else(PoisonError::into_inner);
    view.totals.clone_from(&loader.totals);
    view.table_generation = loader.table_generation;
    if let Err(error) = result {
        active.iter().for_each(|plugin| plugin.change());
        tracing::warn!("the chains are not as they should be yet, and are tried again: {error}");
        return false;
    }
    drop(view);
    loader.log_access(&slots);
    true
}
