//! Tests of the API with real engines. Each engine has a thread that runs its jobs and moves its
//! envelopes. Clients are simulated by their bytes.

use std::ffi::c_void;
use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Wake, Waker};
use std::thread::Thread;

use grapnel_engine::hook::{ChainTable, Entry, FaultPolicy, HookPoint, Link, LinkIdentity, PluginHandle};
use grapnel_engine::id::ConnKey;
use grapnel_engine::limits::Limits;
use grapnel_engine::shard::{Ended, Input, Lane, ListenerInfo, Next, Peer, Setup, Shard};
use grapnel_engine::time::Now;
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{APPEND, Change, Event, Field, Flow, Slice, Ticket};

use super::*;

/// Engines that run until this is dropped.
struct Engines {
    handles: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Engines {
    fn start(count: u8, limits: Limits) -> Engines {
        let handles: Vec<ShardHandle> = (0..count).map(|id| ShardHandle::new(ShardId(id))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let limits = Arc::new(limits);
        let threads = handles.iter().map(|handle| {
            let setup = Setup {
                id: handle.id(),
                shards: usize::from(count),
                limits: limits.clone(),
                no_match_allow: true,
                keys: [1, 2, 3, 4],
                seed: 5,
            };
            let (handle, all, stop) = (handle.clone(), handles.clone(), stop.clone());
            std::thread::spawn(move || run(Shard::new(setup), &handle, &all, &stop))
        });
        let threads = threads.collect();
        Engines { handles, threads, stop }
    }

    fn on<R: Send + 'static>(&self, shard: usize, work: impl FnOnce(&mut Shard) -> R + Send + 'static) -> R {
        self.handles[shard].call(Duration::from_secs(10), work).unwrap()
    }

    /// Connects an MQTT 5 client on its home shard and sends further bytes.
    fn client(&self, id: &str, more: &[u8]) -> (usize, ConnKey) {
        let mut packet = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 5, 0x11, 0, 0, 1, 0];
        packet.extend((id.len() as u16).to_be_bytes());
        packet.extend(id.as_bytes());
        let mut bytes = vec![0x10, packet.len() as u8];
        bytes.extend(packet);
        bytes.extend(more);
        let mut shard = 0;
        for _ in 0..2 {
            let bytes = bytes.clone();
            let (key, next) = self.on(shard, move |engine| {
                let key = engine.open(peer()).unwrap();
                (key, engine.receive(key, Input::Scratch(&bytes)).next)
            });
            match next {
                Next::Handoff(home) => shard = home.index(),
                Next::Read => return (shard, key),
                other => panic!("{other:?}"),
            }
        }
        panic!("a client has one home");
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handles.iter().for_each(ShardHandle::wake);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn run(mut engine: Shard, handle: &ShardHandle, all: &[ShardHandle], stop: &AtomicBool) {
    handle.signal().register(Waker::from(Arc::new(Unpark(std::thread::current()))));
    let mut mono_ms = 0;
    while !stop.load(Ordering::Acquire) {
        handle.signal().lower();
        mono_ms += 1;
        engine.advance(Now { mono_ms, wall_ms: 1_000_000 + mono_ms });
        while let Some(job) = handle.next_job() {
            job(&mut engine);
        }
        let from = handle.id();
        for to in all.iter().filter(|to| to.id() != from) {
            let mut batch = Vec::new();
            engine.outbox().take_batch(to.id(), Lane::Control, 1000, &mut batch);
            engine.outbox().take_batch(to.id(), Lane::Data, 1000, &mut batch);
            for envelope in batch {
                to.submit(Box::new(move |other| other.envelope(from, envelope)));
            }
        }
        if !handle.signal().is_raised() {
            // An earlier unpark is not lost.
            std::thread::park();
        }
    }
}

fn peer() -> Peer {
    let listener =
        Arc::new(ListenerInfo { name: "tests".into(), allow_anonymous: true, ..ListenerInfo::default() });
    let [peer, local] =
        ["127.0.0.1:5000", "127.0.0.1:1883"].map(|address| address.parse::<SocketAddr>().ok());
    Peer::new(listener, peer, local)
}

/// SUBSCRIBE to one filter at QoS 1.
fn subscribe(filter: &str) -> Vec<u8> {
    let mut bytes = vec![0x82, filter.len() as u8 + 6, 0, 1, 0, 0, filter.len() as u8];
    bytes.extend(filter.as_bytes());
    bytes.push(1);
    bytes
}

const PINGREQ: [u8; 2] = [0xC0, 0];
/// QoS 0, to the topic t.
const PUBLISH: [u8; 6] = [0x30, 4, 0, 1, b't', 0];

fn plane(shards: u8) -> (Engines, ControlPlane) {
    plane_with(shards, |_| {})
}

fn plane_with(shards: u8, change: impl FnOnce(&mut Config)) -> (Engines, ControlPlane) {
    let engines = Engines::start(shards, Limits { trace_lines_max: 4, ..Limits::default() });
    let plane = ControlPlane::before(engines.handles.clone(), |config| {
        config.control.answer_timeout = Duration::from_secs(10);
        change(config);
    });
    (engines, plane)
}

#[test]
fn clients_of_all_shards_are_listed_in_pages_each_once() {
    let (engines, plane) = plane(3);
    let mut expected: Vec<String> = (0..25).map(|n| format!("client/{n}")).collect();
    let homes: Vec<usize> = expected.iter().map(|id| engines.client(id, &[]).0).collect();
    assert!(homes.contains(&0) && homes.contains(&2), "they are spread: {homes:?}");
    let mut found = Vec::new();
    let mut path = "/api/v1/clients?limit=4".to_owned();
    for page in 0.. {
        assert!(page < 26, "the pages do not end");
        let (status, body) = plane.get(&path);
        assert_eq!(status, 200);
        let rows = body["clients"].as_array().unwrap();
        assert!(rows.len() <= 4);
        found.extend(rows.iter().map(|row| row["client_id"].as_str().unwrap().to_owned()));
        match body["next"].as_str() {
            Some(next) => path = format!("/api/v1/clients?limit=4&cursor={next}"),
            None => break,
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let (_, status) = plane.get("/api/v1/status");
    assert_eq!((&status["connections"], &status["shards"][2]["shard"]), (&json!(25), &json!(2)));
}

#[test]
fn a_client_is_shown_with_any_characters_in_its_identifier() {
    let (engines, plane) = plane(2);
    let (home, _) = engines.client("a/b ü", &subscribe("x/+"));
    let (status, body) = plane.get("/api/v1/clients/a%2Fb%20%C3%BC");
    assert_eq!(status, 200, "{body}");
    assert_eq!((&body["client_id"], &body["shard"]), (&json!("a/b ü"), &json!(home)));
    assert_eq!((&body["listener"], &body["peer"]), (&json!("tests"), &json!("127.0.0.1:5000")));
    assert_eq!(
        (&body["keep_alive_s"], &body["expiry_s"], &body["protocol"]),
        (&json!(60), &json!(256), &json!(5))
    );
    let missing = json!({"error": "there is no client \"b\", neither connected nor with a stored session"});
    assert_eq!(plane.get("/api/v1/clients/b"), (404, missing));
}

#[test]
fn kicking_disconnects_and_discarding_ends_the_session() {
    let (engines, plane) = plane(2);
    engines.client("c", &[]);
    assert_eq!(
        plane.request("DELETE", "/api/v1/clients/c"),
        (200, json!({"client_id": "c", "discarded": false}))
    );
    assert_eq!(plane.get("/api/v1/clients/c").1["connected"], json!(false));
    let (status, body) = plane.request("DELETE", "/api/v1/clients/c");
    assert_eq!(status, 409);
    assert_eq!(
        body,
        json!({"error": "client \"c\" is not connected, only its session is stored; discard ends that"})
    );
    assert_eq!(plane.request("DELETE", "/api/v1/clients/c?discard=true").0, 200);
    assert_eq!(plane.get("/api/v1/clients/c").0, 404);
    assert_eq!(plane.request("DELETE", "/api/v1/clients/c?discard=true").0, 404);
}

#[test]
fn subscriptions_are_listed_for_all_and_for_one() {
    let (engines, plane) = plane(2);
    engines.client("one", &[subscribe("a/#"), subscribe("$share/g/b")].concat());
    engines.client("two", &subscribe("a/#"));
    let rows = |path: &str| {
        let (status, body) = plane.get(path);
        assert_eq!(status, 200, "{body}");
        let mut rows: Vec<(String, String)> = body["subscriptions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (row["client_id"].as_str().unwrap().to_owned(), row["filter"].as_str().unwrap().to_owned())
            })
            .collect();
        rows.sort();
        rows
    };
    let own = |id: &str, filter: &str| (id.to_owned(), filter.to_owned());
    let expected = [own("one", "$share/g/b"), own("one", "a/#"), own("two", "a/#")];
    // The second SUBSCRIBE is answered only when the other shard has the filter of the first.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while rows("/api/v1/subscriptions").len() < expected.len() && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(rows("/api/v1/subscriptions"), expected);
    assert_eq!(rows("/api/v1/subscriptions?client_id=one"), expected[..2]);
    // A page may exceed its limit, because it does not split a session. The next page continues
    // after it.
    let mut paged = Vec::new();
    let mut path = "/api/v1/subscriptions?limit=1".to_owned();
    for _ in 0..3 {
        paged.extend(rows(&path));
        let Some(next) = plane.get(&path).1["next"].as_str().map(str::to_owned) else { break };
        path = format!("/api/v1/subscriptions?limit=1&cursor={next}");
    }
    paged.sort();
    assert_eq!(paged, expected);
}

#[test]
fn metrics_are_sums_over_the_shards() {
    let (engines, plane) = plane(2);
    for n in 0..8 {
        engines.client(&format!("m{n}"), &PINGREQ);
    }
    let (_, body) = plane.get("/api/v1/metrics");
    let metric = |name: &str| {
        body["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == name).unwrap().clone()
    };
    let pings = metric("packets_pingreq_received");
    assert_eq!((&pings["value"], &pings["gauge"]), (&json!(8), &json!(false)));
    let by_shard: u64 = pings["shards"].as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).sum();
    assert_eq!(by_shard, 8);
    assert_eq!(metric("connections_count")["gauge"], json!(true));
    let text = |path: &str| {
        let mut stream = plane.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        answer(&mut stream).1
    };
    let all = text("/metrics");
    assert!(
        all.contains(
            "\n# TYPE grapnel_packets_pingreq_received counter\ngrapnel_packets_pingreq_received 8\n"
        ),
        "{all}"
    );
    assert!(all.contains("# TYPE grapnel_connections_count gauge\ngrapnel_connections_count 8\n"), "{all}");
    let split = text("/metrics?per_shard=true");
    assert!(split.contains("grapnel_packets_pingreq_received{shard=\"0\"} "), "{split}");
    for line in all.lines() {
        let sound = line.starts_with("# HELP grapnel_") || line.starts_with("# TYPE grapnel_");
        let sample = line.starts_with("grapnel_")
            && line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<u64>().is_ok());
        assert!(sound || sample, "{line}");
    }
}

/// A running trace whose response head has been read.
fn trace(plane: &ControlPlane, path: &str) -> std::io::BufReader<UnixStream> {
    let mut stream = plane.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut reader = std::io::BufReader::new(stream);
    let mut head = String::new();
    reader.read_line(&mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    while head.trim() != "" {
        head.clear();
        reader.read_line(&mut head).unwrap();
    }
    reader
}

/// The next line of JSON. The lines between are chunk lengths.
fn next_line(reader: &mut impl BufRead) -> Value {
    for _ in 0..100 {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the trace is over");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
    panic!("no line of JSON");
}

#[test]
fn a_trace_begins_before_its_client_connects_and_ends_at_its_packet_count() {
    let (engines, plane) = plane(2);
    let mut reader = trace(&plane, "/api/v1/trace/t?count=3");
    let (home, _) = engines.client("t", &PINGREQ);
    let lines: Vec<Value> = (0..3).map(|_| next_line(&mut reader)).collect();
    let packets: Vec<&str> = lines.iter().map(|line| line["packet"].as_str().unwrap()).collect();
    assert!(packets[0].starts_with("CONNECT v5") && packets[1].starts_with("CONNACK"), "{packets:?}");
    assert_eq!(
        (packets[2], &lines[2]["direction"], &lines[2]["shard"]),
        ("PINGREQ", &json!("in"), &json!(home))
    );
    assert_eq!(next_line(&mut reader), json!({"ended": "the limit of 3 packets is reached"}));
}

#[test]
fn a_trace_reports_lost_lines_before_the_stored_ones() {
    let (engines, plane) = plane(1);
    let (_, key) = engines.client("t", &[]);
    let mut reader = trace(&plane, "/api/v1/trace/t?count=4");
    // One job, so that no lines are collected between the packets: ten in and ten out, of which
    // trace_lines_max = 4 are stored.
    engines.on(0, move |engine| engine.receive(key, Input::Scratch(&PINGREQ.repeat(10))));
    assert_eq!(next_line(&mut reader), json!({"lost": 16}));
    assert_eq!(next_line(&mut reader)["packet"], json!("PINGREQ"));
}

#[test]
fn a_client_has_one_trace_and_the_number_of_traces_is_limited() {
    let (_engines, plane) = plane_with(1, |config| config.control.traces_max = 2);
    let _first = trace(&plane, "/api/v1/trace/a");
    let again = json!({"error": "client \"a\" is being traced already; end that trace first"});
    assert_eq!(plane.get("/api/v1/trace/a"), (409, again));
    let _second = trace(&plane, "/api/v1/trace/b");
    let full = json!({"error": "no more than 2 clients can be traced at a time (control.traces_max)"});
    assert_eq!(plane.get("/api/v1/trace/c"), (429, full));
}

#[test]
fn a_trace_ends_on_the_shard_when_its_reader_disconnects() {
    let (_engines, plane) = plane_with(1, |config| config.control.traces_max = 1);
    let reader = trace(&plane, "/api/v1/trace/a");
    drop(reader);
    // The slot is free as soon as the end has been noticed.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut stream = plane.connect();
        write!(stream, "GET /api/v1/trace/a?for_s=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let (status, body) = answer(&mut stream);
        if status == 200 {
            assert!(body.contains("{\"ended\":\"1 s are over\"}"), "{body}");
            return;
        }
        assert!(Instant::now() < deadline, "the trace goes on without a reader: {body}");
    }
}

/// Traces a client that sends without a pause, to a reader that `read` has read from time to time,
/// until the trace has ended and its place is free.
fn expect_trace_to_end(stall_timeout: Duration, mut read: impl FnMut(&mut UnixStream)) {
    let engines = Engines::start(1, Limits { trace_lines_max: 10_000, ..Limits::default() });
    let plane = ControlPlane::before(engines.handles.clone(), |config| {
        config.control.answer_timeout = Duration::from_secs(10);
        config.control.traces_max = 1;
        config.control.stall_timeout = stall_timeout;
    });
    let (_, key) = engines.client("a", &[]);
    let mut reader = trace(&plane, "/api/v1/trace/a?count=1000000");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Some hundred kilobytes of lines, which soon exceed the socket buffer. A PUBLISH of QoS 0
        // needs no answer, which would wait for the client.
        engines.on(0, move |engine| engine.receive(key, Input::Scratch(&PUBLISH.repeat(5000))).consumed);
        read(reader.get_mut());
        let (status, body) = plane.get("/api/v1/trace/b?for_s=1");
        if status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "its place is not free again: {body}");
    }
    // Lines already in the socket arrive, then the connection ends. The last line and the last
    // chunk were never written.
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("ended"), "{rest}");
}

#[test]
fn a_trace_whose_reader_stops_reading_ends_and_frees_its_connection() {
    expect_trace_to_end(Duration::from_millis(200), |_| ());
}

/// The same if the reader takes enough for its connection to stay open, and less than is traced.
#[test]
fn a_trace_whose_reader_is_too_slow_ends_and_frees_its_connection() {
    let mut read_at = Instant::now();
    expect_trace_to_end(Duration::from_millis(500), |stream| {
        // The lines of one call are some times as much. The kernel passes on nothing before three
        // quarters of the socket's buffer are empty.
        if read_at.elapsed() >= Duration::from_millis(125) {
            assert!(stream.read(&mut [0; 96 << 10]).unwrap() > 0);
            read_at = Instant::now();
        }
    });
}

#[test]
fn stopping_ends_traces_with_a_reason() {
    let (_engines, mut plane) = plane(1);
    let mut reader = trace(&plane, "/api/v1/trace/a");
    plane.server.take().unwrap().stop();
    assert_eq!(next_line(&mut reader), json!({"ended": "the broker stops"}));
}

#[test]
fn a_stored_session_is_listed_as_disconnected() {
    let (engines, plane) = plane(1);
    let (_, key) = engines.client("s", &[]);
    engines.on(0, move |engine| engine.closed(key, Ended::ByPeer));
    let (_, body) = plane.get("/api/v1/clients");
    assert_eq!(
        (&body["clients"][0]["connected"], &body["clients"][0]["peer"]),
        (&json!(false), &json!(null))
    );
}

#[test]
fn ctl_can_call_each_route_of_the_api() {
    let (engines, plane) = plane(2);
    engines.client("c1", &subscribe("x"));
    assert!(plane.dir.path().exists());
    crate::ctl::check_against(&plane.socket);
}

/// The rules of the test: 0 allows everything, 1 denies topics that begin with `no`, 2 also defers
/// all others without an answer.
static RULES: AtomicU8 = AtomicU8::new(0);

/// A hook at client.authorize.
unsafe extern "C" fn rules(_: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: the event, its topic and its context are alive during the call.
    unsafe {
        let rules = RULES.load(Ordering::Acquire);
        let denied = rules > 0 && (*event).topic.text().starts_with("no");
        if rules == 2 && !denied {
            let mut ticket = Ticket(0);
            (host_api(1, 1).defer)((*event).ctx, 0, &mut ticket);
            return Flow::DEFER;
        }
        let number = if denied { 2 } else { 1 };
        let change =
            Change { field: Field::VERDICT, index: APPEND, number, bytes: Slice::EMPTY, key: Slice::EMPTY };
        (host_api(1, 1).set)((*event).ctx, &change);
    }
    Flow::CONTINUE
}

fn authorizer() -> ChainTable {
    let link = Link {
        // SAFETY: the function does not use its instance pointer.
        entry: unsafe { Entry::new(rules, std::ptr::null_mut()) },
        plugin: PluginHandle(1),
        identity: LinkIdentity(1),
        name: "rules/authorize".into(),
        priority: 0,
        deadline_ms: 600_000,
        policy: FaultPolicy::Deny,
        topics: None,
        deliver: false,
        bit: 0,
    };
    ChainTable::compile(1, [(HookPoint::ClientAuthorize, link)])
}

/// The answer waits until every shard has rechecked its subscriptions, but at most as long as a
/// shard may take to answer. After that it reports the count so far.
#[test]
fn the_answer_to_an_invalidation_counts_revoked_subscriptions() {
    let (engines, plane) = plane_with(2, |config| config.control.answer_timeout = Duration::from_secs(60));
    (0..2).for_each(|shard| drop(engines.on(shard, |engine| engine.swap_chains(authorizer()))));
    let subscribers = |of: std::ops::Range<usize>| {
        for n in of {
            engines
                .client(&format!("c{n}"), &[subscribe("no/1"), subscribe("yes"), subscribe("no/2")].concat());
        }
    };
    subscribers(0..10);
    let invalidate =
        |plane: &ControlPlane| plane.request("POST", "/api/v1/authz/invalidate").1["revoked"].clone();
    assert_eq!(invalidate(&plane), json!({"subscriptions": 0, "complete": true}));
    RULES.store(1, Ordering::Release);
    assert_eq!(invalidate(&plane), json!({"subscriptions": 20, "complete": true}));
    assert_eq!(invalidate(&plane), json!({"subscriptions": 0, "complete": true}));

    RULES.store(0, Ordering::Release);
    subscribers(10..12);
    let hasty = ControlPlane::before(engines.handles.clone(), |config| {
        config.control.answer_timeout = Duration::from_millis(300)
    });
    RULES.store(2, Ordering::Release);
    // The count so far depends on how far the shards have come.
    let answer = invalidate(&hasty);
    assert_eq!(answer["complete"], json!(false), "{answer}");
    assert!(answer["subscriptions"].as_u64().is_some_and(|count| count <= 4), "{answer}");
}
