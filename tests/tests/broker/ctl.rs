//! grapnel-ctl and the HTTP API behind it: their output matches the actions of clients.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use grapnel_tests::process::{Process, command};
use grapnel_tests::wire::property::{SUBSCRIPTION_ID, USER_PROPERTY};
use grapnel_tests::wire::{NO_LOCAL, RETAIN_AS_PUBLISHED, RETAINED_NEVER, Value};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Subscribe, Version, Will, plugin, scenario};

fn builder() -> grapnel_tests::broker::Builder {
    Broker::builder().grapnel_only()
}

scenario! {
    /// `status` counts connections, sessions, subscriptions and messages over all shards.
    fn status_counts_connections_sessions_and_subscriptions(broker in builder()) {
        let mut clients: Vec<Client> = (0..5).map(|n| Client::hello(broker, Version::V5, &format!("c{n}"))).collect();
        for client in &mut clients {
            client.subscribe("t", 0);
        }
        let client = Client::connect(broker, &Connect::new(Version::V5, "kept").persistent());
        clients[0].publish(&Publish::new("t", "x").qos(1).retain());
        for client in &mut clients {
            client.message();
        }
        client.disconnect();
        let status = broker.ctl_json(&["status"]);
        assert_eq!(status["connections"], 5);
        assert_eq!(status["sessions"], 6);
        assert_eq!(status["subscriptions"], 5);
        assert_eq!(status["retained_messages"], 1);
        assert_eq!(status["messages_received"], 1);
        assert_eq!(status["messages_sent"], 5);
        assert_eq!(status["shards"].as_array().unwrap().len(), broker.shards());
        assert_eq!(status["pid"], broker.process().id());
        assert_eq!(status["listeners"][0]["address"], broker.address().to_string());
        let text = broker.ctl_ok(&["status"]);
        assert!(text.contains(&broker.address().to_string()), "{text}");
    }
}

scenario! {
    /// `clients list`, `show` and `kick`, as text and as JSON.
    fn clients_are_listed_shown_and_kicked(broker in builder()) {
        let connect = Connect::new(Version::V5, "a client").persistent().keep_alive(33).will(Will::new("w", "x"));
        let mut client = Client::connect(broker, &connect);
        client.subscribe("t", 1);
        let mut other = Client::hello(broker, Version::V311, "other");
        let list = broker.ctl_json(&["clients", "list"]);
        let mut ids: Vec<&str> =
            list["clients"].as_array().unwrap().iter().map(|c| c["client_id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a client", "other"]);
        assert!(broker.ctl_ok(&["clients", "list"]).contains("a client"));

        let show = broker.ctl_json(&["clients", "show", "a client"]);
        assert_eq!(show["connected"], true);
        assert_eq!(show["protocol"], 5);
        assert_eq!(show["keep_alive_s"], 33);
        assert_eq!(show["expiry_s"], 60);
        assert_eq!(show["has_will"], true);
        assert_eq!(show["subscriptions"], 1);
        assert_eq!(show["peer"], client.stream().local_addr().unwrap().to_string());

        broker.ctl_ok(&["clients", "kick", "a client"]);
        assert_eq!(client.end(), Some(0x98), "administrative action");
        assert_eq!(broker.ctl_json(&["clients", "show", "a client"])["connected"], false);
        broker.ctl_ok(&["clients", "kick", "a client", "--discard"]);
        let refusal = broker.ctl_refused(&["clients", "show", "a client"]);
        assert!(refusal.contains("a client"), "{refusal}");
        broker.ctl_ok(&["clients", "kick", "other"]);
        assert_eq!(other.end(), None);
    }
}

scenario! {
    /// `subscriptions list` shows filter, QoS and options.
    fn subscriptions_are_listed(broker in builder()) {
        let mut client = Client::hello(broker, Version::V5, "c");
        let options = 1 | NO_LOCAL | RETAIN_AS_PUBLISHED | RETAINED_NEVER;
        let subscribe = Subscribe::to("a/+", options).with(SUBSCRIPTION_ID, Value::Variable(9));
        client.subscribe_all(&subscribe);
        client.subscribe("$share/g/b", 2);
        let mut other = Client::hello(broker, Version::V5, "d");
        other.subscribe("c", 0);
        let list = broker.ctl_json(&["subscriptions", "list", "--client", "c"]);
        let mut rows = list["subscriptions"].as_array().unwrap().clone();
        rows.sort_by_key(|row| row["filter"].to_string());
        assert_eq!(rows.len(), 2);
        assert_eq!((&rows[0]["filter"], &rows[0]["qos"]), (&"$share/g/b".into(), &2.into()));
        assert_eq!(rows[1]["filter"], "a/+");
        assert_eq!(rows[1]["qos"], 1);
        assert_eq!(rows[1]["no_local"], true);
        assert_eq!(rows[1]["retain_as_published"], true);
        assert_eq!(rows[1]["retain_handling"], 2);
        assert_eq!(rows[1]["subscription_id"], 9);
        let all = broker.ctl_json(&["subscriptions", "list"]);
        assert_eq!(all["subscriptions"].as_array().unwrap().len(), 3);
        assert!(broker.ctl_ok(&["subscriptions", "list"]).contains("$share/g/b"));
    }
}

fn metric(broker: &Broker, name: &str) -> u64 {
    let metrics = broker.ctl_json(&["metrics"]);
    let row = metrics["metrics"].as_array().unwrap().iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no metric {name}"))["value"].as_u64().unwrap()
}

scenario! {
    /// `metrics` and `GET /metrics` show the same, and the actions of clients.
    fn metrics_show_the_actions_of_clients(broker in builder()) {
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("t", 2);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for qos in [0, 1, 2] {
            publisher.publish(&Publish::new("t", "x").qos(qos));
            subscriber.message();
        }
        publisher.publish(&Publish::new("nobody", "x").qos(1));
        subscriber.ping();
        for (name, value) in [
            ("messages_received", 4),
            ("messages_qos0_received", 1),
            ("messages_qos1_received", 2),
            ("messages_qos2_received", 1),
            ("messages_sent", 3),
            ("messages_acked", 2),
            ("messages_dropped_no_subscribers", 1),
            ("packets_subscribe_received", 1),
            ("packets_suback_sent", 1),
            ("packets_pubrec_sent", 1),
            ("client_connected", 2),
            ("connections_count", 2),
        ] {
            assert_eq!(metric(broker, name), value, "{name}");
        }
        let text = http(broker, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("grapnel_messages_received"), "{text}");
        let sample = text.lines().find(|l| l.starts_with("grapnel_messages_dropped_no_subscribers") && l.ends_with(" 1"));
        assert!(sample.is_some(), "{text}");
    }
}

fn http(broker: &Broker, request: &str) -> String {
    let mut stream = UnixStream::connect(broker.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

scenario! {
    /// `trace client ID` shows packets in and out while it runs.
    fn a_trace_shows_packets_both_ways(broker in builder()) {
        let mut client = Client::hello(broker, Version::V5, "traced");
        client.subscribe("t", 1);
        let mut ctl = command(plugin::built("grapnel-ctl"));
        ctl.arg("--socket").arg(broker.socket()).args(["--json", "trace", "client", "traced", "--count", "20"]);
        let mut trace = Process::start("grapnel-ctl trace", ctl, None);
        // The trace begins some time after the program was started: send packets until it is done.
        let deadline = Instant::now() + PATIENCE;
        while trace.wait(std::time::Duration::from_millis(1)).is_none() {
            assert!(Instant::now() < deadline, "{}", trace.log());
            client.publish(&Publish::new("t", "x").qos(1).with(USER_PROPERTY, Value::pair("a", "b")));
            client.message();
        }
        let log = trace.succeed(PATIENCE);
        for text in ["\"in\"", "\"out\"", "PUBLISH", "PUBACK", "'t'"] {
            assert!(log.contains(text), "{text} is not in {log}");
        }
        client.ping();
    }
}

#[test]
fn passwd_writes_entries_that_only_their_owner_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("users");
    let set = |user: &str, password: &str| {
        let mut ctl = command(plugin::built("grapnel-ctl"));
        ctl.arg("passwd").arg(&file).args([user, "--password-stdin"]);
        Process::start("grapnel-ctl passwd", ctl, Some(password.as_bytes())).succeed(PATIENCE);
    };
    set("ann", "secret");
    set("bob", "hidden");
    set("ann", "changed");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().all(|line| line.contains(":$argon2id$")), "{text}");
    assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn ctl_names_the_socket_when_no_broker_answers() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("nobody.sock");
    let mut ctl = command(plugin::built("grapnel-ctl"));
    ctl.arg("--socket").arg(&socket).arg("status");
    let mut process = Process::start("grapnel-ctl", ctl, None);
    assert!(!process.wait(PATIENCE).expect("it ends").success());
    assert!(process.log().contains(plugin::argument(&socket)), "{}", process.log());
}

/// A wrong command line is one sentence in every program: it ends with the help to read, and the
/// exit code is 2.
#[test]
fn a_wrong_command_line_gets_one_sentence_that_names_the_help() {
    let programs: [(&str, &[&str], &str); 9] = [
        ("grapnel", &["--frob"], "unexpected argument '--frob' found; see grapnel --help"),
        ("grapnel", &["--listen"], "see grapnel --help"),
        ("grapnel-ctl", &["plugins", "laod"], "see grapnel-ctl plugins --help"),
        ("grapnel-ctl", &["plugins", "load"], "<NAME|PATH>; see grapnel-ctl plugins load --help"),
        ("grapnel-ctl", &["--timeout", "0", "status"], "see grapnel-ctl status --help"),
        ("grapnel-ctl", &["plugins", "check", "x", "--set", "y"], "see grapnel-ctl plugins check --help"),
        ("grapnel-ctl", &["passwd", "users"], "<USER>; see grapnel-ctl passwd --help"),
        ("grapnel-bench", &["pub", "-q", "3"], "see grapnel-bench pub --help"),
        ("grapnel-bench", &["pub", "-t", "a/#"], "see grapnel-bench pub --help"),
    ];
    for (program, arguments, end) in programs {
        let mut process = Process::start(
            program,
            {
                let mut command = command(plugin::built(program));
                command.args(arguments);
                command
            },
            None,
        );
        let status = process.wait(PATIENCE).expect("it ends");
        let log = process.log();
        let text = log.trim_end();
        assert_eq!(status.code(), Some(2), "{program} {arguments:?}: {text}");
        assert!(text.starts_with(&format!("{program}: ")) && text.ends_with(end), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{program} {arguments:?}: {text}");
    }
}

#[test]
fn the_socket_is_private_and_removed_when_the_broker_ends() {
    use std::os::unix::fs::PermissionsExt;
    let broker = builder().start();
    let socket = broker.socket().to_owned();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "others may not connect: {mode:o}");
    let home = broker.stop();
    assert!(!socket.exists());
    drop(home);
}

scenario! {
    /// `hooks list` shows links, `--all` every point, also those that this version does not call yet.
    fn hooks_are_listed(broker in builder()) {
        let all = broker.ctl_json(&["hooks", "list", "--all"]).to_string();
        for point in ["client.connect", "client.authenticate", "message.publish", "message.delivered", "broker.stopped"] {
            assert!(all.contains(point), "{point} is not in {all}");
        }
        broker.ctl_ok(&["plugins", "load", "tap", "--once"]);
        let links = broker.ctl_json(&["hooks", "list"]).to_string();
        assert!(links.contains("tap") && links.contains("message.publish"), "{links}");
        assert!(!links.contains("broker.stopped"), "{links}");
        assert!(broker.ctl_ok(&["hooks", "list"]).contains("tap"));
    }
}
