//! Tests of the API over real sockets, with shards that answer and shards that do not.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::ListenerInfo;
use serde_json::{Value, json};

use super::*;
use crate::config::{CliOverrides, Config, Environment, NoMatch};
use crate::net::ListenerRules;
use crate::plugin::Settings;
use crate::reload::{ReloadContext, RunningListener};

mod engine;

/// A control plane in a folder of its own.
struct ControlPlane {
    server: Option<ControlServer>,
    socket: PathBuf,
    handles: Vec<ShardHandle>,
    dir: tempfile::TempDir,
}

impl ControlPlane {
    /// A control plane with shards that do not run, and with changes to the configuration.
    fn with_silent_shards(count: u8, change: impl FnOnce(&mut Config)) -> ControlPlane {
        let handles: Vec<ShardHandle> = (0..count).map(|id| ShardHandle::new(ShardId(id))).collect();
        ControlPlane::before(handles, change)
    }

    fn before(handles: Vec<ShardHandle>, change: impl FnOnce(&mut Config)) -> ControlPlane {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(&Environment { uid: 0, cores: 1, ..Environment::default() });
        config.control.socket = dir.path().join("g.sock");
        config.control.answer_timeout = Duration::from_millis(50);
        config.state_dir = dir.path().join("state");
        config.plugins_dir = dir.path().join("plugins");
        change(&mut config);
        let socket = config.control.socket.clone();
        let server = start(context(&handles, config)).unwrap();
        ControlPlane { server: Some(server), socket, handles, dir }
    }

    fn connect(&self) -> UnixStream {
        bounded(UnixStream::connect(&self.socket).unwrap())
    }

    fn request(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        json_answer(&mut stream)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.request("GET", path)
    }
}

fn context(handles: &[ShardHandle], config: Config) -> ControlContext {
    let info = BrokerInfo { started_at_ms: 1, io: "epoll", allocations: None };
    let settings = Settings { record: None, copies_dir: None, ..Settings::of(&config, handles.to_vec()) };
    let plugins = Arc::new(PluginManager::new(settings).unwrap());
    let address: std::net::SocketAddr = "127.0.0.1:1883".parse().unwrap();
    let listener = ListenerInfo { name: "a".into(), allow_anonymous: true, ..ListenerInfo::default() };
    let rules = Arc::new(ListenerRules::plain(Arc::new(listener)));
    let reloader = Arc::new(Reloader::new(ReloadContext {
        cli: CliOverrides { config: config.file.clone(), ..CliOverrides::default() },
        environment: Environment { uid: 0, cores: 1, ..Environment::default() },
        shards: handles.to_vec(),
        plugins: Arc::clone(&plugins),
        level: crate::log::Level::fixed(),
        config: Arc::new(config),
        open: vec![RunningListener { address: address.into(), rules }],
        requests: std::sync::mpsc::sync_channel(1).0,
    }));
    ControlContext { shards: handles.to_vec(), plugins, reloader, info }
}

fn bounded(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn answer(stream: &mut impl Read) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

fn json_answer(stream: &mut impl Read) -> (u16, Value) {
    let (status, body) = answer(stream);
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

#[test]
fn missing_resources_are_answered_in_json() {
    let plane = ControlPlane::with_silent_shards(1, |_| {});
    let expected =
        json!({"error": "there is nothing at /api/v2; the API is under /api/v1, metrics are at /metrics"});
    assert_eq!(plane.get("/api/v2"), (404, expected));
    assert_eq!(
        plane.request("PUT", "/api/v1/status"),
        (405, json!({"error": "/api/v1/status does not take PUT"}))
    );
}

#[test]
fn a_shard_that_does_not_answer_is_named_after_a_timeout() {
    let plane = ControlPlane::with_silent_shards(2, |_| {});
    let began = Instant::now();
    let (status, body) = plane.get("/api/v1/status");
    assert_eq!(status, 200);
    assert_eq!(body["shards"], json!([]));
    assert_eq!(body["unanswered"][1]["shard"], 1);
    let error = body["unanswered"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("shard 1 did not answer within 50 ms"), "{error}");
    assert_eq!(body["listeners"][0]["address"], "127.0.0.1:1883");
    let (_, body) = plane.get("/api/v1/clients");
    assert_eq!(body["unanswered"].as_array().unwrap().len(), 2);
    let (status, body) = plane.get("/api/v1/clients/x");
    assert_eq!(status, 504);
    assert!(body["error"].as_str().unwrap().starts_with("shard 0 did not answer"));
    assert_eq!(plane.get("/api/v1/trace/x").0, 504);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn metrics_say_which_shard_is_missing() {
    let plane = ControlPlane::with_silent_shards(1, |_| {});
    let mut stream = plane.connect();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let (status, text) = answer(&mut stream);
    assert_eq!(status, 200);
    assert!(text.contains("grapnel_shard_answered{shard=\"0\"} 0\n"), "{text}");
}

#[test]
fn invalid_parameters_are_refused_with_a_sentence() {
    let plane = ControlPlane::with_silent_shards(1, |_| {});
    let cases = [
        ("/api/v1/clients?limit=0", "limit must be between 1 and 1000, not 0"),
        ("/api/v1/clients?cursor=x", "\"x\" is no cursor; pass on what \"next\" said"),
        ("/api/v1/trace/x?count=0", "count must be between 1 and 1000000, not 0"),
        ("/api/v1/trace/x?for_s=99999999", "for_s must be between 1 and 86400, not 99999999"),
    ];
    for (path, sentence) in cases {
        assert_eq!(plane.get(path), (400, json!({ "error": sentence })));
    }
    let (status, body) = plane.get("/api/v1/clients?limits=3");
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("unknown field `limits`"), "{body}");
    let kick = plane.request("DELETE", "/api/v1/clients/x?reason=4");
    let sentence = "reason must be a reason code of MQTT 5 from 128 up such as 152, not 4";
    assert_eq!(kick, (400, json!({ "error": sentence })));
    let (status, body) = plane.get(&format!("/api/v1/trace/{}", "x".repeat(1025)));
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("limits.client_id_bytes_max"), "{body}");
}

#[test]
fn a_second_broker_is_refused_the_socket_until_the_first_has_ended() {
    let mut plane = ControlPlane::with_silent_shards(1, |_| {});
    let mut config = Config::defaults(&Environment::default());
    config.control.socket.clone_from(&plane.socket);
    config.shell_limits.start_retry_ms = 0;
    let error = start(context(&plane.handles, config.clone())).unwrap_err().to_string();
    let another = format!("another broker (process {}) uses it", std::process::id());
    assert!(error.contains(&another), "{error}");
    assert_eq!(config.authorization.no_match, NoMatch::Allow);
    plane.server.take().unwrap().stop();
    assert!(!plane.socket.exists());
    start(context(&plane.handles, config)).unwrap().stop();
}

#[test]
fn a_stop_does_not_wait_for_idle_connections_or_silent_shards() {
    let mut plane =
        ControlPlane::with_silent_shards(1, |config| config.control.answer_timeout = Duration::from_secs(60));
    let _idle = plane.connect();
    let mut pending = plane.connect();
    write!(pending, "GET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let began = Instant::now();
    plane.server.take().unwrap().stop();
    assert!(began.elapsed() < STOP_TIMEOUT + Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Sends a request without its body. It is running until the stream is dropped.
fn incomplete_request(plane: &ControlPlane) -> UnixStream {
    let mut stream = plane.connect();
    write!(
        stream,
        "POST /api/v1/plugins HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
    )
    .unwrap();
    // The server has requested the body, so the request is running.
    stream.read_exact(&mut [0; 25]).unwrap();
    stream
}

#[test]
fn connections_over_the_limit_wait_unless_an_idle_one_can_be_closed() {
    let plane = ControlPlane::with_silent_shards(0, |config| config.control.connections_max = 1);
    let first = incomplete_request(&plane);
    let mut second = plane.connect();
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    write!(second, "GET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut head = [0; 12];
    assert!(second.read_exact(&mut head).is_err(), "the one place is taken");
    first.shutdown(Shutdown::Both).unwrap();
    let mut second = bounded(second);
    second.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    // The second connection is idle now and is closed for the new one.
    assert_eq!(plane.get("/api/v1/status").0, 200);
    second.read_to_end(&mut Vec::new()).expect("it is closed");
}

#[test]
fn an_unfinished_request_is_closed_after_its_timeout() {
    let plane = ControlPlane::with_silent_shards(0, |config| {
        config.control.request_timeout = Duration::from_millis(100);
    });
    let mut half = incomplete_request(&plane);
    let (status, body) = json_answer(&mut half);
    let sentence = "the request body did not arrive within 100 ms (control.request_timeout_ms)";
    assert_eq!((status, body), (408, json!({ "error": sentence })));
    let mut head = plane.connect();
    write!(head, "GET /api/v1/status HT").unwrap();
    assert_eq!(head.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn an_answer_that_is_not_read_is_abandoned_and_counted() {
    let plane = ControlPlane::with_silent_shards(0, |config| {
        config.control.stall_timeout = Duration::from_millis(100);
    });
    let count = || {
        let (_, body) = plane.get("/api/v1/metrics");
        let rows = body["metrics"].as_array().unwrap().clone();
        let row = rows.iter().find(|row| row["name"] == "control_connections_stalled").unwrap();
        row["value"].as_u64().unwrap()
    };
    let before = count();
    let mut deaf = plane.connect();
    // Sends requests without reading the answers, until the socket is full and the server stops
    // reading.
    let request = b"GET /api/v1/metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let closed = (0..1000).find_map(|_| deaf.write_all(&request).err()).expect("it is closed");
    assert!(
        matches!(closed.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset),
        "{closed}"
    );
    assert_eq!(count(), before + 1);
}

#[test]
fn traces_and_plugin_changes_leave_connections_for_others() {
    let plane = ControlPlane::with_silent_shards(0, |config| {
        config.control.connections_max = 3;
        config.control.connections_free_min = 2;
    });
    let mut trace = plane.connect();
    write!(trace, "GET /api/v1/trace/x HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    trace.read_exact(&mut [0; 12]).unwrap();
    for (status, body) in [plane.get("/api/v1/trace/y"), plane.request("DELETE", "/api/v1/plugins/tap")] {
        assert_eq!(status, 503);
        let error = body["error"].as_str().unwrap();
        assert!(
            error.starts_with("no more than 1 of traces, changes and verbs of plugins can run"),
            "{error}"
        );
    }
    assert_eq!(plane.get("/api/v1/status").0, 200);
    drop(trace);
    let until = Instant::now() + Duration::from_secs(10);
    while plane.request("DELETE", "/api/v1/plugins/tap").0 != 404 {
        assert!(Instant::now() < until, "the place of the trace is not free again");
    }
}

#[test]
fn the_same_api_is_on_tcp_but_not_for_web_pages() {
    let plane = ControlPlane::with_silent_shards(0, |config| {
        config.control.http_bind = Some("127.0.0.1:0".parse().unwrap());
    });
    let address = plane.server.as_ref().unwrap().http_address().unwrap();
    let request = |headers: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET /api/v1/status HTTP/1.1\r\n{headers}connection: close\r\n\r\n").unwrap();
        json_answer(&mut stream)
    };
    let (status, body) = request(&format!("host: {address}\r\n"));
    assert_eq!((status, &body["control_http"]), (200, &json!(address.to_string())));
    let (status, body) = request("host: localhost\r\norigin: http://localhost\r\n");
    assert_eq!(status, 403);
    assert_eq!(body, json!({"error": "requests of web pages are refused (they carry an Origin header)"}));
    assert_eq!(request("host: rebound.example.org\r\n").0, 403);
}

impl ControlPlane {
    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.connect();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        json_answer(&mut stream)
    }
}

#[test]
fn errors_of_the_plugin_manager_have_a_fitting_status_and_their_text() {
    let plane = ControlPlane::with_silent_shards(0, |_| {});
    let no_plugin = json!({"error": "no plugin named tap is loaded; loaded are: none"});
    assert_eq!(plane.get("/api/v1/plugins/tap"), (404, no_plugin.clone()));
    assert_eq!(plane.request("DELETE", "/api/v1/plugins/tap"), (404, no_plugin.clone()));
    assert_eq!(plane.post("/api/v1/plugins/tap/reload", ""), (404, no_plugin));
    let (status, body) = plane.post("/api/v1/plugins", r#"{"source": "tap"}"#);
    assert_eq!(status, 404);
    assert!(
        body["error"].as_str().unwrap().starts_with("there is no plugin named tap; looked for "),
        "{body}"
    );
    let file = plane.dir.path().join("no.so");
    std::fs::write(&file, "not a plugin").unwrap();
    let (status, body) = plane.post("/api/v1/plugins", &json!({"source": file, "once": true}).to_string());
    assert_eq!(status, 422, "{body}");
    let (status, _) = plane.post("/api/v1/plugins", r#"{"source": "tap", "config": 3}"#);
    assert_eq!(status, 400);
    let nothing = json!({"plugins": [], "retired": []});
    assert_eq!(plane.get("/api/v1/plugins"), (200, nothing));
}

#[test]
fn invalid_bodies_are_refused_and_large_ones_are_not_read() {
    let plane = ControlPlane::with_silent_shards(0, |config| config.control.request_bytes_max = 1024);
    let (status, body) = plane.post("/api/v1/plugins", r#"{"source": "tap", "prio": 3}"#);
    assert_eq!(status, 400);
    let error = body["error"].as_str().unwrap();
    assert!(error.starts_with("the request body is not what is expected: unknown field `prio`"), "{error}");
    assert_eq!(plane.post("/api/v1/plugins", "{").0, 400);
    let large = format!(r#"{{"source": "{}"}}"#, "x".repeat(2000));
    let expected = json!({"error": "the request body is larger than control.request_bytes_max"});
    assert_eq!(plane.post("/api/v1/plugins", &large), (413, expected));
}

#[test]
fn all_hook_points_are_listed_on_request() {
    let plane = ControlPlane::with_silent_shards(0, |_| {});
    assert_eq!(plane.get("/api/v1/hooks").1["rows"], json!([]));
    let (_, all) = plane.get("/api/v1/hooks?all=true");
    let points: Vec<&str> =
        all["rows"].as_array().unwrap().iter().map(|row| row["point"].as_str().unwrap()).collect();
    assert!(points.contains(&"message.publish") && points.contains(&"broker.stopped"), "{points:?}");
}
