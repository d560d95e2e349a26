//! A hook as the `plugin!` macro lists it. Used by the exported functions and by the test bed.

use crate::module::Mount;
use crate::point::{FaultPolicy, HookPoint};
use crate::raw::{self, HookFn, Slice};

/// One line of the `plugin!` macro.
#[derive(Clone, Copy, Debug)]
pub struct MountSpec {
    point: HookPoint,
    name: &'static str,
    hook: HookFn,
    priority: i32,
    deadline_ms: u32,
    topics: &'static [&'static str],
    deliver: bool,
    policy: u32,
    manual: bool,
}

impl MountSpec {
    /// A hook function at a hook point, with a name.
    pub const fn new(point: HookPoint, name: &'static str, hook: HookFn) -> MountSpec {
        MountSpec {
            point,
            name,
            hook,
            priority: 0,
            deadline_ms: 0,
            topics: &[],
            deliver: false,
            policy: 0,
            manual: false,
        }
    }

    /// Sets the priority; higher runs earlier. The default is 0.
    #[must_use]
    pub const fn priority(self, priority: i32) -> MountSpec {
        MountSpec { priority, ..self }
    }

    /// Sets the deadline of a deferred verdict, milliseconds. The default is the operator's.
    #[must_use]
    pub const fn deadline_ms(self, deadline_ms: u32) -> MountSpec {
        MountSpec { deadline_ms, ..self }
    }

    /// At the points about a message: calls the hook only for topics that match one of these
    /// filters.
    #[must_use]
    pub const fn topics(self, topics: &'static [&'static str]) -> MountSpec {
        MountSpec { topics, ..self }
    }

    /// At client.authorize: whether the hook is called for deliveries too.
    #[must_use]
    pub const fn deliver(self, deliver: bool) -> MountSpec {
        MountSpec { deliver, ..self }
    }

    /// Sets what a fault or a missed deadline means. The default is that of the hook point.
    #[must_use]
    pub const fn fault(self, policy: FaultPolicy) -> MountSpec {
        let policy = match policy {
            FaultPolicy::Deny => 1,
            FaultPolicy::Ignore => 2,
        };
        MountSpec { policy, ..self }
    }

    /// Sets the hook's name. The default is the method's name.
    #[must_use]
    pub const fn name(self, name: &'static str) -> MountSpec {
        MountSpec { name, ..self }
    }

    /// Whether it is mounted only by [`Host::mount`], and not when the plugin is loaded.
    #[must_use]
    pub const fn manual(self, manual: bool) -> MountSpec {
        MountSpec { manual, ..self }
    }

    pub(crate) const fn is_manual(&self) -> bool {
        self.manual
    }

    pub(crate) const fn hook_name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn topic_list(&self) -> &'static [&'static str] {
        self.topics
    }

    /// The table of the ABI, without the topics.
    pub(crate) fn table(&self) -> Mount {
        Mount {
            point: self.point as u16,
            priority: self.priority,
            deadline_ms: self.deadline_ms,
            hook: Some(self.hook),
            name: Slice::of(self.name.as_bytes()),
            flags: if self.deliver { raw::MOUNT_DELIVER } else { 0 },
            policy: self.policy,
            ..Mount::EMPTY
        }
    }

    pub(crate) const fn point(&self) -> HookPoint {
        self.point
    }

    pub(crate) const fn hook(&self) -> HookFn {
        self.hook
    }

    pub(crate) const fn order(&self) -> i32 {
        self.priority
    }

    pub(crate) const fn delivers(&self) -> bool {
        self.deliver
    }
}
