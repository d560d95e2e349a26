//! The keys of `[control]`: where the API listens, and the limits of its connections and requests.
//! Part of the list in `keys`.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Key, Printed};
use crate::config::{Config, ControlConfig};

/// The keys of `[control]`.
pub(super) fn control_keys() -> impl Iterator<Item = Key<Config>> {
    place_keys().into_iter().chain(bound_keys())
}

/// Where the API is.
fn place_keys() -> [Key<Config>; 2] {
    [
        Key::new(
            "control.socket",
            "a path of at most 107 bytes",
            "/run/grapnel.sock for root, else $XDG_RUNTIME_DIR/grapnel.sock, else /tmp/grapnel-UID.sock; grapnel-ctl looks there too",
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
        ),
        Key::new(
            "control.http_bind",
            "\"\" for none, or a loopback address and port",
            "whoever reaches the API controls the broker, so a TCP port for it is opened only on request and only on loopback",
            Printed::Default("\"\"".to_owned()),
            |config: &mut Config, value| {
                config.control.http_bind = match value.text() {
                    Ok("") => None,
                    _ => Some(loopback(value.address()?)?),
                };
                Ok(())
            },
        ),
    ]
}

/// What whoever uses it may take.
#[allow(clippy::too_many_lines, reason = "one entry for each key")]
fn bound_keys() -> Vec<Key<Config>> {
    let defaults = ControlConfig::default();
    vec![
        Key::new(
            "control.connections_max",
            "1 to 1024",
            "connections to the API at a time; a handful of terminals and a metrics collector",
            Printed::Default(defaults.connections_max.to_string()),
            |config: &mut Config, value| {
                config.control.connections_max = value.number(1, 1024)? as usize;
                Ok(())
            },
        ),
        Key::new(
            "control.connections_free_min",
            "0 to 1023",
            "those of the connections that traces, changes and verbs of plugins leave to others, so that a request for the status or the end of a client finds a place; one trace or change is always possible",
            Printed::Default(defaults.connections_free_min.to_string()),
            |config: &mut Config, value| {
                config.control.connections_free_min = value.number(0, 1023)? as usize;
                Ok(())
            },
        ),
        Key::new(
            "control.request_bytes_max",
            "1024 to 16777216",
            "largest request of the API; a plugin's configuration is what needs room",
            Printed::Default(defaults.request_bytes_max.to_string()),
            |config: &mut Config, value| {
                config.control.request_bytes_max = value.number(1024, 16 << 20)? as usize;
                Ok(())
            },
        ),
        Key::new(
            "control.answer_timeout_ms",
            "10 to 60000",
            "how long the API waits for a shard before it answers without it, and names it",
            Printed::Default(defaults.answer_timeout.as_millis().to_string()),
            |config: &mut Config, value| {
                config.control.answer_timeout = Duration::from_millis(value.number(10, 60_000)? as u64);
                Ok(())
            },
        ),
        Key::new(
            "control.request_timeout_ms",
            "10 to 600000",
            "how long the head of a request may take to arrive, then its body, and how long a connection may be idle before it is closed",
            Printed::Default(defaults.request_timeout.as_millis().to_string()),
            |config: &mut Config, value| {
                config.control.request_timeout = Duration::from_millis(value.number(10, 600_000)? as u64);
                Ok(())
            },
        ),
        Key::new(
            "control.stall_timeout_ms",
            "10 to 600000",
            "how long a client may take to read less than 4096 bytes of an answer that waits, before its connection is closed; a trace ends then, too",
            Printed::Default(defaults.stall_timeout.as_millis().to_string()),
            |config: &mut Config, value| {
                config.control.stall_timeout = Duration::from_millis(value.number(10, 600_000)? as u64);
                Ok(())
            },
        ),
        Key::new(
            "control.traces_max",
            "1 to 64",
            "clients traced at a time; each remembers up to limits.trace_lines_max packets on its shard",
            Printed::Default(defaults.traces_max.to_string()),
            |config: &mut Config, value| {
                config.control.traces_max = value.number(1, 64)? as usize;
                Ok(())
            },
        ),
    ]
}

/// What fits into the `sun_path` of a Unix socket address, without the closing zero.
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
