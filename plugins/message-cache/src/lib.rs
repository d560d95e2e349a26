//! message-cache: stores the last messages of each topic and publishes them on request. The shard
//! of the publisher stores a message. The shard of the requester requests page after page from all
//! shards and publishes the messages in order, as fast as the subscribers acknowledge them.

mod answer;
mod config;
mod ending;
mod in_flight;
mod large;
mod pool;
mod progress;
mod publish;
mod replies;
mod reply_number;
mod store;
mod turns;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::{
    Answer, DropQueue, Entries, Error, Flow, Host, Identity, InstanceMessage, Journal, Pieces, Plugin,
    Publish, Reason, Refused, Rejected, Shares, Timer, Weigh, allocated, topic,
};

use config::Config;
use pool::Pool;
use progress::AnswerProgress;
use store::Store;
use turns::Turns;

/// A request is a message to this prefix followed by a topic filter.
const REQUEST: &str = "$cache/";

/// Interval at which waiting answers are checked.
const TICK: Duration = Duration::from_millis(10);

/// Maximum number of expired requests that are refused in one tick.
const GIVEN_UP_AT_ONCE: usize = 16;

/// Maximum number of steps in one turn while the limits are exceeded: a removed message, or a
/// checked topic or client.
const EVICTED_AT_ONCE: usize = 256;

/// Number of messages of a cleared state that are freed with each new message, and in each tick.
const FREED_WITH_EACH: usize = 8;

/// The shared part.
struct Cache {
    config: Config,
    host: Host,
    /// Data of ended instances. Freed with the plugin, on a thread that no shard waits for.
    left: Mutex<DropQueue>,
}

/// A request of a client.
#[derive(Debug)]
struct Request {
    /// The requester; the answer is published on its behalf.
    client: Identity,
    filter: String,
    response_topic: String,
    correlation_data: Option<Vec<u8>>,
}

impl Weigh for Request {
    fn heap_bytes(&self) -> u64 {
        allocated(self.client.as_bytes().len())
            + self.filter.heap_bytes()
            + self.response_topic.heap_bytes()
            + self.correlation_data.heap_bytes()
    }
}

/// The instance of a shard.
struct CacheShard {
    shared: Arc<Cache>,
    shard: u32,
    store: Store,
    /// Requests in progress and waiting, until their answers have ended.
    requests: Shares<Request>,
    turns: Turns,
    /// Time counted by ticks, milliseconds.
    now_ms: u64,
    /// How much of all answers may be in flight.
    pool: Pool,
    /// Data of a cleared state.
    left: DropQueue,
    /// Answers by request number. The number is used in instance messages and as the flow.
    answers: BTreeMap<u32, AnswerProgress>,
    last_number: u32,
    tick: Option<Timer>,
    /// Timer to remove messages beyond the limits, after a reload with lower limits or one large
    /// message.
    evict_timer: Option<Timer>,
    /// Whether an instance message to itself replaces the timer, because there was no free timer.
    evict_by_message: bool,
    /// Number of incomplete answers.
    problems: u64,
}

impl Plugin for Cache {
    type Config = Config;
    type Shard = CacheShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<Cache, Error> {
        config.check()?;
        Ok(Cache { config, host: *host, left: Mutex::default() })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<CacheShard, Error> {
        let config = &self.config;
        let per_topic = usize::try_from(config.messages_per_topic_max).unwrap_or(usize::MAX);
        Ok(CacheShard {
            shared: Arc::clone(self),
            shard,
            store: Store::new(per_topic, config.store_limits()).with_metrics(&self.host),
            requests: Shares::new(config.request_limits())
                .beside_each(turns::BYTES_OF_EACH)
                .beside_owner(turns::BYTES_OF_CLIENT)
                .with_metrics(&self.host, "requests"),
            turns: Turns::new(config.client_answers_max, config.answers_max),
            now_ms: 0,
            pool: Pool::new(
                config.answers_max,
                config.answers_in_flight_max,
                config.answers_in_flight_bytes_max,
            ),
            left: DropQueue::default(),
            answers: BTreeMap::new(),
            last_number: first_number(self.host),
            tick: None,
            evict_timer: None,
            evict_by_message: false,
            problems: 0,
        })
    }

    fn on_instance_message(shard: &mut CacheShard, message: &InstanceMessage<'_>) {
        let Some(from) = message.from_shard else { return };
        shard.take_message(from, message.number, message.bytes);
    }

    fn on_answer(shard: &mut CacheShard, answer: Answer) {
        shard.take_answer(answer.number, answer.reason);
    }

    fn on_timer(shard: &mut CacheShard, timer: Timer, _number: u64) {
        if shard.evict_timer == Some(timer) {
            shard.evict_timer = None;
            shard.evict_over_limit();
        }
        if shard.tick == Some(timer) {
            shard.tick = None;
            shard.pump_all();
        }
    }

    fn pieces(shard: &mut CacheShard) -> Option<&mut dyn Pieces> {
        Some(shard)
    }
}

impl Drop for CacheShard {
    fn drop(&mut self) {
        self.store.clear_into(&mut self.left);
        let left = std::mem::take(&mut self.left);
        self.shared.left.lock().unwrap_or_else(PoisonError::into_inner).append(left);
    }
}

impl Entries for CacheShard {
    type Key = u64;

    /// Version 1 did not store which messages had arrived without being stored.
    const VERSION: u32 = 2;

    fn journal(&mut self) -> &mut Journal<u64> {
        self.store.journal()
    }

    fn next_key(&self, after: Option<&u64>) -> Option<u64> {
        self.store.next_number(after)
    }

    fn write(&self, number: &u64, out: &mut Vec<u8>) -> bool {
        self.store.write(*number, out)
    }

    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), Error> {
        self.left.free(FREED_WITH_EACH);
        self.store.put(number, value)
    }

    fn remove(&mut self, number: &u64) {
        self.store.remove(*number);
    }

    fn clear(&mut self) {
        self.store.clear_into(&mut self.left);
    }

    fn completed(&mut self) -> Result<(), Error> {
        // Timers that were set before the instance was replaced are cancelled.
        (self.tick, self.evict_timer, self.evict_by_message) = (None, None, false);
        self.store.check_all_topics();
        self.evict_over_limit();
        self.arm();
        Ok(())
    }
}

impl CacheShard {
    /// Stores a message. Messages of answers do not come here, because a plugin's own messages skip
    /// its hooks.
    fn keep(&mut self, message: &mut Publish<'_>) {
        let name = message.topic();
        if self.shared.config.filters.iter().any(|filter| topic::matches(filter, name)) {
            self.left.free(FREED_WITH_EACH);
            // A user with many client identifiers has one share.
            let account = message.account();
            let owner = account.as_deref().unwrap_or(message.client_id());
            self.store.keep(message.wall_ms(), owner, name, message.payload());
            self.evict_more_soon();
        }
    }

    /// Handles a request. A request is not delivered to subscribers.
    fn request(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        let filter = message.topic().strip_prefix(REQUEST).unwrap_or("").to_owned();
        // MQTT 3.1.1 has no response topic: the payload is used instead.
        let in_payload = std::str::from_utf8(message.payload()).unwrap_or("");
        let response_topic = message.response_topic().unwrap_or(in_payload).to_owned();
        // A topic name cannot contain wildcards: `*` means `+`, and `**` means `#`.
        let filter = filter.split('/').map(wildcard).collect::<Vec<_>>().join("/");
        let problem = if topic::check_filter(&filter).is_err() {
            Some("it must be $cache/ and a topic filter, with * for + and ** for #")
        } else if topic::check_name(&response_topic).is_err() || response_topic.starts_with('$') {
            Some("the response topic is none that could be published to")
        } else {
            None
        };
        if let Some(problem) = problem {
            message.reject(Reason::TOPIC_NAME_INVALID, problem)?;
            return Ok(Flow::Stop);
        }
        let correlation_data = message.correlation_data().map(<[u8]>::to_vec);
        let Ok(client) = message.identity() else {
            message.reject(Reason::QUOTA_EXCEEDED, "the texts of its client's CONNECT are too long")?;
            return Ok(Flow::Stop);
        };
        let request = Request { client, filter, response_topic, correlation_data };
        let account = message.account();
        match self.requests.insert_for(account.as_deref(), message.client_id(), request) {
            Ok(id) => {
                if let Some(client) = self.requests.owner_name(id) {
                    self.turns.push(account.as_deref(), client, id, self.now_ms);
                }
            }
            Err(Rejected { full, .. }) => {
                let why = format!("too many requests wait for an answer: {full}");
                message.reject(Reason::QUOTA_EXCEEDED, &why)?;
                return Ok(Flow::Stop);
            }
        }
        message.drop_message()?;
        self.begin_answers();
        Ok(Flow::Stop)
    }

    /// Starts the answers of waiting requests, up to the limit.
    pub(crate) fn begin_answers(&mut self) {
        while (self.answers.len() as u64) < self.pool.answers_max() {
            let Some(id) = self.turns.next() else { break };
            // Unique over all shards, because flows are counted for all shards together.
            self.last_number = self.last_number % ((1 << 26) - 1) + 1;
            let number = self.shard << 26 | self.last_number;
            let per_topic = usize::try_from(self.shared.config.messages_per_topic_max).unwrap_or(usize::MAX);
            self.answers.insert(number, AnswerProgress::new(id, self.shared.host.shards(), per_topic));
            self.continue_soon(number);
        }
        self.arm();
    }

    /// Removes a few messages if the limits are exceeded.
    fn evict_over_limit(&mut self) {
        self.store.evict_over_limit(EVICTED_AT_ONCE);
        self.evict_more_soon();
    }

    pub(crate) fn evict_more_by_message(&mut self) {
        self.evict_by_message = false;
        self.evict_over_limit();
    }

    fn evict_more_soon(&mut self) {
        if self.evict_timer.is_some() || self.evict_by_message || !self.store.is_over_limit() {
            return;
        }
        match self.shared.host.timer(TICK, 0) {
            Ok(timer) => self.evict_timer = Some(timer),
            // Retried in the next turn of the shard; if that fails too, with the next stored
            // message.
            Err(_) => {
                let sent = self.shared.host.instance_message(Some(self.shard), progress::EVICT_MORE, &[]);
                self.evict_by_message = sent.is_ok();
            }
        }
    }

    /// Sets the timer for the next check of the answers.
    pub(crate) fn arm(&mut self) {
        if self.tick.is_none() && !self.answers.is_empty() {
            match self.shared.host.timer(TICK, 0) {
                Ok(timer) => self.tick = Some(timer),
                // The next event checks them.
                Err(refused) => {
                    self.note_problem(format_args!("no timer for answers: {refused}"));
                    // Retried in the next turn of the shard.
                    if let Some(number) = self.answers.keys().next().copied() {
                        self.continue_soon(number);
                    }
                }
            }
        }
    }

    fn pump_all(&mut self) {
        self.now_ms += TICK.as_millis() as u64;
        self.expire_waiting();
        let numbers: Vec<u32> = self.answers.keys().copied().collect();
        for number in numbers {
            if let Some(answer) = self.answers.get_mut(&number) {
                answer.tick();
            }
            self.advance(number);
        }
        self.begin_answers();
    }

    /// Counts a problem, and logs the first, second, fourth, eighth … one.
    pub(crate) fn note_problem(&mut self, what: Arguments<'_>) {
        self.problems += 1;
        if self.problems.is_power_of_two() {
            self.shared.host.warn(format_args!("{what} ({} such cases so far)", self.problems));
        }
    }
}

/// The first request number. It differs between loads of the plugin, so that a reply for the old
/// version does not match a request of this one.
fn first_number(host: Host) -> u32 {
    let load = (host.handle() ^ host.handle() >> 32) as u32;
    load.wrapping_mul(0x9E37_79B1) >> 6
}

fn wildcard(level: &str) -> &str {
    match level {
        "*" => "+",
        "**" => "#",
        other => other,
    }
}

grapnel_plugin_abi::plugin!(Cache {
    message.publish(topics = &["$cache/#"], priority = 1000) => CacheShard::request,
    message.publish(priority = -100) => CacheShard::keep,
});

#[cfg(test)]
mod tests;
