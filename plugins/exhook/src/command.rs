//! What workers ask of the broker.

use grapnel_plugin_abi::{Host, OnBehalf, Outgoing, Reason, Whose};
use rmpv::ValueRef;

use crate::clients::shard_of;
use crate::kept::{Connection, Kept};
use crate::wire::{bytes_ref, flag_of, get, text_ref};

/// Does it; what is to be kept goes to `kept`, of process `epoch`.
///
/// # Errors
/// What is wrong, as a sentence for the log.
pub fn run(host: Host, (kept, epoch): (&Kept, u64), command: &ValueRef<'_>) -> Result<(), String> {
    let ValueRef::Array(parts) = command else { return Err("a command is a list".to_owned()) };
    let Some(name) = parts.first().and_then(text_ref) else {
        return Err("a command begins with its name".to_owned());
    };
    let text = |at: usize, what: &str| {
        parts.get(at).and_then(text_ref).ok_or_else(|| format!("{name}: the {what} must be text"))
    };
    let done = match name {
        "publish" => publish(host, parts.get(1).unwrap_or(&ValueRef::Nil))?,
        "kick" => {
            let code = parts.get(2).and_then(ValueRef::as_u64).unwrap_or(0x98);
            host.kick(text(1, "client identifier")?, Reason(u8::try_from(code).unwrap_or(0x98)))
        }
        "subscribe" => {
            let options = parts.get(3).and_then(ValueRef::as_u64).unwrap_or(0);
            let options = u8::try_from(options).map_err(|_| "subscribe: the options are one byte")?;
            let (client, filter) = (text(1, "client identifier")?, text(2, "topic filter")?);
            if parts.get(4).and_then(flag_of).unwrap_or(false) {
                host.subscribe_as(OnBehalf::client(client), filter, options, 0)
            } else {
                host.subscribe(client, filter, options, 0)
            }
        }
        "unsubscribe" => {
            let (client, filter) = (text(1, "client identifier")?, text(2, "topic filter")?);
            // Behind a subscription that waits for its answer, and not before it.
            if parts.get(3).and_then(flag_of).unwrap_or(false) {
                host.unsubscribe_as(OnBehalf::client(client), filter)
            } else {
                host.unsubscribe(client, filter)
            }
        }
        "invalidate" => match parts.get(1) {
            None | Some(ValueRef::Nil) => host.invalidate(Whose::Everybody),
            Some(_) => host.invalidate(Whose::Client(text(1, "client identifier")?)),
        },
        "keep" => return keep(kept, epoch, parts),
        other => return Err(format!("there is no command {other:?}")),
    };
    done.map_err(|refused| format!("{name}: {refused}"))
}

/// `["keep", client, client_id, host, port, bytes or nil]`: what a login gave, or that its session is over.
fn keep(kept: &Kept, epoch: u64, parts: &[ValueRef<'_>]) -> Result<(), String> {
    let text = |at: usize| parts.get(at).and_then(text_ref);
    let number = |at: usize| parts.get(at).and_then(ValueRef::as_u64);
    let (Some(client), Some(client_id), Some(host), Some(port)) = (number(1), text(2), text(3), number(4))
    else {
        return Err("keep: it is not [client, client_id, host, port, bytes]".to_owned());
    };
    let whose = Connection { client_id, host, port: u16::try_from(port).unwrap_or(0) };
    match parts.get(5).and_then(bytes_ref) {
        Some(bytes) => kept.keep(whose, shard_of(client), bytes, epoch),
        None => {
            kept.forget(whose, shard_of(client));
            Ok(())
        }
    }
}

fn publish(host: Host, value: &ValueRef<'_>) -> Result<Result<(), grapnel_plugin_abi::Refused>, String> {
    let topic = get(value, "topic").and_then(text_ref).ok_or("publish: there is no topic")?;
    let payload = get(value, "payload").and_then(bytes_ref).unwrap_or_default();
    let mut message = Outgoing::new(topic, payload);
    if let Some(qos) = get(value, "qos").and_then(ValueRef::as_u64) {
        message = message.qos(u8::try_from(qos).unwrap_or(u8::MAX));
    }
    if let Some(retain) = get(value, "retain").and_then(flag_of) {
        message = message.retain(retain);
    }
    if get(value, "store_only").and_then(flag_of) == Some(true) {
        message = message.store_only();
    }
    if let Some(from) = get(value, "from").and_then(text_ref) {
        message = message.from_client(from);
    }
    if let Some(kind) = get(value, "content_type").and_then(text_ref) {
        message = message.content_type(kind);
    }
    if let Some(topic) = get(value, "response_topic").and_then(text_ref) {
        message = message.response_topic(topic);
    }
    if let Some(data) = get(value, "correlation_data").and_then(bytes_ref) {
        message = message.correlation_data(data);
    }
    if let Some(seconds) = get(value, "message_expiry_s").and_then(ValueRef::as_u64) {
        message = message.message_expiry_s(u32::try_from(seconds).unwrap_or(u32::MAX));
    }
    if let Some(ValueRef::Array(pairs)) = get(value, "user") {
        for pair in pairs {
            let ValueRef::Array(pair) = pair else { continue };
            if let [Some(key), Some(value)] = [pair.first(), pair.get(1)].map(|part| part.and_then(text_ref))
            {
                message = message.user_property(key, value);
            }
        }
    }
    Ok(match get(value, "on_behalf_of").and_then(text_ref) {
        Some(client) => host.publish_as(OnBehalf::client(client), &message),
        None => host.publish(&message),
    })
}
