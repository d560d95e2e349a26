//! How the configuration is read, and its errors.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn read_all(value: Value) -> Result<Vec<Config>, String> {
    let written: RawConfig = serde_json::from_value(value).map_err(|error| error.to_string())?;
    written.read(Some(Path::new("/plugins"))).map_err(|error| error.to_string())
}

fn read(value: Value) -> Result<Config, String> {
    read_all(value).map(|mut configs| configs.remove(0))
}

#[test]
fn defaults_are_as_documented() {
    let config = read(json!({"driver": "python3", "path": "/tmp"})).unwrap();
    assert_eq!((config.driver, config.pool_size, config.auto_reconnect), (Driver::Python3, 1, true));
    assert_eq!((config.init_module.as_str(), config.call_timeout), ("main", Duration::from_secs(5)));
    assert_eq!((config.while_down, config.shutdown_timeout), (WhileDown::Wait, Duration::from_secs(10)));
    let queue = config.queue;
    assert_eq!((queue.client_calls_max, queue.client_bytes_max), (10_000, 16 << 20));
    assert_eq!((queue.address_calls_max, queue.address_bytes_max), (10_000, 16 << 20));
    let denies: Vec<_> = HookPoint::ALL
        .iter()
        .filter(|point| config.policy(**point) == FaultPolicy::Deny)
        .map(|point| point.name())
        .collect();
    assert_eq!(denies, ["client.authenticate", "client.authorize", "client.subscribe"]);
}

#[test]
fn emqx_lines_are_taken_as_they_are() {
    let config = read(json!({
        "exhook.drivers": "python3",
        "exhook.drivers.python3.path": "/tmp",
        "exhook.drivers.python3.call_timeout": "1500ms",
        "exhook.drivers.python3.init_module": "hooks",
        "exhook.drivers.python3.pool_size": "4",
    }));
    let config = config.unwrap();
    assert_eq!((config.init_module.as_str(), config.pool_size), ("hooks", 4));
    assert_eq!(config.call_timeout, Duration::from_millis(1500));
}

#[test]
fn times_are_read_as_emqx_reads_them() {
    let read = |text: &str| Span::Text(text.to_owned()).read("key").ok().map(|time| time.as_millis() as u64);
    for (text, ms) in [
        ("500ms", 500),
        ("5s", 5000),
        (" 2m ", 120_000),
        ("1h", 3_600_000),
        ("1h30m", 5_400_000),
        ("1d2h3m4s5ms", 93_784_005),
        ("1w", 604_800_000),
        ("1f", 1_209_600_000),
        ("1.5s", 1500),
        ("0.1ms", 1),
        ("30m1h", 5_400_000),
        ("700", 700),
    ] {
        assert_eq!(read(text), Some(ms), "{text}");
    }
    for text in [
        "",
        "s",
        "5 s",
        "1h 30m",
        "5x",
        "1h30",
        ".5s",
        "5.s",
        "1.2.3s",
        "-1s",
        "1e3s",
        "5S",
        "99999999999999999999d",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
    let mut lines = json!({"exhook.drivers": "python3", "exhook.drivers.python3.path": "/tmp"});
    for (text, expected) in [("1h", Some(3600)), ("59m59s", Some(3599)), ("1h1ms", None)] {
        lines["exhook.drivers.python3.call_timeout"] = json!(text);
        let timeout = super::tests::read(lines.clone()).ok().map(|config| config.call_timeout.as_secs());
        assert_eq!(timeout, expected, "{text}");
    }
}

#[test]
fn of_several_folders_in_emqx_lines_those_count_that_are_there() {
    let of = |key: &str, path: &str| {
        read(
            json!({"exhook.drivers": "python3", "driver": if key == "path" { Some("python3") } else { None }, key: path}),
        )
    };
    let emqx = "exhook.drivers.python3.path";
    let config = of(emqx, "/no/such:/tmp:/nor/this").unwrap();
    assert_eq!(config.paths, [PathBuf::from("/tmp")]);
    assert_eq!(config.missing, ["/no/such", "/nor/this"].map(PathBuf::from));
    assert!(of(emqx, "/no/such:/nor/this").unwrap_err().contains("there is no /no/such"));
    assert!(
        of("path", "/no/such:/tmp").unwrap_err().contains("there is no /no/such"),
        "our own words are meant"
    );
}

#[test]
fn both_of_emqx_drivers_run_beside_each_other() {
    let configs = read_all(json!({
        "exhook.drivers": "java, python3",
        "exhook.drivers.java.path": "/tmp",
        "exhook.drivers.java.init_module": "Sample",
        "exhook.drivers.python3.path": "/usr",
        "java_jar": "/dev/null",
        "java_options": ["-Xmx64m"],
        "pool_size": 2,
    }));
    let [java, python] = &configs.unwrap()[..] else { panic!("two drivers") };
    assert_eq!(
        (java.driver, &java.paths[..], java.init_module.as_str()),
        (Driver::Java, &["/tmp".into()][..], "Sample")
    );
    assert_eq!(java.program, Path::new("java"));
    assert_eq!(
        java.arguments,
        ["-Dfile.encoding=UTF-8", "-Xmx64m", "-cp", "/dev/null", "io.grapnel.exhook.Worker"]
    );
    assert_eq!(
        (python.driver, &python.paths[..], python.init_module.as_str()),
        (Driver::Python3, &["/usr".into()][..], "main")
    );
    assert_eq!((python.program.as_path(), python.pool_size), (Path::new("python3"), 2));
}

/// Workers run in another folder: relative paths are made absolute from the broker's working
/// directory.
#[test]
fn paths_are_those_of_the_broker() {
    let here = std::env::current_dir().unwrap();
    let config = read(
        json!({"driver": "amqtt", "path": "src:/tmp:", "python": "venv/bin/python", "config": "a.yaml"}),
    );
    let config = config.unwrap();
    assert_eq!(config.paths, [here.join("src"), "/tmp".into()]);
    assert_eq!(config.program, here.join("venv/bin/python"));
    assert_eq!(config.options["config"], here.join("a.yaml").to_str().unwrap());
    assert_eq!(config.working_directory, Path::new("/"));
    let config = read(json!({"driver": "java", "path": "src", "java_jar": "Cargo.toml"})).unwrap();
    assert!(config.arguments.contains(&here.join("Cargo.toml").into()), "{:?}", config.arguments);
}

#[test]
fn the_environment_is_read_as_names_and_settings() {
    let mut written = with_environment("A");
    written["environment"] = json!(["A", "B=", "C=x=y"]);
    let set = |name: &str, value: &str| Variable::Set(name.to_owned(), value.to_owned());
    assert_eq!(
        read(written).unwrap().environment,
        [Variable::PassedOn("A".to_owned()), set("B", ""), set("C", "x=y")]
    );
}

fn with_environment(entry: &str) -> Value {
    json!({"driver": "python3", "path": "/tmp", "environment": [entry]})
}

#[test]
fn invalid_settings_are_named() {
    for (value, expected) in [
        (json!({"path": "/tmp"}), "driver is missing"),
        (json!({"driver": "python2", "path": "/tmp"}), "Python 2 has ended"),
        (json!({"driver": "perl", "path": "/tmp"}), "driver = \"perl\""),
        (json!({"driver": "python3,java", "path": "/tmp"}), "one driver for each load"),
        (
            json!({"exhook.drivers": "python3,python3", "path": "/tmp"}),
            "names python3 and python3: load exhook once more",
        ),
        (json!({"driver": "java", "path": "/tmp"}), "there is no /plugins/grapnel-exhook.jar: build it"),
        (json!({"driver": "python3"}), "path is missing"),
        (json!({"driver": "python3", "path": "/no/such"}), "there is no /no/such"),
        (json!({"driver": "python3", "path": "/tmp", "pool_size": 0}), "pool_size = 0"),
        (json!({"driver": "python3", "path": "/tmp", "clients_max": 0}), "clients_max = 0"),
        (json!({"driver": "python3", "path": "/tmp", "queue_max": 0}), "queue_max = 0: must be at least 2"),
        (json!({"driver": "python3", "path": "/tmp", "queue_max": 1}), "queue_max = 1: must be at least 2"),
        (
            json!({"driver": "python3", "path": "/tmp", "queue_bytes_max": 65_535}),
            "queue_bytes_max = 65535: must be at least 65536",
        ),
        (json!({"driver": "python3", "path": "/tmp", "client_queue_max": 0}), "client_queue_max = 0"),
        (
            json!({"driver": "python3", "path": "/tmp", "client_queue_bytes_max": 0}),
            "client_queue_bytes_max = 0: must be at least 65536",
        ),
        (
            json!({"driver": "python3", "path": "/tmp", "address_queue_max": 1}),
            "address_queue_max = 1: must be at least 2",
        ),
        (
            json!({"driver": "python3", "path": "/tmp", "address_queue_bytes_max": 65_535}),
            "address_queue_bytes_max = 65535: must be at least 65536",
        ),
        (json!({"driver": "python3", "path": "/tmp", "call_timeout": "soon"}), "call_timeout = \"soon\""),
        (json!({"driver": "python3", "path": "/tmp", "call_timeout": "0s"}), "call_timeout"),
        (json!({"driver": "python3", "path": "/tmp", "farewell_timeout": "61m"}), "farewell_timeout"),
        (json!({"driver": "python3", "path": "/tmp", "working_directory": "/no/such"}), "no folder /no/such"),
        (json!({"driver": "java", "path": "/tmp", "java_jar": "/a:."}), "java_jar: /a:. has a `:`"),
        (with_environment("=x"), "\"=x\" is neither NAME nor NAME=value"),
        (with_environment(""), "\"\" is neither NAME nor NAME=value"),
        (with_environment("A=\0"), "is neither NAME nor NAME=value"),
        (with_environment("GRAPNEL_STATE_DIR"), "GRAPNEL_STATE_DIR is the broker's own"),
        (with_environment("GRAPNEL_X=1"), "GRAPNEL_X is the broker's own"),
    ] {
        let error = read(value.clone()).unwrap_err();
        assert!(error.contains(expected), "{value}: {error}");
    }
}
