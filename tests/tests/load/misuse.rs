//! Actions of one client, or many, that once stalled the broker, made it grow without bound, or
//! lost messages of others. Each runs on two shards (the last on three), beside bystanders on every
//! shard that exchange messages and ping. Every test asserts the correct behaviour, and prints one
//! row of a table: the bystanders' times before and during the action, and the broker's memory.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use grapnel_tests::bystander::{Bystanders, homes};
use grapnel_tests::client::{Connack, Event};
use grapnel_tests::flood::{allow_open_files, known, pour};
use grapnel_tests::storm::Storm;
use grapnel_tests::wire::property::{AUTH_DATA, AUTH_METHOD, RECEIVE_MAXIMUM};
use grapnel_tests::wire::{Properties, Value};
use grapnel_tests::{
    Broker, Client, Connect, PATIENCE, Packet, Publish, Socket, Subscribe, Version, Will, plugin,
};

use crate::{connect_all, load_plugin};

const MIB: u64 = 1 << 20;
/// Freed memory that allocators keep, and the memory of the bystanders.
const SLACK: u64 = 24 * MIB;

fn hello(broker: &Broker, name: &str) -> Client {
    Client::hello(broker, Version::V5, name)
}

/// The filters `PREFIX/0` and so on.
fn filters(prefix: &str, numbers: std::ops::Range<usize>) -> Subscribe {
    let filters = numbers.map(|n| (format!("{prefix}/{n}"), 0)).collect();
    Subscribe { filters, ..Subscribe::default() }
}

fn counter(broker: &Broker, name: &str) -> u64 {
    let metrics = broker.ctl_json(&["metrics", name]);
    let rows = metrics["metrics"].as_array().expect("a list").iter();
    rows.filter_map(|row| row["value"].as_u64()).sum()
}

/// As many takeovers are accepted as packets of the session may wait, the others are refused with
/// "server busy". The waiting message takes effect once, and after it the will of each accepted
/// client, once.
#[test]
fn row_01_take_overs_of_a_session_with_a_publish_that_waits() {
    const CLIENTS: usize = 3_000;
    allow_open_files(CLIENTS as u64 + 1_000);
    let broker = Broker::builder().grapnel_only().start();
    load_plugin(&broker, "late", &[]);
    let mut watcher = hello(&broker, "watcher");
    watcher.subscribe("will", 0);
    watcher.subscribe("held/x", 1);
    let owned = || Connect::new(Version::V5, "owner").persistent();
    let mut owner = Client::connect(&broker, &owned());
    owner.send_publish(&Publish::new("held/x", "waits").qos(1));
    owner.ping();
    let bystanders = Bystanders::start(&broker);
    let what = format!("{CLIENTS} take-overs, each with a will, of a session whose publish waits");
    let beside = bystanders.beside("1", &what, || {
        Storm::of(&broker, CLIENTS, |n| owned().will(Will::new("will", &n.to_string())))
    });
    assert!(beside.grown_max() < 64 * MIB, "{} bytes more", beside.grown_max());
    let codes = &beside.done.codes;
    let served: BTreeSet<String> =
        codes.iter().filter(|(_, code)| *code == 0).map(|(n, _)| n.to_string()).collect();
    let busy = codes.iter().filter(|(_, code)| *code == 0x89).count();
    assert_eq!(served.len() + busy, CLIENTS, "served or refused: {codes:?}");
    assert!(served.len() > 100, "{} served", served.len());

    watcher.expect_no_message();
    hello(&broker, "releases").publish(&Publish::new("release", "").qos(1));
    let message = watcher.message();
    assert_eq!((message.topic.as_str(), message.text().as_str()), ("held/x", "waits"));
    // All accepted clients but one have lost the session to the next one; that one does now.
    let mut wills: BTreeSet<String> = (1..served.len()).map(|_| watcher.receive_publish().text()).collect();
    let (_last, connack) = Client::attempt(&broker, &owned());
    assert!(connack.session_present, "it is the session whose publish waited: {connack:?}");
    wills.insert(watcher.receive_publish().text());
    assert_eq!(wills, served, "the will of each, once");
    watcher.expect_no_message();
    bystanders.finish();
}

/// Filters beyond `filters_per_subscribe_max` are refused one by one. If the operator allows as
/// many, all are granted, and work.
#[test]
fn row_02_subscribe_with_very_many_filters() {
    const RAISED: &str = "filters_per_subscribe_max = 65535\nsubscriptions_max = 100000\n";
    for (row, settings, count, granted) in [
        ("2", "", 8_000, 1_024),
        ("2", RAISED, 8_000, 8_000),
        ("2", "", 250_000, 1_024),
        ("2", RAISED, 250_000, 65_535),
    ] {
        let config = format!("[limits]\npacket_bytes_max = 4194304\n{settings}");
        let broker = Broker::builder().grapnel_only().config(&config).start();
        let bystanders = Bystanders::start(&broker);
        let mut greedy = hello(&broker, "greedy");
        let packet = filters("many", 0..count);
        let what = format!("SUBSCRIBE with {count} filters, of which {granted} are allowed");
        let codes = bystanders.beside(row, &what, || greedy.subscribe_all(&packet)).done;
        assert_eq!(codes.len(), count);
        assert!(codes[..granted].iter().all(|code| *code == 0), "those that are allowed are granted");
        assert!(codes[granted..].iter().all(|code| *code == 0x97), "the others exceed the quota");
        let mut publisher = hello(&broker, "publisher");
        for n in [count - 1, granted, 0, granted - 1] {
            publisher.publish(&Publish::new(&format!("many/{n}"), n.to_string()));
        }
        let received = [greedy.receive_publish().text(), greedy.receive_publish().text()];
        let mut expected = vec!["0".to_owned(), (granted - 1).to_string()];
        if granted == count {
            // The last granted filter works, and the refused ones after it do not.
            expected.insert(0, (count - 1).to_string());
            expected.truncate(2);
        }
        assert_eq!(received, expected[..]);
        bystanders.finish();
    }
}

fn requests_rounds(broker: &Broker, name: String) -> Client {
    let mut client = Client::dial(broker, Version::V5);
    let connect = Connect::new(Version::V5, &name).with(AUTH_METHOD, Value::text("late"));
    client.send(&connect.encode());
    client
}

#[track_caller]
fn another_round(client: &mut Client) {
    let packet = client.receive();
    assert!(matches!(packet, Packet::Auth { code: 0x18, .. }), "{packet:?} instead of AUTH");
}

#[track_caller]
fn answers(client: &mut Client) -> Packet {
    another_round(client);
    let properties =
        Properties(vec![(AUTH_METHOD, Value::text("late")), (AUTH_DATA, Value::Binary(b"second".to_vec()))]);
    client.send_packet(&Packet::Auth { code: 0x18, properties });
    client.receive()
}

/// A client that answers is admitted, one that closes frees its place at once, and a silent one
/// after a timeout, however often.
#[test]
fn row_03_deferred_authentication_with_another_round() {
    const CLIENTS: usize = 60;
    // All of them may have the same home shard.
    let config = format!("[limits]\nconnects_pending_max = {CLIENTS}\nconnect_timeout_ms = 1000\n");
    let broker = Broker::builder().grapnel_only().config(&config).start();
    load_plugin(&broker, "late", &[]);
    let bystanders = Bystanders::start(&broker);
    let what = format!("3 times {CLIENTS} clients in 2 rounds of AUTH each answer, close, or stay silent");
    let clients = |kind: &str| -> Vec<Client> {
        (0..CLIENTS).map(|n| requests_rounds(&broker, format!("rounds {kind} {n}"))).collect()
    };
    let beside = bystanders.beside("3", &what, || {
        let all_answer = || {
            for client in &mut clients("answers") {
                let packet = answers(client);
                assert!(matches!(packet, Packet::Connack { code: 0, .. }), "{packet:?} instead of CONNACK");
            }
        };
        for _ in 0..3 {
            all_answer();
            let mut closing = clients("closes");
            closing.iter_mut().for_each(another_round);
            closing.into_iter().for_each(Client::drop_connection);
            let mut silent = clients("silent");
            silent.iter_mut().for_each(another_round);
            for client in &mut silent {
                loop {
                    match client.next(PATIENCE) {
                        Event::Closed => break,
                        Event::Packet(Packet::Connack { code, .. }) if code >= 0x80 => {}
                        other => panic!("{other:?} instead of the end of a silent client"),
                    }
                }
            }
        }
        all_answer();
    });
    assert!(beside.grown_max() < SLACK);
    bystanders.finish();
}

/// Every subscription is still there after its recheck.
#[test]
fn row_04_a_reload_of_a_slow_authorizer() {
    const SUBSCRIPTIONS: usize = 6_000;
    let broker = Broker::builder().grapnel_only().start();
    load_plugin(&broker, "late", &[]);
    let mut subscriber = hello(&broker, "subscriber");
    for first in (0..SUBSCRIPTIONS).step_by(1_000) {
        let codes = subscriber.subscribe_all(&filters("slow", first..first + 1_000));
        assert_eq!(codes, [0; 1_000]);
    }
    let bystanders = Bystanders::start(&broker);
    let authorized = || counter(&broker, "slow_authorized");
    let what = format!("reload of an authorizer that takes 2 ms for each of {SUBSCRIPTIONS} subscriptions");
    let beside = bystanders.beside("4", &what, || {
        let before = authorized();
        broker.ctl_ok(&["plugins", "reload", "late", "--set", "delay_ms=2"]);
        let deadline = Instant::now() + 2 * PATIENCE;
        while authorized() < before + SUBSCRIPTIONS as u64 {
            assert!(Instant::now() < deadline, "{} of {SUBSCRIPTIONS} asked about", authorized() - before);
            bystanders.settle();
        }
    });
    assert!(beside.grown_max() < SLACK);
    let mut publisher = hello(&broker, "publisher");
    for n in 0..SUBSCRIPTIONS {
        publisher.publish(&Publish::new(&format!("slow/{n}"), ""));
    }
    let topics: BTreeSet<String> = (0..SUBSCRIPTIONS).map(|_| subscriber.receive_publish().topic).collect();
    assert_eq!(topics.len(), SUBSCRIPTIONS);
    bystanders.finish();
}

/// All filters are refused, also those of the largest accepted SUBSCRIBE, and there is no
/// subscription.
#[test]
fn row_05_a_ticket_that_refuses_very_many_filters() {
    const CLIENTS: usize = 50;
    let broker = Broker::builder().grapnel_only().start();
    load_plugin(&broker, "late", &[]);
    let bystanders = Bystanders::start(&broker);
    let what = format!("{CLIENTS} clients whose 129, then 1024 filters are refused through a ticket");
    let mut publisher = hello(&broker, "publisher");
    bystanders.beside("5", &what, || {
        for n in 0..CLIENTS {
            let mut client = hello(&broker, &format!("refused {n}"));
            for count in [129, 1_024] {
                let codes = client.subscribe_all(&filters("refused", 0..count));
                assert_eq!(codes, vec![0x87; count]);
            }
            for last in [0, 128, 1_023] {
                // No matching subscribers.
                assert_eq!(publisher.publish(&Publish::new(&format!("refused/{last}"), "").qos(1)), 0x10);
            }
            client.expect_no_message();
            client.disconnect();
        }
    });
    bystanders.finish();
}

const ACCESS: &str = "\
topic readwrite bystander/#
user ann
topic readwrite secret/#
topic readwrite public/#
user bob
topic readwrite public/#
";

/// A client that connects with another principal's client identifier gets a new session: no message
/// that was queued for, in flight to, or later sent to the other one.
#[test]
fn row_06_another_user_comes_with_the_client_identifier() {
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let file = folder.path().join("acl");
    std::fs::write(&file, ACCESS).expect("the directory is ours");
    let path = plugin::argument(&file);
    let config = format!("[plugins.acl-file]\nrequired = true\nconfig = {{ path = {path:?} }}");
    let broker = Broker::builder().grapnel_only().config(&config).start();
    let bystanders = Bystanders::start(&broker);
    let user = |name: &str, n: usize| {
        Connect::new(Version::V5, &format!("dashboard {n}")).persistent().login(name, "password")
    };
    let mut publisher = Client::connect(&broker, &Connect::new(Version::V5, "publisher").login("ann", ""));
    let mut publish = |topic: &str, text: &str| {
        let code = publisher.publish(&Publish::new(topic, text).qos(1));
        assert!([0, 0x10].contains(&code), "{topic}: {code:#x}");
    };
    bystanders.beside("6", "200 sessions of one user, each taken by another who may not read hers", || {
        for n in 0..200 {
            let mut ann = Client::connect(&broker, &user("ann", n));
            ann.subscribe("secret/#", 1);
            publish("secret/a", "in flight");
            assert_eq!(ann.receive_publish().text(), "in flight");
            let connected = (n % 2 == 0).then_some(ann);
            publish("secret/a", "queued");
            let (mut bob, connack) = Client::attempt(&broker, &user("bob", n));
            assert_eq!((connack.code, connack.session_present), (0, false));
            if let Some(mut ann) = connected {
                assert_eq!(ann.receive_publish().text(), "queued");
                assert_eq!(ann.end(), Some(0x8E), "session taken over");
            }
            assert_eq!(bob.subscribe_all(&Subscribe::to("secret/#", 1)), [0x87]);
            bob.subscribe("public/#", 1);
            publish("secret/a", "live");
            publish("public/a", "for everybody");
            assert_eq!(bob.message().text(), "for everybody");
            bob.expect_no_message();
            let (ann, Connack { code, session_present, .. }) = Client::attempt(&broker, &user("ann", n));
            assert_eq!((code, session_present), (0, false), "nothing of hers is left for anybody");
            ann.disconnect();
            assert_eq!(bob.end(), Some(0x8E));
        }
    });
    bystanders.finish();
}

/// The client is no longer read, uses little memory, and is closed when it has read nothing for the
/// timeout.
#[test]
fn row_07_pubrel_without_end_from_a_client_that_never_reads() {
    let config = "[limits]\nwrite_stall_timeout_ms = 3000\n";
    let broker = Broker::builder().grapnel_only().config(config).start();
    let bystanders = Bystanders::start(&broker);
    let flood = [0x62, 2, 0x30, 0x39].repeat(16_384);
    let beside =
        bystanders.beside("7", "500 MiB of PUBREL with unknown identifiers, nothing is read", || {
            let mut socket = known(&broker, "floods");
            let until = Instant::now() + PATIENCE;
            let sent = pour(&mut socket, &flood, 500 * MIB as usize, until) as u64;
            assert!(Instant::now() < until, "it is not closed");
            sent
        });
    assert!(beside.done < 100 * MIB, "{} MiB were taken", beside.done / MIB);
    assert!(beside.grown_max() < SLACK, "{} bytes more", beside.grown_max());
    bystanders.finish();
}

/// Publishes pass the readers, which store nothing of them, and continue to the end when their
/// clients do.
#[test]
fn row_08_very_many_readers_of_retained_messages_are_open() {
    const CLIENTS: usize = 10;
    const MESSAGES: usize = 500;
    const PUBLISHES: usize = 50_000;
    let broker = Broker::builder().grapnel_only().start();
    let mut publisher = hello(&broker, "publisher");
    for n in 0..MESSAGES {
        publisher.publish(&Publish::new(&format!("kept/{n}"), n.to_string()).retain());
    }
    publisher.ping();
    let mut readers: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let connect = Connect::new(Version::V5, &format!("reader {n}"));
            let mut client = Client::connect(&broker, &connect.with(RECEIVE_MAXIMUM, Value::U16(1)));
            let filters = (0..MESSAGES).map(|n| (format!("kept/{n}"), 1)).collect();
            let codes = client.subscribe_all(&Subscribe { filters, ..Subscribe::default() });
            assert_eq!(codes, [1; MESSAGES]);
            client
        })
        .collect();
    let bystanders = Bystanders::start(&broker);
    let what = format!("{PUBLISHES} publishes of 1 KiB beside {} open retained readers", CLIENTS * MESSAGES);
    let beside = bystanders.beside("8", &what, || {
        let publish = Publish::new("any/topic", [0; 1024]).encode(Version::V5);
        (0..PUBLISHES).for_each(|_| publisher.send(&publish));
        publisher.ping();
    });
    assert!(beside.grown_max() < SLACK, "{} bytes more", beside.grown_max());
    for reader in &mut readers {
        let topics: BTreeSet<String> = (0..MESSAGES).map(|_| reader.message().topic).collect();
        assert_eq!(topics.len(), MESSAGES, "each retained message once");
        reader.expect_no_message();
    }
    bystanders.finish();
}

/// Every subscription and every publish is fast with an empty store, and each message reaches its
/// subscription.
#[test]
fn row_08_very_many_wildcard_filters_and_an_empty_store() {
    const CLIENTS: usize = 10;
    const EACH: usize = 10_000;
    let broker = Broker::builder().grapnel_only().start();
    let bystanders = Bystanders::start(&broker);
    let mut publisher = hello(&broker, "publisher");
    let what = format!("{} wildcard filters are subscribed, and published to", CLIENTS * EACH);
    let clients = bystanders.beside("8", &what, || {
        let subscribe = |n: usize| {
            let mut client = hello(&broker, &format!("subscriber {n}"));
            for first in (0..EACH).step_by(1_000) {
                let filters = (first..first + 1_000).map(|m| (format!("wild/{n}/{m}/+"), 0)).collect();
                let codes = client.subscribe_all(&Subscribe { filters, ..Subscribe::default() });
                assert_eq!(codes, [0; 1_000]);
            }
            client
        };
        let clients: Vec<Client> = (0..CLIENTS).map(subscribe).collect();
        for m in 0..EACH {
            publisher.publish(&Publish::new(&format!("wild/{}/{m}/x", m % CLIENTS), m.to_string()));
        }
        publisher.ping();
        clients
    });
    for (n, mut client) in clients.done.into_iter().enumerate() {
        for m in (n..EACH).step_by(CLIENTS) {
            assert_eq!(client.receive_publish().text(), m.to_string());
        }
    }
    bystanders.finish();
}

/// They are charged for what they send; no connected client loses a packet of which only half has
/// arrived.
#[test]
fn row_09_sockets_that_send_a_megabyte_before_connect() {
    const STRANGERS: usize = 67;
    let broker = Broker::builder().grapnel_only().start();
    let mut clients: Vec<Client> = (0..20).map(|n| hello(&broker, &format!("known {n}"))).collect();
    let publish = Publish::new("halves", vec![b'x'; 20_000]).encode(Version::V5);
    let (beginning, end) = publish.split_at(10_000);
    clients.iter_mut().for_each(|client| client.send(beginning));
    let bystanders = Bystanders::start(&broker);
    let what = format!("{STRANGERS} sockets with a CONNECT of 1 MiB or of 128 KiB that does not end");
    let beside = bystanders.beside("9", &what, || -> Vec<Socket> {
        let until = Instant::now() + PATIENCE;
        (0..STRANGERS)
            .map(|n| {
                let mut socket = broker.connect();
                // All but the last byte of a CONNECT of the maximum packet size, or of the maximum
                // CONNECT size.
                let (announced, bytes): (&[u8], _) = if n % 2 == 0 {
                    (&[0x10, 0xFB, 0xFF, 0x3F], MIB as usize - 5)
                } else {
                    (&[0x10, 0xB8, 0xFF, 0x07], 131_000)
                };
                // It may be closed at any byte.
                let _ = socket.write_all(announced);
                pour(&mut socket, &[0; 1000], bytes - 1000, until);
                socket
            })
            .collect()
    });
    assert!(beside.grown_max() < SLACK, "{} bytes more", beside.grown_max());
    for client in &mut clients {
        client.send(end);
        client.ping();
    }
    bystanders.finish();
}

/// Each message is delivered live, its publisher receives in order the code for "not stored" (0x97,
/// quota exceeded), and each is counted.
#[test]
fn row_10_publishes_to_a_retained_store_that_is_full() {
    const ROUNDS: usize = 500;
    let broker = Broker::builder().grapnel_only().config("[limits]\nretained_messages_max = 50\n").start();
    let mut publisher = hello(&broker, "publisher");
    let fills = 200 * broker.shards() as u64;
    for n in 0..fills {
        publisher.publish(&Publish::new(&format!("fills/{n}"), "x").qos(1).retain());
    }
    let before = counter(&broker, "messages_retained_refused");
    assert_eq!(before, fills - 50 * broker.shards() as u64, "all shards are full");
    let mut live = hello(&broker, "live");
    live.subscribe("more/#", 1);
    let bystanders = Bystanders::start(&broker);
    let what = format!("{ROUNDS} times 8 retained messages at once to a store that is full");
    bystanders.beside("10", &what, || {
        for round in 0..ROUNDS {
            let sent = [0; 8].map(|_| {
                let publish = Publish::new(&format!("more/{round}"), round.to_string()).qos(1).retain();
                publisher.send_publish(&publish)
            });
            for id in sent {
                let packet = publisher.receive();
                let right = matches!(&packet, Packet::Puback(ack) if Some(ack.id) == id && ack.code == 0x97);
                assert!(right, "{packet:?} instead of PUBACK {id:?}");
                assert_eq!(live.message().text(), round.to_string());
            }
        }
    });
    live.expect_no_message();
    assert_eq!(counter(&broker, "messages_retained_refused"), before + 8 * ROUNDS as u64);
    let mut late = hello(&broker, "late");
    late.subscribe("more/#", 1);
    late.expect_no_message();
    bystanders.finish();
}

/// Only 0x00 discards the will [MQTT-3.14.4-3].
#[test]
fn row_11_disconnects_with_every_reason_and_a_will() {
    const ROUNDS: usize = 100;
    const REASONS: [u8; 7] = [0x00, 0x04, 0x80, 0x81, 0x82, 0x93, 0x97];
    let broker = Broker::builder().grapnel_only().start();
    let mut watcher = hello(&broker, "watcher");
    watcher.subscribe("will", 0);
    let bystanders = Bystanders::start(&broker);
    let what = format!("{ROUNDS} clients with a will leave with each of the reasons {REASONS:02x?}");
    bystanders.beside("11", &what, || {
        for round in 0..ROUNDS {
            for code in REASONS {
                let connect = Connect::new(Version::V5, &format!("leaves {code} {round}"));
                let will = Will::new("will", &format!("{code} {round}"));
                let mut client = Client::connect(&broker, &connect.will(will));
                client.send_packet(&Packet::Disconnect { code, properties: Properties::default() });
                assert_eq!(client.end(), None);
            }
        }
    });
    let published = ROUNDS * (REASONS.len() - 1);
    let wills: BTreeSet<String> = (0..published).map(|_| watcher.receive_publish().text()).collect();
    assert_eq!(wills.len(), published, "each once");
    assert!(wills.iter().all(|will| !will.starts_with("0 ")), "0x00 discards it");
    watcher.expect_no_message();
    bystanders.finish();
}

/// Connects so many clients whose home is another shard than `shard`.
fn connect_elsewhere(broker: &Broker, count: usize, shard: usize) -> Vec<(String, Client)> {
    const AT_ONCE: usize = 6_000;
    let mut clients = Vec::new();
    for first in (0..).step_by(AT_ONCE) {
        let wanted = AT_ONCE.min((count - clients.len()) * 2);
        let names: Vec<String> = (first..first + wanted).map(|n| format!("publisher {n}")).collect();
        let new = connect_all(broker, &names);
        let homes = homes(broker);
        clients.extend(names.into_iter().zip(new).filter(|(name, _)| homes[name] != shard));
        clients.truncate(count);
        if clients.len() == count {
            break;
        }
    }
    clients
}

/// A client whose home is this shard.
fn connect_at(broker: &Broker, name: &str, shard: usize) -> Client {
    let at_home = |n| {
        let name = format!("{name} {n}");
        let client = hello(broker, &name);
        (homes(broker)[&name] == shard).then_some(client)
    };
    (0..100).find_map(at_home).expect("some name lives there")
}

/// The others continue without delay, and when the shard continues, every message arrives and is
/// acknowledged.
#[test]
fn row_12_very_many_publishers_wait_for_a_shard_that_is_held() {
    const PUBLISHERS: usize = 15_000;
    const HELD: usize = 2;
    allow_open_files(19_000);
    let config = format!("[limits]\nlane_envelopes_max = 64\nsession_queue_messages_max = {PUBLISHERS}\n");
    let broker = Broker::builder().grapnel_only().shards(3).config(&config).start();
    load_plugin(&broker, "sleeper", &["sleep_ms=8000", "topic_prefix=\"sleep\""]);
    let mut subscriber = connect_at(&broker, "subscriber", HELD);
    subscriber.subscribe("lane/#", 1);
    let mut holder = connect_at(&broker, "holder", HELD);
    let mut publishers = connect_elsewhere(&broker, PUBLISHERS, HELD);
    let bystanders = Bystanders::start_on(&broker, &[0, 1]);
    let what = format!("{PUBLISHERS} publishers wait for the lane of one held shard of 3");
    bystanders.beside("12", &what, || {
        holder.send_publish(&Publish::new("sleep", "").qos(1));
        for (name, publisher) in &mut publishers {
            publisher.send_publish(&Publish::new("lane/x", name.as_str()).qos(1));
        }
        assert_eq!(publishers[PUBLISHERS - 1].1.next(Duration::from_secs(2)), Event::Silence, "it waits");
    });
    let mut missing: BTreeSet<String> = publishers.iter().map(|(name, _)| name.clone()).collect();
    while !missing.is_empty() {
        let name = subscriber.message().text();
        assert!(missing.remove(&name), "{name} came twice");
    }
    for (name, publisher) in &mut publishers {
        let packet = publisher.receive();
        assert!(matches!(&packet, Packet::Puback(ack) if ack.code == 0), "{name}: {packet:?}");
    }
    bystanders.finish();
}
