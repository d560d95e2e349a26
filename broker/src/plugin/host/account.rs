//! The account of a generation of a plugin that may send commands: how much it has published, what
//! waits for it, and what is logged about its commands. Held by `commands`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use grapnel_engine::shard::Outcome;

use super::flows::Flows;
use super::suspended::SuspendedRequests;
use crate::shard::handle::ShardHandle;

/// The state of a generation that may send commands.
pub(super) struct Account {
    pub(super) name: Arc<str>,
    /// Its bit in the ancestry of messages.
    bit: u64,
    /// Whether a message may carry the bit.
    may_carry_bit: AtomicBool,
    /// High half: the current second since the start. Low half: publishes in that second.
    published: AtomicU64,
    replayed: AtomicBool,
    flows: Mutex<Flows>,
    /// Number of commands about clients that had no effect.
    missed: AtomicU64,
    /// Shared with the previous version if this one has taken over its state: the answers to both
    /// wait for the same plugin.
    suspended: RwLock<Arc<SuspendedRequests>>,
}

impl Account {
    /// The account of a new generation. `leads` if its hooks can add messages without a command.
    pub(super) fn new(name: Arc<str>, bit: u8, leads: bool) -> Account {
        Account {
            name,
            bit: 1 << (bit & 63),
            may_carry_bit: AtomicBool::new(leads),
            published: AtomicU64::new(0),
            replayed: AtomicBool::new(false),
            flows: Mutex::default(),
            missed: AtomicU64::new(0),
            suspended: RwLock::default(),
        }
    }

    /// Notes that messages may carry its bit.
    pub(super) fn note_led(&self) {
        self.may_carry_bit.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_led(&self) -> bool {
        self.may_carry_bit.load(Ordering::Relaxed)
    }

    /// Whether the one replay of the generation begins.
    pub(super) fn begins_replay(&self) -> bool {
        !self.replayed.swap(true, Ordering::Relaxed)
    }

    /// Its requests that wait while it is suspended.
    pub(super) fn suspended(&self) -> Arc<SuspendedRequests> {
        Arc::clone(&self.suspended.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on its requests are counted together with those of another generation.
    pub(super) fn share_suspended(&self, shared: Arc<SuspendedRequests>) {
        *self.suspended.write().unwrap_or_else(PoisonError::into_inner) = shared;
    }

    pub(super) fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called when a command about a client had no effect. Logs the first, second, fourth, eighth …
    /// time.
    pub(super) fn missed(&self, command: &str, client_id: &str, filter: &str, outcome: Outcome) {
        let times = self.missed.fetch_add(1, Ordering::Relaxed) + 1;
        if !times.is_power_of_two() {
            return;
        }
        let why = match (command, outcome) {
            (_, Outcome::Done) => return,
            (_, Outcome::Absent) => "no client of that name has a session here",
            ("kick", _) => "it is not connected; its session stays",
            ("unsubscribe", _) => "it has no such subscription",
            _ => "it may have no more subscriptions, or none of that kind",
        };
        let plugin = &*self.name;
        let about = if filter.is_empty() { String::new() } else { format!(" {filter:?}") };
        tracing::warn!(
            plugin,
            "{plugin}: {command}{about} of client {client_id:?} is not done: {why} ({times} so far)"
        );
    }

    /// The shard whose hook sends the command, if a hook does, and the ancestry of the resulting
    /// message: the ancestry of the event and the plugin's own bit.
    pub(super) fn origin_of_command(&self) -> (Option<ShardHandle>, u64) {
        let here = ShardHandle::here().filter(|here| here.heartbeat().call().is_calling());
        let ancestry = here.as_ref().map_or(0, |here| here.heartbeat().call().ancestry()) | self.bit;
        (here, ancestry)
    }

    /// Counts a publish in this second; false beyond the limit.
    pub(super) fn may_publish(&self, second: u64, max: u64) -> bool {
        let counted = self.published.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            let (then, count) = (before >> 32, before & u64::from(u32::MAX));
            let count = if then == second & u64::from(u32::MAX) { count } else { 0 };
            (count < max).then_some((second & u64::from(u32::MAX)) << 32 | (count + 1))
        });
        counted.is_ok()
    }
}
