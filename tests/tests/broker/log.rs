//! A log without a reader: standard error is a closed pipe, a full disk, or a pipe that is not
//! read. The lines are lost and counted, and nothing else is affected.

use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version, plugin};

/// Minimum number of lines that one publish causes, from a hook on a shard: `recorder` writes one
/// for each of its packets and messages.
const PUBLISHES: u64 = 300;

fn lines_lost(broker: &Broker) -> u64 {
    broker.ctl_json(&["status"])["log_lines_lost"].as_u64().expect("a number")
}

/// Publishes through hooks that write into the log. Returns the time of the slowest
/// acknowledgement.
fn publish(client: &mut Client, count: u64) -> Duration {
    let each = |_| {
        let sent = Instant::now();
        assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x10, "nobody has subscribed");
        sent.elapsed()
    };
    (0..count).map(each).max().unwrap_or_default()
}

#[track_caller]
fn serves_on_and_counts(broker: &Broker) {
    broker.ctl_ok(&["plugins", "load", "recorder", "--once"]);
    let mut client = Client::hello(broker, Version::V5, "c");
    publish(&mut client, PUBLISHES);
    let lost = lines_lost(broker);
    assert!(lost >= PUBLISHES, "{lost} lines are counted as lost");
    let metrics = broker.ctl_json(&["metrics"]);
    let rows = metrics["metrics"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["name"] == "log_lines_lost").expect("it is a metric");
    assert!(row["value"].as_u64() >= Some(lost), "{row}");
    // A plugin that fails to load, a client with a protocol error, and the end write lines of their
    // own.
    broker.ctl_refused(&["plugins", "load", "panic-in-load", "--once"]);
    Client::hello(broker, Version::V5, "d");
    publish(&mut client, 1);
}

#[test]
fn a_closed_pipe_loses_only_log_lines() {
    let (reader, writer) = pipe().unwrap();
    let broker = Broker::builder().stderr(writer).start();
    drop(reader);
    serves_on_and_counts(&broker);
}

#[test]
fn a_full_disk_loses_only_log_lines() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let broker = Broker::builder().stderr(full).start();
    serves_on_and_counts(&broker);
}

/// The next line with this in it.
fn line_with(reader: &mut BufReader<PipeReader>, what: &str) -> String {
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        if line.contains(what) {
            return line;
        }
        line.clear();
    }
    panic!("the log ends without {what:?}");
}

/// If the reader of the log has stopped, no shard waits for it; once it reads again, lines are
/// written again.
#[test]
fn an_unread_pipe_blocks_no_shard() {
    let (reader, writer) = pipe().unwrap();
    let broker = Broker::builder().shards(1).stderr(writer).start();
    broker.ctl_ok(&["plugins", "load", "recorder", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    // Some hundred bytes each: many times the size of a pipe.
    let slowest = publish(&mut client, 3000);
    assert!(slowest < PATIENCE / 4, "{slowest:?}");
    assert!(lines_lost(&broker) > 0);
    let reading = std::thread::spawn(move || line_with(&mut BufReader::new(reader), "client.connected late"));
    let began = Instant::now();
    while !reading.is_finished() && began.elapsed() < PATIENCE {
        drop(Client::hello(&broker, Version::V5, "late"));
    }
    assert!(reading.is_finished(), "no line comes any more");
    reading.join().unwrap();
    // The reader is dropped here, which the end of the broker must survive, too.
}

/// A fatal signal ends the process, although its message cannot be written.
#[test]
fn a_fatal_signal_ends_the_process_while_its_pipe_is_not_read() {
    let (_reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut broker = Broker::builder().stderr(writer).start();
    broker.may_end_badly();
    broker.ctl_ok(&["plugins", "load", "crasher", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.send_publish(&Publish::new("crash/null", "x"));
    let ended = broker.wait().expect("it ends");
    assert_eq!(ended.signal(), Some(11), "{ended}");
}

/// The output of a program may also go to a closed pipe or a full disk.
#[test]
fn the_programs_end_normally_with_a_closed_standard_output() {
    let broker = Broker::builder().grapnel_only().start();
    let socket = plugin::argument(broker.socket()).to_owned();
    let programs: [(&str, &[&str]); 11] = [
        ("grapnel-ctl", &["status"]),
        ("grapnel-ctl", &["metrics", "--json"]),
        ("grapnel-ctl", &["plugins", "load", "no-such-plugin"]),
        ("grapnel-ctl", &["--help"]),
        ("grapnel-ctl", &["no-such-command"]),
        ("grapnel", &["--print-default-config"]),
        ("grapnel", &["--config", "/no/such/file"]),
        ("grapnel", &["--check-config"]),
        ("grapnel", &["--help"]),
        ("grapnel-bench", &["--help"]),
        ("grapnel-bench", &["no-such-command"]),
    ];
    for (program, arguments) in programs {
        for full in [false, true] {
            let ended = Command::new(plugin::built(program))
                .args(arguments)
                .env("GRAPNEL_CONTROL_SOCKET", &socket)
                .stdout(output_without_reader(full))
                .stderr(output_without_reader(full))
                .status()
                .unwrap();
            // A panic ends with 101, an abort by a signal.
            let code = ended.code();
            assert!(code.is_some_and(|code| code < 100), "{program} {arguments:?}: {ended}");
        }
    }
}

/// The message that the broker is ready goes to standard output, which may be closed, too.
#[test]
fn a_broker_runs_without_a_reader_of_its_output() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("ctl.sock");
    let mut broker = Command::new(plugin::built("grapnel"))
        .args(["--shards", "1", "--listen", "127.0.0.1:0", "--socket"])
        .arg(&socket)
        .env("GRAPNEL_STATE_DIR", home.path().join("state"))
        .env("GRAPNEL_DIE_WITH_PARENT", "1")
        .stdout(output_without_reader(false))
        .stderr(output_without_reader(true))
        .spawn()
        .unwrap();
    let began = Instant::now();
    let answers = || {
        let mut ctl = Command::new(plugin::built("grapnel-ctl"));
        ctl.arg("--socket").arg(&socket).arg("status").stdout(Stdio::null()).stderr(Stdio::null());
        ctl.status().unwrap().success()
    };
    while !answers() {
        assert!(began.elapsed() < PATIENCE, "it does not come up");
        assert!(broker.try_wait().unwrap().is_none(), "it has ended");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&broker), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(broker.wait().unwrap().code(), Some(0));
}

/// A pipe whose reader has ended, or a full disk.
fn output_without_reader(full: bool) -> Stdio {
    if full {
        return std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    }
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}
