//! The keys of one `[[listeners]]`, except those of its TLS. Part of the list in `keys`.

use serde_json::Value as Json;

use super::{Key, Printed, SOCKET_PATH_BYTES_MAX, tls};
use crate::config::listener::{
    Bind, Forwarded, ListenerConfig, MountPoint, SocketOptions, UnixOptions, Versions,
};
use crate::config::listener_draft::ListenerDraft;
use crate::config::network::Network;
use crate::config::value::Value;

/// A key of a listener.
pub(in crate::config) type ListenerKey = Key<ListenerDraft, ListenerConfig>;

/// All of them, in the order in which they are printed; those of a table in a listener have its
/// name in front.
pub(super) fn keys() -> Vec<ListenerKey> {
    let keys = access_keys().into_iter().chain(name_keys()).chain(unix_keys()).chain(bound_keys());
    let keys = keys.chain(protocol_keys()).chain(socket_keys()).chain(proxy_keys());
    keys.chain(tls::keys()).chain(websocket_keys()).collect()
}

/// Reads where a listener listens.
pub(in crate::config) fn bind(value: &Value) -> Result<Bind, String> {
    let path = value.text().ok().and_then(|text| text.strip_prefix("unix:"));
    let Some(path) = path else { return value.address().map(Bind::Tcp) };
    let path = std::path::absolute(path)
        .map_err(|_| "must have a path behind unix: such as \"unix:/run/grapnel-mqtt.sock\"".to_owned())?;
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(format!(
            "must have a path of at most {SOCKET_PATH_BYTES_MAX} bytes, which is all a Unix socket can have, not {}",
            path.display()
        ));
    }
    Ok(Bind::Unix(path))
}

fn access_keys() -> [ListenerKey; 2] {
    [
        Key::new(
            "bind",
            "an IP address and a port, or unix: and a path of at most 107 bytes; port 0 lets the system choose",
            "where clients connect; the default is MQTT's port on this machine only, until you decide who else may connect",
            Printed::Default("\"127.0.0.1:1883\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.bind = Some(bind(value)?);
                Ok(())
            },
            |listener: &ListenerConfig| listener.bind.to_string().into(),
        ),
        Key::new(
            "allow_anonymous",
            "true or false",
            "whether a client is let in that no plugin has accepted or refused. With true, a client without a user name is let in, and a client with one if no authentication plugin is loaded. With false, only clients that a plugin accepts are let in. The default is true on a loopback address and a Unix socket without proxy_protocol and websocket.trusted_proxies, else false",
            Printed::Default("true".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.allow_anonymous = Some(value.flag()?);
                Ok(())
            },
            |listener: &ListenerConfig| listener.allow_anonymous.into(),
        ),
    ]
}

fn name_keys() -> [ListenerKey; 2] {
    [
        Key::new(
            "name",
            "text",
            "how plugins, the log and grapnel-ctl status name the listener; by default its address. Each listener has another name",
            Printed::Example("\"inside\"".to_owned()),
            |listener: &mut ListenerDraft, value| match value.text()? {
                name if name.is_empty() || name.len() > 64 => Err("must have 1 to 64 bytes".to_owned()),
                name if name.contains(char::is_control) => Err("must have no control characters".to_owned()),
                name => {
                    listener.name = Some(name.to_owned());
                    Ok(())
                }
            },
            |listener: &ListenerConfig| listener.name.clone().into(),
        ),
        Key::new(
            "mount_point",
            "\"\" for none, or the beginning of a topic that ends with /, of at most 1024 bytes",
            "what the broker puts in front of all topics and filters of its clients, who do not see it. %c or ${clientid} is the client identifier, %u or ${username} the user name, as in \"site/%u/\"; a client whose name is missing or cannot be a level of a topic is not let in",
            Printed::Default("\"\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.mount_point = MountPoint::parse(value.text()?)?;
                Ok(())
            },
            |listener: &ListenerConfig| listener.mount_point.text.clone().into(),
        ),
    ]
}

/// Text, or `None` if it is empty.
fn text_or_none(value: &Value) -> Result<Option<String>, String> {
    let text = value.text()?;
    if text.len() > 256 || text.contains(|c: char| c.is_control() || c == ':') {
        return Err("must be the name or number of a user or group".to_owned());
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn unix_keys() -> [ListenerKey; 3] {
    [
        Key::new(
            "unix_mode",
            "\"\" for 0660, or octal digits from \"0\" to \"0777\"",
            "mode of the file of a Unix socket: whoever may write to it may connect. By default the owner and the group",
            Printed::Default("\"\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                let octal = "must be octal digits in quotes from \"0\" to \"0777\", such as \"0660\"";
                listener.unix.mode = match value.text().map_err(|_| octal.to_owned())? {
                    "" => None,
                    text => {
                        let digits = !text.starts_with('+');
                        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
                        Some(mode.ok_or_else(|| format!("{octal}, not \"{text}\""))?)
                    }
                };
                Ok(())
            },
            |listener: &ListenerConfig| {
                let UnixOptions { mode, .. } = listener.unix;
                mode.map_or(String::new(), |mode| format!("{mode:04o}")).into()
            },
        )
        .at_start(),
        Key::new(
            "unix_owner",
            "\"\" or the name or number of a user",
            "owner of the file of a Unix socket; by default the user that the broker runs as. Only root can name another",
            Printed::Default("\"\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.unix.owner = text_or_none(value)?;
                Ok(())
            },
            |listener: &ListenerConfig| listener.unix.owner.clone().unwrap_or_default().into(),
        )
        .at_start(),
        Key::new(
            "unix_group",
            "\"\" or the name or number of a group",
            "group of the file of a Unix socket; by default that of the broker",
            Printed::Default("\"\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.unix.group = text_or_none(value)?;
                Ok(())
            },
            |listener: &ListenerConfig| listener.unix.group.clone().unwrap_or_default().into(),
        )
        .at_start(),
    ]
}

fn bound_keys() -> [ListenerKey; 2] {
    [
        Key::new(
            "connections_max",
            "0 to 640000000",
            "connections of the listener at a time, over all shards; 0 leaves that to limits.connections_max and limits.connections_total_max",
            Printed::Default("0".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.connections_max = value.number(0, 640_000_000)? as u64;
                Ok(())
            },
            |listener: &ListenerConfig| listener.connections_max.into(),
        ),
        Key::new(
            "connects_per_second_max",
            "0 to 1000000",
            "new connections of the listener in a second, over all shards; those beyond it wait to be accepted. 0 is no limit",
            Printed::Default("0".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.connects_per_second_max = value.number(0, 1_000_000)? as u64;
                Ok(())
            },
            |listener: &ListenerConfig| listener.connects_per_second_max.into(),
        ),
    ]
}

fn protocol_keys() -> [ListenerKey; 2] {
    [
        Key::new(
            "versions",
            "a list of \"3.1\", \"3.1.1\" and \"5\"",
            "versions of MQTT that clients of the listener may have; others are refused with the code for an unsupported version",
            Printed::Default("[\"3.1\", \"3.1.1\", \"5\"]".to_owned()),
            |listener: &mut ListenerDraft, value| {
                let mut versions = Versions { v3_1: false, v3_1_1: false, v5: false };
                for word in value.texts()? {
                    match word.as_str() {
                        "3.1" => versions.v3_1 = true,
                        "3.1.1" => versions.v3_1_1 = true,
                        "5" => versions.v5 = true,
                        _ => {
                            return Err(format!(
                                "must be a list of \"3.1\", \"3.1.1\" and \"5\", not \"{word}\""
                            ));
                        }
                    }
                }
                if versions.words().is_empty() {
                    return Err("must have one of \"3.1\", \"3.1.1\" and \"5\" at least".to_owned());
                }
                listener.versions = versions;
                Ok(())
            },
            |listener: &ListenerConfig| listener.versions.words().into(),
        ),
        Key::new(
            "keep_alive_s_max",
            "10 to 65535",
            "longest keep alive of clients of the listener, where limits.keep_alive_max_s is not shorter; a longer or absent one is lowered to it with Server Keep Alive (MQTT 5). 65535 is no cap of its own",
            Printed::Default("65535".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.keep_alive_s_max = value.number(10, 65_535)? as u16;
                Ok(())
            },
            |listener: &ListenerConfig| listener.keep_alive_s_max.into(),
        ),
    ]
}

fn socket_keys() -> [ListenerKey; 4] {
    let buffer = |path: &str, reason: &'static str, of: fn(&mut SocketOptions) -> &mut u32| {
        Key::new(
            path,
            "0 to 1073741824",
            reason,
            Printed::Default("0".to_owned()),
            move |listener: &mut ListenerDraft, value| {
                *of(&mut listener.socket) = value.number(0, 1 << 30)? as u32;
                Ok(())
            },
            move |listener: &ListenerConfig| {
                let mut socket = listener.socket;
                (*of(&mut socket)).into()
            },
        )
    };
    [
        Key::new(
            "tcp_nodelay",
            "true or false",
            "whether small packets are sent at once (TCP_NODELAY). Whole packets are sent together in any case, so that waiting would only delay them",
            Printed::Default("true".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.socket.nodelay = value.flag()?;
                Ok(())
            },
            |listener: &ListenerConfig| listener.socket.nodelay.into(),
        ),
        Key::new(
            "tcp_keepalive_s",
            "0 to 32767",
            "idle time after which the kernel probes the other end, and the time between probes; 0 is off, because keep alive of MQTT does the same",
            Printed::Default("0".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.socket.keepalive_s = value.number(0, 32_767)? as u32;
                Ok(())
            },
            |listener: &ListenerConfig| listener.socket.keepalive_s.into(),
        ),
        buffer(
            "send_buffer_bytes",
            "size of the kernel's send buffer of a connection (SO_SNDBUF); 0 leaves it to the kernel, which adapts it",
            |socket| &mut socket.send_buffer_bytes,
        ),
        buffer(
            "receive_buffer_bytes",
            "size of the kernel's receive buffer of a connection (SO_RCVBUF); 0 leaves it to the kernel, which adapts it",
            |socket| &mut socket.receive_buffer_bytes,
        ),
    ]
}

fn networks(value: &Value) -> Result<Vec<Network>, String> {
    value.texts()?.iter().map(|text| Network::parse(text)).collect()
}

fn shown(networks: &[Network]) -> Json {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

fn proxy_keys() -> [ListenerKey; 2] {
    [
        Key::new(
            "proxy_protocol",
            "true or false",
            "whether connections begin with the header of the PROXY protocol, version 1 or 2, with the address of the client. With true, a connection without it is closed",
            Printed::Default("false".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.proxy_protocol = value.flag()?;
                Ok(())
            },
            |listener: &ListenerConfig| listener.proxy.is_some().into(),
        ),
        Key::new(
            "proxy_sources",
            "a list of IP addresses and networks such as \"10.0.0.0/8\"",
            "the proxies: only connections from these addresses are accepted, because whoever sends the header chooses the address that plugins and limits see",
            Printed::Default("[]".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.proxy_sources = networks(value)?;
                Ok(())
            },
            |listener: &ListenerConfig| {
                listener.proxy.as_ref().map_or(Vec::<Json>::new().into(), |proxy| shown(&proxy.sources))
            },
        ),
    ]
}

fn websocket_keys() -> [ListenerKey; 4] {
    [
        Key::new(
            "websocket.path",
            "a path that begins with /, of at most 1024 bytes",
            "path of the request that opens a WebSocket; other paths are answered with 404. The default is what clients use",
            Printed::Default("\"/mqtt\"".to_owned()),
            |listener: &mut ListenerDraft, value| {
                let path = value.text()?;
                let fits = |c: char| c.is_ascii_graphic() && c != '?' && c != '#';
                if !path.starts_with('/') || path.len() > 1024 || !path.chars().all(fits) {
                    return Err(format!("must be a path such as \"/mqtt\", not \"{path}\""));
                }
                listener.websocket().path = path.to_owned();
                Ok(())
            },
            |listener: &ListenerConfig| {
                listener.websocket.as_ref().map_or(Json::Null, |websocket| websocket.path.clone().into())
            },
        ),
        Key::new(
            "websocket.origins",
            "a list of origins such as \"https://example.org\", or [\"*\"] for all",
            "web pages that may connect, by their Origin header; a request with another one is answered with 403. Empty: all, but only those of this machine where allow_anonymous is true on a listener for this machine. Programs that send none are not concerned",
            Printed::Default("[]".to_owned()),
            |listener: &mut ListenerDraft, value| {
                let origins = value.texts()?;
                if let Some(wrong) = origins.iter().find(|origin| !is_origin(origin)) {
                    return Err(format!(
                        "must be origins as browsers send them, such as \"https://example.org\": without a path, and without the usual port; not \"{wrong}\""
                    ));
                }
                listener.websocket().origins = origins;
                Ok(())
            },
            |listener: &ListenerConfig| {
                listener.websocket.as_ref().map_or(Json::Null, |websocket| websocket.origins.clone().into())
            },
        ),
        Key::new(
            "websocket.trusted_proxies",
            "a list of IP addresses and networks such as \"10.0.0.0/8\"",
            "proxies whose X-Forwarded-For header names the client; that of others is ignored",
            Printed::Default("[]".to_owned()),
            |listener: &mut ListenerDraft, value| {
                listener.websocket().trusted_proxies = networks(value)?;
                Ok(())
            },
            |listener: &ListenerConfig| {
                listener.websocket.as_ref().map_or(Json::Null, |websocket| shown(&websocket.trusted_proxies))
            },
        ),
        forwarded_key(),
    ]
}

fn forwarded_key() -> ListenerKey {
    Key::new(
        "websocket.forwarded_header",
        "\"x-forwarded-for\" or \"forwarded\"",
        "the header in which these proxies name the client; the other one is ignored, because a client could have written it",
        Printed::Default("\"x-forwarded-for\"".to_owned()),
        |listener: &mut ListenerDraft, value| {
            listener.websocket().forwarded = match value.text()? {
                "x-forwarded-for" => Forwarded::XForwardedFor,
                "forwarded" => Forwarded::Rfc7239,
                other => {
                    return Err(format!("must be \"x-forwarded-for\" or \"forwarded\", not \"{other}\""));
                }
            };
            Ok(())
        },
        |listener: &ListenerConfig| {
            listener.websocket.as_ref().map_or(Json::Null, |websocket| match websocket.forwarded {
                Forwarded::XForwardedFor => "x-forwarded-for".into(),
                Forwarded::Rfc7239 => "forwarded".into(),
            })
        },
    )
}

/// Whether a browser can send this as origin (RFC 6454 section 6.2), or it stands for all.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return text == "*" };
    let has_usual_port = match scheme {
        "http" => host.ends_with(":80"),
        "https" => host.ends_with(":443"),
        _ => false,
    };
    let is_host = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '@' | '\\');
    !scheme.is_empty() && !host.is_empty() && !has_usual_port && host.chars().all(is_host)
}
