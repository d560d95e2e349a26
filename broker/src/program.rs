//! The process of the broker: reads the command line and the configuration, starts everything,
//! prints where it listens, and waits for the end. Called by the `main` of each broker program;
//! such a program adds only an allocator.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use grapnel_engine::hook::HookPoint;
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{ListenerInfo, Setup};
use grapnel_plugin_abi::counted;

use crate::announce::Announcer;
use crate::config::{CliOverrides, Config, ConfigErrors, Environment, NoMatch};
use crate::control::{self, BrokerInfo, ControlContext, CountAllocations, wire};
use crate::fatal;
use crate::lock;
use crate::log;
use crate::net::{self, Bound, Listen, ListenError};
use crate::plugin::{self, OpenListener, PluginManager, Settings};
use crate::preflight;
use crate::shard::heartbeat::Clock;
use crate::shard::supervise::{End, Shards, Signals};
use crate::usage;

/// An MQTT broker that people extend with hooks
#[derive(Debug, Parser)]
#[command(name = "grapnel", version)]
struct Cli {
    #[command(flatten)]
    overrides: CliOverrides,
    /// Check the configuration and exit. Checked are all keys and, for each plugin of the
    /// configuration: that its .so can be opened, its hooks, that the plugins it needs are there,
    /// and its configuration. No plugin is loaded, and files that a plugin reads itself, such as a
    /// password file, are not opened
    #[arg(long)]
    check_config: bool,
    /// Print a configuration file with every key, its unit and the reason for its default, and exit
    #[arg(long, conflicts_with = "check_config")]
    print_default_config: bool,
}

/// Why the broker did not start, and the exit code.
#[derive(Debug)]
struct Refusal {
    text: String,
    code: u8,
}

impl Refusal {
    fn new(code: u8, error: impl std::fmt::Display) -> Refusal {
        Refusal { text: error.to_string(), code }
    }
}

/// Exit code if a port, a socket, a thread or another resource is not available.
const EXIT_CODE_REFUSED: u8 = 1;

/// Runs a broker until it has ended, and returns the exit code of the process. `allocations` reads
/// the counters of the program's allocator, if it has any; `status` shows them.
pub fn main(allocations: Option<CountAllocations>) -> ExitCode {
    if let Some(code) = plugin::check::main_of_child() {
        return code;
    }
    die_with_parent();
    let cli: Cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if cli.print_default_config {
        say(&Config::default_text());
        return ExitCode::SUCCESS;
    }
    match run(&cli, allocations) {
        Ok(code) => ExitCode::from(code),
        Err(Refusal { text, code }) => {
            complain(&text);
            ExitCode::from(code)
        }
    }
}

fn run(cli: &Cli, allocations: Option<CountAllocations>) -> Result<u8, Refusal> {
    let environment = Environment::of_process();
    let config = Config::load(&cli.overrides, &environment)
        .map_err(|errors| Refusal::new(ConfigErrors::EXIT_CODE, errors))?;
    if cli.check_config {
        let sentences = plugin::check::check_configured(&config);
        if !sentences.is_empty() {
            return Err(Refusal::new(ConfigErrors::EXIT_CODE, ConfigErrors { sentences }));
        }
        say("the configuration is good\n");
        return Ok(0);
    }
    log::start(&config.log_level.to_string());
    fatal::install().map_err(|error| {
        Refusal::new(EXIT_CODE_REFUSED, format!("cannot install a handler of fatal signals: {error}"))
    })?;
    let signals = Signals::take().map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    let config = Arc::new(config);
    preflight::check(config.shards, config.shell_limits.descriptors_free_min)
        .map_err(|error| Refusal::new(preflight::EXIT_CODE, error))?;
    // Locked before the state is read, and until the process ends.
    let _state = lock::lock_state(&config.state_dir, start_retry(&config))
        .map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    let bound = bind_all(&config)?;
    let limits = Arc::new(config.shell_limits.clone());
    let clock = Clock::start();
    let name = plugin::name_of;
    let setups = setups(&config)?;
    let home_keys = setups.first().map_or([0; 4], |setup| setup.keys);
    let shards = Shards::start(setups, &limits, clock, Box::new(name))
        .map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    shards.handle_signals(signals).map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;

    let plugins = start_plugins(&config, &bound, &shards, home_keys)?;
    let listeners = bound.iter().map(|bound| bound.local.to_string()).collect();
    let announcer = Announcer::new(shards.handles(), clock, listeners);
    announcer.notify(HookPoint::BrokerStarting);
    let info = info(&bound, clock, allocations);
    let context = ControlContext {
        shards: shards.handles().to_vec(),
        plugins: Arc::clone(&plugins),
        config: Arc::clone(&config),
        info,
    };
    let control = control::start(context).map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    let ready = ready_lines(&config, &bound);
    for listener in bound {
        shards.listen(listener);
    }
    announcer.notify(HookPoint::BrokerStarted);
    say(&ready);

    let end = match shards.wait() {
        End::Signal(signal) => {
            tracing::info!("stops: signal {signal}");
            announcer.notify(HookPoint::BrokerStopping);
            let stopping = std::thread::spawn(move || control.stop());
            let timeout = Duration::from_millis(config.limits.drain_timeout_ms);
            // Time that plugins request to finish their work and to shut down their processes.
            let patience = plugins.patience();
            let last = move || {
                announcer.notify(HookPoint::BrokerStopped);
                plugins.shutdown();
            };
            let end = shards.drain(signal, timeout, patience, last);
            // The control thread logs its own errors.
            let _ = stopping.join();
            end
        }
        died => died,
    };
    if let End::Died { shard, cause } = &end {
        tracing::error!("shard {shard} {cause}; the broker cannot run without it, so the process ends");
    }
    Ok(end.exit_code())
}

/// Loads the configured plugins. Called before the listeners accept clients, because plugins decide
/// which clients may connect.
fn start_plugins(
    config: &Config,
    bound: &[Bound],
    shards: &Shards,
    home_keys: [u64; 4],
) -> Result<Arc<PluginManager>, Refusal> {
    let listener =
        |bound: &Bound| OpenListener { address: bound.local, allow_anonymous: bound.info.allow_anonymous };
    // With the ports that the system has chosen for port 0.
    let listeners = bound.iter().map(listener).collect();
    let settings = Settings { listeners, home_keys, ..Settings::of(config, shards.handles().to_vec()) };
    let plugins = PluginManager::new(settings).map_err(|error| {
        let sentence = format!("cannot make a folder for the plugins that are loaded: {error}");
        Refusal::new(EXIT_CODE_REFUSED, sentence)
    })?;
    plugins.start(&config.plugins).map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    Ok(Arc::new(plugins))
}

fn info(bound: &[Bound], clock: Clock, allocations: Option<CountAllocations>) -> BrokerInfo {
    let listener = |bound: &Bound| wire::Listener {
        name: bound.info.name.to_string(),
        address: bound.local.to_string(),
        allow_anonymous: bound.info.allow_anonymous,
    };
    BrokerInfo {
        started_at_ms: clock.now().wall_ms,
        listeners: bound.iter().map(listener).collect(),
        allocations,
    }
}

fn bind_all(config: &Config) -> Result<Vec<Bound>, Refusal> {
    let listeners = config.listeners.iter().map(|listener| {
        let info =
            ListenerInfo { name: listener.name.as_str().into(), allow_anonymous: listener.allow_anonymous };
        let listen = Listen { bind: listener.bind, info: Arc::new(info) };
        let in_use = |error: &ListenError| error.is_in_use();
        lock::patiently(start_retry(config), in_use, || {
            net::bind(&listen, config.shards, config.shell_limits.listen_backlog_max)
        })
    });
    listeners.collect::<Result<_, _>>().map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))
}

/// How long to retry for a resource that a process which has just ended may still hold.
fn start_retry(config: &Config) -> Duration {
    Duration::from_millis(config.shell_limits.start_retry_ms)
}

fn setups(config: &Config) -> Result<Vec<Setup>, Refusal> {
    let random = || {
        getrandom::u64().map_err(|error| {
            Refusal::new(EXIT_CODE_REFUSED, format!("the system has no random numbers: {error}"))
        })
    };
    let keys = [random()?, random()?, random()?, random()?];
    let limits = Arc::new(config.limits.clone());
    (0..config.shards)
        .map(|shard| {
            Ok(Setup {
                id: ShardId(shard as u8),
                shards: config.shards,
                limits: Arc::clone(&limits),
                no_match_allow: config.authorization.no_match == NoMatch::Allow,
                keys,
                seed: random()?,
            })
        })
        .collect()
}

fn ready_lines(config: &Config, bound: &[Bound]) -> String {
    let shards = counted(config.shards, "shard");
    let mut lines = format!("grapnel {}: {shards}\n", env!("CARGO_PKG_VERSION"));
    for listener in bound {
        lines += &format!("listening on mqtt://{}\n", listener.local);
    }
    lines += &format!("ctl socket {}\nready\n", config.control.socket.display());
    lines
}

/// Writes to standard output. Errors are ignored: the broker runs without it too.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(out, "grapnel: {line}");
    }
}

/// For test programs: their broker must not outlive them, however they end.
fn die_with_parent() {
    if std::env::var_os("GRAPNEL_DIE_WITH_PARENT").is_some_and(|value| value == "1") {
        // If the kernel refuses, the tests end the broker themselves.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
}
