//! Start, refusal to start, and stop.

use std::time::{Duration, Instant};

use grapnel_tests::process::{Process, command};
use grapnel_tests::wire::Ack;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Version, Will, plugin, scenario};
use rustix::process::Signal;

/// Runs `grapnel` with this configuration file to its end. Returns whether it succeeded, and its
/// output.
fn run(config: &str, arguments: &[&str]) -> (bool, String) {
    let mut builder = Broker::builder().config(config);
    let (mut command, _home) = builder.grapnel_command();
    command.args(arguments);
    let mut process = Process::start("grapnel", command, None);
    let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", process.log()));
    (status.success(), process.log())
}

/// Checks that a start is refused with each of these texts.
#[track_caller]
fn refused(config: &str, arguments: &[&str], expected: &[&str]) {
    let (success, log) = run(config, arguments);
    assert!(!success, "it started: {log}");
    for text in expected {
        assert!(log.contains(text), "{text:?} is not in: {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn the_addresses_are_logged_before_the_broker_is_ready() {
    let broker = Broker::builder().shards(3).grapnel_only().start();
    let lines = broker.process().lines(|line| Some(line.to_owned()));
    let place = |start: &str| lines.iter().position(|line| line.starts_with(start)).expect(start);
    let version = env!("CARGO_PKG_VERSION");
    let order = [
        place(&format!("grapnel {version}: 3 shards")),
        place("listening on mqtt://127.0.0.1:"),
        place("ctl socket "),
        place("ready"),
    ];
    assert!(order.is_sorted(), "{lines:?}");
}

scenario! {
    /// SIGTERM: MQTT 5 clients get DISCONNECT 0x8B, the connections of others end, and the process
    /// ends with 0.
    fn sigterm_stops_the_broker_after_its_clients_were_notified(broker in Broker::builder().grapnel_only()) {
        let mut clients: Vec<Client> =
            (0..30).map(|n| Client::hello(broker, Version::ALL[n % 3], &format!("c{n}"))).collect();
        broker.process().signal(Signal::TERM);
        for client in &mut clients {
            assert_eq!(client.end(), client.version().is_5().then_some(0x8B));
        }
        // The harness checks the status 0 when the broker is dropped.
    }
}

#[test]
fn sigint_stops_the_broker_like_sigterm() {
    let mut broker = Broker::builder().grapnel_only().start();
    let mut client = Client::hello(&broker, Version::V5, "c");
    broker.process().signal(Signal::INT);
    assert_eq!(client.end(), Some(0x8B));
    assert!(broker.wait().expect("it ends").success());
}

scenario! {
    /// The drain is bounded: a client that reads nothing and has unacknowledged messages does not
    /// delay it.
    fn a_client_that_does_not_read_does_not_delay_the_stop(broker in Broker::builder().grapnel_only().config("[limits]\ndrain_timeout_ms = 500")) {
        let mut stuck = Client::hello(broker, Version::V5, "stuck");
        stuck.subscribe("t", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for _ in 0..200 {
            publisher.publish(&Publish::new("t", vec![b'x'; 60_000]).qos(1));
        }
        let start = Instant::now();
        broker.process().signal(Signal::TERM);
        publisher.end();
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_shutdown_sends_each_will_once() {
    let broker = Broker::builder().shards(2).grapnel_only().start();
    let mut watcher = Client::hello(&broker, Version::V5, "watcher");
    watcher.subscribe("will", 0);
    let will = Will::new("will", "gone");
    let mut client = Client::connect(&broker, &Connect::new(Version::V5, "c").will(will));
    broker.process().signal(Signal::TERM);
    client.end();
    // Whether the watcher receives it depends on the order of disconnects; twice is wrong.
    let mut wills = 0;
    while let grapnel_tests::client::Event::Packet(packet) = watcher.next(PATIENCE) {
        wills += usize::from(matches!(packet, Packet::Publish(_)));
    }
    assert!(wills <= 1, "{wills} wills");
}

#[test]
fn check_config_succeeds_without_starting() {
    let (success, log) = run("[limits]\nreceive_max = 10", &["--check-config"]);
    assert!(success, "{log}");
    assert!(!log.contains("ready"), "{log}");
}

#[test]
fn every_error_of_the_configuration_is_reported() {
    let config = "[limits]\nrecieve_max = 10\nslots_max = 0\n[authorization]\nno_match = \"maybe\"";
    for arguments in [&["--check-config"][..], &["--listen", "127.0.0.1:0"]] {
        let expected = ["recieve_max", "receive_max", "slots_max", "no_match", "\"allow\""];
        refused(config, arguments, &expected);
    }
}

#[test]
fn features_of_other_versions_are_refused_by_name() {
    for (config, name) in [
        ("[storage]\npath = \"x\"", "storage on disk"),
        ("[bridge]\naddress = \"x\"", "bridging"),
        ("[cluster]\nnodes = []", "clustering"),
    ] {
        refused(config, &["--check-config"], &[name, "not in this version"]);
    }
}

#[test]
fn a_number_of_shards_out_of_range_is_refused() {
    for (shards, good) in [("0", false), ("1", true), ("64", true), ("65", false), ("many", false)] {
        let mut process =
            Process::start("grapnel", start_with(&["--shards", shards, "--check-config"]), None);
        let status = process.wait(PATIENCE).expect("it ends");
        assert_eq!(status.success(), good, "--shards {shards}: {}", process.log());
    }
}

fn start_with(arguments: &[&str]) -> std::process::Command {
    let mut command = command(plugin::built("grapnel"));
    command.args(arguments);
    command
}

#[test]
fn sixty_four_shards_run_on_any_machine() {
    let broker = Broker::builder().shards(64).grapnel_only().start();
    let mut subscribers: Vec<Client> =
        (0..64).map(|n| Client::hello(&broker, Version::V5, &format!("s{n}"))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("all", 1);
    }
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    publisher.publish(&Publish::new("all", "x").qos(1));
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.message().text(), "x");
    }
}

#[test]
fn the_printed_defaults_are_a_valid_configuration() {
    let (success, printed) = {
        let mut process = Process::start("grapnel", start_with(&["--print-default-config"]), None);
        (process.wait(PATIENCE).expect("it ends").success(), process.log())
    };
    assert!(success, "{printed}");
    for key in
        ["bind", "allow_anonymous", "no_match", "receive_max", "subscribe_barrier_ms", "drain_timeout_ms"]
    {
        assert!(printed.contains(key), "{key} is missing");
    }
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("default.toml");
    std::fs::write(&file, &printed).unwrap();
    let mut command = start_with(&["--check-config", "--config"]);
    command.arg(&file);
    let mut process = Process::start("grapnel", command, None);
    assert!(process.wait(PATIENCE).expect("it ends").success(), "{}", process.log());
}

#[test]
fn an_address_in_use_is_named_in_the_error() {
    let broker = Broker::builder().grapnel_only().start();
    let address = broker.address().to_string();
    // SO_REUSEPORT must not let two brokers share a port by mistake.
    refused("[limits]\nstart_retry_ms = 0", &["--listen", &address], &[&address, "address in use"]);
    Client::hello(&broker, Version::V5, "still here").ping();
}

#[test]
fn a_second_broker_on_the_same_socket_is_refused() {
    let broker = Broker::builder().grapnel_only().start();
    let socket = plugin::argument(broker.socket()).to_owned();
    let mut builder = Broker::builder();
    let (mut command, _home) = builder.grapnel_command();
    // The later argument counts; the other broker is not affected.
    command.env("GRAPNEL_CONTROL_SOCKET", &socket);
    let mut arguments = start_with(&["--listen", "127.0.0.1:0", "--socket", &socket]);
    arguments.env("GRAPNEL_STATE_DIR", broker.home().join("other state"));
    arguments.env("GRAPNEL_LIMITS_START_RETRY_MS", "0");
    let mut process = Process::start("grapnel", arguments, None);
    let status = process.wait(PATIENCE).expect("it ends");
    assert!(!status.success(), "{}", process.log());
    assert!(process.log().contains(&socket), "{}", process.log());
    broker.ctl_ok(&["status"]);
}

#[test]
fn a_warning_is_logged_for_an_unprotected_listener_beyond_loopback() {
    let warning = |listen: &str| {
        let mut builder = Broker::builder();
        let (mut command, _home) = builder.grapnel_command();
        command.args(["--listen", listen]);
        let process = Process::start("grapnel", command, None);
        process.wait_for_line("ready", PATIENCE, |line| (line == "ready").then_some(()));
        process.signal(Signal::TERM);
        // The log's next line: all earlier lines have been read by then.
        process.wait_for_line("stops", PATIENCE, |line| line.contains("stops: signal").then_some(()));
        process.lines(|line| line.contains("WARN").then(|| line.to_owned()))
    };
    assert_eq!(warning("127.0.0.1:0"), Vec::<String>::new());
    let lines = warning("0.0.0.0:0");
    assert!(lines.iter().any(|line| line.contains("0.0.0.0") && line.contains("authenticate")), "{lines:?}");
}

#[test]
fn many_listeners_serve_the_same_broker() {
    let config = "[[listeners]]\nbind = \"127.0.0.1:0\"\nname = \"one\"\n[[listeners]]\nbind = \"[::1]:0\"\nname = \"two\"";
    let mut builder = Broker::builder().config(config);
    let (command, home) = builder.grapnel_command();
    let process = Process::start("grapnel", command, None);
    process.wait_for_line("ready", PATIENCE, |line| (line == "ready").then_some(()));
    let addresses = process.lines(|line| line.strip_prefix("listening on mqtt://").map(str::to_owned));
    assert_eq!(addresses.len(), 2, "{}", process.log());
    assert!(addresses[1].starts_with("[::1]:"), "{addresses:?}");
    process.signal(Signal::TERM);
    drop(home);
}

#[test]
fn no_descriptor_and_no_session_leaks_with_a_thousand_connections() {
    let broker = Broker::builder().shards(2).grapnel_only().start();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", broker.process().id())).unwrap().count();
    Client::hello(&broker, Version::V5, "first").disconnect();
    let before = descriptors();
    for n in 0..1000 {
        let client = Client::hello(&broker, Version::ALL[n % 3], &format!("c{n}"));
        if n % 2 == 0 { client.disconnect() } else { client.drop_connection() }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = broker.ctl_json(&["status"]);
        if status["connections"] == 0 && status["sessions"] == 0 && descriptors() <= before + 4 {
            break;
        }
        assert!(Instant::now() < deadline, "{status}\n{} descriptors, {before} before", descriptors());
    }
}

#[test]
fn an_unfinished_packet_and_a_full_window_leave_nothing_behind() {
    let broker = Broker::builder().shards(2).grapnel_only().start();
    for n in 0..50 {
        let mut client = Client::hello(&broker, Version::V5, &format!("c{n}"));
        client.send_publish(&Publish::new("t", "x").qos(2).id(1));
        client.send(&Publish::new("t", vec![0; 100_000]).encode(Version::V5)[..50_000]);
        client.drop_connection();
    }
    let mut client = Client::hello(&broker, Version::V5, "after");
    client.send_publish(&Publish::new("t", "x").qos(2).id(1));
    client.receive_where("PUBREC", |p| {
        matches!(p, Packet::Pubrec(ack) if ack == &Ack::of(1) || ack.code == 0x10).then_some(())
    });
    client.ping();
}
