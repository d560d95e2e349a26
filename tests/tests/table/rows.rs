//! The rows of the table: how the event of a point is produced, what can be changed there, and what
//! a client sees of it.

use grapnel_plugin_abi::HookPoint;
use grapnel_tests::wire::property;
use grapnel_tests::{Client, Connect, Packet, Publish, Subscribe, Version, Will};

use crate::action::{Case, Effect};
use crate::fixture::Fixture;
use crate::points::{Point, at};

/// What is changed at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its name for the plugins.
    pub word: &'static str,
    /// Whether later plugins can see it.
    pub seen: bool,
    /// Whether a ticket can make it too, and not only the hook.
    pub with_ticket: bool,
}

impl Change {
    /// Nothing can be changed.
    pub const NONE: Change = Change::value("none").unseen();

    const fn value(word: &'static str) -> Change {
        Change { word, seen: true, with_ticket: true }
    }

    const fn unseen(self) -> Change {
        Change { seen: false, ..self }
    }

    /// Only the hook itself can make it.
    const fn in_the_hook(self) -> Change {
        Change { with_ticket: false, ..self }
    }
}

/// A point with one change, and the visible results.
#[derive(Debug)]
pub struct Row {
    pub point: Point,
    pub change: Change,
    /// Produces the event. Returns what the client saw.
    pub run: fn(&Fixture, &Case, &str) -> String,
    /// Expected result.
    pub expect: fn(Effect, Version) -> &'static str,
}

/// `$v5` for MQTT 5, `$v311` for MQTT 3.1.1.
fn by(version: Version, v5: &'static str, v311: &'static str) -> &'static str {
    if version.is_5() { v5 } else { v311 }
}

/// Result of CONNACK for an admitted client.
const IN: &str = "code 0x00";

const fn row(
    point: HookPoint,
    change: Change,
    run: fn(&Fixture, &Case, &str) -> String,
    expect: fn(Effect, Version) -> &'static str,
) -> Row {
    Row { point: at(point), change, run, expect }
}

/// A notification point.
const fn notification(point: HookPoint, run: fn(&Fixture, &Case, &str) -> String) -> Row {
    row(point, Change::NONE, run, |_, _| "as ever")
}

pub const ROWS: &[Row] = &[
    row(HookPoint::ClientConnect, Change::value("keep-alive"), connect, |effect, version| match effect {
        Effect::AsItWas => "code 0x00, keep alive and superuser 60,0",
        Effect::Changed => by(
            version,
            "code 0x00, server keep alive 77, keep alive and superuser 77,0",
            "code 0x00, keep alive and superuser 77,0",
        ),
        Effect::Denied => by(version, "code 0x87", "code 0x05"),
    }),
    row(HookPoint::ClientConnect, Change::value("refuse"), connect, |effect, version| match effect {
        Effect::AsItWas => "code 0x00, keep alive and superuser 60,0",
        Effect::Changed => by(version, "code 0x88 why", "code 0x03"),
        Effect::Denied => by(version, "code 0x87", "code 0x05"),
    }),
    row(HookPoint::ClientAuthenticate, Change::value("promote"), connect, |effect, version| match effect {
        Effect::AsItWas => "code 0x00, keep alive and superuser 60,0",
        Effect::Changed => "code 0x00, keep alive and superuser 60,1",
        // A failed plugin does not count as a wrong password.
        Effect::Denied => by(version, "code 0x88", "code 0x03"),
    }),
    row(HookPoint::ClientAuthenticate, Change::value("vouch"), login, |effect, version| match effect {
        // No plugin decides for a client with a user name, although an authenticator is mounted.
        Effect::AsItWas => by(version, "code 0x86", "code 0x05"),
        Effect::Denied => by(version, "code 0x88", "code 0x03"),
        Effect::Changed => "code 0x00, keep alive and superuser 60,0",
    }),
    row(HookPoint::ClientAuthenticate, Change::value("deny"), connect, |effect, version| match effect {
        Effect::AsItWas => "code 0x00, keep alive and superuser 60,0",
        Effect::Changed | Effect::Denied => by(version, "code 0x88", "code 0x03"),
    }),
    row(HookPoint::ClientAuthorize, Change::value("publish"), publish, |effect, version| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        // MQTT 3.1.1 cannot refuse [MQTT-3.3.5-2].
        Effect::Changed => by(version, "acknowledged 0x97", "acknowledged 0x00"),
        Effect::Denied => by(version, "acknowledged 0x87", "acknowledged 0x00"),
    }),
    row(HookPoint::ClientAuthorize, Change::value("subscribe"), subscribe, |effect, version| match effect {
        Effect::AsItWas => "codes [0], delivered own",
        Effect::Changed => by(version, "codes [151]", "codes [128]"),
        Effect::Denied => by(version, "codes [135]", "codes [128]"),
    }),
    row(HookPoint::ClientAuthorize, Change::value("deliver"), publish, |effect, _| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed | Effect::Denied => "acknowledged 0x00",
    }),
    row(HookPoint::ClientAuthorize, Change::value("will"), leave_a_will, |effect, version| match effect {
        Effect::AsItWas => IN,
        Effect::Changed => by(version, "code 0x97", "code 0x03"),
        Effect::Denied => by(version, "code 0x87", "code 0x05"),
    }),
    row(HookPoint::ClientConnack, Change::value("property"), connack, |effect, version| match effect {
        // A CONNACK of MQTT 3.1.1 has no properties.
        Effect::Changed => by(version, "code 0x00, property [\"new\"]", "code 0x00, property []"),
        _ => "code 0x00, property []",
    }),
    row(HookPoint::ClientSubscribe, Change::value("rewrite"), subscribe, |effect, version| match effect {
        Effect::AsItWas => "codes [0], delivered own",
        Effect::Changed => "codes [0], delivered new",
        Effect::Denied => by(version, "codes [135]", "codes [128]"),
    }),
    row(HookPoint::ClientSubscribe, Change::value("refuse"), subscribe, |effect, version| match effect {
        Effect::AsItWas => "codes [0], delivered own",
        Effect::Changed => by(version, "codes [131]", "codes [128]"),
        Effect::Denied => by(version, "codes [135]", "codes [128]"),
    }),
    row(
        HookPoint::ClientUnsubscribe,
        Change::value("rewrite"),
        unsubscribe,
        |effect, version| match effect {
            Effect::AsItWas => by(version, "codes [0], delivered new", "codes [], delivered new"),
            Effect::Changed => by(version, "codes [0], delivered own", "codes [], delivered own"),
            Effect::Denied => by(version, "codes [135], delivered own new", "codes [], delivered own new"),
        },
    ),
    row(HookPoint::ClientUnsubscribe, Change::value("refuse"), unsubscribe, |effect, version| match effect {
        Effect::AsItWas => by(version, "codes [0], delivered new", "codes [], delivered new"),
        Effect::Changed => by(version, "codes [131], delivered own new", "codes [], delivered own new"),
        Effect::Denied => by(version, "codes [135], delivered own new", "codes [], delivered own new"),
    }),
    row(HookPoint::MessagePublish, Change::value("payload"), publish, |effect, version| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => "acknowledged 0x00, delivered new at own",
        Effect::Denied => by(version, "acknowledged 0x83", "acknowledged 0x00"),
    }),
    row(HookPoint::MessagePublish, Change::value("topic"), publish, |effect, version| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => "acknowledged 0x00, delivered own at new",
        Effect::Denied => by(version, "acknowledged 0x83", "acknowledged 0x00"),
    }),
    row(
        HookPoint::MessagePublish,
        Change::value("extra").unseen().in_the_hook(),
        publish,
        |effect, version| match effect {
            Effect::AsItWas => "acknowledged 0x00, delivered own",
            Effect::Changed => "acknowledged 0x00, delivered own extra",
            Effect::Denied => by(version, "acknowledged 0x83", "acknowledged 0x00"),
        },
    ),
    row(HookPoint::MessagePublish, Change::value("drop"), publish, |effect, version| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => "acknowledged 0x00",
        Effect::Denied => by(version, "acknowledged 0x83", "acknowledged 0x00"),
    }),
    row(HookPoint::MessagePublish, Change::value("reject"), publish, |effect, version| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => by(version, "acknowledged 0x97 why", "acknowledged 0x00"),
        Effect::Denied => by(version, "acknowledged 0x83", "acknowledged 0x00"),
    }),
    row(HookPoint::MessagePublish, Change::value("disconnect"), publish, |effect, version| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => by(version, "closed 0x97", "closed"),
        Effect::Denied => by(version, "acknowledged 0x83", "acknowledged 0x00"),
    }),
    row(HookPoint::MessageDelivered, Change::value("payload"), publish, |effect, _| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => "acknowledged 0x00, delivered new at own",
        Effect::Denied => "acknowledged 0x00",
    }),
    row(HookPoint::MessageDelivered, Change::value("topic"), publish, |effect, _| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed => "acknowledged 0x00, delivered own at new",
        Effect::Denied => "acknowledged 0x00",
    }),
    row(HookPoint::MessageDelivered, Change::value("veto"), publish, |effect, _| match effect {
        Effect::AsItWas => "acknowledged 0x00, delivered own",
        Effect::Changed | Effect::Denied => "acknowledged 0x00",
    }),
    notification(HookPoint::ClientConnected, enter),
    notification(HookPoint::SessionCreated, enter),
    notification(HookPoint::ClientDisconnected, leave),
    notification(HookPoint::SessionTerminated, leave),
    notification(HookPoint::SessionResumed, resume),
    notification(HookPoint::SessionDiscarded, discard),
    notification(HookPoint::SessionTakenover, take_over),
    notification(HookPoint::SessionSubscribed, enter_and_subscribe),
    notification(HookPoint::SessionUnsubscribed, enter_and_unsubscribe),
    notification(HookPoint::MessageAcked, acknowledge),
    notification(HookPoint::MessageDropped, publish_to_nobody),
    notification(HookPoint::MessageRetained, retain),
    notification(HookPoint::PacketReceived, enter),
    notification(HookPoint::PacketSent, enter),
];

fn greeting(case: &Case, id: &str) -> Connect {
    Connect::new(case.version, id).keep_alive(60)
}

fn hello(fixture: &Fixture, case: &Case, id: &str) -> Client {
    Client::connect(fixture.broker(), &greeting(case, id))
}

/// The CONNACK, and the call of client.connected; refused clients are disconnected.
fn attempt(fixture: &Fixture, case: &Case, connect: &Connect) -> String {
    let (mut client, connack) = Client::attempt(fixture.broker(), connect);
    let why = connack.properties.string(property::REASON_STRING).map(|why| format!(" {why}"));
    let mut saw = format!("code {:#04x}{}", connack.code, why.unwrap_or_default());
    if connack.code != 0 {
        client.end();
        return saw;
    }
    if let Some(seconds) = connack.properties.number(property::SERVER_KEEP_ALIVE) {
        saw.push_str(&format!(", server keep alive {seconds}"));
    }
    // Both are called in the step that sends CONNACK; the answer to the ping comes from a later
    // one.
    client.ping();
    let calls = fixture.written(case.number);
    let notification = calls.iter().find(|call| call.1 == "client.connected").map(|call| call.2.as_str());
    saw.push_str(&format!(", keep alive and superuser {}", notification.unwrap_or("not told")));
    saw
}

fn connect(fixture: &Fixture, case: &Case, id: &str) -> String {
    attempt(fixture, case, &greeting(case, id))
}

fn login(fixture: &Fixture, case: &Case, id: &str) -> String {
    attempt(fixture, case, &greeting(case, id).login("user", "password"))
}

fn leave_a_will(fixture: &Fixture, case: &Case, id: &str) -> String {
    let will = Will::new(&format!("{id}/own"), "will");
    let (mut client, connack) = Client::attempt(fixture.broker(), &greeting(case, id).will(will));
    if connack.code == 0 {
        client.ping();
    } else {
        client.end();
    }
    format!("code {:#04x}", connack.code)
}

fn connack(fixture: &Fixture, case: &Case, id: &str) -> String {
    let (mut client, connack) = Client::attempt(fixture.broker(), &greeting(case, id));
    client.ping();
    format!("code {:#04x}, property {:?}", connack.code, connack.properties.user("table"))
}

/// The result of a QoS 1 message of the client to itself: its acknowledgement, and the delivery. A
/// second message without a script follows it, whatever the first one waits for.
fn publish(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    client.subscribe(&format!("{id}/#"), 0);
    client.send_publish(&Publish::new(&format!("{id}/own"), "own").qos(1));
    let (mut saw, mut delivered) = (None, Vec::new());
    loop {
        match client.next(grapnel_tests::PATIENCE) {
            grapnel_tests::client::Event::Packet(Packet::Puback(ack)) => {
                let why = ack.properties.string(property::REASON_STRING).map(|why| format!(" {why}"));
                saw = Some(format!("acknowledged {:#04x}{}", ack.code, why.unwrap_or_default()));
                client.send_publish(&Publish::new(&format!("{id}/last"), "last"));
            }
            grapnel_tests::client::Event::Packet(Packet::Publish(message)) => match message.text() {
                text if text == "last" => break,
                text => {
                    let leaf = message.topic.rsplit('/').next().unwrap_or_default();
                    delivered.push(if leaf == text { text } else { format!("{text} at {leaf}") });
                }
            },
            grapnel_tests::client::Event::Packet(Packet::Disconnect { code, .. }) => {
                saw = Some(format!("closed {code:#04x}"));
            }
            grapnel_tests::client::Event::Closed => {
                saw.get_or_insert("closed".to_owned());
                break;
            }
            other => panic!("{other:?} after a publish"),
        }
    }
    with_delivered(saw.unwrap_or("not acknowledged".to_owned()), &delivered)
}

fn with_delivered(saw: String, delivered: &[String]) -> String {
    if delivered.is_empty() { saw } else { format!("{saw}, delivered {}", delivered.join(" ")) }
}

/// The topics, of two, on which the client receives messages.
fn delivered(client: &mut Client, id: &str) -> Vec<String> {
    for payload in ["own", "new"] {
        client.send_publish(&Publish::new(&format!("{id}/{payload}"), payload));
    }
    client.send_packet(&Packet::Pingreq);
    let mut delivered = Vec::new();
    loop {
        match client.receive() {
            Packet::Publish(message) => delivered.push(message.text()),
            Packet::Pingresp => return delivered,
            other => panic!("{other:?} instead of PUBLISH or PINGRESP"),
        }
    }
}

fn subscribe(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    let codes = client.subscribe_all(&Subscribe::to(&format!("{id}/own"), 0));
    with_delivered(format!("codes {codes:?}"), &delivered(&mut client, id))
}

fn unsubscribe(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    client.subscribe(&format!("{id}/own"), 0);
    client.subscribe(&format!("{id}/new"), 0);
    let codes = client.unsubscribe(&[&format!("{id}/own")]);
    with_delivered(format!("codes {codes:?}"), &delivered(&mut client, id))
}

fn as_ever() -> String {
    "as ever".to_owned()
}

fn enter(fixture: &Fixture, case: &Case, id: &str) -> String {
    hello(fixture, case, id).ping();
    as_ever()
}

fn leave(fixture: &Fixture, case: &Case, id: &str) -> String {
    hello(fixture, case, id).disconnect();
    as_ever()
}

/// A session that outlives its first connection. Returns whether a second connection finds it.
fn return_with(fixture: &Fixture, case: &Case, again: &Connect) -> bool {
    let first = Client::connect(fixture.broker(), &greeting(case, &again.client_id).persistent());
    first.drop_connection();
    let (mut client, connack) = Client::attempt(fixture.broker(), again);
    client.ping();
    assert_eq!(connack.code, 0);
    connack.session_present
}

fn resume(fixture: &Fixture, case: &Case, id: &str) -> String {
    assert!(return_with(fixture, case, &greeting(case, id).persistent()), "the session is there");
    as_ever()
}

fn discard(fixture: &Fixture, case: &Case, id: &str) -> String {
    assert!(!return_with(fixture, case, &greeting(case, id)), "the session has gone");
    as_ever()
}

fn take_over(fixture: &Fixture, case: &Case, id: &str) -> String {
    let connect = greeting(case, id).persistent();
    let mut first = Client::connect(fixture.broker(), &connect);
    let (mut second, connack) = Client::attempt(fixture.broker(), &connect);
    assert_eq!((connack.code, connack.session_present), (0, true));
    assert_eq!(first.end(), case.version.is_5().then_some(0x8E));
    second.ping();
    as_ever()
}

fn enter_and_subscribe(fixture: &Fixture, case: &Case, id: &str) -> String {
    hello(fixture, case, id).subscribe(&format!("{id}/own"), 1);
    as_ever()
}

fn enter_and_unsubscribe(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    client.subscribe(&format!("{id}/own"), 1);
    let codes = client.unsubscribe(&[&format!("{id}/own")]);
    assert_eq!(codes, if case.version.is_5() { vec![0] } else { vec![] });
    as_ever()
}

fn acknowledge(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    client.subscribe(&format!("{id}/own"), 1);
    assert_eq!(client.publish(&Publish::new(&format!("{id}/own"), "own").qos(1)), 0);
    client.message();
    client.ping();
    as_ever()
}

fn publish_to_nobody(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    let code = client.publish(&Publish::new(&format!("{id}/own"), "own").qos(1));
    assert_eq!(code, if case.version.is_5() { 0x10 } else { 0 });
    as_ever()
}

/// A retained message, which the next subscriber receives.
fn retain(fixture: &Fixture, case: &Case, id: &str) -> String {
    let mut client = hello(fixture, case, id);
    let topic = format!("{id}/own");
    client.publish(&Publish::new(&topic, "own").qos(1).retain());
    client.subscribe(&topic, 0);
    let message = client.receive_publish();
    assert_eq!((message.text().as_str(), message.retain), ("own", true));
    as_ever()
}
