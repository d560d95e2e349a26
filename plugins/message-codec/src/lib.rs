//! message-codec: encodes and decodes payloads of some topics, when a message is received or when
//! it is delivered. Its only state is the configuration; each instance has a reference to it.

mod codec;

use std::sync::Arc;

use grapnel_plugin_abi::{Delivered, Error, Flow, Host, Plugin, Publish, Reason, Refused, topic};

use codec::{About, Action, Codec};

/// The configuration.
#[derive(serde::Deserialize)]
struct Config {
    /// The steps, in order.
    rules: Vec<Rule>,
    /// What happens to a payload that cannot be encoded or decoded.
    #[serde(default)]
    on_error: OnError,
    /// Maximum size of a payload after a step, bytes.
    #[serde(default = "default_payload_bytes_max")]
    payload_bytes_max: usize,
}

const fn default_payload_bytes_max() -> usize {
    1 << 20
}

/// One step.
#[derive(serde::Deserialize)]
struct Rule {
    /// The hook point.
    on: On,
    /// Topic filter: the step applies to messages that match it.
    filter: String,
    /// The format.
    codec: Codec,
    /// The direction.
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum On {
    /// When the message is received, once for all subscribers.
    Publish,
    /// When it is delivered, for each subscriber.
    Delivered,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnError {
    /// The message is refused, or not delivered.
    #[default]
    Refuse,
    /// It continues unchanged.
    Pass,
}

/// The shared part.
struct MessageCodec {
    config: Config,
}

/// The instance of a shard.
struct CodecShard {
    shared: Arc<MessageCodec>,
}

impl Plugin for MessageCodec {
    type Config = Config;
    type Shard = CodecShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, _host: &Host) -> Result<MessageCodec, Error> {
        for (at, rule) in config.rules.iter().enumerate() {
            topic::check_filter(&rule.filter)
                .map_err(|problem| Error::new(format!("rules[{at}].filter: {problem}")))?;
        }
        Ok(MessageCodec { config })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<CodecShard, Error> {
        Ok(CodecShard { shared: Arc::clone(self) })
    }
}

impl MessageCodec {
    /// The payload after all steps for it; `None` if no step applies.
    fn applied(&self, on: On, payload: &[u8], about: About<'_>) -> Option<Result<Vec<u8>, String>> {
        let mut applied: Option<Vec<u8>> = None;
        for rule in
            self.config.rules.iter().filter(|rule| rule.on == on && topic::matches(&rule.filter, about.topic))
        {
            let payload = applied.as_deref().unwrap_or(payload);
            match codec::apply(rule.codec, rule.action, payload, about, self.config.payload_bytes_max) {
                Ok(next) => applied = Some(next),
                Err(problem) => return Some(Err(problem)),
            }
        }
        applied.map(Ok)
    }
}

impl CodecShard {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        let about =
            About { topic: message.topic(), from: message.client_id(), timestamp_ms: message.wall_ms() };
        match self.shared.applied(On::Publish, message.payload(), about) {
            None => Ok(Flow::Continue),
            Some(Ok(payload)) => message.set_payload(&payload).map(|()| Flow::Continue),
            Some(Err(_)) if self.shared.config.on_error == OnError::Pass => Ok(Flow::Continue),
            Some(Err(problem)) => {
                message.reject(Reason::PAYLOAD_FORMAT_INVALID, &problem)?;
                Ok(Flow::Stop)
            }
        }
    }

    fn delivered(&mut self, message: &mut Delivered<'_>) -> Result<Flow, Refused> {
        let timestamp_ms = message.timestamp_ms().unwrap_or(message.wall_ms());
        let about = About { topic: message.topic(), from: message.from().unwrap_or(""), timestamp_ms };
        match self.shared.applied(On::Delivered, message.payload(), about) {
            None => Ok(Flow::Continue),
            Some(Ok(payload)) => message.set_payload(&payload).map(|()| Flow::Continue),
            Some(Err(_)) if self.shared.config.on_error == OnError::Pass => Ok(Flow::Continue),
            Some(Err(_)) => {
                message.veto()?;
                Ok(Flow::Stop)
            }
        }
    }
}

grapnel_plugin_abi::plugin!(MessageCodec {
    message.publish(priority = 50) => CodecShard::publish,
    message.delivered(priority = -50) => CodecShard::delivered,
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};

    use super::*;

    const RULES: &str = r#""rules": [
        {"on": "publish", "filter": "in/+", "codec": "base64", "action": "decode"},
        {"on": "publish", "filter": "in/+", "codec": "gzip", "action": "encode"},
        {"on": "delivered", "filter": "in/#", "codec": "gzip", "action": "decode"}
    ]"#;

    #[test]
    fn rules_are_applied_in_order_to_their_topics() {
        let mut plugin = testing::load::<MessageCodec>(&format!("{{{RULES}}}")).unwrap();
        let mut message = FakeEvent::publish("in/a", b"aGVsbG8=");
        assert_eq!(plugin.run(&mut message), Outcome::Continue);
        let mut delivery = FakeEvent::delivered("in/a", message.payload());
        assert_eq!(plugin.run(&mut delivery), Outcome::Continue);
        assert_eq!(delivery.payload(), b"hello");
        let mut other = FakeEvent::publish("out/a", b"!");
        plugin.run(&mut other);
        assert_eq!(other.payload(), b"!");
    }

    #[test]
    fn undecodable_payloads_are_refused_or_passed_unchanged() {
        let mut plugin = testing::load::<MessageCodec>(&format!("{{{RULES}}}")).unwrap();
        let mut message = FakeEvent::publish("in/a", b"!");
        assert_eq!(plugin.run(&mut message), Outcome::Stop);
        assert!(message.is_rejected());
        assert_eq!(message.reason_text(), Some("the payload is not base64"));
        let mut delivery = FakeEvent::delivered("in/a", b"!");
        plugin.run(&mut delivery);
        assert!(delivery.is_dropped());
        let mut plugin =
            testing::load::<MessageCodec>(&format!(r#"{{"on_error": "pass", {RULES}}}"#)).unwrap();
        let mut message = FakeEvent::publish("in/a", b"!");
        assert_eq!((plugin.run(&mut message), message.payload()), (Outcome::Continue, b"!".as_slice()));
    }

    #[test]
    fn a_wrong_rule_is_refused() {
        let error_of =
            |rule: &str| testing::load::<MessageCodec>(&format!(r#"{{"rules": [{rule}]}}"#)).unwrap_err();
        let wrong = error_of(r#"{"on": "publish", "filter": "a/#/b", "codec": "gzip", "action": "encode"}"#);
        assert!(wrong.starts_with("rules[0].filter: "), "{wrong}");
        let wrong = error_of(r#"{"on": "publish", "filter": "a", "codec": "zip", "action": "encode"}"#);
        assert_eq!(wrong, "rules[0].codec: this word is not known; it must be one of base64, gzip, json");
    }
}
