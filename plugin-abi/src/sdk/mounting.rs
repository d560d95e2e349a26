//! Mounts and unmounts hooks at run time: which hook, with which options, and the id to unmount it.

use std::time::Duration;

use super::error::Refused;
use super::export::Exported;
use super::host::Host;
use super::ticket::deadline_ms;
use crate::module::Mount;
use crate::point::{FaultPolicy, HookPoint};
use crate::raw::{HOOK_CALLED, HOOK_WAS_CALLED, Slice, Status};

/// Options for mounting a hook at run time. The default of each is the value in the `plugin!`
/// macro.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounting {
    point: Option<HookPoint>,
    priority: Option<i32>,
    topics: Option<Vec<String>>,
    deadline: Option<Duration>,
    fault: Option<FaultPolicy>,
    deliver: Option<bool>,
    args: usize,
}

impl Mounting {
    /// The options of the `plugin!` macro.
    pub fn new() -> Mounting {
        Mounting::default()
    }

    /// The hook point, if several hooks have the same name.
    #[must_use]
    pub fn point(self, point: HookPoint) -> Mounting {
        Mounting { point: Some(point), ..self }
    }

    /// Sets the priority; higher runs earlier.
    #[must_use]
    pub fn priority(self, priority: i32) -> Mounting {
        Mounting { priority: Some(priority), ..self }
    }

    /// At the points about a message: calls the hook only for topics that match one of these
    /// filters.
    #[must_use]
    pub fn topics(self, topics: impl IntoIterator<Item = impl Into<String>>) -> Mounting {
        Mounting { topics: Some(topics.into_iter().map(Into::into).collect()), ..self }
    }

    /// The deadline of a deferred verdict, at least 1 ms.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Mounting {
        Mounting { deadline: Some(deadline), ..self }
    }

    /// Sets what a fault or a missed deadline means.
    #[must_use]
    pub fn fault(self, policy: FaultPolicy) -> Mounting {
        Mounting { fault: Some(policy), ..self }
    }

    /// At client.authorize: whether the hook is called for deliveries too.
    #[must_use]
    pub fn deliver(self, deliver: bool) -> Mounting {
        Mounting { deliver: Some(deliver), ..self }
    }

    /// Sets the value that `args()` of the hook's events returns.
    #[must_use]
    pub fn args(self, args: usize) -> Mounting {
        Mounting { args, ..self }
    }
}

/// Id of a hook that was mounted at run time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HookId(u64);

/// Whether a shard calls a hook of the plugin, before and after a change of its chains.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HookCalls {
    /// Whether it called the hook before the change. After a reload: whether it called the hook of
    /// the version before.
    pub before: bool,
    /// Whether it calls the hook from now on.
    pub now: bool,
}

impl HookCalls {
    /// Whether the change is about this hook.
    pub fn has_changed(self) -> bool {
        self.before != self.now
    }
}

impl Host {
    /// Mounts a hook of the plugin `P` by its name in the `plugin!` macro. `P` must be this plugin,
    /// and the hook must have `manual = true`. Every shard calls it from its next turn on. Any
    /// thread.
    ///
    /// # Errors
    /// [`Refused`] if `P` is another plugin, because its hook would be called with this plugin's
    /// instances; if there is no such hook or it is mounted already; for an invalid topic filter;
    /// and above `plugin_hooks_max`. The broker's log has the details.
    pub fn mount<P: Exported>(self, name: &str, mounting: &Mounting) -> Result<HookId, Refused> {
        if !self.is_of::<P>() {
            self.warn(format_args!(
                "mounts no hook {name}: it is one of the plugin {}, another type",
                P::NAME
            ));
            return Err(Refused { field: None, status: Status::INVALID });
        }
        let wanted = |point: HookPoint| mounting.point.is_none_or(|wanted| wanted == point);
        let spec = P::MOUNTS.iter().find(|spec| spec.hook_name() == name && wanted(spec.point()));
        let mut spec = *spec.ok_or(Refused { field: None, status: Status::ABSENT })?;
        if let Some(deadline) = mounting.deadline {
            spec = spec.deadline_ms(deadline_ms(deadline));
        }
        if let Some(policy) = mounting.fault {
            spec = spec.fault(policy);
        }
        if let Some(deliver) = mounting.deliver {
            spec = spec.deliver(deliver);
        }
        let topics: Vec<Slice> = match &mounting.topics {
            Some(topics) => topics.iter().map(|topic| Slice::of(topic.as_bytes())).collect(),
            None => spec.topic_list().iter().map(|topic| Slice::of(topic.as_bytes())).collect(),
        };
        let mut table = spec.table();
        table.priority = mounting.priority.unwrap_or(table.priority);
        table.topics = topics.as_ptr();
        table.topics_len = topics.len();
        table.args = mounting.args as *mut _;
        self.hook(&table)
    }

    fn hook(self, table: &Mount) -> Result<HookId, Refused> {
        let (api, mut number) = (self.api(), 0);
        // SAFETY: `hook` may be called from any thread, the table and what it points to are alive
        // during the call, and `number` is writable.
        let status = unsafe { (api.hook)(api.plugin, table, &raw mut number) };
        if status == Status::OK { Ok(HookId(number)) } else { Err(Refused { field: None, status }) }
    }

    /// Unmounts a hook that was mounted at run time. No shard calls it after the shard's next turn.
    /// Any thread.
    ///
    /// # Errors
    /// [`Refused`] if it is not mounted.
    pub fn unmount(self, hook: HookId) -> Result<(), Refused> {
        let api = self.api();
        // SAFETY: `unhook` may be called from any thread.
        let status = unsafe { (api.unhook)(api.plugin, hook.0) };
        if status == Status::OK { Ok(()) } else { Err(Refused { field: None, status }) }
    }

    /// Whether this shard calls a hook of this plugin, by its name in the `plugin!` macro. A hook is
    /// not called if the operator has unmounted it, or if the plugin is disabled or tripped. Only in
    /// [`super::Plugin::configured`], to see what has changed.
    ///
    /// # Errors
    /// [`Refused`] elsewhere.
    pub fn hook_calls(self, point: HookPoint, name: &str) -> Result<HookCalls, Refused> {
        let (api, mut bits) = (self.api(), 0);
        // SAFETY: the host checks the moment itself, the name is alive during the call, and `bits`
        // is writable.
        let status =
            unsafe { (api.hook_calls)(api.plugin, point as u32, Slice::of(name.as_bytes()), &raw mut bits) };
        Host::done(status)?;
        Ok(HookCalls { before: bits & HOOK_WAS_CALLED != 0, now: bits & HOOK_CALLED != 0 })
    }
}
