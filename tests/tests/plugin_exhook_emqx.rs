//! EMQX's hooks through exhook on a live broker: each point with its arguments, each verdict with its effect, and each failure
//! with its policy. Hooks are on the real `emqx-extension-sdk`; what is expected is what EMQX 4.1 documents.

#![allow(clippy::unwrap_used)]

mod exhook_common;

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use exhook_common::{Calls, broker, folder, load, load_refused};
use grapnel_tests::wire::property::{SESSION_EXPIRY, USER_PROPERTY, Value as Property};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Subscribe, Version, Will, paho, scenario};
use serde_json::{Value, json};

fn settings(module: &str, more: &[&str]) -> Vec<String> {
    let mut settings = vec![
        "driver=python3".to_owned(),
        format!("path=\"{}\"", folder().display()),
        format!("init_module={module}"),
    ];
    settings.extend(more.iter().map(|setting| (*setting).to_owned()));
    settings
}

/// The state that the SDK hands over: an empty tuple.
fn state() -> Value {
    json!({"tuple": []})
}

/// A clientinfo: these keys in this order, text for what is absent.
fn clientinfo(broker: &Broker, client_id: &str, username: &str, password: &str, anonymous: bool) -> Value {
    json!({"record": [
        ["node", "NODE"], ["clientid", client_id], ["username", username], ["password", password],
        ["peerhost", "127.0.0.1"], ["sockport", broker.address().port()], ["protocol", "mqtt"],
        ["mountpoint", ""], ["is_superuser", false], ["anonymous", anonymous],
    ]})
}

fn conninfo(broker: &Broker, version: Version, client_id: &str, username: &str, keep_alive_s: u16) -> Value {
    json!({"record": [
        ["node", "NODE"], ["clientid", client_id], ["username", username], ["peerhost", "127.0.0.1"],
        ["sockport", broker.address().port()], ["proto_name", version.name()], ["proto_ver", version.level()],
        ["keepalive", keep_alive_s],
    ]})
}

/// A message; the SDK calls what EMQX calls `from` otherwise, as that is a keyword of Python's.
fn message(qos: u8, from: &str, topic: &str, payload: &Value) -> Value {
    json!({"record": [
        ["node", "NODE"], ["id", "ID"], ["qos", qos], ["from_clientid", from], ["topic", topic],
        ["payload", payload], ["timestamp", "NOW"],
    ]})
}

/// The same with what no test can know replaced, once it has been looked at: the node's name, a message's identifier (hex) and its
/// time (milliseconds).
#[track_caller]
fn known(mut value: Value) -> Value {
    let pairs = match &mut value {
        Value::Object(map) => map.get_mut("record").and_then(Value::as_array_mut),
        Value::Array(items) => {
            return items.drain(..).map(known).collect();
        }
        _ => None,
    };
    for pair in pairs.into_iter().flatten() {
        let name = pair[0].as_str().unwrap().to_owned();
        match name.as_str() {
            "node" => {
                assert!(pair[1].as_str().is_some_and(|node| !node.is_empty()), "{pair}");
                pair[1] = "NODE".into();
            }
            "id" => {
                let id = pair[1].as_str().unwrap();
                assert!(!id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit()), "{pair}");
                pair[1] = "ID".into();
            }
            "timestamp" => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
                assert!(now.abs_diff(u128::from(pair[1].as_u64().unwrap())) < 60_000, "{pair}");
                pair[1] = "NOW".into();
            }
            _ => {}
        }
    }
    value
}

/// The next calls must be these, with these arguments.
#[track_caller]
fn expect<const N: usize>(calls: &Calls<'_>, expected: [(&str, Value); N]) {
    let came = calls.expect(std::array::from_fn::<_, N, _>(|at| expected[at].0));
    for (came, (hook, arguments)) in came.into_iter().zip(expected) {
        assert_eq!(known(came), arguments, "{hook}");
    }
}

/// A connection by a client of its own name and nothing else, with the calls that it makes.
#[track_caller]
fn enter(broker: &Broker, calls: &Calls<'_>, connect: &Connect) -> Client {
    let client = Client::connect(broker, connect);
    calls.expect([
        "client_connect",
        "client_authenticate",
        "client_connack",
        "client_connected",
        "session_created",
    ]);
    client
}

scenario! {
    /// The way of a client in and out.
    fn clients_are_told(broker in broker(), version) {
        load(broker, &settings("emqx_spy", &[]));
        let calls = Calls::of(broker);
        let mut connect = Connect::new(version, "c").login("alice", "secret").keep_alive(77);
        let mut props = json!({"dict": []});
        if version.is_5() {
            connect = connect.with(USER_PROPERTY, Property::Pair("k".into(), "v".into()));
            props = json!({"dict": [["User-Property", [{"tuple": ["k", "v"]}]]]});
        }
        let mut client = Client::connect(broker, &connect);
        let about = |password| clientinfo(broker, "c", "alice", password, password == "secret");
        let conn = conninfo(broker, version, "c", "alice", 77);
        expect(&calls, [
            ("client_connect", json!([conn, props, state()])),
            // No hook before has let it in.
            ("client_authenticate", json!([about("secret"), false, state()])),
            ("client_connack", json!([conn, {"dict": []}, state()])),
            ("client_connected", json!([about(""), state()])),
            ("session_created", json!([about(""), state()])),
        ]);

        let mut subscribe = Subscribe::to("t/+", if version.is_5() { 0x1D } else { 1 });
        let mut props = json!({"dict": []});
        if version.is_5() {
            subscribe = subscribe.with(USER_PROPERTY, Property::Pair("k".into(), "v".into()));
            props = json!({"dict": [["User-Property", [{"tuple": ["k", "v"]}]]]});
        }
        assert_eq!(client.subscribe_all(&subscribe), [1]);
        // No Local, Retain As Published and Retain Handling 1, where there are such.
        let (nl, rap, rh) = if version.is_5() { (1, 1, 1) } else { (0, 0, 0) };
        let (came, arguments) = calls.next();
        assert_eq!((came.as_str(), known(arguments.clone())[0].clone()), ("client_subscribe", about("")));
        assert_eq!((&arguments[1], &arguments[3]), (&props, &state()));
        let filters = &arguments[2]["record"];
        assert_eq!(filters[0][0], "t/+");
        assert!(filters[0][1].as_array().unwrap().contains(&json!({"tuple": [{"bytes": "716f73"}, 1]})), "{filters}");
        expect(&calls, [
            ("client_check_acl", json!([about(""), "subscribe", "t/+", true, state()])),
            ("session_subscribed", json!([
                about(""), "t/+",
                {"record": [["is_new", true], ["nl", nl], ["qos", 1], ["rap", rap], ["rh", rh]]}, state()
            ])),
        ]);
        client.subscribe_all(&subscribe);
        let [.., again] = calls.expect(["client_subscribe", "client_check_acl", "session_subscribed"]);
        assert_eq!(again[2]["record"][0], json!(["is_new", false]));

        client.unsubscribe(&["t/+"]);
        let [unsubscribe, unsubscribed] = calls.expect(["client_unsubscribe", "session_unsubscribed"]).map(known);
        assert_eq!((&unsubscribe[0], &unsubscribe[1]), (&about(""), &json!({"dict": []})));
        assert_eq!((&unsubscribe[2]["record"][0][0], &unsubscribe[3]), (&json!("t/+"), &state()));
        assert_eq!(unsubscribed, json!([about(""), "t/+", state()]));

        client.disconnect();
        expect(&calls, [("client_disconnected", json!([about(""), "normal", state()]))]);
        let [ended] = calls.expect(["session_terminated"]).map(known);
        assert_eq!((&ended[0], &ended[2]), (&about(""), &state()));
        assert!(ended[1].as_str().is_some_and(|reason| !reason.is_empty()), "{ended}");
    }
}

scenario! {
    /// A message from one client to another, and one that nobody wants; any bytes.
    fn messages_are_told(broker in broker(), version) {
        load(broker, &settings("emqx_spy", &[]));
        let calls = Calls::of(broker);
        let mut reader = enter(broker, &calls, &Connect::new(version, "reader"));
        let mut writer = enter(broker, &calls, &Connect::new(version, "writer"));
        let about = |client_id| clientinfo(broker, client_id, "", "", true);
        reader.subscribe("t/#", 2);
        calls.expect(["client_subscribe", "client_check_acl", "session_subscribed"]);
        for (payload, shown) in [
            (&b"hello"[..], json!("hello")),
            (b"", json!("")),
            (b"\xFF\x00\xC3\x28", json!({"surrogates of": "ff00c328"})),
        ] {
            for qos in [1, 2] {
                assert_eq!(writer.publish(&Publish::new("t/a", payload).qos(qos)), 0);
                assert_eq!(reader.message().payload, payload);
                let message = message(qos, "writer", "t/a", &shown);
                expect(&calls, [
                    ("client_check_acl", json!([about("writer"), "publish", "t/a", true, state()])),
                    ("message_publish", json!([message, state()])),
                    ("message_delivered", json!([about("reader"), message, state()])),
                    ("message_acked", json!([about("reader"), message, state()])),
                ]);
            }
        }
        writer.publish(&Publish::new("elsewhere", "x").qos(1));
        let message = message(1, "writer", "elsewhere", &json!("x"));
        expect(&calls, [
            ("client_check_acl", json!([about("writer"), "publish", "elsewhere", true, state()])),
            ("message_publish", json!([message, state()])),
            ("message_dropped", json!([message, "no_subscribers", state()])),
        ]);
    }
}

scenario! {
    /// A session that is taken over, resumed, thrown away, and that outlives its connection for a second.
    fn sessions_are_told(broker in broker(), version) {
        load(broker, &settings("emqx_spy", &[]));
        let calls = Calls::of(broker);
        let about = json!([clientinfo(broker, "s", "", "", true), state()]);
        let persistent = Connect::new(version, "s").persistent();
        let mut first = enter(broker, &calls, &persistent);

        let mut second = Client::connect(broker, &persistent);
        first.end();
        let came = five_and_a_disconnect(&calls, "s");
        assert_eq!(came["session_takeovered"], about);
        assert_eq!(came["session_resumed"], about);

        let clean = Connect { clean: true, ..persistent.clone() };
        let third = Client::connect(broker, &clean);
        second.end();
        let came = five_and_a_disconnect(&calls, "s");
        assert_eq!(came["session_discarded"], about);
        assert_eq!(came["session_created"], about);

        third.vanish();
        let [gone] = calls.expect(["client_disconnected"]).map(known);
        assert_eq!((&gone[0], &gone[2]), (&about[0], &state()));
        assert!(gone[1].as_str().is_some_and(|reason| !reason.is_empty() && reason != "normal"), "{gone}");
        if !version.is_5() {
            // Clean session 1: it ends with its connection.
            let [ended] = calls.expect(["session_terminated"]).map(known);
            assert_eq!((&ended[0], &ended[2]), (&about[0], &state()));
        }
    }
}

/// The calls about one client that comes while it is there: those of its arrival, and the end of its former connection. What
/// happens to that is told on its own shard, so the order between the two is open; that of the arrival is not.
#[track_caller]
fn five_and_a_disconnect(calls: &Calls<'_>, client_id: &str) -> HashMap<String, Value> {
    let came: Vec<(String, Value)> = (0..7).map(|_| calls.next()).collect();
    let names: Vec<_> =
        came.iter().map(|(hook, _)| hook.as_str()).filter(|hook| *hook != "client_disconnected").collect();
    let order =
        ["client_connect", "client_authenticate", names[2], "client_connack", "client_connected", names[5]];
    assert_eq!(names, order, "{client_id}");
    came.into_iter().map(|(hook, arguments)| (hook, known(arguments))).collect()
}

scenario! {
    /// A session that nobody has come back to for its expiry interval.
    fn expired_sessions_are_told(broker in broker()) {
        load(broker, &settings("emqx_spy", &[]));
        let calls = Calls::of(broker);
        let mut connect = Connect::new(Version::V5, "s");
        connect.properties.push(SESSION_EXPIRY, Property::U32(1));
        enter(broker, &calls, &connect).vanish();
        let [_, ended] = calls.expect(["client_disconnected", "session_terminated"]).map(known);
        assert_eq!(ended, json!([clientinfo(broker, "s", "", "", true), "expired", state()]));
    }
}

scenario! {
    /// A will is asked about as a publish, and published as one.
    fn wills_are_told(broker in broker(), version) {
        load(broker, &settings("emqx_spy", &[]));
        let calls = Calls::of(broker);
        let connect = Connect::new(version, "w").will(Will::new("w/t", "gone"));
        let client = Client::connect(broker, &connect);
        let about = clientinfo(broker, "w", "", "", true);
        let [_, _, asked, ..] = calls.expect([
            "client_connect", "client_authenticate", "client_check_acl", "client_connack", "client_connected",
            "session_created",
        ]);
        assert_eq!(known(asked), json!([about, "publish", "w/t", true, state()]));
        client.vanish();
        let published = calls.until("message_publish", |_| true);
        assert_eq!(known(published), json!([message(0, "w", "w/t", &json!("gone")), state()]));
        let dropped = calls.until("message_dropped", |_| true);
        assert_eq!(known(dropped), json!([message(0, "w", "w/t", &json!("gone")), "no_subscribers", state()]));
    }
}

/// What hooks of `emqx_verdicts` can be told to do that is a failure; `slow` takes longer than `call_timeout`.
const FAILURES: [&str; 7] = ["error", "raise", "text", "wrong", "number", "list", "slow"];

/// Settings of the tests that fail calls.
fn verdicts(policy: Option<&str>) -> Vec<String> {
    let policy = policy.map(|policy| format!("failed_action={policy}"));
    let mut more = vec!["call_timeout=500ms"];
    more.extend(policy.as_deref());
    settings("emqx_verdicts", &more)
}

/// A worker that has slept through `call_timeout` is started anew; what follows is asked of the new one.
struct Restarts<'b> {
    broker: &'b Broker,
    ready: usize,
}

impl<'b> Restarts<'b> {
    fn of(broker: &'b Broker) -> Restarts<'b> {
        Restarts { broker, ready: broker.process().lines(is_ready).len() }
    }

    #[track_caller]
    fn after(&mut self, what: &str) {
        if what == "slow" {
            self.ready += 1;
            self.broker.process().wait_for_lines("a worker that is back", self.ready, PATIENCE, is_ready);
        }
    }
}

fn is_ready(line: &str) -> Option<()> {
    line.contains("python3/0 is ready").then_some(())
}

scenario! {
    /// What on_client_authenticate answers decides about the login, and a failure is decided by `failed_action`.
    fn logins_end_as_the_hook_says(broker in broker(), version) {
        let refused = |code: u8| if version.is_5() { code == 0x87 } else { code == 5 };
        let login = |name: &str| Client::attempt(broker, &Connect::new(version, "c").login(name, "p")).1.code;
        for policy in [None, Some("deny"), Some("ignore")] {
            load(broker, &verdicts(policy));
            let mut restarts = Restarts::of(broker);
            assert_eq!(login("true"), 0);
            assert!(refused(login("false")));
            // As if there were no hook: who gives no name comes in, who gives one that nobody vouches for does not.
            assert_eq!(Client::attempt(broker, &Connect::new(version, "c")).1.code, 0);
            let unanswered = login("none");
            assert!(unanswered != 0 && (!version.is_5() || unanswered == 0x86), "{unanswered:#x}");
            for failure in FAILURES {
                let code = login(failure);
                match policy {
                    Some("ignore") => assert_eq!(code, unanswered, "{failure}"),
                    _ => assert!(refused(code), "{failure}: {code:#x}"),
                }
                restarts.after(failure);
            }
            broker.ctl_ok(&["plugins", "unload", "exhook"]);
        }
    }
}

scenario! {
    /// What on_client_check_acl answers decides about publishes, subscriptions and wills, likewise.
    fn rights_are_as_the_hook_says(broker in broker(), version) {
        for policy in [None, Some("deny"), Some("ignore")] {
            load(broker, &verdicts(policy));
            let mut restarts = Restarts::of(broker);
            let mut reader = Client::connect(broker, &Connect::new(version, "reader"));
            reader.subscribe("acl/#", 1);
            let mut client = Client::connect(broker, &Connect::new(version, "c"));
            for what in ["true", "false", "none"].into_iter().chain(FAILURES) {
                let allowed = match what {
                    "true" | "none" => true,
                    "false" => false,
                    _ => policy == Some("ignore"),
                };
                let topic = format!("acl/{what}");
                let code = client.publish(&Publish::new(&topic, what).qos(1));
                assert_eq!(code, if allowed || !version.is_5() { 0 } else { 0x87 }, "publish {what}");
                restarts.after(what);
                // The same publisher's next: what was denied has not been published.
                assert_eq!(client.publish(&Publish::new("acl/end", "end").qos(1)), 0);
                let came: Vec<_> = reader.messages_until("end").iter().map(Publish::text).collect();
                assert_eq!(came, if allowed { vec![what] } else { vec![] }, "publish {what}");

                let codes = client.subscribe_all(&Subscribe::to(&topic, 1));
                let refused = if version.is_5() { 0x87 } else { 0x80 };
                assert_eq!(codes, [if allowed { 1 } else { refused }], "subscribe {what}");
                restarts.after(what);
                client.unsubscribe(&[&topic]);

                let willing = Connect::new(version, "w").will(Will::new(&topic, "will"));
                let (willing, connack) = Client::attempt(broker, &willing);
                let refused = if version.is_5() { 0x87 } else { 5 };
                assert_eq!(connack.code, if allowed { 0 } else { refused }, "will {what}");
                if allowed {
                    willing.disconnect();
                }
                restarts.after(what);
            }
            broker.ctl_ok(&["plugins", "unload", "exhook"]);
        }
    }
}

scenario! {
    /// What on_message_publish answers changes topic, payload and QoS; a failure leaves the message as it is, or denies it.
    fn messages_are_changed_as_the_hook_says(broker in broker(), version) {
        for policy in [None, Some("ignore"), Some("deny")] {
            load(broker, &verdicts(policy));
            let mut restarts = Restarts::of(broker);
            let mut client = Client::connect(broker, &Connect::new(version, "c"));
            client.subscribe("#", 2);
            let changes: [(&str, &str, &[u8], u8); 8] = [
                ("none", "message/none", b"as it was", 1),
                ("nothing", "message/nothing", b"as it was", 1),
                ("topic", "changed/topic", b"as it was", 1),
                ("bytes", "changed/topic", b"as it was", 1),
                ("payload", "message/payload", b"\xFF\x00", 1),
                ("surrogates", "message/surrogates", b"as it was\xFF", 1),
                ("text payload", "message/text payload", "ä".as_bytes(), 1),
                ("qos", "message/qos", b"as it was", 0),
            ];
            for (what, topic, payload, qos) in changes.into_iter().chain([("all", "changed/all", &b"p"[..], 2)]) {
                assert_eq!(client.publish(&Publish::new(&format!("message/{what}"), "as it was").qos(1)), 0);
                let came = client.message();
                assert_eq!((came.topic.as_str(), &came.payload[..], came.qos), (topic, payload, qos), "{what}");
            }
            // A plain bool is an answer of verdicts; here it is a wrong type.
            for what in FAILURES.into_iter().chain(["true", "wrong qos", "wrong pairs"]) {
                let (topic, denied) = (format!("message/{what}"), policy == Some("deny"));
                let code = client.publish(&Publish::new(&topic, what).qos(1));
                assert_eq!(code, if denied && version.is_5() { 0x83 } else { 0 }, "{what}");
                restarts.after(what);
                client.publish(&Publish::new("end", "end").qos(1));
                let came = client.messages_until("end");
                let came: Vec<_> = came.iter().map(|came| (came.topic.as_str(), came.text(), came.qos)).collect();
                let expected = if denied { vec![] } else { vec![(topic.as_str(), what.to_owned(), 1)] };
                assert_eq!(came, expected, "{what}");
            }
            broker.ctl_ok(&["plugins", "unload", "exhook"]);
        }
    }
}

/// A module in a folder of its own, with what is in it.
fn module(source: &str) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.py"), source).unwrap();
    std::fs::copy(exhook_common::folder().join("told.py"), folder.path().join("told.py")).unwrap();
    let path = format!("path=\"{}\"", folder.path().display());
    (folder, vec!["driver=python3".to_owned(), path, "init_module=own".to_owned()])
}

scenario! {
    /// Without the SDK: functions of the module by their path, records as lists of (bytes, value), a state of its own, return codes
    /// at CONNACK where the function takes them, and topics for each hook. A topic that does not match is no failure.
    fn hooks_need_no_sdk(broker in broker(), version) {
        let (_folder, mut settings) = module(r#"
from told import told

class Inner:
    @staticmethod
    def published(message, state):
        told("message_publish", message, state)
        raise RuntimeError("on purpose")

def connack(conninfo, rc, props, state):
    told("client_connack", [key for key, _ in conninfo], rc, props, state)

def delivered(clientinfo, message, state):
    told("message_delivered", dict(message)[b"topic"], state)

def acked(clientinfo, message, state):
    told("message_acked", dict(message)[b"topic"], state)

def dropped(message, reason, state):
    told("message_dropped", dict(message)[b"topic"], state)

def init():
    return 0, ([
        ("message_publish", "own", "Inner.published", [("topics", ["wanted/#"])]),
        ("client_connack", "own", "connack", []),
        ("message_delivered", "own", "delivered", [("topics", ["wanted/+", "also"])]),
        ("message_acked", "own", "acked", [("topics", [])]),
        ("message_dropped", "own", "dropped", [("topics", [b"wanted/dropped"])]),
    ], {"made": "by init"})

def deinit():
    told("deinit")
"#);
        settings.push("failed_action=deny".to_owned());
        load(broker, &settings);
        let calls = Calls::of(broker);
        let state = json!({"dict": [["made", "by init"]]});
        let mut client = Client::connect(broker, &Connect::new(version, "c"));
        let [connack] = calls.expect(["client_connack"]);
        let keys = ["node", "clientid", "username", "peerhost", "sockport", "proto_name", "proto_ver", "keepalive"];
        let keys: Vec<_> = keys.iter().map(|key| json!({"bytes": hex(key)})).collect();
        assert_eq!(connack, json!([keys, "success", {"dict": []}, state]));

        client.subscribe("#", 1);
        assert_eq!(client.publish(&Publish::new("other", "x").qos(1)), 0, "no hook asks for it: no failure");
        assert_eq!(client.message().topic, "other");
        assert_eq!(client.publish(&Publish::new("also", "x").qos(1)), 0);
        assert_eq!(client.message().topic, "also");
        let code = client.publish(&Publish::new("wanted/a/b", "x").qos(1));
        assert_eq!(code, if version.is_5() { 0x83 } else { 0 });
        client.unsubscribe(&["#"]);
        client.publish(&Publish::new("lost", "x"));
        client.ping();
        broker.ctl_ok(&["plugins", "unload", "exhook"]);
        // Acknowledgements of any topic; those that are not told of were not asked for.
        let mut came = Vec::new();
        loop {
            let (hook, arguments) = calls.next();
            if hook == "deinit" {
                break;
            }
            came.push((hook, arguments));
        }
        came.iter_mut().filter(|(hook, _)| hook == "message_publish").for_each(|(_, arguments)| {
            assert_eq!(arguments[1], state);
            *arguments = arguments[0][4].clone();
        });
        assert_eq!(came, [
            ("message_acked".to_owned(), json!(["other", state])),
            ("message_delivered".to_owned(), json!(["also", state])),
            ("message_acked".to_owned(), json!(["also", state])),
            ("message_publish".to_owned(), json!({"tuple": [{"bytes": hex("topic")}, "wanted/a/b"]})),
        ]);
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

scenario! {
    /// What cannot be loaded says why, down to the end of the traceback, and nothing of it is asked.
    fn what_fails_to_load_is_not_there(broker in broker()) {
        let hook = "def h(message, state): raise RuntimeError('asked')\n";
        let spec = "[('message_publish', 'own', 'h', [])]";
        for (source, says) in [
            ("import nowhere_to_be_found\n".to_owned(), "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
            ("def f(:\n".to_owned(), "SyntaxError: invalid syntax"),
            (format!("{hook}def init():\n    return {spec}[9]\n"), "IndexError: list index out of range"),
            (format!("{hook}def init():\n    return 1, 'the database is away'\n"), "the database is away"),
            (format!("{hook}def init():\n    return 0, ([('message_publish', 'own', 'gone')], ())\n"), "gone"),
            (format!("{hook}def init():\n    return 0, ([('message_fly', 'own', 'h')], ())\n"), "message_fly"),
        ] {
            let (_folder, mut settings) = module(&source);
            settings.push("failed_action=deny".to_owned());
            let said = load_refused(broker, &settings);
            assert!(said.contains(says), "{says:?} is not in {said}");
            let hooks = broker.ctl_ok(&["hooks", "list"]);
            assert!(!hooks.contains("exhook"), "{hooks}");
            let mut client = Client::hello(broker, Version::V5, "c");
            client.subscribe("t", 0);
            assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
            assert_eq!(client.message().text(), "x");
        }
        let (_folder, settings) = module(&format!("{hook}def init():\n    return 0, ({spec}, ())\n"));
        load(broker, &settings);
        assert!(broker.ctl_ok(&["hooks", "list"]).contains("exhook"));
    }
}

scenario! {
    /// Three workers are three processes with a module and a state each, and a client always meets the same one.
    fn each_client_has_its_worker(broker in broker()) {
        let (_folder, mut settings) = module(r#"
import os
from told import told

def connected(clientinfo, state):
    state.append(dict(clientinfo)[b"clientid"])
    told("client_connected", os.getpid(), state)

def init():
    return 0, ([("client_connected", "own", "connected", [])], [])

def deinit():
    told("deinit", os.getpid())
"#);
        settings.push("pool_size=3".to_owned());
        load(broker, &settings);
        let calls = Calls::of(broker);
        let mut met: HashMap<u64, Vec<String>> = HashMap::new();
        for name in (0..30).chain(0..30) {
            let name = format!("client-{name}");
            Client::hello(broker, Version::V5, &name).disconnect();
            let [arguments] = calls.expect(["client_connected"]);
            let seen = met.entry(arguments[0].as_u64().unwrap()).or_default();
            seen.push(name);
            assert_eq!(arguments[1], json!(seen), "the state of this worker, and of no other");
        }
        assert_eq!(met.len(), 3, "{met:?}");
        for names in met.values() {
            let (first, second) = names.split_at(names.len() / 2);
            assert_eq!(first, second, "each came to the same worker again");
        }
        broker.ctl_ok(&["plugins", "unload", "exhook"]);
        let ended = calls.expect(["deinit", "deinit", "deinit"]).map(|arguments| arguments[0].as_u64().unwrap());
        let ended: HashSet<_> = ended.into_iter().collect();
        assert_eq!(ended, met.keys().copied().collect());
    }
}

scenario! {
    /// EMQX's lines as they are, under its plugin's name, with the folder, the file, or a list as path.
    fn emqx_configuration_is_taken_as_it_is(broker in broker()) {
        let python = paho::python();
        let named = tempfile::tempdir().unwrap();
        let file = named.path().join("emqx_extension_hook.conf");
        let hooks = folder();
        for path in [
            hooks.display().to_string(),
            hooks.join("emqx_spy.py").display().to_string(),
            format!("{}:{}", named.path().display(), hooks.display()),
        ] {
            let lines = format!(
                "## The drivers\n\nexhook.drivers = python3\n## Search path\nexhook.drivers.python3.path = {path}\n\
                 exhook.drivers.python3.call_timeout = 5s\nexhook.drivers.python3.init_module = emqx_spy\n"
            );
            std::fs::write(&file, lines).unwrap();
            let python = format!("python=\"{}\"", python.display());
            broker.ctl_ok(&[
                "plugins", "load", "emqx_extension_hook", "--once", "--config", file.to_str().unwrap(), "--set", &python,
            ]);
            let calls = Calls::of(broker);
            enter(broker, &calls, &Connect::new(Version::V5, "c")).disconnect();
            broker.ctl_ok(&["plugins", "unload", "emqx_extension_hook"]);
        }
        std::fs::write(&file, "exhook.drivers = python2\n").unwrap();
        let said = broker.ctl_refused(&[
            "plugins", "load", "emqx_extension_hook", "--once", "--config", file.to_str().unwrap(),
        ]);
        assert!(said.contains("python2"), "{said}");
    }
}
