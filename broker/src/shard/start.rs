//! Starts the shards, each on a thread of its own, and reports to the process when they run and
//! end. Called by `supervise`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Setup, Shard, Totals};

use super::handle::ShardHandle;
use super::heartbeat::Clock;
use super::limits::ShellLimits;
use super::mesh::Mesh;
use super::state::{EngineMesh, ShardConfig, State};
use super::turn;
use crate::fatal;
use crate::rt::{self, Io};

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
    (clock, io): (Clock, Io),
    events: &Sender<Event>,
) -> Result<(), StartError> {
    let mesh: Arc<EngineMesh> = Arc::new(Mesh::new(handles, limits));
    let totals = Arc::new(Totals::default());
    let cores = rt::cores_for(handles.len());
    for (place, (setup, handle)) in setups.into_iter().zip(handles).enumerate() {
        let shard = setup.id;
        debug_assert_eq!(shard, handle.id(), "setups and handles are in one order");
        let config = ShardConfig {
            limits: Arc::clone(limits),
            handle: handle.clone(),
            mesh: Arc::clone(&mesh),
            clock,
            shards: handles.len(),
            io,
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
        rt::pin_to(core);
    }
    config.handle.enter();
    let _stack = fatal::enter_shard(setup.id, Arc::clone(config.handle.heartbeat().call()));
    let io = config.io;
    let events = events.clone();
    let life = move || {
        let mut engine = Shard::new(setup);
        engine.share_totals(totals);
        let failed = |error: std::io::Error| format!("cannot wait for sockets with {}: {error}", io.name());
        let mut state = State::new(engine, config).map_err(failed)?;
        turn::run(&mut state, &events).map_err(failed)
    };
    catch_unwind(AssertUnwindSafe(life)).map_err(|panic| format!("panicked: {}", text_of(&*panic)))?
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
