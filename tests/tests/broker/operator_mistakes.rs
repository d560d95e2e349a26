//! Mistakes of an operator in a hurry that must do no harm: two brokers in one place, a start right
//! after a crash, descriptors used up by clients, signals of other brokers, files that other users
//! could access.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use grapnel_tests::process::{Process, command};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Version, plugin};
use rustix::process::Signal;

fn builder() -> grapnel_tests::broker::Builder {
    Broker::builder().grapnel_only()
}

/// A broker that is started by hand, with a given state folder and socket.
fn start(state: &Path, socket: &Path, listen: &str) -> Process {
    start_with_patience(state, socket, listen, 500)
}

fn start_with_patience(state: &Path, socket: &Path, listen: &str, ms: u32) -> Process {
    let mut command = command(plugin::built("grapnel"));
    command.args(["--shards", "1", "--listen", listen, "--socket"]).arg(socket);
    command.env("GRAPNEL_STATE_DIR", state).env("GRAPNEL_DIE_WITH_PARENT", "1");
    command.env("GRAPNEL_LIMITS_START_RETRY_MS", ms.to_string());
    Process::start("grapnel", command, None)
}

fn wait_until_ready(process: &Process) {
    process.wait_for_line("ready", PATIENCE, |line| (line == "ready").then_some(()));
}

#[test]
fn a_state_folder_has_one_broker_and_the_second_names_it() {
    let first = builder().start();
    first.ctl_ok(&["plugins", "load", "noop"]);
    let state = first.home().join("state");
    let mut second = start(&state, &first.home().join("other.sock"), "127.0.0.1:0");
    let status = second.wait(PATIENCE).expect("it ends");
    let expected = format!(
        "cannot use the state folder {}: another broker (process {})",
        state.display(),
        first.process().id()
    );
    assert!(!status.success() && second.log().contains(&expected), "{}", second.log());
    first.ctl_ok(&["status"]);
    // The lock ends with the process, and the stored state is unchanged.
    let again = builder().home(first.stop()).start();
    assert_eq!(again.ctl_json(&["plugins", "list"])["plugins"][0]["name"], "noop");
}

/// A plugin that was loaded with `--required` is one without which the broker does not start again.
#[test]
fn the_broker_does_not_start_without_a_plugin_loaded_as_required() {
    let first = builder().start();
    let file = first.home().join("guard.so");
    std::fs::copy(plugin::library("noop"), &file).unwrap();
    let path = plugin::argument(&file).to_owned();
    let refused = first.ctl_refused(&["plugins", "load", &path, "--name", "guard", "--once", "--required"]);
    assert!(refused.contains("cannot be used with"), "{refused}");
    first.ctl_ok(&["plugins", "load", &path, "--name", "guard", "--required"]);
    let listed = first.ctl_ok(&["plugins", "list"]);
    assert!(listed.contains("loaded, required"), "{listed}");
    let shown = first.ctl_ok(&["plugins", "show", "guard"]);
    assert!(shown.contains("the broker does not start without it"), "{shown}");
    // It stays required over a reload, and is loaded again.
    first.ctl_ok(&["plugins", "reload", "guard"]);
    let again = builder().home(first.stop()).start();
    assert_eq!(again.ctl_json(&["plugins", "show", "guard"])["required"], true);
    let home = again.stop();

    std::fs::remove_file(&file).unwrap();
    let state = home.path().join("state");
    let mut process = start(&state, &home.path().join("other.sock"), "127.0.0.1:0");
    let status = process.wait(PATIENCE).expect("it ends");
    let log = process.log();
    let expected = format!(
        "; the broker does not start without plugin guard: it was loaded with --required; to start without it, remove its \
         entry from {}",
        state.join("plugins.json").display()
    );
    assert!(status.code() == Some(1) && log.contains(&expected), "{log}");

    // With the file, or without the requirement, it starts.
    std::fs::copy(plugin::library("noop"), &file).unwrap();
    let third = builder().home(home).start();
    third.ctl_ok(&["plugins", "unload", "guard"]);
    third.ctl_ok(&["plugins", "load", &path, "--name", "guard"]);
    let home = third.stop();
    std::fs::remove_file(&file).unwrap();
    let fourth = builder().home(home).start();
    assert_eq!(fourth.ctl_json(&["plugins", "show", "guard"])["state"], "failed");
}

#[test]
fn of_two_brokers_that_start_together_one_gets_the_socket() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("ctl.sock");
    for round in 0..3 {
        let state = |number: u32| home.path().join(format!("state-{round}-{number}"));
        let started: Vec<Process> =
            (0..2).map(|number| start(&state(number), &socket, "127.0.0.1:0")).collect();
        let began = Instant::now();
        let ended = |process: &mut Process| process.wait(Duration::from_millis(20)).is_some();
        let mut started = started;
        let loser = loop {
            if let Some(at) = started.iter_mut().position(ended) {
                break started.remove(at);
            }
            assert!(began.elapsed() < PATIENCE, "both go on");
        };
        let winner = &started[0];
        wait_until_ready(winner);
        let expected = format!(
            "cannot use the control socket {}: another broker (process {})",
            socket.display(),
            winner.id()
        );
        assert!(loser.log().contains(&expected), "{}", loser.log());
        let mut ctl = command(plugin::built("grapnel-ctl"));
        ctl.arg("--socket").arg(&socket).args(["status", "--json"]);
        let status = Process::start("grapnel-ctl", ctl, None).succeed(PATIENCE);
        assert!(status.contains(&format!("\"pid\": {}", winner.id())), "{status}");
        // Killed, it leaves socket and lock behind, which the next round replaces.
        winner.signal(Signal::KILL);
    }
}

/// Between the check for another broker and its own socket, a broker that starts has no socket yet:
/// its lock keeps the other one out.
#[test]
fn a_broker_without_its_socket_file_keeps_the_state_folder() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("ctl.sock");
    let first = start(&home.path().join("first"), &socket, "127.0.0.1:0");
    wait_until_ready(&first);
    std::fs::remove_file(&socket).unwrap();
    let mut second = start(&home.path().join("second"), &socket, "127.0.0.1:0");
    let status = second.wait(PATIENCE).expect("it ends");
    let expected = format!(
        "cannot use the control socket {}: another broker (process {})",
        socket.display(),
        first.id()
    );
    assert!(!status.success() && second.log().contains(&expected), "{}", second.log());
    assert!(!socket.exists());
    first.signal(Signal::TERM);
}

/// A port that is in use at the first attempt is bound once it is free.
#[test]
fn a_port_that_becomes_free_during_the_start_is_used() {
    let home = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let (state, socket) = (home.path().join("state"), home.path().join("ctl.sock"));
    let broker = start_with_patience(&state, &socket, &address, 60_000);
    let tries = |line: &str| line.contains("tries again for 60000 ms").then_some(());
    broker.wait_for_line("that it tries again", PATIENCE, tries);
    drop(holder);
    wait_until_ready(&broker);
    broker.signal(Signal::TERM);
}

/// With connected clients, whose connections the kernel closes some time after the process has
/// ended.
#[test]
fn a_broker_starts_right_after_one_was_killed() {
    let home = tempfile::tempdir().unwrap();
    let (state, socket) = (home.path().join("state"), home.path().join("ctl.sock"));
    let mut killed = start(&state, &socket, "127.0.0.1:0");
    wait_until_ready(&killed);
    let address = killed.wait_for_line("the address", PATIENCE, |line| {
        line.strip_prefix("listening on mqtt://").map(str::to_owned)
    });
    let clients: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&*address).unwrap()).collect();
    // Without a wait: the next one starts before the first has ended.
    killed.signal(Signal::KILL);
    let next = start_with_patience(&state, &socket, &address, 10_000);
    wait_until_ready(&next);
    drop(clients);
    assert!(killed.wait(PATIENCE).is_some());
    // A port that stays in use is not waited for any longer.
    let began = Instant::now();
    let mut third = start(&home.path().join("third"), &home.path().join("third.sock"), &address);
    let status = third.wait(PATIENCE).expect("it ends");
    assert!(!status.success() && began.elapsed() >= Duration::from_millis(500), "{}", third.log());
    let expected =
        format!("cannot listen on {address}: address in use; another broker? choose another with --listen");
    assert!(third.log().contains(&expected), "{}", third.log());
    next.signal(Signal::TERM);
}

#[test]
fn descriptors_are_left_for_the_operator_when_clients_use_up_theirs() {
    // 64 and 16 for a shard, 40 free, and the others for clients.
    let mut builder =
        builder().shards(1).config("[limits]\ndescriptors_free_min = 40\n[control]\nconnections_max = 8");
    let (broker, home) = builder.grapnel_command();
    let mut command = command("prlimit");
    command.arg("--nofile=160:160").arg(broker.get_program()).args(broker.get_args());
    command.args(["--listen", "127.0.0.1:0"]);
    for (name, value) in broker.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let process = Process::start("grapnel", command, None);
    wait_until_ready(&process);
    let address = process.wait_for_line("the address", PATIENCE, |line| {
        line.strip_prefix("listening on mqtt://").map(str::to_owned)
    });
    let ctl = |arguments: &[&str]| {
        let mut command = grapnel_tests::process::command(plugin::built("grapnel-ctl"));
        command.arg("--socket").arg(home.path().join("ctl.sock")).args(arguments);
        Process::start("grapnel-ctl", command, None).succeed(PATIENCE)
    };
    let mut known = TcpStream::connect(&*address).unwrap();
    known.write_all(&Connect::new(Version::V311, "known").encode()).unwrap();
    known.read_exact(&mut [0; 4]).expect("CONNACK");
    let mut clients: Vec<TcpStream> = (0..160).map(|_| TcpStream::connect(&*address).unwrap()).collect();
    process.wait_for_line("that it is full", PATIENCE, |line| {
        line.contains("only the 40 descriptors of limits.descriptors_free_min are left").then_some(())
    });
    // The connection of a refused client ends.
    for client in &clients {
        client.set_nonblocking(true).unwrap();
    }
    let began = Instant::now();
    while !clients.iter_mut().any(|client| matches!(client.read(&mut [0]), Ok(0))) {
        assert!(began.elapsed() < PATIENCE, "nobody is closed");
    }
    let status = ctl(&["status"]);
    assert!(status.contains("connections"), "{status}");
    ctl(&["plugins", "load", "noop", "--once"]);
    ctl(&["clients", "kick", "known"]);
    assert_eq!(known.read(&mut [0]).unwrap(), 0, "it is closed");
    let metrics = ctl(&["metrics", "--json"]);
    assert!(metrics.contains("\"connections_refused_descriptors\""), "{metrics}");
    let full = process.lines(|line| line.contains("descriptors_free_min").then_some(()));
    assert_eq!(full.len(), 1, "once is enough: {}", process.log());
    process.signal(Signal::TERM);
}

/// Signals with which Mosquitto saves, reloads or prints; none of them ends this broker.
#[test]
fn unused_signals_are_logged_and_ignored() {
    let broker = builder().start();
    let mut client = Client::hello(&broker, Version::V5, "c");
    for (signal, expected) in [
        (Signal::USR1, "SIGUSR1 is ignored"),
        (Signal::USR2, "SIGUSR2 is ignored: `grapnel-ctl subscriptions list`"),
    ] {
        broker.process().signal(signal);
        broker.process().wait_for_line(expected, PATIENCE, |line| line.contains(expected).then_some(()));
        client.ping();
    }
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0x10);
}

#[test]
fn ctl_shows_the_consequences_before_hooks_are_removed() {
    let broker = builder().start();
    broker.ctl_ok(&["plugins", "load", "noop", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.ping();
    let expected = [
        "message.publish loses noop/publish and has no hook left",
        "1 connection and 1 session go on without it",
    ];
    let unmounted = broker.ctl_ok(&["hooks", "unmount", "noop", "message.publish", "publish"]);
    for sentence in expected {
        assert!(unmounted.contains(&format!("grapnel-ctl: {sentence}")), "{unmounted}");
    }
    // The plugin is disabled already, so that nothing follows.
    let disabled = broker.ctl_ok(&["plugins", "disable", "noop"]);
    assert!(!disabled.contains("loses"), "{disabled}");
    broker.ctl_ok(&["plugins", "enable", "noop"]);
    broker.ctl_ok(&["hooks", "mount", "noop", "message.publish", "publish"]);
    let done = broker.ctl_json(&["plugins", "unload", "noop"]);
    assert_eq!(done["follows"], serde_json::json!(expected));
}

/// Folders for copies of plugins in a state folder.
fn folders(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state).unwrap().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("grapnel-plugins-"))
        .collect()
}

#[test]
fn copies_of_plugins_are_private_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let (state, socket) = (home.path().join("state"), home.path().join("ctl.sock"));
    let begin = || {
        let mut command = Command::new("sh");
        command.arg("-c").arg("umask 002; exec \"$0\" --shards 1 --listen 127.0.0.1:0 --socket \"$1\"");
        command.arg(plugin::built("grapnel")).arg(&socket);
        command.env("GRAPNEL_STATE_DIR", &state).env("GRAPNEL_DIE_WITH_PARENT", "1");
        let process = Process::start("grapnel", command, None);
        wait_until_ready(&process);
        process
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut first = begin();
    let left = folders(&state);
    assert_eq!((left.len(), mode(&left[0]), mode(&state)), (1, 0o700, 0o700));
    first.kill();
    assert!(left[0].exists(), "nobody has removed it yet");
    let mut second = begin();
    let own = folders(&state);
    assert!(own.len() == 1 && own != left, "{own:?} after {left:?}");
    second.signal(Signal::TERM);
    assert!(second.wait(PATIENCE).is_some_and(|status| status.success()));
    assert_eq!(folders(&state), Vec::<PathBuf>::new());
}
