//! delayed-publish: a message to `$delayed/SECONDS/TOPIC` is acknowledged at once and published to `TOPIC` after that time. Each
//! shard holds what its clients send, in memory, and hands it to the version that replaces it.

mod held;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grapnel_plugin_abi::{
    Entries, Error, Flow, Host, Journal, Pieces, Plugin, Publish, Reason, Refused, ShareLimits, Timer, topic,
};

use grapnel_plugin_abi::raw::Status;
use held::{Due, Held, Store};

/// What is in front of the seconds.
const PREFIX: &str = "$delayed/";

/// How soon what the broker did not take is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Most messages that are published in one go; what else is due follows when the shard has served its clients.
const PUBLISHED_AT_ONCE: usize = 256;

/// What the operator configures.
#[derive(serde::Deserialize)]
struct Config {
    /// Longest delay, seconds.
    #[serde(default = "default_delay_s_max")]
    delay_s_max: u64,
    /// Most messages that one shard holds.
    #[serde(default = "default_messages_max")]
    messages_max: u64,
    /// Most bytes of memory that they take.
    #[serde(default = "default_bytes_max")]
    bytes_max: u64,
    /// Most messages that are held for one client.
    #[serde(default = "default_client_messages_max")]
    client_messages_max: u64,
    /// Most bytes of memory that they take.
    #[serde(default = "default_client_bytes_max")]
    client_bytes_max: u64,
}

impl Config {
    fn limits(&self) -> ShareLimits {
        ShareLimits {
            entries_max: self.messages_max,
            bytes_max: self.bytes_max,
            owner_entries_max: self.client_messages_max,
            owner_bytes_max: self.client_bytes_max,
        }
    }
}

const fn default_delay_s_max() -> u64 {
    4_294_967
}

// A message of 100 bytes with a short topic takes some 500: as many as may be fit into the bytes that may be, in all and for one
// client, and ten clients that take all they can leave nothing over and nothing unused.
const fn default_messages_max() -> u64 {
    100_000
}

const fn default_bytes_max() -> u64 {
    64 << 20
}

const fn default_client_messages_max() -> u64 {
    10_000
}

const fn default_client_bytes_max() -> u64 {
    8 << 20
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
        for (key, value) in [
            ("delay_s_max", config.delay_s_max),
            ("messages_max", config.messages_max),
            ("bytes_max", config.bytes_max),
            ("client_messages_max", config.client_messages_max),
            ("client_bytes_max", config.client_bytes_max),
        ] {
            if value == 0 {
                return Err(Error::new(format!("{key} = 0: must be at least 1")));
            }
        }
        Ok(Delayed { config, host: *host })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<DelayedShard, Error> {
        let store = Store::new(self.config.limits(), &self.host);
        Ok(DelayedShard { shared: Arc::clone(self), store, armed: None })
    }

    fn on_timer(shard: &mut DelayedShard, timer: Timer, _number: u64) {
        if shard.armed.is_some_and(|(_, armed)| armed == timer) {
            shard.armed = None;
        }
        shard.release(now_ms());
    }

    fn pieces(shard: &mut DelayedShard) -> Option<&mut dyn Pieces> {
        Some(shard)
    }
}

impl Entries for DelayedShard {
    type Key = Due;

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
        self.store.put(due, value)
    }

    fn remove(&mut self, due: &Due) {
        self.store.remove(due);
    }

    fn clear(&mut self) {
        self.store.clear();
    }

    fn completed(&mut self) -> Result<(), Error> {
        // One that was armed before the instance was replaced is gone.
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
        let Ok(identity) = message.identity() else {
            message.reject(Reason::QUOTA_EXCEEDED, "the texts of its client's CONNECT are too long")?;
            return Ok(Flow::Stop);
        };
        let held = Held {
            from: message.client_id().to_owned(),
            identity: Some(identity),
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
        message.drop_message()?;
        let due_ms = message.wall_ms().saturating_add(delay_s.saturating_mul(1000));
        if let Err(full) = self.store.hold(due_ms, &held) {
            message
                .reject(Reason::QUOTA_EXCEEDED, &format!("too many messages are delayed already: {full}"))?;
            return Ok(Flow::Stop);
        }
        self.arm(now_ms());
        Ok(Flow::Stop)
    }

    /// Publishes what is due, a slice of it at a time.
    fn release(&mut self, now_ms: u64) {
        let mut lost = Lost::default();
        for _ in 0..PUBLISHED_AT_ONCE {
            let Some(held) = self.store.first_due(now_ms) else { break };
            match self.shared.host.publish_as(held.client(), &held.outgoing()) {
                Ok(()) => {}
                // Too much at a time: it stays the first, and is tried again soon.
                Err(refused) if refused.status == Status::FULL => {
                    lost.log(self.shared.host);
                    return self.arm_in(RETRY, now_ms);
                }
                Err(refused) => lost.note(held.topic, refused),
            }
            self.store.forget_first();
        }
        lost.log(self.shared.host);
        self.arm(now_ms);
    }

    /// Sees to it that a timer is armed for the message that is due next.
    fn arm(&mut self, now_ms: u64) {
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
        // Never at once: in between, the shard serves its clients.
        match host.timer(after.max(Duration::from_millis(1)), 0) {
            Ok(timer) => self.armed = Some((due_ms, timer)),
            Err(refused) => {
                host.error(format_args!("{} messages have no timer: {refused}", self.store.len()))
            }
        }
    }
}

/// Messages that the broker will never take: one line for all of a slice.
#[derive(Default)]
struct Lost {
    count: u64,
    last: Option<(String, Refused)>,
}

impl Lost {
    fn note(&mut self, topic: String, refused: Refused) {
        self.count += 1;
        self.last = Some((topic, refused));
    }

    fn log(self, host: Host) {
        if let Some((topic, refused)) = self.last {
            host.warn(format_args!(
                "{} delayed messages are lost, the last one to {topic}: {refused}",
                self.count
            ));
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
            (published.len(), published[0].topic.as_str(), published[0].on_behalf_of.as_deref()),
            (1, "a", Some("me")),
            "it is a client's word, and authorised as such"
        );
        plugin.advance(Duration::from_secs(1));
        assert_eq!(plugin.published(), [], "once, and the other is not due yet");
    }

    /// Messages come and leave while what waits goes over, piece by piece.
    #[test]
    fn what_changes_while_it_goes_over_goes_over() {
        let mut plugin = testing::load::<Delayed>("").unwrap();
        for n in 0..100 {
            plugin.run(&mut sent(&format!("$delayed/{}/a", 3600 + n)));
        }
        let (mut rounds, mut published) = (0, 0);
        let plugin = plugin.reloaded_while("", |old| {
            rounds += 1;
            if rounds < 50 {
                old.run(&mut sent(&format!("$delayed/{}/b", 3600 - rounds)));
                old.run(&mut sent("$delayed/0/c"));
                old.advance(Duration::from_millis(2));
                published += old.published().len();
            }
        });
        drop(plugin.unwrap());
        assert!(rounds > 50, "{rounds} pieces");
        assert_eq!(published, 49);
    }

    /// What is beyond a client's share is refused, and everybody else goes on.
    #[test]
    fn a_client_over_its_share_is_refused_alone() {
        let mut plugin =
            testing::load::<Delayed>(r#"{"client_messages_max": 2, "messages_max": 3}"#).unwrap();
        let mut send = |client: &str| {
            let mut message = sent("$delayed/9/a").with_client_id(client);
            assert_eq!(plugin.run(&mut message), Outcome::Stop);
            assert_eq!(message.is_dropped(), !message.is_rejected());
            message.reason_text().map(str::to_owned)
        };
        assert_eq!([send("me"), send("me")], [None, None]);
        let said = "too many messages are delayed already: one client may have 2 at a time";
        assert_eq!(send("me").as_deref(), Some(said));
        assert_eq!(send("you"), None);
        let said = "too many messages are delayed already: there may be 3 of all clients at a time";
        assert_eq!(send("you").as_deref(), Some(said));
    }

    /// Whatever is due together is published in slices, in order, and all of it.
    #[test]
    fn what_is_due_together_leaves_in_slices() {
        let mut plugin = testing::load::<Delayed>("").unwrap();
        let count = 2 * PUBLISHED_AT_ONCE + 1;
        for n in 0..count {
            plugin.run(&mut sent(&format!("$delayed/0/{n}")));
        }
        let mut came = Vec::new();
        let mut slices = 0;
        while came.len() < count {
            plugin.advance(Duration::from_millis(1));
            let slice = plugin.published();
            assert!((1..=PUBLISHED_AT_ONCE).contains(&slice.len()), "{}", slice.len());
            came.extend(slice.into_iter().map(|message| message.topic));
            slices += 1;
        }
        assert_eq!(slices, 3);
        assert!(came.into_iter().eq((0..count).map(|n| n.to_string())));
    }

    #[test]
    fn no_delay_is_too_long_to_be_counted() {
        let mut plugin = testing::load::<Delayed>(&format!(r#"{{"delay_s_max": {}}}"#, u64::MAX)).unwrap();
        let mut message = sent(&format!("$delayed/{}/a", u64::MAX));
        plugin.run(&mut message);
        assert!(message.is_dropped());
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
