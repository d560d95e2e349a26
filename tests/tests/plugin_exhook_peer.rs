//! What clients see of the real `amqtt` and of Grapnel: aMQTT's plugins for a directory
//! (`amqtt.contrib.ldap`) with a real one, also while it is away, hangs or returns; and invalid
//! topic filters.

#![allow(clippy::unwrap_used)]

mod exhook_common;
#[path = "../exhook/ldap/slapd.rs"]
mod slapd;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use exhook_common::{broker, folder, load, load_refused};
use grapnel_tests::client::Event;
use grapnel_tests::process::{Process, command};
use grapnel_tests::wire::encode;
use grapnel_tests::{Client, Connect, PATIENCE, Packet, Publish, Subscribe, Version, paho};
use slapd::{Directory, READER};
use tempfile::TempDir;

const LISTENER: &str = "listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:0\n";

/// aMQTT's file with both directory plugins, which log in to the directory with this password.
fn configuration(directory: &Directory, password: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let (reader, url) = (READER.0, directory.url());
    let server = format!(
        "    server: {url}\n    base_dn: dc=shop\n    user_attribute: uid\n    bind_dn: {reader}\n    bind_password: {password}\n"
    );
    let attributes = "    publish_attribute: mayPublish\n    subscribe_attribute: maySubscribe\n    receive_attribute: mayReceive\n";
    let plugins = format!(
        "plugins:\n  amqtt.contrib.ldap.UserAuthLdapPlugin:\n{server}  amqtt.contrib.ldap.TopicAuthLdapPlugin:\n{server}{attributes}"
    );
    std::fs::write(home.path().join("amqtt.yaml"), format!("{LISTENER}{plugins}")).unwrap();
    home
}

/// exhook's settings with that file.
fn settings(home: &TempDir, more: &[&str]) -> Vec<String> {
    let file = home.path().join("amqtt.yaml");
    let mut settings = vec!["driver=amqtt".to_owned(), format!("config=\"{}\"", file.display())];
    settings.extend(more.iter().map(|setting| (*setting).to_owned()));
    settings
}

/// Starts the real aMQTT with the file of that folder.
fn amqtt(home: &TempDir) -> Process {
    let mut amqtt = command(paho::python());
    amqtt.arg(folder().join("journal/peer.py")).arg(home.path().join("amqtt.yaml"));
    Process::start_listening("amqtt", amqtt)
}

/// Its address, once it is up.
#[track_caller]
fn address(amqtt: &Process) -> SocketAddr {
    let port = amqtt.wait_for_line("PORT", PATIENCE, |line| line.strip_prefix("PORT ")?.parse::<u16>().ok());
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The next event of a client. Both brokers have their own return codes for a refused login.
#[track_caller]
fn see(client: &mut Client) -> String {
    match client.next(PATIENCE) {
        Event::Packet(Packet::Connack { code: 0, .. }) => "is let in".to_owned(),
        Event::Packet(Packet::Connack { code: 4 | 5, .. }) => "is refused".to_owned(),
        Event::Packet(Packet::Connack { code, .. }) => format!("CONNACK {code}"),
        Event::Packet(Packet::Suback { codes, .. }) => format!("SUBACK {codes:?}"),
        Event::Packet(Packet::Unsuback { .. }) => "UNSUBACK".to_owned(),
        Event::Packet(Packet::Puback(_)) => "PUBACK".to_owned(),
        Event::Packet(Packet::Disconnect { code, .. }) => format!("DISCONNECT {code:#x}"),
        Event::Closed => "connection closed".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The result of a login.
#[track_caller]
fn login(address: SocketAddr, user: Option<&str>, password: Option<&str>) -> (Client, String) {
    let mut connect = Connect::new(Version::V311, user.unwrap_or("nameless"));
    connect.username = user.map(str::to_owned);
    connect.password = password.map(|password| password.as_bytes().to_vec());
    let mut client = Client::dial_at(address, Version::V311);
    client.send(&connect.encode());
    let seen = see(&mut client);
    (client, seen)
}

/// Logs in with the right password, which equals the name.
#[track_caller]
fn user(address: SocketAddr, name: &str) -> Client {
    let password = if name == "ann" { "ann's gehäim".to_owned() } else { format!("{name}'s") };
    let (client, seen) = login(address, Some(name), Some(&password));
    assert_eq!(seen, "is let in", "{name}");
    client
}

#[track_caller]
fn subscribe(client: &mut Client, filter: &str) -> String {
    let id = client.fresh_id();
    client.send(&Subscribe::to(filter, 1).encode(Version::V311, id));
    see(client)
}

/// What clients see of a broker while its directory is up.
fn logins_and_topics(address: SocketAddr) -> Vec<String> {
    let mut seen = Vec::new();
    let right = "ann's gehäim";
    for (name, password) in [
        (Some("ann"), Some(right)),
        (Some("ann"), Some("ann's")),
        (Some("ann"), Some("bob's")),
        (Some("ann"), Some("")),
        (Some("ann"), None),
        (Some("bob"), Some("bob's")),
        (Some("twin"), Some("twin's")),
        (Some("nobody"), Some(right)),
        (Some("nobody"), Some("")),
        (Some("äann"), Some(right)),
        (Some(""), Some(right)),
        (None, None),
        // The user name is inserted into the search unchanged, where a star matches anything.
        (Some("an*"), Some(right)),
    ] {
        seen.push(format!("{name:?} with {password:?} {}", login(address, name, password).1));
    }
    let [mut ann, mut bob, mut carol, mut twin] =
        ["ann", "bob", "carol", "twin"].map(|name| user(address, name));
    for (client, name, filters) in [
        (&mut ann, "ann", &["shop/ann/#", "shop/ann/x", "shop/#", "#", "end", "shop/bob/news"][..]),
        (&mut bob, "bob", &["shop/+/news", "end", "shop/+/+"]),
        (&mut carol, "carol", &["shop/carol/news", "end"]),
        (&mut twin, "twin", &["end"]),
    ] {
        for filter in filters {
            seen.push(format!("{name} subscribes to {filter}: {}", subscribe(client, filter)));
        }
    }
    // Neither carol nor twin may publish, ann may not publish in bob's name, and bob does not
    // receive carol's messages.
    for (client, topics) in [
        (&mut carol, &["shop/ann/news", "end"][..]),
        (&mut twin, &["shop/ann/news", "end"]),
        (&mut ann, &["shop/bob/news", "shop/carol/news", "shop/ann/news", "end"]),
    ] {
        for topic in topics {
            client.publish(&Publish::new(topic, *topic).qos(1));
        }
    }
    let received = bob.messages_until("end");
    seen.push(format!(
        "bob gets {:?}",
        received.iter().map(|message| message.topic.as_str()).collect::<Vec<_>>()
    ));
    seen
}

/// The expected result of [`logins_and_topics`].
const EXPECTED: [&str; 26] = [
    "Some(\"ann\") with Some(\"ann's gehäim\") is let in",
    "Some(\"ann\") with Some(\"ann's\") is refused",
    "Some(\"ann\") with Some(\"bob's\") is refused",
    "Some(\"ann\") with Some(\"\") is refused",
    "Some(\"ann\") with None is refused",
    "Some(\"bob\") with Some(\"bob's\") is let in",
    "Some(\"twin\") with Some(\"twin's\") is let in",
    "Some(\"nobody\") with Some(\"ann's gehäim\") is refused",
    "Some(\"nobody\") with Some(\"\") is refused",
    "Some(\"äann\") with Some(\"ann's gehäim\") is refused",
    "Some(\"\") with Some(\"ann's gehäim\") is refused",
    "None with None is refused",
    "Some(\"an*\") with Some(\"ann's gehäim\") is let in",
    "ann subscribes to shop/ann/#: SUBACK [1]",
    "ann subscribes to shop/ann/x: SUBACK [1]",
    "ann subscribes to shop/#: SUBACK [128]",
    "ann subscribes to #: SUBACK [128]",
    "ann subscribes to end: SUBACK [128]",
    "ann subscribes to shop/bob/news: SUBACK [128]",
    "bob subscribes to shop/+/news: SUBACK [1]",
    "bob subscribes to end: SUBACK [1]",
    "bob subscribes to shop/+/+: SUBACK [128]",
    "carol subscribes to shop/carol/news: SUBACK [128]",
    "carol subscribes to end: SUBACK [128]",
    "twin subscribes to end: SUBACK [128]",
    "bob gets [\"shop/ann/news\"]",
];

/// What clients see of a broker with its directory, without it, and after its return: a login, and
/// the actions of ann and bob, who stay connected and are returned.
#[track_caller]
fn life(address: SocketAddr, directory: &mut Directory) -> ([String; 4], [Client; 2]) {
    assert_eq!(logins_and_topics(address), EXPECTED);
    let [mut ann, mut bob] = ["ann", "bob"].map(|name| user(address, name));
    directory.kill();
    let entering = || login(address, Some("carol"), Some("carol's")).1;
    let down = entering();
    let subscribed = subscribe(&mut ann, "shop/ann/x");
    bob.send_publish(&Publish::new("shop/bob/news", "x").qos(1));
    let published = see(&mut bob);
    directory.restart();
    // The plugins have one connection to it, which they open at their start.
    ([down, subscribed, published, entering()], [ann, bob])
}

#[test]
fn logins_and_topics_are_the_same_under_amqtt_and_a_call_that_fails_ends_no_connection() {
    let mut directory = Directory::start();
    let home = configuration(&directory, READER.1);
    let peer = amqtt(&home);
    let (seen, _) = life(address(&peer), &mut directory);
    let closed = "connection closed";
    assert_eq!(seen, [closed, closed, "PUBACK", closed], "aMQTT");
    drop(peer);

    let broker = broker().start();
    load(&broker, &settings(&home, &[]));
    let (seen, mut clients) = life(broker.address(), &mut directory);
    assert_eq!(seen, ["CONNACK 3", "SUBACK [128]", "PUBACK", "CONNACK 3"]);
    // If the new plugins cannot start, the old ones stay; if they can, connected clients are not
    // affected.
    directory.kill();
    let refused = broker.ctl_refused(&["plugins", "reload", "exhook"]);
    assert!(refused.contains("Can't contact LDAP server"), "{refused}");
    directory.restart();
    broker.ctl_ok(&["plugins", "reload", "exhook"]);
    assert_eq!(subscribe(&mut clients[0], "shop/ann/x"), "SUBACK [1]");
    clients.iter_mut().for_each(Client::ping);
    assert_eq!(logins_and_topics(broker.address()), EXPECTED);
}

/// Neither broker starts if its plugins cannot log in to their directory.
#[test]
fn without_a_login_to_the_directory_neither_broker_starts() {
    let mut directory = Directory::start();
    let broker = broker().start();
    for (password, why) in [("wrong", "Invalid credentials"), (READER.1, "Can't contact LDAP server")] {
        let home = configuration(&directory, password);
        let mut peer = amqtt(&home);
        assert!(!peer.wait(PATIENCE).expect("aMQTT ends").success(), "{}", peer.log());
        let refused = load_refused(&broker, &settings(&home, &[]));
        assert!(refused.contains(why), "{refused}");
        directory.kill();
    }
}

/// The plugins wait for the directory in their only thread. In aMQTT that is the broker's; here it
/// is their worker's. The worker is ended, and its successor logs in again.
#[test]
fn a_directory_that_hangs_fails_calls_until_it_goes_on_where_amqtt_stands_still() {
    let directory = Directory::start();
    let home = configuration(&directory, READER.1);
    let peer = amqtt(&home);
    let mut bob = user(address(&peer), "bob");
    directory.hang();
    let mut ann = Client::dial_at(address(&peer), Version::V311);
    ann.send(&Connect::new(Version::V311, "ann").login("ann", "ann's gehäim").encode());
    // Only a timeout can show that nothing arrives.
    assert_eq!(ann.next(Duration::from_millis(300)), Event::Silence);
    bob.send_packet(&Packet::Pingreq);
    assert_eq!(bob.next(Duration::from_millis(300)), Event::Silence);
    directory.go_on();
    assert_eq!(see(&mut ann), "is let in");
    assert_eq!(bob.receive(), Packet::Pingresp);
    drop(peer);

    let broker = broker().start();
    load(&broker, &settings(&home, &["call_timeout=1s"]));
    let (address, mut bob) = (broker.address(), user(broker.address(), "bob"));
    directory.hang();
    let mut ann = Client::dial_at(address, Version::V311);
    ann.send(&Connect::new(Version::V311, "ann").login("ann", "ann's gehäim").encode());
    bob.ping();
    assert_eq!(see(&mut ann), "CONNACK 3");
    assert_eq!(subscribe(&mut bob, "end"), "SUBACK [128]");
    directory.go_on();
    let until = Instant::now() + PATIENCE;
    while login(address, Some("ann"), Some("ann's gehäim")).1 != "is let in" {
        assert!(Instant::now() < until, "{}", broker.process().log());
    }
    assert_eq!(subscribe(&mut bob, "end"), "SUBACK [1]");
}

/// What a client sees that subscribes to this filter or unsubscribes from it.
#[track_caller]
fn filter(address: SocketAddr, version: Version, filter: &str) -> [Vec<String>; 2] {
    let bytes = [Subscribe::to(filter, 1).encode(version, 1), encode::unsubscribe(version, 1, &[filter])];
    bytes.map(|bytes| {
        let (mut client, connack) = Client::attempt_at(address, &Connect::new(version, "c").login("u", "p"));
        assert_eq!(connack.code, 0);
        client.send(&bytes);
        let first = see(&mut client);
        if first.starts_with("DISCONNECT") { vec![first, see(&mut client)] } else { vec![first] }
    })
}

/// Sections 4.7.1 and 4.7.3 define valid filters, and a protocol error ends the connection:
/// [MQTT-4.8.0-1] of 3.1.1, [MQTT-4.13.1-1] of 5.0. aMQTT answers instead.
#[test]
fn a_filter_that_is_not_valid_ends_the_connection_and_not_so_in_amqtt() {
    let home = tempfile::tempdir().unwrap();
    let plugin = "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n";
    std::fs::write(home.path().join("amqtt.yaml"), format!("{LISTENER}{plugin}")).unwrap();
    let peer = amqtt(&home);
    let theirs = address(&peer);
    let broker = broker().start();
    let closed = "connection closed";
    for (name, answer) in
        [("a/#/b", "SUBACK [128]"), ("#a", "SUBACK [128]"), ("+a", "SUBACK [128]"), ("", "SUBACK [1]")]
    {
        assert_eq!(filter(theirs, Version::V311, name), [[answer], ["UNSUBACK"]], "{name}");
        assert_eq!(filter(broker.address(), Version::V311, name), [[closed], [closed]], "{name}");
        let both = ["DISCONNECT 0x8f", closed];
        assert_eq!(filter(broker.address(), Version::V5, name), [both, both], "{name}");
    }
}
