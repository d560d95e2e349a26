//! The keys of `[mqtt]`: choices that MQTT leaves to the broker. Part of the list in `keys`.

use grapnel_engine::limits::{Choices, QueueFull, Revoke, SessionOwner};
use grapnel_engine::packet::QoS;

use super::{Key, Printed, shown_word};
use crate::config::Config;

/// Longest prefix of the client identifiers that the broker assigns, bytes.
const ASSIGNED_PREFIX_BYTES_MAX: usize = 64;

const SESSION_OWNER: [(&str, SessionOwner); 3] = [
    ("discard", SessionOwner::Discard),
    ("refuse", SessionOwner::Refuse),
    ("inherit", SessionOwner::Inherit),
];
const REVOKE: [(&str, Revoke); 2] = [("remove", Revoke::Remove), ("disconnect", Revoke::Disconnect)];
const QUEUE_FULL: [(&str, QueueFull); 2] =
    [("drop_newest", QueueFull::DropNewest), ("drop_oldest", QueueFull::DropOldest)];
/// Whether control characters are refused.
const CONTROL_CHARACTERS: [(&str, bool); 2] = [("accept", false), ("refuse", true)];

/// All of them.
pub(super) fn keys() -> impl Iterator<Item = Key<Config>> {
    client_keys().into_iter().chain(delivery_keys()).chain(publish_keys())
}

/// Those about clients and their sessions.
fn client_keys() -> [Key<Config>; 4] {
    let defaults = Choices::default();
    [
        Key::new(
            "mqtt.session_owner",
            "\"discard\", \"refuse\" or \"inherit\"",
            "what happens to a session when another user connects with its client identifier, which any client can send. \"discard\": the session ends, and the client gets a new one. \"refuse\": the client is refused. \"inherit\": the client gets the session with what client.authorize allows the new user; for clients whose user name changes",
            Printed::Default("\"discard\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.session_owner = value.word(&SESSION_OWNER)?;
                Ok(())
            },
            |config: &Config| shown_word(&SESSION_OWNER, config.limits.choices.session_owner),
        ),
        Key::new(
            "mqtt.revoke",
            "\"remove\" or \"disconnect\"",
            "what happens to a client when a subscription is revoked because the rules of client.authorize have changed. \"remove\": it stays connected and is not notified, because MQTT has no packet for that. \"disconnect\": it is disconnected with 0x87, not authorized; an MQTT 3 connection is closed",
            Printed::Default("\"remove\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.revoke = value.word(&REVOKE)?;
                Ok(())
            },
            |config: &Config| shown_word(&REVOKE, config.limits.choices.revoke),
        ),
        Key::new(
            "mqtt.allow_empty_client_id",
            "true or false",
            "whether a client may leave its identifier to the broker, if its MQTT version allows it: MQTT 5, and 3.1.1 with clean session 1. With false, each client must send one",
            Printed::Default(defaults.allow_empty_client_id.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.allow_empty_client_id = value.flag()?;
                Ok(())
            },
            |config: &Config| config.limits.choices.allow_empty_client_id.into(),
        ),
        Key::new(
            "mqtt.assigned_client_id_prefix",
            "up to 64 characters of A-Z a-z 0-9 . _ -",
            "how identifiers begin that the broker assigns, so that lists and rules can match them; 24 digits follow",
            Printed::Default(format!("\"{}\"", defaults.assigned_client_id_prefix)),
            |config: &mut Config, value| {
                let prefix = value.text()?;
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                if prefix.len() > ASSIGNED_PREFIX_BYTES_MAX || !prefix.chars().all(fits) {
                    return Err(format!(
                        "must have at most {ASSIGNED_PREFIX_BYTES_MAX} letters, digits, -, _ and ., not \"{prefix}\""
                    ));
                }
                config.limits.choices.assigned_client_id_prefix = prefix.into();
                Ok(())
            },
            |config: &Config| config.limits.choices.assigned_client_id_prefix.as_ref().into(),
        ),
    ]
}

/// Those about messages and what CONNACK announces.
fn delivery_keys() -> [Key<Config>; 3] {
    let defaults = Choices::default();
    [
        Key::new(
            "mqtt.queue_full",
            "\"drop_newest\" or \"drop_oldest\"",
            "which message is dropped when a session's queue is full. \"drop_newest\": the new one, so that what was accepted first is delivered. \"drop_oldest\": the one that has waited longest, for measurements of which only the latest matter",
            Printed::Default("\"drop_newest\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.queue_full = value.word(&QUEUE_FULL)?;
                Ok(())
            },
            |config: &Config| shown_word(&QUEUE_FULL, config.limits.choices.queue_full),
        ),
        Key::new(
            "mqtt.maximum_qos",
            "0 to 2",
            "highest QoS that clients may publish with; CONNACK announces it. A client that uses a higher one is disconnected with 0x9B",
            Printed::Default(defaults.maximum_qos.as_u8().to_string()),
            |config: &mut Config, value| {
                let qos = value.number(0, 2)?;
                config.limits.choices.maximum_qos = QoS::from_u8(qos as u8).unwrap_or_default();
                Ok(())
            },
            |config: &Config| config.limits.choices.maximum_qos.as_u8().into(),
        ),
        Key::new(
            "mqtt.retain_available",
            "true or false",
            "whether messages may be retained; CONNACK announces it. With false, a client that publishes a retained message is disconnected with 0x9A, and messages from plugins are not stored",
            Printed::Default(defaults.retain_available.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.retain_available = value.flag()?;
                Ok(())
            },
            |config: &Config| config.limits.choices.retain_available.into(),
        ),
    ]
}

/// Those about packets and topics that clients send, and answers to them.
fn publish_keys() -> [Key<Config>; 3] {
    let defaults = Choices::default();
    [
        Key::new(
            "mqtt.control_characters",
            "\"accept\" or \"refuse\"",
            "what happens to a packet with U+0001 to U+001F, U+007F to U+009F or a noncharacter in a topic, name or property. \"accept\": it is processed; MQTT advises against these characters but allows them, and some clients send them. \"refuse\": its connection ends with 0x81",
            Printed::Default("\"accept\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.refuses_control_characters = value.word(&CONTROL_CHARACTERS)?;
                Ok(())
            },
            |config: &Config| {
                shown_word(&CONTROL_CHARACTERS, config.limits.choices.refuses_control_characters)
            },
        ),
        Key::new(
            "mqtt.allow_dollar_topics",
            "true or false",
            "whether clients may publish to topics that begin with $, which MQTT reserves for the server. With false, such a publish is refused with 0x87, not authorized, unless a plugin handles it, as delayed-publish does with $delayed/. Plugins may publish there in either case",
            Printed::Default(defaults.allow_dollar_topics.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.allow_dollar_topics = value.flag()?;
                Ok(())
            },
            |config: &Config| config.limits.choices.allow_dollar_topics.into(),
        ),
        Key::new(
            "mqtt.reason_strings",
            "true or false",
            "whether MQTT 5 clients get a reason string with a refusal, which helps their developers. Set it to false if clients should learn nothing about the broker's configuration",
            Printed::Default(defaults.reason_strings.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.reason_strings = value.flag()?;
                Ok(())
            },
            |config: &Config| config.limits.choices.reason_strings.into(),
        ),
    ]
}
