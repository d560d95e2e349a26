//! Tests of the program as users run it: the load generator against a broker with known faults,
//! whose counters must show them, and the baseline relay.
#![allow(clippy::unwrap_used)]

mod broker;
mod compare;
mod floor;
mod relay;
mod run;
mod tool;

use broker::{Behaviour, Broker};
use rustix::process::Signal;
use tool::{Tool, expect_counts, run};

/// Counts of `sub` if every message arrived once and in order.
fn once_and_in_order(messages: u64) -> [(&'static str, u64); 5] {
    [("received", messages), ("lost", 0), ("duplicated", 0), ("out_of_order", 0), ("before_first", 0)]
}

#[test]
fn counts_agree_in_every_version_and_qos() {
    for version in 3..=5 {
        for qos in 0..=2 {
            let broker = Broker::start(Behaviour::default());
            let load = format!("-V {version} -q {qos} -i 0 -t bench/%i");
            let sub =
                Tool::start(broker.addr, &format!("sub {load} -c 3 -L 601 --payload-hdrs cnt,ts")).ready();
            let sent =
                run(broker.addr, &format!("pub {load} -c 3 -I 0 -L 601 --payload-hdrs cnt,ts")).succeeded();
            let received = sub.end().succeeded();

            let acked = if qos == 0 { 0 } else { 601 };
            let sends =
                [("connected", 3), ("sent", 601), ("acked", acked), ("unacked", 0), ("disconnects", 0)];
            expect_counts(&sent, &load, &sends);
            expect_counts(&received, &load, &once_and_in_order(601));
            assert_eq!(received["latency_us"]["count"], 601);
            assert_eq!(received["received_bytes"], 601 * 256);
            let seen = broker.seen();
            assert_eq!(seen.topics.keys().filter(|topic| topic.starts_with("bench/")).count(), 3);
            assert_eq!(seen.protocol_levels, [version; 6], "all six clients speak the version asked for");
        }
    }
}

#[test]
fn lost_and_doubled_messages_are_counted() {
    let broker =
        Broker::start(Behaviour { lose_every: Some(10), double_every: Some(25), ..Behaviour::default() });
    let sub = Tool::start(broker.addr, "sub -c 1 -q 1 -t t -L 921").ready();
    run(broker.addr, "pub -c 1 -q 1 -t t -I 0 -L 1001 --payload-hdrs cnt").succeeded();
    let received = sub.end().succeeded();
    // Of 1001 messages, 100 are lost; of the odd multiples of 25, 20 arrive twice (the even ones
    // are lost).
    let counts = [("lost", 100), ("duplicated", 20), ("before_first", 0), ("publishers_seen", 1)];
    expect_counts(&received, "sub", &counts);
}

#[test]
fn the_members_of_a_shared_subscription_are_counted_together() {
    let broker = Broker::start(Behaviour::default());
    let sub = Tool::start(broker.addr, "sub -c 4 -i 0 -t $share/g/t -L 400").ready();
    run(broker.addr, "pub -c 1 -t t -I 0 -L 400 --payload-hdrs cnt").succeeded();
    let received = sub.end().succeeded();
    assert_eq!((&received["received"], &received["lost"]), (&400.into(), &0.into()), "{received}");
}

#[test]
fn payloads_larger_than_the_read_buffer_arrive() {
    let broker = Broker::start(Behaviour::default());
    let sub = Tool::start(broker.addr, "sub -c 2 -i 0 -q 1 -t t -L 20").ready();
    run(broker.addr, "pub -c 1 -q 1 -t t -I 0 -s 2000000 -L 10 --payload-hdrs cnt").succeeded();
    let received = sub.end().succeeded();
    assert_eq!(received["received_bytes"], 20 * 2_000_000, "{received}");
    assert_eq!(received["lost"], 0);
}

#[test]
fn a_load_with_a_rate_keeps_its_rate() {
    let broker = Broker::start(Behaviour::default());
    let sent = run(broker.addr, "pub -c 5 -i 0 -t t -I 20 --duration 1 --wait-before-publishing").succeeded();
    // Five clients with fifty messages a second; a loaded machine may be slower, but not faster.
    let count = sent["sent"].as_u64().unwrap();
    assert!((100..=256).contains(&count), "{sent}");
}

#[test]
fn the_receive_maximum_of_the_broker_limits_the_window() {
    let broker = Broker::start(Behaviour { receive_maximum: Some(3), ..Behaviour::default() });
    let sent = run(broker.addr, "pub -c 1 -q 1 -t t -I 0 -w 50 -L 300").succeeded();
    assert_eq!((&sent["acked"], broker.seen().unacknowledged_max), (&300.into(), 3));
    let broker = Broker::start(Behaviour::default());
    run(broker.addr, "pub -c 1 -q 1 -t t -I 0 -w 50 -L 300").succeeded();
    assert_eq!(broker.seen().unacknowledged_max, 50);
}

#[test]
fn a_refused_connection_is_named_and_fails_the_run() {
    let v5 = Broker::start(Behaviour { refuse_mallory: Some(0x87), ..Behaviour::default() });
    let ended = run(v5.addr, "pub -c 2 -u mallory -t t");
    assert!(ended.stderr.contains("CONNACK: not authorized (0x87)"), "{}", ended.stderr);
    let summary = ended.failed();
    assert_eq!(
        (&summary["failed"], &summary["errors"]["CONNACK: not authorized (0x87)"]),
        (&2.into(), &2.into())
    );

    let v311 = Broker::start(Behaviour { refuse_mallory: Some(4), ..Behaviour::default() });
    let summary = run(v311.addr, "conn -V 4 -c 1 -u mallory").failed();
    assert_eq!(summary["errors"]["CONNACK: bad user name or password (return code 4)"], 1, "{summary}");
}

#[test]
fn a_dropped_connection_fails_the_run() {
    let broker = Broker::start(Behaviour { drop_after: Some(5), ..Behaviour::default() });
    let summary = run(broker.addr, "pub -c 3 -i 0 -q 1 -t t -I 1 -L 1000").failed();
    assert_eq!((&summary["disconnects"], &summary["failed"]), (&3.into(), &0.into()), "{summary}");
    assert!(summary["short_of_limit"].as_u64().unwrap() > 900);
}

#[test]
fn the_end_of_a_stream_is_noticed_after_its_data() {
    let broker = Broker::start(Behaviour { close_subscriber_after: Some(50), ..Behaviour::default() });
    let sub = Tool::start(broker.addr, "sub -c 1 -t t").ready();
    run(broker.addr, "pub -c 1 -t t -I 0 -L 100").succeeded();
    let summary = sub.end().failed();
    assert_eq!((&summary["received"], &summary["disconnects"]), (&50.into(), &1.into()), "{summary}");
}

#[test]
fn a_refused_subscription_fails_the_run_and_withholds_the_ready_file() {
    let ready = std::env::temp_dir().join(format!("grapnel-bench-refused-{}", std::process::id()));
    std::fs::write(&ready, "of an earlier run").unwrap();
    let broker = Broker::start(Behaviour { suback: Some(0x87), ..Behaviour::default() });
    let summary = run(broker.addr, &format!("sub -c 1 -t t --ready-file {}", ready.display())).failed();
    assert_eq!(summary["errors"]["SUBACK: not authorized (0x87)"], 1, "{summary}");
    assert!(!ready.exists());
}

#[test]
fn the_ready_file_appears_once_every_client_is_subscribed() {
    let ready = std::env::temp_dir().join(format!("grapnel-bench-ready-{}", std::process::id()));
    let broker = Broker::start(Behaviour::default());
    run(broker.addr, &format!("sub -c 3 -i 0 -t t --duration 0 --ready-file {}", ready.display()))
        .succeeded();
    assert_eq!(std::fs::read_to_string(&ready).unwrap(), "ready\n");
    std::fs::remove_file(&ready).unwrap();
}

#[test]
fn messages_that_the_broker_refuses_or_ignores_fail_the_run() {
    let refusing = Broker::start(Behaviour { puback: Some(0x97), ..Behaviour::default() });
    let summary = run(refusing.addr, "pub -c 1 -q 1 -t t -I 0 -L 30").failed();
    assert_eq!((&summary["refused"], &summary["acked"]), (&30.into(), &0.into()));
    assert_eq!(summary["errors"]["PUBACK: quota exceeded (0x97)"], 30);

    let mute = Broker::start(Behaviour { no_acks: true, ..Behaviour::default() });
    let tool = Tool::start(mute.addr, "pub -c 1 -q 2 -t t -I 0 -w 4 --duration 0.1 --drain-timeout 0.1");
    let summary = tool.end().failed();
    assert_eq!((&summary["sent"], &summary["unacked"]), (&4.into(), &4.into()), "{summary}");
}

#[test]
fn a_signal_ends_the_run_with_its_summary() {
    for signal in [Signal::INT, Signal::TERM] {
        let broker = Broker::start(Behaviour::default());
        let conn = Tool::start(broker.addr, "conn -c 7 -i 0 --prefix id").ready();
        conn.signal(signal);
        let summary = conn.end().succeeded();
        assert_eq!((&summary["connected"], &summary["interrupted"]), (&7.into(), &true.into()));
        let mut ids = broker.seen().client_ids;
        ids.sort();
        assert_eq!(ids, (1..=7).map(|number| format!("id{number}")).collect::<Vec<_>>());
        assert_eq!(broker.seen().goodbyes, 7, "every client takes its leave");
    }
}

#[test]
fn invalid_arguments_exit_with_2() {
    for (arguments, part) in [
        ("pub -t a/#", "cannot hold the wildcards"),
        ("sub", "--topic"),
        ("fly", "unrecognized"),
        ("run pairs -s 5", "--size must be from 28"),
        ("run paced -w 5", "open loop"),
        ("run fly", "invalid value 'fly'"),
        ("run pairs --broker x --pid 1", "cannot be used with"),
    ] {
        let ended = Tool::spawn(arguments.split(' ')).end();
        assert_eq!(ended.code, Some(2), "{arguments}");
        assert!(ended.stderr.contains(part), "{arguments}: {}", ended.stderr);
        // One sentence, as of every program of Grapnel.
        let text = ended.stderr.trim_end();
        assert!(text.starts_with("grapnel-bench: ") && text.ends_with(" --help"), "{arguments}: {text}");
        assert_eq!(text.lines().count(), 1, "{arguments}: {text}");
    }
}

#[test]
fn a_missing_listener_is_reported() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let summary = run(addr, "conn -c 2 -i 0").failed();
    assert_eq!(summary["errors"]["connect: connection refused; nobody listens there"], 2, "{summary}");
}
