//! The C plugin c-journal on live traffic: acknowledged messages are in the file, in order, and it
//! is loaded and unloaded like any other plugin.

use std::path::Path;

use grapnel_tests::plugin::Compiled;
use grapnel_tests::process::command;
use grapnel_tests::wire::property::REASON_STRING;
use grapnel_tests::{Broker, Client, PATIENCE, Packet, Publish, Version, scenario};
use rustix::fs::{FileType, Mode};

/// The records of a journal: place, topic, payload.
#[track_caller]
fn records(file: &Path) -> Vec<(String, String, String)> {
    let bytes = std::fs::read(file).expect("the journal is there");
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let head = std::str::from_utf8(&rest[..end]).expect("the head of a record is text");
        let words: Vec<&str> = head.split(' ').collect();
        let bytes = |at: usize| words[at].parse::<usize>().expect("a number of bytes");
        let (topic, payload) = (bytes(2), bytes(3));
        let body = &rest[end + 1..];
        let text = |from: usize, len: usize| String::from_utf8_lossy(&body[from..from + len]).into_owned();
        records.push((words[0].to_owned(), text(0, topic), text(topic, payload)));
        assert_eq!(body[topic + payload], b'\n', "{head}");
        rest = &body[topic + payload + 1..];
    }
    assert!(rest.is_empty(), "a record has no end");
    records
}

fn load(broker: &Broker, plugin: &Compiled, file: &Path) {
    let file = format!("file={:?}", file.display().to_string());
    let prefix = r#"topic_prefix="orders/""#;
    broker.ctl_ok(&["plugins", "load", plugin.path(), "--set", &file, "--set", prefix, "--once"]);
}

scenario! {
    /// Loaded from C, reloaded and unloaded with the same two clients; each acknowledged message is
    /// in the file.
    fn acknowledged_messages_are_in_the_file(broker in Broker::builder().grapnel_only()) {
        let plugin = Compiled::of("c-journal");
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let file = folder.path().join("orders");
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("#", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        load(broker, &plugin, &file);
        let mut seen = Vec::new();
        let mut pass = |topic: &str, payload: &str| {
            assert_eq!(publisher.publish(&Publish::new(topic, payload).qos(1)), 0);
            let message = subscriber.message();
            assert_eq!((message.topic.as_str(), message.text().as_str()), (topic, payload));
            message.properties.user("journal")
        };
        for payload in ["one", "", "three\nlines"] {
            let marks = pass("orders/a", payload);
            seen.push((marks[0].clone(), "orders/a".to_owned(), payload.to_owned()));
            assert_eq!(records(&file), seen, "it is there when it has been acknowledged");
        }
        assert_eq!(pass("else", "not journalled"), Vec::<String>::new());
        broker.ctl_ok(&["plugins", "reload", "c-journal"]);
        let marks = pass("orders/b", "four");
        assert_eq!(marks, [seen[2].0.replace("-3", "-4")], "it goes on counting");
        seen.push((marks[0].clone(), "orders/b".to_owned(), "four".to_owned()));
        assert_eq!(records(&file), seen, "it appends");
        broker.ctl_ok(&["plugins", "unload", "c-journal"]);
        assert_eq!(pass("orders/c", "five"), Vec::<String>::new());
        assert_eq!(records(&file), seen);
    }
}

scenario! {
    /// Publishes in flight keep their order, whichever of them waits for the disk.
    fn the_file_has_the_order_of_the_messages(broker in Broker::builder().grapnel_only()) {
        let plugin = Compiled::of("c-journal");
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let file = folder.path().join("orders");
        load(broker, &plugin, &file);
        let mut subscriber = Client::hello(broker, Version::V311, "s");
        subscriber.subscribe("#", 1);
        let mut publisher = Client::hello(broker, Version::V311, "p");
        for n in 0..50u16 {
            let topic = if n % 3 == 0 { "else" } else { "orders/x" };
            publisher.send_publish(&Publish::new(topic, n.to_string()).qos(1).id(n + 1));
        }
        let received: Vec<String> = (0..50).map(|_| subscriber.message().text()).collect();
        assert_eq!(received, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
        let written: Vec<String> = records(&file).into_iter().map(|(_, _, payload)| payload).collect();
        assert_eq!(written, (0..50).filter(|n| n % 3 != 0).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

/// Limits the size of files that the broker may write; `unlimited` for any.
fn limit_files(broker: &Broker, bytes: &str) {
    let pid = broker.process().id().to_string();
    let limit = format!("--fsize={bytes}:unlimited");
    let limited = command("prlimit").args(["--pid", &pid, &limit]).status().expect("prlimit is there");
    assert!(limited.success());
}

/// A write that a limit cuts short leaves nothing behind: refused messages are not in the file, and
/// acknowledged ones can be read. Numbers continue over restarts, and a record that a crash has
/// truncated is removed.
#[test]
fn the_file_has_only_whole_records_after_interrupted_writes() {
    let plugin = Compiled::of("c-journal");
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let file = folder.path().join("orders");
    // A client may have another home shard after a restart, and numbers count per shard.
    let start = || Broker::builder().grapnel_only().start_with_shards(1).expect("Grapnel runs on one shard");
    let size = || std::fs::metadata(&file).expect("it is there").len();
    let broker = start();
    load(&broker, &plugin, &file);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    let mut publish = |payload: &str| publisher.publish(&Publish::new("orders/a", payload).qos(1));
    assert_eq!(publish("one"), 0x10, "nobody subscribes");
    let whole = size();
    limit_files(&broker, &(whole + 20).to_string());
    for _ in 0..2 {
        assert_eq!(publish("cut short somewhere in the middle"), 0x97);
        assert_eq!(size(), whole, "nothing of it is left");
    }
    limit_files(&broker, "unlimited");
    assert_eq!(publish("two"), 0x10);
    let payloads = || records(&file).into_iter().map(|(_, _, payload)| payload).collect::<Vec<_>>();
    let number = |at: usize| {
        let (place, ..) = records(&file).swap_remove(at);
        let (shard, number) = place.split_once('-').expect("SHARD-NUMBER");
        (shard.to_owned(), number.parse::<u64>().expect("a number"))
    };
    assert_eq!(payloads(), ["one", "two"]);

    drop(publisher);
    drop(broker);
    let mut torn = std::fs::read(&file).expect("it is there");
    torn.extend(b"0-99 1700000000000 8 100\norders/a and then the power went");
    std::fs::write(&file, torn).expect("the folder is ours");
    let broker = start();
    load(&broker, &plugin, &file);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    assert_eq!(publisher.publish(&Publish::new("orders/a", "three").qos(1)), 0x10);
    assert_eq!(payloads(), ["one", "two", "three"]);
    let (two, three) = (number(1), number(2));
    assert_eq!((&three.0, three.1), (&two.0, two.1 + 1), "it goes on counting");

    // A file that is no journal is not changed.
    let foreign = folder.path().join("letter");
    std::fs::write(&foreign, "Dear reader, this is a letter.\n").expect("the folder is ours");
    let setting = format!("file={:?}", foreign.display().to_string());
    let refused = broker.ctl_refused(&["plugins", "reload", "c-journal", "--set", &setting]);
    assert!(refused.contains("file: from byte 0 on it holds no records"), "{refused}");
    assert_eq!(std::fs::read(&foreign).expect("it is there"), b"Dear reader, this is a letter.\n");
}

/// One broker writes a file. A reload does not release the file; the end of the broker does.
#[test]
fn a_file_is_used_by_one_broker() {
    let plugin = Compiled::of("c-journal");
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let file = folder.path().join("orders");
    let (first, second) =
        (Broker::builder().grapnel_only().start(), Broker::builder().grapnel_only().start());
    load(&first, &plugin, &file);
    first.ctl_ok(&["plugins", "reload", "c-journal"]);
    let setting = format!("file={:?}", file.display().to_string());
    let refused = second.ctl_refused(&["plugins", "load", plugin.path(), "--set", &setting]);
    let error = "file: another broker writes it; name another file, or stop that broker first";
    assert!(refused.contains(error), "{refused}");
    let mut publisher = Client::hello(&first, Version::V5, "p");
    assert_eq!(publisher.publish(&Publish::new("orders/a", "one").qos(1)), 0x10, "nobody subscribes");
    drop(publisher);
    drop(first);
    load(&second, &plugin, &file);
    let mut publisher = Client::hello(&second, Version::V5, "p");
    assert_eq!(publisher.publish(&Publish::new("orders/a", "two").qos(1)), 0x10);
    let payloads: Vec<String> = records(&file).into_iter().map(|(_, _, payload)| payload).collect();
    assert_eq!(payloads, ["one", "two"]);
}

/// Two plugins of one broker would use the same numbers: only one writes a file, whatever the name
/// of the other. A reload of that plugin takes the file over, also with other settings, and an
/// unload frees it for the other.
#[test]
fn a_file_is_used_by_one_plugin_of_a_broker() {
    let plugin = Compiled::of("c-journal");
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let file = folder.path().join("orders");
    let broker = Broker::builder().grapnel_only().start();
    load(&broker, &plugin, &file);
    let setting = format!("file={:?}", file.display().to_string());
    let second = ["plugins", "load", plugin.path(), "--name", "second", "--set", &setting, "--once"];
    for _ in 0..2 {
        let refused = broker.ctl_refused(&second);
        let error =
            "file: another plugin of this broker writes it; name another file, or unload that plugin first";
        assert!(refused.contains(error), "{refused}");
        broker.ctl_ok(&["plugins", "reload", "c-journal", "--set", &setting, "--set", "property=at"]);
    }
    let other = format!("file={:?}", folder.path().join("other").display().to_string());
    broker.ctl_ok(&["plugins", "load", plugin.path(), "--name", "third", "--set", &other, "--once"]);
    let refused = broker.ctl_refused(&["plugins", "reload", "third", "--set", &setting]);
    assert!(refused.contains("another plugin of this broker writes it"), "{refused}");
    broker.ctl_ok(&["plugins", "unload", "third"]);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    assert_eq!(publisher.publish(&Publish::new("orders/a", "one").qos(1)), 0x10, "nobody subscribes");
    broker.ctl_ok(&["plugins", "unload", "c-journal"]);
    broker.ctl_ok(&second);
    assert_eq!(publisher.publish(&Publish::new("orders/a", "two").qos(1)), 0x10);
    let payloads: Vec<String> = records(&file).into_iter().map(|(_, _, payload)| payload).collect();
    assert_eq!(payloads, ["one", "two"]);
}

/// Waiting messages count with the memory that they use, which an empty message does too.
#[test]
fn waiting_messages_are_counted_with_their_memory() {
    let plugin = Compiled::of("c-journal");
    let broker = Broker::builder().grapnel_only().start();
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let file = folder.path().join("orders");
    load(&broker, &plugin, &file);
    let file = format!("file={:?}", file.display().to_string());
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    for (most, length, code) in [(100, 0, 0x97), (1_100, 0, 0x10), (1_100, 350, 0x10), (1_100, 450, 0x97)] {
        let most_set = format!("pending_bytes_max={most}");
        broker.ctl_ok(&["plugins", "reload", "c-journal", "--set", &file, "--set", &most_set]);
        let message = Publish::new("orders/a", "x".repeat(length)).qos(1);
        assert_eq!(publisher.publish(&message), code, "{length} bytes where {most} may wait");
    }
    broker.process().wait_for_line("a line of what was refused", PATIENCE, |line| {
        line.contains("1 message refused on shard").then_some(())
    });
    assert_eq!(metric(&broker, "pending_refused_total"), 2);
    assert_eq!(metric(&broker, "pending_refused_owner"), 0);
}

/// A client's waiting messages use its own share, and messages of other clients wait in addition.
#[test]
fn a_client_has_a_share_of_the_waiting_memory() {
    let plugin = Compiled::of("c-journal");
    let broker = Broker::builder().grapnel_only().shards(1).start();
    let folder = tempfile::tempdir().expect("a place for temporary files");
    // A pipe without a reader: a write to it blocks.
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("there can be pipes");
    let file = format!("file={:?}", pipe.display().to_string());
    let share = "client_pending_bytes_max=500000";
    broker.ctl_ok(&["plugins", "load", plugin.path(), "--set", &file, "--set", share, "--once"]);
    let large = Publish::new("orders/a", "x".repeat(200_000)).qos(1);
    let (mut one, mut other) =
        (Client::hello(&broker, Version::V5, "one"), Client::hello(&broker, Version::V5, "other"));
    for _ in 0..3 {
        one.send_publish(&large);
    }
    broker.process().wait_for_line("what is refused", PATIENCE, |line| {
        line.contains("2 messages refused on shard 0 so far: client_pending_bytes_max is reached")
            .then_some(())
    });
    for _ in 0..3 {
        other.send_publish(&large);
    }
    broker.process().wait_for_line("what the other is refused", PATIENCE, |line| {
        line.contains("4 messages refused on shard 0 so far: client_pending_bytes_max is reached")
            .then_some(())
    });
    assert_eq!((metric(&broker, "pending_refused_owner"), metric(&broker, "pending_refused_total")), (4, 0));
    // The waiting messages are written now; a pipe cannot be synced.
    let reader = std::thread::spawn(move || std::fs::read(pipe).map(|bytes| bytes.len()));
    let unwritten = "the journal cannot be written";
    let full = "too many messages of this client wait for the journal";
    for (client, error) in [(&mut one, &[unwritten, full, full][..]), (&mut other, &[unwritten, full, full])]
    {
        for error in error {
            let reason = client.receive_where("PUBACK", |packet| match packet {
                Packet::Puback(ack) => Some((ack.code, ack.properties.string(REASON_STRING))),
                _ => None,
            });
            assert_eq!(reason, (0x97, Some((*error).to_owned())));
        }
    }
    assert_eq!(metric(&broker, "pending_refused_unwritten"), 2);
    // Their space is free again.
    assert_eq!(one.publish(&Publish::new("orders/a", "x").qos(1)), 0x97);
    assert_eq!(metric(&broker, "pending_refused_unwritten"), 3);
    drop(broker.stop());
    assert!(reader.join().expect("it reads").expect("it can be read") > 400_000);
}

/// A metric of the plugin.
#[track_caller]
fn metric(broker: &Broker, name: &str) -> u64 {
    let metrics = broker.ctl_ok(&["metrics"]);
    let shown = format!("plugin_c_journal_{name}");
    let line = metrics.lines().find(|line| line.split_whitespace().next() == Some(&shown));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.unwrap_or_else(|| panic!("{shown} is not in {metrics}"))
}

/// If a file cannot be written, the messages are refused, and nothing else.
#[test]
fn messages_that_cannot_be_written_are_not_acknowledged() {
    let plugin = Compiled::of("c-journal");
    let broker = Broker::builder().grapnel_only().start();
    load(&broker, &plugin, Path::new("/dev/full"));
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    assert_eq!(publisher.publish(&Publish::new("orders/a", "x").qos(1)), 0x97);
    assert_eq!(publisher.publish(&Publish::new("else", "x").qos(1)), 0x10, "nobody subscribes");
    broker.ctl_ok(&["plugins", "unload", "c-journal"]);
}

/// One sentence names the key and the error, without the value, and the broker continues.
#[test]
fn a_wrong_configuration_is_refused() {
    let plugin = Compiled::of("c-journal");
    let broker = Broker::builder().grapnel_only().start();
    for (setting, error) in [
        ("pending_bytes_max=1", "the key file is missing: a path to append to"),
        ("path=\"x\"", "the key path is not known"),
        ("file=1", "file: it must be a text of at most 4095 bytes"),
        ("file=\"/does/not/exist\"", "file: it cannot be opened for appending: No such file or directory"),
        (
            "client_pending_bytes_max=\"x\"",
            "client_pending_bytes_max: it must be a whole number, not negative",
        ),
        ("pending_bytes_max=-1", "pending_bytes_max: it must be a whole number, not negative"),
    ] {
        let refused = broker.ctl_refused(&["plugins", "load", plugin.path(), "--set", setting]);
        assert!(refused.contains(error), "{setting}: {refused}");
    }
    Client::hello(&broker, Version::V5, "after").ping();
}
