//! A plugin for the tests of slow authentication: a pool of threads, each of which blocks for
//! `delay_ms` for one client and accepts it, like a request to a directory or database. Shards only
//! send tickets to the pool.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::{Authenticate, AuthenticateTicket, Error, Flow, Host, Plugin};

#[derive(serde::Deserialize)]
struct Config {
    /// Time for one client, milliseconds.
    delay_ms: u64,
    /// Number of threads in the pool, each with one client at a time.
    threads: u32,
    /// Prefix of the client identifiers; other clients are accepted at once.
    #[serde(default)]
    client_prefix: String,
    /// Deadline of the verdict, milliseconds; 0 for the operator's default.
    #[serde(default)]
    deadline_ms: u64,
}

/// The queue of the pool.
#[derive(Default)]
struct Waiting {
    tickets: VecDeque<AuthenticateTicket>,
    /// Whether the plugin ends.
    ended: bool,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct SlowAuth {
    config: Config,
    queue: Arc<Queue>,
}

impl Plugin for SlowAuth {
    type Config = Config;
    type Shard = Arc<SlowAuth>;

    fn load(config: Config, host: &Host) -> Result<SlowAuth, Error> {
        let queue = Arc::<Queue>::default();
        for number in 0..config.threads {
            let (queue, delay) = (Arc::clone(&queue), Duration::from_millis(config.delay_ms));
            host.spawn(&format!("slow-auth-{number}"), move |_| queue.work(delay))?;
        }
        let ends = Arc::clone(&queue);
        host.spawn("slow-auth-end", move |host| {
            while !host.wait_stop(Duration::from_secs(3600)) {}
            ends.end();
        })?;
        Ok(SlowAuth { config, queue })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Arc<SlowAuth>, Error> {
        Ok(Arc::clone(self))
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, ticket: AuthenticateTicket) {
        self.waiting().tickets.push_back(ticket);
        self.changed.notify_one();
    }

    /// The next client; `None` at the plugin's end.
    fn next(&self) -> Option<AuthenticateTicket> {
        let waiting = self.changed.wait_while(self.waiting(), |w| !w.ended && w.tickets.is_empty());
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if waiting.ended { None } else { waiting.tickets.pop_front() }
    }

    /// One thread of the pool.
    #[allow(clippy::disallowed_methods, reason = "the delay is what this plugin is for")]
    fn work(&self, delay: Duration) {
        while let Some(ticket) = self.next() {
            std::thread::sleep(delay);
            ticket.allow();
        }
    }

    /// Ends the threads. Waiting clients are denied, because their tickets are dropped.
    fn end(&self) {
        let mut waiting = self.waiting();
        waiting.ended = true;
        let tickets = std::mem::take(&mut waiting.tickets);
        drop(waiting);
        self.changed.notify_all();
        drop(tickets);
    }
}

impl SlowAuth {
    fn authenticate(self: &mut Arc<Self>, client: &mut Authenticate<'_>) -> Result<Flow, Error> {
        if !client.client_id().starts_with(&self.config.client_prefix) {
            client.allow()?;
            return Ok(Flow::Stop);
        }
        let ticket = client.defer(Duration::from_millis(self.config.deadline_ms))?;
        self.queue.push(ticket);
        Ok(Flow::Defer)
    }
}

grapnel_plugin_abi::plugin!(SlowAuth { client.authenticate => SlowAuth::authenticate });
