//! `run`: scenarios against a broker with known faults. The report must name each of them.

use super::broker::{Behaviour, Broker};
use super::tool::{Ended, PATIENCE, Tool, expect_counts};
use procfs::process::{Process, all_processes};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;

/// Runs a scenario briefly against a running broker.
fn start(broker: &Broker, arguments: &str) -> Tool {
    let port = broker.addr.port().to_string();
    let (scenario, options) = arguments.split_once(' ').unwrap_or((arguments, ""));
    let usual =
        ["run", scenario, "-p", &port, "--json", "--warm-up", "0", "--duration", "0.3", "--waiting", "sleep"];
    Tool::spawn(usual.into_iter().chain(options.split_whitespace()))
}

fn measure(broker: &Broker, arguments: &str) -> Ended {
    start(broker, arguments).end()
}

/// Runs the tool with exactly these arguments.
fn tool(arguments: &[&str]) -> Ended {
    Tool::spawn(["run"].into_iter().chain(arguments.iter().copied())).end()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} is no number: {report}"))
}

/// The sum of all errors whose text contains `part`.
fn errors(report: &Value, part: &str) -> u64 {
    let errors = report["errors"].as_object().unwrap();
    errors.iter().filter(|(text, _)| text.contains(part)).map(|(_, count)| count.as_u64().unwrap()).sum()
}

#[test]
fn every_scenario_delivers_in_every_qos() {
    let scenarios = [
        "one-to-one -w 20 --burst 5",
        "ping-pong",
        "pairs --pairs 4",
        "pairs-one --pairs 3",
        "fan-out --subscribers 5",
        "fan-out-burst --subscribers 5",
        "fan-in --publishers 5 --subscribers 2",
        "paced --rate 500",
        "wildcards --filters 30 --subscribers 8 --publishers 3",
    ];
    for scenario in scenarios {
        for qos in 0..=2 {
            let broker = Broker::start(Behaviour::default());
            let report = measure(&broker, &format!("{scenario} -q {qos} -V {}", 3 + qos)).succeeded();
            let label = format!("{scenario} with QoS {qos}: {report}");
            assert!(number(&report, "delivered") > 0.0, "{label}");
            let faults = ["lost", "duplicated", "out_of_order", "stray", "refused", "unacked", "disconnects"];
            expect_counts(&report, &label, &faults.map(|fault| (fault, 0)));
            assert!(report["latency_us"]["p50"].as_f64() > Some(0.0), "{label}");
            assert_eq!(report["ack_latency_us"].is_null(), qos == 0, "{label}");
            assert_eq!(report["connects"]["connected"], broker.seen().client_ids.len(), "{label}");
            assert_eq!(report["broker"]["pid"], Value::Null);
            assert!(report["cpu"].is_null() && report["memory"].is_null(), "without a process id: {label}");
        }
    }
}

#[test]
fn every_message_of_a_fan_out_counts_once_for_each_subscriber() {
    let broker = Broker::start(Behaviour::default());
    let report = measure(&broker, "fan-out --subscribers 7 -s 100").succeeded();
    let (sent, delivered) = (number(&report, "sent"), number(&report, "delivered"));
    // At the borders of the window a message may be under way.
    assert!((delivered - 7.0 * sent).abs() <= 7.0, "{report}");
    assert_eq!(number(&report, "delivered_bytes"), delivered * 100.0);
    assert_eq!(report["latency_us"]["count"], report["delivered"], "every delivery has its latency");
    assert_eq!(report["latency_from"], "send");
    assert!(number(&report, "sent") <= f64::from(broker.seen().published));
}

#[test]
fn several_filters_match_each_message_of_the_tree() {
    let broker = Broker::start(Behaviour::default());
    let report = measure(&broker, "wildcards --filters 100 --subscribers 10 --publishers 2").succeeded();
    let each = number(&report, "delivered") / number(&report, "sent");
    assert!((3.5..=5.5).contains(&each), "{each} deliveries for each message: {report}");
}

#[test]
fn lost_and_doubled_messages_fail_the_run() {
    let broker = Broker::start(Behaviour { lose_every: Some(10), ..Behaviour::default() });
    let report = measure(&broker, "one-to-one -w 50 --burst 1 --patience 0.3").failed();
    let (published, lost) = (broker.seen().published, report["lost"].as_u64().unwrap());
    assert_eq!(lost, u64::from(published / 10), "of {published}: {report}");
    assert!(number(&report, "delivered") > 50.0, "losses do not hold the window for ever: {report}");

    let broker = Broker::start(Behaviour { double_every: Some(10), ..Behaviour::default() });
    let report = measure(&broker, "one-to-one -w 50").failed();
    let doubled = u64::from(broker.seen().published / 10);
    assert_eq!((&report["duplicated"], &report["lost"]), (&doubled.into(), &0.into()), "{report}");
}

#[test]
fn the_loss_of_the_last_message_ends_the_run() {
    let broker = Broker::start(Behaviour { lose_every: Some(5), ..Behaviour::default() });
    let report = measure(&broker, "ping-pong --patience 0.2 --duration 60").failed();
    assert_eq!((broker.seen().published, &report["lost"]), (5, &1.into()), "{report}");
    assert_eq!(errors(&report, "nothing came for 0.2 s although messages were outstanding"), 1, "{report}");
    assert!(report["measured_s"].is_null(), "there was no whole window: {report}");
}

#[test]
fn the_window_is_filled_and_never_exceeded() {
    let broker = Broker::start(Behaviour { hold: Some(7), ..Behaviour::default() });
    measure(&broker, "one-to-one -w 7 --burst 7");
    assert_eq!(broker.seen().held_max, 7);
    assert!(broker.seen().published > 14, "credit comes back: {:?}", broker.seen());

    let broker = Broker::start(Behaviour { hold: Some(8), ..Behaviour::default() });
    measure(&broker, "one-to-one -w 7 --burst 3 --patience 0.3").failed();
    assert_eq!(broker.seen().held_max, 6, "two whole bursts fit into the window");
}

#[test]
fn credit_waits_for_the_last_subscriber() {
    let broker = Broker::start(Behaviour { mute_subscriber: Some(2), ..Behaviour::default() });
    let report = measure(&broker, "fan-out --subscribers 3 -w 5 --burst 1 --patience 0.2").failed();
    assert_eq!((broker.seen().published, &report["lost"]), (5, &5.into()), "{report}");
}

#[test]
fn an_open_loop_counts_from_when_messages_were_due() {
    let behaviour = Behaviour { pause: Some((100, 300)), receive_maximum: Some(5), ..Behaviour::default() };
    let broker = Broker::start(behaviour);
    let report = measure(&broker, "paced --rate 1000 -q 1 --duration 1").succeeded();
    assert_eq!(report["latency_from"], "schedule");
    // Three hundred of some thousand messages were due during the broker's pause, and all but five
    // could not be sent then.
    assert!(report["latency_us"]["p90"].as_f64() > Some(100_000.0), "{report}");
    let sent = number(&report, "sent");
    assert!((900.0..=1100.0).contains(&sent), "the pace is kept: {report}");
}

#[test]
fn connections_are_counted_and_closed() {
    let broker = Broker::start(Behaviour::default());
    let report = measure(&broker, "connect-storm --connections 40 --connects-pending-max 6").succeeded();
    assert_eq!(report["connects"]["connected"], 40, "{report}");
    assert_eq!(report["connects"]["latency_us"]["count"], 40, "{report}");
    let ids: BTreeSet<_> = broker.seen().client_ids.into_iter().collect();
    assert_eq!((ids.len(), broker.seen().goodbyes), (40, 40), "each has an id of its own");

    let broker = Broker::start(Behaviour::default());
    let report = measure(&broker, "idle --connections 30").succeeded();
    assert_eq!(report["connects"]["connected"], 30, "{report}");
    assert!(report["delivered_per_s"].is_null() && number(&report, "measured_s") >= 0.3, "{report}");
    assert_eq!(broker.seen().goodbyes, 30);
}

#[test]
fn a_broker_that_does_not_answer_is_named() {
    let broker = Broker::start(Behaviour { no_connack: true, ..Behaviour::default() });
    for scenario in ["connect-storm --connections 3", "idle --connections 3", "pairs --pairs 1"] {
        let report = measure(&broker, &format!("{scenario} --patience 0.2")).failed();
        let clients = report["connects"]["started"].as_u64().unwrap();
        assert_eq!(errors(&report, "no CONNACK within the connect timeout"), clients, "{scenario}: {report}");
        assert_eq!(report["connects"]["failed"], clients, "{scenario}: {report}");
    }
}

#[test]
fn a_refused_subscription_and_a_dropped_connection_fail_the_run() {
    let broker = Broker::start(Behaviour { suback: Some(0x87), ..Behaviour::default() });
    let report = measure(&broker, "pairs --pairs 2").failed();
    assert_eq!(errors(&report, "SUBACK: not authorized (0x87)"), 2, "{report}");

    let broker = Broker::start(Behaviour { drop_after: Some(20), ..Behaviour::default() });
    let ended = measure(&broker, "pairs --pairs 2 --duration 60");
    assert!(ended.stderr.contains("connection closed by the broker"), "{}", ended.stderr);
    let report = ended.failed();
    assert!(number(&report, "disconnects") >= 1.0, "{report}");
}

#[test]
fn refused_messages_fail_the_run() {
    let broker = Broker::start(Behaviour { puback: Some(0x97), ..Behaviour::default() });
    let report = measure(&broker, "one-to-one -q 1 -w 5").failed();
    assert_eq!(report["refused"].as_u64(), Some(broker.seen().published.into()), "{report}");
    assert!(errors(&report, "message refused: quota exceeded (0x97)") > 0, "{report}");

    let broker = Broker::start(Behaviour { no_acks: true, ..Behaviour::default() });
    let report = measure(&broker, "one-to-one -q 1 -w 5 --burst 1 --patience 0.2").failed();
    assert_eq!((&report["unacked"], &report["lost"]), (&5.into(), &0.into()), "{report}");
}

#[test]
fn the_broker_decides_how_many_messages_are_in_flight() {
    let broker = Broker::start(Behaviour { receive_maximum: Some(3), ..Behaviour::default() });
    measure(&broker, "one-to-one -q 1 -w 50 --burst 50").succeeded();
    assert_eq!(broker.seen().unacknowledged_max, 3);
}

#[test]
fn a_given_process_is_measured_and_not_ended() {
    let broker = Broker::start(Behaviour::default());
    let pid = std::process::id();
    let report = measure(&broker, &format!("fan-out --subscribers 3 --pid {pid} --syscalls")).succeeded();
    assert_eq!(report["broker"]["pid"], pid);
    let cpu = &report["cpu"];
    assert!(cpu["total_s"].as_f64() > Some(0.0) && cpu["us_per_delivery"].as_f64() > Some(0.0), "{report}");
    let (rss, peak) = (report["memory"]["rss_bytes"].as_u64(), report["memory"]["rss_peak_bytes"].as_u64());
    assert!(rss > Some(0) && peak >= rss, "{report}");
    // If perf is missing or forbidden, the report contains the reason.
    match report["syscalls_why_not"].as_str() {
        None => assert!(report["syscalls"]["per_delivery"].as_f64() > Some(0.1), "{report}"),
        Some(why) => assert!(why.contains("perf") && report["syscalls"].is_null(), "{report}"),
    }
}

/// The broker answers nothing within the window: without a latency for that it would look fast.
#[test]
fn unacknowledged_messages_at_the_end_count_with_their_waiting_time() {
    let broker = Broker::start(Behaviour { hold: Some(1_000_000), ..Behaviour::default() });
    let arguments = "one-to-one --rate 1000 --warm-up 0 --duration 0.5 --patience 0.8";
    let report = measure(&broker, arguments).failed();
    assert!(report["delivered"] == 0 && number(&report, "lost") >= 400.0, "{report}");
    let latency = &report["latency_us"];
    assert!(number(latency, "max") >= 400_000.0 && number(latency, "p50") >= 150_000.0, "{report}");
}

#[test]
fn the_report_has_the_keys_of_the_readme() {
    let broker = Broker::start(Behaviour::default());
    let report = measure(&broker, &format!("idle --connections 2 --pid {}", std::process::id())).succeeded();
    let keys = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let set = |words: &str| words.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    for (part, words) in [
        (
            &report,
            "scenario broker options connects measured_s sent delivered delivered_bytes sent_per_s delivered_per_s \
             delivered_bytes_per_s lost duplicated out_of_order stray refused unacked disconnects latency_us \
             latency_from ack_latency_us cpu children memory syscalls syscalls_why_not bench interrupted errors broker_log",
        ),
        (&report["broker"], "address pid command cpus"),
        (
            &report["options"],
            "scheme version qos size window burst rate publishers subscribers connections filters waiting",
        ),
        (&report["connects"], "started connected failed handshakes per_s latency_us cpu_us_each"),
        (
            &report["cpu"],
            "total_s user_s system_s share waited us_per_delivery user_us_per_delivery system_us_per_delivery",
        ),
        (&report["memory"], "rss_bytes rss_peak_bytes rss_before_bytes bytes_per_connection"),
        (&report["bench"], "busy waited"),
    ] {
        assert_eq!(keys(part), set(words));
        let readme = include_str!("../../README.md");
        for key in keys(part).iter().filter(|key| !key.ends_with("_per_s")) {
            assert!(readme.contains(&format!("`{key}`")), "README.md does not tell of {key}");
        }
    }
}

#[test]
fn a_signal_ends_the_run_with_its_report() {
    let broker = Broker::start(Behaviour::default());
    let tool = start(&broker, "idle --connections 5 --duration 60");
    while broker.seen().client_ids.len() < 5 {
        std::thread::yield_now();
    }
    tool.signal(Signal::TERM);
    let report = tool.end().json();
    assert_eq!((&report["interrupted"], &report["measured_s"]), (&true.into(), &Value::Null), "{report}");
}

#[test]
fn a_broker_that_does_not_start_is_explained() {
    let ended = tool(&["pairs", "--broker", "/bin/sh -c 'echo it is too early >&2; exit 3' {listen}"]);
    assert_eq!(ended.code, Some(1));
    for part in ["the broker did not start: the broker ended with exit status: 3", "it is too early"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    let ended = tool(&["pairs", "--broker", "/no/such/broker {port}"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("/no/such/broker"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "", "nothing was measured");
}

/// The tool's own relay as a broker that `run` starts.
const FLOOR: &str = concat!(env!("CARGO_BIN_EXE_grapnel-bench"), " floor --listen {listen}");

fn exists(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits for an event that must happen.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// The process of the broker that a tool has started, once the tool's clients are connected to it.
fn loaded_broker(tool: &Tool, clients: usize) -> i32 {
    let parent = i32::try_from(tool.child.id()).unwrap();
    let is_child = |process: &Process| process.stat().is_ok_and(|stat| stat.ppid == parent);
    let broker = wait_for("a broker", || all_processes().unwrap().flatten().find(is_child));
    let is_loaded = || broker.fd_count().is_ok_and(|open| open > clients);
    wait_for("the load", || is_loaded().then_some(()));
    broker.pid
}

#[test]
fn a_started_broker_is_measured_and_ends_with_the_run() {
    let ended =
        tool(&["pairs", "--broker", FLOOR, "--json", "--pairs", "5", "--duration", "0.3", "--syscalls"]);
    let report = ended.succeeded();
    assert_eq!(report["broker"]["command"], FLOOR);
    assert!(number(&report["cpu"], "us_per_delivery") > 0.0, "{report}");
    let pid = report["broker"]["pid"].as_i64().unwrap();
    assert!(!exists(i32::try_from(pid).unwrap()), "it was waited for");
}

#[test]
fn a_broker_that_dies_in_the_run_is_reported() {
    let options = ["--json", "--pairs", "10", "--duration", "60"];
    let tool = Tool::spawn(["run", "pairs", "--broker", FLOOR].into_iter().chain(options));
    let broker = loaded_broker(&tool, 20);
    kill_process(Pid::from_raw(broker).unwrap(), Signal::KILL).unwrap();
    let report = tool.end().failed();
    assert_eq!(errors(&report, "the broker ended with signal: 9 (SIGKILL)"), 1, "{report}");
    assert!(report["measured_s"].is_null() && report["broker_log"].is_string(), "{report}");
}

#[test]
fn a_started_broker_ends_when_the_tool_is_killed() {
    let options = ["--connections", "10", "--duration", "60"];
    let tool = Tool::spawn(["run", "idle", "--broker", FLOOR].into_iter().chain(options));
    let broker = loaded_broker(&tool, 10);
    tool.signal(Signal::KILL);
    tool.end();
    wait_for("the end of the broker", || (!exists(broker)).then_some(()));
}

#[test]
fn list_and_help_show_every_scenario() {
    let (list, help) = (tool(&["list"]), tool(&["--help"]));
    assert_eq!((list.code, help.code), (Some(0), Some(0)));
    let names = "one-to-one ping-pong pairs-one fan-out-burst fan-in paced wildcards connect-storm idle";
    for name in names.split(' ') {
        assert!(list.stdout.contains(name) && help.stdout.contains(name), "{name}");
    }
}
