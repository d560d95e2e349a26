//! Plugins of aMQTT through exhook on a live broker: each event with its arguments, their verdicts
//! about logins and topics, their actions through their context, and the plugins of the real
//! package. The expectation is what aMQTT documents.

#![allow(clippy::unwrap_used)]

mod exhook_common;

use std::time::{Duration, Instant};

use exhook_common::{Calls, broker, folder, load};
use grapnel_tests::client::Event;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Subscribe, Version, Will, scenario};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A part of aMQTT's files without a meaning here.
const LISTENERS: &str =
    "listeners:\n  default:\n    type: tcp\n    bind: 0.0.0.0:1883\n    max_connections: 10\n";

/// aMQTT's own file, and the settings with its path.
fn settings(yaml: &str, more: &[&str]) -> (TempDir, Vec<String>) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("amqtt.yaml");
    std::fs::write(&file, format!("{LISTENERS}{yaml}")).unwrap();
    let mut settings = vec![
        "driver=amqtt".to_owned(),
        format!("path=\"{}\"", folder().display()),
        format!("config=\"{}\"", file.display()),
    ];
    settings.extend(more.iter().map(|setting| (*setting).to_owned()));
    (home, settings)
}

/// Loads the plugins of aMQTT's own file.
#[track_caller]
fn load_yaml(broker: &Broker, yaml: &str, more: &[&str]) -> TempDir {
    let (home, settings) = settings(yaml, more);
    load(broker, &settings);
    home
}

fn unload(broker: &Broker) {
    broker.ctl_ok(&["plugins", "unload", "exhook"]);
}

/// Keyword arguments as the hooks print them.
fn keywords(pairs: &[(&str, Value)]) -> Value {
    json!([{"dict": pairs.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>()}])
}

fn packet(kind: &str) -> Value {
    keywords(&[("packet", json!({"dict": [["packet", kind]]})), ("client", json!("c"))])
}

fn message(kind: &str, values: &Value) -> Value {
    json!({"dict": [[kind, values]]})
}

fn bytes(value: &[u8]) -> Value {
    json!({"bytes": value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()})
}

/// The next calls are these, in any order if the documents define none.
#[track_caller]
fn step<const N: usize>(calls: &Calls<'_>, expected: [(&str, Value); N]) {
    let mut received: Vec<(String, Value)> = (0..N).map(|_| calls.next()).collect();
    for (hook, arguments) in expected {
        let at = received.iter().position(|(called, with)| called == hook && *with == arguments);
        let at = at.unwrap_or_else(|| panic!("{hook} with {arguments} is not among {received:#?}"));
        received.remove(at);
    }
}

scenario! {
    /// Every event of the table is called, with all its arguments.
    fn every_event_is_called(broker in broker(), version) {
        let calls = Calls::of(broker);
        let _home = load_yaml(broker, "plugins:\n  amqtt_spy.Spy:\n    greeting: hello\n", &[]);
        // Loaded later: both start events are called at load.
        let config = keywords(&[("greeting", json!("hello")), ("times", json!(3))]);
        assert_eq!(calls.expect(["on_broker_pre_start", "on_broker_post_start"]), [config, keywords(&[])]);

        let will = Will { qos: 1, retain: true, ..Will::new("will/t", "gone") };
        let connect = Connect::new(version, "c").login("alice", "secret").keep_alive(77).will(will);
        let mut client = Client::connect(broker, &connect);
        let session = json!({"dict": [["Session", {"dict": [
            ["client_id", "c"], ["username", "alice"], ["remote_address", "127.0.0.1"], ["clean_session", true],
            ["keep_alive", 77], ["will_flag", true], ["will_topic", "will/t"], ["will_message", bytes(b"gone")],
            ["will_qos", 1], ["will_retain", true],
        ]}]]});
        let whose = keywords(&[("client_id", json!("c")), ("client_session", session)]);
        // CONNECT arrives before there is a session.
        let [connect] = calls.expect(["on_mqtt_packet_received"]);
        assert_eq!(connect[0]["dict"][0], packet("ConnectPacket")[0]["dict"][0]);
        step(&calls, [
            ("on_mqtt_packet_sent", packet("ConnackPacket")),
            ("on_broker_client_connected", whose.clone()),
        ]);

        client.subscribe("t/#", 1);
        let subscribed = [("client_id", json!("c")), ("topic", json!("t/#")), ("qos", json!(1))];
        step(&calls, [
            ("on_mqtt_packet_received", packet("SubscribePacket")),
            ("on_broker_client_subscribed", keywords(&subscribed)),
            ("on_mqtt_packet_sent", packet("SubackPacket")),
        ]);

        assert_eq!(client.publish(&Publish::new("t/a", b"\xFF\x00").qos(1).retain()), 0);
        assert_eq!(client.message().payload, b"\xFF\x00");
        let about = message("ApplicationMessage", &json!(["t/a", bytes(b"\xFF\x00"), 1, true]));
        let about = keywords(&[("client_id", json!("c")), ("message", about)]);
        let retained = message("RetainedApplicationMessage", &json!(["t/a", bytes(b"\xFF\x00"), 1]));
        step(&calls, [
            ("on_mqtt_packet_received", packet("PublishPacket")),
            ("on_broker_message_received", about.clone()),
            ("on_broker_message_broadcast", about),
            ("on_broker_retained_message", keywords(&[("client_id", Value::Null), ("retained_message", retained)])),
            ("on_mqtt_packet_sent", packet("PubackPacket")),
            ("on_mqtt_packet_sent", packet("PublishPacket")),
            ("on_mqtt_packet_received", packet("PubackPacket")),
        ]);

        client.ping();
        step(&calls, [
            ("on_mqtt_packet_received", packet("PingReqPacket")),
            ("on_mqtt_packet_sent", packet("PingRespPacket")),
        ]);

        client.unsubscribe(&["t/#"]);
        step(&calls, [
            ("on_mqtt_packet_received", packet("UnsubscribePacket")),
            ("on_broker_client_unsubscribed", keywords(&[("client_id", json!("c")), ("topic", json!("t/#"))])),
            ("on_mqtt_packet_sent", packet("UnsubackPacket")),
        ]);

        client.disconnect();
        step(&calls, [
            ("on_mqtt_packet_received", packet("DisconnectPacket")),
            ("on_broker_client_disconnected", whose),
        ]);

        unload(broker);
        let none = || keywords(&[]);
        assert_eq!(
            calls.expect(["on_broker_pre_shutdown", "on_broker_post_shutdown", "close"]),
            [none(), none(), none()]
        );
    }
}

scenario! {
    /// A method gets only the arguments that it names.
    fn methods_get_the_arguments_that_they_declare(broker in broker(), version) {
        let _home = load_yaml(broker, "plugins:\n  amqtt_spy.Few: {}\n", &[]);
        let calls = Calls::of(broker);
        let mut client = Client::connect(broker, &Connect::new(version, "c").login("alice", ""));
        client.subscribe("a", 0);
        client.publish(&Publish::new("t", "x").qos(1));
        client.unsubscribe(&["a"]);
        client.disconnect();
        let about = message("ApplicationMessage", &json!(["t", bytes(b"x"), 1, false]));
        for (hook, arguments) in [
            ("on_broker_client_connected", keywords(&[("client_id", json!("c"))])),
            ("on_broker_client_subscribed", keywords(&[("topic", json!("a")), ("mine", json!("default"))])),
            ("on_broker_message_received", keywords(&[("client_id", json!("c")), ("message", about.clone())])),
            ("on_broker_message_broadcast", keywords(&[("message", about)])),
            ("on_broker_client_unsubscribed", keywords(&[])),
            ("on_broker_client_disconnected", keywords(&[("username", json!("alice"))])),
        ] {
            assert_eq!(calls.expect([hook]), [arguments], "{hook}");
        }
    }
}

/// The events of the broker itself.
#[test]
fn the_shutdown_of_the_broker_is_notified() {
    let mut broker = broker().start();
    let _home = load_yaml(&broker, "plugins:\n  amqtt_spy.Spy:\n    greeting: hello\n", &[]);
    broker.process().signal(rustix::process::Signal::TERM);
    assert!(broker.wait().is_some_and(|status| status.success()));
    let lines = broker.process().lines(|line| {
        let (_, call) = line.split_once(" CALL [\"on_broker_")?;
        Some(call.split_once('"')?.0.to_owned())
    });
    assert_eq!(lines, ["pre_start", "post_start", "pre_shutdown", "post_shutdown"]);
    let closed = broker.process().lines(|line| line.contains("CALL [\"close\"").then_some(()));
    assert_eq!(closed.len(), 1);
}

/// A plugin that is loaded at the start has its `on_broker_post_start` when the broker has started,
/// not while others are still being loaded. A worker that is restarted later has both events at
/// once.
#[test]
fn the_start_of_the_broker_is_notified_when_it_has_started() {
    let (_home, settings) = settings("plugins:\n  amqtt_spy.Spy:\n    greeting: hello\n", &[]);
    let python = format!("python=\"{}\"", grapnel_tests::paho::python().display());
    let settings = [settings, vec![exhook_common::ENVIRONMENT.to_owned(), python]].concat();
    let config = settings
        .iter()
        .map(|setting| setting.replacen('=', " = ", 1))
        .map(|setting| setting.replace("driver = amqtt", "driver = \"amqtt\""));
    let config = config.collect::<Vec<_>>().join("\n");
    let broker = broker().config(&format!("[plugins.exhook.config]\n{config}\n[plugins.tap]")).start();
    let place = |what: &str, count: usize| {
        let lines = broker
            .process()
            .wait_for_lines(what, count, PATIENCE, |line| line.contains(what).then(|| line.to_owned()));
        let log = broker.process().lines(|line| Some(line.to_owned()));
        let places = log.iter().enumerate().filter(|(_, line)| line.contains(what)).map(|(at, _)| at);
        assert_eq!(lines.len(), count);
        places.collect::<Vec<_>>()
    };
    let (pre, ready) = (place("CALL [\"on_broker_pre_start\"", 1)[0], place("amqtt/0 is ready", 1)[0]);
    let (others, post) = (place("tap", 1)[0], place("CALL [\"on_broker_post_start\"", 1)[0]);
    assert!(pre < post && ready < post && others < post, "{}", broker.process().log());
    let worker = broker.process().lines(|line| {
        let (_, rest) = line.split_once("amqtt/0 is ready: ")?;
        rest.split_once("process ")?.1.split(' ').next()?.parse::<i32>().ok()
    })[0];
    let worker = rustix::process::Pid::from_raw(worker).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    assert_eq!(place("amqtt/0 is ready", 2).len(), 2);
    assert_eq!(place("CALL [\"on_broker_post_start\"", 2).len(), 2, "it need not be waited for");
}

scenario! {
    /// A login needs one plugin that returns True and none that returns False; None does not count.
    fn several_login_plugins_decide_together(broker in broker(), version) {
        let _home = load_yaml(broker, "plugins:\n  amqtt_spy.LoginA: {}\n  amqtt_spy.LoginB: {}\n", &[]);
        let calls = Calls::of(broker);
        let attempt = |connect: &Connect| Client::attempt(broker, connect).1.code;
        for (answers, connects) in [
            ("true-true", true), ("true-none", true), ("none-true", true),
            ("none-none", false), ("true-false", false), ("false-true", false),
            ("none-false", false), ("false-none", false), ("false-false", false), ("true-raise", false),
        ] {
            let code = attempt(&Connect::new(version, "c").login(answers, "p"));
            let refused = match (answers.contains("raise"), version.is_5()) {
                // Its result is unknown.
                (true, is_5) => code == if is_5 { 0x88 } else { 3 },
                (false, true) => [0x86, 0x87].contains(&code),
                (false, false) => [4, 5].contains(&code),
            };
            assert!(if connects { code == 0 } else { refused }, "{answers}: {code:#x}");
            let call = calls.expect(["authenticate"]);
            assert_eq!(call, [keywords(&[("client", json!("c")), ("password", json!("p"))])]);
            calls.until("authenticate", |_| true);
        }
        assert!(attempt(&Connect::new(version, "c")) != 0, "nobody says True of a client without a name");
    }
}

scenario! {
    /// At subscribe, publish and receive one False denies, and None does not count, also if all
    /// plugins return it.
    fn topics_are_filtered(broker in broker(), version) {
        let _home = load_yaml(broker, "plugins:\n  amqtt_spy.FilterA: {}\n  amqtt_spy.FilterB: {}\n", &[]);
        let calls = Calls::of(broker);
        let mut reader = Client::hello(broker, version, "reader");
        let mut writer = Client::hello(broker, version, "writer");
        for filter in ["publish/+", "receive/+", "end"] {
            reader.subscribe(filter, 1);
        }
        let denied = if version.is_5() { 0x87 } else { 0x80 };
        for (answers, allowed) in [
            ("true-true", true), ("true-none", true), ("none-true", true), ("none-none", true),
            ("true-false", false), ("false-true", false), ("none-false", false), ("false-none", false),
            ("false-false", false), ("none-raise", false),
        ] {
            for action in ["publish", "receive"] {
                let topic = format!("{action}/{answers}");
                let code = writer.publish(&Publish::new(&topic, answers).qos(1));
                let refused = version.is_5() && action == "publish" && !allowed;
                assert_eq!(code, if refused { 0x87 } else { 0 }, "{topic}");
                writer.publish(&Publish::new("end", "end").qos(1));
                let received: Vec<_> = reader.messages_until("end").iter().map(Publish::text).collect();
                assert_eq!(received, if allowed { vec![answers] } else { vec![] }, "{topic}");
                let expected = keywords(&[
                    ("client", json!(if action == "publish" { "writer" } else { "reader" })),
                    ("topic", json!(topic)),
                    ("action", json!(action)),
                ]);
                calls.until("topic_filtering", |arguments| *arguments == expected);
            }
            let topic = format!("subscribe/{answers}");
            let codes = writer.subscribe_all(&Subscribe::to(&topic, 1));
            assert_eq!(codes, [if allowed { 1 } else { denied }], "{topic}");
        }
    }
}

/// Whether aMQTT's own taboo plugin denies the topic.
#[track_caller]
fn is_taboo(broker: &Broker, version: Version, topic: &str) -> bool {
    let mut client = Client::hello(broker, version, "c");
    let denied = client.subscribe_all(&Subscribe::to(topic, 1)) != [1];
    client.subscribe("#", 1);
    client.publish(&Publish::new(topic, "x").qos(1));
    client.publish(&Publish::new("end", "end").qos(1));
    assert_eq!(client.messages_until("end").is_empty(), denied, "{topic}: as in SUBSCRIBE, so in PUBLISH");
    denied
}

scenario! {
    /// The older form of the file: plugins by alias, selected and switched in `auth` and
    /// `topic-check`, with both spellings of the switch.
    fn the_older_configuration_counts(broker in broker(), version) {
        let auth = "auth:\n  plugins:\n    - auth_anonymous\n  allow-anonymous: true\nsys_interval: 0\n";
        for (check, kept) in [
            ("  enable: true\n  plugins:\n    - topic_taboo\n", true),
            ("  enabled: true\n  plugins:\n    - topic_taboo\n", true),
            ("  enable: false\n  plugins:\n    - topic_taboo\n", false),
            ("  enabled: false\n  plugins:\n    - topic_taboo\n", false),
            // No plugin is called.
            ("  enabled: true\n  plugins: []\n", false),
        ] {
            let _home = load_yaml(broker, &format!("{auth}topic-check:\n{check}"), &[]);
            assert_eq!(is_taboo(broker, version, "prohibited"), kept, "{check}");
            assert!(!is_taboo(broker, version, "free"), "{check}");
            unload(broker);
        }
        // Only listed plugins are called: auth_anonymous is not, and auth_file has no users.
        let _home = load_yaml(broker, "auth:\n  plugins:\n    - auth_file\n  allow-anonymous: true\n", &[]);
        assert!(Client::attempt(broker, &Connect::new(version, "c")).1.code != 0);
    }
}

scenario! {
    /// Entry points of the test's own namespace, all of them or by alias.
    fn plugins_are_found_by_entry_points(broker in broker()) {
        let calls = Calls::of(broker);
        for yaml in ["plugins:\n  - few\n", "auth:\n  plugins: []\n"] {
            let (home, mut settings) = settings(yaml, &["options.plugin_namespace=\"mypackage.mymodule.plugins\""]);
            let dist = home.path().join("mypackage-1.0.dist-info");
            std::fs::create_dir(&dist).unwrap();
            std::fs::write(dist.join("METADATA"), "Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n").unwrap();
            let points = "[mypackage.mymodule.plugins]\nfew = amqtt_spy:Few\n";
            std::fs::write(dist.join("entry_points.txt"), points).unwrap();
            settings[1] = format!("path=\"{}:{}\"", home.path().display(), folder().display());
            load(broker, &settings);
            Client::hello(broker, Version::V5, "c").disconnect();
            calls.expect(["on_broker_client_connected", "on_broker_client_disconnected"]);
            unload(broker);
        }
    }
}

scenario! {
    /// Actions of plugins through their context take effect, and the context shows correct values.
    fn the_context_takes_effect(broker in broker(), version) {
        let _home = load_yaml(broker, "plugins:\n  amqtt_spy.Acts: {}\n", &[]);
        let calls = Calls::of(broker);
        let mut client = Client::connect(broker, &Connect::new(version, "c").login("alice", ""));
        let mut other = Client::hello(broker, version, "other");
        other.subscribe("from/#", 1);
        client.publish(&Publish::new("do/broadcast", "").qos(1));
        let received = other.message();
        assert_eq!((received.topic.as_str(), &received.payload[..], received.qos), ("from/plugin", &b"\xFFhi"[..], 1));

        // The client has no own subscription for it.
        client.publish(&Publish::new("do/subscribe", "").qos(1));
        calls_look(&mut client, &calls, |look| look["subscriptions"] == json!([["added/#", "c", 1], ["from/#", "other", 1]]));
        // A command takes some time; messages published after it is in force are delivered.
        let started = Instant::now();
        let received = loop {
            other.publish(&Publish::new("added/a", "x").qos(1));
            match client.next(Duration::from_millis(50)) {
                Event::Packet(Packet::Publish(received)) => break received,
                other => assert!(started.elapsed() < PATIENCE && other == Event::Silence, "{other:?}"),
            }
        };
        client.acknowledge(&received);
        assert_eq!((received.topic.as_str(), received.qos), ("added/a", 1));

        client.publish(&Publish::new("do/retain", "kept").qos(1));
        let look = calls_look(&mut client, &calls, |look| look["retained"] != json!([]));
        assert_eq!(look, json!({
            "sessions": ["c", "other"], "mine": "alice", "nobody": null,
            "subscriptions": [["added/#", "c", 1], ["from/#", "other", 1]],
            "retained": [["kept", bytes(b"kept")]]
        }));
        retains(broker, 1);
        let mut late = Client::hello(broker, version, "late");
        late.subscribe("kept", 1);
        let received = late.message();
        assert_eq!((received.text(), received.retain), ("kept".to_owned(), true));

        // As in aMQTT, a stored message is not delivered to current subscribers, nor is its removal
        // without data.
        client.publish(&Publish::new("do/retain", "new").qos(1));
        calls_look(&mut client, &calls, |look| look["retained"] == json!([["kept", bytes(b"new")]]));
        late.expect_no_message();
        client.publish(&Publish::new("do/retain", "").qos(1));
        calls_look(&mut client, &calls, |look| look["retained"] == json!([]));
        retains(broker, 0);
        late.subscribe("kept", 1);
        late.expect_no_message();

        late.disconnect();
        other.disconnect();
        calls_look(&mut client, &calls, |look| look["sessions"] == json!(["c"]));
    }
}

/// Topic filters that search for the password of a login, and for the data that a plugin has stored
/// about it, in a module of their own; the topic `end` ends the worker, and `who` answers with its
/// process.
const TOKENS: &str = r#"
import os
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin

class Login(BaseAuthPlugin):
    async def authenticate(self, *, session):
        session.attributes["role"] = "admin" if session.username == "root" else "user"
        return True

class Token(BaseTopicPlugin):
    """As aMQTT's TopicAuthJwtPlugin: without a password it has no opinion."""
    async def topic_filtering(self, *, session, topic, action):
        if not session.password:
            return None
        return topic.startswith(session.password) or topic in ("end", "who")

class Role(BaseTopicPlugin):
    async def topic_filtering(self, *, session, topic, action):
        role = session.attributes.get("role")
        if role is None or not topic.endswith("/admin"):
            return None
        return role == "admin"

class End(BasePlugin):
    async def on_broker_message_broadcast(self, *, message):
        if message.topic == "end":
            os.kill(os.getpid(), 9)
"#;

scenario! {
    /// Login data decides as before after a reload, after the end of the worker, and when the
    /// plugin is enabled again: a denial stays a denial, and a permission a permission.
    fn verdicts_outlive_workers(broker in broker()) {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("tokens.py"), TOKENS).unwrap();
        let file = home.path().join("amqtt.yaml");
        let names = ["Login", "Token", "Role", "End"].map(|name| format!("  tokens.{name}: {{}}\n"));
        std::fs::write(&file, format!("plugins:\n{}", names.concat())).unwrap();
        let settings = ["driver=amqtt".to_owned(), format!("config=\"{}\"", file.display())];
        load(broker, &settings);
        let of = |name: &str, user: &str, password: &str| {
            Client::connect(broker, &Connect::new(Version::V5, name).login(user, password))
        };
        let (mut ann, mut root) = (of("a", "ann", "mine"), of("r", "root", ""));
        let mut check = |when: &str| {
            let mut code = |topic: &str| ann.publish(&Publish::new(topic, "x").qos(1)) & 0x80;
            assert_eq!([code("mine/a"), code("other"), code("mine/admin")], [0, 0x80, 0x80], "{when}");
            // Without a password that part does not deny; the attribute decides.
            let mut code = |topic: &str| root.publish(&Publish::new(topic, "x").qos(1)) & 0x80;
            assert_eq!([code("other"), code("x/admin")], [0, 0], "{when}");
        };
        check("at first");
        broker.ctl_ok(&["plugins", "reload", "exhook"]);
        check("after a reload");
        broker.ctl_ok(&["plugins", "reload", "exhook"]);
        check("after another");
        Client::hello(broker, Version::V5, "ends").send_publish(&Publish::new("end", "x"));
        broker.process().wait_for_line("it is restarted", PATIENCE, |line| {
            line.contains("it is restarted").then_some(())
        });
        // Once at the load, once for each reload, and now.
        broker.process().wait_for_lines("a worker that is ready", 4, PATIENCE, |line| {
            line.contains("amqtt/0 is ready").then_some(())
        });
        check("after a crash");
        broker.ctl_ok(&["plugins", "disable", "exhook"]);
        broker.ctl_ok(&["plugins", "enable", "exhook"]);
        check("after it was disabled");
    }
}

/// Waits until the broker has so many retained messages: a plugin's table shows at once what a
/// command has requested, but the command takes some time.
#[track_caller]
fn retains(broker: &Broker, count: u64) {
    let started = Instant::now();
    while broker.ctl_json(&["status"])["retained_messages"] != count {
        assert!(started.elapsed() < PATIENCE, "not {count} retained messages");
    }
}

/// Makes the plugin read its context until the result is as `until` requires: the effect of another
/// client may be delayed.
#[track_caller]
fn calls_look(client: &mut Client, calls: &Calls<'_>, until: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        client.publish(&Publish::new("do/look", "").qos(1));
        let look = calls.until("look", |_| true);
        let look: serde_json::Map<String, Value> = look[0]["dict"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair[0].as_str().unwrap().to_owned(), plain(&pair[1])))
            .collect();
        let look = Value::Object(look);
        if until(&look) {
            return look;
        }
        assert!(started.elapsed() < PATIENCE, "{look}");
    }
}

/// Tuples as lists.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(map) if map.contains_key("tuple") => plain(&map["tuple"]),
        other => other.clone(),
    }
}

/// The plugins of the package.
mod bundled {
    use super::*;

    const AUTH: &str = "amqtt.plugins.authentication";
    const TOPICS: &str = "amqtt.plugins.topic_checking";
    const LOGS: &str = "amqtt.plugins.logging_amqtt";

    fn connects(broker: &Broker, connect: &Connect) -> bool {
        Client::attempt(broker, connect).1.code == 0
    }

    scenario! {
        /// AnonymousAuthPlugin: allows every client, or every client with a user name.
        fn anonymous(broker in broker(), version) {
            for allowed in [true, false] {
                let yaml = format!("plugins:\n  {AUTH}.AnonymousAuthPlugin:\n    allow_anonymous: {allowed}\n");
                let _home = load_yaml(broker, &yaml, &[]);
                assert_eq!(connects(broker, &Connect::new(version, "c")), allowed);
                assert!(connects(broker, &Connect::new(version, "c").login("alice", "")));
                unload(broker);
            }
        }
    }

    scenario! {
        /// FileAuthPlugin: names and passwords in a file, with argon2 hashes.
        fn file(broker in broker(), version) {
            // "secret", hashed by aMQTT's own function with a low cost.
            let users = "# users\nalice:$argon2id$v=19$m=64,t=1,p=1$z5NOoMfyrSZA7JyIR+T9Lw\
                         $EpwpsEONmskhFftUXIm/XQeolA5K4ksHvQBf4Fvu9Sg\n";
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join("passwords");
            std::fs::write(&file, users).unwrap();
            let yaml = format!("plugins:\n  {AUTH}.FileAuthPlugin:\n    password_file: {}\n", file.display());
            let _home = load_yaml(broker, &yaml, &[]);
            assert!(connects(broker, &Connect::new(version, "c").login("alice", "secret")));
            assert!(!connects(broker, &Connect::new(version, "c").login("alice", "wrong")));
            assert!(!connects(broker, &Connect::new(version, "c").login("bob", "secret")));
            assert!(!connects(broker, &Connect::new(version, "c")), "None, and nobody who says True");
        }
    }

    scenario! {
        /// TopicTabooPlugin: three topics, for all but admin.
        fn check_topic_taboo(broker in broker(), version) {
            let yaml = format!("plugins:\n  {AUTH}.AnonymousAuthPlugin: {{}}\n  {TOPICS}.TopicTabooPlugin: {{}}\n");
            let _home = load_yaml(broker, &yaml, &[]);
            for topic in ["prohibited", "top-secret", "data/classified"] {
                assert!(is_taboo(broker, version, topic), "{topic}");
            }
            assert!(!is_taboo(broker, version, "data"));
            let mut admin = Client::connect(broker, &Connect::new(version, "admin").login("admin", ""));
            admin.subscribe("prohibited", 1);
            admin.publish(&Publish::new("prohibited", "x").qos(1));
            assert_eq!(admin.message().text(), "x");
        }
    }

    scenario! {
        /// TopicAccessControlListPlugin: lists for each user and action, and for clients without a
        /// user name.
        fn access_control_list(broker in broker(), version) {
            let yaml = "auth:\n  plugins:\n    - auth_anonymous\n  allow-anonymous: true\n\
                        topic-check:\n  enabled: true\n  plugins:\n    - topic_acl\n\
                        \x20 publish-acl:\n    alice: ['out/+', 'both']\n    anonymous: ['both', 'secret']\n\
                        \x20 subscribe-acl:\n    alice: ['in/#', 'both', 'secret']\n    anonymous: ['#']\n\
                        \x20 receive-acl:\n    alice: ['in/#', 'both']\n    anonymous: ['#']\n";
            let _home = load_yaml(broker, yaml, &[]);
            let mut nobody = Client::hello(broker, version, "nobody");
            nobody.subscribe("#", 1);
            let mut alice = Client::connect(broker, &Connect::new(version, "a").login("alice", ""));
            let denied = if version.is_5() { 0x87 } else { 0x80 };
            for (filter, code) in [("in/a/b", 1), ("both", 1), ("secret", 1), ("out/a", denied), ("public", denied)] {
                assert_eq!(alice.subscribe_all(&Subscribe::to(filter, 1)), [code], "{filter}");
            }
            for topic in ["out/a", "out/a/b", "in/a", "both", "public"] {
                alice.publish(&Publish::new(topic, "x").qos(1));
            }
            alice.publish(&Publish::new("both", "end").qos(1));
            let topics = |received: Vec<Publish>| received.into_iter().map(|received| received.topic).collect::<Vec<_>>();
            assert_eq!(topics(nobody.messages_until("end")), ["out/a", "both"]);
            assert_eq!(topics(alice.messages_until("end")), ["both"]);
            // She may subscribe to topics that she may not receive; a client without a name may not
            // publish everywhere.
            for topic in ["secret", "in/a"] {
                nobody.publish(&Publish::new(topic, "x").qos(1));
            }
            nobody.publish(&Publish::new("both", "end").qos(1));
            assert_eq!(topics(nobody.messages_until("end")), ["secret"]);
            assert!(alice.messages_until("end").is_empty());
        }
    }

    scenario! {
        /// EventLoggerPlugin and PacketLoggerPlugin, in the broker's log; most of their lines are
        /// at debug.
        fn loggers(broker in broker().config("[log]\nlevel = \"debug\""), version) {
            let yaml = format!("plugins:\n  {LOGS}.EventLoggerPlugin: {{}}\n  {LOGS}.PacketLoggerPlugin: {{}}\n");
            let _home = load_yaml(broker, &yaml, &["options.log_level=debug"]);
            let mut client = Client::hello(broker, version, "c");
            client.subscribe("t", 1);
            client.publish(&Publish::new("t", "x").qos(1));
            client.message();
            client.disconnect();
            for (level, expected) in [
                ("INFO", "### 'on_broker_client_connected' EVENT FIRED ###"),
                ("INFO", "### 'on_broker_client_disconnected' EVENT FIRED ###"),
                ("DEBUG", "### 'on_broker_client_subscribed' EVENT FIRED ###"),
                ("DEBUG", "### 'on_broker_message_received' EVENT FIRED ###"),
                ("DEBUG", "### 'on_mqtt_packet_received' EVENT FIRED ###"),
                ("DEBUG", "c <-in-- SubscribePacket("),
                ("DEBUG", "c -out-> PublishPacket("),
                ("DEBUG", "-out-> ConnackPacket("),
            ] {
                let found = |line: &str| (line.contains(expected) && line.contains(level)).then_some(());
                broker.process().wait_for_line(expected, PATIENCE, found);
            }
        }
    }

    scenario! {
        /// BrokerSysPlugin: its version is retained, and its statistics are published at its
        /// interval.
        fn sys(broker in broker(), version) {
            let yaml = "plugins:\n  amqtt.plugins.sys.broker.BrokerSysPlugin:\n    sys_interval: 1\n";
            let _home = load_yaml(broker, yaml, &[]);
            let mut client = Client::hello(broker, version, "c");
            client.publish(&Publish::new("t", "x").qos(1));
            client.subscribe("$SYS/broker/#", 0);
            let mut of = |topic: &str| loop {
                let received = client.message();
                if received.topic == format!("$SYS/broker/{topic}") {
                    break received;
                }
            };
            let kept = of("version");
            assert!(kept.retain && kept.text().starts_with("aMQTT version 0.12"), "{kept:?}");
            assert_eq!(of("messages/publish/received").text(), "1");
            assert_eq!(of("messages/subscriptions/count").text(), "1");
            assert_eq!(of("clients/connected").text(), "1");
        }
    }
}

/// Plugins that learn from a login, or from the next event, what a client may do; some wait until a
/// file exists.
const LATE: &str = r#"
import asyncio, os
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin
from grapnel_exhook._clients import Clients

tables, describe = {}, Clients.describe

def note(self, *about):
    tables[id(self)] = self
    return describe(self, *about)

Clients.describe = note

async def gate():
    print("waits for the gate", flush=True)
    while not os.path.exists("GATE"):
        await asyncio.sleep(0.005)

class Login(BaseAuthPlugin):
    async def authenticate(self, *, session):
        known = sum(len(table._now) for table in tables.values())
        print(f"{session.username} is one of {known}", flush=True)
        goes_on = session.username == "resumes" and "role" in session.attributes
        if session.username == "login" or goes_on:
            await gate()
        session.attributes["role"] = "admin" if session.username == "login" or goes_on else "user"
        return session.username != "refused"

class Events(BasePlugin):
    async def on_broker_client_connected(self, *, client_id, client_session):
        if client_session.username == "event":
            await gate()
            client_session.attributes["role"] = "admin"

class Role(BaseTopicPlugin):
    async def topic_filtering(self, *, session, topic, action):
        return session.attributes.get("role") == "admin"

class Grants(BaseTopicPlugin):
    async def topic_filtering(self, *, session, topic, action):
        if topic == "slow":
            await asyncio.sleep(1)
        if topic == "grant":
            session.attributes["granted"] = True
        return bool(session.attributes.get("granted"))

class Bans(BaseTopicPlugin):
    async def topic_filtering(self, *, session, topic, action):
        if topic == "ban":
            session.attributes["banned"] = True
        return not session.attributes.get("banned")
"#;

/// Loads some of them.
fn load_late(broker: &Broker, names: &[&str]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let gate = home.path().join("gate");
    std::fs::write(home.path().join("late.py"), LATE.replace("GATE", gate.to_str().unwrap())).unwrap();
    let names = names.iter().map(|name| format!("  late.{name}: {{}}\n")).collect::<String>();
    let file = home.path().join("amqtt.yaml");
    std::fs::write(&file, format!("plugins:\n{names}")).unwrap();
    load(broker, &["driver=amqtt".to_owned(), format!("config=\"{}\"", file.display())]);
    home
}

fn may(client: &mut Client, topic: &str) -> bool {
    client.publish(&Publish::new(topic, "x").qos(1)) & 0x80 == 0
}

/// Answers of the old worker after the handover of a reload reach the new one: for logins that the
/// old worker decides then, one of which resumes a session, and for a client that has just
/// connected.
#[test]
fn late_answers_of_the_old_worker_reach_the_new_one() {
    let broker = broker().config("[limits]\nplugin_thread_join_ms = 50").start();
    let home = load_late(&broker, &["Login", "Events", "Role"]);
    let login = |name: &str| Connect::new(Version::V5, name).login(name, "p");
    let mut event = Client::connect(&broker, &login("event"));
    Client::connect(&broker, &login("resumes").persistent()).disconnect();
    let [mut entering, mut resuming] = [login("login"), login("resumes").persistent()].map(|connect| {
        let mut client = Client::dial(&broker, Version::V5);
        client.send(&connect.encode());
        client
    });
    broker
        .process()
        .wait_for_lines("all wait", 3, PATIENCE, |line| line.contains("waits for the gate").then_some(()));
    broker.ctl_ok(&["plugins", "reload", "exhook"]);
    assert!(!may(&mut event, "t"), "nobody has said yet that it may");
    std::fs::write(home.path().join("gate"), "open").unwrap();
    for client in [&mut entering, &mut resuming] {
        let code = client.receive_where("CONNACK", |packet| match packet {
            Packet::Connack { code, .. } => Some(*code),
            _ => None,
        });
        assert_eq!(code, 0);
        assert!(may(client, "t"), "as the old worker has said with its answer");
    }
    let began = Instant::now();
    while !may(&mut event, "t") {
        assert!(began.elapsed() < PATIENCE, "what the old worker has said late is lost");
    }
}

/// Refused clients leave nothing in the worker.
#[test]
fn refused_clients_are_forgotten() {
    let broker = broker().start();
    let _home = load_late(&broker, &["Login"]);
    for n in 0..10 {
        let connect = Connect::new(Version::V5, &format!("c{n}")).login("refused", "p");
        assert_ne!(Client::attempt(&broker, &connect).1.code, 0);
    }
    let _last = Client::connect(&broker, &Connect::new(Version::V5, "last").login("last", "p"));
    broker.process().wait_for_line("the worker knows nobody else", PATIENCE, |line| {
        line.contains("last is one of 1 ").then_some(())
    });
}

/// Plugins that only filter topics, and handle no login, have the owner of a session that is older
/// than their worker.
#[test]
fn a_worker_without_login_plugins_has_the_owner_of_a_resumed_session() {
    let broker = broker().start();
    let _home = load_late(&broker, &["Bans"]);
    let connect = Connect::new(Version::V5, "c").login("ann", "p").persistent();
    let mut client = Client::connect(&broker, &connect);
    assert!(may(&mut client, "a") && !may(&mut client, "ban") && !may(&mut client, "a"));
    client.disconnect();
    broker.ctl_ok(&["plugins", "reload", "exhook"]);
    let mut client = Client::connect(&broker, &connect);
    assert!(!may(&mut client, "a"), "the session goes on");
    client.disconnect();
    let mut client = Client::connect(&broker, &Connect::new(Version::V5, "c").login("ann", "p"));
    assert!(may(&mut client, "a"), "another one begins");
}

/// Data that plugins store with a session does not reach another session, also if the session ends
/// while exhook is not notified and another user begins one with its client identifier. A client
/// that stays connected keeps its data. `out` stops the notifications, `back` restarts them.
fn sessions_that_end_unseen_leave_nothing(broker: &Broker, out: impl Fn(&Broker), back: impl Fn(&Broker)) {
    let _home = load_late(broker, &["Grants"]);
    let of = |name: &str, user: &str| Connect::new(Version::V5, name).login(user, "p");
    let mut ann = Client::connect(broker, &of("c", "ann").persistent());
    let mut stays = Client::connect(broker, &of("stays", "ann"));
    assert!([&mut ann, &mut stays].into_iter().all(|client| may(client, "grant") && may(client, "a")));
    ann.disconnect();
    out(broker);
    Client::connect(broker, &of("c", "ann")).disconnect();
    Client::connect(broker, &of("c", "eve").persistent()).disconnect();
    back(broker);
    let mut eve = Client::connect(broker, &of("c", "eve").persistent());
    assert!(!may(&mut eve, "a"), "the worker takes her session for another one");
    assert!(may(&mut stays, "a"));
    assert!(!may(&mut Client::connect(broker, &of("stays", "ann")), "a"), "another session");
}

#[test]
fn sessions_that_end_while_exhook_is_disabled_leave_nothing() {
    let switch =
        |what: &'static str| move |broker: &Broker| drop(broker.ctl_ok(&["plugins", what, "exhook"]));
    sessions_that_end_unseen_leave_nothing(&broker().start(), switch("disable"), switch("enable"));
}

#[test]
fn sessions_that_end_while_the_driver_is_disabled_leave_nothing() {
    let switch = |what: &'static str| {
        move |broker: &Broker| drop(broker.ctl_ok(&["exhook", "drivers", what, "amqtt"]))
    };
    sessions_that_end_unseen_leave_nothing(&broker().start(), switch("disable"), switch("enable"));
}

/// Unmounts the hooks of exhook that `which` selects, or all, or mounts them again.
fn mount(broker: &Broker, what: &str, which: impl Fn(&str) -> bool) {
    let hooks = broker.ctl_json(&["plugins", "show", "exhook"])["hooks"].clone();
    let text = |hook: &Value, key: &str| hook[key].as_str().unwrap().to_owned();
    let hooks = hooks.as_array().unwrap().iter().map(|hook| (text(hook, "point"), text(hook, "name")));
    for (point, name) in hooks.filter(|(point, _)| which(point)) {
        broker.ctl_ok(&["hooks", what, "exhook", &point, &name]);
    }
}

#[test]
fn sessions_that_end_while_all_hooks_are_unmounted_leave_nothing() {
    let all = |what: &'static str| move |broker: &Broker| mount(broker, what, |_| true);
    sessions_that_end_unseen_leave_nothing(&broker().start(), all("unmount"), all("mount"));
}

/// The hooks that notify exhook of the begin and end of sessions, while it still authorizes
/// clients.
#[test]
fn sessions_that_end_while_the_session_hooks_are_unmounted_leave_nothing() {
    let about = |point: &str| {
        point.starts_with("session.") || ["client.connack", "client.connected"].contains(&point)
    };
    let those = |what: &'static str| move |broker: &Broker| mount(broker, what, about);
    let back = |broker: &Broker| {
        let mut eve = Client::connect(broker, &Connect::new(Version::V5, "c").login("eve", "p").persistent());
        assert!(!may(&mut eve, "a"), "the worker has heard of her no more than before");
        eve.disconnect();
        those("mount")(broker);
    };
    sessions_that_end_unseen_leave_nothing(&broker().start(), those("unmount"), back);
}

/// While those hooks and the one at client.connect are out, only the number of the session says that
/// another one has begun under a client identifier.
#[test]
fn sessions_that_begin_and_end_unseen_are_told_apart() {
    let broker = broker().start();
    let _home = load_late(&broker, &["Grants"]);
    mount(&broker, "unmount", |point| {
        point.starts_with("session.")
            || ["client.connect", "client.connack", "client.connected"].contains(&point)
    });
    let of = |user: &str| Connect::new(Version::V5, "c").login(user, "p");
    let mut ann = Client::connect(&broker, &of("ann").persistent());
    assert!(!may(&mut ann, "a") && may(&mut ann, "grant") && may(&mut ann, "a"));
    ann.disconnect();
    let mut ann = Client::connect(&broker, &of("ann").persistent());
    assert!(may(&mut ann, "a"), "her session goes on");
    ann.disconnect();
    Client::connect(&broker, &of("ann")).disconnect();
    let mut eve = Client::connect(&broker, &of("eve").persistent());
    assert!(!may(&mut eve, "a"), "the worker takes her session for another one");
}

/// While exhook is tripped, until this has been done.
fn sessions_that_end_while_it_is_tripped_leave_nothing(back: &[&str]) {
    let broker = broker().config("[limits]\nbreaker_faults_max = 1").start();
    let set = |broker: &Broker, more: &[&str]| {
        let hook = ["hooks", "set", "exhook", "client.authorize", "client_authorize"];
        broker.ctl_ok(&[&hook[..], more].concat());
    };
    let trip = |broker: &Broker| {
        set(broker, &["--deadline-ms", "100", "--fault-policy", "ignore"]);
        let mut slow = Client::connect(broker, &Connect::new(Version::V5, "slow").login("slow", "p"));
        may(&mut slow, "slow");
        broker.process().wait_for_line("exhook is tripped", PATIENCE, |line| {
            line.contains("the plugin is tripped").then_some(())
        });
        set(broker, &["--clear"]);
    };
    sessions_that_end_unseen_leave_nothing(&broker, trip, |broker: &Broker| drop(broker.ctl_ok(back)));
}

#[test]
fn sessions_that_end_while_exhook_is_tripped_leave_nothing() {
    sessions_that_end_while_it_is_tripped_leave_nothing(&["plugins", "rearm", "exhook"]);
}

/// The version that takes over has missed the same sessions as the tripped one.
#[test]
fn sessions_that_end_while_exhook_is_tripped_leave_nothing_after_a_reload() {
    sessions_that_end_while_it_is_tripped_leave_nothing(&["plugins", "reload", "exhook"]);
}

/// While only the hook at client.connack is unmounted, what a login gave is still stored for the next
/// worker.
#[test]
fn what_a_login_gave_is_kept_without_the_hook_at_connack() {
    let broker = broker().start();
    let home = load_late(&broker, &["Login", "Role"]);
    std::fs::write(home.path().join("gate"), "open").unwrap();
    let connect = |name: &str| Connect::new(Version::V5, name).login("login", "p");
    // The first call after this is for another process.
    mount(&broker, "unmount", |point| point == "client.connack");
    let mut client = Client::connect(&broker, &connect("c"));
    assert!(may(&mut client, "t"));
    broker.ctl_ok(&["plugins", "reload", "exhook"]);
    assert!(may(&mut client, "t"), "the next worker has what its login gave");
}
