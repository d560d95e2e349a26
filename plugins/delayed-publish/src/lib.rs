//! delayed-publish: a message to `$delayed/SECONDS/TOPIC` is acknowledged at once and published to
//! `TOPIC` after that time. Each shard stores the messages of its clients in memory until the
//! broker has replied to their publishing, and transfers them in a reload.

mod clock;
mod config;
mod delayed;
mod queues;
mod store;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::{
    Answer, Counter, DropQueue, Entries, EntryId, Error, Flow, Host, InstanceMessage, Journal, Pieces,
    Plugin, Publish, Reason, Refused, Timer, counted, topic,
};

use grapnel_plugin_abi::raw::Status;

use clock::now_ms;
use config::Config;
use delayed::DelayedMessage;
use store::{Due, Store};

/// The prefix of the topic.
const PREFIX: &str = "$delayed/";

/// Pause before the next try if the broker accepts nothing from the plugin, for any client,
/// milliseconds.
const RETRY_MS: u64 = 100;

/// The pause begins after this many refused messages in one slice.
const NOT_TAKEN_MAX: usize = 4;

/// Maximum number of messages that are published in one slice. The rest follows after the shard has
/// served its clients.
const PUBLISHED_AT_ONCE: usize = 64;

/// Maximum number of messages that are published after a reply, which frees one place.
const PUBLISHED_FOR_AN_ANSWER: usize = 2;

/// A slice ends after this many bytes.
const BYTES_AT_ONCE: usize = 1 << 20;

/// Time to wait for the reply to a publish before checking whether the broker still has the
/// message, milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// The same for a message that the old version has published: for it the broker does not report
/// whether it still has it.
const PATIENCE_TAKEN_OVER_MS: u64 = 600_000;

/// Position of the shard that stores the message, in the number of a reply. The lower bits are the
/// number of the message. A message keeps its number in the version that takes over, because the
/// broker sends that version the replies for the old one.
const SHARD_BITS_AT: u32 = 58;

/// Message numbers per millisecond. A version begins with its start time in milliseconds times this
/// value, so that its numbers are higher than those of the old version.
const NUMBERS_IN_MS: u64 = 1 << 12;

/// An instance message to itself, used when there is no timer.
const WAKE: u64 = u64::MAX;

/// Minimum time between two log lines about lost messages, milliseconds.
const LOGGED_EVERY_MS: u64 = 10_000;

/// Number of messages of a cleared state that are freed with each new message.
const FREED_AT_ONCE: usize = 8;

/// The shared part.
struct Delayed {
    config: Config,
    host: Host,
    /// Data of ended instances. Freed with the plugin, on a thread that no shard waits for.
    left: Mutex<DropQueue>,
}

/// The instance of a shard.
struct DelayedShard {
    shared: Arc<Delayed>,
    shard: u32,
    store: Store,
    /// Data of a cleared state.
    left: DropQueue,
    /// The due time of the next message, and its timer.
    armed: Option<(u64, Timer)>,
    /// Whether an instance message to itself has been sent, because there was no timer.
    wakes: bool,
    /// No message is published before this time, because the broker accepts nothing from the
    /// plugin.
    full_until_ms: u64,
    unpublished: Unpublished,
    /// Time of the next log line about a missing timer.
    no_timer_logged_ms: u64,
    metrics: Metrics,
}

/// Metrics of the messages that were due.
struct Metrics {
    retried: Option<Counter>,
    refused: Option<Counter>,
    lost: Option<Counter>,
    expired: Option<Counter>,
}

impl Metrics {
    fn of(host: Host) -> Metrics {
        let counter = |name, help| host.counter(name, help).ok();
        Metrics {
            retried: counter("retried_messages", "Times that a message found no room and was put off"),
            refused: counter("refused_messages", "Messages that were refused when they were due"),
            expired: counter("expired_messages", "Messages whose expiry interval had run out when they came"),
            lost: counter("lost_messages", "Messages that the broker had no room for until retry_s_max"),
        }
    }
}

/// Messages that were not published, with a log line from time to time.
#[derive(Default)]
struct Unpublished {
    next_ms: u64,
    unlogged: u64,
}

/// Parses the topic and the delay in seconds.
fn parse(name: &str, delay_s_max: u64) -> Result<(u64, &str), String> {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let (seconds, to) = rest.split_once('/').ok_or("it must be $delayed/SECONDS/TOPIC")?;
    let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    let delay_s =
        seconds.parse().ok().filter(|_| digits).ok_or("the delay must be a whole number of seconds")?;
    if delay_s > delay_s_max {
        return Err(format!("the delay must be at most {}", counted(delay_s_max, "second")));
    }
    topic::check_name(to).map_err(|problem| problem.to_string())?;
    if to.starts_with('$') {
        return Err("a topic that begins with $ cannot be delayed".to_owned());
    }
    Ok((delay_s, to))
}

impl Plugin for Delayed {
    type Config = Config;
    type Shard = DelayedShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<Delayed, Error> {
        config.check()?;
        Ok(Delayed { config, host: *host, left: Mutex::default() })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<DelayedShard, Error> {
        Ok(DelayedShard {
            shared: Arc::clone(self),
            shard,
            store: Store::new(self.config.limits(), now_ms() * NUMBERS_IN_MS).with_metrics(&self.host),
            left: DropQueue::default(),
            armed: None,
            wakes: false,
            full_until_ms: 0,
            unpublished: Unpublished::default(),
            no_timer_logged_ms: 0,
            metrics: Metrics::of(self.host),
        })
    }

    fn on_timer(shard: &mut DelayedShard, timer: Timer, _number: u64) {
        if shard.armed.is_some_and(|(_, armed)| armed == timer) {
            shard.armed = None;
        }
        shard.release(now_ms(), PUBLISHED_AT_ONCE);
    }

    fn on_answer(shard: &mut DelayedShard, answer: Answer) {
        shard.take_answer(answer.number, answer.reason);
    }

    fn on_instance_message(shard: &mut DelayedShard, message: &InstanceMessage<'_>) {
        match (message.from_shard, message.bytes) {
            // A reply that arrived on another shard.
            (Some(_), [code]) => shard.take_answer(message.number, Reason(*code)),
            (Some(_), _) if message.number == WAKE => {
                shard.wakes = false;
                shard.release(now_ms(), PUBLISHED_AT_ONCE);
            }
            _ => {}
        }
    }

    fn pieces(shard: &mut DelayedShard) -> Option<&mut dyn Pieces> {
        Some(shard)
    }
}

impl Drop for DelayedShard {
    fn drop(&mut self) {
        self.store.clear_into(&mut self.left);
        let left = std::mem::take(&mut self.left);
        self.shared.left.lock().unwrap_or_else(PoisonError::into_inner).append(left);
    }
}

impl Entries for DelayedShard {
    type Key = Due;

    /// Earlier versions treated empty properties as absent, and did not store which messages were
    /// published.
    const VERSION: u32 = 3;

    fn journal(&mut self) -> &mut Journal<Due> {
        self.store.journal()
    }

    fn next_key(&self, after: Option<&Due>) -> Option<Due> {
        self.store.next_due(after)
    }

    fn write(&self, due: &Due, out: &mut Vec<u8>) -> bool {
        self.store.write(due, out)
    }

    fn put(&mut self, due: Due, value: &[u8]) -> Result<(), Error> {
        self.left.free(FREED_AT_ONCE);
        self.store.put(due, value, now_ms() + PATIENCE_TAKEN_OVER_MS)
    }

    fn remove(&mut self, due: &Due) {
        self.store.remove(due);
    }

    fn clear(&mut self) {
        self.store.clear_into(&mut self.left);
    }

    fn completed(&mut self) -> Result<(), Error> {
        // A timer that was set before the instance was replaced is cancelled, and instance messages
        // are lost.
        self.wakes = false;
        if let Some((_, timer)) = self.armed.take() {
            let _ = self.shared.host.cancel_timer(timer);
        }
        self.arm(now_ms());
        Ok(())
    }
}

impl DelayedShard {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        let config = &self.shared.config;
        let (delay_s, to) = match parse(message.topic(), config.delay_s_max) {
            Ok(parsed) => parsed,
            Err(problem) => {
                message.reject(Reason::TOPIC_NAME_INVALID, &problem)?;
                return Ok(Flow::Stop);
            }
        };
        if message.message_expiry_s() == Some(0) {
            // The message has expired.
            count(self.metrics.expired);
            message.drop_message()?;
            return Ok(Flow::Stop);
        }
        let Ok(identity) = message.identity() else {
            message.reject(Reason::QUOTA_EXCEEDED, "the texts of its client's CONNECT are too long")?;
            return Ok(Flow::Stop);
        };
        let held = DelayedMessage {
            from: message.client_id().to_owned(),
            identity: Some(identity),
            topic: to.to_owned(),
            payload: message.payload().to_vec(),
            qos: message.qos(),
            retain: message.retain(),
            payload_format: message.payload_format(),
            expiry_s: message.message_expiry_s().unwrap_or(0),
            content_type: message.content_type().map(str::to_owned),
            response_topic: message.response_topic().unwrap_or("").to_owned(),
            correlation_data: message.correlation_data().map(<[u8]>::to_vec),
            user_properties: message
                .user_properties()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        message.drop_message()?;
        let now_ms = now_ms();
        self.left.free(FREED_AT_ONCE);
        let due_ms = now_ms.saturating_add(delay_s.saturating_mul(1000));
        if let Err(full) = self.store.store(due_ms, &held) {
            message
                .reject(Reason::QUOTA_EXCEEDED, &format!("too many messages are delayed already: {full}"))?;
            return Ok(Flow::Stop);
        }
        self.arm(now_ms);
        Ok(Flow::Stop)
    }

    /// Publishes messages that are due, one slice at a time. Each stays stored until the broker has
    /// replied.
    fn release(&mut self, now_ms: u64, most: usize) {
        self.check_late(now_ms);
        let (mut not_taken, mut bytes) = (0, 0);
        for _ in 0..most {
            if now_ms < self.full_until_ms || bytes >= BYTES_AT_ONCE {
                break;
            }
            let Some((id, delayed)) = self.store.next(now_ms) else { break };
            bytes += delayed.payload.len();
            let Some(number) = self.store.number_of(id) else { break };
            let message = delayed.outgoing().flow(self.flow_of(number));
            let number = u64::from(self.shard) << SHARD_BITS_AT | number;
            self.store.published(id, now_ms, now_ms + PATIENCE_MS);
            match self.shared.host.publish_as(delayed.client().answered(number), &message) {
                Ok(()) => {}
                Err(refused) if refused.status == Status::INVALID => {
                    self.end(id, &refused, self.metrics.refused, now_ms);
                }
                // The message is too large, or the broker is full: the error does not distinguish
                // them.
                Err(_) => {
                    self.answered(id, Reason::QUOTA_EXCEEDED, now_ms);
                    not_taken += 1;
                    if not_taken == NOT_TAKEN_MAX {
                        self.full_until_ms = now_ms + RETRY_MS;
                    }
                }
            }
        }
        self.arm(now_ms);
    }

    /// Takes a reply. It arrives on the shard of the client. If another plugin is the client, this
    /// may be a different shard than the one that stores the message.
    fn take_answer(&mut self, number: u64, reason: Reason) {
        let shard = (number >> SHARD_BITS_AT) as u32;
        if shard != self.shard {
            // A lost one is found when the reply is late.
            let _ = self.shared.host.instance_message(Some(shard), number, &[reason.0]);
            return;
        }
        let Some(id) = self.store.of_number(number & ((1 << SHARD_BITS_AT) - 1)) else { return };
        let now_ms = now_ms();
        self.answered(id, reason, now_ms);
        self.release(now_ms, PUBLISHED_FOR_AN_ANSWER);
    }

    /// Handles the result of a message.
    fn answered(&mut self, id: EntryId, reason: Reason, now_ms: u64) {
        if reason.0 < 0x80 {
            return self.store.taken(id);
        }
        let refused = format!("refused with 0x{:02X}", reason.0);
        // The broker was full, or there was no verdict: retry.
        if ![Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason) {
            return self.end(id, &refused, self.metrics.refused, now_ms);
        }
        let retry_ms = self.shared.config.retry_s_max.saturating_mul(1000);
        if self.store.trying_ms(id, now_ms).is_some_and(|tried_ms| tried_ms >= retry_ms) {
            return self.end(id, &refused, self.metrics.lost, now_ms);
        }
        if self.store.put_off(id, now_ms) {
            count(self.metrics.retried);
        }
    }

    /// Checks messages without a reply. The broker may still have them, or the reply was lost, for
    /// example while the plugin was disabled for long. A lost one is published again; in the worst
    /// case it is delivered twice.
    fn check_late(&mut self, now_ms: u64) {
        for _ in 0..PUBLISHED_AT_ONCE {
            let Some(id) = self.store.late(now_ms) else { return };
            let number = self.store.number_of(id).unwrap_or(0);
            if self.shared.host.in_flight(self.flow_of(number)) > 0 {
                self.store.wait_on(id, now_ms + PATIENCE_MS);
            } else if self.store.put_off(id, now_ms) {
                count(self.metrics.retried);
            }
        }
    }

    /// The flow of a message. Each message has its own flow; flows are counted for all shards
    /// together.
    fn flow_of(&self, number: u64) -> u32 {
        self.shard << 26 | ((number % ((1 << 26) - 1)) as u32 + 1)
    }

    /// Removes a message that was not published.
    fn end(&mut self, id: EntryId, why: &dyn std::fmt::Display, counter: Option<Counter>, now_ms: u64) {
        let Some(held) = self.store.read(id) else { return };
        self.store.end(id);
        count(counter);
        if now_ms < self.unpublished.next_ms {
            self.unpublished.unlogged += 1;
            return;
        }
        let DelayedMessage { from, topic, .. } = held;
        let others = match std::mem::take(&mut self.unpublished.unlogged) {
            0 => String::new(),
            count => format!(", and {count} other messages since the last such line"),
        };
        self.unpublished.next_ms = now_ms + LOGGED_EVERY_MS;
        self.shared
            .host
            .warn(format_args!("the delayed message of client {from:?} to {topic:?} is gone: {why}{others}"));
    }

    /// Sets a timer for the next action.
    fn arm(&mut self, now_ms: u64) {
        let Some(next_ms) = self.store.next_ms(now_ms) else { return };
        let next_ms = next_ms.max(self.full_until_ms);
        if self.armed.is_some_and(|(armed_ms, _)| armed_ms <= next_ms) {
            return;
        }
        let host = self.shared.host;
        // At least 1 ms, so that the shard serves its clients in between.
        let after = Duration::from_millis(next_ms.saturating_sub(now_ms).max(1));
        match host.timer(after, 0) {
            Ok(timer) => {
                if let Some((_, before)) = self.armed.replace((next_ms, timer)) {
                    let _ = host.cancel_timer(before);
                }
            }
            // The existing timer fires later and calls this again.
            Err(_) if self.armed.is_some() => {}
            Err(refused) => {
                if now_ms >= self.no_timer_logged_ms {
                    self.no_timer_logged_ms = now_ms + LOGGED_EVERY_MS;
                    let waiting = counted(self.store.len(), "message");
                    host.error(format_args!("no timer for {waiting}: {refused}"));
                }
                // Retried in the next turn of the shard; if that fails too, with the next message
                // or reply.
                self.wakes = self.wakes || host.instance_message(Some(self.shard), WAKE, &[]).is_ok();
            }
        }
    }
}

fn count(counter: Option<Counter>) {
    if let Some(counter) = counter {
        counter.add_one();
    }
}

grapnel_plugin_abi::plugin!(Delayed {
    message.publish(topics = &["$delayed/#"], priority = 1000) => DelayedShard::publish,
});

#[cfg(test)]
mod tests;
