//! The keys of `[control]`: where the API listens, and the limits of its connections and requests.
//! Part of the list in `keys`.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Key, Printed, path};
use crate::config::{Config, ControlConfig};

/// The keys of `[control]`.
pub(super) fn control_keys() -> impl Iterator<Item = Key<Config>> {
    let defaults = ControlConfig::default();
    let bounds =
        connection_keys(&defaults).into_iter().chain(time_keys(&defaults)).chain([traces_key(&defaults)]);
    place_keys().into_iter().chain(bounds)
}

/// The addresses of the API.
fn place_keys() -> [Key<Config>; 2] {
    [
        Key::new(
            "control.socket",
            "a path of at most 107 bytes",
            "Unix socket of the API; by default /run/grapnel.sock for root, else $XDG_RUNTIME_DIR/grapnel.sock, else /tmp/grapnel-UID.sock. grapnel-ctl has the same default",
            Printed::Example("\"/run/grapnel.sock\"".to_owned()),
            |config: &mut Config, value| {
                let path = value.path()?;
                if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                    return Err(format!(
                        "must be at most {SOCKET_PATH_BYTES_MAX} bytes long, which is all a Unix socket can have, not {}",
                        path.display()
                    ));
                }
                config.control.socket = path;
                Ok(())
            },
            |config: &Config| path(&config.control.socket),
        )
        .at_start(),
        Key::new(
            "control.http_bind",
            "\"\" for none, or a loopback address and port",
            "the same API on TCP; a client of the API controls the broker, so there is no TCP port by default, and only loopback addresses are accepted",
            Printed::Default("\"\"".to_owned()),
            |config: &mut Config, value| {
                config.control.http_bind = match value.text() {
                    Ok("") => None,
                    _ => Some(loopback(value.address()?)?),
                };
                Ok(())
            },
            |config: &Config| config.control.http_bind.map_or(String::new(), |bind| bind.to_string()).into(),
        )
        .at_start(),
    ]
}

/// The limits of the number of its connections and of the size of a request.
fn connection_keys(defaults: &ControlConfig) -> [Key<Config>; 3] {
    [
        Key::new(
            "control.connections_max",
            "1 to 1024",
            "connections to the API at a time, for each of the two sockets; enough for some terminals and a metrics collector",
            Printed::Default(defaults.connections_max.to_string()),
            |config: &mut Config, value| {
                config.control.connections_max = value.number(1, 1024)? as usize;
                Ok(())
            },
            |config: &Config| config.control.connections_max.into(),
        )
        .at_start(),
        Key::new(
            "control.connections_free_min",
            "0 to 1023",
            "how many of these connections traces, changes and verbs of plugins leave free, so that a request for the status or to disconnect a client is still accepted; one trace or change is always possible",
            Printed::Default(defaults.connections_free_min.to_string()),
            |config: &mut Config, value| {
                config.control.connections_free_min = value.number(0, 1023)? as usize;
                Ok(())
            },
            |config: &Config| config.control.connections_free_min.into(),
        )
        .at_start(),
        Key::new(
            "control.request_bytes_max",
            "1024 to 16777216",
            "largest request body; the configuration of a plugin is the largest one",
            Printed::Default(defaults.request_bytes_max.to_string()),
            |config: &mut Config, value| {
                config.control.request_bytes_max = value.number(1024, 16 << 20)? as usize;
                Ok(())
            },
            |config: &Config| config.control.request_bytes_max.into(),
        )
        .at_start(),
    ]
}

/// How long it waits: for shards, for requests, and for clients that take an answer.
fn time_keys(defaults: &ControlConfig) -> [Key<Config>; 3] {
    [
        Key::new(
            "control.answer_timeout_ms",
            "10 to 60000",
            "how long the API waits for a shard; after it the API answers without the shard and names it",
            Printed::Default(defaults.answer_timeout.as_millis().to_string()),
            |config: &mut Config, value| {
                config.control.answer_timeout = Duration::from_millis(value.number(10, 60_000)? as u64);
                Ok(())
            },
            |config: &Config| ms(config.control.answer_timeout),
        )
        .at_start(),
        Key::new(
            "control.request_timeout_ms",
            "10 to 600000",
            "how long the head of a request may take to arrive, then its body, and how long a connection may be idle before it is closed",
            Printed::Default(defaults.request_timeout.as_millis().to_string()),
            |config: &mut Config, value| {
                config.control.request_timeout = Duration::from_millis(value.number(10, 600_000)? as u64);
                Ok(())
            },
            |config: &Config| ms(config.control.request_timeout),
        )
        .at_start(),
        Key::new(
            "control.stall_timeout_ms",
            "10 to 600000",
            "time in which the other end must take 4096 bytes of an answer that waits; otherwise its connection is closed, which also ends a trace",
            Printed::Default(defaults.stall_timeout.as_millis().to_string()),
            |config: &mut Config, value| {
                config.control.stall_timeout = Duration::from_millis(value.number(10, 600_000)? as u64);
                Ok(())
            },
            |config: &Config| ms(config.control.stall_timeout),
        )
        .at_start(),
    ]
}

fn traces_key(defaults: &ControlConfig) -> Key<Config> {
    Key::new(
        "control.traces_max",
        "1 to 64",
        "clients traced at a time; for each up to limits.trace_lines_max packets are stored on its shard",
        Printed::Default(defaults.traces_max.to_string()),
        |config: &mut Config, value| {
            config.control.traces_max = value.number(1, 64)? as usize;
            Ok(())
        },
        |config: &Config| config.control.traces_max.into(),
    )
    .at_start()
}

fn ms(time: Duration) -> serde_json::Value {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

/// Longest path of a Unix socket, bytes: the size of `sun_path` without the final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

fn loopback(address: SocketAddr) -> Result<SocketAddr, String> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "must be a loopback address such as \"127.0.0.1:{}\", not \"{address}\": whoever reaches the API controls the broker; put a proxy that authenticates in front of it",
        address.port()
    ))
}
