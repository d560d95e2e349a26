//! Verbs that plugins add to `grapnel-ctl`: how they are found, what they answer, and the result of
//! a call whose plugin panics, answers too much, never answers, or is unloaded meanwhile.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use grapnel_tests::broker::Builder;
use grapnel_tests::plugin::{self, Compiled};
use grapnel_tests::process::{Process, command};
use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version, scenario};
use serde_json::{Value, json};

fn builder() -> Builder {
    let limits = "[limits]\nplugin_verb_timeout_ms = 600000\nplugin_verbs_max = 2\nplugin_verb_bytes_max = 1024\n\
                  plugin_thread_join_ms = 50\n";
    Broker::builder().grapnel_only().shards(2).config(limits)
}

fn load(broker: &Broker) {
    broker.ctl_ok(&["plugins", "load", plugin::argument(&plugin::library("verbs")), "--once"]);
}

fn ctl(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = command(plugin::built("grapnel-ctl"));
    command.arg("--socket").arg(broker.socket()).args(arguments);
    command
}

/// Exit code, and the complete output.
fn ended(name: &str, command: Command, input: Option<&[u8]>) -> (Option<i32>, String) {
    let mut process = Process::start(name, command, input);
    let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("{name} does not end"));
    (status.code(), process.log())
}

/// The same of `grapnel-ctl` with this broker.
fn run(broker: &Broker, arguments: &[&str]) -> (Option<i32>, String) {
    ended(&arguments.join(" "), ctl(broker, arguments), None)
}

/// A plain HTTP request. Returns status and body.
fn http(broker: &Broker, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(broker.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

scenario! {
    /// Arguments reach the plugin with their types; invalid ones are refused before the plugin is
    /// called.
    fn arguments_reach_the_plugin_with_their_types(broker in builder()) {
        load(broker);
        assert_eq!(broker.ctl_ok(&["verbs", "greet", "ann"]), "hello ann\nNone [] 0");
        let all = ["verbs", "greet", "ann", "--times", "2", "--mood", "sad", "--tag", "a b", "--tag=ü", "--within", "1.5s", "--loud"];
        assert_eq!(broker.ctl_ok(&all), "HELLO ANN\nHELLO ANN\nSome(\"sad\") [\"a b\", \"ü\"] 1500");
        for (more, expected) in [
            (&["--times", "4"][..], "4 is out of range; it may be 0 to 3"),
            (&["--times", "-1"], "-1 is out of range"),
            (&["--times", "x"], "\"x\" is no whole number"),
            (&["--mood", "angry"], "\"angry\" is none of happy, sad"),
            (&["--within", "61s"], "61s is out of range; it may be 1m or less"),
            (&["--within", "soon"], "is no span of time"),
            (&["--lout"], "unexpected argument '--lout'"),
            (&["bob"], "unexpected argument 'bob'"),
        ] {
            let (code, output) = run(broker, &[&["verbs", "greet", "ann"], more].concat());
            assert!(code == Some(2) && output.contains(expected), "{more:?}: {code:?} {output}");
        }
        let (code, output) = run(broker, &["verbs", "greet"]);
        assert!(code == Some(2) && output.contains("<NAME>"), "{code:?} {output}");
        // A request to the API is checked by the same rules.
        let path = "/api/v1/plugins/verbs/commands/greet";
        assert_eq!(http(broker, "GET", &format!("{path}?name=ann&times=2&tag=a&tag=b&loud=true"), "").1["text"], "HELLO ANN\nHELLO ANN\nNone [\"a\", \"b\"] 0");
        assert_eq!(http(broker, "POST", path, r#"{"name": "ann", "times": 2, "tag": ["a"], "within": 2}"#).1["text"], "hello ann\nhello ann\nNone [\"a\"] 2000");
        for (query, expected) in [
            ("", "greet: the argument name is missing: Whom"),
            ("?name=a&times=4", "greet: times: 4 is out of range; it may be 0 to 3"),
            ("?name=a&tims=1", "greet: greet has no argument tims; did you mean times?"),
            ("?name=a&name=b", "greet: the argument name is given more than once"),
        ] {
            assert_eq!(http(broker, "GET", &format!("{path}{query}"), ""), (400, json!({"error": expected})), "{query}");
        }
        let relative = http(broker, "GET", "/api/v1/plugins/verbs/commands/hang?file=there", "");
        assert_eq!(relative, (400, json!({"error": "hang: file: \"there\" is no absolute path"})));
        // Callers receive the deadline in force, so that none stops waiting earlier.
        let verbs = http(broker, "GET", "/api/v1/plugins/verbs/commands", "").1;
        let deadline = |name: &str| {
            let verbs = verbs["verbs"].as_array().unwrap();
            verbs.iter().find(|verb| verb["name"] == name).unwrap()["deadline_ms"].clone()
        };
        assert_eq!((deadline("greet"), deadline("hang"), deadline("count")), (json!(600_000), json!(200), Value::Null));
    }
}

scenario! {
    /// A table is printed as text or as JSON; text, exit codes and refusals are passed on as the
    /// plugin returns them.
    fn an_answer_is_a_table_text_or_json_with_an_exit_code(broker in builder()) {
        load(broker);
        let table = "NAME  CALLS  MEAN US\none       7        -\ntwo      12        3";
        assert_eq!(broker.ctl_ok(&["verbs", "table", "rows"]), table);
        let rows = json!([{"name": "one", "calls": 7, "mean_us": null}, {"name": "two", "calls": 12, "mean_us": 3}]);
        assert_eq!(broker.ctl_json(&["verbs", "table", "rows"]), rows);
        assert_eq!(broker.ctl_json(&["verbs", "greet", "ann"]), json!({"text": "hello ann\nNone [] 0"}));
        assert_eq!(run(broker, &["verbs", "exit", "9"]), (Some(9), "ended".to_owned()));
        assert_eq!(run(broker, &["verbs", "exit", "125"]).0, Some(125));
        let (code, output) = run(broker, &["verbs", "exit", "126"]);
        assert!(code == Some(1) && output.contains("has the exit code 126; at most 125 can be; this is an error of the plugin"), "{output}");
        for (verb, code, expected) in [
            ("fail", 1, "grapnel-ctl: the database is away"),
            ("miss", 1, "grapnel-ctl: there is no such thing"),
            ("misuse", 2, "grapnel-ctl: not on a Monday; see grapnel-ctl verbs --help"),
        ] {
            assert_eq!(run(broker, &["verbs", verb]), (Some(code), expected.to_owned()), "{verb}");
        }
    }
}

scenario! {
    /// The help is what the plugin declares, and an unknown word gets an error with a remedy.
    fn help_comes_from_the_plugin_and_unknown_words_are_errors(broker in builder()) {
        load(broker);
        let help = broker.ctl_ok(&["verbs", "--help"]);
        for part in ["Usage: grapnel-ctl verbs", "greet", "Says hello", "count", "--json"] {
            assert!(help.contains(part), "{part}: {help}");
        }
        let help = broker.ctl_ok(&["verbs", "greet", "--help"]);
        for part in ["<NAME>  Whom", "--times <TIMES>", "How often (0 to 3) [default: 1]", "one of happy, sad", "1m or less"] {
            assert!(help.contains(part), "{part}: {help}");
        }
        let list = broker.ctl_ok(&["plugins", "verbs"]);
        assert!(list.contains("verbs   mark        yes      Switches the hook or the plugin\n"), "{list}");
        assert_eq!(broker.ctl_json(&["plugins", "verbs"])["plugins"][0]["kind"], "verbs");
        for (words, expected) in [
            (&["verbs", "grete", "ann"][..], "unrecognized subcommand 'grete'"),
            (&["stauts"], "there is no command stauts, and no plugin of that name with commands; did you mean status?"),
            (&["tap", "list"], "no plugin of that name with commands is loaded; see grapnel-ctl --help, and grapnel-ctl plugins verbs"),
        ] {
            let (code, output) = run(broker, words);
            assert!(code == Some(2) && output.contains(expected), "{words:?}: {code:?} {output}");
        }
        let (status, body) = http(broker, "GET", "/api/v1/plugins/verbs/commands/grete", "");
        assert_eq!(status, 404);
        assert!(body["error"].as_str().unwrap().starts_with("plugin verbs has no verb \"grete\"; it has greet, table rows"), "{body}");
        assert_eq!(http(broker, "GET", "/api/v1/plugins/nobody/commands/greet", "").0, 404);
        assert_eq!(http(broker, "GET", "/api/v1/plugins/nobody/commands", "").0, 404);
        // Under another name the plugin is found by both names.
        broker.ctl_ok(&["plugins", "unload", "verbs"]);
        let file = plugin::library("verbs");
        broker.ctl_ok(&["plugins", "load", plugin::argument(&file), "--name", "speaker", "--once"]);
        for word in ["speaker", "verbs"] {
            assert_eq!(broker.ctl_ok(&[word, "greet", "ann"]), "hello ann\nNone [] 0");
        }
        // Two plugins with one verb: the name `speaker` calls one of them, `verbs`, which is the
        // library's name, calls both.
        broker.ctl_ok(&["plugins", "load", plugin::argument(&file), "--once"]);
        assert_eq!(broker.ctl_ok(&["speaker", "table", "rows"]).lines().count(), 3);
        assert_eq!(broker.ctl_ok(&["verbs", "table", "rows"]).lines().count(), 5);
        // A verb that changes something goes to one of them: the one with that name, if there is
        // one.
        broker.ctl_ok(&["plugins", "unload", "verbs"]);
        broker.ctl_ok(&["plugins", "load", plugin::argument(&file), "--name", "other", "--once"]);
        let (code, output) = run(broker, &["verbs", "mark", "off"]);
        let expected = "verbs can be any of the plugins other, speaker; name one of them, as in grapnel-ctl other mark";
        assert!(code == Some(2) && output.contains(expected), "{code:?} {output}");
        broker.ctl_ok(&["plugins", "unload", "other"]);
        broker.ctl_ok(&["plugins", "load", plugin::argument(&file), "--once"]);
        let (code, output) = run(broker, &["verbs", "mark", "off"]);
        assert_eq!(code, Some(0), "{output}");
        // A command of grapnel-ctl has precedence over a plugin of that name, and the list shows
        // the name to use then.
        broker.ctl_ok(&["plugins", "unload", "verbs"]);
        broker.ctl_ok(&["plugins", "unload", "speaker"]);
        broker.ctl_ok(&["plugins", "load", plugin::argument(&file), "--name", "status", "--once"]);
        assert!(broker.ctl_ok(&["status"]).contains("version"));
        let list = run(broker, &["plugins", "verbs"]).1;
        assert!(list.contains("status is a command of grapnel-ctl itself") && list.contains("grapnel-ctl verbs VERB"), "{list}");
        assert_eq!(broker.ctl_ok(&["verbs", "greet", "ann"]), "hello ann\nNone [] 0");
    }
}

scenario! {
    /// A secret is read from standard input or the terminal, never from the command line, and is
    /// sent only in a body.
    fn a_secret_on_a_command_line_is_refused(broker in builder()) {
        load(broker);
        let login = |more: &[&str], input: &[u8]| {
            ended("login", ctl(broker, &[&["verbs", "login", "ann"], more].concat()), Some(input))
        };
        assert_eq!(login(&["--password-stdin"], b"s3cret\n"), (Some(0), "ann: Some(6) bytes, false".to_owned()));
        assert_eq!(login(&["--password-stdin"], b"0123456789abcdef"), (Some(0), "ann: Some(16) bytes, false".to_owned()));
        assert_eq!(login(&["--forget"], b""), (Some(0), "ann: None bytes, true".to_owned()));
        for (more, input, code, expected) in [
            (&["--password-stdin"][..], &b"0123456789abcdefg\n"[..], 1, "it has 17 bytes, and may have 0 to 16"),
            (&["--password-stdin"], b"\n", 1, "the password is empty; nothing was changed"),
            (&["--password", "s3cret"], b"", 2, "unexpected argument"),
            (&["--password-stdin", "--forget"], b"s3cret\n", 2, "cannot be used with"),
        ] {
            let (ended, output) = login(more, input);
            assert!(ended == Some(code) && output.contains(expected), "{more:?}: {ended:?} {output}");
        }
        let path = "/api/v1/plugins/verbs/commands/login";
        let (status, body) = http(broker, "GET", &format!("{path}?user=ann&password=s3cret"), "");
        assert_eq!((status, &body["error"]), (405, &"login of plugin verbs is given a secret: use POST".into()));
        let (status, body) = http(broker, "POST", path, r#"{"user": "ann", "password": "s3cret"}"#);
        assert_eq!((status, &body["text"]), (200, &"ann: Some(6) bytes, false".into()));
    }
}

scenario! {
    /// A verb that changes the hooks of its plugin does what the operator's command does, reports
    /// the effects, and needs POST.
    fn a_verb_can_mount_and_unmount_hooks_of_its_plugin(broker in builder()) {
        load(broker);
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("t", 0);
        let mut is_marked = || {
            assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
            !client.message().properties.0.is_empty()
        };
        assert!(is_marked());
        let output = broker.ctl_ok(&["verbs", "mark", "off"]);
        let is_it = |line: &str| line.contains("the verb mark, which changes something, has begun").then_some(());
        broker.process().wait_for_lines("what was called", 1, PATIENCE, is_it);
        assert!(output.contains("verbs is loaded"), "{output}");
        assert!(output.contains("grapnel-ctl: message.publish loses verbs/publish and has no hook left"), "{output}");
        assert!(!is_marked());
        broker.ctl_ok(&["verbs", "mark", "on"]);
        assert!(is_marked());
        let path = "/api/v1/plugins/verbs/commands/mark";
        let (status, body) = http(broker, "GET", &format!("{path}?what=off"), "");
        assert_eq!((status, &body["error"]), (405, &"mark of plugin verbs changes something: use POST".into()));
        assert!(is_marked());
        let (status, body) = http(broker, "POST", path, r#"{"what": "away"}"#);
        assert_eq!((status, &body["revoked"]["subscriptions"]), (200, &0.into()), "{body}");
        assert_eq!(body["follows"][0], "message.publish loses verbs/publish and has no hook left");
        assert!(!is_marked());
        // A disabled plugin still answers verbs, and reports its state itself.
        assert_eq!(broker.ctl_json(&["verbs", "mark", "back"])["value"], Value::Null);
        assert!(is_marked());
        let (code, output) = run(broker, &["verbs", "lie"]);
        assert!(code == Some(1) && output.contains("wants a change, and is declared to change nothing"), "{output}");
        assert!(is_marked());
    }
}

scenario! {
    /// A change is completed even if its caller has gone, and a refusal lists the changes made
    /// before it.
    fn a_half_done_change_of_hooks_is_reported(broker in builder()) {
        load(broker);
        let file = broker.home().join("there");
        let calling = Process::start("halves", ctl(broker, &["verbs", "halves", plugin::argument(&file)]), None);
        let waits = |line: &str| line.contains("it hangs").then_some(());
        broker.process().wait_for_lines("the call", 1, PATIENCE, waits);
        drop(calling);
        std::fs::write(&file, "").unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        while broker.ctl_json(&["plugins", "show", "verbs"])["hooks"][0]["unmounted"] != true {
            assert!(std::time::Instant::now() < deadline, "its hook was taken out");
        }
        let (code, output) = run(broker, &["verbs", "halves", plugin::argument(&file)]);
        let expected = "; before that, halves has run, the hooks message.publish/publish were unmounted";
        assert!(code == Some(1) && output.contains(expected), "{code:?} {output}");
    }
}

/// A plugin that panics in a verb, or whose answer is too long, fails that call only.
#[test]
fn a_panic_or_a_too_long_answer_ends_only_the_call() {
    let broker = builder().start();
    broker.may_end_badly();
    load(&broker);
    let (code, output) = run(&broker, &["verbs", "panic"]);
    assert!(code == Some(1) && output.contains("the verb panicked: as it is told"), "{code:?} {output}");
    // The answer is JSON, whose syntax takes some bytes.
    assert_eq!(run(&broker, &["verbs", "flood", "900"]).0, Some(0));
    let (code, output) = run(&broker, &["verbs", "flood", "1025"]);
    let expected = "flood of plugin verbs answered with more than 1024 bytes (limits.plugin_verb_bytes_max)";
    assert!(code == Some(1) && output.contains(expected), "{output}");
    assert_eq!(http(&broker, "GET", "/api/v1/plugins/verbs/commands/flood?bytes=100000", "").0, 502);
    assert_eq!(broker.ctl_ok(&["verbs", "greet", "ann"]), "hello ann\nNone [] 0");
    // A panic and two answers that were too long; two calls with wrong arguments.
    let greet = "/api/v1/plugins/verbs/commands/greet";
    for query in ["?name=a&times=9", "?nam=a"] {
        assert_eq!(http(&broker, "GET", &format!("{greet}{query}"), "").0, 400, "{query}");
    }
    let metrics = broker.ctl_json(&["metrics"]);
    let counted = |name: &str| {
        let row = metrics["metrics"].as_array().unwrap().iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("{name}"))["value"].as_i64().unwrap()
    };
    let counted = ["verbs_failed", "verbs_invalid", "verbs_refused"].map(counted);
    assert_eq!(counted, [3, 2, 0]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.ping();
}

/// A verb that never answers is waited for until its deadline. It counts as a running call until it
/// returns, and is notified that no caller waits.
#[test]
fn a_verb_that_never_answers_is_abandoned_and_counted() {
    let broker = builder().start();
    load(&broker);
    let file = broker.home().join("there");
    let hang = ["verbs", "hang", plugin::argument(&file)];
    for _ in 0..2 {
        let (code, output) = run(&broker, &hang);
        let expected = "plugin verbs has not answered hang within 200 ms; what it was to do may still happen";
        assert!(code == Some(1) && output.contains(expected), "{output}");
    }
    let lines = |part: &'static str| {
        let is_it = |line: &str| line.contains(part).then_some(());
        broker.process().wait_for_lines(part, 2, PATIENCE, is_it);
    };
    lines("nobody waits for it");
    lines("the verb hang has not answered within 200 ms");
    // Both places are taken until they return, only for verbs of this plugin.
    let (code, output) = run(&broker, &["verbs", "greet", "ann"]);
    let expected = "as many verbs of plugin verbs run as may at a time, 2 (limits.plugin_verbs_max)";
    assert!(code == Some(1) && output.contains(expected), "{output}");
    assert_eq!(http(&broker, "GET", "/api/v1/plugins/verbs/commands/greet?name=a", "").0, 503);
    let metrics = broker.ctl_json(&["metrics"]);
    let counted = |name: &str| {
        let row = metrics["metrics"].as_array().unwrap().iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("{name}"))["value"].as_i64()
    };
    let counted = ["verbs_begun", "verbs_late", "verbs_refused"].map(counted);
    assert_eq!(counted, [Some(2), Some(2), Some(2)]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.ping();
    std::fs::write(&file, "").unwrap();
    lines("the verb hang has returned when nobody waited for it any more");
    let deadline = std::time::Instant::now() + PATIENCE;
    while run(&broker, &["verbs", "greet", "ann"]).0 != Some(0) {
        assert!(std::time::Instant::now() < deadline, "the places are free again");
    }
}

/// A call whose plugin is reloaded or unloaded is notified. A call that ignores that keeps the code
/// mapped and is listed.
#[test]
fn a_plugin_unloaded_during_a_call_stays_until_the_call_ends() {
    let broker = builder().start();
    broker.may_end_badly();
    load(&broker);
    let waits = |number: usize| {
        let wait = Process::start("wait", ctl(&broker, &["verbs", "wait", "1h"]), None);
        let is_it = |line: &str| line.contains("it waits").then_some(());
        broker.process().wait_for_lines("the call", number, PATIENCE, is_it);
        wait
    };
    for (number, change) in [(1, "reload"), (2, "unload")] {
        let mut wait = waits(number);
        broker.ctl_ok(&["plugins", change, "verbs"]);
        let status = wait.wait(PATIENCE).expect("it ends with its plugin");
        assert_eq!((status.code(), wait.log().as_str()), (Some(0), "the plugin ends"), "{change}");
    }
    load(&broker);
    let file = broker.home().join("there");
    let mut hang = Process::start("hang", ctl(&broker, &["verbs", "hang", plugin::argument(&file)]), None);
    broker.process().wait_for_line("the call", PATIENCE, |line| line.contains("it hangs").then_some(()));
    broker.ctl_ok(&["plugins", "unload", "verbs"]);
    assert_eq!(hang.wait(PATIENCE).and_then(|status| status.code()), Some(1));
    let left = || {
        let list = broker.ctl_json(&["plugins", "list"]);
        list["retired"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["threads_left"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(left(), 1);
    assert_eq!(run(&broker, &["verbs", "greet", "ann"]).0, Some(1), "it is loaded no more");
    std::fs::write(&file, "").unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while left() > 0 {
        assert!(std::time::Instant::now() < deadline, "its thread ends");
    }
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.ping();
}

/// A broker that stops does not wait for a verb.
#[test]
fn a_broker_stops_during_a_call() {
    let broker = builder().start();
    load(&broker);
    let mut wait = Process::start("wait", ctl(&broker, &["verbs", "wait", "1h"]), None);
    broker.process().wait_for_line("the call", PATIENCE, |line| line.contains("it waits").then_some(()));
    broker.stop();
    assert!(wait.wait(PATIENCE).is_some());
}

/// If ctl was ended, the call is notified.
#[test]
fn a_running_verb_sees_that_its_caller_has_disconnected() {
    let broker = builder().start();
    load(&broker);
    let path = "/api/v1/plugins/verbs/commands/stay";
    let mut stream = UnixStream::connect(broker.socket()).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    broker.process().wait_for_line("the call", PATIENCE, |line| line.contains("it stays").then_some(()));
    drop(stream);
    broker
        .process()
        .wait_for_line("the news", PATIENCE, |line| line.contains("nobody waits for it").then_some(()));
}

/// Local verbs need no broker, run with the rights of the caller, and a crash affects only them.
#[test]
fn local_verbs_work_without_a_broker() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("five");
    std::fs::write(&file, "12345").unwrap();
    let local = |arguments: &[&str]| {
        let mut command = command(plugin::built("grapnel-ctl"));
        command
            .args(arguments)
            .current_dir(home.path())
            .env("GRAPNEL_CONTROL_SOCKET", home.path().join("none.sock"));
        ended(&arguments.join(" "), command, None)
    };
    assert_eq!(local(&["verbs", "count", "five"]), (Some(0), "5 bytes".to_owned()));
    assert_eq!(local(&["verbs", "count", "five", "--json"]), (Some(0), "5".to_owned()));
    let (code, output) = local(&["verbs", "count", "six"]);
    assert!(code == Some(1) && output.contains("No such file"), "{output}");
    let (code, output) = local(&["verbs", "crash"]);
    assert!(
        code == Some(1)
            && output.contains("the process that was answering crash crashed (signal 6, SIGABRT)"),
        "{output}"
    );
    let (code, output) = local(&["verbs", "reach"]);
    let expected = "reach of plugin verbs wants a change of hooks, and works without a broker; this is an error of the plugin";
    assert!(code == Some(1) && output.contains(expected), "{output}");
    // The others need a broker, and report that.
    let (code, output) = local(&["verbs", "greet", "ann"]);
    assert!(code == Some(3) && output.contains("cannot reach the broker at"), "{output}");
    assert!(local(&["verbs", "greet", "--help"]).1.contains("Says hello"));
    let (code, output) = local(&["reverse-proxy", "list"]);
    assert!(
        code == Some(3)
            && output.contains(
                "there is no command reverse-proxy, and whether a plugin adds it cannot be looked up"
            ),
        "{output}"
    );
    // An error names a plugin that is not installed, or whose file is invalid.
    let in_folder = |word: &str| {
        let mut command = command(plugin::built("grapnel-ctl"));
        command
            .args([word, "x", "ann"])
            .env("GRAPNEL_PLUGINS_DIR", home.path())
            .env("GRAPNEL_CONTROL_SOCKET", home.path().join("none.sock"));
        ended(word, command, None)
    };
    let expected = format!(
        "passwd is a command of the plugin auth-file, whose file is not in {}",
        home.path().display()
    );
    let (code, output) = in_folder("passwd");
    assert!(code == Some(1) && output.contains(&expected), "{code:?} {output}");
    std::fs::write(home.path().join("libgrapnel_verbs.so"), "nothing").unwrap();
    let (code, output) = in_folder("verbs");
    assert!(code == Some(1) && output.contains("libgrapnel_verbs.so"), "{code:?} {output}");
}

/// A broker that reports a wrong path of a plugin's file cannot make `grapnel-ctl` run that file
/// with the rights of the caller.
#[test]
fn a_broker_does_not_choose_the_file_of_a_local_verb() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("liar.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let file = plugin::library("verbs");
    let verb = |name: &str| json!({"name": name, "help": "", "local": true});
    let verbs = json!([verb("crash"), verb("other"), verb("fail")]);
    let expected = json!({
        "plugins": [{"plugin": "evil", "kind": "evil", "verbs": verbs}, {"plugin": "verbs", "kind": "verbs", "verbs": verbs}],
        "file": file,
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut requests = Vec::new();
            let mut some = [0_u8; 1024];
            while !requests.ends_with(b"\r\n\r\n") {
                match stream.read(&mut some) {
                    Ok(bytes @ 1..) => requests.extend_from_slice(&some[..bytes]),
                    _ => break,
                }
            }
            let body = expected.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            // A client that has gone needs no answer.
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    let call = |words: &[&str], folder: Option<&std::path::Path>| {
        let mut command = command(plugin::built("grapnel-ctl"));
        command.arg("--socket").arg(&socket).args(words);
        if let Some(folder) = folder {
            command.env("GRAPNEL_PLUGINS_DIR", folder);
        }
        ended(&words.join(" "), command, None)
    };
    let (code, output) = call(&["evil", "crash"], Some(home.path()));
    let expected = format!("whose file is not in {}", home.path().display());
    assert!(
        code == Some(1) && output.contains(&expected) && !output.contains("SIGABRT"),
        "{code:?} {output}"
    );
    // A verb that the file itself does not declare is not called in it.
    let (code, output) = call(&["verbs", "other"], None);
    assert!(code == Some(2) && output.contains("unrecognized subcommand 'other'"), "{code:?} {output}");
    // Nor is one that needs a broker by the file's own declaration.
    let (code, output) = call(&["verbs", "fail"], None);
    assert!(
        code == Some(1) && output.contains("fail of plugin verbs is not declared in "),
        "{code:?} {output}"
    );
    let (code, output) = call(&["verbs", "crash"], None);
    assert!(
        code == Some(1) && output.contains("the process that was answering crash crashed"),
        "{code:?} {output}"
    );
}

scenario! {
    /// A broker does not run a local verb with its own rights.
    fn local_verbs_do_not_run_in_the_broker(broker in builder()) {
        load(broker);
        let (status, body) = http(broker, "POST", "/api/v1/plugins/verbs/commands/count", r#"{"file": "/etc/passwd"}"#);
        assert_eq!(status, 422);
        assert!(body["error"].as_str().unwrap().contains("runs with the rights of whoever calls it"), "{body}");
        let file = broker.home().join("five");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(broker.ctl_ok(&["verbs", "count", plugin::argument(&file)]), "5 bytes");
    }
}

scenario! {
    /// A plugin in C declares and answers verbs as well; its invalid answers are its own errors.
    fn verbs_of_a_plugin_in_c_work(broker in builder()) {
        let nonsense = Compiled::of("testing/c-nonsense");
        let check = broker.ctl_ok(&["plugins", "check", nonsense.path()]);
        assert!(check.contains("babble  no       no     Answers nonsense"), "{check}");
        broker.ctl_ok(&["plugins", "load", nonsense.path(), "--set", "how=\"twice\"", "--once"]);
        assert_eq!(broker.ctl_ok(&["c-nonsense", "add", "3", "39"]), "42");
        assert_eq!(broker.ctl_ok(&["c-nonsense", "add", "3", "39", "--loud"]), "42!");
        let (code, output) = run(broker, &["c-nonsense", "add", "3", "-9"]);
        assert!(code == Some(2) && output.contains("it adds no negative numbers"), "{code:?} {output}");
        for (what, expected) in [
            ("bytes", "gave an answer that is not UTF-8; this is an error of the plugin"),
            ("json", "gave an answer that is not what an answer looks like"),
            ("much", "answered with more than 1024 bytes"),
            ("silent", "it failed without saying why"),
        ] {
            let (code, output) = run(broker, &["c-nonsense", "babble", what]);
            assert!(code == Some(1) && output.contains(expected), "{what}: {code:?} {output}");
        }
        assert_eq!(run(broker, &["c-nonsense", "babble", "nothing"]), (Some(0), String::new()));
        assert_eq!(broker.ctl_ok(&["c-nonsense", "add", "1", "1"]), "2");
    }
}

/// `grapnel-ctl` waits for the deadline of a verb besides its own timeout.
#[test]
fn a_verb_may_take_longer_than_the_timeout_of_grapnel_ctl() {
    let broker = builder().start();
    load(&broker);
    let (code, output) = run(&broker, &["--timeout", "3", "verbs", "wait", "3.5s"]);
    assert_eq!(code, Some(0), "{output}");
}

/// A plugin that forces a change itself removes the last hook that decides about clients only if
/// the operator has given the flag.
#[test]
fn a_verb_forces_no_change_without_force_of_the_operator() {
    let verbs = json!([{"name": "babble", "help": "what", "changes": true, "arguments": [
        {"name": "what", "positional": true, "required": true},
        {"name": "force", "type": "flag"},
    ]}])
    .to_string();
    let declared = format!("-DVERBS={verbs:?}");
    let plugin = Compiled::with("testing/c-nonsense", &[&declared, "-DPOINT=GRAPNEL_POINT_CLIENT_AUTHORIZE"]);
    let broker = builder().listen(&["0.0.0.0:0"]).start();
    broker.ctl_ok(&["plugins", "load", plugin.path(), "--once"]);
    for what in ["unmount", "disable"] {
        let (code, output) = run(&broker, &["c-nonsense", "babble", what]);
        let expected = "client.authorize would have no hook left";
        assert!(code == Some(1) && output.contains(expected), "{what}: {code:?} {output}");
        let (code, output) = run(&broker, &["c-nonsense", "babble", what, "--force"]);
        assert_eq!(code, Some(0), "{what}: {output}");
        if what == "unmount" {
            broker.ctl_ok(&["hooks", "mount", "c-nonsense", "client.authorize", "publish"]);
        }
    }
}

scenario! {
    /// A plugin with invalid declarations is refused as a whole with the reason, by the broker and
    /// by the check.
    fn invalid_declarations_are_refused_with_a_sentence(broker in builder()) {
        let one = |name: &str| json!([{"name": name, "help": "what"}]).to_string();
        for (verbs, expected) in [
            ("[{\"name\": ".to_owned(), "its verbs are not declared as they must be: EOF while parsing a value"),
            ("{}".to_owned(), "its verbs are not declared as they must be: invalid type: map"),
            (one("a b c d e"), "its verbs have \"a b c d e\", which is not one to 4 words of lower case letters"),
            (one("Show"), "its verbs have \"Show\", which is not one to 4 words of lower case letters"),
            (one("help"), "its verbs have \"help\", which is not one to 4 words"),
            (json!([{"name": "a", "help": ""}, {"name": "a b", "help": ""}]).to_string(), "its verbs have \"a\" and \"a b\", of which one is or begins with the other"),
            (json!([{"name": "a", "help": "", "sort": 1}]).to_string(), "unknown field `sort`"),
        ] {
            let plugin = Compiled::with("testing/c-nonsense", &[&format!("-DVERBS={verbs:?}")]);
            let refused = broker.ctl_refused(&["plugins", "load", plugin.path(), "--once"]);
            assert!(refused.contains("cannot load ") && refused.contains(expected), "{verbs}: {refused}");
            let (code, output) = run(broker, &["plugins", "check", plugin.path()]);
            assert!(code == Some(1) && output.contains(expected), "{verbs}: {code:?} {output}");
        }
        let forgotten = Compiled::with("testing/c-nonsense", &["-DVERB=NULL", "-Wno-unused-function"]);
        broker.ctl_ok(&["plugins", "load", forgotten.path(), "--set", "how=\"twice\"", "--once"]);
        let (code, output) = run(broker, &["c-nonsense", "add", "3", "39"]);
        let expected = "add of plugin c-nonsense is declared, and its table has no function for verbs; this is an error of the plugin";
        assert!(code == Some(1) && output.contains(expected), "{code:?} {output}");
    }
}

scenario! {
    /// A call no longer counts once its answer has arrived: an immediate next call has a place.
    fn calls_one_after_the_other_are_not_refused_for_the_limit(broker in Broker::builder().grapnel_only().shards(1).config("[limits]\nplugin_verbs_max = 1\n")) {
        load(broker);
        for call in 0..500 {
            let (status, body) = http(broker, "GET", "/api/v1/plugins/verbs/commands/greet?name=ann", "");
            assert_eq!(status, 200, "call {call}: {body}");
        }
    }
}
