//! Tests of the list of keys and of differences, over all keys.
#![allow(clippy::unwrap_used)]

use grapnel_engine::limits::Limits;
use serde_json::json;

use super::*;
use crate::config::{CliOverrides, Environment, Origin};
use crate::shard::limits::ShellLimits;

fn environment() -> Environment {
    Environment { vars: Vec::new(), uid: 0, executable_dir: None, cores: 2 }
}

fn load(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.toml");
    std::fs::write(&path, text).unwrap();
    let cli = CliOverrides { config: Some(path), ..CliOverrides::default() };
    Config::load(&cli, &environment()).unwrap()
}

/// A value of each key that is not its default.
fn sample(path: &str) -> String {
    let samples = [
        ("shards", "5"),
        ("runtime.io", "\"epoll\""),
        ("authorization.no_match", "\"deny\""),
        ("mqtt.session_owner", "\"refuse\""),
        ("mqtt.revoke", "\"disconnect\""),
        ("mqtt.allow_empty_client_id", "false"),
        ("mqtt.assigned_client_id_prefix", "\"x\""),
        ("mqtt.queue_full", "\"drop_oldest\""),
        ("mqtt.maximum_qos", "1"),
        ("mqtt.retain_available", "false"),
        ("mqtt.control_characters", "\"refuse\""),
        ("mqtt.allow_dollar_topics", "true"),
        ("mqtt.reason_strings", "false"),
        ("plugins.dir", "\"/pp\""),
        ("control.socket", "\"/c.sock\""),
        ("control.http_bind", "\"127.0.0.1:99\""),
        ("control.connections_max", "9"),
        ("control.connections_free_min", "9"),
        ("control.request_bytes_max", "9999"),
        ("control.answer_timeout_ms", "99"),
        ("control.request_timeout_ms", "99"),
        ("control.stall_timeout_ms", "99"),
        ("control.traces_max", "9"),
        ("state.dir", "\"/ss\""),
        ("log.level", "\"trace\""),
    ];
    if let Some((_, value)) = samples.iter().find(|(known, _)| *known == path) {
        return (*value).to_owned();
    }
    let name = path.strip_prefix("limits.").unwrap();
    let setting = Limits::SETTINGS.iter().chain(ShellLimits::SETTINGS).find(|one| one.name == name).unwrap();
    let default = Limits::default().value(name).or_else(|| ShellLimits::default().value(name)).unwrap();
    let other = if default == setting.min { default + 1 } else { setting.min };
    other.to_string()
}

/// Every key of the document either has its effect with a reload or is named as one that needs a
/// start, and its value is read by the getter in the form that the setter takes.
#[test]
fn every_key_is_applied_by_a_reload_or_named_as_needing_a_start() {
    let old = load("");
    let mut at_start = Vec::new();
    for key in keys::keys() {
        let (table, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        let head = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let new = load(&format!("{head}{name} = {}\n", sample(&key.path)));
        let found = difference(&old, &new);
        let names: Vec<&str> = found.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(names, [key.path.as_str()]);
        let taken = old.taking(&new);
        match key.when {
            When::Now => assert_eq!(difference(&taken, &new), [], "{}", key.path),
            When::Start => {
                assert_eq!(difference(&old, &taken), [], "{}", key.path);
                at_start.push(key.path.clone());
            }
        }
    }
    at_start.retain(|path| !path.starts_with("limits.") && !path.starts_with("control."));
    assert_eq!(at_start, ["shards", "runtime.io", "plugins.dir", "state.dir"]);
    for name in Limits::AT_START.iter().chain(&ShellLimits::AT_START) {
        let path = format!("limits.{name}");
        assert!(keys::keys().iter().any(|key| key.path == path && key.when == When::Start), "{path}");
    }
}

const LISTENER: &str = r#"
[[listeners]]
name = "secure"
bind = "127.0.0.1:8883"
allow_anonymous = false
mount_point = "site/%u/"
connections_max = 5
connects_per_second_max = 6
versions = ["5"]
keep_alive_s_max = 60
tcp_nodelay = false
tcp_keepalive_s = 30
send_buffer_bytes = 8192
receive_buffer_bytes = 4096
proxy_protocol = true
proxy_sources = ["10.0.0.0/8"]
[listeners.tls]
cert = "/chain.pem"
key = "/key.pem"
client_ca = "/ca.pem"
client_certificate = "optional"
crl = ["/crl.pem"]
version_min = "1.3"
handshake_timeout_ms = 500
handshakes_max = 7
identity = "cn"
session_tickets = false
[listeners.websocket]
path = "/ws"
origins = ["https://example.org"]
trusted_proxies = ["::1"]
forwarded_header = "forwarded"
"#;

#[test]
fn every_key_of_a_listener_differs_where_it_is_changed() {
    let plain = load("[[listeners]]\nname = \"plain\"\nbind = \"127.0.0.1:8883\"\n");
    let full = load(LISTENER);
    let found = difference(&plain, &full);
    let changed: Vec<String> =
        found.iter().filter_map(|one| one.key.strip_prefix("listeners.plain.").map(str::to_owned)).collect();
    assert_eq!(changed.len(), found.len(), "{found:?}");
    let same = ["bind", "unix_mode", "unix_owner", "unix_group", "tls.cert", "tls.key"];
    let expected: Vec<String> = keys::listener_keys().into_iter().map(|key| key.path).collect();
    assert_eq!(
        changed,
        expected.iter().filter(|key| !same.contains(&key.as_str())).cloned().collect::<Vec<_>>()
    );
    assert_eq!(plain.taking(&full).listeners, full.listeners);
    assert_eq!(difference(&full, &full), []);
}

#[test]
fn the_file_of_a_unix_socket_changes_with_the_next_start() {
    let with = |mode: &str| {
        load(&format!(
            "[[listeners]]\nbind = \"unix:/run/m.sock\"\nunix_mode = \"{mode}\"\nunix_owner = \"a\"\nunix_group = \"7\"\n"
        ))
    };
    let (old, new) = (with("0600"), with("666"));
    let found = difference(&old, &new);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].key.as_str(), found[0].when), ("listeners.unix:/run/m.sock.unix_mode", When::Start));
    assert_eq!((&found[0].old, &found[0].new), (&Some(json!("0600")), &Some(json!("0666"))));
    assert_eq!(difference(&old, &old.taking(&new)), []);
    let of_start =
        keys::listener_keys().into_iter().filter(|key| key.when == When::Start).map(|key| key.path);
    assert_eq!(of_start.collect::<Vec<_>>(), ["unix_mode", "unix_owner", "unix_group"]);
}

#[test]
fn listeners_and_plugins_come_and_go_as_a_whole() {
    let old = load(
        "[[listeners]]\nbind = \"127.0.0.1:1\"\n[plugins.a]\n[plugins.b]\nconfig = { secret = \"x\", n = 1 }",
    );
    let new = load(
        "[[listeners]]\nbind = \"127.0.0.1:2\"\nname = \"two\"\n[plugins.b]\nconfig = { secret = \"y\", n = 1 }\n[plugins.c]\npath = \"/c.so\"",
    );
    let found = difference(&old, &new);
    let rows: Vec<_> = found.iter().map(|one| (one.key.as_str(), one.old.clone(), one.new.clone())).collect();
    let hidden = Some(json!({"secret": "(hidden)", "n": 1}));
    assert_eq!(
        rows,
        [
            ("listeners.127.0.0.1:1", Some(json!("127.0.0.1:1")), None),
            ("listeners.two", None, Some(json!("127.0.0.1:2"))),
            ("plugins.a", Some(json!("a")), None),
            ("plugins.b.config", hidden.clone(), hidden),
            ("plugins.c", None, Some(json!("/c.so"))),
        ]
    );
    assert!(found.iter().all(|one| one.when == When::Now));
}

#[test]
fn a_listener_without_a_port_of_its_own_is_known_by_its_name() {
    let two = "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[listeners]]\nbind = \"127.0.0.1:0\"\n";
    let config = load(two);
    let names: Vec<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["127.0.0.1:0", "127.0.0.1:0 (2)"]);
    assert_eq!(difference(&config, &load(two)), []);
}

#[test]
fn each_value_is_listed_with_its_source_and_no_secret() {
    let config = load(
        "[limits]\nreceive_max = 5\n[plugins.a]\nrequired = true\nconfig = { password = \"s3cret\", list = [\"s3cret\"], n = 1 }\n",
    );
    let settings = config.settings();
    let of = |key: &str| settings.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(of("limits.receive_max").value, json!(5));
    assert!(of("limits.receive_max").source.ends_with("g.toml:2"));
    assert_eq!((of("shards").source.as_str(), of("shards").when), ("default", When::Start));
    assert!(of("plugins.a.required").source.ends_with("g.toml:4"));
    assert_eq!(of("plugins.a.config").value, json!({"password": "(hidden)", "list": ["(hidden)"], "n": 1}));
    assert!(!format!("{settings:?}").contains("s3cret"));
    let listener = load(LISTENER).settings();
    let certificates = listener.iter().find(|one| one.key == "listeners.secure.tls.certificates").unwrap();
    assert_eq!(certificates.value, json!([{"cert": "/chain.pem", "key": "/key.pem"}]));
    assert!(certificates.source.ends_with("g.toml:18"), "{}", certificates.source);
}

#[test]
fn a_key_that_waits_for_a_start_keeps_its_source() {
    let old = load("shards = 3");
    let new = load("\n\nshards = 4");
    let taken = old.taking(&new);
    assert_eq!(taken.shards, 3);
    assert!(matches!(taken.sources.of("shards"), Origin::File { line: 1, .. }));
}
