//! Mounting and unmounting hooks at run time: which hook, with which arguments, and the handle that
//! unmounts it.

use std::time::Duration;

use super::error::Refused;
use super::export::Exported;
use super::host::Host;
use super::ticket::deadline_ms;
use crate::module::Mount;
use crate::point::{FaultPolicy, HookPoint};
use crate::raw::{Slice, Status};

/// How a hook is mounted at run time; what is not said is as the `plugin!` macro has it.
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
    /// As the `plugin!` macro has it.
    pub fn new() -> Mounting {
        Mounting::default()
    }

    /// The hook of this point, where several have one name.
    #[must_use]
    pub fn point(self, point: HookPoint) -> Mounting {
        Mounting { point: Some(point), ..self }
    }

    /// Higher runs earlier.
    #[must_use]
    pub fn priority(self, priority: i32) -> Mounting {
        Mounting { priority: Some(priority), ..self }
    }

    /// At the points about a message: only topics that match one of these filters.
    #[must_use]
    pub fn topics(self, topics: impl IntoIterator<Item = impl Into<String>>) -> Mounting {
        Mounting { topics: Some(topics.into_iter().map(Into::into).collect()), ..self }
    }

    /// How long a deferred verdict may take, at least a millisecond.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Mounting {
        Mounting { deadline: Some(deadline), ..self }
    }

    /// What a fault or a missed deadline means.
    #[must_use]
    pub fn fault(self, policy: FaultPolicy) -> Mounting {
        Mounting { fault: Some(policy), ..self }
    }

    /// At client.authorize: whether it is asked for deliveries too.
    #[must_use]
    pub fn deliver(self, deliver: bool) -> Mounting {
        Mounting { deliver: Some(deliver), ..self }
    }

    /// Comes back as `args()` of the events that the hook is called with.
    #[must_use]
    pub fn args(self, args: usize) -> Mounting {
        Mounting { args, ..self }
    }
}

/// A hook that was mounted at run time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HookId(u64);

impl Host {
    /// Mounts a hook of the plugin `P`, which is this one, by its name in the `plugin!` macro, where `manual = true` kept it from
    /// being mounted at once. Every shard calls it from its next turn on. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for the type of another plugin, whose hook would be called with this one's instances; where there is no such hook,
    /// where it is mounted already, for a topic filter that cannot be, and beyond `plugin_hooks_max`. The broker's log says more.
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
        // SAFETY: `hook` may be called from any thread, the table and what it points to are alive during the call, and `number` is
        // writable.
        let status = unsafe { (api.hook)(api.plugin, table, &raw mut number) };
        if status == Status::OK { Ok(HookId(number)) } else { Err(Refused { field: None, status }) }
    }

    /// Takes a hook that was mounted at run time out again: no shard calls it after its next turn. Any thread.
    ///
    /// # Errors
    /// [`Refused`] where it is not mounted.
    pub fn unmount(self, hook: HookId) -> Result<(), Refused> {
        let api = self.api();
        // SAFETY: `unhook` may be called from any thread.
        let status = unsafe { (api.unhook)(api.plugin, hook.0) };
        if status == Status::OK { Ok(()) } else { Err(Refused { field: None, status }) }
    }
}
