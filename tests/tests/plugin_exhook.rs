//! exhook on a live broker: EMQX's hooks unchanged, our own API, and workers that crash, hang and
//! send invalid frames under load.

#![allow(clippy::unwrap_used)]

mod exhook_common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exhook_common::{ENVIRONMENT, broker, folder, roomy_broker};
use grapnel_tests::client::Event;
use grapnel_tests::wire::Ack;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Subscribe, Version, paho, scenario};
use serde_json::Value;
use tempfile::TempDir;

fn load(broker: &Broker, python: &Path, path: &Path, module: &str, more: &[&str]) {
    let set = [
        "driver=python3".to_owned(),
        format!("python=\"{}\"", python.display()),
        format!("path=\"{}\"", path.display()),
        format!("init_module={module}"),
        ENVIRONMENT.to_owned(),
    ];
    let mut arguments = vec!["plugins", "load", "exhook", "--once"];
    set.iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .for_each(|set| arguments.extend(["--set", set]));
    broker.ctl_ok(&arguments);
}

fn login(version: Version, client_id: &str, username: Option<&str>) -> Connect {
    let connect = Connect::new(version, client_id);
    match username {
        Some(username) => connect.login(username, ""),
        None => connect,
    }
}

/// Waits until the broker's log contains this.
#[allow(clippy::disallowed_methods, reason = "a log can only be looked at")]
fn wait_for_log(broker: &Broker, what: &str) {
    let started = Instant::now();
    while !broker.process().log().contains(what) {
        assert!(started.elapsed() < PATIENCE, "the log does not say {what:?}:\n{}", broker.process().log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

scenario! {
    /// The file of EMQX's article, with the behaviour described there: without a user name no topic
    /// may be published or subscribed, with one every topic may. Every client is admitted, since
    /// the broker has given it an identifier by then.
    fn hooks_of_emqx_run_unchanged(broker in broker(), version) {
        // The article's own file, if it is available.
        let path = std::env::var_os("GRAPNEL_COMPAT_DIR").map_or_else(folder, PathBuf::from);
        load(broker, &paho::python(), &path, "hooks", &[]);
        // In MQTT 3.1 the broker cannot assign identifiers.
        let own = |name| if version == Version::V31 { name } else { "" };
        let mut named = Client::connect(broker, &login(version, own("a"), Some("alice")));
        named.subscribe("t/#", 1);
        assert_eq!(named.publish(&Publish::new("t/a", "hello").qos(1)), 0);
        assert_eq!(named.message().text(), "hello");
        let mut nameless = Client::connect(broker, &login(version, own("b"), None));
        let denied = if version == Version::V5 { 0x87 } else { 0x80 };
        assert_eq!(nameless.subscribe_all(&Subscribe::to("t/#", 1)), [denied]);
        nameless.publish(&Publish::new("t/a", "unseen").qos(1));
        named.publish(&Publish::new("t/a", "last").qos(1));
        assert_eq!(named.message().text(), "last", "what was denied was not published");
        wait_for_log(broker, "[on_message_publish] t/a hello");
        wait_for_log(broker, "[on_client_connected]");
    }
}

scenario! {
    /// Any bytes, in both directions.
    fn any_bytes_pass_unchanged_in_both_directions(broker in roomy_broker()) {
        load(broker, &paho::python(), &folder(), "mirror", &[]);
        exhook_common::any_bytes_pass_unchanged_in_both_directions(broker);
    }
}

scenario! {
    /// An exception is a failure: a message continues unchanged unless `failed_action` denies it.
    fn after_an_exception_failed_action_decides(broker in broker()) {
        for (action, code) in [("ignore", 0), ("deny", 0x83)] {
            load(broker, &paho::python(), &folder(), "mirror", &[&format!("failed_action={action}")]);
            let mut client = Client::connect(broker, &Connect::new(Version::V5, "c"));
            client.subscribe("#", 0);
            assert_eq!(client.publish(&Publish::new("mirror/raise", "abc").qos(1)), code, "{action}");
            assert_eq!(client.publish(&Publish::new("elsewhere", "abc").qos(1)), 0, "no failure: nobody asked for it");
            let first = client.message();
            assert_eq!(first.topic, if code == 0 { "mirror/raise" } else { "elsewhere" });
            wait_for_log(broker, "RuntimeError: on purpose");
            broker.ctl_ok(&["plugins", "unload", "exhook"]);
        }
    }
}

scenario! {
    /// An answer with an error is a failure as a whole: its valid parts have no effect.
    fn half_of_an_answer_does_not_count(
        broker in broker().config("[authorization]\nno_match = \"allow\"")
    ) {
        load(broker, &folder().join("invalid_answers"), &folder(), "liar", &["failed_action=ignore"]);
        let mut client = Client::hello(broker, Version::V5, "c");
        assert_eq!(client.subscribe_all(&Subscribe::to("t", 1).and("u", 1)), [1, 1]);
        assert_eq!(client.publish(&Publish::new("moved", "unseen").qos(1)), 0x10, "nobody has subscribed there");
        assert_eq!(client.publish(&Publish::new("t", "as it was").qos(1)), 0);
        let message = client.message();
        assert_eq!((message.topic.as_str(), message.text().as_str()), ("t", "as it was"));
        assert_eq!(client.unsubscribe(&["t"]), [0]);
        assert_eq!(broker.ctl_json(&["clients", "show", "c"])["superuser"], false);
        for what in ["an `allow` that is no boolean", "the index of no filter", "a `qos` that no message may have"] {
            wait_for_log(broker, what);
        }
    }
}

scenario! {
    /// If a process ends before it is ready, its output is the reason why the load fails.
    fn a_failed_start_shows_the_output_of_the_process(broker in broker()) {
        let arguments = [
            "plugins", "load", "exhook", "--once", "--set", "driver=python3", "--set", "path=/tmp", "--set", ENVIRONMENT,
            "--set",
        ];
        let ends = folder().join("missing_package");
        let python = format!("python=\"{}\"", ends.display());
        let error = broker.ctl_refused(&[&arguments[..], &[&python]].concat());
        assert!(error.contains("has ended (exit status: 7); it printed:\n") && error.contains("no module of that name"), "{error}");
        let python = format!("python=\"{}\"", folder().join("isolated_python").display());
        let error = broker.ctl_refused(&[&arguments[..], &[&python]].concat());
        assert!(error.contains("isolated_python does not have the package grapnel-exhook; install it with"), "{error}");
        let error = broker.ctl_refused(&[&arguments[..], &["python=/no/such/python"]].concat());
        assert!(error.contains("there is no /no/such/python: install Python 3.10"), "{error}");
    }
}

/// The surroundings that a worker of `environment.py` reports.
fn surroundings(broker: &Broker) -> Value {
    let mut client = Client::hello(broker, Version::V5, "c");
    client.subscribe("t", 0);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
    let message = client.message();
    serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("{error}: {}", message.text()))
}

/// A folder with modules that Python or a worker might import; each leaves a file if it is run.
fn planted() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let modules = [
        "grapnel_exhook/__init__",
        "grapnel_exhook/__main__",
        "msgpack",
        "runpy",
        "json",
        "socket",
        "sitecustomize",
        "usercustomize",
        "main",
        "encodings/__init__",
    ];
    for module in modules {
        let file = dir.path().join(module).with_extension("py");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mark = dir.path().join(format!("ran-{}", module.replace('/', ".")));
        std::fs::write(file, format!("open({:?}, 'w')\nraise SystemExit('planted')\n", mark)).unwrap();
    }
    dir
}

/// Checks that no module of that folder has run.
#[track_caller]
fn assert_untouched(planted: &TempDir) {
    let files = std::fs::read_dir(planted.path()).unwrap().map(|file| file.unwrap().file_name());
    let ran: Vec<_> = files.filter(|name| name.as_encoded_bytes().starts_with(b"ran-")).collect();
    assert!(ran.is_empty(), "{ran:?}");
}

/// A user who may write into the broker's working directory cannot put code into its workers, not
/// even if Python is configured to search its working directory.
#[test]
fn no_module_of_the_brokers_working_directory_is_run() {
    let planted = planted();
    let search = format!("{}:.:", std::fs::canonicalize(exhook_common::sdk()).unwrap().display());
    let broker = broker().working_directory(planted.path()).environment("PYTHONPATH", &search).start();
    load(&broker, &paho::python(), &folder(), "environment", &["failed_action=deny"]);
    assert_eq!(surroundings(&broker)["cwd"], "/");
    assert_untouched(&planted);
}

/// The same holds for a configured working directory.
#[test]
fn no_module_of_a_workers_working_directory_is_run() {
    let planted = planted();
    let broker = broker().start();
    let setting = format!("working_directory={:?}", planted.path());
    load(&broker, &paho::python(), &folder(), "environment", &[&setting, "failed_action=deny"]);
    let surroundings_shown = surroundings(&broker);
    assert_eq!(surroundings_shown["cwd"].as_str().map(Path::new), Some(planted.path()));
    let path =
        surroundings_shown["path"].as_array().unwrap().iter().map(|entry| Path::new(entry.as_str().unwrap()));
    path.for_each(|entry| assert!(entry.is_absolute() && entry != planted.path(), "{surroundings_shown}"));
    assert_untouched(&planted);
}

/// Workers get the named variables, and none that configures the broker: no secrets, and nothing
/// that changes how a program loads its code.
#[test]
fn a_workers_environment_is_as_configured() {
    let broker = broker()
        .environment("GRAPNEL_LOG", "info")
        .environment("A_SECRET", "1")
        .environment("AN_ADDRESS", "here")
        .environment("PYTHONSTARTUP", "/no/such")
        .environment("LC_ALL", "C.UTF-8")
        .start();
    let setting = "environment=[\"PYTHONPATH\", \"AN_ADDRESS\", \"OF_OURS=x=y\"]";
    load(&broker, &paho::python(), &folder(), "environment", &[setting, "failed_action=deny"]);
    let surroundings_shown = surroundings(&broker);
    let environment = surroundings_shown["environment"].as_object().unwrap();
    let has = |name: &str| environment.get(name).and_then(Value::as_str);
    assert_eq!(
        (has("AN_ADDRESS"), has("OF_OURS"), has("LC_ALL")),
        (Some("here"), Some("x=y"), Some("C.UTF-8"))
    );
    assert_eq!(has("PATH"), std::env::var("PATH").ok().as_deref());
    let named = [
        "AN_ADDRESS",
        "HOME",
        "JAVA_HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "OF_OURS",
        "PATH",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "SHELL",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    ];
    for name in environment.keys() {
        assert!(named.contains(&name.as_str()) || name.starts_with("LC_"), "{name} is not named");
    }
    let error =
        broker.ctl_refused(&["plugins", "configure", "exhook", "--set", "environment=[\"GRAPNEL_LOG\"]"]);
    assert!(error.contains("GRAPNEL_LOG is the broker's own"), "{error}");
}

/// Paths in the configuration are relative to the broker's working directory, although workers run
/// elsewhere.
#[test]
fn a_relative_path_begins_at_the_brokers_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("hooks")).unwrap();
    std::fs::copy(folder().join("environment.py"), dir.path().join("hooks/here.py")).unwrap();
    let broker = broker().working_directory(dir.path()).start();
    load(&broker, &paho::python(), Path::new("hooks"), "here", &["failed_action=deny"]);
    let surroundings_shown = surroundings(&broker);
    let first = std::fs::canonicalize(dir.path().join("hooks")).unwrap();
    assert_eq!(
        (&surroundings_shown["cwd"], surroundings_shown["path"][0].as_str().map(Path::new)),
        (&"/".into(), Some(&*first))
    );
}

scenario! {
    /// An edit of the hooks and a reload replace the code while a client publishes: it stays
    /// connected, and every message arrives once and in order, changed by the old code or, from
    /// some moment on, by the new.
    fn a_reload_takes_the_edited_hooks(broker in broker()) {
        let dir = tempfile::tempdir().unwrap();
        let write = |mark: &str| {
            let code = format!(
                "from grapnel_exhook import Modify, on\n\n@on.message_publish\ndef publish(event):\n    \
                 return Modify(payload=event.message.payload + b'{mark}')\n"
            );
            std::fs::write(dir.path().join("edited.py"), code).unwrap();
        };
        write("old");
        load(broker, &paho::python(), dir.path(), "edited", &["failed_action=deny"]);
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("t", 0);
        write("new");
        let reloading = std::thread::scope(|scope| {
            let reload = scope.spawn(|| broker.ctl_ok(&["plugins", "reload", "exhook"]));
            let mut marks = Vec::new();
            while !reload.is_finished() || marks.last().is_none_or(|mark| mark == "old") {
                let n = marks.len();
                assert_eq!(client.publish(&Publish::new("t", format!("{n} ")).qos(1)), 0);
                let text = client.message().text();
                let (number, mark) = text.split_once(' ').unwrap();
                assert_eq!(number, n.to_string());
                marks.push(mark.to_owned());
            }
            marks
        });
        let first_new = reloading.iter().position(|mark| mark == "new").unwrap();
        assert!(first_new > 0 && reloading[first_new..].iter().all(|mark| mark == "new"), "{reloading:?}");
    }
}

scenario! {
    /// A verdict with `last=False` stands unless a later hook, here of another exhook, decides
    /// otherwise.
    fn a_verdict_may_leave_the_last_word_to_others(
        broker in broker().config("[authorization]\nno_match = \"deny\"")
    ) {
        for (module, priority) in [("allow_and_continue", "10"), ("deny_one_topic", "0")] {
            let set = [
                "driver=python3".to_owned(),
                format!("python=\"{}\"", paho::python().display()),
                format!("path=\"{}\"", folder().display()),
                format!("init_module={module}"),
                ENVIRONMENT.to_owned(),
            ];
            let name = module.replace('_', "-");
            let mut arguments = vec!["plugins", "load", "exhook", "--once", "--name", &name, "--priority", priority];
            set.iter().for_each(|set| arguments.extend(["--set", set]));
            broker.ctl_ok(&arguments);
        }
        let mut client = Client::hello(broker, Version::V5, "c");
        assert_eq!(client.subscribe_all(&Subscribe::to("yes", 0)), [0]);
        assert_eq!(client.publish(&Publish::new("yes", "x").qos(1)), 0);
        assert_eq!(client.publish(&Publish::new("no", "x").qos(1)), 0x87);
    }
}

/// An unsubscription on behalf of a client does not pass an earlier subscription that waits for its
/// verdict.
#[test]
fn requests_on_behalf_of_a_client_keep_their_order() {
    let broker = broker().shards(1).start();
    for (name, module) in [("rights", "slow_rights"), ("asks", "subscribe_on_behalf")] {
        let set = [
            "driver=python3".to_owned(),
            format!("python=\"{}\"", paho::python().display()),
            format!("path=\"{}\"", folder().display()),
            format!("init_module={module}"),
            ENVIRONMENT.to_owned(),
        ];
        let mut arguments = vec!["plugins", "load", "exhook", "--once", "--name", name];
        set.iter().for_each(|set| arguments.extend(["--set", set]));
        broker.ctl_ok(&arguments);
    }
    let mut client = Client::hello(&broker, Version::V5, "c");
    assert_eq!(client.publish(&Publish::new("go", "x").qos(1)), 0x10);
    wait_for_log(&broker, "python3/0: subscribed a");
    wait_for_log(&broker, "python3/0: subscribed b");
    assert_eq!(broker.ctl_json(&["clients", "show", "c"])["subscriptions"], 1);
}

scenario! {
    /// The contents of CONNECT are available from client_connected on, also to the process after
    /// one that was killed.
    fn connect_data_is_available_after_a_restart(broker in broker()) {
        load(broker, &paho::python(), &folder(), "login_data", &["failed_action=deny"]);
        let mut client = Client::connect(broker, &Connect::new(Version::V5, "c").keep_alive(77));
        client.subscribe("#", 0);
        let mut publish_to = |topic: &str| {
            let code = client.publish(&Publish::new(topic, "x").qos(1));
            (code < 0x80).then(|| client.message().text())
        };
        let first = publish_to("t").unwrap();
        assert!(first.starts_with("77 s, process "), "{first}");
        assert_eq!(publish_to("end"), None, "its process has ended in the middle of it");
        let second = publish_to("t").unwrap();
        assert!(second.starts_with("77 s, process ") && second != first, "{first}, then {second}");
    }
}

scenario! {
    /// A command for an absent client is logged with the plugin's name: the first time, the second,
    /// the fourth.
    fn commands_for_absent_clients_are_reported(broker in broker()) {
        load(broker, &paho::python(), &folder(), "absent_client", &[]);
        Client::hello(broker, Version::V5, "c").publish(&Publish::new("do", "x").qos(1));
        for (what, times) in [("subscribe \"a/#\"", 1), ("kick", 2), ("unsubscribe \"a/#\"", 4)] {
            wait_for_log(
                broker,
                &format!(
                    "exhook: {what} of client \"gone\" is not done: no client of that name has a session here ({times} so far)"
                ),
            );
        }
    }
}

scenario! {
    /// `exhook drivers` lists the loaded drivers with the statistics of their workers. A disabled
    /// driver is not called until it is enabled.
    fn drivers_can_be_listed_disabled_and_enabled(broker in broker()) {
        load(broker, &paho::python(), &folder(), "mirror", &["pool_size=2"]);
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("mirror/#", 0);
        let mut mirrored = |payload: &str| {
            assert_eq!(client.publish(&Publish::new("mirror/a", payload).qos(1)), 0);
            client.message().text()
        };
        assert_eq!(mirrored("abc"), "cba");
        let ask = |what: &str| broker.ctl_json(&["exhook", "drivers", what]);
        let list = ask("list");
        assert_eq!((&list[0]["driver"], &list[0]["workers"]), (&"python3".into(), &2.into()), "{list}");
        let workers = ask("stats");
        let of = |key: &str| workers.as_array().unwrap().iter().map(|row| row[key].as_i64().unwrap_or(0)).sum::<i64>();
        // The calls: its login, its publish, and other events that a worker must receive.
        assert!(of("calls") >= 2 && of("p99_us") > 0, "{workers}");
        assert_eq!((of("failed"), of("timeouts"), of("dropped"), of("restarts")), (0, 0, 0, 0), "{workers}");
        broker.ctl_ok(&["exhook", "drivers", "disable", "python3"]);
        assert_eq!(mirrored("abc"), "abc");
        assert_eq!(ask("list")[0]["state"], "disabled");
        broker.ctl_ok(&["exhook", "drivers", "enable", "python3"]);
        assert_eq!(mirrored("abc"), "cba");
        broker.ctl_ok(&["plugins", "configure", "exhook", "--set", "pool_size=1"]);
        assert_eq!(mirrored("abc"), "cba");
        assert_eq!((&ask("list")[0]["workers"], ask("stats").as_array().unwrap().len()), (&1.into(), 1));
        let refused = broker.ctl_refused(&["exhook", "drivers", "enable", "java"]);
        assert!(refused.contains("no driver java is loaded"), "{refused}");
    }
}

scenario! {
    /// Several exhook plugins are listed together; a driver is switched if its name identifies one
    /// of them.
    fn drivers_of_several_plugins_are_distinguished(broker in broker()) {
        let named = |name: &'static str| {
            let set = [
                "driver=python3".to_owned(),
                format!("python=\"{}\"", paho::python().display()),
                format!("path=\"{}\"", folder().display()),
                "init_module=mirror".to_owned(),
                ENVIRONMENT.to_owned(),
            ];
            let mut arguments = vec!["plugins", "load", "exhook", "--once", "--name", name];
            set.iter().for_each(|set| arguments.extend(["--set", set]));
            broker.ctl_ok(&arguments);
        };
        ["one", "two"].into_iter().for_each(named);
        let states = || {
            let list = broker.ctl_json(&["exhook", "drivers", "list"]);
            let rows = list.as_array().unwrap().iter();
            rows.map(|row| (row["plugin"].clone(), row["state"].clone())).collect::<Vec<_>>()
        };
        let row = |plugin: &str, state: &str| (Value::from(plugin), Value::from(state));
        assert_eq!(states(), [row("one", "loaded once"), row("two", "loaded once")]);
        let refused = broker.ctl_refused(&["exhook", "drivers", "disable", "python3"]);
        assert!(refused.contains("exhook can be any of the plugins one, two; name one of them"), "{refused}");
        broker.ctl_ok(&["exhook", "drivers", "disable", "two/python3"]);
        assert_eq!(states(), [row("one", "loaded once"), row("two", "disabled")]);
        broker.ctl_ok(&["exhook", "drivers", "enable", "two"]);
        broker.ctl_ok(&["one", "drivers", "disable", "python3"]);
        assert_eq!(states(), [row("one", "disabled"), row("two", "loaded once")]);
        assert_eq!(broker.ctl_json(&["two", "drivers", "stats"])[0]["plugin"], "two");
    }
}

/// Time limit of an answer in the tests of faults.
const CALL_TIMEOUT: Duration = Duration::from_millis(1000);

/// Publishes 2,000 messages a second for so long, the first of them to `rogue/WHAT`. Every one is
/// acknowledged in time, and no client is disconnected. Returns how many the policy decided.
fn publish_through(client: &mut Client, what: &str, lasting: Duration) -> usize {
    let (began, mut sent, mut failed) = (Instant::now(), 0_usize, 0);
    let mut waiting: HashMap<u16, Instant> = HashMap::new();
    while began.elapsed() < lasting || !waiting.is_empty() {
        while began.elapsed() < lasting
            && sent < began.elapsed().as_millis() as usize * 2
            && waiting.len() < 30_000
        {
            let topic = if sent == 0 { format!("rogue/{what}") } else { "t".to_owned() };
            let id = client.send_publish(&Publish::new(&topic, "x").qos(1)).unwrap();
            assert!(waiting.insert(id, Instant::now()).is_none(), "the identifiers have come around");
            sent += 1;
        }
        match client.next(Duration::from_millis(2)) {
            Event::Packet(Packet::Puback(Ack { id, code, .. })) => {
                let since = waiting.remove(&id).expect("acknowledged once");
                // The policy decides when the time is over; the machine may be busy.
                assert!(since.elapsed() < CALL_TIMEOUT + PATIENCE, "{what}: {:?}", since.elapsed());
                failed += usize::from(code >= 0x80);
            }
            Event::Silence => {
                let oldest = waiting.values().min().map_or(Duration::ZERO, Instant::elapsed);
                assert!(oldest < CALL_TIMEOUT + PATIENCE, "{what}: no acknowledgement after {oldest:?}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    failed
}

/// Resident memory of a process, bytes.
fn resident(id: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{id}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A worker is killed, stopped, loops forever, sends 100 MiB, closes its socket in the middle of a
/// frame, sends invalid answers or floods. No client is disconnected because of it, every publish
/// ends, the worker is restarted, and memory is bounded. Shards take no part in the work of a
/// worker's thread, so each fault is tried with one number of them.
fn affects_no_client(shards: usize, faults: &[(&str, &str)]) {
    let broker = broker().shards(shards).start();
    let rogue = folder().join("rogue");
    let timeout = format!("call_timeout={}ms", CALL_TIMEOUT.as_millis());
    load(&broker, &rogue, &folder(), "rogue", &[&timeout, "failed_action=deny"]);
    let mut bystander = Client::hello(&broker, Version::V5, "bystander");
    let mut client = Client::hello(&broker, Version::V5, "c");
    publish_through(&mut client, "nothing", Duration::from_millis(300));
    let before = resident(broker.process().id());
    for (what, expected) in faults {
        publish_through(&mut client, what, Duration::from_millis(1500));
        wait_for_log(&broker, expected);
        // It is back: a publish gets an answer, not the policy's decision.
        let started = Instant::now();
        while client.publish(&Publish::new("t", "again").qos(1)) >= 0x80 {
            assert!(started.elapsed() < PATIENCE, "{what}: the worker does not come back");
        }
        bystander.ping();
    }
    let grown = resident(broker.process().id()).saturating_sub(before);
    assert!(grown < 64 << 20, "the broker has grown by {grown} bytes");
}

const DOES_NOTHING: &str = "has not done anything for 1000 ms and is killed";

#[test]
fn a_worker_that_ends_or_hangs_affects_no_client() {
    let faults = [("killed", "has ended (signal: 9 (SIGKILL))"), ("stopped", DOES_NOTHING)];
    affects_no_client(8, &faults);
}

#[test]
fn a_worker_that_loops_or_sends_invalid_frames_affects_no_client() {
    let faults =
        [("endless", DOES_NOTHING), ("half", "has ended"), ("nonsense", "sent a frame of no known form")];
    affects_no_client(2, &faults);
}

#[test]
fn a_worker_that_sends_too_much_affects_no_client() {
    let huge = "sends a frame of 104857600 bytes, more than frame_bytes_max";
    affects_no_client(1, &[("huge", huge), ("prints", DOES_NOTHING), ("floods", DOES_NOTHING)]);
}
