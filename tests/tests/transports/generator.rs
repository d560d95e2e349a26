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

/// Runs it with a report as JSON. Returns whether it found no fault, and the report.
fn run(arguments: &str, options: &[String]) -> (bool, Value) {
    let mut command = command(plugin::built("grapnel-bench"));
    command.args(arguments.split(' ')).args(["--json", "--quiet"]).args(options);
    let mut process = Process::start("grapnel-bench", command, None);
    let status = process.wait(PATIENCE).expect("every wait of the generator has an end");
    let report = process.lines(|line| serde_json::from_str(line).ok()).pop();
    (status.success(), report.unwrap_or_else(|| panic!("{arguments}: {}", process.log())))
}

on_both! {
    fn every_message_arrives(site) {
        let files = site.certificates();
        for (kind, scheme) in [(Kind::Tls, "mqtts"), (Kind::Mutual, "mqtts"), (Kind::Ws, "ws"), (Kind::Wss, "wss")] {
            let mut options = options(site, kind);
            if kind == Kind::Mutual {
                let pair = [("--certfile", files.client()), ("--keyfile", files.client_key())];
                options.extend(pair.into_iter().flat_map(|(option, file)| [option.to_owned(), file.display().to_string()]));
            }
            for load in ["pairs --pairs 3 -q 1", "one-to-one -w 4 --burst 4 -s 200000", "fan-out --subscribers 3 -q 2"] {
                let arguments = format!("run {load} --warm-up 0 --duration 0.3 --waiting sleep");
                let (success, report) = run(&arguments, &options);
                assert!(success, "{kind:?} {load}: {report}");
                assert!(report["delivered"].as_u64() > Some(3), "{kind:?} {load}: {report}");
                assert_eq!(report["options"]["scheme"], scheme);
                assert_eq!(report["connects"]["handshakes"].is_null(), !kind.has_tls(), "{report}");
            }
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
            let of = |report: &Value, what: &str| report["connects"]["handshakes"][what].as_u64().expect("TLS was spoken");
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
        ("conn -c 1 --tls --insecure", port(Kind::Tcp), "TLS: "),
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
