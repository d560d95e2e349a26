//! `grapnel-ctl config`: a broker that reads its configuration again while clients are connected,
//! by a command and by SIGHUP, and one that refuses to.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Subscribe, Version, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};

/// One listener, whose address no reload changes.
const FIRST: &str = "[[listeners]]\nname = \"first\"\nbind = \"127.0.0.1:0\"\n";

/// A broker whose configuration has this text behind its listener.
fn started(text: &str) -> Broker {
    Broker::builder().listen(&[]).config(FIRST).config(text).start()
}

/// Replaces the configuration file. The text has its listeners.
fn write(broker: &Broker, text: &str) {
    let whole = format!("[plugins]\ndir = {:?}\n{text}", plugin::directory());
    std::fs::write(broker.home().join("grapnel.toml"), whole).unwrap();
}

/// Writes the file and reloads it. Returns the answer.
#[track_caller]
fn reloaded(broker: &Broker, text: &str) -> Value {
    write(broker, &format!("{FIRST}{text}"));
    broker.ctl_json(&["config", "reload"])
}

/// The keys of a list in an answer.
fn keys(answer: &Value, list: &str) -> Vec<String> {
    let rows = answer[list].as_array().unwrap();
    rows.iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

fn listeners(broker: &Broker) -> Vec<(String, SocketAddr)> {
    let status = broker.ctl_json(&["status"]);
    let rows = status["listeners"].as_array().unwrap().iter();
    let row = |row: &Value| {
        (row["name"].as_str().unwrap().to_owned(), row["address"].as_str().unwrap().parse().unwrap())
    };
    rows.map(row).collect()
}

fn plugins(broker: &Broker) -> Vec<(String, String)> {
    let list = broker.ctl_json(&["plugins", "list"]);
    let rows = list["plugins"].as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["version"].to_string())).collect()
}

fn names(broker: &Broker) -> Vec<String> {
    plugins(broker).into_iter().map(|(name, _)| name).collect()
}

/// Waits until nothing listens at an address.
fn wait_until_closed(address: SocketAddr) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < until, "{address} is still open");
        std::thread::yield_now();
    }
}

#[test]
fn the_log_level_changes_while_the_broker_runs() {
    let broker = started("[log]\nlevel = \"error\"\n");
    let count =
        || broker.process().lines(|line| line.contains("configuration reloaded from").then_some(())).len();
    let answer = reloaded(&broker, "[log]\nlevel = \"info\"\n");
    assert_eq!(answer["changed"], json!([{"key": "log.level", "old": "error", "new": "info"}]));
    let line = "configuration reloaded from";
    broker.process().wait_for_line(line, PATIENCE, |read| read.contains(line).then_some(()));
    broker.process().wait_for_line("the key", PATIENCE, |read| {
        read.contains("configuration: log.level: \"error\" -> \"info\"").then_some(())
    });
    assert_eq!(count(), 1);
    reloaded(&broker, "[log]\nlevel = \"error\"\n");
    reloaded(&broker, "[log]\nlevel = \"info\"\n");
    broker.process().wait_for_lines(line, 2, PATIENCE, |read| read.contains(line).then_some(()));
    assert_eq!(count(), 2, "the reload to error is not logged");
}

#[test]
fn a_log_filter_of_the_environment_stays_and_is_named() {
    let builder = Broker::builder().listen(&[]).config(FIRST).environment("GRAPNEL_LOG", "warn");
    let broker = builder.start();
    let answer = reloaded(&broker, "[log]\nlevel = \"trace\"\n");
    assert_eq!(answer["changed"], json!([]));
    let left = json!(["log.level has no effect, because the variable GRAPNEL_LOG is set"]);
    assert_eq!(answer["left"], left);
    write(&broker, &format!("{FIRST}[log]\nlevel = \"debug\"\n"));
    let found = broker.ctl_json(&["config", "show", "--diff"]);
    assert_eq!((&found["changed"], &found["left"]), (&json!([]), &left), "as the reload would say");
}

#[test]
fn what_a_reload_would_do_reads_the_certificates_that_the_file_names() {
    let broker = started("");
    let listener = "[[listeners]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\n";
    write(&broker, &format!("{FIRST}{listener}"));
    let said = broker.ctl_ok(&["config", "show", "--diff"]);
    assert!(said.contains("would change  listeners.tls: added (127.0.0.1:0)"), "{said}");
    write(&broker, &format!("{FIRST}{listener}[listeners.tls]\ncert = \"none.pem\"\nkey = \"none.key\"\n"));
    let refused = broker.ctl_refused(&["config", "show", "--diff"]);
    assert!(refused.contains("none.pem"), "{refused}");
}

#[test]
fn clients_that_are_connected_follow_the_new_rules() {
    let broker = started("");
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("before", 1);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x10);
    let answer = reloaded(&broker, "[authorization]\nno_match = \"deny\"\n[limits]\nsubscriptions_max = 1\n");
    assert_eq!(keys(&answer, "changed"), ["authorization.no_match", "limits.subscriptions_max"]);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x87, "not authorized");
    reloaded(&broker, "[limits]\nsubscriptions_max = 1\n");
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x10);
    assert_eq!(client.subscribe_all(&Subscribe::to("second", 0)), [0x97], "quota exceeded");
    reloaded(&broker, "");
    assert_eq!(client.subscribe_all(&Subscribe::to("second", 0)), [0]);
    assert_eq!(client.publish(&Publish::new("before", "still there").qos(1)), 0);
    assert_eq!(client.message().text(), "still there");
}

#[test]
fn choices_of_mqtt_change_for_those_who_connect_then() {
    let broker = started("");
    assert_eq!(
        keys(&reloaded(&broker, "[mqtt]\nassigned_client_id_prefix = \"fleet-\"\n"), "changed"),
        ["mqtt.assigned_client_id_prefix"]
    );
    let (_client, connack) = Client::attempt(&broker, &Connect::new(Version::V5, ""));
    assert!(format!("{connack:?}").contains("fleet-"), "{connack:?}");
}

#[test]
fn plugins_are_loaded_configured_and_unloaded() {
    let rules = |to: &str| {
        format!(
            "[plugins.topic-rewrite]\nconfig = {{ rules = [{{ filter = \"a/#\", regex = '^a/(.+)$', destination = \"{to}/$1\" }}] }}\n"
        )
    };
    let broker = started("");
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("#", 0);
    let mut arrives_at = |topic: &str| {
        client.publish(&Publish::new("a/x", "").qos(1));
        assert_eq!(client.message().topic, topic);
    };
    arrives_at("a/x");
    let answer = reloaded(&broker, &rules("b"));
    assert_eq!(
        answer["changed"],
        json!([{"key": "plugins.topic-rewrite", "old": null, "new": "topic-rewrite"}])
    );
    arrives_at("b/x");
    let answer = reloaded(&broker, &rules("c"));
    assert_eq!(keys(&answer, "changed"), ["plugins.topic-rewrite.config"]);
    assert!(!answer.to_string().contains("/$1"), "{answer}");
    arrives_at("c/x");
    let unmounted =
        format!("{}[plugins.topic-rewrite.hooks.\"message.publish/rewrite\"]\nmounted = false\n", rules("c"));
    let hook = broker.ctl_json(&["hooks", "list"])["rows"]
        .as_array()
        .and_then(|rows| rows.iter().find(|row| row["point"] == "message.publish").cloned())
        .unwrap();
    let unmounted = unmounted.replace("/rewrite\"", &format!("/{}\"", hook["hook"].as_str().unwrap()));
    assert_eq!(keys(&reloaded(&broker, &unmounted), "changed"), ["plugins.topic-rewrite.hooks"]);
    arrives_at("a/x");
    reloaded(&broker, &rules("c"));
    arrives_at("c/x");
    let answer = reloaded(&broker, "");
    assert_eq!(
        answer["changed"],
        json!([{"key": "plugins.topic-rewrite", "old": "topic-rewrite", "new": null}])
    );
    assert_eq!(names(&broker), [""; 0]);
    arrives_at("a/x");
}

#[test]
fn plugins_that_were_changed_by_hand_are_left_and_named() {
    let broker = started("[plugins.noop]\n[plugins.tap]\n");
    broker.ctl_ok(&["plugins", "unload", "tap"]);
    let answer = reloaded(&broker, "[plugins.noop]\n[plugins.tap]\nrequired = true\n");
    let left = answer["left"][0].as_str().unwrap();
    assert!(left.starts_with("plugin tap was unloaded with grapnel-ctl and stays so"), "{answer}");
    broker.ctl_ok(&["plugins", "load", "tap", "--once"]);
    let answer = reloaded(&broker, "[plugins.noop]\n");
    assert!(
        answer["left"][0].as_str().unwrap().starts_with("plugin tap was loaded with grapnel-ctl"),
        "{answer}"
    );
    assert_eq!(names(&broker), ["noop", "tap"]);
}

#[test]
fn listeners_come_go_and_change_and_clients_of_others_stay() {
    let broker = started("");
    let mut first = Client::hello(&broker, Version::V5, "first");
    first.subscribe("t", 1);
    let second = "[[listeners]]\nname = \"second\"\nbind = \"127.0.0.1:0\"\n";
    let answer = reloaded(&broker, second);
    assert_eq!(keys(&answer, "changed"), ["listeners.second"]);
    let open = listeners(&broker);
    assert_eq!(open.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    let (_, address) = open[1];
    let (mut through, _) = Client::attempt_at(address, &Connect::new(Version::V5, "through"));
    through.publish(&Publish::new("t", "over the new one").qos(1));
    assert_eq!(first.message().text(), "over the new one");
    // Only what is accepted from then on is refused.
    let answer = reloaded(&broker, &format!("{second}allow_anonymous = false\n"));
    assert_eq!(keys(&answer, "changed"), ["listeners.second.allow_anonymous"]);
    let until = Instant::now() + PATIENCE;
    while Client::attempt_at(address, &Connect::new(Version::V5, "late")).1.code == 0 {
        assert!(Instant::now() < until, "anonymous clients are still let in");
    }
    through.ping();
    let answer = reloaded(&broker, "");
    assert_eq!(keys(&answer, "changed"), ["listeners.second"]);
    wait_until_closed(address);
    assert_eq!(listeners(&broker), open[..1]);
    through.ping();
    first.ping();
    Client::hello(&broker, Version::V5, "after").ping();
}

#[test]
fn a_listener_that_is_renamed_keeps_its_port() {
    let broker = started("");
    let address = broker.address();
    let bind = |name: &str| format!("[[listeners]]\nname = \"{name}\"\nbind = \"{address}\"\n");
    // Its port is the system's choice until the file names it; then it is another listener, which
    // takes the address over if the first one goes.
    write(&broker, &format!("{FIRST}{}", bind("other")));
    let said = broker.ctl_refused(&["config", "reload"]);
    assert!(said.contains("address in use"), "{said}");
    let everywhere = format!("0.0.0.0:{}", address.port());
    write(&broker, &format!("[[listeners]]\nbind = \"{everywhere}\"\n"));
    let said = broker.ctl_refused(&["config", "reload"]);
    assert!(said.contains("remove that one, reload, add this one"), "{said}");
    write(&broker, &bind("other"));
    broker.ctl_json(&["config", "reload"]);
    assert_eq!(listeners(&broker), [("other".to_owned(), address)]);
    Client::hello(&broker, Version::V5, "there").ping();
    write(&broker, FIRST);
    broker.ctl_json(&["config", "reload"]);
    wait_until_closed(address);
    let fixed = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = fixed.local_addr().unwrap();
    drop(fixed);
    let at = |name: &str| format!("[[listeners]]\nname = \"{name}\"\nbind = \"{free}\"\n");
    reloaded(&broker, &at("old"));
    let (mut client, _) = Client::attempt_at(free, &Connect::new(Version::V5, "c"));
    let answer = reloaded(&broker, &at("new"));
    assert_eq!(keys(&answer, "changed"), ["listeners.old.name"]);
    assert_eq!(listeners(&broker)[1], ("new".to_owned(), free));
    client.ping();
    reloaded(&broker, "");
    wait_until_closed(free);
}

/// The broker has a faulty file: all faults are said, and nothing of it is in force.
#[test]
fn of_a_file_with_a_fault_nothing_is_applied() {
    let broker = started("[plugins.noop]\n");
    let before = (listeners(&broker), plugins(&broker), broker.ctl_json(&["config", "show"]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("[[listeners]]\nname = \"taken\"\nbind = \"{}\"\n", taken.local_addr().unwrap());
    let good =
        "[authorization]\nno_match = \"deny\"\n[[listeners]]\nname = \"good\"\nbind = \"127.0.0.1:0\"\n";
    let faults = [
        (
            "[limits]\nreceive_max = 0\n[mqtt]\nrevoke = 1\n",
            &["limits.receive_max must be", "mqtt.revoke must be"][..],
        ),
        ("no toml", &["grapnel.toml:"][..]),
        (&in_use, &["address in use"]),
        ("[plugins.nobody]\n", &["there is no plugin named nobody"]),
        ("[plugins.topic-rewrite]\nconfig = { rule = 1 }\n", &["topic-rewrite"]),
        ("[[listeners]]\nbind = \"127.0.0.1:1\"\n[listeners.tls]\n", &["listeners.tls has no certificate"]),
        // Its check cannot see that; so it fails when `tap` was loaded and `noop` was not yet unloaded.
        (
            "[plugins.tap]\n[plugins.auth-file]\nconfig = { path = \"/nowhere/users\" }\n",
            &["auth-file", "nothing of the configuration has changed"],
        ),
    ];
    for (fault, says) in faults {
        write(&broker, &format!("{FIRST}{good}{fault}"));
        let said = broker.ctl_refused(&["config", "reload"]);
        for text in says {
            assert!(said.contains(text), "{text:?} is not in: {said}");
        }
        let after = (listeners(&broker), plugins(&broker), broker.ctl_json(&["config", "show"]));
        assert_eq!(after, before, "after {fault}: {said}");
    }
    let mut client = Client::hello(&broker, Version::V5, "c");
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x10, "nobody is denied");
    let line = "the configuration is not reloaded, and nothing has changed";
    let lines = broker.process().lines(|read| read.contains(line).then_some(()));
    assert_eq!(lines.len(), faults.len());
    // The same without the fault is applied.
    let answer = reloaded(&broker, good);
    assert_eq!(keys(&answer, "changed"), ["authorization.no_match", "listeners.good", "plugins.noop"]);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x87);
}

#[test]
fn sighup_reloads_and_does_not_end_the_broker() {
    let broker = started("");
    let mut client = Client::hello(&broker, Version::V5, "c");
    write(&broker, &format!("{FIRST}[authorization]\nno_match = \"deny\"\n"));
    broker.process().signal(Signal::HUP);
    let key = "configuration: authorization.no_match: \"allow\" -> \"deny\"";
    broker.process().wait_for_line(key, PATIENCE, |line| line.contains(key).then_some(()));
    let until = Instant::now() + PATIENCE;
    while client.publish(&Publish::new("t", "x").qos(1)) != 0x87 {
        assert!(Instant::now() < until, "the rule is not in force");
    }
    write(&broker, "broken");
    broker.process().signal(Signal::HUP);
    let line = "the configuration is not reloaded, and nothing has changed: ";
    broker.process().wait_for_line(line, PATIENCE, |read| read.contains(line).then_some(()));
    client.ping();
}

#[test]
fn what_needs_a_restart_is_named_and_left() {
    let broker = started("");
    let text = "[control]\ntraces_max = 3\n[limits]\ntickets_max = 9\nreceive_max = 9\n";
    write(&broker, &format!("{FIRST}{text}"));
    let found = broker.ctl_json(&["config", "show", "--diff"]);
    assert_eq!(keys(&found, "changed"), ["limits.receive_max"]);
    assert_eq!(keys(&found, "needs_restart"), ["limits.tickets_max", "control.traces_max"]);
    let of = |key: &str| {
        let shown = broker.ctl_json(&["config", "show"]);
        let rows = shown["settings"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["key"] == key).unwrap()
    };
    assert_eq!(of("limits.receive_max")["value"], 64, "--diff changes nothing");
    let said = broker.ctl_ok(&["config", "reload"]);
    assert!(said.contains("changed  limits.receive_max: 64 -> 9"), "{said}");
    assert!(said.contains("needs a restart  control.traces_max: 16 -> 3"), "{said}");
    let row = of("limits.receive_max");
    assert_eq!((&row["value"], &row["needs_restart"]), (&json!(9), &json!(false)));
    assert!(row["source"].as_str().unwrap().contains("grapnel.toml:"), "{row}");
    assert_eq!(of("control.traces_max")["value"], 16);
    // It is named as long as the file and the broker differ.
    let again = broker.ctl_json(&["config", "reload"]);
    assert_eq!((keys(&again, "changed").len(), keys(&again, "needs_restart").len()), (0, 2));
    assert!(broker.ctl_ok(&["config", "show"]).contains("limits.receive_max"));
    reloaded(&broker, "");
    assert!(broker.ctl_ok(&["config", "show", "--diff"]).contains("has what is in force"));
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let home = tempfile::tempdir().unwrap();
    let mut command = grapnel_tests::process::command(plugin::built("grapnel"));
    let socket = home.path().join("c.sock");
    command.args(["--listen", "127.0.0.1:0", "--shards", "1", "--socket"]).arg(&socket);
    command.env("GRAPNEL_STATE_DIR", home.path().join("state")).env("GRAPNEL_DIE_WITH_PARENT", "1");
    let mut process = grapnel_tests::process::Process::start("grapnel", command, None);
    process.wait_for_line("ready", PATIENCE, |line| (line == "ready").then_some(()));
    let mut command = grapnel_tests::process::command(plugin::built("grapnel-ctl"));
    command.arg("--socket").arg(&socket).args(["config", "reload"]);
    let mut ctl = grapnel_tests::process::Process::start("grapnel-ctl", command, None);
    let status = ctl.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(1), "{}", ctl.log());
    assert!(ctl.log().contains("without a configuration file"), "{}", ctl.log());
    process.signal(Signal::TERM);
    assert!(process.wait(PATIENCE).unwrap().success());
}
