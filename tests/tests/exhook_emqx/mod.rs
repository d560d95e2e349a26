//! What EMQX 4.1 documents about its extension hooks, as tests of any driver that runs them: each
//! point with its arguments, each verdict with its effect, each failure with its policy. Hooks
//! print their calls (see [`Calls`]); the [`Dialect`] defines how a language shows a value.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use grapnel_tests::wire::property::{SESSION_EXPIRY, USER_PROPERTY, Value as Property};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Subscribe, Version, Will};
use serde_json::{Value, json};

use crate::exhook_common::{Calls, load};

/// The table, as tests of the file that names its dialect.
macro_rules! table {
    ($dialect:expr) => {
        grapnel_tests::scenario! {
            /// The calls for the connect and disconnect of a client.
            fn clients_are_notified(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::clients_are_notified(broker, version, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// The calls for a message between two clients, and for one without a subscriber; any
            /// bytes.
            fn messages_are_notified(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::messages_are_notified(broker, version, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// The calls for a session that is taken over, resumed, discarded, and that outlives
            /// its connection for a second.
            fn sessions_are_notified(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::sessions_are_notified(broker, version, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// The call for a session that expires.
            fn expired_sessions_are_notified(broker in $crate::exhook_common::broker()) {
                $crate::exhook_emqx::expired_sessions_are_notified(broker, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// A will is authorized as a publish, and published as one.
            fn wills_are_authorized_and_published(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::wills_are_authorized_and_published(broker, version, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// The result of on_client_authenticate decides about the login; after a failure
            /// `failed_action` decides.
            fn logins_end_as_the_hook_says(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::logins_end_as_the_hook_says(broker, version, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// The result of on_client_check_acl decides about publishes, subscriptions and wills,
            /// likewise.
            fn rights_are_as_the_hook_says(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::rights_are_as_the_hook_says(broker, version, &$dialect);
            }
        }

        grapnel_tests::scenario! {
            /// The result of on_message_publish changes topic, payload and QoS; after a failure the
            /// message is unchanged, or denied.
            fn messages_are_changed_as_the_hook_says(broker in $crate::exhook_common::broker(), version) {
                $crate::exhook_emqx::messages_are_changed_as_the_hook_says(broker, version, &$dialect);
            }
        }
    };
}
pub(crate) use table;

/// The broker's name.
const NODE: &str = "emqx@127.0.0.1";

/// A driver, the hooks written for it, and how they show their arguments.
pub struct Dialect {
    /// Its name in the configuration.
    pub driver: &'static str,
    /// Folder of its hooks.
    pub path: std::path::PathBuf,
    /// Hooks at every point that print their calls.
    pub spy: &'static str,
    /// Hooks whose answers user names and topics select.
    pub verdicts: &'static str,
    /// The hooks' name for a message's sender.
    pub from: &'static str,
    /// The result of their `init()`.
    pub state: Value,
    /// Properties: the user property `k` = `v`, or none.
    pub props: fn(bool) -> Value,
    /// Bytes that are not text, in hexadecimal.
    pub no_text: fn(&str) -> Value,
}

impl Dialect {
    /// Settings that load these hooks.
    pub fn settings(&self, module: &str, more: &[&str]) -> Vec<String> {
        let mut settings = vec![
            format!("driver={}", self.driver),
            format!("path=\"{}\"", self.path.display()),
            format!("init_module={module}"),
            format!("node={NODE}"),
        ];
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        settings
    }

    /// Settings of the tests that fail calls.
    fn verdicts(&self, policy: Option<&str>) -> Vec<String> {
        let policy = policy.map(|policy| format!("failed_action={policy}"));
        let mut more = vec!["call_timeout=1000ms"];
        more.extend(policy.as_deref());
        self.settings(self.verdicts, &more)
    }

    fn state(&self) -> Value {
        self.state.clone()
    }

    /// A message.
    fn message(&self, qos: u8, from: &str, topic: &str, payload: &Value) -> Value {
        json!({"record": [
            ["node", NODE], ["id", "ID"], ["qos", qos], [self.from, from], ["topic", topic],
            ["payload", payload], ["timestamp", "NOW"],
        ]})
    }
}

/// A clientinfo: these keys in this order, text for absent values.
fn clientinfo(broker: &Broker, client_id: &str, username: &str, password: &str, anonymous: bool) -> Value {
    json!({"record": [
        ["node", NODE], ["clientid", client_id], ["username", username], ["password", password],
        ["peerhost", "127.0.0.1"], ["sockport", broker.listener().port()], ["protocol", "mqtt"],
        ["mountpoint", ""], ["is_superuser", false], ["anonymous", anonymous],
    ]})
}

fn conninfo(broker: &Broker, version: Version, client_id: &str, username: &str, keep_alive_s: u16) -> Value {
    json!({"record": [
        ["node", NODE], ["clientid", client_id], ["username", username], ["peerhost", "127.0.0.1"],
        ["sockport", broker.listener().port()], ["proto_name", version.name()], ["proto_ver", version.level()],
        ["keepalive", keep_alive_s],
    ]})
}

/// Arguments with unpredictable values checked and replaced: a message's identifier (hex) and its
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
    let received = calls.expect(std::array::from_fn::<_, N, _>(|at| expected[at].0));
    for (received, (hook, arguments)) in received.into_iter().zip(expected) {
        assert_eq!(known(received), arguments, "{hook}");
    }
}

/// A plain connection of a client, with the calls that it causes.
#[track_caller]
pub fn enter(broker: &Broker, calls: &Calls<'_>, connect: &Connect) -> Client {
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

/// The calls for the connect and disconnect of a client.
pub fn clients_are_notified(broker: &Broker, version: Version, of: &Dialect) {
    load(broker, &of.settings(of.spy, &[]));
    let calls = Calls::of(broker);
    let mut connect = Connect::new(version, "c").login("alice", "secret").keep_alive(77);
    if version.is_5() {
        connect = connect.with(USER_PROPERTY, Property::Pair("k".into(), "v".into()));
    }
    let props = (of.props)(version.is_5());
    let mut client = Client::connect(broker, &connect);
    let about = |password| clientinfo(broker, "c", "alice", password, password == "secret");
    let conn = conninfo(broker, version, "c", "alice", 77);
    expect(
        &calls,
        [
            ("client_connect", json!([conn, props, of.state()])),
            // No earlier hook has allowed it.
            ("client_authenticate", json!([about("secret"), false, of.state()])),
            ("client_connack", json!([conn, (of.props)(false), of.state()])),
            ("client_connected", json!([about(""), of.state()])),
            ("session_created", json!([about(""), of.state()])),
        ],
    );

    let mut subscribe = Subscribe::to("t/+", if version.is_5() { 0x1D } else { 1 });
    if version.is_5() {
        subscribe = subscribe.with(USER_PROPERTY, Property::Pair("k".into(), "v".into()));
    }
    assert_eq!(client.subscribe_all(&subscribe), [1]);
    // No Local, Retain As Published and Retain Handling 1, if the version has them.
    let (nl, rap, rh) = if version.is_5() { (1, 1, 1) } else { (0, 0, 0) };
    let (received, arguments) = calls.next();
    assert_eq!((received.as_str(), known(arguments.clone())[0].clone()), ("client_subscribe", about("")));
    assert_eq!((&arguments[1], &arguments[3]), (&props, &of.state()));
    let filters = &arguments[2]["record"];
    assert_eq!(filters[0][0], "t/+");
    assert_eq!(filters[0][1], 1, "{filters}: the QoS, a number");
    expect(
        &calls,
        [
            ("client_check_acl", json!([about(""), "subscribe", "t/+", true, of.state()])),
            (
                "session_subscribed",
                json!([
                    about(""), "t/+",
                    {"record": [["is_new", true], ["nl", nl], ["qos", 1], ["rap", rap], ["rh", rh]]}, of.state()
                ]),
            ),
        ],
    );
    client.subscribe_all(&subscribe);
    let [.., again] = calls.expect(["client_subscribe", "client_check_acl", "session_subscribed"]);
    assert_eq!(again[2]["record"][0], json!(["is_new", false]));

    client.unsubscribe(&["t/+"]);
    let [unsubscribe, unsubscribed] = calls.expect(["client_unsubscribe", "session_unsubscribed"]).map(known);
    assert_eq!((&unsubscribe[0], &unsubscribe[1]), (&about(""), &(of.props)(false)));
    assert_eq!((&unsubscribe[2]["record"][0][0], &unsubscribe[3]), (&json!("t/+"), &of.state()));
    assert_eq!(unsubscribed, json!([about(""), "t/+", of.state()]));

    client.disconnect();
    expect(&calls, [("client_disconnected", json!([about(""), "normal", of.state()]))]);
    expect(&calls, [("session_terminated", json!([about(""), "normal", of.state()]))]);
}

/// The calls for a message between two clients, and for one without a subscriber; any bytes.
pub fn messages_are_notified(broker: &Broker, version: Version, of: &Dialect) {
    load(broker, &of.settings(of.spy, &[]));
    let calls = Calls::of(broker);
    let mut reader = enter(broker, &calls, &Connect::new(version, "reader"));
    let mut writer = enter(broker, &calls, &Connect::new(version, "writer"));
    let about = |client_id| clientinfo(broker, client_id, "", "", true);
    reader.subscribe("t/#", 2);
    calls.expect(["client_subscribe", "client_check_acl", "session_subscribed"]);
    for (payload, shown) in
        [(&b"hello"[..], json!("hello")), (b"", json!("")), (b"\xFF\x00\xC3\x28", (of.no_text)("ff00c328"))]
    {
        for qos in [1, 2] {
            assert_eq!(writer.publish(&Publish::new("t/a", payload).qos(qos)), 0);
            assert_eq!(reader.message().payload, payload);
            let message = of.message(qos, "writer", "t/a", &shown);
            expect(
                &calls,
                [
                    ("client_check_acl", json!([about("writer"), "publish", "t/a", true, of.state()])),
                    ("message_publish", json!([message, of.state()])),
                    ("message_delivered", json!([about("reader"), message, of.state()])),
                    ("message_acked", json!([about("reader"), message, of.state()])),
                ],
            );
        }
    }
    writer.publish(&Publish::new("elsewhere", "x").qos(1));
    let message = of.message(1, "writer", "elsewhere", &json!("x"));
    expect(
        &calls,
        [
            ("client_check_acl", json!([about("writer"), "publish", "elsewhere", true, of.state()])),
            ("message_publish", json!([message, of.state()])),
            ("message_dropped", json!([message, "no_subscribers", of.state()])),
        ],
    );
}

/// The calls for a session that is taken over, resumed, discarded, and that outlives its connection
/// for a second.
pub fn sessions_are_notified(broker: &Broker, version: Version, of: &Dialect) {
    load(broker, &of.settings(of.spy, &[]));
    let calls = Calls::of(broker);
    let about = json!([clientinfo(broker, "s", "", "", true), of.state()]);
    let persistent = Connect::new(version, "s").persistent();
    let mut first = enter(broker, &calls, &persistent);

    let mut second = Client::connect(broker, &persistent);
    first.end();
    let received = five_and_a_disconnect(&calls, "s");
    assert_eq!(received["session_takeovered"], about);
    assert_eq!(received["session_resumed"], about);

    let clean = Connect { clean: true, ..persistent.clone() };
    let third = Client::connect(broker, &clean);
    second.end();
    let received = five_and_a_disconnect(&calls, "s");
    assert_eq!(received["session_discarded"], about);
    assert_eq!(received["session_created"], about);

    third.drop_connection();
    let [gone] = calls.expect(["client_disconnected"]).map(known);
    assert_eq!((&gone[0], &gone[2]), (&about[0], &of.state()));
    assert!(gone[1].as_str().is_some_and(|reason| !reason.is_empty() && reason != "normal"), "{gone}");
    if !version.is_5() {
        // Clean session 1: it ends with its connection.
        let [ended] = calls.expect(["session_terminated"]).map(known);
        assert_eq!((&ended[0], &ended[2]), (&about[0], &of.state()));
    }
}

/// The calls for a client that connects while it is already connected: those of the new connection,
/// and the end of the old one. The end is reported by its own shard, so the order between the two
/// is open; the order within the new connection is not.
#[track_caller]
fn five_and_a_disconnect(calls: &Calls<'_>, client_id: &str) -> HashMap<String, Value> {
    let received: Vec<(String, Value)> = (0..7).map(|_| calls.next()).collect();
    let names: Vec<_> = received
        .iter()
        .map(|(hook, _)| hook.as_str())
        .filter(|hook| *hook != "client_disconnected")
        .collect();
    let order =
        ["client_connect", "client_authenticate", names[2], "client_connack", "client_connected", names[5]];
    assert_eq!(names, order, "{client_id}");
    received.into_iter().map(|(hook, arguments)| (hook, known(arguments))).collect()
}

/// The call for a session that expires.
pub fn expired_sessions_are_notified(broker: &Broker, of: &Dialect) {
    load(broker, &of.settings(of.spy, &[]));
    let calls = Calls::of(broker);
    let mut connect = Connect::new(Version::V5, "s");
    connect.properties.push(SESSION_EXPIRY, Property::U32(1));
    enter(broker, &calls, &connect).drop_connection();
    let [_, ended] = calls.expect(["client_disconnected", "session_terminated"]).map(known);
    assert_eq!(ended, json!([clientinfo(broker, "s", "", "", true), "expired", of.state()]));
}

/// A will is authorized as a publish, and published as one.
pub fn wills_are_authorized_and_published(broker: &Broker, version: Version, of: &Dialect) {
    load(broker, &of.settings(of.spy, &[]));
    let calls = Calls::of(broker);
    let connect = Connect::new(version, "w").will(Will::new("w/t", "gone"));
    let client = Client::connect(broker, &connect);
    let about = clientinfo(broker, "w", "", "", true);
    let [_, _, authorized, ..] = calls.expect([
        "client_connect",
        "client_authenticate",
        "client_check_acl",
        "client_connack",
        "client_connected",
        "session_created",
    ]);
    assert_eq!(known(authorized), json!([about, "publish", "w/t", true, of.state()]));
    client.drop_connection();
    let published = calls.until("message_publish", |_| true);
    assert_eq!(known(published), json!([of.message(0, "w", "w/t", &json!("gone")), of.state()]));
    let dropped = calls.until("message_dropped", |_| true);
    assert_eq!(
        known(dropped),
        json!([of.message(0, "w", "w/t", &json!("gone")), "no_subscribers", of.state()])
    );
}

/// Failures that the hooks of `emqx_verdicts` can produce; `slow` takes longer than `call_timeout`.
const FAILURES: [&str; 7] = ["error", "raise", "text", "wrong", "number", "list", "slow"];

/// The failures to try with a policy. A slow one costs its time, and is tried only where the
/// policies differ.
fn failures(slow: bool) -> impl Iterator<Item = &'static str> {
    FAILURES.into_iter().filter(move |what| slow || *what != "slow")
}

/// A worker that has exceeded `call_timeout` is restarted, and the new one answers the next calls.
/// The log may be late: the number of loads and restarts in it identifies the worker.
struct Restarts<'b> {
    broker: &'b Broker,
    loads: usize,
    restarts: usize,
}

impl<'b> Restarts<'b> {
    fn of(broker: &'b Broker) -> Restarts<'b> {
        Restarts { broker, loads: 0, restarts: 0 }
    }

    /// Another worker has been loaded.
    fn loaded(&mut self) {
        self.loads += 1;
    }

    #[track_caller]
    fn after(&mut self, what: &str) {
        if what == "slow" {
            let process = self.broker.process();
            let began = process.wait_for_lines("a restart", self.restarts + 1, PATIENCE, is_started_anew);
            self.restarts = began.len();
            process.wait_for_lines("a worker that is back", self.loads + self.restarts, PATIENCE, is_ready);
        }
    }
}

fn is_started_anew(line: &str) -> Option<()> {
    line.contains("/0 has not done anything for ").then_some(())
}

fn is_ready(line: &str) -> Option<()> {
    line.contains("/0 is ready").then_some(())
}

/// The result of on_client_authenticate decides about the login; after a failure `failed_action`
/// decides.
pub fn logins_end_as_the_hook_says(broker: &Broker, version: Version, of: &Dialect) {
    let refused = |code: u8| if version.is_5() { code == 0x87 } else { code == 5 };
    // The hook's result is unknown.
    let unknown = |code: u8| if version.is_5() { code == 0x88 } else { code == 3 };
    let mut restarts = Restarts::of(broker);
    let login = |name: &str| Client::attempt(broker, &Connect::new(version, "c").login(name, "p")).1.code;
    for policy in [None, Some("deny"), Some("ignore")] {
        load(broker, &of.verdicts(policy));
        restarts.loaded();
        assert_eq!(login("true"), 0);
        assert!(refused(login("false")));
        // As without a hook: a client without a name is admitted, one with a name that no plugin
        // allows is not.
        assert_eq!(Client::attempt(broker, &Connect::new(version, "c")).1.code, 0);
        let unanswered = login("none");
        assert!(unanswered != 0 && (!version.is_5() || unanswered == 0x86), "{unanswered:#x}");
        for failure in failures(policy.is_some()) {
            let code = login(failure);
            match policy {
                Some("ignore") => assert_eq!(code, unanswered, "{failure}"),
                _ => assert!(unknown(code), "{failure}: {code:#x}"),
            }
            restarts.after(failure);
        }
        broker.ctl_ok(&["plugins", "unload", "exhook"]);
    }
}

/// The result of on_client_check_acl decides about publishes, subscriptions and wills, likewise.
pub fn rights_are_as_the_hook_says(broker: &Broker, version: Version, of: &Dialect) {
    let mut restarts = Restarts::of(broker);
    for policy in [None, Some("deny"), Some("ignore")] {
        load(broker, &of.verdicts(policy));
        restarts.loaded();
        let mut reader = Client::connect(broker, &Connect::new(version, "reader"));
        reader.subscribe("acl/#", 1);
        let mut client = Client::connect(broker, &Connect::new(version, "c"));
        for what in ["true", "false", "none"].into_iter().chain(failures(policy.is_some())) {
            let allowed = match what {
                "true" | "none" => true,
                "false" => false,
                _ => policy == Some("ignore"),
            };
            let topic = format!("acl/{what}");
            let code = client.publish(&Publish::new(&topic, what).qos(1));
            assert_eq!(code, if allowed || !version.is_5() { 0 } else { 0x87 }, "publish {what}");
            restarts.after(what);
            // The next publish of the same client: the denied one has not been published.
            assert_eq!(client.publish(&Publish::new("acl/end", "end").qos(1)), 0);
            let received: Vec<_> = reader.messages_until("end").iter().map(Publish::text).collect();
            assert_eq!(received, if allowed { vec![what] } else { vec![] }, "publish {what}");

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

/// The result of on_message_publish changes topic, payload and QoS; after a failure the message is
/// unchanged, or denied.
pub fn messages_are_changed_as_the_hook_says(broker: &Broker, version: Version, of: &Dialect) {
    let mut restarts = Restarts::of(broker);
    for policy in [None, Some("ignore"), Some("deny")] {
        load(broker, &of.verdicts(policy));
        restarts.loaded();
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
            let received = client.message();
            assert_eq!(
                (received.topic.as_str(), &received.payload[..], received.qos),
                (topic, payload, qos),
                "{what}"
            );
        }
        // A plain bool is valid for verdicts; here it is a wrong type.
        for what in failures(policy.is_some()).chain(["true", "wrong qos", "wrong pairs"]) {
            let (topic, denied) = (format!("message/{what}"), policy == Some("deny"));
            let code = client.publish(&Publish::new(&topic, what).qos(1));
            assert_eq!(code, if denied && version.is_5() { 0x83 } else { 0 }, "{what}");
            restarts.after(what);
            assert_eq!(client.publish(&Publish::new("end", "end").qos(1)), 0, "after {what}");
            let received = client.messages_until("end");
            let received: Vec<_> = received
                .iter()
                .map(|received| (received.topic.as_str(), received.text(), received.qos))
                .collect();
            let expected = if denied { vec![] } else { vec![(topic.as_str(), what.to_owned(), 1)] };
            assert_eq!(received, expected, "{what}");
        }
        broker.ctl_ok(&["plugins", "unload", "exhook"]);
    }
}
