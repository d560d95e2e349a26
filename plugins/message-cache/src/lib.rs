//! message-cache: keeps the last messages of each topic, and publishes them to whoever asks. A message is kept by the shard of its
//! publisher. A request goes by mail to all shards; the shard of who asked gathers the answers, and publishes them in order.

mod store;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::{Error, Flow, Host, Mail, Outgoing, Plugin, Publish, Reason, Refused, Timer, topic};

use store::{Kept, Store, read_all};

/// A request is a message to this and a topic filter.
const REQUEST: &str = "$cache/";

/// Most requests that one shard gathers answers for.
const REQUESTS_MAX: usize = 1024;

/// How long a shard waits for the others' answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a mail is; in the upper half of its number. The lower half is the number of the request.
const ASK: u64 = 1 << 32;
const ANSWER: u64 = 2 << 32;
const ANSWER_ENDS: u64 = 3 << 32;

/// What the operator configures.
#[derive(serde::Deserialize)]
struct Config {
    /// Topics that are kept.
    filters: Vec<String>,
    /// Most messages of each topic.
    #[serde(default = "default_messages_per_topic_max")]
    messages_per_topic_max: usize,
    /// Most bytes of topics and payloads on each shard.
    #[serde(default = "default_bytes_max")]
    bytes_max: u64,
}

const fn default_messages_per_topic_max() -> usize {
    10
}

const fn default_bytes_max() -> u64 {
    16 << 20
}

/// The shared part.
struct Cache {
    config: Config,
    host: Host,
}

/// A request on the shard of who asked.
struct Request {
    response_topic: String,
    correlation_data: Vec<u8>,
    gathered: Vec<(u32, Kept)>,
    /// Shards that have not answered yet.
    missing: u32,
    /// When it is answered without them.
    patience: Timer,
}

/// The instance of a shard.
struct CacheShard {
    shared: Arc<Cache>,
    store: Store,
    requests: HashMap<u32, Request>,
    last_request: u32,
}

impl Plugin for Cache {
    type Config = Config;
    type Shard = CacheShard;

    fn load(config: Config, host: &Host) -> Result<Cache, Error> {
        for (at, filter) in config.filters.iter().enumerate() {
            topic::check_filter(filter).map_err(|problem| Error::new(format!("filters[{at}]: {problem}")))?;
        }
        if config.messages_per_topic_max == 0 {
            return Err(Error::new("messages_per_topic_max = 0: must be at least 1"));
        }
        Ok(Cache { config, host: *host })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<CacheShard, Error> {
        let store = Store::new(self.config.messages_per_topic_max, self.config.bytes_max);
        Ok(CacheShard { shared: Arc::clone(self), store, requests: HashMap::new(), last_request: 0 })
    }

    fn on_mail(shard: &mut CacheShard, mail: &Mail<'_>) {
        let Some(from) = mail.from_shard else { return };
        let request = mail.number as u32;
        match mail.number & !u64::from(u32::MAX) {
            ASK => shard.answer(from, request, mail.bytes),
            kind => shard.gather(from, request, mail.bytes, kind == ANSWER_ENDS),
        }
    }

    fn on_timer(shard: &mut CacheShard, _timer: Timer, number: u64) {
        // Only a request that is not complete is still there.
        if let Some(request) = shard.requests.remove(&(number as u32)) {
            let missing = request.missing;
            shard
                .shared
                .host
                .warn(format_args!("a request is answered without {missing} shards, which are busy"));
            shard.respond(request);
        }
    }

    fn export_state(shard: &CacheShard) -> Result<Option<Vec<u8>>, Error> {
        Ok(Some(shard.store.export()))
    }

    fn import_state(shard: &mut CacheShard, state: &[u8]) -> Result<bool, Error> {
        Ok(shard.store.import(state))
    }
}

impl CacheShard {
    /// After those that refuse and rewrite: what is kept is what is routed.
    fn keep(&mut self, message: &mut Publish<'_>) {
        let name = message.topic();
        if self.shared.config.filters.iter().any(|filter| topic::matches(filter, name)) {
            self.store.keep(message.wall_ms(), name, message.payload());
        }
    }

    /// A request reaches nobody else.
    fn request(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        let filter = message.topic().strip_prefix(REQUEST).unwrap_or("").to_owned();
        // MQTT 3.1.1 has no response topic: there the payload is it.
        let in_payload = std::str::from_utf8(message.payload()).unwrap_or("");
        let response_topic = message.response_topic().unwrap_or(in_payload).to_owned();
        // In a topic name no wildcard can be: `*` stands for `+`, and `**` for `#`.
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
        let correlation_data = message.correlation_data().unwrap_or(&[]).to_vec();
        if self.requests.len() >= REQUESTS_MAX || self.ask(&filter, response_topic, correlation_data).is_err()
        {
            message.reject(Reason::QUOTA_EXCEEDED, "too many requests wait for an answer")?;
            return Ok(Flow::Stop);
        }
        message.drop_message()?;
        Ok(Flow::Stop)
    }

    fn ask(
        &mut self,
        filter: &str,
        response_topic: String,
        correlation_data: Vec<u8>,
    ) -> Result<(), Refused> {
        let host = self.shared.host;
        self.last_request = self.last_request.wrapping_add(1);
        let number = self.last_request;
        let patience = host.timer(PATIENCE, u64::from(number))?;
        host.mail(None, ASK | u64::from(number), filter.as_bytes())?;
        let request = Request {
            response_topic,
            correlation_data,
            gathered: Vec::new(),
            missing: host.shards(),
            patience,
        };
        self.requests.insert(number, request);
        Ok(())
    }

    /// Sends what there is to the shard that asks, in mails of a size that any broker takes.
    fn answer(&self, to: u32, request: u32, filter: &[u8]) {
        const MAIL_BYTES: usize = 256 << 10;
        let filter = std::str::from_utf8(filter).unwrap_or("");
        let (host, mut mail) = (self.shared.host, Vec::new());
        let tell = |kind: u64, bytes: &[u8]| {
            if let Err(refused) = host.mail(Some(to), kind | u64::from(request), bytes) {
                host.warn(format_args!("a part of an answer is lost: {refused}"));
            }
        };
        for kept in self.store.matching(filter) {
            if !mail.is_empty() && mail.len() + kept.payload.len() > MAIL_BYTES {
                tell(ANSWER, &mail);
                mail.clear();
            }
            kept.write(&mut mail);
        }
        tell(ANSWER_ENDS, &mail);
    }

    fn gather(&mut self, from: u32, number: u32, bytes: &[u8], ends: bool) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        request.gathered.extend(read_all(bytes).unwrap_or_default().into_iter().map(|kept| (from, kept)));
        if ends {
            request.missing -= 1;
            if request.missing == 0 {
                let Some(request) = self.requests.remove(&number) else { return };
                let _ = self.shared.host.cancel_timer(request.patience);
                self.respond(request);
            }
        }
    }

    /// Publishes the last messages of each topic, oldest first, and one more that says how many there were.
    fn respond(&self, mut request: Request) {
        request.gathered.sort_by_key(|(from, kept)| (kept.at_ms, *from, kept.number));
        let mut later: HashMap<&str, usize> = HashMap::new();
        let mut last: Vec<&Kept> = Vec::new();
        for (_, kept) in request.gathered.iter().rev() {
            let count = later.entry(&kept.topic).or_default();
            if *count < self.shared.config.messages_per_topic_max {
                *count += 1;
                last.push(kept);
            }
        }
        for kept in last.iter().rev() {
            let message = request
                .message(kept.payload.as_slice())
                .user_property("topic", kept.topic.as_str())
                .user_property("timestamp_ms", kept.at_ms.to_string());
            self.publish(&message);
        }
        self.publish(&request.message(&[]).user_property("messages", last.len().to_string()));
    }

    fn publish(&self, message: &Outgoing) {
        if let Err(refused) = self.shared.host.publish(message) {
            self.shared.host.warn(format_args!("a part of an answer is lost: {refused}"));
        }
    }
}

impl Request {
    fn message(&self, payload: &[u8]) -> Outgoing {
        Outgoing::new(self.response_topic.as_str(), payload)
            .qos(1)
            .correlation_data(self.correlation_data.as_slice())
    }
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
