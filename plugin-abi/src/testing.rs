//! Runs a plugin's hooks in unit tests, without a broker. [`load`] calls the same functions as the
//! broker's loader, and [`FakeEvent`] replaces the event that the broker passes to a hook. No
//! broker uses this module.
//!
//! The example in the documentation of the crate shows both.

mod event;
mod fake_host;
mod points;
mod reload;
mod verb;

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use event::FakeEvent;
pub use fake_host::{BehalfAction, BehalfRequest, Published};

use fake_host::FakeCommands;

use crate::host::{self, Entry};
use crate::module::{ErrorText, PluginModuleRef};
use crate::raw::{self, Change, HostApi, Slice, Status, Ticket};
use crate::sdk::{Exported, Level, MountSpec, module};
use crate::verb::Answer;

/// The result of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every hook of the point returned Continue.
    Continue,
    /// A hook ended the chain.
    Stop,
    /// A hook deferred its verdict: call [`FakeEvent::wait`].
    Deferred,
    /// A hook failed; its changes are discarded.
    Fault,
}

/// Loads a plugin on one shard. `config` is JSON, such as `{"key": "value"}`; empty text means
/// `{}`.
///
/// # Errors
/// The sentence that the operator would get.
pub fn load<P: Exported>(config: &str) -> Result<TestPlugin<P>, String> {
    load_on(1, config)
}

/// Loads a plugin on several shards.
///
/// # Errors
/// The sentence that the operator would get.
pub fn load_on<P: Exported>(shards: u32, config: &str) -> Result<TestPlugin<P>, String> {
    load_at(FakeCommands::of(shards), shards, config)
}

/// As [`load_on`], with its own command queue, which is in use from the plugin's first call.
fn load_at<P: Exported>(fake: FakeCommands, shards: u32, config: &str) -> Result<TestPlugin<P>, String> {
    let handle = NEXT.fetch_add(1, Ordering::Relaxed);
    let api: &'static HostApi = Box::leak(Box::new(HostApi {
        log: fake_log,
        complete: fake_complete,
        publish: fake_host::publish,
        publish_as: fake_host::publish_as,
        subscribe_as: fake_host::subscribe_as,
        unsubscribe_as: fake_host::unsubscribe_as,
        authorize_as: fake_host::authorize_as,
        fetch_as: fake_host::fetch_as,
        instance_message: fake_host::instance_message,
        timer: fake_host::timer,
        cancel_timer: fake_host::cancel_timer,
        in_flight: fake_host::in_flight,
        ..host::host_api(handle, shards)
    }));
    registry().command_queues.insert(handle, fake);
    let table = module::<P>();
    let mut plugin = TestPlugin {
        table,
        handle,
        shared: std::ptr::null_mut(),
        shards: Vec::new(),
        active: false,
        alive: Rc::new(()),
        of: PhantomData,
    };
    let config = Slice::of(config.as_bytes());
    // SAFETY: the text is alive during the call and the error buffer is `with_error`'s.
    with_error(|error| unsafe { table.check_config()(config, error) })?;
    // SAFETY: likewise, and the table is leaked.
    with_error(|error| unsafe { table.load()(api, config, &raw mut plugin.shared, error) })?;
    for shard in 0..shards {
        let mut instance = std::ptr::null_mut();
        // SAFETY: `shared` is what `load` gave; this thread simulates every shard.
        let made = with_error(|error| {
            // SAFETY: as above.
            fake_host::on_shard(shard, || unsafe {
                table.init_shard()(plugin.shared, shard, &raw mut instance, error)
            })
        });
        made?;
        plugin.shards.push(instance);
    }
    // SAFETY: `shared` is what `load` gave.
    with_error(|error| unsafe { table.activate()(plugin.shared, error) })?;
    plugin.active = true;
    Ok(plugin)
}

fn with_error(call: impl FnOnce(*mut ErrorText) -> Status) -> Result<(), String> {
    let mut buffer = vec![0; ErrorText::CAPACITY];
    let mut text = ErrorText::over(&mut buffer);
    if call(&raw mut text) == Status::OK {
        return Ok(());
    }
    let len = text.len.min(buffer.len());
    Err(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

/// A loaded plugin. Dropping it deactivates and unloads it.
pub struct TestPlugin<P> {
    table: PluginModuleRef,
    handle: u64,
    shared: *mut c_void,
    shards: Vec<*mut c_void>,
    active: bool,
    /// Dropped together with the plugin.
    alive: Rc<()>,
    of: PhantomData<P>,
}

impl<P> std::fmt::Debug for TestPlugin<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestPlugin(on {} shards)", self.shards.len())
    }
}

impl<P: Exported> TestPlugin<P> {
    /// Runs all hooks of the plugin at the event's point, on shard 0.
    pub fn run(&mut self, event: &mut FakeEvent) -> Outcome {
        self.run_on(0, event)
    }

    /// Runs all hooks of the plugin at the event's point, on this shard: those whose topic filters
    /// match the event's current topic, and at `client.authorize` for a delivery those that are
    /// mounted with `deliver`. If a hook defers, [`FakeEvent::wait`] calls the later hooks,
    /// provided the verdict continues the chain.
    pub fn run_on(&mut self, shard: u32, event: &mut FakeEvent) -> Outcome {
        let mut hooks: Vec<_> =
            P::MOUNTS.iter().filter(|mount| mount.point() == event.point() && !mount.is_manual()).collect();
        hooks.sort_by_key(|mount| std::cmp::Reverse(mount.order()));
        event.remaining = None;
        RemainingHooks {
            hooks: hooks.into(),
            instance: self.shards[shard as usize],
            shard,
            alive: Rc::downgrade(&self.alive),
        }
        .run(event)
    }

    /// Calls a verb of the plugin, as `grapnel-ctl` does. `given` has the arguments as they are
    /// typed, a flag as `true`, and also those that the broker would fill in.
    ///
    /// # Errors
    /// The sentence that the caller would get.
    pub fn verb(&self, name: &str, given: &[(&str, &str)]) -> Result<Answer, String> {
        verb::call(&self.table, self.shared, name, given)
    }

    /// All log lines of the plugin so far.
    pub fn logs(&self) -> Vec<(Level, String)> {
        registry().logs.get(&self.handle).cloned().unwrap_or_default()
    }
}

/// The hooks of a chain that have not been called yet.
#[derive(Debug)]
struct RemainingHooks {
    hooks: VecDeque<&'static MountSpec>,
    instance: *mut c_void,
    shard: u32,
    /// Whether the plugin of the instance is still loaded.
    alive: Weak<()>,
}

impl RemainingHooks {
    fn run(mut self, event: &mut FakeEvent) -> Outcome {
        while let Some(mount) = self.hooks.pop_front() {
            if !event.is_for(mount) {
                continue;
            }
            if self.alive.strong_count() == 0 {
                // The plugin was unloaded meanwhile: the broker continues without it.
                return Outcome::Continue;
            }
            // SAFETY: the code is this test's own. The instance lives as long as its plugin does,
            // which is neither sent to another thread nor dropped while this runs, and no other
            // call of it is going on.
            let entry = unsafe { Entry::new(mount.hook(), self.instance) };
            match fake_host::on_shard(self.shard, || event.call(entry, self.shard)) {
                raw::Flow::CONTINUE => {}
                raw::Flow::STOP => return Outcome::Stop,
                raw::Flow::DEFER => {
                    event.remaining = Some(self);
                    return Outcome::Deferred;
                }
                _ => return Outcome::Fault,
            }
        }
        Outcome::Continue
    }
}

impl<P> Drop for TestPlugin<P> {
    fn drop(&mut self) {
        // SAFETY: each pointer is what the plugin gave, is handed back once and in the order of the
        // contract.
        unsafe {
            if self.active {
                self.table.deactivate()(self.shared);
            }
            for instance in self.shards.drain(..) {
                self.table.drop_shard()(instance);
            }
            if !self.shared.is_null() {
                self.table.unload()(self.shared);
            }
        }
        let mut registry = registry();
        registry.logs.remove(&self.handle);
        registry.command_queues.remove(&self.handle);
    }
}

/// A completed ticket, copied during the call that completed it.
#[derive(Debug)]
struct Completed {
    flow: raw::Flow,
    changes: Vec<CompletedChange>,
}

#[derive(Debug)]
struct CompletedChange {
    field: raw::Field,
    index: u32,
    number: u64,
    bytes: Vec<u8>,
    key: Vec<u8>,
}

#[derive(Default)]
struct Registry {
    logs: HashMap<u64, Vec<(Level, String)>>,
    tickets: HashMap<u64, Sender<Completed>>,
    command_queues: HashMap<u64, FakeCommands>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

struct Registered(MutexGuard<'static, Option<Registry>>);

impl std::ops::Deref for Registered {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        self.0.as_ref().expect("`registry` has filled it")
    }
}

impl std::ops::DerefMut for Registered {
    fn deref_mut(&mut self) -> &mut Registry {
        self.0.as_mut().expect("`registry` has filled it")
    }
}

fn registry() -> Registered {
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    registry.get_or_insert_default();
    Registered(registry)
}

/// A ticket whose completion is sent to `sender`.
fn open_ticket(sender: Sender<Completed>) -> Ticket {
    let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
    registry().tickets.insert(ticket, sender);
    Ticket(ticket)
}

unsafe extern "C" fn fake_log(plugin: u64, level: u32, message: Slice) {
    let level = match level {
        1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        4 => Level::Debug,
        _ => Level::Trace,
    };
    // SAFETY: the plugin lends the message for the call.
    let message = String::from_utf8_lossy(unsafe { message.bytes() }).into_owned();
    registry().logs.entry(plugin).or_default().push((level, message));
}

unsafe extern "C" fn fake_complete(
    ticket: Ticket,
    flow: raw::Flow,
    changes: *const Change,
    count: usize,
) -> Status {
    if count > host::COMPLETION_CHANGES_MAX {
        return Status::FULL;
    }
    if changes.is_null() && count > 0 {
        return Status::INVALID;
    }
    let Some(sender) = registry().tickets.remove(&ticket.0) else { return Status::STALE };
    let changes = (0..count)
        .map(|at| {
            // SAFETY: `changes` is not null where `count` is above 0, and the plugin lends that
            // many for the call.
            let change = unsafe { &*changes.add(at) };
            // SAFETY: likewise what each points to.
            let (bytes, key) = unsafe { (change.bytes.bytes().to_vec(), change.key.bytes().to_vec()) };
            CompletedChange { field: change.field, index: change.index, number: change.number, bytes, key }
        })
        .collect();
    // The test may have dropped the event; then the completion is not needed.
    let _ = sender.send(Completed { flow, changes });
    Status::OK
}
