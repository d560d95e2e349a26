//! Actions of users with a client, each written once, over [`Driver`](crate::driver::Driver). A
//! scenario ends with an error if the library refuses; any other failure is a panic. Expectations
//! come from the specification.

use grapnel_tests::certificates::CLIENT_NAME;
use grapnel_tests::wire::Ack;
use grapnel_tests::{Client as RawClient, Connect, Io, Kind, Packet, Site, Version};

use crate::driver::{Message, Refused, Settings, World, messages_of_all};
use crate::link::Link;

type Outcome = Result<(), Refused>;

/// Connects in the requested version, and the broker saw that version.
pub fn connects(world: &World) -> Outcome {
    let client = world.open(&Settings::new("visitor"))?;
    let shown = world.broker.ctl_json(&["clients", "show", "visitor"]);
    assert_eq!(shown["protocol"], world.version.level(), "{shown}");
    client.disconnect()
}

/// Each QoS of a publication with each QoS of a subscription: delivered once, with the smaller of
/// the two (section 3.8.4).
pub fn every_qos(world: &World) -> Outcome {
    let mut publisher = world.open(&Settings::new("publisher"))?;
    for subscribed in 0..=2 {
        let name = format!("subscriber {subscribed}");
        let mut subscriber = world.open(&Settings::new(&name).subscribed(&["q/+"], subscribed))?;
        for published in 0..=2 {
            publisher.publish(&Message::new(&format!("q/{published}"), "hello", published))?;
        }
        // mosquitto_pub publishes each through another connection, which has no order with the
        // others.
        let mut got: Vec<Message> = (0..3).map(|_| subscriber.message()).collect::<Result<_, _>>()?;
        got.sort_by(|a, b| a.topic.cmp(&b.topic));
        let expected: Vec<Message> = (0..=2)
            .map(|published| Message::new(&format!("q/{published}"), "hello", published.min(subscribed)))
            .collect();
        assert_eq!(got, expected);
        publisher.publish(&Message::new("q/end", "end", 2))?;
        assert_eq!(subscriber.messages_until("end")?, [], "nothing comes twice");
        subscriber.disconnect()?;
    }
    Ok(())
}

/// A client that ends without DISCONNECT leaves its will ([MQTT-3.1.2-8]).
pub fn will(world: &World) -> Outcome {
    let mut watcher = world.open(&Settings::new("watcher").subscribed(&["will/#"], 2))?;
    for qos in 0..=2 {
        let will = Message::new("will/x", "gone", qos);
        world.open(&Settings::new("dying").will(will.clone()))?.drop_connection();
        assert_eq!(watcher.message()?, will);
    }
    Ok(())
}

/// A client that disconnects deletes its will ([MQTT-3.1.2-10]).
pub fn no_will(world: &World) -> Outcome {
    let mut watcher = world.open(&Settings::new("watcher").subscribed(&["will/#"], 1))?;
    let will = Message::new("will/x", "gone", 1);
    let ended = world.open(&Settings::new("leaving").will(will.clone()))?.disconnect();
    if ended.is_err() {
        assert_eq!(watcher.message()?, will, "the library asked for it");
    }
    // A new connection under the same name follows all work of the broker on the first one.
    let mut again = world.open(&Settings::new("leaving"))?;
    again.publish(&Message::new("will/end", "end", 1))?;
    assert_eq!(watcher.messages_until("end")?, []);
    ended
}

/// A retained message is stored for later subscribers with RETAIN set; an empty one removes it
/// ([MQTT-3.3.1-5], -6, -8).
pub fn retained(world: &World) -> Outcome {
    let mut keeper = world.open(&Settings::new("keeper"))?;
    for payload in ["21", "22"] {
        keeper.publish(&Message::new("room", payload, 1).retained())?;
    }
    let mut late = world.open(&Settings::new("late").subscribed(&["room"], 1))?;
    assert_eq!(late.message()?, Message::new("room", "22", 1).retained());
    keeper.publish(&Message::new("room", "", 1).retained())?;
    assert_eq!(
        late.message()?,
        Message::new("room", "", 1),
        "to who is there already it is a message like any"
    );
    let mut later = world.open(&Settings::new("later").subscribed(&["room", "end"], 1))?;
    keeper.publish(&Message::new("end", "end", 1))?;
    assert_eq!(later.messages_until("end")?, [], "the retained message was removed");
    Ok(())
}

/// CONNACK shows whether there was a session ([MQTT-3.2.2-2], -3); the flag exists since MQTT
/// 3.1.1.
pub fn session_present(world: &World) -> Outcome {
    let persistent = Settings::new("sleeper").persistent();
    for (settings, expected) in
        [(&persistent, false), (&persistent, true), (&Settings::new("sleeper"), false)]
    {
        let client = world.open(settings)?;
        assert_eq!(client.session_present()?, expected && world.version != Version::V31);
        client.disconnect()?;
    }
    Ok(())
}

/// A stored session receives what was published while its client was away, once, and nothing of it
/// at the next return (section 4.1; [MQTT-3.1.2-4], -5 of 3.1.1).
pub fn queued(world: &World) -> Outcome {
    let persistent = Settings::new("sleeper").persistent();
    world.open(&persistent.clone().subscribed(&["kept/#"], 2))?.drop_connection();
    let mut publisher = world.open(&Settings::new("publisher"))?;
    let missed = [Message::new("kept/1", "one", 1), Message::new("kept/2", "two", 2)];
    for message in &missed {
        publisher.publish(message)?;
    }
    // Without a new subscription: messages belong to the old session.
    let mut back = world.open(&persistent)?;
    let mut got = vec![back.message()?, back.message()?];
    got.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!(got, missed);
    publisher.publish(&Message::new("kept/end", "end", 2))?;
    assert_eq!(back.messages_until("end")?, [], "nothing comes twice");
    back.disconnect()?;

    let mut again = world.open(&persistent)?;
    publisher.publish(&Message::new("kept/end", "second end", 2))?;
    assert_eq!(again.messages_until("second end")?, [], "nothing comes again");
    Ok(())
}

/// A client that loses its connection reconnects by itself to its session, and receives the missed
/// messages, once.
pub fn comes_back(world: &World) -> Outcome {
    let link = Link::new(world.broker.address());
    let settings = Settings::new("mobile").persistent().subscribed(&["kept/#"], 2).over(&link);
    let mut mobile = world.open(&settings)?;
    let mut publisher = world.open(&Settings::new("publisher"))?;
    publisher.publish(&Message::new("kept/0", "before", 0))?;
    assert_eq!(mobile.message()?, Message::new("kept/0", "before", 0));
    link.cut();
    let missed = [Message::new("kept/1", "one", 1), Message::new("kept/2", "two", 2)];
    for message in &missed {
        publisher.publish(message)?;
    }
    link.mend();
    let mut got = vec![mobile.message()?, mobile.message()?];
    got.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!(got, missed);
    publisher.publish(&Message::new("kept/end", "end", 2))?;
    assert_eq!(mobile.messages_until("end")?, [], "nothing comes twice");
    Ok(())
}

/// A QoS 2 exchange survives the process that sent PUBREC: the next process receives PUBREL,
/// answers PUBCOMP without the message, and continues ([MQTT-4.4.0-1]; [MQTT-4.3.3-11]).
pub fn earlier_pubrel(world: &World) -> Outcome {
    // The earlier process is a client of our own: no library stops half-way on request.
    let connect = Connect::new(world.version, "sleeper").persistent();
    let mut earlier = RawClient::connect(world.broker, &connect);
    earlier.subscribe("kept/#", 2);
    let mut publisher = world.open(&Settings::new("publisher"))?;
    publisher.publish(&Message::new("kept/half", "half", 2))?;
    let id = earlier.receive_publish().id.expect("QoS 2 has an identifier");
    earlier.send_packet(&Packet::Pubrec(Ack::of(id)));
    earlier.receive_where("PUBREL", |packet| matches!(packet, Packet::Pubrel(_)).then_some(()));
    earlier.drop_connection();

    let mut back = world.open(&Settings::new("sleeper").persistent())?;
    // QoS 0, because paho-mqtt may disconnect before it acknowledges what it has just reported.
    publisher.publish(&Message::new("kept/end", "end", 0))?;
    assert_eq!(back.messages_until("end")?, [], "the earlier process had it");
    back.disconnect()?;
    let mut later = RawClient::connect(world.broker, &connect);
    later.send_packet(&Packet::Pingreq);
    assert_eq!(later.receive(), Packet::Pingresp, "PUBCOMP has come: there is nothing to send again");
    Ok(())
}

/// Two members of a shared subscription receive each message once between them, and each receives
/// some (section 4.8.2; in MQTT 3.1 and 3.1.1 the broker offers the same filters).
pub fn shared(world: &World) -> Outcome {
    const MESSAGES: usize = 40;
    let member = |name| world.open(&Settings::new(name).subscribed(&["$share/group/work/+", "end"], 1));
    let mut members = [member("first")?, member("second")?];
    let mut publisher = world.open(&Settings::new("publisher"))?;
    let sent: Vec<Message> =
        (0..MESSAGES).map(|n| Message::new(&format!("work/{n:02}"), n.to_string(), 1)).collect();
    for message in &sent {
        publisher.publish(message)?;
    }
    let got = messages_of_all(&mut members, MESSAGES)?;
    assert!(got.iter().all(|mine| !mine.is_empty()), "both have work: {got:?}");
    let mut all = got.concat();
    all.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!(all, sent, "each message once in all");
    publisher.publish(&Message::new("end", "end", 1))?;
    for member in &mut members {
        assert_eq!(member.messages_until("end")?, [], "nothing comes twice");
    }
    Ok(())
}

/// A mebibyte in both directions in each QoS, byte for byte, with the library's own limits if they
/// allow it.
pub fn large(world: &World) -> Outcome {
    carry(world, |settings| settings)
}

/// The same with the library's limits raised.
pub fn large_with_room(world: &World) -> Outcome {
    carry(world, Settings::roomy)
}

fn carry(world: &World, adjust: fn(Settings) -> Settings) -> Outcome {
    let settings = Settings::new("subscriber").subscribed(&["large/+"], 2);
    let mut subscriber = world.open(&adjust(settings))?;
    let mut publisher = world.open(&adjust(Settings::new("publisher")))?;
    for qos in 0..=2 {
        let sent = Message::new(&format!("large/{qos}"), test_bytes(1 << 20), qos);
        publisher.publish(&sent)?;
        // Not assert_eq: it would print two mebibytes.
        let got = subscriber.message()?;
        assert!(got == sent, "{got:?} is not the {sent:?} that was sent");
    }
    Ok(())
}

/// Bytes of every value in an order without a pattern, the same in every run (xorshift64*).
fn test_bytes(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Over TLS, with a certificate that the client verifies.
pub fn tls(world: &World) -> Outcome {
    through(world, Kind::Tls)
}

/// Over TLS with a certificate of the client, which names its user.
pub fn certificate(world: &World) -> Outcome {
    through(world, Kind::Mutual)
}

/// Over WebSocket ([MQTT-6.0.0-3]).
pub fn websocket(world: &World) -> Outcome {
    through(world, Kind::Ws)
}

/// Over WebSocket over TLS.
pub fn websocket_tls(world: &World) -> Outcome {
    through(world, Kind::Wss)
}

/// Each QoS through a listener of a broker with all of them.
fn through(world: &World, kind: Kind) -> Outcome {
    let site = Site::plan(Io::Ring).start();
    let mut subscriber =
        world.open(&Settings::new("subscriber").at(&site, kind).subscribed(&["through"], 2))?;
    let shown = site.broker().ctl_json(&["clients", "show", "subscriber"]);
    assert_eq!(shown["listener"], kind.name());
    let certified = kind == Kind::Mutual;
    assert_eq!(shown["username"].as_str(), certified.then_some(CLIENT_NAME), "{shown}");
    let mut publisher = world.open(&Settings::new("publisher").at(&site, kind))?;
    for qos in 0..=2 {
        let message = Message::new("through", vec![qos; 8_000], qos);
        // Not text: mosquitto_pub takes it from its input.
        let message =
            Message { payload: message.payload.iter().map(|byte| b'a' + byte).collect(), ..message };
        publisher.publish(&message)?;
        assert_eq!(subscriber.message()?, message);
    }
    Ok(())
}
