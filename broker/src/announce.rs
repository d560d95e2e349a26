//! Calls the hook points named `broker.…`, once each, on shard 0. Called by the thread that starts
//! and stops the broker. It waits for the hooks for a bounded time and then continues, whatever
//! their result.

use std::sync::Arc;
use std::time::Duration;

use grapnel_engine::hook::HookPoint;
use grapnel_engine::hook::notification::BrokerView;

use crate::shard::handle::ShardHandle;
use crate::shard::heartbeat::Clock;

/// Longest wait for the hooks of one point.
const HOOKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Notifies plugins that the broker is starting, has started, is stopping or has stopped.
#[derive(Clone, Debug)]
pub struct Announcer {
    shard: Option<ShardHandle>,
    clock: Clock,
    listeners: Arc<[String]>,
}

impl Announcer {
    /// The hooks run on the first of these shards. The clock started with the broker; the addresses
    /// are those of the listeners.
    pub fn new(shards: &[ShardHandle], clock: Clock, listeners: Vec<String>) -> Announcer {
        Announcer { shard: shards.first().cloned(), clock, listeners: listeners.into() }
    }

    /// Calls the hooks of one of the points named `broker.…`. Blocks until they have run or
    /// 5 s (`HOOKS_TIMEOUT`) have passed, so it must not be called from a shard.
    pub fn notify(&self, point: HookPoint) {
        let Some(shard) = &self.shard else { return };
        let uptime_ms = self.clock.mono_ms();
        let listeners = Arc::clone(&self.listeners);
        let called = shard.call(HOOKS_TIMEOUT, move |shard| {
            let version = env!("CARGO_PKG_VERSION");
            shard.notify_broker(point, BrokerView { version, uptime_ms, listeners: &listeners });
        });
        if let Err(error) = called {
            tracing::warn!("{error}; goes on without the hooks of {}", point.name());
        }
    }
}
