//! The keys of `[mqtt]`: what the broker does where MQTT leaves it a choice. Part of the list in
//! `keys`.

use grapnel_engine::limits::{Choices, QueueFull, Revoke, SessionOwner};
use grapnel_engine::packet::QoS;

use super::{Key, Printed};
use crate::config::Config;

/// Longest prefix of the client identifiers that the broker gives, bytes.
const ASSIGNED_PREFIX_BYTES_MAX: usize = 64;

/// All of them.
pub(super) fn keys() -> impl Iterator<Item = Key<Config>> {
    client_keys().into_iter().chain(message_keys())
}

/// Those about clients and their sessions.
fn client_keys() -> [Key<Config>; 4] {
    let defaults = Choices::default();
    [
        Key::new(
            "mqtt.session_owner",
            "\"discard\", \"refuse\" or \"inherit\"",
            "what becomes of a session when another user connects with its client identifier, which anybody can name: it ends and the client gets a new one; or the client is refused; or it goes on with what client.authorize allows it, for clients whose user name changes",
            Printed::Default("\"discard\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.session_owner = value.word(&[
                    ("discard", SessionOwner::Discard),
                    ("refuse", SessionOwner::Refuse),
                    ("inherit", SessionOwner::Inherit),
                ])?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.revoke",
            "\"remove\" or \"disconnect\"",
            "what becomes of a client whose subscription is taken back because the rules of client.authorize have changed: it stays connected without notice, since MQTT has no packet for it; or it is disconnected with 0x87, not authorized (MQTT 3: the connection closes), so that it notices",
            Printed::Default("\"remove\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.revoke =
                    value.word(&[("remove", Revoke::Remove), ("disconnect", Revoke::Disconnect)])?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.allow_empty_client_id",
            "true or false",
            "whether a client may leave its identifier to the broker, as MQTT 5 and clean sessions of 3.1.1 can; false where each must have one of its own",
            Printed::Default(defaults.allow_empty_client_id.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.allow_empty_client_id = value.flag()?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.assigned_client_id_prefix",
            "up to 64 characters of A-Z a-z 0-9 . _ -",
            "what the identifiers begin with that the broker gives, so that lists and rules can tell them; 24 digits follow",
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
        ),
    ]
}

/// Those about messages.
fn message_keys() -> [Key<Config>; 6] {
    let defaults = Choices::default();
    [
        Key::new(
            "mqtt.queue_full",
            "\"drop_newest\" or \"drop_oldest\"",
            "which message gives way where the queue of a session is full: the one that comes, so that what was accepted first is delivered; or the one that has waited longest, for readings of which only the latest count",
            Printed::Default("\"drop_newest\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.queue_full = value.word(&[
                    ("drop_newest", QueueFull::DropNewest),
                    ("drop_oldest", QueueFull::DropOldest),
                ])?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.maximum_qos",
            "0 to 2",
            "highest QoS that clients may publish with, announced in CONNACK; all of MQTT by default. Whoever publishes with a higher one is disconnected with 0x9B",
            Printed::Default(defaults.maximum_qos.as_u8().to_string()),
            |config: &mut Config, value| {
                let qos = value.number(0, 2)?;
                config.limits.choices.maximum_qos = QoS::from_u8(qos as u8).unwrap_or_default();
                Ok(())
            },
        ),
        Key::new(
            "mqtt.retain_available",
            "true or false",
            "whether messages may be retained, announced in CONNACK; all of MQTT by default. Where it is false, whoever publishes one is disconnected with 0x9A, and what plugins publish is not stored",
            Printed::Default(defaults.retain_available.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.retain_available = value.flag()?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.control_characters",
            "\"accept\" or \"refuse\"",
            "what becomes of a packet with U+0001 to U+001F, U+007F to U+009F or a noncharacter in a topic, name or property: MQTT advises against them and lets a server take them, and some clients send them; or its connection ends with 0x81",
            Printed::Default("\"accept\"".to_owned()),
            |config: &mut Config, value| {
                config.limits.choices.refuses_control_characters =
                    value.word(&[("accept", false), ("refuse", true)])?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.allow_dollar_topics",
            "true or false",
            "whether clients may publish to topics that begin with $, which MQTT keeps for the server; where it is false, what no plugin takes, as delayed-publish takes $delayed/, is refused with 0x87, not authorized, and goes to nobody. Plugins may publish there either way",
            Printed::Default(defaults.allow_dollar_topics.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.allow_dollar_topics = value.flag()?;
                Ok(())
            },
        ),
        Key::new(
            "mqtt.reason_strings",
            "true or false",
            "whether clients of MQTT 5 get a reason string where something was refused, which helps who writes them; false where they should learn nothing of the broker's configuration",
            Printed::Default(defaults.reason_strings.to_string()),
            |config: &mut Config, value| {
                config.limits.choices.reason_strings = value.flag()?;
                Ok(())
            },
        ),
    ]
}
