//! `grapnel-bench` through TLS and WebSocket: every message arrives, sessions are resumed or not as
//! the options say, and what does not fit together is named.

use grapnel_tests::process::{Process, command};
use grapnel_tests::{Kind, PATIENCE, Site, plugin};
use serde_json::Value;

/// What the generator needs for this listener, without what a client must prove.
fn options(site: &Site, kind: Kind) -> Vec<String> {
    let mut options = vec!["-p".to_owned(), site.address(kind).port().to_string()];
    if kind.has_tls() {
        let cafile = site.certificates().authority();
        options.extend(["--tls".to_owned(), "--cafile".to_owned(), cafile.display().to_string()]);
    }
    if kind.has_websocket() {
        options.push("--ws".to_owned());
    }
    options
}

fn start(arguments: &str, options: &[String]) -> Process {
    let mut command = command(plugin::built("grapnel-bench"));
    command.args(arguments.split(' ')).arg("--json").args(options);
    Process::start("grapnel-bench", command, None)
}

/// Its end: whether it found no fault, and its report.
fn end(mut process: Process) -> (bool, Value) {
    let status = process.wait(PATIENCE).expect("every wait of the generator has an end");
    let report = process.lines(|line| serde_json::from_str(line).ok()).pop();
    (status.success(), report.unwrap_or_else(|| panic!("{}", process.log())))
}

fn run(arguments: &str, options: &[String]) -> (bool, Value) {
    end(start(arguments, options))
}

on_both! {
    fn every_message_arrives(site) {
        let files = site.certificates();
        let kinds = [(Kind::Tls, "mqtts"), (Kind::Mutual, "mqtts"), (Kind::Ws, "ws"), (Kind::Wss, "wss")];
        for (kind, scheme) in kinds {
            let mut options = options(site, kind);
            if kind == Kind::Mutual {
                let pair = [("--certfile", files.client()), ("--keyfile", files.client_key())];
                let words = |(option, file): (&str, std::path::PathBuf)| [option.to_owned(), file.display().to_string()];
                options.extend(pair.into_iter().flat_map(words));
            }
            for load in ["-q 1 -s 64", "-q 2 -s 200000"] {
                let (qos, _) = load.split_at(4);
                let sub = start(&format!("sub -c 2 -i 0 -t g/%i -L 40 {qos}"), &options);
                sub.wait_for_line("ready", PATIENCE, |line| line.starts_with("ready: ").then_some(()));
                let publish = format!("pub -c 2 -i 0 -t g/%i -I 0 -L 40 --payload-hdrs cnt {load}");
                let (success, sent) = run(&publish, &options);
                assert!(success, "{kind:?} {load}: {sent}");
                let (success, received) = end(sub);
                assert!(success, "{kind:?} {load}: {received}");
                let counts = ["received", "lost", "duplicated", "out_of_order"];
                let counts = counts.map(|count| received[count].as_u64());
                assert_eq!(counts, [Some(40), Some(0), Some(0), Some(0)], "{kind:?} {load}: {received}");
            }
            let (success, report) = run("run ping-pong --warm-up 0 --duration 0.1 --waiting sleep", &options);
            assert!(success, "{kind:?}: {report}");
            assert_eq!(report["options"]["scheme"], scheme);
            assert_eq!(report["connects"]["handshakes"].is_null(), !kind.has_tls(), "{report}");
        }
    }
}

#[test]
fn handshakes_are_full_or_resumed_as_asked() {
    let site = Site::plan(grapnel_tests::Io::Epoll).shards(1).start();
    for kind in [Kind::Tls, Kind::Wss] {
        for version in ["1.2", "1.3"] {
            let storm = format!(
                "run connect-storm --connections 60 --connects-pending-max 4 --tls-version {version}"
            );
            let (success, report) = run(&storm, &options(&site, kind));
            assert!(success, "{report}");
            let of = |report: &Value, what: &str| {
                report["connects"]["handshakes"][what].as_u64().expect("TLS was spoken")
            };
            assert!(of(&report, "full") <= 8 && of(&report, "resumed") >= 52, "{version}: {report}");
            let (success, report) = run(&format!("{storm} --no-resume"), &options(&site, kind));
            assert!(success, "{report}");
            assert_eq!((of(&report, "full"), of(&report, "resumed")), (60, 0), "{version}: {report}");
        }
    }
    let (success, report) =
        run("conn -c 5 -i 0 --duration 0 --insecure --tls", &options(&site, Kind::Tls)[..2]);
    assert!(success, "{report}");
    assert_eq!((&report["connected"], &report["disconnects"]), (&5.into(), &0.into()), "{report}");
}

#[test]
fn what_does_not_fit_together_is_named() {
    let site = Site::plan(grapnel_tests::Io::Epoll).shards(1).start();
    let other = grapnel_tests::certificates::Certificates::new();
    let mut distrusts = options(&site, Kind::Tls);
    *distrusts.last_mut().expect("the CA") = other.authority().display().to_string();
    let port = |kind: Kind| options(&site, kind)[..2].to_vec();
    for (arguments, options, part) in [
        ("conn -c 1", distrusts, "--cafile must have the CA that issued it"),
        (
            "conn -c 1 --sni other.example",
            options(&site, Kind::Tls),
            "--sni gives another name than the host",
        ),
        ("conn -c 1", options(&site, Kind::Mutual), "give one with --cert and --key"),
        ("conn -c 1 --tls --insecure", port(Kind::Tcp), "connection closed by the broker"),
        ("conn -c 1 --ws-path /other", options(&site, Kind::Ws), "404 Not Found; is --ws-path right?"),
        ("conn -c 1 --connect-timeout 5 --ws", port(Kind::Tcp), ""),
    ] {
        let (success, report) = run(arguments, &options);
        assert!(!success, "{arguments}: {report}");
        let errors = report["errors"].as_object().expect("an object");
        assert_eq!((errors.len(), &report["failed"]), (1, &1.into()), "{report}");
        assert!(errors.keys().all(|error| error.contains(part)), "{arguments}: {part:?} is not in {report}");
    }
}
