//! A plugin for the tests of deferred verdicts: each of its verdicts uses a ticket, which one
//! thread of the plugin completes. Names select what it does:
//!
//! * a client `rounds…` is authenticated in two rounds of AUTH;
//! * a client `refused…` has all filters of a SUBSCRIBE refused;
//! * a subscription to `slow/…` is authorized after `delay_ms`, one after the other;
//! * a message to `held/…` waits until one comes to `release`.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use grapnel_plugin_abi::{
    Action, Authenticate, Authorize, Counter, Error, Flow, Host, Plugin, Publish, PublishTicket, Reason,
    Subscribe,
};

/// Deadline of a verdict: longer than any test.
const DEADLINE: Duration = Duration::from_secs(120);
/// The reason of refused filters.
const NOT_AUTHORIZED: Reason = Reason(0x87);

#[derive(serde::Deserialize)]
struct Config {
    /// Time that the thread takes over the authorization of one subscription, milliseconds.
    #[serde(default)]
    delay_ms: u64,
}

/// Completes one ticket, or several.
type Job = Box<dyn FnOnce() + Send>;

struct Late {
    delay: Duration,
    /// Subscriptions that have been authorized.
    authorized: Counter,
    /// Dropped with the last instance: the thread ends when there is no sender any more.
    jobs: Mutex<Option<Sender<Job>>>,
    held: Mutex<Vec<PublishTicket>>,
    thread: Option<JoinHandle<()>>,
}

struct Instance {
    late: Arc<Late>,
    jobs: Sender<Job>,
}

impl Plugin for Late {
    type Config = Config;
    type Shard = Instance;

    fn load(config: Config, host: &Host) -> Result<Late, Error> {
        let (jobs, inbox): (Sender<Job>, Receiver<Job>) = channel();
        let work = move || inbox.into_iter().for_each(|job| job());
        let thread = std::thread::Builder::new().name("late".into()).spawn(work)?;
        Ok(Late {
            delay: Duration::from_millis(config.delay_ms),
            authorized: host
                .counter("slow_authorized", "subscriptions that were authorized after the delay")?,
            jobs: Mutex::new(Some(jobs)),
            held: Mutex::default(),
            thread: Some(thread),
        })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Instance, Error> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let jobs = jobs.ok_or_else(|| Error::new("the plugin has ended"))?;
        Ok(Instance { late: Arc::clone(self), jobs })
    }
}

impl Late {
    fn held(&self) -> MutexGuard<'_, Vec<PublishTicket>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Instance {
    /// Runs the job on the thread. If the thread has died, the ticket is dropped, which is a fault.
    fn later(&self, job: impl FnOnce() + Send + 'static) -> Result<Flow, Error> {
        self.jobs.send(Box::new(job)).map_err(|_| Error::new("the thread has ended"))?;
        Ok(Flow::Defer)
    }

    fn authenticate(&mut self, client: &mut Authenticate<'_>) -> Result<Flow, Error> {
        if !client.client_id().starts_with("rounds") {
            client.allow()?;
            return Ok(Flow::Stop);
        }
        let last = client.auth_data() == Some(b"second");
        let ticket = client.defer(DEADLINE)?;
        self.later(move || if last { ticket.allow() } else { ticket.another_round(b"more") })
    }

    fn subscribe(&mut self, packet: &mut Subscribe<'_>) -> Result<Flow, Error> {
        if !packet.client_id().starts_with("refused") {
            return Ok(Flow::Continue);
        }
        let filters = packet.filters().count() as u32;
        let mut ticket = packet.defer(DEADLINE)?;
        self.later(move || {
            (0..filters).for_each(|filter| ticket.refuse(filter, NOT_AUTHORIZED));
            ticket.proceed();
        })
    }

    #[allow(clippy::disallowed_methods, reason = "the delay is what this plugin is for")]
    fn authorize(&mut self, request: &mut Authorize<'_>) -> Result<Flow, Error> {
        if request.action() != Action::Subscribe || !request.topic().starts_with("slow/") {
            return Ok(Flow::Continue);
        }
        let (ticket, delay, authorized) = (request.defer(DEADLINE)?, self.late.delay, self.late.authorized);
        self.later(move || {
            std::thread::sleep(delay);
            ticket.allow();
            authorized.add_one();
        })
    }

    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Error> {
        if message.topic().starts_with("held/") {
            self.late.held().push(message.defer(DEADLINE)?);
            return Ok(Flow::Defer);
        }
        if message.topic() == "release" {
            let held = std::mem::take(&mut *self.late.held());
            self.later(move || held.into_iter().for_each(PublishTicket::proceed))?;
        }
        Ok(Flow::Continue)
    }
}

grapnel_plugin_abi::plugin!(Late {
    client.authenticate => Instance::authenticate,
    client.subscribe => Instance::subscribe,
    client.authorize => Instance::authorize,
    message.publish => Instance::publish,
});
