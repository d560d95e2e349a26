//! The recompiler: a thread for work that plugins and shards request and that no shard may wait
//! for. It puts hooks that were mounted at run time into the chains, trips a plugin on all shards
//! and re-arms it, and ends generations that take their time. It takes its turn among the
//! transactions. Started and ended with the manager.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grapnel_engine::hook::PluginHandle;
use grapnel_engine::id::ShardId;

use super::active::{Active, seats};
use super::revoked::Revocations;
use super::services;
use super::transaction::Workshop;
use super::view::View;

/// Time after which what a shard did not answer is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it looks whether generations have come to their end.
const RETIRING_LOOK: Duration = Duration::from_millis(100);

enum Errand {
    /// Something has changed about what is in the chains.
    Compile,
    /// A shard has tripped a plugin.
    Tripped(PluginHandle, ShardId),
    /// A generation is to end.
    Retiring,
    /// Subscriptions were revoked, after a while without.
    Revoked,
    Stop,
}

/// Where errands are handed in. Any thread; cheap to clone.
#[derive(Clone)]
pub(super) struct Errands {
    sender: Sender<Errand>,
    /// One that has not been taken up is enough for all.
    waiting: Arc<AtomicBool>,
    /// What the log has not been told yet.
    revoked: Arc<Mutex<Revocations>>,
}

impl Errands {
    /// Has the chains compiled again. Returns at once.
    pub(super) fn remount(&self) {
        if !self.waiting.swap(true, Ordering::AcqRel) {
            // The attendant has gone with its manager: there are no chains left.
            let _ = self.sender.send(Errand::Compile);
        }
    }

    /// Trips a plugin on all shards, because one has done so. Returns at once.
    pub(super) fn tripped(&self, plugin: PluginHandle, shard: ShardId) {
        // As above.
        let _ = self.sender.send(Errand::Tripped(plugin, shard));
    }

    /// Has the log told of subscriptions that were revoked: by this plugin, or, where there is none, as nobody allows them.
    /// Returns at once.
    pub(super) fn revoked(&self, plugin: Option<Arc<str>>, subscriptions: u64) {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if revoked.add(plugin, subscriptions, Instant::now()) {
            // As above.
            let _ = self.sender.send(Errand::Revoked);
        }
    }
}

impl Errands {
    /// Has a generation ended when its threads have, or its time is over. Returns at once.
    pub(super) fn retiring(&self) {
        // As above.
        let _ = self.sender.send(Errand::Retiring);
    }
}

/// The thread. Dropping it ends it.
pub(super) struct Attendant {
    errands: Errands,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    /// Starts it over what the manager holds.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(super) fn start(
        workshop: Arc<Mutex<Workshop>>,
        view: Arc<RwLock<View>>,
    ) -> std::io::Result<Attendant> {
        let (sender, receiver) = channel();
        let errands = Errands { sender, waiting: Arc::default(), revoked: Arc::default() };
        let (waiting, revoked) = (Arc::clone(&errands.waiting), Arc::clone(&errands.revoked));
        let thread = std::thread::Builder::new()
            .name("attendant".to_owned())
            .spawn(move || serve(&receiver, (&waiting, &revoked), &workshop, &view))?;
        Ok(Attendant { errands, thread: Some(thread) })
    }

    pub(super) fn errands(&self) -> Errands {
        self.errands.clone()
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        // It has ended by itself only where it panicked, which it has said.
        let _ = self.errands.sender.send(Errand::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    errands: &Receiver<Errand>,
    (waiting, revoked): (&AtomicBool, &Mutex<Revocations>),
    workshop: &Mutex<Workshop>,
    view: &RwLock<View>,
) {
    let (mut again, mut retiring) = (false, false);
    let mut rearm: Vec<(Instant, PluginHandle)> = Vec::new();
    loop {
        let next = rearm.iter().map(|(at, _)| *at).min();
        let until_rearm = next.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        let mut timeout = if again { RETRY.min(until_rearm) } else { until_rearm };
        if retiring {
            timeout = timeout.min(RETIRING_LOOK);
        }
        let revocations = || revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = revocations().due() {
            timeout = timeout.min(at.saturating_duration_since(Instant::now()));
        }
        match errands.recv_timeout(timeout) {
            Ok(Errand::Compile) => waiting.store(false, Ordering::Release),
            Ok(Errand::Tripped(plugin, shard)) => {
                trip(workshop, view, plugin, shard);
                rearm.extend(services::rearm_after().map(|after| (Instant::now() + after, plugin)));
            }
            Ok(Errand::Revoked | Errand::Retiring) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Errand::Stop) | Err(RecvTimeoutError::Disconnected) => {
                revocations().tell();
                return;
            }
        }
        let now = Instant::now();
        if revocations().due().is_some_and(|at| at <= now) {
            revocations().tell();
        }
        for (_, plugin) in rearm.extract_if(.., |(at, _)| *at <= now) {
            arm(view, plugin);
        }
        again = !compile(workshop, view);
        retiring = workshop.lock().unwrap_or_else(PoisonError::into_inner).end_retiring();
    }
}

fn active(view: &RwLock<View>) -> Vec<Arc<Active>> {
    view.read().unwrap_or_else(PoisonError::into_inner).active.clone()
}

/// Remembers that a plugin is tripped, unless it is already or has ended.
fn trip(workshop: &Mutex<Workshop>, view: &RwLock<View>, plugin: PluginHandle, shard: ShardId) {
    // Not in the midst of a transaction, which may be about to put it in.
    let _turn = workshop.lock().unwrap_or_else(PoisonError::into_inner);
    let active = active(view);
    let Some(active) = active.iter().find(|active| active.handle() == plugin) else { return };
    if active.trip(shard) {
        services::count_trip(&active.name);
        tracing::error!(
            plugin = &*active.name,
            "the plugin is tripped, because it failed too often on shard {shard}: its hooks are not called and act by their \
             fault policies; `grapnel-ctl plugins rearm {}` calls it again",
            active.name
        );
    }
}

fn arm(view: &RwLock<View>, plugin: PluginHandle) {
    let active = active(view);
    if let Some(active) = active.iter().find(|active| active.handle() == plugin)
        && active.rearm().is_some()
    {
        tracing::warn!(plugin = &*active.name, "the plugin is called again after breaker_rearm_ms");
    }
}

/// Puts what is mounted into force, if that is not so yet; false where a shard did not answer.
fn compile(workshop: &Mutex<Workshop>, view: &RwLock<View>) -> bool {
    let mut workshop = workshop.lock().unwrap_or_else(PoisonError::into_inner);
    let active = active(view);
    let Some(changed) = active.iter().find(|plugin| plugin.is_changed()) else { return true };
    let seats = seats(&active);
    let result = workshop.swap(&changed.name, &seats, &seats);
    let mut view = view.write().unwrap_or_else(PoisonError::into_inner);
    view.totals.clone_from(&workshop.totals);
    view.table_generation = workshop.table_generation;
    if let Err(error) = result {
        active.iter().for_each(|plugin| plugin.change());
        tracing::warn!("the chains are not as they should be yet, and are tried again: {error}");
        return false;
    }
    drop(view);
    workshop.tell_access(&seats);
    true
}
