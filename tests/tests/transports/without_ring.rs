//! Where io_uring is not allowed: the broker starts on epoll by itself, unless it was told to use
//! io_uring.

use std::ffi::OsStr;
use std::path::PathBuf;

use grapnel_tests::process::Process;
use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version};

/// Starts a broker under a filter in which the calls of io_uring fail with this number.
fn without_io_uring(errno: &str) -> grapnel_tests::broker::Builder {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("without_io_uring.py");
    Broker::builder().started_by(&[OsStr::new("python3"), script.as_os_str(), OsStr::new(errno)])
}

/// EPERM is what the default seccomp profiles of container engines answer, ENOSYS a kernel that has
/// no io_uring.
const ERRORS: [(&str, &str); 2] = [("1", "EPERM"), ("38", "ENOSYS")];

#[test]
fn the_broker_starts_on_epoll_by_itself() {
    for (errno, name) in ERRORS {
        let broker = without_io_uring(errno).start();
        let says = |line: &str| line.contains("waits for sockets with epoll").then(|| line.to_owned());
        let lines = broker.process().lines(says);
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(lines[0].contains("io_uring cannot be used"), "{name}: {}", lines[0]);
        let mut client = Client::hello(&broker, Version::V5, "client");
        client.subscribe("a", 1);
        client.publish(&Publish::new("a", name).qos(1));
        assert_eq!(client.message().text(), name);
    }
}

#[test]
fn a_broker_that_must_use_io_uring_refuses_to_start() {
    for (errno, name) in ERRORS {
        let mut builder = without_io_uring(errno).config("[runtime]\nio = \"io_uring\"");
        let (command, _home) = builder.grapnel_command();
        let mut process = Process::start("grapnel", command, None);
        let status = process.wait(PATIENCE).expect("it ends");
        let log = process.log();
        assert_eq!(status.code(), Some(78), "{name}: {log}");
        assert!(log.contains("io = \"epoll\""), "{name}: the remedy is missing: {log}");
    }
}

/// The choice of the configuration, seen from outside: an io_uring descriptor or none.
#[test]
fn the_configuration_chooses() {
    for (io, has_ring) in [("auto", true), ("io_uring", true), ("epoll", false)] {
        let broker = Broker::builder().config(&format!("[runtime]\nio = {io:?}")).grapnel_only().start();
        let folder = format!("/proc/{}/fd", broker.process().id());
        let targets =
            std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
        let rings = targets.filter(|target| target.to_string_lossy().contains("[io_uring]")).count();
        assert_eq!(rings > 0, has_ring, "{io}: {rings} rings");
    }
}
