//! Tests of the output for people and programs, and of the command line.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;
use crate::control::wire;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn printed(
    json: bool,
    width: Option<u16>,
    print: impl FnOnce(&mut Output) -> Result<(), CtlError>,
) -> String {
    let shared = Shared::default();
    print(&mut Output::to(shared.clone(), json, width)).unwrap();
    let bytes = shared.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn client(id: &str) -> wire::Client {
    wire::Client {
        client_id: id.to_owned(),
        username: Some("ann".to_owned()),
        connected: true,
        peer: Some("127.0.0.1:54321".to_owned()),
        listener: Some("inside".to_owned()),
        transport: Some("tcp".to_owned()),
        tls: None,
        protocol: 5,
        keep_alive_s: 60,
        expiry_s: 0,
        since_ms: u64::MAX,
        subscriptions: 2,
        inflight: 0,
        queued: 17,
        shard: 1,
    }
}

fn clients(ids: &[&str]) -> wire::Clients {
    wire::Clients { clients: ids.iter().map(|id| client(id)).collect(), next: None, unanswered: Vec::new() }
}

#[test]
fn the_command_line_is_defined_without_conflicts() {
    Ctl::command().debug_assert();
}

#[test]
fn the_table_of_clients_fits_into_eighty_columns() {
    let all = clients(&[
        "sensor-17",
        "a-client-whose-identifier-is-much-longer-than-a-terminal-has-any-room-for-really",
    ]);
    let text = printed(false, Some(80), |output| clients::print_clients(&all, output));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.starts_with("CLIENT"), "{text}");
    assert!(text.contains("sensor-17"), "{text}");
}

#[test]
fn a_piped_table_has_one_line_for_each_row() {
    let long = "x".repeat(300);
    let text = printed(false, None, |output| clients::print_clients(&clients(&[&long]), output));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with(&long));
    let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().skip(1).collect();
    assert_eq!(words, ["ann", "127.0.0.1:54321", "tcp", "5.0", "2", "0", "17", "0s"]);
}

#[test]
fn control_characters_of_clients_do_not_reach_the_terminal() {
    let text =
        printed(false, None, |output| clients::print_clients(&clients(&["\u{1b}[2Jhello\u{202e}"]), output));
    assert!(text.contains("\\u{1b}[2Jhello\\u{202e}"), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn json_output_has_the_field_names_of_the_api() {
    let text = printed(true, None, |output| clients::print_clients(&clients(&["a"]), output));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["clients"][0]["client_id"], "a");
    assert_eq!(value["clients"][0]["queued"], 17);
    assert_eq!(value["next"], serde_json::Value::Null);
}

#[test]
fn plugins_list_shows_the_errors_of_plugins() {
    use crate::plugin::{HookInfo, Origin, PluginInfo, PluginList, PluginState, Retired};
    let plugin = PluginInfo {
        name: "tap".to_owned(),
        state: PluginState::Loaded,
        version: "1.2.3".to_owned(),
        description: String::new(),
        sdk: "grapnel-plugin-abi 1.0.0".to_owned(),
        file: Some("/p/tap.so".into()),
        origin: Origin::Once,
        required: false,
        generation: 4,
        priority: None,
        hooks: vec![HookInfo {
            point: "message.publish".to_owned(),
            name: "publish".to_owned(),
            priority: -100,
            policy: "ignore".to_owned(),
            ..HookInfo::default()
        }],
        depends: Vec::new(),
        closable: false,
        config_schema: None,
        mapped_bytes: 4096,
        loaded_at_ms: u64::MAX,
        warnings: Vec::new(),
    };
    let failed = PluginInfo {
        name: "acl".to_owned(),
        state: PluginState::Failed("cannot load acl: no file".to_owned()),
        version: String::new(),
        ..plugin.clone()
    };
    let retired = vec![Retired {
        name: "tap".to_owned(),
        version: String::new(),
        generation: 3,
        mapped_bytes: 2048,
        threads_left: 2,
        ends_within_ms: None,
    }];
    let ending =
        Retired { generation: 4, threads_left: 1, ends_within_ms: Some(1_001), ..retired[0].clone() };
    let retired = [retired, vec![ending]].concat();
    let list = PluginList { plugins: vec![plugin.clone(), failed], retired };
    let text = printed(false, Some(80), |output| plugins::print::print_list(&list, output));
    let expected = "\
NAME  VERSION  STATE        GENERATION  HOOKS  LOADED
tap   1.2.3    loaded once           4      1  0s ago
acl   -        failed                4      1  -
acl: cannot load acl: no file
2 retired generations keep 4 KiB mapped
tap: generation 3 is retired, but 2 of its threads have not ended
tap: generation 4 finishes its pending work, for at most 2 s
";
    assert_eq!(text, expected);
    let text = printed(false, Some(80), |output| plugins::print::print_one(&plugin, output));
    assert!(
        text.ends_with(
            "POINT            HOOK     PRIORITY  DEADLINE  ON A FAULT  TOPICS\n\
             message.publish  publish      -100         -  ignore      all\n"
        ),
        "{text}"
    );
    assert!(!text.contains("description"), "what is empty is left out: {text}");
}

#[test]
fn trace_lines_are_shortened_in_text_and_complete_in_json() {
    let line = r#"{"at_ms":3723004,"direction":"in","packet":"PINGREQ","shard":1}"#;
    assert_eq!(printed(false, None, |output| trace::print(line, output)), "01:02:03.004Z -> PINGREQ\n");
    assert_eq!(printed(true, None, |output| trace::print(line, output)), format!("{line}\n"));
    let lost = printed(false, None, |output| trace::print(r#"{"lost":3}"#, output));
    assert_eq!(lost, "… 3 packets came too fast to be kept\n");
}

#[test]
fn a_stream_is_split_into_lines_wherever_its_chunks_end() {
    let mut lines = trace::Lines::default();
    assert!(lines.push(b"{\"a\"").unwrap().is_empty());
    assert_eq!(lines.push(b":1}\n{}\n{").unwrap(), ["{\"a\":1}", "{}"]);
    assert_eq!(lines.push(b"}\n").unwrap(), ["{}"]);
}

#[test]
fn durations_have_their_two_largest_units() {
    let shown = [5, 65, 3_700, 90_000].map(table::duration);
    assert_eq!(shown, ["5s", "1m 5s", "1h 1m", "1d 1h"]);
}

#[test]
fn names_with_any_characters_are_encoded_in_urls() {
    assert_eq!(connection::encoded("a/b c?ü.."), "a%2Fb%20c%3F%C3%BC%2E%2E");
}

#[test]
fn the_error_without_a_broker_names_the_socket_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("g.sock");
    let ctl = Ctl::parse_from(["grapnel-ctl", "status", "--socket", socket.to_str().unwrap()]);
    let error =
        run(ctl, &Environment::default(), &mut Output::to(Shared::default(), false, None)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let expected = format!(
        "cannot reach the broker at {}: No such file or directory (os error 2); is it running? start it with grapnel, or name its socket with --socket",
        socket.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    struct ClosedPipe;
    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for json in [false, true] {
        let error =
            clients::print_clients(&clients(&["a"]), &mut Output::to(ClosedPipe, json, None)).unwrap_err();
        assert_eq!(error.exit_code(), 0, "{error}");
    }
}

#[test]
fn an_incomplete_answer_is_a_failure_that_names_the_shard() {
    let missing = [wire::UnansweredShard { shard: 1, error: "shard 1 did not answer".to_owned() }];
    let error = connection::complete(&missing).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (1, "the answer is incomplete: shard 1 did not answer")
    );
}

/// Runs every command that changes nothing, for people and for programs. The broker must have a
/// client `c1` that has subscribed to `x`.
pub(super) fn check_against(socket: &std::path::Path) {
    let request = |arguments: &[&str]| {
        let shared = Shared::default();
        let json = arguments.contains(&"--json");
        let ctl =
            Ctl::parse_from([&["grapnel-ctl", "--socket", socket.to_str().unwrap()], arguments].concat());
        let result = run(ctl, &Environment::default(), &mut Output::to(shared.clone(), json, None));
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        result.map(|()| text)
    };
    let commands: [(&[&str], &str); 10] = [
        (&["plugins", "list"], ""),
        (&["plugins", "verbs"], "grapnel-ctl passwd FILE USER"),
        (&["hooks", "list"], ""),
        (&["hooks", "list", "--all"], "message.publish"),
        (&["status"], "connections"),
        (&["clients", "list"], "c1"),
        (&["clients", "show", "c1"], "c1"),
        (&["subscriptions", "list", "--client", "c1"], "x"),
        (&["metrics", "connect"], "packets_connect_received"),
        (&["trace", "client", "c1", "--for", "1"], "1 s are over"),
    ];
    for (command, part) in commands {
        let text = request(command).unwrap();
        assert!(text.contains(part), "{command:?}: {text}");
        let text = request(&[command, &["--json"]].concat()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value.is_object(), "{command:?}: {text}");
    }
    let error = request(&["clients", "show", "nobody"]).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("no client \"nobody\"")), (1, true), "{error}");
}
