//! Starts the shards, each on a thread of its own, and reports to the process when they run and
//! end. Called by `supervise`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Setup, Shard, Totals};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::closings::Closings;
use super::handle::ShardHandle;
use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::mesh::Mesh;
use super::state::{EngineMesh, ShardConfig, share};
use super::turn::{Turn, WakerTask};
use crate::{fatal, rt};

/// Reports of a shard or the process to `main`.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The shard runs and serves requests.
    Running(ShardId),
    /// The draining shard has no clients any more.
    Drained(ShardId),
    /// The shard has ended, with the cause if it was not requested.
    Ended(ShardId, Option<String>),
    /// The process got a signal.
    Signal(i32),
}

/// A shard's thread could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread of shard {shard}: {cause}; see `ulimit -u` (threads)")]
pub struct StartError {
    /// Which shard.
    pub shard: ShardId,
    /// The system's error.
    #[source]
    pub cause: std::io::Error,
}

/// Starts a shard for each setup, in order of their ids, with the handle of the same index. Returns
/// at once; each shard reports [`Event::Running`] or [`Event::Ended`].
///
/// # Errors
/// [`StartError`] if a thread cannot be made; shards that have started keep running.
pub fn start(
    setups: Vec<Setup>,
    handles: &[ShardHandle],
    limits: &Arc<ShellLimits>,
    clock: Clock,
    events: &Sender<Event>,
) -> Result<(), StartError> {
    let mesh: Arc<EngineMesh> = Arc::new(Mesh::new(handles, limits));
    let totals = Arc::new(Totals::default());
    let cores = cores_for(handles.len());
    for (place, (setup, handle)) in setups.into_iter().zip(handles).enumerate() {
        let shard = setup.id;
        debug_assert_eq!(shard, handle.id(), "setups and handles are in one order");
        let config = ShardConfig {
            limits: Arc::clone(limits),
            handle: handle.clone(),
            mesh: Arc::clone(&mesh),
            clock,
            shards: handles.len(),
        };
        let core = cores.get(place).copied();
        let (events, totals) = (events.clone(), Arc::clone(&totals));
        std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || {
                let cause = run((setup, totals), config, core, &events).err();
                // The receiver is gone only if the process is ending.
                let _ = events.send(Event::Ended(shard, cause));
            })
            .map_err(|cause| StartError { shard, cause })?;
    }
    Ok(())
}

fn run(
    (setup, totals): (Setup, Arc<Totals>),
    config: ShardConfig,
    core: Option<usize>,
    events: &Sender<Event>,
) -> Result<(), String> {
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(core);
        // A container may remove the core in between; the shard then runs on any core.
        if let Err(errno) = sched_setaffinity(None, &set) {
            tracing::debug!("shard {} is not pinned to core {core}: {errno}", setup.id);
        }
    }
    config.handle.enter();
    let _stack = fatal::enter_shard(setup.id, Arc::clone(config.handle.heartbeat().call()));
    let executor = rt::Executor::new().map_err(|error| error.to_string())?;
    let (handle, events) = (config.handle.clone(), events.clone());
    let life = async move {
        let no_watch = |error: std::io::Error| format!("cannot watch connections that are not read: {error}");
        let mut engine = Shard::new(setup);
        engine.share_totals(totals);
        let shared = share(engine, config).map_err(no_watch)?;
        rt::spawn(Closings::new(Rc::clone(&shared)).map_err(no_watch)?);
        rt::spawn(WakerTask::new(Rc::clone(&shared)));
        rt::spawn(guard(handle));
        Turn::new(shared, events).await;
        Ok(())
    };
    let ended = catch_unwind(AssertUnwindSafe(|| executor.run(life)));
    // The process is about to end. Waiting tasks are lost in any case, and dropping the executor
    // after a panic might panic again.
    std::mem::forget(executor);
    ended.map_err(|panic| format!("panicked: {}", text_of(&*panic)))?
}

fn guard(handle: ShardHandle) -> rt::Guard<impl FnMut() -> bool + Unpin> {
    let mut last = 0;
    rt::Guard::new(move || {
        let heartbeat = handle.heartbeat();
        heartbeat.beat();
        std::mem::replace(&mut last, heartbeat.steps()) != heartbeat.steps()
    })
}

/// A core for each shard, if there are enough cores; otherwise none, and the system places the
/// threads. The first core depends on the process id, so that several brokers on one machine do not
/// use the same cores.
fn cores_for(shards: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    if shards > cores.len() {
        return Vec::new();
    }
    let first = std::process::id() as usize % cores.len();
    cores.rotate_left(first);
    cores.truncate(shards);
    cores
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
