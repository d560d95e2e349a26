//! Shards for the tests of the loader: threads that run the jobs of their handle and nothing else,
//! and that can be blocked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use grapnel::plugin::{LoadRequest, PluginManager, Settings};
use grapnel::shard::handle::ShardHandle;
use grapnel::shard::limits::ShellLimits;
use grapnel_engine::hook::{HookPoint, Link};
use grapnel_engine::id::ShardId;
use grapnel_engine::limits::Limits;
use grapnel_engine::shard::{Ended, Input, ListenerInfo, Peer, Setup, Shard};
use grapnel_engine::time::Now;
use serde_json::Value;

/// Long enough for a loaded machine.
pub const LONG: Duration = Duration::from_secs(20);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Threads in place of the shards of a broker.
pub struct FakeShards {
    pub handles: Vec<ShardHandle>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl FakeShards {
    pub fn start(count: usize) -> FakeShards {
        let stop = Arc::new(AtomicBool::new(false));
        let handles: Vec<_> = (0..count).map(|at| ShardHandle::new(ShardId(at as u8))).collect();
        let threads = handles.iter().map(|handle| {
            let (handle, stop) = (handle.clone(), Arc::clone(&stop));
            std::thread::spawn(move || run(&handle, count, &stop))
        });
        let threads = threads.collect();
        FakeShards { handles, stop, threads }
    }

    /// Blocks a shard until the returned value is dropped; returns once it is blocked.
    pub fn hold(&self, shard: usize) -> Sender<()> {
        let (release, held) = channel::<()>();
        let (holding, is_held) = channel();
        self.handles[shard].submit(Box::new(move |_| {
            let _ = holding.send(());
            // Ends when the other side is dropped.
            let _ = held.recv();
        }));
        is_held.recv_timeout(LONG).expect("the shard runs its jobs");
        release
    }

    /// The links of a point on a shard.
    pub fn links(&self, shard: usize, point: HookPoint) -> Vec<Link> {
        let links = self.handles[shard].call(LONG, move |engine| {
            engine.chains().chain(point).links().map(|(link, _)| link.clone()).collect()
        });
        links.expect("the shard answers")
    }

    /// Connects a client to a shard and publishes this many QoS 0 messages, through the engine and
    /// its chains.
    pub fn publish(&self, shard: usize, messages: usize) {
        self.publish_to(shard, "a", b"xy", messages);
    }

    /// The same with a given topic and payload, both short.
    pub fn publish_to(&self, shard: usize, topic: &'static str, payload: &'static [u8], messages: usize) {
        let done = self.handles[shard].call(LONG, move |engine| {
            let listener = Arc::new(ListenerInfo {
                name: "test".into(),
                allow_anonymous: true,
                ..ListenerInfo::default()
            });
            let address = SocketAddr::from(([127, 0, 0, 1], 40_000));
            let conn = engine.open(Peer::new(listener, address, address)).expect("a place is free");
            let mut bytes = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec();
            for _ in 0..messages {
                let rest = 2 + topic.len() + payload.len();
                bytes.extend_from_slice(&[0x30, rest as u8, 0, topic.len() as u8]);
                bytes.extend_from_slice(topic.as_bytes());
                bytes.extend_from_slice(payload);
            }
            let received = engine.receive(conn, Input::Scratch(&bytes));
            engine.closed(conn, Ended::ByPeer);
            received.consumed == bytes.len()
        });
        assert!(done.expect("the shard answers"), "every packet is taken");
    }

    /// Names of the links of message.publish on every shard, in order.
    pub fn chains(&self) -> Vec<Vec<String>> {
        (0..self.handles.len())
            .map(|shard| {
                let links = self.links(shard, HookPoint::MessagePublish);
                links.iter().map(|link| link.name.to_string()).collect()
            })
            .collect()
    }
}

fn run(handle: &ShardHandle, shards: usize, stop: &AtomicBool) {
    let setup = Setup {
        id: handle.id(),
        shards,
        limits: Arc::new(Limits::default()),
        no_match_allow: true,
        keys: [1, 2, 3, 4],
        seed: 5,
    };
    let mut shard = Shard::new(setup);
    shard.advance(Now { mono_ms: 1_000, wall_ms: 1_000_000 });
    handle.signal().register(Waker::from(Arc::new(Unpark(std::thread::current()))));
    loop {
        handle.signal().lower();
        while let Some(job) = handle.next_job() {
            job(&mut shard);
            for plugin in shard.outbox().tripped.drain(..) {
                grapnel::plugin::tripped(plugin, handle.id());
            }
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        if !handle.signal().is_raised() {
            std::thread::park();
        }
    }
}

impl Drop for FakeShards {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for handle in &self.handles {
            handle.wake();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A broker from the loader's point of view.
pub struct Fixture {
    pub manager: PluginManager,
    pub shards: FakeShards,
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new(shards: usize) -> Fixture {
        Fixture::with(shards, |_| {})
    }

    pub fn with(shards: usize, change: impl FnOnce(&mut Settings)) -> Fixture {
        Fixture::over(tempfile::tempdir().unwrap(), shards, change)
    }

    /// In the folder of an earlier one.
    pub fn over(dir: tempfile::TempDir, shards: usize, change: impl FnOnce(&mut Settings)) -> Fixture {
        let shards = FakeShards::start(shards);
        let mut settings = Settings {
            shards: shards.handles.clone(),
            plugins_dir: plugins_dir(),
            copies_dir: Some(dir.path().to_owned()),
            record: Some(dir.path().join("plugins.json")),
            answer_timeout: LONG,
            defer_deadline_ms: 5_000,
            retired_max: 1_000,
            state_bytes_max: 1 << 20,
            state_piece_bytes_max: 64 << 10,
            state_handover_timeout: LONG,
            limits: ShellLimits::default(),
            home_keys: [1, 2, 3, 4],
            message_limits: Arc::default(),
            listeners: Vec::new(),
            no_match_allow: true,
        };
        change(&mut settings);
        Fixture { manager: PluginManager::new(settings).unwrap(), shards, dir }
    }

    /// Loads a plugin permanently.
    pub fn load(&self, source: &str, config: Value) -> Result<grapnel::plugin::PluginInfo, String> {
        self.manager.load(request(source, config)).map_err(|error| error.to_string())
    }

    /// Names of the loaded plugins.
    pub fn loaded(&self) -> Vec<String> {
        self.manager.list().plugins.into_iter().map(|plugin| plugin.name).collect()
    }

    /// Ends this one, and returns the folder for the next.
    pub fn restart(self) -> tempfile::TempDir {
        self.manager.shutdown();
        self.dir
    }
}

pub fn request(source: &str, config: Value) -> LoadRequest {
    LoadRequest {
        source: source.to_owned(),
        name: None,
        config,
        merge: false,
        priority: None,
        once: false,
        required: false,
    }
}

/// The folder in which cargo puts the plugins of the workspace.
pub fn plugins_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST").to_owned()
}

/// The file of a plugin of the workspace.
pub fn plugin_file(name: &str) -> PathBuf {
    let file = plugins_dir().join(format!("libgrapnel_{}.so", name.replace('-', "_")));
    assert!(file.exists(), "{} is missing: build the workspace first, in the same profile", file.display());
    file
}

/// Collects the log of every thread while it exists.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Redirects the log to here; once per process.
    pub fn install() -> Log {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone());
        let _ = tracing::subscriber::set_global_default(subscriber.finish());
        log
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
