//! The life of exhook's workers on a live broker: what they send at their end arrives, calls in
//! progress are answered by the workers that began them, calls wait while a worker is restarted,
//! and an absent worker removes nothing that was granted.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod exhook_common;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use exhook_common::{folder, load, load_refused, puback, send, until, workers};
use grapnel_tests::broker::Builder;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Subscribe, Version};
use rustix::process::Signal;

/// Settings of hooks in Python, with the named environment.
fn python(module: &str, more: &[&str]) -> Vec<String> {
    let mut settings = vec![
        "driver=python3".to_owned(),
        format!("path={:?}", folder()),
        format!("init_module={module}"),
        "environment=[\"PYTHONPATH\", \"FAREWELLS\", \"FAREWELL_S\", \"MARK_FILE\", \"LASTING\", \"MOODY_SEEN\", \"MOODY_START_S\"]".to_owned(),
    ];
    settings.extend(more.iter().map(|setting| (*setting).to_owned()));
    settings
}

/// A broker with short waits for threads.
fn with_short_waits() -> Builder {
    exhook_common::broker().config("[limits]\nplugin_thread_join_ms = 50")
}

fn count(broker: &Broker, what: &str) -> usize {
    broker.process().lines(|line| line.contains(what).then_some(())).len()
}

#[track_caller]
fn await_lines(broker: &Broker, what: &str, count: usize) {
    broker.process().wait_for_lines(what, count, PATIENCE, |line| line.contains(what).then_some(()));
}

/// How many events wait, or have waited, for an answer of the loaded version.
fn deferrals(broker: &Broker) -> u64 {
    let listed = broker.ctl_json(&["hooks", "list"]);
    let rows = listed["rows"].as_array().unwrap().iter().filter(|row| row["plugin"] == "exhook");
    rows.map(|row| row["deferrals"].as_u64().unwrap()).sum()
}

/// A statistic of the worker.
fn figure(broker: &Broker, which: &str) -> i64 {
    broker.ctl_json(&["exhook", "drivers", "stats"])[0][which].as_i64().unwrap()
}

/// Everything that a worker sends at its shutdown arrives: at a reload, at an unload and at a stop
/// of the broker by a service manager, which signals the workers too. Nothing is cut, and no worker
/// is restarted.
fn check_shutdown(settings: &[String], failed: &str, publishes: bool) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("farewells");
    let mut broker = with_short_waits().environment("FAREWELLS", file.to_str().unwrap()).start();
    load(&broker, settings);
    let mut reader = Client::hello(&broker, Version::V5, "reader");
    reader.subscribe("shutdown", 0);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("t", 0);
    let mut process = || {
        assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
        client.message().text()
    };
    let mut processes = vec![process()];
    broker.ctl_ok(&["plugins", "reload", "exhook"]);
    processes.push(process());
    let output = broker.ctl_ok(&["plugins", "unload", "exhook"]);
    assert!(output.contains("exhook finishes its pending work, for at most "), "{output}");
    let listed = broker.ctl_ok(&["plugins", "list"]);
    assert!(listed.contains("exhook: generation 2 finishes its pending work, for at most"), "{listed}");
    load(&broker, settings);
    processes.push(process());
    if publishes {
        let mut texts: Vec<String> = (0..2).map(|_| reader.message().text()).collect();
        texts.sort_by_key(|process| processes.iter().position(|other| other == process));
        assert_eq!(texts, processes[..2]);
    }
    // As systemd does: all processes of the service, in any group; the broker last, so that the
    // others have been signalled by then.
    let last = *workers(&broker).last().unwrap();
    assert_eq!(last.to_string(), processes[2]);
    for _ in 0..3 {
        send(last, Signal::TERM);
    }
    broker.process().signal(Signal::TERM);
    assert!(broker.wait().unwrap().success());

    let log = broker.process().log();
    assert_eq!(count(&broker, ": last line "), 6_000, "{log}");
    assert_eq!(count(&broker, ": last line 1999"), 3);
    assert_eq!((count(&broker, "shutdown: all is closed"), count(&broker, failed)), (3, 3), "{log}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written.lines().collect::<HashSet<_>>(), processes.iter().map(String::as_str).collect());
    for bad in ["restarted", "killed", "left out", "has ended", "not ended"] {
        assert!(!log.contains(bad), "{bad}: {log}");
    }
}

#[test]
fn the_output_of_a_python_shutdown_arrives() {
    check_shutdown(&python("shutdown", &[]), "close: RuntimeError: failed on purpose", true);
}

#[test]
fn the_output_of_a_java_shutdown_arrives() {
    let path = format!("path={:?}", folder().join("java"));
    let settings = ["driver=java", &path, "init_module=Shutdown", "environment=[\"FAREWELLS\"]"];
    let failed = "the shutdown failed: java.lang.IllegalStateException: failed on purpose";
    check_shutdown(&settings.map(String::from), failed, false);
}

/// A broker with a worker whose shutdown takes an hour, after a first signal to stop, and the
/// clients that were connected before.
fn stopping<T>(builder: Builder, clients: impl FnOnce(&Broker) -> T) -> (Broker, T) {
    let broker = builder.environment("FAREWELL_S", "3600").start();
    load(&broker, &python("shutdown", &["farewell_timeout=10m"]));
    let clients = clients(&broker);
    broker.process().signal(Signal::TERM);
    await_lines(&broker, "stops: signal 15", 1);
    (broker, clients)
}

/// A second signal ends the wait for shutdowns.
#[test]
fn a_second_signal_ends_the_wait_for_shutdowns() {
    let (mut broker, ()) = stopping(with_short_waits(), |_| ());
    await_lines(&broker, "shutdown: begins", 1);
    broker.process().signal(Signal::TERM);
    assert!(broker.wait().unwrap().success());
    assert_eq!(count(&broker, "second signal: stops without waiting for plugins"), 1);
}

/// The same while clients are still being disconnected.
#[test]
fn a_second_signal_during_disconnects_ends_the_wait_for_shutdowns() {
    let limits = "[limits]\nplugin_thread_join_ms = 50\ndrain_timeout_ms = 600_000";
    let (mut broker, _stuck) = stopping(exhook_common::broker().config(limits), |broker| {
        let mut stuck = Client::hello(broker, Version::V5, "stuck");
        stuck.subscribe("t", 1);
        let mut publisher = Client::hello(broker, Version::V5, "publisher");
        for _ in 0..200 {
            publisher.publish(&Publish::new("t", vec![b'x'; 60_000]).qos(1));
        }
        stuck
    });
    broker.process().signal(Signal::TERM);
    assert!(broker.wait().unwrap().success());
    assert_eq!(count(&broker, "second signal: stops without waiting for clients and plugins"), 1);
}

/// A worker has its own process group, so that a signal to the broker does not reach it. A worker
/// that does not end when requested is killed after its shutdown time, which is logged.
#[test]
fn a_worker_that_does_not_end_is_killed_after_farewell_timeout() {
    let broker = with_short_waits().start();
    load(&broker, &python("mirror", &["farewell_timeout=300ms", "call_timeout=300ms"]));
    let worker = workers(&broker)[0];
    let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(group, worker.to_string());
    send(worker, Signal::STOP);
    broker.ctl_ok(&["plugins", "unload", "exhook"]);
    await_lines(
        &broker,
        "python3/0 has not ended within 300 ms of the shutdown (farewell_timeout) and is killed",
        1,
    );
    assert_eq!(count(&broker, "restarted"), 0);
}

/// Three seconds of calls are under way, publishes and a login: at a reload or an unload the old
/// worker answers all of them, and meanwhile the new one answers new calls.
fn under_way(lasting: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    std::fs::write(&mark, "old").unwrap();
    let broker = with_short_waits()
        .environment("MARK_FILE", mark.to_str().unwrap())
        .environment("LASTING", lasting)
        .start();
    load(&broker, &python("slow_calls", &["failed_action=deny", "call_timeout=8s"]));
    let login = |name: &str| Connect::new(Version::V5, name).login(name, "p");
    let mut reader = Client::connect(&broker, &login("reader"));
    reader.subscribe("slow/#", 1);
    let mut slow = Client::connect(&broker, &login("writer"));
    for (next, then) in [("new", "reload"), ("newer", "unload")] {
        let before = std::fs::read_to_string(&mark).unwrap();
        std::fs::write(&mark, next).unwrap();
        let deferred = deferrals(&broker);
        for n in 0..5 {
            slow.send_publish(&Publish::new(&format!("slow/{n}"), "x").qos(1));
        }
        let mut entering = Client::dial(&broker, Version::V5);
        entering.send(&login("slow").encode());
        until("the worker is asked all of it", || deferrals(&broker) >= deferred + 6);
        broker.ctl_ok(&["plugins", then, "exhook"]);
        if then == "reload" {
            let listed = broker.ctl_ok(&["plugins", "list"]);
            assert!(listed.contains("generation 1 finishes its pending work"), "{listed}");
            let mut other = Client::connect(&broker, &login("other"));
            other.subscribe("t", 0);
            assert_eq!(other.publish(&Publish::new("t", "x").qos(1)), 0);
            assert_eq!(other.message().text(), "new", "while the old worker is still at it");
        }
        for _ in 0..5 {
            assert_eq!(puback(&mut slow), 0, "{then}");
            assert_eq!(reader.message().text(), before, "{then}");
        }
        let code = entering.receive_where("CONNACK", |packet| match packet {
            Packet::Connack { code, .. } => Some(*code),
            _ => None,
        });
        assert_eq!(code, 0, "{then}");
        entering.disconnect();
    }
    until("the old workers end", || {
        !broker.ctl_ok(&["plugins", "list"]).contains("finishes its pending work")
    });
    let log = broker.process().log();
    for bad in ["did not answer", "failed", "restarted", "killed"] {
        assert!(!log.contains(bad), "{bad}: {log}");
    }
}

#[test]
fn concurrent_calls_are_answered_by_the_worker_that_got_them() {
    under_way("beside");
}

#[test]
fn consecutive_calls_are_answered_by_the_worker_that_got_them() {
    under_way("in turn");
}

/// A broker with `restarting_worker` hooks, whose second process takes a second to start, and a
/// client.
fn restarting_worker(more: &[&str], dir: &Path) -> (Broker, Client) {
    let seen = dir.join("seen");
    let broker = with_short_waits().environment("MOODY_SEEN", seen.to_str().unwrap()).start();
    load(&broker, &python("restarting", &[&["failed_action=deny"], more].concat()));
    let client = Client::hello(&broker, Version::V5, "c");
    (broker, client)
}

/// Calls during a restart of a worker wait for it, and are answered after it has reported ready.
#[test]
fn calls_during_a_restart_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut client) = restarting_worker(&["call_timeout=15s"], dir.path());
    client.subscribe("t", 0);
    assert_eq!(
        client.publish(&Publish::new("end", "x").qos(1)),
        0x83,
        "its process has ended in the middle of it"
    );
    assert_eq!(client.publish(&Publish::new("t", "waits").qos(1)), 0);
    assert_eq!(workers(&broker).len(), 2, "it has waited for the second process");
    assert_eq!(client.message().text(), "waits marked");
    // A login of a new client waits likewise.
    assert_eq!(client.publish(&Publish::new("end", "x").qos(1)), 0x83);
    let mut other = Client::hello(&broker, Version::V5, "other");
    other.subscribe("t", 0);
    assert_eq!(figure(&broker, "failed"), 2);
}

/// Calls that a worker has not received when it ends go to the next one, which is notified of the
/// clients first.
#[test]
fn undelivered_calls_wait_for_the_next_worker() {
    let broker = with_short_waits().config("packet_bytes_max = 1000000").start();
    load(&broker, &python("queued", &["failed_action=deny", "call_timeout=15s"]));
    let mut clients: Vec<Client> =
        (0..8).map(|n| Client::hello(&broker, Version::V5, &format!("c{n}"))).collect();
    let deferred = deferrals(&broker);
    send(workers(&broker)[0], Signal::STOP);
    // No socket accepts the first of them as a whole.
    for client in &mut clients {
        client.send_publish(&Publish::new("t", "x".repeat(400_000)).qos(1));
    }
    until("all of them wait", || deferrals(&broker) == deferred + 8);
    send(workers(&broker)[0], Signal::KILL);
    for client in &mut clients {
        assert_eq!(puback(client), 0x10);
    }
    assert_eq!((workers(&broker).len(), figure(&broker, "failed")), (2, 0));
}

/// With `while_down = "policy"` the policy decides calls during a restart at once, and the worker
/// answers calls after it has reported ready.
#[test]
fn calls_during_a_restart_may_end_by_policy() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut client) = restarting_worker(&["call_timeout=15s", "while_down=policy"], dir.path());
    assert_eq!(client.publish(&Publish::new("end", "x").qos(1)), 0x83);
    // Of client.authorize, which is called first.
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x87);
    assert_eq!(workers(&broker).len(), 1, "at once");
    await_lines(&broker, "/0 is ready", 2);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x10);
    let error = broker.ctl_refused(&["plugins", "configure", "exhook", "--set", "while_down=sometimes"]);
    assert!(error.contains("while_down: the value is not one of \"wait\" or \"policy\""), "{error}");
}

/// With `auto_reconnect = false` a worker that has ended is not restarted: the policy decides new
/// requests, and granted subscriptions stay, also at a recheck. The same holds for a worker that
/// does not answer.
#[test]
fn a_missing_worker_revokes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (topic, more) in [
        ("end", ["auto_reconnect=false", "call_timeout=15s"]),
        ("stop", ["auto_reconnect=false", "call_timeout=300ms"]),
    ] {
        let (broker, mut client) = restarting_worker(&more, dir.path());
        client.subscribe("t", 0);
        assert_eq!(client.publish(&Publish::new(topic, "x").qos(1)), 0x83);
        await_lines(
            &broker,
            "it is not restarted, because auto_reconnect is false",
            usize::from(topic == "end"),
        );
        broker.ctl_ok(&["authz", "invalidate"]);
        // New requests are denied once the existing subscriptions have been rechecked.
        assert_eq!(client.subscribe_all(&Subscribe::to("u", 0)), [0x87]);
        assert_eq!(broker.ctl_json(&["clients", "show", "c"])["subscriptions"], 1);
        assert_eq!(workers(&broker).len(), 1);
        let trips = broker.ctl_ok(&["plugins", "list"]);
        assert!(!trips.contains("tripped"), "{trips}");
        await_lines(&broker, "it is not restarted, because auto_reconnect is false", 1);
    }
}

/// A worker that is not ready within `start_timeout` is killed, and the load refused.
#[test]
fn the_load_fails_if_a_worker_is_not_ready_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    std::fs::write(&seen, "").unwrap();
    let broker = with_short_waits()
        .environment("MOODY_SEEN", seen.to_str().unwrap())
        .environment("MOODY_START_S", "3600")
        .start();
    let begun = Instant::now();
    let error = load_refused(&broker, &python("restarting", &["start_timeout=700ms"]));
    assert!(error.contains("was not ready in time"), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert!(!broker.ctl_ok(&["plugins", "list"]).contains("exhook "), "nothing of it is loaded");
}

/// Beyond `queue_max` calls or `queue_bytes_max` waiting bytes, the policy decides a request at
/// once, and a notification is dropped; both are counted. Waiting calls are answered when the
/// worker continues.
#[test]
fn a_full_queue_applies_the_policy_to_requests_and_drops_notifications() {
    for limit in ["queue_max=3", "queue_bytes_max=500000"] {
        let broker = with_short_waits().config("packet_bytes_max = 1000000").start();
        load(&broker, &python("queued", &["failed_action=deny", "call_timeout=60s", limit]));
        let worker = workers(&broker)[0];
        let mut clients: Vec<Client> =
            (0..8).map(|n| Client::hello(&broker, Version::V5, &format!("c{n}"))).collect();
        until("they are told of", || figure(&broker, "queue") == 0);
        // If many connect at once, some may be dropped.
        let dropped = figure(&broker, "dropped");
        send(worker, Signal::STOP);
        // The socket accepts the first of them in part; the others wait, or find no space.
        let large = Publish::new("t", "x".repeat(400_000)).qos(1);
        let calls = figure(&broker, "calls");
        clients[0].send_publish(&large);
        until("the worker is given the first", || figure(&broker, "calls") > calls);
        for client in &mut clients[1..] {
            client.send_publish(&large);
        }
        until("the queue is full", || figure(&broker, "failed") > 0);
        let mut late = Client::hello(&broker, Version::V5, "late");
        assert_eq!(late.publish(&large), 0x83, "{limit}: at once");
        // A small call may still fit within the bytes.
        let notified = dropped + i64::from(limit.starts_with("queue_max"));
        assert_eq!(figure(&broker, "dropped"), notified, "{limit}: nobody is told of whom came late");
        send(worker, Signal::CONT);
        let codes: Vec<u8> = clients.iter_mut().map(puback).collect();
        assert!(codes.iter().all(|code| [0x83, 0x10].contains(code)), "{limit}: {codes:?}");
        let refused = codes.iter().filter(|code| **code == 0x83).count();
        assert!((1..8).contains(&refused), "{limit}: {codes:?}");
        assert_eq!(figure(&broker, "failed"), refused as i64 + 1, "{limit}");
        assert_eq!(late.publish(&Publish::new("t", "x").qos(1)), 0x10, "{limit}: there is room again");
    }
}

/// One client's messages in the queue use no space of others: another client's login is accepted
/// and answered as usual, and drops are counted and logged by kind.
#[test]
fn a_flood_of_notifications_denies_no_login() {
    let broker = with_short_waits().config("packet_bytes_max = 1000000").start();
    let settings = ["failed_action=deny", "call_timeout=60s", "queue_max=40", "client_queue_max=20"];
    load(&broker, &python("notified_and_authorizing", &settings));
    let worker = workers(&broker)[0];
    let mut flooded = Client::hello(&broker, Version::V5, "flooded");
    flooded.subscribe("t", 0);
    let mut writer = Client::hello(&broker, Version::V5, "writer");
    send(worker, Signal::STOP);
    // More than the socket accepts, and 199 that wait behind it.
    assert_eq!(writer.publish(&Publish::new("t", "x".repeat(900_000)).qos(1)), 0);
    for _ in 1..200 {
        assert_eq!(writer.publish(&Publish::new("t", "x").qos(1)), 0);
    }
    let mut entering = Client::dial(&broker, Version::V5);
    let deferred = deferrals(&broker);
    entering.send(&Connect::new(Version::V5, "late").encode());
    until("it is asked whether it may come in", || deferrals(&broker) > deferred);
    let row = &broker.ctl_json(&["exhook", "drivers", "stats"])[0];
    let of = |which: &str| row[which].as_i64().unwrap();
    assert_eq!((of("refused"), of("failed")), (0, 0), "{row}");
    let dropped = of("dropped");
    // Half of the limit of one client.
    assert_eq!((dropped, of("dropped_client")), (190, 190), "{row}");
    assert!(of("queue_bytes") > 0, "{row}");
    let metrics = broker.ctl_ok(&["metrics"]);
    let kind = metrics.lines().find(|line| line.contains("plugin_exhook_dropped_python3_message_delivered"));
    assert!(kind.is_some_and(|line| line.contains(&dropped.to_string())), "{metrics}");
    await_lines(&broker, "notifications are dropped (message.delivered ", 1);
    await_lines(&broker, "found no room left of its client (client_queue_max, client_queue_bytes_max)", 1);
    send(worker, Signal::CONT);
    let code = entering.receive_where("CONNACK", |packet| match packet {
        Packet::Connack { code, .. } => Some(*code),
        _ => None,
    });
    assert_eq!(code, 0);
    until("nothing is held any more", || figure(&broker, "queue_bytes") == 0);
}

/// Resources of a process: threads, descriptors, lines of its memory map, children, and bytes of
/// private memory.
fn belongings(process: u32) -> ([usize; 4], u64) {
    let count = |of: &str| std::fs::read_dir(format!("/proc/{process}/{of}")).unwrap().count();
    let read = |of: &str| std::fs::read_to_string(format!("/proc/{process}/{of}")).unwrap_or_default();
    let children = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let children = children.map(|task| {
        let task = task.unwrap().file_name().into_string().unwrap();
        read(&format!("task/{task}/children")).split_whitespace().count()
    });
    let anonymous = read("status");
    let anonymous = anonymous.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    // Mappings of files: other mappings are memory, which is checked in bytes.
    let mapped = read("maps").lines().filter(|line| line.contains('/')).count();
    ([count("task"), count("fd"), mapped, children.sum()], kib << 10)
}

/// Each reload of the same file begins with new workers and leaves nothing of the old ones: no
/// thread, descriptor, mapping or process, and no memory that grows with each. `GRAPNEL_RELOADS`
/// sets the number.
#[test]
fn reloads_leave_nothing_behind() {
    let reloads = std::env::var("GRAPNEL_RELOADS").map_or(8, |count| count.parse().unwrap());
    let broker = with_short_waits().start();
    load(&broker, &python("mirror", &["pool_size=2"]));
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("mirror/#", 0);
    let mut reload = || {
        assert_eq!(client.publish(&Publish::new("mirror/a", "abc").qos(1)), 0);
        assert_eq!(client.message().text(), "cba");
        broker.ctl_ok(&["plugins", "reload", "exhook"]);
        until("the old workers end", || {
            !broker.ctl_ok(&["plugins", "list"]).contains("finishes its pending work")
        });
    };
    // The first reloads allocate what is allocated once.
    (0..2).for_each(|_| reload());
    let process = broker.process().id();
    let (before, bytes) = belongings(process);
    let mut readings = vec![bytes];
    for _ in 0..reloads {
        reload();
        readings.push(belongings(process).1);
    }
    let (after, _) = belongings(process);
    eprintln!("{reloads} reloads: {before:?} before, {after:?} after, bytes {readings:?}");
    // One may be about to end.
    assert!(after.iter().zip(before).all(|(now, before)| *now <= before + 2), "{before:?}, {after:?}");
    // The loader's temporary memory varies: the minimum of the first and of the last readings is
    // what stays.
    let least = |readings: &[u64]| *readings.iter().min().unwrap();
    let (first, last) = readings.split_at(readings.len() / 2);
    assert!(least(last) <= least(first) + (2 << 20), "{readings:?}");
}
