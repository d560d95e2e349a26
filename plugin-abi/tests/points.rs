//! Tests of the fields that each hook point shows through the SDK, without a broker.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};
use grapnel_plugin_abi::{
    Acked, Broker, Connack, Connect, Connected, Dropped, Error, HookPoint, Host, NoConfig, Packet, Plugin,
    Reason, Refused, Retained, RetainedChange, Session, Subscription, Unsubscribe, Verdict,
};

/// Logs what it sees.
struct FieldLogger;

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(line: String) {
    SEEN.lock().unwrap().push(line);
}

impl Plugin for FieldLogger {
    type Config = NoConfig;
    type Shard = FieldLogger;

    fn load(_config: NoConfig, _host: &Host) -> Result<FieldLogger, Error> {
        Ok(FieldLogger)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<FieldLogger, Error> {
        Ok(FieldLogger)
    }
}

impl FieldLogger {
    fn connect(&mut self, event: &mut Connect<'_>) {
        let will = event.will().map(|will| (will.topic, will.payload.len(), will.qos, will.retain));
        note(format!("{} {:?} {will:?}", event.proto_name(), event.maximum_packet_size()));
    }

    fn connack(&mut self, event: &mut Connack<'_>) -> Result<(), Refused> {
        if event.reason() == Reason::SUCCESS {
            event.set_keep_alive_s(event.keep_alive_s() / 2)?;
            event.set_response_info("answers")?;
        } else {
            event.set_server_reference("other")?;
        }
        event.add_user_property("by", "scribe")?;
        event.set_reason_text("hello")
    }

    fn connected(&mut self, event: &mut Connected<'_>) {
        note(format!("{} {:?} {:?}", event.is_anonymous(), event.sock_host(), event.user_property("k")));
    }

    fn unsubscribe(&mut self, event: &mut Unsubscribe<'_>) -> Result<(), Refused> {
        let filters: Vec<_> = event.filters().collect();
        for filter in filters {
            match filter.filter {
                "keep" => event.refuse(filter.index, Reason::IMPLEMENTATION_SPECIFIC)?,
                other => event.rewrite(filter.index, &format!("inner/{other}"))?,
            }
        }
        Ok(())
    }

    fn session(&mut self, event: &mut Session<'_>) {
        note(format!("{} {:?} {} queued", event.client_id(), event.cause(), event.queued()));
    }

    fn subscription(&mut self, event: &mut Subscription<'_>) {
        let (filter, new) = (event.filter(), event.is_new());
        note(format!("{} q{} new {new} {:?}", filter.filter, filter.qos(), event.cause()));
    }

    fn acked(&mut self, event: &mut Acked<'_>) {
        note(format!("{} {} {:?}", event.client_id(), event.topic(), event.message_id()));
    }

    fn dropped(&mut self, event: &mut Dropped<'_>) {
        note(format!("{} {} {}", event.topic(), event.by(), event.cause()));
    }

    fn retained(&mut self, event: &mut Retained<'_>) {
        note(format!("{} {:?} {:?}", event.topic(), event.change(), event.from()));
    }

    fn packet(&mut self, event: &mut Packet<'_>) {
        note(format!("{} {:?} {}", event.packet_type(), event.bytes(), event.size()));
    }

    fn broker(&mut self, event: &mut Broker<'_>) {
        let listeners: Vec<&str> = event.listeners().collect();
        note(format!("{:?} {listeners:?} {}", HookPoint::from_number(event.point()), event.uptime_ms()));
    }
}

grapnel_plugin_abi::__exported!(FieldLogger {
    client.connect => FieldLogger::connect,
    client.connack => FieldLogger::connack,
    client.connected => FieldLogger::connected,
    client.unsubscribe => FieldLogger::unsubscribe,
    session.terminated => FieldLogger::session,
    session.subscribed => FieldLogger::subscription,
    session.unsubscribed => FieldLogger::subscription,
    message.acked => FieldLogger::acked,
    message.dropped => FieldLogger::dropped,
    message.retained => FieldLogger::retained,
    packet.sent => FieldLogger::packet,
    broker.started => FieldLogger::broker,
});

// Each typed event reads the fields of its hook point. A notification cannot be changed, so it has
// no setters.
#[test]
fn every_point_shows_its_fields() {
    let mut scribe = testing::load::<FieldLogger>("").unwrap();
    let events = [
        FakeEvent::new(HookPoint::ClientConnect)
            .with_text(Field::PROTO_NAME, "MQTT")
            .with_number(Field::MAXIMUM_PACKET_SIZE, 100)
            .with_text(Field::WILL_TOPIC, "bye")
            .with_bytes(Field::WILL_PAYLOAD, b"xy")
            .with_number(Field::WILL_QOS, 1),
        FakeEvent::new(HookPoint::ClientConnected)
            .with_number(Field::ANONYMOUS, 1)
            .with_text(Field::SOCK_HOST, "::1")
            .with_user_property("k", "v"),
        FakeEvent::session(HookPoint::SessionTerminated, Some("expired"))
            .with_number(Field::SESSION_QUEUED, 3),
        FakeEvent::subscribed("a/+", 2),
        FakeEvent::unsubscribed("a/+", "unsubscribe"),
        FakeEvent::acked("t", b"x").with_number(Field::MESSAGE_ID, 7),
        FakeEvent::dropped("t", b"x", "node", "no_subscribers"),
        FakeEvent::retained("t", b"x", RetainedChange::Expired).with_text(Field::FROM, "c"),
        FakeEvent::packet(HookPoint::PacketSent, &[0xD0, 0]),
        FakeEvent::broker(HookPoint::BrokerStarted, &["127.0.0.1:1883", "[::1]:1883"]),
    ];
    for mut event in events {
        assert_eq!(scribe.run(&mut event), Outcome::Continue, "{event:?}");
    }
    let seen = SEEN.lock().unwrap();
    assert_eq!(
        *seen,
        [
            "MQTT Some(100) Some((\"bye\", 2, 1, false))",
            "true Some(\"::1\") Some(\"v\")",
            "client Some(\"expired\") 3 queued",
            "a/+ q2 new true None",
            "a/+ q0 new false Some(\"unsubscribe\")",
            "client t Some(7)",
            "t node no_subscribers",
            "t Expired Some(\"c\")",
            "13 [208, 0] 2",
            "Some(BrokerStarted) [\"127.0.0.1:1883\", \"[::1]:1883\"] 1000",
        ]
    );
}

// CONNACK's properties are set one by one; with a refusal there are fewer.
#[test]
fn a_hook_can_set_the_properties_of_connack() {
    let mut scribe = testing::load::<FieldLogger>("").unwrap();
    let mut event = FakeEvent::connack(Reason::SUCCESS).with_number(Field::KEEP_ALIVE_S, 60);
    assert_eq!(scribe.run(&mut event), Outcome::Continue);
    assert_eq!(event.number(Field::KEEP_ALIVE_S, 0), Some(30));
    assert_eq!(event.text(Field::RESPONSE_INFO, 0), Some("answers"));
    assert_eq!(event.user_properties(), [("by".into(), "scribe".into())]);
    let mut event = FakeEvent::connack(Reason(0x9C));
    assert_eq!(scribe.run(&mut event), Outcome::Continue);
    assert_eq!((event.text(Field::SERVER_REFERENCE, 0), event.reason_text()), (Some("other"), Some("hello")));
}

// UNSUBSCRIBE is rewritten and refused filter by filter.
#[test]
fn an_unsubscribe_is_rewritten_and_refused() {
    let mut scribe = testing::load::<FieldLogger>("").unwrap();
    let mut event = FakeEvent::unsubscribe(&["a", "keep"]);
    assert_eq!(scribe.run(&mut event), Outcome::Continue);
    assert_eq!((event.filter(0), event.filter(1)), (Some("inner/a"), Some("keep")));
    assert_eq!((event.filter_verdict(0), event.filter_verdict(1)), (Verdict::Unanswered, Verdict::Deny));
}
