//! EMQX's hooks in Java through exhook on a live broker: what its documentation promises for every
//! driver, and what is specific to Java: classes, sources and jars, both drivers in one plugin,
//! processes that end, and missing software.

#![allow(clippy::unwrap_used)]

mod exhook_common;
mod exhook_emqx;

use std::path::{Path, PathBuf};

use exhook_common::{
    ENVIRONMENT, all_bytes, broker, folder, load, load_refused, roomy_broker, with_password,
};
use exhook_emqx::Dialect;
use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version, paho, scenario};
use serde_json::json;

/// Hooks as EMQX's Java driver called them: lists of tuples, atoms and binaries.
fn dialect() -> Dialect {
    Dialect {
        driver: "java",
        path: folder().join("java"),
        spy: "Spy",
        verdicts: "Verdicts",
        from: "from",
        state: json!([{"String": "of"}, 7]),
        props: |some| match some {
            true => json!({"record": [["User-Property", {"record": [["k", "v"]]}]]}),
            false => json!([]),
        },
        no_text: |hex| json!({"bytes": hex}),
    }
}

exhook_emqx::table!(dialect());

scenario! {
    /// Any bytes, in both directions.
    fn any_bytes_pass_unchanged_in_both_directions(broker in roomy_broker()) {
        load(broker, &dialect().settings("Mirror", &["failed_action=deny"]));
        exhook_common::any_bytes_pass_unchanged_in_both_directions(broker);
    }
}

scenario! {
    /// A process ends in a hook: the policy decides that publish, the client stays connected, and
    /// the next process is called.
    fn a_process_that_ends_is_restarted(broker in broker()) {
        // Java starts slowly, and the next call waits for it.
        load(broker, &dialect().settings("Mirror", &["failed_action=deny", "call_timeout=15s"]));
        let mut client = Client::connect(broker, &with_password("c", &all_bytes()));
        client.subscribe("mirror/#", 0);
        assert_eq!(client.publish(&Publish::new("mirror/a", "halt").qos(1)), 0x83);
        assert_eq!(client.publish(&Publish::new("mirror/a", "abc").qos(1)), 0);
        assert_eq!(client.message().text(), "cba");
        broker.process().wait_for_lines("its end", 1, PATIENCE, |line| {
            line.contains("java/0 has ended (exit status: 3); it is restarted").then_some(())
        });
    }
}

/// A folder with a file `Main.java`: a class with these members, which may say `Binary`, `List`,
/// `Tuple`.
fn main_java(folder: &Path, members: &str) {
    let imports = "import com.erlport.erlang.term.*;\nimport java.util.*;\n";
    std::fs::write(folder.join("Main.java"), format!("{imports}public class Main {{\n{members}\n}}\n"))
        .unwrap();
}

/// Members of a class that appends a mark to the payload of every message.
fn marks(mark: &str) -> String {
    format!(
        r#"public static Object init() {{
            return Tuple.two(0, Tuple.two(List.of(Tuple.three("message_publish", "Main", "mark")), null));
        }}
        public static Object mark(Object message, Object state) {{
            Tuple payload = (Tuple) ((List<?>) message).get(5);
            String marked = new String(((Binary) payload.elements[1]).raw) + "{mark}";
            return Tuple.two(0, List.of(Tuple.two("payload", marked)));
        }}"#
    )
}

/// EMQX's lines in a file with its original name.
fn lines(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("emqx_extension_hook.conf");
    std::fs::write(&file, text).unwrap();
    file
}

fn load_emqx(broker: &Broker, file: &Path) {
    let python = format!("python=\"{}\"", paho::python().display());
    let file = file.to_str().unwrap();
    broker.ctl_ok(&[
        "plugins",
        "load",
        "emqx_extension_hook",
        "--once",
        "--config",
        file,
        "--set",
        &python,
        "--set",
        ENVIRONMENT,
    ]);
}

scenario! {
    /// EMQX's lines for Java and its default module; a reload runs an edited source, and clients
    /// stay connected.
    fn a_reload_takes_the_edited_source(broker in broker()) {
        let dir = tempfile::tempdir().unwrap();
        main_java(dir.path(), &marks(" old"));
        let path = dir.path().display();
        load_emqx(broker, &lines(dir.path(), &format!(
            "## The drivers\nexhook.drivers = java\nexhook.drivers.java.path = {path}\n\
             exhook.drivers.java.call_timeout = 5s\nexhook.drivers.java.init_module = Main\n"
        )));
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("t", 0);
        let mut marked = || {
            assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
            client.message().text()
        };
        assert_eq!(marked(), "x old");
        main_java(dir.path(), &marks(" new"));
        broker.ctl_ok(&["plugins", "reload", "emqx_extension_hook"]);
        assert_eq!(marked(), "x new");
        main_java(dir.path(), "public static Object init() { return nothing; }");
        let error = broker.ctl_refused(&["plugins", "reload", "emqx_extension_hook"]);
        assert!(error.contains("Main.java:4") && error.contains("cannot find symbol"), "{error}");
        assert_eq!(marked(), "x new", "what cannot be loaded leaves what is there");
    }
}

/// Java searches only its own jar and the hooks' folder, whatever the broker's working directory
/// and environment; workers run in a fixed folder, with named environment variables.
#[test]
fn no_module_of_the_brokers_working_directory_is_run() {
    let (planted, hooks) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    main_java(planted.path(), &marks(" planted"));
    let expression = r#"String.join("|", System.getProperty("user.dir"), System.getProperty("java.class.path"),
        String.valueOf(System.getProperty("planted")), String.join(",", System.getenv().keySet()))"#;
    let mark = "new String(((Binary) payload.elements[1]).raw) + \" said\"";
    let members = marks(" said");
    assert!(members.contains(mark), "{members}");
    main_java(hooks.path(), &members.replace(mark, expression));
    let broker = broker()
        .working_directory(planted.path())
        .environment("CLASSPATH", ".")
        .environment("JAVA_TOOL_OPTIONS", "-Dplanted=yes")
        .environment("GRAPNEL_LOG", "info")
        .start();
    let path = format!("path={:?}", hooks.path());
    load(&broker, &["driver=java".to_owned(), path, "failed_action=deny".to_owned()]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("t", 0);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
    let text = client.message().text();
    let parts: Vec<&str> = text.split('|').collect();
    let [folder, jar, planted, names] = parts[..] else { panic!("{text}") };
    assert_eq!((folder, planted), ("/", "null"));
    assert!(
        Path::new(jar).is_absolute() && jar.ends_with("/grapnel-exhook.jar") && !jar.contains(':'),
        "{jar}"
    );
    // The socket is passed under this name.
    let own: Vec<&str> = names.split(',').filter(|name| name.starts_with("GRAPNEL_")).collect();
    assert_eq!(own, ["GRAPNEL_WORKER_FD"]);
    assert!(!names.contains("CLASSPATH") && !names.contains("JAVA_TOOL_OPTIONS"), "{names}");
}

scenario! {
    /// Both of EMQX's drivers in one plugin, as in its configuration: a message passes them in
    /// their order, and each is listed, disabled and enabled by its name.
    fn both_drivers_run_in_one_plugin(broker in broker()) {
        let dir = tempfile::tempdir().unwrap();
        main_java(dir.path(), &marks(" java"));
        let python = "def mark(message, state):\n    payload = dict(message)[b'payload']\n    \
                      return 0, [('payload', payload + b' python')]\n\n\
                      def init():\n    return 0, ([('message_publish', 'marks', 'mark', [])], ())\n";
        std::fs::write(dir.path().join("marks.py"), python).unwrap();
        let path = dir.path().display();
        let text = |drivers: &str| format!(
            "exhook.drivers = {drivers}\nexhook.drivers.python3.path = {path}\nexhook.drivers.python3.init_module = marks\n\
             exhook.drivers.java.path = {path}\n"
        );
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("t", 0);
        let mut marked = || {
            assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
            client.message().text()
        };
        for (drivers, both) in [("java,python3", "x java python"), ("python3, java", "x python java")] {
            load_emqx(broker, &lines(dir.path(), &text(drivers)));
            assert_eq!(marked(), both);
            let drivers = |what| broker.ctl_json(&["exhook", "drivers", what]);
            let states = || {
                let list = drivers("list");
                list.as_array().unwrap().iter().map(|row| {
                    (row["driver"].as_str().unwrap().to_owned(), row["state"].as_str().unwrap().to_owned())
                }).collect::<Vec<_>>()
            };
            let row = |driver: &str, state: &str| (driver.to_owned(), state.to_owned());
            assert_eq!(states(), [row("java", "loaded once"), row("python3", "loaded once")]);
            let output = broker.ctl_ok(&["exhook", "drivers", "disable", "java"]);
            assert!(
                output.contains("grapnel-ctl: message.publish loses emqx_extension_hook/java_message_publish and keeps emqx_"),
                "{output}"
            );
            assert_eq!(states(), [row("java", "disabled"), row("python3", "loaded once")]);
            assert_eq!(marked(), "x python");
            broker.ctl_ok(&["exhook", "drivers", "enable", "java"]);
            broker.ctl_ok(&["exhook", "drivers", "disable", "python3"]);
            assert_eq!(marked(), "x java");
            broker.ctl_ok(&["exhook", "drivers", "enable", "python3"]);
            assert_eq!(marked(), both);
            // One by one, and then both by the plugin's name.
            broker.ctl_ok(&["exhook", "drivers", "disable", "java"]);
            broker.ctl_ok(&["exhook", "drivers", "disable", "emqx_extension_hook/python3"]);
            assert_eq!(states(), [row("java", "disabled"), row("python3", "disabled")]);
            broker.ctl_ok(&["exhook", "drivers", "enable", "emqx_extension_hook"]);
            assert_eq!(states(), [row("java", "loaded once"), row("python3", "loaded once")]);
            assert_eq!(marked(), both);
            let failed = drivers("stats");
            assert!(failed.as_array().unwrap().iter().all(|row| row["failed"] == 0), "{failed}");
            broker.ctl_ok(&["plugins", "unload", "emqx_extension_hook"]);
        }
    }
}

/// With a public listener, a driver beside another one can remove the last hook that decides about
/// logins only by force. If the command is refused, all of its hooks stay.
#[test]
fn the_last_deciding_driver_is_disabled_only_by_force() {
    let broker = broker().config("[[listeners]]\nbind = \"0.0.0.0:0\"").listen(&[]).start();
    let dir = tempfile::tempdir().unwrap();
    main_java(dir.path(), &marks(" java"));
    let python = "def login(clientinfo, authresult, state):\n    return 0, True\n\n\
                  def gone(*arguments):\n    return 0\n\n\
                  def init():\n    return 0, ([('client_disconnected', 'logins', 'gone', []), \
                  ('client_authenticate', 'logins', 'login', [])], ())\n";
    std::fs::write(dir.path().join("logins.py"), python).unwrap();
    let path = dir.path().display();
    load_emqx(
        &broker,
        &lines(
            dir.path(),
            &format!(
                "exhook.drivers = java,python3\nexhook.drivers.python3.path = {path}\n\
                 exhook.drivers.python3.init_module = logins\nexhook.drivers.java.path = {path}\n"
            ),
        ),
    );
    let points = || {
        let listed = broker.ctl_json(&["hooks", "list"]);
        let rows = listed["rows"].as_array().unwrap().clone();
        let mounted = rows.iter().filter(|row| row["mounted"] == true);
        mounted.map(|row| row["point"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // At client.connack exhook itself sees refused clients.
    let all = ["client.authenticate", "client.connack", "client.disconnected", "message.publish"];
    assert_eq!(points(), all);
    let refused = broker.ctl_refused(&["exhook", "drivers", "disable", "python3"]);
    assert!(refused.contains("client.authenticate would have no hook left"), "{refused}");
    assert!(refused.contains("grapnel-ctl: client.authenticate loses"), "it is said before: {refused}");
    assert_eq!(points(), all, "all or none");
    broker.ctl_ok(&["exhook", "drivers", "disable", "java"]);
    assert_eq!(points(), all[..3]);
    broker.ctl_ok(&["exhook", "drivers", "disable", "python3", "--force"]);
    assert!(points().is_empty());
    broker.ctl_ok(&["exhook", "drivers", "enable", "python3"]);
    assert_eq!(points(), all[..3]);
}

/// A change that is about the hooks of one driver leaves the workers of the other driver as they
/// are, and what they have of clients.
#[test]
fn a_change_at_one_driver_leaves_the_worker_of_the_other() {
    let broker = broker().start();
    let dir = tempfile::tempdir().unwrap();
    let gone = "public static Object init() {
        return Tuple.two(0, Tuple.two(List.of(Tuple.three(\"client_disconnected\", \"Main\", \"gone\")), null));
    }
    public static void gone(Object clientinfo, Object reason, Object state) {}";
    main_java(dir.path(), gone);
    let grants = "from amqtt.plugins.base import BaseTopicPlugin\n\n\
                  class Grants(BaseTopicPlugin):\n    \
                  async def topic_filtering(self, *, session, topic, action):\n        \
                  session.attributes[\"granted\"] = topic == \"grant\" or session.attributes.get(\"granted\", False)\n        \
                  return session.attributes[\"granted\"]\n";
    std::fs::write(dir.path().join("grants.py"), grants).unwrap();
    let (yaml, path) = (dir.path().join("amqtt.yaml"), dir.path().display());
    std::fs::write(&yaml, "plugins:\n  grants.Grants: {}\n").unwrap();
    let file = dir.path().join("exhook.json");
    let config = format!(
        "{{\"exhook.drivers\": \"amqtt,java\", \"exhook.drivers.java.path\": \"{path}\", \"config\": \"{}\"}}",
        yaml.display()
    );
    std::fs::write(&file, config).unwrap();
    let python = format!("python=\"{}\"", paho::python().display());
    let options = ["--config", file.to_str().unwrap(), "--set", &python, "--set", ENVIRONMENT];
    broker.ctl_ok(&[&["plugins", "load", "exhook", "--once"], &options[..]].concat());
    let started = || {
        let ready = |line: &str| line.contains("amqtt/0 is ready").then_some(());
        broker.process().lines(ready).len()
    };
    let mut client = Client::hello(&broker, Version::V5, "c");
    let mut may = |topic: &str| client.publish(&Publish::new(topic, "x").qos(1)) & 0x80 == 0;
    assert!(!may("a") && may("grant") && may("a"));
    for what in ["unmount", "mount"] {
        broker.ctl_ok(&["hooks", what, "exhook", "client.disconnected", "java_client_disconnected"]);
        assert!(may("a"));
    }
    assert_eq!(started(), 1, "its own hooks are called as before");
    broker.ctl_ok(&["hooks", "unmount", "exhook", "session.terminated", "session_terminated"]);
    assert!(may("a"));
    exhook_common::until("it is another process", || started() == 2);
}

scenario! {
    /// A failed load reports the reason, and its hooks are not called.
    fn a_plugin_whose_hooks_fail_to_load_is_not_loaded(broker in broker()) {
        let dir = tempfile::tempdir().unwrap();
        let settings = |more: &[&str]| {
            let of = Dialect { path: dir.path().to_owned(), ..dialect() };
            of.settings("Main", more)
        };
        let refused = |more: &[&str], expected: &[&str]| {
            let error = load_refused(broker, &settings(more));
            for expected in expected {
                assert!(error.contains(expected), "{expected:?} is not in {error}");
            }
            let hooks = broker.ctl_ok(&["hooks", "list"]);
            assert!(!hooks.contains("exhook"), "{hooks}");
        };
        refused(&[], &["Main"]);
        main_java(dir.path(), "public static Object init() { throw new IllegalStateException(\"no key\"); }");
        refused(&[], &["IllegalStateException", "no key", "Main.java:4"]);
        main_java(dir.path(), "public static Object init() { return Tuple.two(1, \"the database is away\"); }");
        refused(&[], &["the database is away"]);
        main_java(dir.path(), &marks("").replace("\"mark\"", "\"gone\""));
        refused(&[], &["gone"]);
        main_java(dir.path(), &marks("").replace("message_publish", "message_fly"));
        refused(&[], &["message_fly"]);
        refused(&["java=\"/no/such/java\""], &["there is no /no/such/java", "Java 17", "`java`"]);
        refused(&["java_jar=\"/no/such.jar\""], &["there is no /no/such.jar", "sdk/java/build", "`java_jar`"]);
        refused(&["java_options=[\"-Xno-such\"]"], &["-Xno-such"]);
    }
}
