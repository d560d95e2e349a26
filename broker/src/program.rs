//! The process of the broker: reads the command line and the configuration, starts everything,
//! prints where it listens, and waits for the end. Called by the `main` of each broker program;
//! such a program adds only an allocator.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use clap::Parser;
use grapnel_engine::hook::HookPoint;
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Setup;
use grapnel_plugin_abi::counted;

use crate::announce::Announcer;
use crate::config::{self, CliOverrides, Config, ConfigErrors, Environment, NoMatch};
use crate::control::{self, BrokerInfo, ControlContext, ControlServer, CountAllocations};
use crate::fatal;
use crate::lock;
use crate::log;
use crate::net::{Address, Bound};
use crate::plugin::{self, PluginManager, Settings};
use crate::preflight;
use crate::reload::{self, ReloadContext, Reloader, Request};
use crate::rt::{Io, IoChoice};
use crate::shard::heartbeat::Clock;
use crate::shard::supervise::{End, Shards, Signals};
use crate::usage;

/// An MQTT broker that people extend with hooks
#[derive(Debug, Parser)]
#[command(name = "grapnel", version)]
struct Cli {
    #[command(flatten)]
    overrides: CliOverrides,
    /// Check the configuration and exit. Checked are all keys, the certificates of listeners and, for each plugin of the
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

/// How often the files of certificates are looked at.
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(10);

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
    let config = load(&cli.overrides, &environment)?;
    if cli.check_config {
        return check(&config);
    }
    let level = log::start(&config.log_level.to_string());
    fatal::install().map_err(|error| {
        Refusal::new(EXIT_CODE_REFUSED, format!("cannot install a handler of fatal signals: {error}"))
    })?;
    let signals = Signals::take().map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    let config = Arc::new(config);
    let granted =
        preflight::check(io_choice(config.io), config.shards, config.shell_limits.descriptors_free_min)
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
    let shards = Shards::start(setups, &limits, (clock, granted.io), Box::new(name))
        .map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    let (request, requests) = sync_channel(1);
    let looks = request.clone();
    // A request that finds another one waiting adds nothing: the waiting one reads the file later.
    let hang_up = move || {
        let _ = request.try_send(Request::Reload);
    };
    shards.handle_signals(signals, hang_up).map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;

    let plugins = start_plugins(&config, &bound, &shards, home_keys)?;
    let reloader = Arc::new(Reloader::new(ReloadContext {
        cli: cli.overrides.clone(),
        environment,
        shards: shards.handles().to_vec(),
        plugins: Arc::clone(&plugins),
        level,
        config: Arc::clone(&config),
        open: bound.iter().map(reload::open).collect(),
        requests: looks,
    }));
    announcer(&shards, clock, &reloader).notify(HookPoint::BrokerStarting);
    // Until the shards have the listeners, no reload can change them.
    let turn = reloader.turn().blocking_lock();
    let context = ControlContext {
        shards: shards.handles().to_vec(),
        plugins: Arc::clone(&plugins),
        reloader: Arc::clone(&reloader),
        info: BrokerInfo { started_at_ms: clock.now().wall_ms, io: granted.io.name(), allocations },
    };
    let control = control::start(context).map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    let ready = ready_lines(&config, &bound);
    for listener in bound {
        shards.listen(listener);
    }
    drop(turn);
    announcer(&shards, clock, &reloader).notify(HookPoint::BrokerStarted);
    reload_on(requests, &reloader)?;
    say(&ready);

    let end = match shards.wait() {
        End::Signal(signal) => stop(shards, signal, (clock, &reloader), plugins, control),
        died => died,
    };
    if let End::Died { shard, cause } = &end {
        tracing::error!("shard {shard} {cause}; the broker cannot run without it, so the process ends");
    }
    Ok(end.exit_code())
}

fn io_choice(configured: config::Io) -> IoChoice {
    match configured {
        config::Io::Auto => IoChoice::Auto,
        config::Io::IoUring => IoChoice::Only(Io::IoUring),
        config::Io::Epoll => IoChoice::Only(Io::Epoll),
    }
}

/// Checks what the configuration names, and starts nothing. Returns the exit code.
fn check(config: &Config) -> Result<u8, Refusal> {
    refuse(reload::check(config))?;
    refuse(plugin::check::check_configured(config, |_| true))?;
    say("the configuration is good\n");
    Ok(0)
}

/// Disconnects the clients, ends the plugins and then the shards.
fn stop(
    shards: Shards,
    signal: i32,
    (clock, reloader): (Clock, &Reloader),
    plugins: Arc<PluginManager>,
    control: ControlServer,
) -> End {
    tracing::info!("stops: signal {signal}");
    let announcer = announcer(&shards, clock, reloader);
    announcer.notify(HookPoint::BrokerStopping);
    let stopping = std::thread::spawn(move || control.stop());
    let timeout = Duration::from_millis(reloader.config().limits.drain_timeout_ms);
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

/// Loads the configured plugins. Called before the listeners accept clients, because plugins decide
/// which clients may connect.
fn start_plugins(
    config: &Config,
    bound: &[Bound],
    shards: &Shards,
    home_keys: [u64; 4],
) -> Result<Arc<PluginManager>, Refusal> {
    // With the ports that the system has chosen for port 0.
    let listeners = bound.iter().map(|bound| reload::open(bound).for_plugins()).collect();
    let settings = Settings { listeners, home_keys, ..Settings::of(config, shards.handles().to_vec()) };
    let plugins = PluginManager::new(settings).map_err(|error| {
        let sentence = format!("cannot make a folder for the plugins that are loaded: {error}");
        Refusal::new(EXIT_CODE_REFUSED, sentence)
    })?;
    plugins.start(&config.plugins).map_err(|error| Refusal::new(EXIT_CODE_REFUSED, error))?;
    Ok(Arc::new(plugins))
}

/// Notifies plugins, with the listeners that are open now.
fn announcer(shards: &Shards, clock: Clock, reloader: &Reloader) -> Announcer {
    let listeners = reloader.open().iter().map(|open| open.address.to_string()).collect();
    Announcer::new(shards.handles(), clock, listeners)
}

/// Reloads the configuration for each request, on a thread of its own, which ends with the process.
fn reload_on(requests: Receiver<Request>, reloader: &Arc<Reloader>) -> Result<(), Refusal> {
    // The thread must not keep the plugins when the broker ends.
    let reloader = Arc::downgrade(reloader);
    let work = move || {
        // Nothing wakes the process while no listener has certificates.
        while let Some(has_certificates) = reloader.upgrade().map(|reloader| reloader.has_certificates()) {
            let request = match has_certificates {
                true => requests.recv_timeout(LOOK_AT_CERTIFICATES),
                false => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let Some(reloader) = reloader.upgrade() else { return };
            match request {
                Ok(Request::Reload) => reloader.reload_in_turn(),
                // A listener may have got certificates, which are looked at from now on.
                Ok(Request::Look) => {}
                Err(RecvTimeoutError::Timeout) => reloader.reload_certificates(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(work);
    let failed = |error| Refusal::new(EXIT_CODE_REFUSED, format!("cannot start a thread: {error}"));
    thread.map(drop).map_err(failed)
}

fn load(overrides: &CliOverrides, environment: &Environment) -> Result<Config, Refusal> {
    let config = Config::load(overrides, environment);
    let config = config.map_err(|errors| Refusal::new(ConfigErrors::EXIT_CODE, errors))?;
    Ok(config)
}

/// Refuses a configuration with these errors, if there are any.
fn refuse(sentences: Vec<String>) -> Result<(), Refusal> {
    if sentences.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(ConfigErrors::EXIT_CODE, ConfigErrors { sentences }))
}

fn bind_all(config: &Config) -> Result<Vec<Bound>, Refusal> {
    let listeners = config.listeners.iter().map(|listener| reload::bind(listener, config));
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
        let layers = &listener.rules.layers;
        let scheme = match (layers.tls.is_some(), layers.websocket.is_some()) {
            (false, false) => "mqtt",
            (true, false) => "mqtts",
            (false, true) => "ws",
            (true, true) => "wss",
        };
        lines += &match &listener.local {
            Address::Tcp(address) => format!("listening on {scheme}://{address}\n"),
            Address::Unix(_) if scheme == "mqtt" => format!("listening on {}\n", listener.local),
            Address::Unix(_) => format!("listening on {} ({scheme})\n", listener.local),
        };
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
