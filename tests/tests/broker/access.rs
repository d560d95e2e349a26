//! Which clients may connect, and which plugin decides. Covers every change of that, with and
//! without a user name, on a loopback listener and on a public one. Each change writes one line to
//! the log, a failed change none.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Version, plugin};

/// CONNACK codes for a client without a user name, with an unknown one, and with one that auth-file
/// has.
type Codes = [u8; 3];

fn codes(address: SocketAddr) -> Codes {
    let logins = [None, Some(("x", "y")), Some(("ann", "secret"))];
    logins.map(|login| {
        let connect = Connect::new(Version::V5, "somebody");
        let connect =
            login.into_iter().fold(connect, |connect, (user, password)| connect.login(user, password));
        Client::attempt_at(address, &connect).1.code
    })
}

/// Log lines about logins so far.
fn lines(broker: &Broker) -> Vec<String> {
    let about_logins =
        |line: &str| Some(line.split_once(" access: ")?.1.to_owned()).filter(|line| line.contains("logins"));
    broker.process().lines(about_logins)
}

/// Waits until there are so many of them.
fn wait_for_lines(broker: &Broker, count: usize) -> Vec<String> {
    let about_logins = |line: &str| (line.contains(" access: ") && line.contains("logins")).then_some(());
    broker.process().wait_for_lines("access", count, PATIENCE, about_logins);
    lines(broker)
}

/// A file for auth-file with one user. Each login with that name costs a hash.
fn users(broker: &Broker) -> String {
    let file = broker.home().join("users");
    let mut passwd = grapnel_tests::process::command(plugin::built("grapnel-ctl"));
    passwd.args(["passwd", plugin::argument(&file), "ann", "--password-stdin"]);
    grapnel_tests::process::Process::start("passwd", passwd, Some(b"secret\n")).succeed(PATIENCE);
    plugin::argument(&file).to_owned()
}

/// Without an Allow of a plugin every client is refused.
const SHUT: Codes = [0x86, 0x86, 0x86];
/// No plugin decides, and clients are admitted.
const OPEN: Codes = [0, 0, 0];
/// auth-file decides.
const KNOWN: Codes = [0x86, 0x86, 0];
const KNOWN_OR_NAMELESS: Codes = [0, 0x86, 0];
/// A plugin is mounted and returns no decision.
const NAMELESS: Codes = [0, 0x86, 0x86];
/// A required plugin does not answer (server unavailable).
const AWAY: Codes = [0x88, 0x88, 0x88];

/// The operator's command; the expected refusal; the codes on the public and on the loopback
/// listener afterwards; the expected log line if something has changed.
struct Step {
    ctl: &'static [&'static str],
    refused: Option<&'static str>,
    codes: [Codes; 2],
    line: Option<&'static str>,
}

const fn done(ctl: &'static [&'static str], codes: [Codes; 2], line: &'static str) -> Step {
    Step { ctl, refused: None, codes, line: Some(line) }
}

const fn refused(ctl: &'static [&'static str], refused: &'static str, codes: [Codes; 2]) -> Step {
    Step { ctl, refused: Some(refused), codes, line: None }
}

const NOBODY: [Codes; 2] = [SHUT, OPEN];
const FILE: [Codes; 2] = [KNOWN, KNOWN_OR_NAMELESS];
const EVERYBODY: [Codes; 2] = [OPEN, OPEN];
const SILENT: [Codes; 2] = [SHUT, NAMELESS];

const NO_PLUGIN: &str = "logins: no plugin has a hook at client.authenticate, so anybody may connect to ";
const BY_FILE: &str = "logins: decided by auth-file/authenticate; ";
const LAST: &str = "client.authenticate would have no hook left, and then nobody can connect to 0.0.0.0:";

fn steps() -> Vec<Step> {
    vec![
        refused(&["plugins", "load", "auth-file", "--set", "path=MISSING"], "MISSING", NOBODY),
        refused(&["plugins", "load", "auth-file", "--set", "path=BROKEN"], "BROKEN", NOBODY),
        done(&["plugins", "load", "auth-file", "--set", "path=USERS"], FILE, BY_FILE),
        refused(&["plugins", "reload", "auth-file", "--set", "path=MISSING"], "MISSING", FILE),
        refused(&["plugins", "unload", "auth-file"], LAST, FILE),
        refused(&["plugins", "disable", "auth-file"], "give --force", FILE),
        refused(&["hooks", "unmount", "auth-file", "client.authenticate", "authenticate"], LAST, FILE),
        // A second plugin that allows every client: first after auth-file in the chain, then before
        // it.
        done(
            &[
                "plugins",
                "load",
                "slow-auth",
                "--set",
                "delay_ms=0",
                "--set",
                "threads=1",
                "--set",
                "client_prefix=\"-\"",
            ],
            [[0, 0x86, 0], KNOWN_OR_NAMELESS],
            "logins: decided by auth-file/authenticate, then slow-auth/authenticate",
        ),
        done(
            &["hooks", "set", "slow-auth", "client.authenticate", "authenticate", "--priority", "9"],
            EVERYBODY,
            "logins: decided by slow-auth/authenticate, then auth-file/authenticate",
        ),
        done(&["plugins", "disable", "slow-auth"], FILE, BY_FILE),
        done(
            &["plugins", "enable", "slow-auth"],
            EVERYBODY,
            "logins: decided by slow-auth/authenticate, then ",
        ),
        done(&["plugins", "unload", "slow-auth"], FILE, BY_FILE),
        done(
            &["hooks", "unmount", "auth-file", "client.authenticate", "authenticate", "--force"],
            NOBODY,
            NO_PLUGIN,
        ),
        done(&["hooks", "mount", "auth-file", "client.authenticate", "authenticate"], FILE, BY_FILE),
        done(&["plugins", "disable", "auth-file", "--force"], NOBODY, NO_PLUGIN),
        done(&["plugins", "enable", "auth-file"], FILE, BY_FILE),
        // A plugin at all hook points that returns no decision, and fails where the test sets that.
        done(
            &["plugins", "load", "table", "--set", "place=0", "--set", "record=RECORD"],
            FILE,
            "logins: decided by auth-file/authenticate, then table/authenticate",
        ),
        done(&["plugins", "unload", "auth-file"], SILENT, "logins: decided by table/authenticate"),
        done(
            &["TRIP"],
            [AWAY, AWAY],
            "logins: decided by table/authenticate (tripped: it refuses every login with 0x88)",
        ),
        refused(&["plugins", "unload", "table"], LAST, [AWAY, AWAY]),
        done(&["plugins", "rearm", "table"], SILENT, "logins: decided by table/authenticate; "),
        done(&["plugins", "unload", "table", "--force"], NOBODY, NO_PLUGIN),
    ]
}

#[test]
fn every_change_of_access_is_one_log_line() {
    let config = "[[listeners]]\nbind = \"0.0.0.0:0\"\n[[listeners]]\nbind = \"127.0.0.1:0\"\n[limits]\nbreaker_faults_max = 1\n";
    let broker = Broker::builder().grapnel_only().shards(2).config(config).listen(&[]).start();
    let [outside, inside] = broker.addresses()[..] else { panic!("two listeners") };
    let files = [
        ("USERS", users(&broker)),
        ("BROKEN", plugin::argument(&broker.home().join("broken")).to_owned()),
        ("MISSING", plugin::argument(&broker.home().join("missing")).to_owned()),
        ("RECORD", plugin::argument(&broker.home().join("record")).to_owned()),
    ];
    std::fs::write(broker.home().join("broken"), "no line of a password file\n").unwrap();
    let named =
        |text: &str| files.iter().fold(text.to_owned(), |text, (name, file)| text.replace(name, file));
    assert_eq!([codes(outside), codes(inside)], NOBODY);
    let first = format!(
        "logins: no plugin has a hook at client.authenticate, so anybody may connect to {inside}, with any user name and any \
         password (allow_anonymous = true); nobody can connect to {outside} (allow_anonymous = false)"
    );
    assert_eq!(lines(&broker), [first]);
    let mut known = 1;
    for Step { ctl, refused, codes: expected, line } in steps() {
        let arguments: Vec<String> = ctl.iter().map(|word| named(word)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match refused {
            _ if ctl == ["TRIP"] => {
                let fails = Connect::new(Version::V5, "table,client.authenticate,-,fault,0,1");
                assert_eq!(Client::attempt_at(outside, &fails).1.code, 0x88);
            }
            None => drop(broker.ctl_ok(&arguments)),
            Some(sentence) => {
                let output = broker.ctl_refused(&arguments);
                assert!(output.contains(&named(sentence)), "{ctl:?}: {output}");
            }
        }
        known += usize::from(line.is_some());
        let lines = wait_for_lines(&broker, known);
        assert_eq!([codes(outside), codes(inside)], expected, "{ctl:?}");
        assert_eq!(lines.len(), known, "{ctl:?}: {lines:#?}");
        assert!(lines[known - 1].contains(line.unwrap_or("")), "{ctl:?}: {}", lines[known - 1]);
    }
    assert_eq!(lines(&broker).len(), known);
}

/// Sends a request to the API. Returns status line and body.
fn request(broker: &Broker, method: &str, path: &str) -> String {
    let mut stream = UnixStream::connect(broker.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The same holds for the last authorizer and over HTTP. A broker that only loopback reaches does
/// not authorize.
#[test]
fn the_last_authorizing_plugin_is_removed_only_by_force() {
    for outside in [true, false] {
        let listen = if outside { "0.0.0.0:0" } else { "127.0.0.1:0" };
        let broker = Broker::builder().grapnel_only().shards(1).listen(&[listen]).start();
        let acl = broker.home().join("acl");
        std::fs::write(&acl, "pattern readwrite #\n").unwrap();
        broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", plugin::argument(&acl))]);
        if outside {
            let answer = request(&broker, "DELETE", "/api/v1/plugins/acl-file");
            assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
            let follows = "client.authorize would have no hook left, and then every client may publish and subscribe to everything";
            assert!(answer.contains(follows) && answer.contains("force=true in the API"), "{answer}");
            let answer = request(&broker, "POST", "/api/v1/plugins/acl-file/disable");
            assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
        }
        let path = if outside { "/api/v1/plugins/acl-file?force=true" } else { "/api/v1/plugins/acl-file" };
        let answer = request(&broker, "DELETE", path);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// The setting for anonymous clients applies whatever the state of the plugin, wherever it was set,
/// and on every address. Only the command line changes it.
#[test]
fn without_a_plugin_allow_anonymous_decides_on_every_address() {
    let shut = "[[listeners]]\nbind = \"127.0.0.1:1883\"\nallow_anonymous = false\n";
    let missing = "[plugins.auth-file]\nconfig = { path = \"/nowhere/users\" }\n";
    let variable = ("GRAPNEL_LISTENERS_0_ALLOW_ANONYMOUS", "false");
    type Row<'a> = (&'a str, Option<(&'a str, &'a str)>, Codes);
    let rows: [Row<'_>; 5] = [
        ("", None, OPEN),
        (shut, None, SHUT),
        ("", Some(variable), SHUT),
        // The plugin's file cannot be read: the plugin is not loaded, and no client is admitted
        // because of that.
        (&format!("{shut}{missing}"), None, SHUT),
        // A broker on loopback without the setting admits clients, and logs that.
        (missing, None, OPEN),
    ];
    for (config, variable, expected) in rows {
        let builder = Broker::builder().grapnel_only().shards(1).config(config);
        let builder =
            variable.into_iter().fold(builder, |builder, (name, value)| builder.environment(name, value));
        let broker = builder.start();
        assert_eq!(codes(broker.address()), expected, "{config} {variable:?}");
        let lines = lines(&broker);
        assert!(lines.len() == 1 && lines[0].starts_with("logins: no plugin has a hook at "), "{lines:#?}");
    }
}

/// Subscriptions that new rules remove are reported: to the operator who changed the rules, in one
/// line of the log, and to the client if the operator has set that.
#[test]
fn subscriptions_revoked_by_new_rules_are_reported() {
    let config = "[mqtt]\nrevoke = \"disconnect\"\n[authorization]\nno_match = \"deny\"\n";
    let broker = Broker::builder().grapnel_only().shards(2).config(config).start();
    let acl = broker.home().join("acl");
    std::fs::write(&acl, "pattern readwrite #\n").unwrap();
    broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", plugin::argument(&acl))]);
    let mut clients: Vec<Client> = [Version::V5, Version::V311, Version::V31, Version::V5]
        .into_iter()
        .enumerate()
        .map(|(n, version)| Client::hello(&broker, version, &format!("c{n}")))
        .collect();
    let mut stays = clients.pop().unwrap();
    clients.iter_mut().for_each(|client| client.subscribe("secret/#", 1));
    stays.subscribe("open/#", 1);

    std::fs::write(&acl, "pattern readwrite open/#\n").unwrap();
    let output = broker.ctl_ok(&["plugins", "reload", "acl-file"]);
    assert!(output.contains("3 subscriptions were revoked"), "{output}");
    let ends: Vec<Option<u8>> = clients.iter_mut().map(Client::end).collect();
    assert_eq!(ends, [Some(0x87), None, None]);
    assert_eq!(stays.publish(&Publish::new("open/x", "x").qos(1)), 0, "it has lost nothing");
    let taken = |line: &str| Some(line.split_once("were revoked, because ")?.1.to_owned());
    let line = broker.process().wait_for_line("what was revoked", PATIENCE, taken);
    assert!(
        line.ends_with("they are no longer allowed by client.authorize: 3 refused by acl-file"),
        "{line}"
    );
    let again = broker.ctl_json(&["authz", "invalidate"]);
    assert_eq!(
        (&again["revoked"]["subscriptions"], &again["revoked"]["complete"]),
        (&0.into(), &true.into())
    );
    assert_eq!(broker.process().lines(taken).len(), 1);
}
