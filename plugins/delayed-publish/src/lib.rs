//! delayed-publish: a message to `$delayed/SECONDS/TOPIC` is acknowledged at once and published to `TOPIC` after that time. Each
//! shard holds what its clients send, in memory, and hands it to the version that replaces it.

mod held;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grapnel_plugin_abi::{Error, Flow, Gauge, Host, Plugin, Publish, Reason, Refused, Timer, topic};

use grapnel_plugin_abi::raw::Status;
use held::{Held, Store};

/// What is in front of the seconds.
const PREFIX: &str = "$delayed/";

/// How soon what the broker did not take is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What the operator configures.
#[derive(serde::Deserialize)]
struct Config {
    /// Longest delay, seconds.
    #[serde(default = "default_delay_s_max")]
    delay_s_max: u64,
    /// Most messages that one shard holds.
    #[serde(default = "default_messages_max")]
    messages_max: usize,
    /// Most bytes of topics, payloads and properties that one shard holds.
    #[serde(default = "default_bytes_max")]
    bytes_max: u64,
}

const fn default_delay_s_max() -> u64 {
    4_294_967
}

const fn default_messages_max() -> usize {
    100_000
}

const fn default_bytes_max() -> u64 {
    64 << 20
}

/// The shared part.
struct Delayed {
    config: Config,
    host: Host,
}

/// The instance of a shard.
struct DelayedShard {
    shared: Arc<Delayed>,
    store: Store,
    /// The timer for the message that is due next, and when that is.
    armed: Option<(u64, Timer)>,
    waiting: Option<Gauge>,
    /// What of the gauge is ours: it has the sum of all shards.
    counted: i64,
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

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Plugin for Delayed {
    type Config = Config;
    type Shard = DelayedShard;

    fn load(config: Config, host: &Host) -> Result<Delayed, Error> {
        for (key, value) in
            [("delay_s_max", config.delay_s_max), ("messages_max", config.messages_max as u64)]
        {
            if value == 0 {
                return Err(Error::new(format!("{key} = 0: must be at least 1")));
            }
        }
        Ok(Delayed { config, host: *host })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<DelayedShard, Error> {
        let waiting = self.host.gauge("waiting_messages", "Messages that are published later").ok();
        Ok(DelayedShard {
            shared: Arc::clone(self),
            store: Store::default(),
            armed: None,
            waiting,
            counted: 0,
        })
    }

    fn on_timer(shard: &mut DelayedShard, timer: Timer, _number: u64) {
        if shard.armed.is_some_and(|(_, armed)| armed == timer) {
            shard.armed = None;
        }
        shard.release(now_ms());
    }

    fn export_state(shard: &DelayedShard) -> Result<Option<Vec<u8>>, Error> {
        Ok(Some(shard.store.export()))
    }

    fn import_state(shard: &mut DelayedShard, state: &[u8]) -> Result<bool, Error> {
        shard.store = Store::import(state)?;
        shard.arm(now_ms());
        Ok(true)
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
        let held = Held {
            from: message.client_id().to_owned(),
            topic: to.to_owned(),
            payload: message.payload().to_vec(),
            qos: message.qos(),
            retain: message.retain(),
            is_text: message.payload_is_text(),
            expiry_s: message.message_expiry_s().unwrap_or(0),
            content_type: message.content_type().unwrap_or("").to_owned(),
            response_topic: message.response_topic().unwrap_or("").to_owned(),
            correlation_data: message.correlation_data().unwrap_or(&[]).to_vec(),
            user_properties: message
                .user_properties()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        if self.store.len() >= config.messages_max || self.store.bytes() + held.bytes() > config.bytes_max {
            message.reject(Reason::QUOTA_EXCEEDED, "too many messages are delayed already")?;
            return Ok(Flow::Stop);
        }
        message.drop_message()?;
        self.store.hold(message.wall_ms() + delay_s * 1000, held);
        self.arm(now_ms());
        Ok(Flow::Stop)
    }

    /// Publishes all that is due.
    fn release(&mut self, now_ms: u64) {
        while let Some(held) = self.store.first_due(now_ms) {
            match self.shared.host.publish(&held.outgoing()) {
                Ok(()) => {}
                // Too much at a time: it stays the first, and is tried again soon.
                Err(refused) if refused.status == Status::FULL => {
                    self.count();
                    return self.arm_in(RETRY, now_ms);
                }
                Err(refused) => {
                    let what = format_args!("a delayed message to {} is lost: {refused}", held.topic);
                    self.shared.host.warn(what);
                }
            }
            self.store.take_first();
        }
        self.arm(now_ms);
    }

    /// Sees to it that a timer is armed for the message that is due next.
    fn arm(&mut self, now_ms: u64) {
        self.count();
        let Some(due_ms) = self.store.next_due_ms() else { return };
        if self.armed.is_some_and(|(armed_ms, _)| armed_ms <= due_ms) {
            return;
        }
        self.arm_in(Duration::from_millis(due_ms.saturating_sub(now_ms)), due_ms);
    }

    fn arm_in(&mut self, after: Duration, due_ms: u64) {
        let host = self.shared.host;
        if let Some((_, timer)) = self.armed.take() {
            let _ = host.cancel_timer(timer);
        }
        match host.timer(after, 0) {
            Ok(timer) => self.armed = Some((due_ms, timer)),
            Err(refused) => {
                host.error(format_args!("{} messages have no timer: {refused}", self.store.len()))
            }
        }
    }

    fn count(&mut self) {
        let waiting = self.store.len() as i64;
        if let Some(gauge) = self.waiting {
            gauge.adjust(waiting - self.counted);
        }
        self.counted = waiting;
    }
}

impl Drop for DelayedShard {
    fn drop(&mut self) {
        if let Some(gauge) = self.waiting {
            gauge.adjust(-self.counted);
        }
    }
}

grapnel_plugin_abi::plugin!(Delayed {
    message.publish(topics = &["$delayed/#"], priority = 1000) => DelayedShard::publish,
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use grapnel_plugin_abi::raw::Field;
    use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};

    use super::*;

    /// A message that came in now, which is the clock that is looked at when the timer fires.
    fn sent(topic: &str) -> FakeEvent {
        FakeEvent::publish(topic, b"x").with_client_id("me").with_number(Field::TIMESTAMP_MS, now_ms())
    }

    #[test]
    fn what_waits_is_published_by_the_version_that_took_over() {
        let mut plugin = testing::load_on::<Delayed>(2, "").unwrap();
        let mut due = sent("$delayed/0/a");
        assert_eq!(plugin.run_on(1, &mut due), Outcome::Stop);
        assert!(due.is_dropped());
        plugin.run_on(0, &mut sent("$delayed/3600/b"));
        let mut plugin = plugin.reloaded("").unwrap();
        plugin.advance(Duration::from_secs(1));
        let published = plugin.published();
        assert_eq!(
            (published.len(), published[0].topic.as_str(), published[0].from.as_str()),
            (1, "a", "me")
        );
        plugin.advance(Duration::from_secs(1));
        assert_eq!(plugin.published(), [], "once, and the other is not due yet");
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        let mut plugin = testing::load::<Delayed>(r#"{"bytes_max": 10}"#).unwrap();
        for (payload_is_taken, topic) in [(true, "$delayed/9/aaaaa"), (false, "$delayed/9/bbbbb")] {
            let mut message = sent(topic);
            plugin.run(&mut message);
            assert_eq!(message.is_dropped(), payload_is_taken, "{topic}");
        }
    }

    #[test]
    fn seconds_and_topic_are_read() {
        assert_eq!(parse("$delayed/0/a", 9), Ok((0, "a")));
        assert_eq!(parse("$delayed/9/a//b", 9), Ok((9, "a//b")));
        for (name, problem) in [
            ("$delayed/5", "it must be $delayed/SECONDS/TOPIC"),
            ("$delayed//a", "the delay must be a whole number of seconds"),
            ("$delayed/+5/a", "the delay must be a whole number of seconds"),
            ("$delayed/1.5/a", "the delay must be a whole number of seconds"),
            ("$delayed/10/a", "the delay must be at most 9 seconds"),
            ("$delayed/1/$SYS/a", "a topic that begins with $ cannot be delayed"),
            ("$delayed/1/$delayed/1/a", "a topic that begins with $ cannot be delayed"),
        ] {
            assert_eq!(parse(name, 9), Err(problem.to_owned()), "{name}");
        }
        assert!(parse("$delayed/5/", 9).is_err());
    }
}
