//! A plugin for the tests of reloads, configurations and dependencies. The instance of each shard
//! counts its publishes, adds the count to each, and transfers the count in a reload. It depends on
//! the plugin noop. Its configuration selects what fails. With `pieces` the state is transferred in
//! pieces: the count, and entries of which each publish changes one.

mod pieces;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{
    ClientAction, Configured, Counter as Count, Error, Flow, HookCalls, HookId, HookPoint, Host, Mounting,
    OnBehalf, Pieces, Plugin, Publish, Session,
};
use pieces::Held;

/// Maximum time that `activate` waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// Number of requests at a time.
const REQUESTS: u64 = 5;

#[derive(serde::Deserialize, Clone, Default)]
#[serde(default)]
struct Config {
    /// Increment for each publish; 0 means 1.
    step: u64,
    /// Bytes of the state in addition to the count.
    pad_bytes: usize,
    /// Whether `export_state` and `import_state` report that there is no state.
    stateless: bool,
    /// The shard on which the transfer fails, and the side: `export` or `import`.
    fail: Option<Fail>,
    /// Any value other than the current one requires a reload.
    fixed: u64,
    /// `configure` fails with this text.
    refuse: Option<String>,
    /// A key only for the schema; at most 8 characters.
    #[allow(dead_code, reason = "the schema is what is tested")]
    password: Option<String>,
    /// Whether the state is transferred in pieces.
    pieces: bool,
    /// Number of entries of a new instance, and the bytes of each, at least 8.
    entries: u64,
    entry_bytes: usize,
    /// Whether the export of the entries never ends.
    endless: bool,
    /// Whether it mounts or unmounts a hook at each call of `configured` on shard 0.
    restless: bool,
    /// A folder: whenever the file `ask` appears there, a thread makes [`REQUESTS`] requests on
    /// behalf of a client, and writes how many were taken into the file `answer`.
    asks: Option<PathBuf>,
    /// Makes `activate` fail.
    fail_activate: bool,
    /// Makes `activate` wait until this version has counted this many publishes, and then fail.
    fail_activate_after: u64,
}

#[derive(serde::Deserialize, Clone)]
struct Fail {
    side: String,
    shard: u32,
    /// The first call that fails, counted from 1.
    call: u64,
}

struct Stateful {
    config: Mutex<Config>,
    /// Calls of `export_state` on all shards, to find the one that fails.
    calls: AtomicU64,
    /// Publishes counted by this version's instances.
    counted: AtomicU64,
    /// Number of calls of `configured`.
    told: Count,
    /// Of them, those that found the hook `ended` no longer called, and those that found it called
    /// again.
    ended_left: Count,
    ended_came: Count,
    mounted: Mutex<Option<HookId>>,
    host: Host,
}

struct Counter {
    plugin: Arc<Stateful>,
    shard: u32,
    step: u64,
    count: u64,
    held: Held,
}

impl Stateful {
    fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, side: &str, shard: u32) -> Result<(), Error> {
        let Some(fail) = self.config().fail.filter(|fail| fail.side == side && fail.shard == shard) else {
            return Ok(());
        };
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 >= fail.call {
            return Err(Error::new("failed as configured"));
        }
        Ok(())
    }
}

fn make_requests(host: Host, folder: &Path) {
    let (ask, answer) = (folder.join("ask"), folder.join("answer"));
    while !host.wait_stop(Duration::from_millis(2)) {
        if std::fs::remove_file(&ask).is_err() {
            continue;
        }
        let wish = ClientAction::Publish("t", 0, false);
        let taken = (0..REQUESTS)
            .filter(|number| host.authorize_as(OnBehalf::client("c"), wish, *number).is_ok())
            .count();
        let written = std::fs::write(folder.join("new"), taken.to_string());
        if let Err(error) = written.and_then(|()| std::fs::rename(folder.join("new"), &answer)) {
            host.error(format_args!("cannot write {}: {error}", answer.display()));
        }
    }
}

impl Plugin for Stateful {
    type Config = Config;
    type Shard = Counter;

    const DEPENDS: &'static [&'static str] = &["noop"];

    fn config_schema() -> Option<String> {
        let schema = r#"{
            "type": "object",
            "properties": {
                "step": {"type": "integer", "minimum": 0, "maximum": 1000000},
                "password": {"type": "string", "maxLength": 8}
            }
        }"#;
        Some(schema.to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<Stateful, Error> {
        let (calls, counted) = (AtomicU64::new(0), AtomicU64::new(0));
        let told = host.counter("told", "times that an instance was told to look again")?;
        let ended_left = host.counter("ended_left", "times that a hook was not called any more")?;
        let ended_came = host.counter("ended_came", "times that a hook was called again")?;
        if let Some(folder) = config.asks.clone() {
            host.spawn("asks", move |host| make_requests(host, &folder))?;
        }
        let (config, mounted) = (Mutex::new(config), Mutex::default());
        Ok(Stateful { config, calls, counted, told, ended_left, ended_came, mounted, host: *host })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<Counter, Error> {
        let config = self.config();
        if self.host.hook_calls(HookPoint::SessionTerminated, "ended").is_ok() {
            return Err(Error::new("which hooks are called is shown too early"));
        }
        let held = Held::new(&config, &self.host)?;
        Ok(Counter { plugin: Arc::clone(self), shard, step: config.step.max(1), count: 0, held })
    }

    fn pieces(counter: &mut Counter) -> Option<&mut dyn Pieces> {
        let in_pieces = counter.plugin.config().pieces;
        in_pieces.then_some(counter as &mut dyn Pieces)
    }

    fn activate(self: &Arc<Self>) -> Result<(), Error> {
        let config = self.config();
        let deadline = Instant::now() + PATIENCE;
        while self.counted.load(Ordering::Relaxed) < config.fail_activate_after && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let fails = config.fail_activate || config.fail_activate_after > 0;
        if fails { Err(Error::new("failed as configured")) } else { Ok(()) }
    }

    fn export_state(counter: &Counter) -> Result<Option<Vec<u8>>, Error> {
        counter.plugin.fail("export", counter.shard)?;
        let config = counter.plugin.config();
        if config.stateless {
            return Ok(None);
        }
        let mut state = counter.count.to_le_bytes().to_vec();
        state.resize(state.len() + config.pad_bytes, 0);
        Ok(Some(state))
    }

    fn import_state(counter: &mut Counter, state: &[u8]) -> Result<bool, Error> {
        counter.plugin.fail("import", counter.shard)?;
        if counter.plugin.config().stateless {
            return Ok(false);
        }
        let count = state.first_chunk().ok_or_else(|| Error::new("the state is too short"))?;
        counter.count = u64::from_le_bytes(*count);
        Ok(true)
    }

    fn configure(self: &Arc<Self>, config: Config) -> Result<Configured, Error> {
        if let Some(text) = config.refuse {
            return Err(Error::new(text));
        }
        let mut in_force = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if config.fixed != in_force.fixed {
            return Ok(Configured::Reload);
        }
        *in_force = config;
        Ok(Configured::Taken)
    }

    fn configured(self: &Arc<Self>, counter: &mut Counter) {
        counter.step = self.config().step.max(1);
        self.told.add_one();
        match self.host.hook_calls(HookPoint::SessionTerminated, "ended") {
            Ok(HookCalls { before: true, now: false }) => self.ended_left.add_one(),
            Ok(HookCalls { before: false, now: true }) => self.ended_came.add_one(),
            Ok(_) => {}
            Err(refused) => panic!("{refused}"),
        }
        if self.config().restless && counter.shard == 0 {
            let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
            *mounted = match mounted.take() {
                Some(hook) => self.host.unmount(hook).err().and(Some(hook)),
                None => self.host.mount::<Stateful>("began", &Mounting::new()).ok(),
            };
        }
    }
}

impl Counter {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Error> {
        self.count += self.step;
        self.plugin.counted.fetch_add(1, Ordering::Relaxed);
        message.add_user_property("count", &self.count.to_string())?;
        if self.plugin.config().pieces {
            self.change();
            message.add_user_property("sum", &self.held.sum().to_string())?;
        }
        Ok(Flow::Continue)
    }

    fn began(&mut self, _session: &mut Session<'_>) {}

    fn ended(&mut self, _session: &mut Session<'_>) {}
}

grapnel_plugin_abi::plugin!(Stateful {
    message.publish => Counter::publish,
    session.created(manual = true) => Counter::began,
    session.terminated => Counter::ended,
});
