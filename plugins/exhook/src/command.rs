//! Commands of workers to the broker. A command is decoded completely before it runs: an invalid
//! part could otherwise widen its effect.

use grapnel_plugin_abi::{Host, OnBehalf, Outgoing, Reason, RecheckScope};
use rmpv::ValueRef;

use crate::handover::{LoginRecorder, LoginReport};
use crate::logins::Connection;
use crate::wire::{bytes_ref, flag_of, get, number_of, or_nil, pairs_of, text_ref};

/// The default reason of a kick.
const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// A command.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    /// By the plugin itself, or on behalf of a client.
    Publish(Outgoing, Option<&'a str>),
    Kick(&'a str, Reason),
    Subscribe {
        client: &'a str,
        filter: &'a str,
        options: u8,
        authorize: bool,
    },
    Unsubscribe {
        client: &'a str,
        filter: &'a str,
        authorize: bool,
    },
    Invalidate(Option<&'a str>),
    /// Stores or removes login data; without bytes the data is removed.
    StoreLogin {
        client: u64,
        client_id: &'a str,
        host: &'a str,
        port: u16,
        bytes: Option<&'a [u8]>,
        /// Whether the login is still pending.
        pending: bool,
        /// The bytes to use if the broker starts a new session.
        new_session: Option<&'a [u8]>,
    },
}

/// A command that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct FailedCommand {
    /// Its name, or [`UNREADABLE`]: the log counts by this.
    pub kind: &'static str,
    /// The reason, as a sentence for the log.
    pub why: String,
}

/// For commands that cannot be decoded.
const UNREADABLE: &str = "unreadable";
/// Most characters of an unknown name that are shown.
const NAME_SHOWN_MAX: usize = 64;

/// Runs a command. `keeping` stores login data; it is `None` if the worker has not declared that it
/// stores some.
///
/// # Errors
/// The broker has refused it, or it cannot be decoded.
pub fn run(
    host: Host,
    keeping: Option<LoginRecorder<'_>>,
    command: &ValueRef<'_>,
) -> Result<(), FailedCommand> {
    let (name, done) = match read(command).map_err(|why| FailedCommand { kind: UNREADABLE, why })? {
        Command::Publish(message, None) => ("publish", host.publish(&message)),
        Command::Publish(message, Some(client)) => {
            ("publish", host.publish_as(OnBehalf::client(client), &message))
        }
        Command::Kick(client, reason) => ("kick", host.kick(client, reason)),
        Command::Subscribe { client, filter, options, authorize: true } => {
            ("subscribe", host.subscribe_as(OnBehalf::client(client), filter, options, 0))
        }
        Command::Subscribe { client, filter, options, authorize: false } => {
            ("subscribe", host.subscribe(client, filter, options, 0))
        }
        // It is queued after a subscription that waits for its own authorization.
        Command::Unsubscribe { client, filter, authorize: true } => {
            ("unsubscribe", host.unsubscribe_as(OnBehalf::client(client), filter))
        }
        Command::Unsubscribe { client, filter, authorize: false } => {
            ("unsubscribe", host.unsubscribe(client, filter))
        }
        Command::Invalidate(None) => ("invalidate", host.invalidate(RecheckScope::Everybody)),
        Command::Invalidate(Some(client)) => ("invalidate", host.invalidate(RecheckScope::Client(client))),
        Command::StoreLogin { client, client_id, host: address, port, bytes, pending, new_session } => {
            let Some(keeping) = keeping else {
                let why = "keep: the worker, or its first process, has not said in `ready` that it `keeps`";
                return Err(FailedCommand { kind: "keep", why: why.to_owned() });
            };
            let whose = Connection { client_id, host: address, port };
            keeping.record(host, whose, LoginReport { client, bytes, new_session, is_pending: pending });
            return Ok(());
        }
    };
    done.map_err(|refused| FailedCommand { kind: name, why: format!("{name}: {refused}") })
}

fn read<'a>(command: &ValueRef<'a>) -> Result<Command<'a>, String> {
    let ValueRef::Array(parts) = command else { return Err("a command is a list".to_owned()) };
    let Some(name) = parts.first().and_then(text_ref) else {
        return Err("a command begins with its name".to_owned());
    };
    let text = |at: usize, what: &str| {
        parts.get(at).and_then(text_ref).ok_or_else(|| format!("{name}: the {what} must be text"))
    };
    // A missing part has a default, and nil means the same.
    let byte = |at: usize, what: &str, missing: u8| {
        let byte = or_nil(parts.get(at), number_of);
        byte.map(|byte| byte.unwrap_or(missing)).map_err(|_| format!("{name}: the {what} must be one byte"))
    };
    // Nil is not accepted here: it does not say whether to authorize.
    let authorize = |at: usize| match parts.get(at) {
        None => Ok(false),
        Some(value) => flag_of(value).ok_or_else(|| format!("{name}: authorize must be a boolean")),
    };
    Ok(match name {
        "publish" => {
            publish(parts.get(1).unwrap_or(&ValueRef::Nil)).map_err(|wrong| format!("publish: {wrong}"))?
        }
        "kick" => {
            Command::Kick(text(1, "client identifier")?, Reason(byte(2, "reason", ADMINISTRATIVE_ACTION)?))
        }
        "subscribe" => Command::Subscribe {
            client: text(1, "client identifier")?,
            filter: text(2, "topic filter")?,
            options: byte(3, "options", 0)?,
            authorize: authorize(4)?,
        },
        "unsubscribe" => Command::Unsubscribe {
            client: text(1, "client identifier")?,
            filter: text(2, "topic filter")?,
            authorize: authorize(3)?,
        },
        "invalidate" => Command::Invalidate(
            or_nil(parts.get(1), text_ref)
                .map_err(|_| format!("{name}: the client identifier must be text"))?,
        ),
        "keep" => record(parts)
            .ok_or("keep: it is not [client, client_id, host, port, bytes or nil, coming, anew]")?,
        other => {
            let shown: String = other.chars().take(NAME_SHOWN_MAX).collect();
            return Err(format!("there is no command {shown:?}"));
        }
    })
}

/// `["keep", client, client_id, host, port, bytes or nil, pending, new_session or nil]`; the last two may be missing.
fn record<'a>(parts: &[ValueRef<'a>]) -> Option<Command<'a>> {
    let [_, client, client_id, host, port, bytes, rest @ ..] = parts else { return None };
    let (pending, new_session) = match rest {
        [] => (false, None),
        [pending] => (flag_of(pending)?, None),
        [pending, new_session] => (flag_of(pending)?, or_nil(Some(new_session), bytes_ref).ok()?),
        _ => return None,
    };
    Some(Command::StoreLogin {
        client: client.as_u64()?,
        client_id: text_ref(client_id)?,
        host: text_ref(host)?,
        port: number_of(port)?,
        bytes: or_nil(Some(bytes), bytes_ref).ok()?,
        pending,
        new_session,
    })
}

fn publish<'a>(value: &ValueRef<'a>) -> Result<Command<'a>, String> {
    fn part<'a, T>(
        map: &ValueRef<'a>,
        key: &str,
        what: &str,
        of: impl FnOnce(&ValueRef<'a>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        or_nil(get(map, key), of).map_err(|_| format!("the {key} must be {what}"))
    }
    let topic = get(value, "topic").and_then(text_ref).ok_or("there is no topic")?;
    let payload = part(value, "payload", "bytes or text", bytes_ref)?.unwrap_or_default();
    let mut message = Outgoing::new(topic, payload);
    if let Some(qos) = part(value, "qos", "0, 1 or 2", number_of)? {
        message = message.qos(qos);
    }
    if let Some(retain) = part(value, "retain", "a boolean", flag_of)? {
        message = message.retain(retain);
    }
    if part(value, "store_only", "a boolean", flag_of)? == Some(true) {
        message = message.store_only();
    }
    if let Some(from) = part(value, "from", "text", text_ref)? {
        message = message.from_client(from);
    }
    if let Some(kind) = part(value, "content_type", "text", text_ref)? {
        message = message.content_type(kind);
    }
    if let Some(topic) = part(value, "response_topic", "text", text_ref)? {
        message = message.response_topic(topic);
    }
    if let Some(data) = part(value, "correlation_data", "bytes or text", bytes_ref)? {
        message = message.correlation_data(data);
    }
    if let Some(seconds) = part(value, "message_expiry_s", "a number of seconds of 32 bits", number_of)? {
        message = message.message_expiry_s(seconds);
    }
    for (key, value) in part(value, "user", "a list of pairs of text", pairs_of)?.unwrap_or_default() {
        message = message.user_property(key, value);
    }
    // Nil is not accepted here: a message on behalf of a client must not become the plugin's own.
    let client = match get(value, "on_behalf_of") {
        None => None,
        Some(client) => Some(text_ref(client).ok_or("the on_behalf_of must be text")?),
    };
    Ok(Command::Publish(message, client))
}

#[cfg(test)]
mod tests;
