//! delayed-publish: a message to `$delayed/SECONDS/TOPIC` is acknowledged at once and published to
//! `TOPIC` after that time. Each shard holds the messages of its clients in memory until the broker
//! has answered for them, and hands them over in a reload.

mod clock;
mod config;
mod delayed;
mod queues;
mod store;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::{
    Answer, Counter, Entries, EntryId, Error, Flow, Host, InstanceMessage, Journal, Leftovers, Pieces,
    Plugin, Publish, Reason, Refused, Timer, topic,
};

use grapnel_plugin_abi::raw::Status;

use clock::now_ms;
use config::Config;
use delayed::DelayedMessage;
use store::{Due, Store};

/// What is in front of the seconds.
const PREFIX: &str = "$delayed/";

/// How soon what the broker does not take from the plugin, for whomever, is tried again, milliseconds.
const RETRY_MS: u64 = 100;

/// After so many messages in one go that it does not take.
const NOT_TAKEN_MAX: usize = 4;

/// Most messages that are published in one go; what else is due follows when the shard has served its clients.
const PUBLISHED_AT_ONCE: usize = 64;

/// Most of them for one answer, which makes room for one.
const PUBLISHED_FOR_AN_ANSWER: usize = 2;

/// Bytes after which nothing more is published in one go.
const BYTES_AT_ONCE: usize = 1 << 20;

/// How long the answer to a publish is waited for before it is looked at whether the broker still has the message, milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// The same where the version before has published: the broker does not say whether it still has it.
const PATIENCE_TAKEN_OVER_MS: u64 = 600_000;

/// Where in the number of an answer the shard is that holds the message. Below it is the number of the message, which it keeps in
/// the version that takes over, to which what is owed to the one before is answered.
const SHARD_BITS_AT: u32 = 58;

/// Numbers that a version may give in a millisecond: with them begin those of the version behind it.
const NUMBERS_IN_MS: u64 = 1 << 12;

/// An instance message to itself where there is no timer.
const WAKE: u64 = u64::MAX;

/// How often the log names a message that has gone unpublished, at most, milliseconds.
const LOGGED_EVERY_MS: u64 = 10_000;

/// Messages of a state that began anew that are freed for each message that comes.
const FREED_AT_ONCE: usize = 8;

/// The shared part.
struct Delayed {
    config: Config,
    host: Host,
    /// What instances that have ended held: freed with the plugin, which no shard waits for.
    left: Mutex<Leftovers>,
}

/// The instance of a shard.
struct DelayedShard {
    shared: Arc<Delayed>,
    shard: u32,
    store: Store,
    /// What a state that began anew held.
    left: Leftovers,
    /// The timer for the message that is due next, and when that is.
    armed: Option<(u64, Timer)>,
    /// Whether an instance message to itself is on its way, since there was no timer.
    wakes: bool,
    /// Until then the broker is not asked, since it takes nothing from the plugin.
    full_until_ms: u64,
    unpublished: Unpublished,
    /// When it is logged again that there is no timer.
    no_timer_logged_ms: u64,
    metrics: Metrics,
}

/// What became of messages that were due.
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

/// Messages that went unpublished: a line of the log once in a while.
#[derive(Default)]
struct Unpublished {
    next_ms: u64,
    unlogged: u64,
}

/// Where a message is to go, and after how many seconds.
fn parse(name: &str, delay_s_max: u64) -> Result<(u64, &str), String> {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let (seconds, to) = rest.split_once('/').ok_or("it must be $delayed/SECONDS/TOPIC")?;
    let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    let delay_s =
        seconds.parse().ok().filter(|_| digits).ok_or("the delay must be a whole number of seconds")?;
    if delay_s > delay_s_max {
        return Err(format!("the delay must be at most {delay_s_max} seconds"));
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

    fn load(config: Config, host: &Host) -> Result<Delayed, Error> {
        config.check()?;
        Ok(Delayed { config, host: *host, left: Mutex::default() })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<DelayedShard, Error> {
        Ok(DelayedShard {
            shared: Arc::clone(self),
            shard,
            store: Store::new(self.config.limits(), now_ms() * NUMBERS_IN_MS).with_metrics(&self.host),
            left: Leftovers::default(),
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
            // An answer that came to another shard.
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

    /// Before, properties that are there and empty were none, and nothing said which messages are on their way.
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
        // One that was armed before the instance was replaced is gone, and so are instance messages.
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
            // It has expired, and is published to nobody.
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

    /// Publishes what is due, a slice of it at a time. Each stays until the broker has answered for it.
    fn release(&mut self, now_ms: u64, most: usize) {
        self.look_at_late(now_ms);
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
                // It is too large, or too much is asked for at a time: which of both is not said.
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

    /// An answer comes to the shard of the client: where another plugin is the client, which may be another one than where its
    /// message came by and is held.
    fn take_answer(&mut self, number: u64, reason: Reason) {
        let shard = (number >> SHARD_BITS_AT) as u32;
        if shard != self.shard {
            // One that is lost is missed when it is late.
            let _ = self.shared.host.instance_message(Some(shard), number, &[reason.0]);
            return;
        }
        let Some(id) = self.store.of_number(number & ((1 << SHARD_BITS_AT) - 1)) else { return };
        let now_ms = now_ms();
        self.answered(id, reason, now_ms);
        self.release(now_ms, PUBLISHED_FOR_AN_ANSWER);
    }

    /// What has become of a message.
    fn answered(&mut self, id: EntryId, reason: Reason, now_ms: u64) {
        if reason.0 < 0x80 {
            return self.store.taken(id);
        }
        let refused = format!("refused with 0x{:02X}", reason.0);
        // There is no room, or nobody has answered for it: that says nothing of the message.
        if ![Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason) {
            return self.end(id, &refused, self.metrics.refused, now_ms);
        }
        let retry_ms = self.shared.config.retry_s_max.saturating_mul(1000);
        if self.store.tried_for_ms(id, now_ms).is_some_and(|tried_ms| tried_ms >= retry_ms) {
            return self.end(id, &refused, self.metrics.lost, now_ms);
        }
        if self.store.put_off(id, now_ms) {
            count(self.metrics.retried);
        }
    }

    /// Of messages without an answer: the broker may still have them, or the answer has been lost on its way, as where the plugin
    /// was disabled for long. Then they are published again, at worst twice.
    fn look_at_late(&mut self, now_ms: u64) {
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

    /// The flow that the message of a number is counted in, alone: flows are counted for all shards together.
    fn flow_of(&self, number: u64) -> u32 {
        self.shard << 26 | ((number % ((1 << 26) - 1)) as u32 + 1)
    }

    /// A message goes without having been published.
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

    /// Sees to it that a timer is armed for what comes next.
    fn arm(&mut self, now_ms: u64) {
        let Some(next_ms) = self.store.next_ms(now_ms) else { return };
        let next_ms = next_ms.max(self.full_until_ms);
        if self.armed.is_some_and(|(armed_ms, _)| armed_ms <= next_ms) {
            return;
        }
        let host = self.shared.host;
        // Never at once: in between, the shard serves its clients.
        let after = Duration::from_millis(next_ms.saturating_sub(now_ms).max(1));
        match host.timer(after, 0) {
            Ok(timer) => {
                if let Some((_, before)) = self.armed.replace((next_ms, timer)) {
                    let _ = host.cancel_timer(before);
                }
            }
            // The one that there is comes too late, and sees to it then.
            Err(_) if self.armed.is_some() => {}
            Err(refused) => {
                if now_ms >= self.no_timer_logged_ms {
                    self.no_timer_logged_ms = now_ms + LOGGED_EVERY_MS;
                    host.error(format_args!("{} messages have no timer: {refused}", self.store.len()));
                }
                // Tried again in the next turn of the shard; where that cannot be either, with the next message or answer.
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
