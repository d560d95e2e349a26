//! Tests of the configuration: valid files, and each kind of error with its text.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::Path;

use grapnel_engine::limits::{Choices, Revoke, SessionOwner};

use super::*;

fn environment(vars: &[(&str, &str)]) -> Environment {
    let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    Environment { vars, uid: 0, executable_dir: None, cores: 2 }
}

fn load_with(text: &str, vars: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grapnel.toml");
    std::fs::write(&path, text).unwrap();
    let cli = CliOverrides { config: Some(path), ..CliOverrides::default() };
    let shown = format!("{}/", dir.path().display());
    Config::load(&cli, &environment(vars)).map_err(|errors| errors.to_string().replace(&shown, ""))
}

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[])
}

fn with_vars(vars: &[(&str, &str)]) -> Result<Config, String> {
    Config::load(&CliOverrides::default(), &environment(vars)).map_err(|errors| errors.to_string())
}

/// The printed configuration with its examples not commented out.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn without_a_file_it_listens_on_loopback_and_lets_anybody_in() {
    let config = with_vars(&[]).unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883");
    assert!(config.listeners[0].allow_anonymous);
    assert_eq!(config.shards, 2);
    assert_eq!(config.control.socket, Path::new("/run/grapnel.sock"));
    assert_eq!(config, Config::defaults(&environment(&[])));
}

#[test]
fn the_printed_configuration_reads_as_the_defaults() {
    let mut config = load(&Config::default_text()).unwrap();
    config.file = None;
    config.listeners[0].origin = Origin::Default;
    config.listeners[0].name = config.listeners[0].bind.to_string();
    assert_eq!(config, Config::defaults(&environment(&[])));
}

#[test]
fn the_printed_configuration_names_every_key_and_its_examples_are_valid() {
    let text = Config::default_text();
    let mut names: Vec<String> = keys::keys().iter().map(|key| key.name().to_owned()).collect();
    names.extend(keys::listener_keys().iter().map(|key| key.name().to_owned()));
    names.extend(keys::plugin_keys().iter().map(|key| key.path.clone()));
    for name in names {
        let there = text.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{name} = ")));
        assert!(there, "{name} is not printed");
    }
    let config = load(&uncommented(&text)).unwrap();
    assert_eq!(config.plugins[0].name, "NAME");
    assert_eq!(config.listeners[0].name, "inside");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "a line is too long");
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn every_key_is_taken_from_the_file() {
    let config = load(
        r#"
shards = 7
[[listeners]]
bind = "127.0.0.1:2000"
allow_anonymous = false
name = "inside"
[[listeners]]
bind = "[::]:2001"
[authorization]
no_match = "deny"
[mqtt]
session_owner = "inherit"
revoke = "disconnect"
allow_dollar_topics = true
allow_empty_client_id = false
assigned_client_id_prefix = "fleet-7."
[limits]
receive_max = 1_0
sessions_total_max = 3
[plugins]
dir = "/p"
[plugins.zeta]
path = "/x/libz.so"
priority = -3
required = true
config = { rules = [{ from = "a", at = 2026-01-02 }], n = 1.5 }
[plugins.alpha]
[control]
socket = "/s/g.sock"
http_bind = "[::1]:8080"
connections_max = 5
connections_free_min = 1
request_bytes_max = 2048
request_timeout_ms = 200
stall_timeout_ms = 300
answer_timeout_ms = 100
traces_max = 2
[state]
dir = "/st"
[log]
level = "debug"
"#,
    )
    .unwrap();
    assert_eq!(config.shards, 7);
    let listeners: Vec<(&str, bool)> =
        config.listeners.iter().map(|listener| (listener.name.as_str(), listener.allow_anonymous)).collect();
    assert_eq!(listeners, [("inside", false), ("[::]:2001", false)]);
    assert_eq!(config.authorization.no_match, NoMatch::Deny);
    let choices = Choices {
        session_owner: SessionOwner::Inherit,
        revoke: Revoke::Disconnect,
        allow_dollar_topics: true,
        allow_empty_client_id: false,
        assigned_client_id_prefix: "fleet-7.".into(),
        ..Choices::default()
    };
    assert_eq!(config.limits.choices, choices);
    assert_eq!((config.limits.receive_max, config.limits.sessions_total_max), (10, 3));
    assert_eq!(config.plugins_dir, Path::new("/p"));
    let zeta = &config.plugins[0];
    assert_eq!((zeta.name.as_str(), zeta.priority, zeta.required), ("zeta", Some(-3), Some(true)));
    assert_eq!(zeta.path.as_deref(), Some(Path::new("/x/libz.so")));
    let expected = serde_json::json!({"rules": [{"from": "a", "at": "2026-01-02"}], "n": 1.5});
    assert_eq!(zeta.config, expected);
    assert_eq!(config.plugins[1].name, "alpha", "plugins keep the file's order");
    assert_eq!(config.plugins[1].config, serde_json::json!({}));
    let control = ControlConfig {
        socket: "/s/g.sock".into(),
        http_bind: Some("[::1]:8080".parse().unwrap()),
        connections_max: 5,
        connections_free_min: 1,
        request_bytes_max: 2048,
        answer_timeout: Duration::from_millis(100),
        request_timeout: Duration::from_millis(200),
        stall_timeout: Duration::from_millis(300),
        traces_max: 2,
    };
    assert_eq!(config.control, control);
    assert_eq!(config.state_dir, Path::new("/st"));
    assert_eq!(config.log_level, LogLevel::Debug);
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn each_mistake_in_a_file_has_its_sentence() {
    let cases = [
        (
            "[limits]\nrecieve_max = 3",
            "grapnel.toml:2: there is no key limits.recieve_max; the nearest is limits.receive_max",
        ),
        (
            "inflight_max = 3",
            "grapnel.toml:1: there is no key inflight_max; the nearest is limits.inflight_max",
        ),
        ("\n[limit]\nreceive_max = 3", "grapnel.toml:2: there is no key limit; the nearest is limits"),
        (
            "[[listeners]]\nbnd = \"127.0.0.1:1\"\nbind = \"127.0.0.1:1\"",
            "grapnel.toml:2: there is no key listeners.bnd; the nearest is listeners.bind",
        ),
        (
            "[plugins.tap]\nprio = 3",
            "grapnel.toml:2: there is no key plugins.tap.prio; the nearest is plugins.tap.priority",
        ),
        (
            "[plugins]\nfolder = \"/p\"\ndri = \"/p\"",
            "grapnel.toml:2: there is no key plugins.folder; the nearest is plugins.dir\ngrapnel.toml:3: there is no key plugins.dri; the nearest is plugins.dir",
        ),
        (
            "[plugins.dir]\npath = \"x\"",
            "grapnel.toml:1: plugins.dir is the folder of the plugins; a plugin cannot have that name",
        ),
        (
            "[plugins.\"a b\"]",
            "grapnel.toml:1: plugins.\"a b\" is no name of a plugin: 1 to 64 letters, digits, - and _",
        ),
        (
            "[limits]\nreceive_max = 0",
            "grapnel.toml:2: limits.receive_max must be between 1 and 65535, not 0",
        ),
        (
            "[limits]\nreceive_max = \"3\"",
            "grapnel.toml:2: limits.receive_max must be a whole number between 1 and 65535, not \"3\"",
        ),
        (
            "[limits]\nreceive_max = 99999999999999999999",
            "grapnel.toml:2: limits.receive_max: 99999999999999999999 is too large a number",
        ),
        (
            "shards = 65",
            "grapnel.toml:1: shards must be between 1 and 64, not 65; \"auto\" is one for each core",
        ),
        ("limits = 3", "grapnel.toml:1: limits is a table: write [limits] and its keys below"),
        ("plugins = 3", "grapnel.toml:1: plugins is a table: write [plugins] and its keys below"),
        (
            "[listeners]\nbind = \"127.0.0.1:1\"",
            "grapnel.toml:1: listeners is a list: write [[listeners]] and the keys of one below",
        ),
        ("listeners = []", "grapnel.toml:1: listeners is empty; leave it out to listen on 127.0.0.1:1883"),
        (
            "[[listeners]]\nname = \"a\"",
            "grapnel.toml:1: this listener has no bind; say where it listens, such as bind = \"127.0.0.1:1883\"",
        ),
        (
            "[[listeners]]\nbind = \"localhost:77\"",
            "grapnel.toml:2: listeners.bind must be an IP address and a port such as \"127.0.0.1:77\", \"0.0.0.0:77\" or \"[::]:77\", not \"localhost:77\"",
        ),
        (
            "[[listeners]]\nbind = \"0.0.0.0:1\"\n[[listeners]]\nbind = \"0.0.0.0:1\"",
            "grapnel.toml:3: two listeners bind to 0.0.0.0:1",
        ),
        (
            "[authorization]\nno_match = \"no\"",
            "grapnel.toml:2: authorization.no_match must be \"allow\" or \"deny\", not \"no\"",
        ),
        (
            "[mqtt]\nsession_owner = \"steal\"",
            "grapnel.toml:2: mqtt.session_owner must be \"discard\" or \"refuse\" or \"inherit\", not \"steal\"",
        ),
        (
            "[mqtt]\nassigned_client_id_prefix = \"a/b\"",
            "grapnel.toml:2: mqtt.assigned_client_id_prefix must have at most 64 letters, digits, -, _ and ., not \"a/b\"",
        ),
        (
            "[mqtt]\nsession_ower = 1",
            "grapnel.toml:2: there is no key mqtt.session_ower; the nearest is mqtt.session_owner",
        ),
        (
            "[control]\nhttp_bind = \"0.0.0.0:8080\"",
            "grapnel.toml:2: control.http_bind must be a loopback address such as \"127.0.0.1:8080\", not \"0.0.0.0:8080\": whoever reaches the API controls the broker; put a proxy that authenticates in front of it",
        ),
        ("[control]\nsocket = \"\"", "grapnel.toml:2: control.socket must be a path, but is empty"),
        ("[state]\ndir = 3", "grapnel.toml:2: state.dir must be text in quotes, not 3"),
        (
            "[plugins.tap]\nrequired = \"yes\"",
            "grapnel.toml:2: plugins.tap.required must be true or false, not \"yes\"",
        ),
        (
            "[plugins.tap]\nconfig = 3",
            "grapnel.toml:2: plugins.tap.config must be a table, not a single value",
        ),
        (
            "[plugins.tap]\nconfig = { x = nan }",
            "grapnel.toml:2: plugins.tap.config holds NaN, which cannot be passed to a plugin",
        ),
        ("shards = 2\nshards = 3", "grapnel.toml:2: duplicate key"),
    ];
    for (text, sentence) in cases {
        assert_eq!(load(text).unwrap_err(), sentence, "for {text}");
    }
    let long = format!("[control]\nsocket = \"/{}\"", "x".repeat(107));
    assert!(
        load(&long).unwrap_err().starts_with("grapnel.toml:2: control.socket must be at most 107 bytes long")
    );
}

#[test]
fn keys_of_later_versions_are_refused_as_such() {
    let cases = [
        ("[storage]\ndir = \"x\"", "grapnel.toml:1: storage: storage on disk is not in this version"),
        ("[persistence]", "grapnel.toml:1: persistence: storage on disk is not in this version"),
        ("[[bridge]]\nto = \"x\"", "grapnel.toml:1: bridge: bridging is not in this version"),
        ("[cluster]\nnodes = []", "grapnel.toml:1: cluster: clustering is not in this version"),
    ];
    for (text, sentence) in cases {
        assert_eq!(load(text).unwrap_err(), sentence, "for {text}");
    }
    let error = with_vars(&[("GRAPNEL_CONTROL_TLS", "x"), ("GRAPNEL_STORAGE", "true")]).unwrap_err();
    assert_eq!(
        error,
        "GRAPNEL_CONTROL_TLS: no key has this variable; the nearest is GRAPNEL_CONTROL_SOCKET\n\
         GRAPNEL_STORAGE: storage on disk is not in this version"
    );
}

#[test]
fn all_errors_are_reported_at_once() {
    let error = load_with("shards = 0\n[log]\nlevel = 3", &[("GRAPNEL_LIMITS_SLOTS_MAX", "x")]).unwrap_err();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(
        lines[2].starts_with("GRAPNEL_LIMITS_SLOTS_MAX: limits.slots_max must be a whole number"),
        "{error}"
    );
}

#[test]
fn all_syntax_errors_are_reported_with_their_lines() {
    let error = load("shards = \n[log\nlevel = \"info\"\n").unwrap_err();
    assert!(error.lines().count() >= 2, "{error}");
    assert!(error.starts_with("grapnel.toml:1: "), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let cli = CliOverrides { config: Some("/nowhere/g.toml".into()), ..CliOverrides::default() };
    let error = Config::load(&cli, &environment(&[])).unwrap_err().to_string();
    assert_eq!(error, "--config: cannot read /nowhere/g.toml: No such file or directory (os error 2)");
}

#[test]
fn the_environment_overrides_every_key_of_the_document() {
    let samples = [
        ("shards", "5"),
        ("runtime.io", "epoll"),
        ("authorization.no_match", "deny"),
        ("mqtt.queue_full", "drop_oldest"),
        ("mqtt.maximum_qos", "1"),
        ("mqtt.retain_available", "false"),
        ("mqtt.reason_strings", "false"),
        ("mqtt.control_characters", "refuse"),
        ("mqtt.allow_dollar_topics", "true"),
        ("mqtt.revoke", "disconnect"),
        ("plugins.dir", "/pp"),
        ("control.socket", "/c.sock"),
    ];
    let samples = samples.into_iter().chain([
        ("mqtt.session_owner", "refuse"),
        ("mqtt.allow_empty_client_id", "false"),
        ("mqtt.assigned_client_id_prefix", "x"),
        ("control.http_bind", "127.0.0.1:99"),
        ("control.connections_max", "9"),
        ("control.request_bytes_max", "9999"),
        ("control.answer_timeout_ms", "99"),
        ("control.connections_free_min", "9"),
        ("control.request_timeout_ms", "99"),
        ("control.stall_timeout_ms", "99"),
        ("control.traces_max", "9"),
        ("state.dir", "/ss"),
        ("log.level", "trace"),
    ]);
    let samples: std::collections::HashMap<&str, &str> = samples.collect();
    let defaults = with_vars(&[]).unwrap();
    for key in keys::keys() {
        let limit = key.path.strip_prefix("limits.");
        let setting = limit.map(|limit| {
            let all = Limits::SETTINGS.iter().chain(ShellLimits::SETTINGS);
            all.into_iter().find(|setting| setting.name == limit).unwrap()
        });
        let value = match setting {
            Some(setting) => setting.max.to_string(),
            None => samples[key.path.as_str()].to_owned(),
        };
        let changed = with_vars(&[(&key.variable(), &value)]).unwrap();
        // If the default is the largest value, setting that value shows no change.
        let same = limit.is_some_and(|limit| {
            let default = defaults.limits.value(limit).or_else(|| defaults.shell_limits.value(limit));
            default.unwrap().to_string() == value
        });
        assert!(same || changed != defaults, "{} had no effect", key.variable());
    }
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.toml");
    std::fs::write(&path, "shards = 2\n[limits]\nslots_max = 5\nreceive_max = 5").unwrap();
    let cli = CliOverrides { config: Some(path), shards: Some("4".to_owned()), ..CliOverrides::default() };
    let vars = environment(&[("GRAPNEL_SHARDS", "3"), ("GRAPNEL_LIMITS_SLOTS_MAX", "6")]);
    let config = Config::load(&cli, &vars).unwrap();
    assert_eq!((config.shards, config.limits.slots_max, config.limits.receive_max), (4, 6, 5));
}

#[test]
fn listeners_and_plugins_are_overridden_by_place_and_name() {
    let text =
        "[plugins.topic-rewrite]\npriority = 1\n[plugins.with_line]\n[[listeners]]\nbind = \"127.0.0.1:1\"";
    let config = load_with(
        text,
        &[
            ("GRAPNEL_PLUGINS_TOPIC_REWRITE_PRIORITY", "7"),
            ("GRAPNEL_PLUGINS_WITH_LINE_REQUIRED", "true"),
            ("GRAPNEL_PLUGINS_AUTH_FILE_CONFIG", "{ file = \"users\" }"),
            ("GRAPNEL_LISTENERS_0_ALLOW_ANONYMOUS", "false"),
            ("GRAPNEL_LISTENERS_1_BIND", "127.0.0.1:2"),
        ],
    )
    .unwrap();
    let names: Vec<&str> = config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(names, ["topic-rewrite", "with_line", "auth-file"]);
    assert_eq!(config.plugins[0].priority, Some(7));
    assert_eq!(
        config.plugins.iter().map(|plugin| plugin.required).collect::<Vec<_>>(),
        [None, Some(true), None]
    );
    assert_eq!(config.plugins[2].config, serde_json::json!({"file": "users"}));
    assert!(!config.listeners[0].allow_anonymous);
    assert_eq!(config.listeners[1].bind.to_string(), "127.0.0.1:2");
}

#[test]
fn each_mistake_in_the_environment_has_its_sentence() {
    let cases = [
        (
            "GRAPNEL_LIMITS_RECIEVE_MAX",
            "3",
            "no key has this variable; the nearest is GRAPNEL_LIMITS_RECEIVE_MAX",
        ),
        ("GRAPNEL_LOGLEVEL", "info", "no key has this variable; the nearest is GRAPNEL_LOG_LEVEL"),
        ("GRAPNEL_LISTENERS_2_BIND", "127.0.0.1:1", "the next listener is number 1, counted from 0"),
        (
            "GRAPNEL_SHARDS",
            "",
            "shards must be a whole number between 1 and 64, not \"\"; \"auto\" is one for each core",
        ),
        ("GRAPNEL_PLUGINS_TAP_CONFIG", "[", "plugins.tap.config must be a table such as { key = \"value\" }"),
    ];
    for (name, value, sentence) in cases {
        assert_eq!(with_vars(&[(name, value)]).unwrap_err(), format!("{name}: {sentence}"));
    }
}

#[test]
fn variables_of_other_programs_are_ignored() {
    let vars = [
        ("GRAPNEL_DIE_WITH_PARENT", "1"),
        ("GRAPNEL_LOG", "debug"),
        ("GRAPNEL_TESTS_PEER", "x"),
        ("OTHER", "x"),
    ];
    assert!(with_vars(&vars).is_ok());
}

/// Keys of listeners that cannot be, or contradict each other.
#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn each_mistake_of_a_listener_has_its_sentence() {
    let cases = [
        ("unix_mode = \"0660\"", "1: listeners.unix_mode, unix_owner and unix_group are for Unix sockets"),
        ("unix_mode = 660", "3: listeners.unix_mode must be octal digits in quotes"),
        ("unix_mode = \"999\"", "3: listeners.unix_mode must be octal digits in quotes"),
        ("name = \"a\\u0007\"", "3: listeners.name must have no control characters"),
        ("mount_point = \"a/#\"", "3: listeners.mount_point must be the beginning of a topic"),
        ("versions = []", "3: listeners.versions must have one of"),
        (
            "versions = [\"4\"]",
            "3: listeners.versions must be a list of \"3.1\", \"3.1.1\" and \"5\", not \"4\"",
        ),
        ("versions = 5", "3: listeners.versions must be a list in [ ], not 5"),
        ("keep_alive_s_max = 9", "3: listeners.keep_alive_s_max must be between 10 and 65535, not 9"),
        ("proxy_protocol = true", "1: listeners.proxy_protocol needs proxy_sources"),
        ("proxy_sources = [\"::1\"]", "1: listeners.proxy_sources has no effect without proxy_protocol"),
        (
            "proxy_sources = [\"10.0.0.1/8\"]",
            "3: listeners.proxy_sources has \"10.0.0.1/8\", which begins in",
        ),
        ("tls = true", "3: listeners.tls is a table: write [listeners.tls]"),
        ("tls_cert = \"x\"", "3: there is no key listeners.tls_cert; the nearest is listeners.tls.cert"),
        ("[listeners.tls]", "1: listeners.tls has no certificate; add cert"),
        ("[listeners.tls]\ncert = \"c\"", "1: listeners.tls.cert has no key"),
        ("[listeners.tls]\nkey = \"k\"", "1: listeners.tls.key has no cert"),
        (
            "[listeners.tls]\ncertificates = [{ cert = \"c\" }]",
            "4: listeners.tls.certificates must be a list such",
        ),
        (
            "[listeners.tls]\ncert = \"c\"\nkey = \"k\"\ncertificates = [{ cert = \"c\", key = \"k\" }]",
            "1: listeners.tls.cert and key are the short form",
        ),
        (
            "[listeners.tls]\ncert = \"c\"\nkey = \"k\"\nclient_certificate = \"required\"",
            "1: listeners.tls.client_certificate needs client_ca",
        ),
        (
            "[listeners.tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\nclient_certificate = \"none\"",
            "1: listeners.tls.client_ca has no effect with",
        ),
        ("[listeners.tls]\ncert = \"c\"\nkey = \"k\"\ncrl = [\"r\"]", "1: listeners.tls.crl needs client_ca"),
        (
            "[listeners.tls]\ncert = \"c\"\nkey = \"k\"\nidentity = \"cn\"",
            "1: listeners.tls.identity needs certificates of clients",
        ),
        (
            "[listeners.tls]\ncert = \"c\"\nkey = \"k\"\nversion_min = \"1.1\"",
            "6: listeners.tls.version_min must be",
        ),
        (
            "[listeners.tls]\ncert = \"c\"\nkey = \"k\"\nsni = 1",
            "6: there is no key listeners.tls.sni; the nearest is listeners.",
        ),
        ("[listeners.websocket]\npath = \"mqtt\"", "4: listeners.websocket.path must be a path such as"),
        (
            "[listeners.websocket]\norigins = [\"x.org\"]",
            "4: listeners.websocket.origins must be origins as browsers send them",
        ),
        (
            "[listeners.websocket]\norigins = [\"*\", \"https://a:8443\", \"https://a:443\"]",
            "4: listeners.websocket.origins must be origins as browsers send them",
        ),
        (
            "[listeners.websocket]\norigins = [\"https://user@a\"]",
            "4: listeners.websocket.origins must be origins as browsers send them",
        ),
        (
            "[[listeners]]\nbind = \"127.0.0.1:2\"\nname = \"127.0.0.1:1\"",
            "3: two listeners are named \"127.0.0.1:1\"",
        ),
    ];
    for (text, sentence) in cases {
        let error = load(&format!("[[listeners]]\nbind = \"127.0.0.1:1\"\n{text}")).unwrap_err();
        assert!(error.starts_with(&format!("grapnel.toml:{sentence}")), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let unix = |text: &str| load(&format!("[[listeners]]\nbind = \"unix:/m.sock\"\n{text}"));
    assert!(unix("tcp_nodelay = true").unwrap_err().contains("are for TCP"));
    assert!(unix("proxy_protocol = true\nproxy_sources = [\"::1\"]").unwrap_err().contains("is for TCP"));
    assert!(
        unix("[[listeners]]\nbind = \"unix:/m.sock\"")
            .unwrap_err()
            .contains("two listeners bind to unix:/m.sock")
    );
    let listener = unix("proxy_protocol = true\nunix_mode = \"0600\"").unwrap().listeners.remove(0);
    assert_eq!((listener.unix.mode, listener.allow_anonymous), (Some(0o600), false));
    let listener = unix("unix_mode = \"0600\"").unwrap().listeners.remove(0);
    assert!(listener.allow_anonymous && listener.is_for_this_machine());
    let trusting = "[listeners.websocket]\ntrusted_proxies = [\"127.0.0.1\"]";
    for behind in ["proxy_protocol = true\nproxy_sources = [\"::1\"]", trusting] {
        let text = format!("[[listeners]]\nbind = \"127.0.0.1:1\"\n{behind}");
        let listener = load(&text).unwrap().listeners.remove(0);
        assert!(!listener.allow_anonymous && !listener.is_for_this_machine(), "{behind}");
    }
    // 107 bytes are the most that a Unix socket can have.
    let of_length =
        |length: usize| load(&format!("[[listeners]]\nbind = \"unix:/{}\"", "x".repeat(length - 1)));
    assert!(of_length(107).is_ok());
    assert!(
        of_length(108)
            .unwrap_err()
            .starts_with("grapnel.toml:2: listeners.bind must have a path of at most 107")
    );
}

#[test]
fn a_listener_has_what_its_keys_say() {
    let text = "[[listeners]]\nbind = \"0.0.0.0:8883\"\n[listeners.tls]\ncertificates = [{ cert = \"/a\", key = \"/b\" }, \
                { cert = \"/c\", key = \"/d\" }]\nclient_ca = \"/ca\"\n[listeners.websocket]\n";
    let vars = [
        ("GRAPNEL_LISTENERS_0_VERSIONS", "5, 3.1.1"),
        ("GRAPNEL_LISTENERS_0_TLS_IDENTITY", "san"),
        ("GRAPNEL_LISTENERS_0_PROXY_PROTOCOL", "true"),
        ("GRAPNEL_LISTENERS_0_PROXY_SOURCES", "[\"10.0.0.0/8\"]"),
        ("GRAPNEL_LISTENERS_1_BIND", "unix:/run/m.sock"),
    ];
    let config = load_with(text, &vars).unwrap();
    let first = &config.listeners[0];
    assert_eq!(first.versions.words(), ["3.1.1", "5"]);
    let tls = first.tls.as_ref().unwrap();
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(tls.client_certificate, ClientCertificate::Required, "a client_ca is there to be used");
    assert_eq!(tls.identity, TlsIdentity::AlternativeName);
    assert_eq!((tls.version_min, tls.handshake_timeout_ms), (TlsVersion::V1_2, 10_000));
    assert_eq!(first.websocket.as_ref().unwrap().path, "/mqtt");
    assert!(first.proxy.as_ref().unwrap().sources[0].contains("10.2.3.4".parse().unwrap()));
    assert_eq!(config.listeners[1].bind, Bind::Unix("/run/m.sock".into()));
}

fn listening(text: &str, listen: &[&str], vars: &[(&str, &str)]) -> Vec<(String, String, bool)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grapnel.toml");
    std::fs::write(&path, text).unwrap();
    let listen = listen.iter().map(|address| (*address).to_owned()).collect();
    let cli = CliOverrides { config: Some(path), listen, ..CliOverrides::default() };
    let listeners = Config::load(&cli, &environment(vars)).unwrap().listeners;
    listeners.into_iter().map(|one| (one.name, one.bind.to_string(), one.allow_anonymous)).collect()
}

/// `--listen` changes only the address: of the listener with that address, else of the first that
/// no other address has taken. Additional addresses have the rules of the first listener.
#[test]
fn listen_changes_the_address_and_nothing_else() {
    let two = "[[listeners]]\nname = \"out\"\nbind = \"0.0.0.0:1883\"\nallow_anonymous = true\n\
               [[listeners]]\nname = \"in\"\nbind = \"127.0.0.1:1884\"\nallow_anonymous = false\n";
    let unsaid = "[[listeners]]\nbind = \"127.0.0.1:1883\"\n";
    let shut = "[[listeners]]\nbind = \"127.0.0.1:1883\"\nallow_anonymous = false\n";
    let variable: &[(&str, &str)] = &[("GRAPNEL_LISTENERS_0_ALLOW_ANONYMOUS", "false")];
    type Row<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str, bool)]);
    let rows: [Row<'_>; 15] = [
        (two, &[], &[], &[("out", "0.0.0.0:1883", true), ("in", "127.0.0.1:1884", false)]),
        (two, &["127.0.0.1:1884"], &[], &[("in", "127.0.0.1:1884", false)]),
        (two, &["0.0.0.0:1883"], &[], &[("out", "0.0.0.0:1883", true)]),
        (two, &["127.0.0.1:9"], &[], &[("out", "127.0.0.1:9", true)]),
        (
            two,
            &["[::]:9", "127.0.0.1:1884"],
            &[],
            &[("out", "[::]:9", true), ("in", "127.0.0.1:1884", false)],
        ),
        (
            two,
            &["127.0.0.1:1884", "[::]:9"],
            &[],
            &[("in", "127.0.0.1:1884", false), ("out", "[::]:9", true)],
        ),
        (two, &["0.0.0.0:8", "0.0.0.0:9"], &[], &[("out", "0.0.0.0:8", true), ("in", "0.0.0.0:9", false)]),
        // More addresses than listeners: they get `allow_anonymous` of the first listener.
        (
            shut,
            &["127.0.0.1:8", "127.0.0.1:9"],
            &[],
            &[("127.0.0.1:8", "127.0.0.1:8", false), ("127.0.0.1:9", "127.0.0.1:9", false)],
        ),
        (
            "[[listeners]]\nname = \"in\"\nbind = \"127.0.0.1:1883\"\nallow_anonymous = false\n\
             [[listeners]]\nname = \"out\"\nbind = \"127.0.0.1:1884\"\nallow_anonymous = true\n",
            &["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"],
            &[],
            &[
                ("in", "127.0.0.1:7", false),
                ("out", "127.0.0.1:8", true),
                ("127.0.0.1:9", "127.0.0.1:9", false),
            ],
        ),
        (shut, &["127.0.0.1:0"], &[], &[("127.0.0.1:0", "127.0.0.1:0", false)]),
        // Without a setting, `allow_anonymous` depends on the address.
        (unsaid, &["0.0.0.0:9"], &[], &[("0.0.0.0:9", "0.0.0.0:9", false)]),
        (unsaid, &["127.0.0.1:9"], &[], &[("127.0.0.1:9", "127.0.0.1:9", true)]),
        (
            "",
            &["0.0.0.0:0", "127.0.0.1:0"],
            &[],
            &[("0.0.0.0:0", "0.0.0.0:0", false), ("127.0.0.1:0", "127.0.0.1:0", true)],
        ),
        ("", &["127.0.0.1:0"], variable, &[("127.0.0.1:0", "127.0.0.1:0", false)]),
        (two, &["127.0.0.1:9"], variable, &[("out", "127.0.0.1:9", false)]),
    ];
    for (text, listen, vars, expected) in rows {
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, bind, open)| ((*name).to_owned(), (*bind).to_owned(), *open))
            .collect();
        assert_eq!(listening(text, listen, vars), expected, "{listen:?} {vars:?} {text}");
    }
}

#[test]
fn options_have_the_last_word_and_name_themselves_in_errors() {
    let cli = |listen: &[&str]| CliOverrides {
        listen: listen.iter().map(|address| (*address).to_owned()).collect(),
        socket: Some("g.sock".into()),
        ..CliOverrides::default()
    };
    let config = Config::load(&cli(&["0.0.0.0:0"]), &environment(&[])).unwrap();
    assert_eq!(config.listeners[0].origin, Origin::Option("--listen"));
    assert_eq!(config.control.socket, std::env::current_dir().unwrap().join("g.sock"));
    let error = Config::load(&cli(&["1883"]), &environment(&[])).unwrap_err().to_string();
    assert_eq!(
        error,
        "--listen: listeners.bind must be an IP address and a port such as \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\", not \"1883\""
    );
    let error = Config::load(&cli(&["[::]:1", "[::]:1"]), &environment(&[])).unwrap_err().to_string();
    assert_eq!(error, "--listen: two listeners bind to [::]:1");
}

#[test]
fn without_a_home_the_state_folder_must_be_named() {
    let env = Environment { uid: 1000, ..environment(&[]) };
    let error = Config::load(&CliOverrides::default(), &env).unwrap_err().to_string();
    assert!(error.contains("state.dir has no default without HOME"), "{error}");
    let env = Environment { uid: 1000, ..environment(&[("GRAPNEL_STATE_DIR", "/s")]) };
    assert!(Config::load(&CliOverrides::default(), &env).is_ok());
}
