//! EMQX's hooks in Python through exhook on a live broker: each point with its arguments, each
//! verdict with its effect, and each failure with its policy. Hooks use the real
//! `emqx-extension-sdk`; the expectation is what EMQX 4.1 documents.

#![allow(clippy::unwrap_used)]

mod exhook_common;
mod exhook_emqx;

use std::collections::{HashMap, HashSet};

use exhook_common::{Calls, ENVIRONMENT, broker, folder, load, load_refused};
use exhook_emqx::{Dialect, enter};
use grapnel_tests::{Client, Connect, Publish, Version, paho, scenario};
use serde_json::{Value, json};

/// Hooks on the real `emqx-extension-sdk`, which converts records to objects and bytes to text.
fn dialect() -> Dialect {
    Dialect {
        driver: "python3",
        path: folder(),
        spy: "emqx_spy",
        verdicts: "emqx_verdicts",
        // `from` is a keyword of Python.
        from: "from_clientid",
        state: json!({"tuple": []}),
        props: |some| match some {
            true => json!({"record": [["User-Property", [{"tuple": [bytes("k"), bytes("v")]}]]]}),
            false => json!({"record": []}),
        },
        no_text: |hex| json!({"surrogates of": hex}),
    }
}

exhook_emqx::table!(dialect());

/// A module with this source in a folder of its own.
fn module(source: &str) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.py"), source).unwrap();
    std::fs::copy(exhook_common::folder().join("call_printer.py"), folder.path().join("call_printer.py"))
        .unwrap();
    let path = format!("path=\"{}\"", folder.path().display());
    (folder, vec!["driver=python3".to_owned(), path, "init_module=own".to_owned()])
}

scenario! {
    /// Without the SDK: functions of the module by their path, records as lists of (bytes, value),
    /// a state of the test's own, return codes at CONNACK if the function accepts them, and topics
    /// for each hook. A topic that does not match is no failure.
    fn hooks_need_no_sdk(broker in broker(), version) {
        let (_folder, mut settings) = module(r#"
from call_printer import call_printed

class Inner:
    @staticmethod
    def published(message, state):
        call_printed("message_publish", message, state)
        raise RuntimeError("on purpose")

def connack(conninfo, rc, props, state):
    call_printed("client_connack", [key for key, _ in conninfo], rc, props, state)

def delivered(clientinfo, message, state):
    call_printed("message_delivered", dict(message)[b"topic"], state)

def acked(clientinfo, message, state):
    call_printed("message_acked", dict(message)[b"topic"], state)

def dropped(message, reason, state):
    call_printed("message_dropped", dict(message)[b"topic"], state)

def init():
    return 0, ([
        ("message_publish", "own", "Inner.published", [("topics", ["wanted/#"])]),
        ("client_connack", "own", "connack", []),
        ("message_delivered", "own", "delivered", [("topics", ["wanted/+", "also"])]),
        ("message_acked", "own", "acked", [("topics", [])]),
        ("message_dropped", "own", "dropped", [("topics", [b"wanted/dropped"])]),
    ], {"made": "by init"})

def deinit():
    call_printed("deinit")
"#);
        settings.push("failed_action=deny".to_owned());
        load(broker, &settings);
        let calls = Calls::of(broker);
        let state = json!({"dict": [["made", "by init"]]});
        let mut client = Client::connect(broker, &Connect::new(version, "c"));
        let [connack] = calls.expect(["client_connack"]);
        let keys = ["node", "clientid", "username", "peerhost", "sockport", "proto_name", "proto_ver", "keepalive"];
        let keys: Vec<_> = keys.iter().map(|key| bytes(key)).collect();
        assert_eq!(connack, json!([keys, bytes("success"), [], state]));

        client.subscribe("#", 1);
        assert_eq!(client.publish(&Publish::new("other", "x").qos(1)), 0, "no hook asks for it: no failure");
        assert_eq!(client.message().topic, "other");
        assert_eq!(client.publish(&Publish::new("also", "x").qos(1)), 0);
        assert_eq!(client.message().topic, "also");
        let code = client.publish(&Publish::new("wanted/a/b", "x").qos(1));
        assert_eq!(code, if version.is_5() { 0x83 } else { 0 });
        client.unsubscribe(&["#"]);
        client.publish(&Publish::new("lost", "x"));
        client.ping();
        broker.ctl_ok(&["plugins", "unload", "exhook"]);
        // Acknowledgements of any topic; other topics were not requested.
        let mut received = Vec::new();
        loop {
            let (hook, arguments) = calls.next();
            if hook == "deinit" {
                break;
            }
            received.push((hook, arguments));
        }
        received.iter_mut().filter(|(hook, _)| hook == "message_publish").for_each(|(_, arguments)| {
            assert_eq!(arguments[1], state);
            *arguments = arguments[0][4].clone();
        });
        assert_eq!(received, [
            ("message_acked".to_owned(), json!([bytes("other"), state])),
            ("message_delivered".to_owned(), json!([bytes("also"), state])),
            ("message_acked".to_owned(), json!([bytes("also"), state])),
            ("message_publish".to_owned(), json!({"tuple": [bytes("topic"), bytes("wanted/a/b")]})),
        ]);
    }
}

/// Bytes, as hooks show them.
fn bytes(text: &str) -> Value {
    json!({"bytes": text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()})
}

scenario! {
    /// A failed load reports the reason with the traceback, and its hooks are not called.
    fn a_plugin_whose_hooks_fail_to_load_is_not_loaded(broker in broker()) {
        let hook = "def h(message, state): raise RuntimeError('asked')\n";
        let spec = "[('message_publish', 'own', 'h', [])]";
        for (source, expected) in [
            ("import nowhere_to_be_found\n".to_owned(), "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
            ("def f(:\n".to_owned(), "SyntaxError: invalid syntax"),
            (format!("{hook}def init():\n    return {spec}[9]\n"), "IndexError: list index out of range"),
            (format!("{hook}def init():\n    return 1, 'the database is away'\n"), "the database is away"),
            (format!("{hook}def init():\n    return 0, ([('message_publish', 'own', 'gone')], ())\n"), "gone"),
            (format!("{hook}def init():\n    return 0, ([('message_fly', 'own', 'h')], ())\n"), "message_fly"),
        ] {
            let (_folder, mut settings) = module(&source);
            settings.push("failed_action=deny".to_owned());
            let error = load_refused(broker, &settings);
            assert!(error.contains(expected), "{expected:?} is not in {error}");
            let hooks = broker.ctl_ok(&["hooks", "list"]);
            assert!(!hooks.contains("exhook"), "{hooks}");
            let mut client = Client::hello(broker, Version::V5, "c");
            client.subscribe("t", 0);
            assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
            assert_eq!(client.message().text(), "x");
        }
        let (_folder, settings) = module(&format!("{hook}def init():\n    return 0, ({spec}, ())\n"));
        load(broker, &settings);
        assert!(broker.ctl_ok(&["hooks", "list"]).contains("exhook"));
    }
}

scenario! {
    /// Three workers are three processes with a module and a state each, and a client always uses
    /// the same one.
    fn each_client_has_its_worker(broker in broker()) {
        let (_folder, mut settings) = module(r#"
import os
from call_printer import call_printed

def connected(clientinfo, state):
    state.append(dict(clientinfo)[b"clientid"].decode())
    call_printed("client_connected", os.getpid(), state)

def init():
    return 0, ([("client_connected", "own", "connected", [])], [])

def deinit():
    call_printed("deinit", os.getpid())
"#);
        settings.push("pool_size=3".to_owned());
        load(broker, &settings);
        let calls = Calls::of(broker);
        let mut met: HashMap<u64, Vec<String>> = HashMap::new();
        for name in (0..30).chain(0..30) {
            let name = format!("client-{name}");
            Client::hello(broker, Version::V5, &name).disconnect();
            let [arguments] = calls.expect(["client_connected"]);
            let seen = met.entry(arguments[0].as_u64().unwrap()).or_default();
            seen.push(name);
            assert_eq!(arguments[1], json!(seen), "the state of this worker, and of no other");
        }
        assert_eq!(met.len(), 3, "{met:?}");
        for names in met.values() {
            let (first, second) = names.split_at(names.len() / 2);
            assert_eq!(first, second, "each came to the same worker again");
        }
        broker.ctl_ok(&["plugins", "unload", "exhook"]);
        let ended = calls.expect(["deinit", "deinit", "deinit"]).map(|arguments| arguments[0].as_u64().unwrap());
        let ended: HashSet<_> = ended.into_iter().collect();
        assert_eq!(ended, met.keys().copied().collect());
    }
}

scenario! {
    /// EMQX's lines unchanged, under its plugin's name, with the folder, the file, or a list as
    /// path.
    fn the_configuration_of_emqx_is_read_unchanged(broker in broker()) {
        let python = paho::python();
        let named = tempfile::tempdir().unwrap();
        let file = named.path().join("emqx_extension_hook.conf");
        let hooks = folder();
        for path in [
            hooks.display().to_string(),
            hooks.join("emqx_spy.py").display().to_string(),
            // A missing folder is ignored, as in EMQX.
            format!("{}:/no/such:{}", named.path().display(), hooks.display()),
        ] {
            let lines = format!(
                "\u{FEFF}## The drivers\n\nexhook.drivers = python3 # not java\n## Search path\nexhook.drivers.python3.path = {path}\n\
                 exhook.drivers.python3.call_timeout = 5s\nexhook.drivers.python3.init_module = emqx_spy\n"
            );
            std::fs::write(&file, lines).unwrap();
            let python = format!("python=\"{}\"", python.display());
            broker.ctl_ok(&[
                "plugins", "load", "emqx_extension_hook", "--once", "--config", file.to_str().unwrap(), "--set", &python,
                "--set", ENVIRONMENT,
            ]);
            let calls = Calls::of(broker);
            enter(broker, &calls, &Connect::new(Version::V5, "c")).disconnect();
            broker.ctl_ok(&["plugins", "unload", "emqx_extension_hook"]);
        }
        std::fs::write(&file, "exhook.drivers = python2\n").unwrap();
        let error = broker.ctl_refused(&[
            "plugins", "load", "emqx_extension_hook", "--once", "--config", file.to_str().unwrap(),
        ]);
        assert!(error.contains("python2"), "{error}");
    }
}
