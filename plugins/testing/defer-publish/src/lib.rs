//! A plugin for the tests of deferred verdicts: every publish waits for `delay_ms`, then goes on
//! with a user property `deferred`. One thread of the plugin completes the tickets in the order in
//! which they were taken.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{Error, Flow, Host, Plugin, Publish, PublishTicket};

#[derive(serde::Deserialize)]
struct Config {
    /// How long each publish waits, milliseconds.
    delay_ms: u64,
    /// Prefix of the topic names; empty for all topics.
    #[serde(default)]
    topic_prefix: String,
    /// Deadline of the verdict, milliseconds; 0 for the operator's default.
    #[serde(default)]
    deadline_ms: u64,
}

struct Defer {
    config: Config,
    /// Dropped with the last instance: the thread ends when there is no sender any more.
    sender: Mutex<Option<Sender<(Instant, PublishTicket)>>>,
    thread: Option<JoinHandle<()>>,
}

struct DeferShard {
    defer: Arc<Defer>,
    sender: Sender<(Instant, PublishTicket)>,
}

impl Plugin for Defer {
    type Config = Config;
    type Shard = DeferShard;

    fn load(config: Config, _host: &Host) -> Result<Defer, Error> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("defer-publish".into()).spawn(|| complete(receiver))?;
        Ok(Defer { config, sender: Mutex::new(Some(sender)), thread: Some(thread) })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<DeferShard, Error> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sender = sender.ok_or_else(|| Error::new("the plugin has ended"))?;
        Ok(DeferShard { defer: Arc::clone(self), sender })
    }
}

#[allow(clippy::disallowed_methods, reason = "the delay is what this plugin is for")]
fn complete(receiver: Receiver<(Instant, PublishTicket)>) {
    for (due, mut ticket) in receiver {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        ticket.add_user_property("deferred", "1");
        ticket.proceed();
    }
}

impl DeferShard {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Error> {
        let config = &self.defer.config;
        if !message.topic().starts_with(&config.topic_prefix) {
            return Ok(Flow::Continue);
        }
        let ticket = message.defer(Duration::from_millis(config.deadline_ms))?;
        let due = Instant::now() + Duration::from_millis(config.delay_ms);
        // If the thread has died the ticket is dropped, which is a fault.
        self.sender.send((due, ticket))?;
        Ok(Flow::Defer)
    }
}

impl Drop for Defer {
    fn drop(&mut self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

grapnel_plugin_abi::plugin!(Defer { message.publish => DeferShard::publish });
