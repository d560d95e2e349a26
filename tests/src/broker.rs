//! Broker processes: Grapnel from the build folder of the test itself, or Mosquitto, against which
//! the protocol tests are checked. Each has its own port, socket, state folder and log.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::process::{Process, command};
use crate::transport::{self, Listener, Transport};
use crate::{PATIENCE, Socket, plugin};

/// The broker that the tests use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Grapnel.
    Grapnel,
    /// Debian's mosquitto, chosen by `GRAPNEL_TESTS_PEER=mosquitto`.
    Mosquitto,
}

impl Peer {
    /// The broker that the environment selects.
    ///
    /// # Panics
    /// For an unknown name.
    pub fn chosen() -> Peer {
        match std::env::var("GRAPNEL_TESTS_PEER").as_deref() {
            Err(_) | Ok("" | "grapnel") => Peer::Grapnel,
            Ok("mosquitto") => Peer::Mosquitto,
            Ok(other) => panic!("GRAPNEL_TESTS_PEER is {other:?}; it may be grapnel or mosquitto"),
        }
    }
}

/// How a broker is to be started.
pub struct Builder {
    shards: usize,
    config: String,
    mosquitto: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    grapnel_only: bool,
    program: &'static str,
    home: Option<TempDir>,
    stderr: Option<Stdio>,
    working_directory: Option<PathBuf>,
    listen: Vec<String>,
    wrapper: Vec<OsString>,
}

impl Builder {
    /// A program and its arguments that start the broker: its own command line follows them.
    pub fn started_by(mut self, wrapper: &[&OsStr]) -> Builder {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self.grapnel_only()
    }

    /// Addresses for `--listen`, instead of one on loopback with a free port; with none, the
    /// configuration decides.
    pub fn listen(mut self, addresses: &[&str]) -> Builder {
        self.listen = addresses.iter().map(|address| (*address).to_owned()).collect();
        self.grapnel_only()
    }

    /// Number of shards; the default is 2, or what `GRAPNEL_TESTS_SHARDS` says.
    pub fn shards(mut self, shards: usize) -> Builder {
        self.shards = shards;
        self
    }

    /// Lines for the configuration file. The plugin directory is set already.
    pub fn config(mut self, toml: &str) -> Builder {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// The equivalent lines for mosquitto.conf.
    pub fn mosquitto(mut self, lines: &str) -> Builder {
        self.mosquitto.push_str(lines);
        self.mosquitto.push('\n');
        self
    }

    /// One more command line argument.
    pub fn argument(mut self, argument: &str) -> Builder {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder in which it is started, instead of the test's.
    pub fn working_directory(mut self, folder: &Path) -> Builder {
        self.working_directory = Some(folder.to_owned());
        self.grapnel_only()
    }

    /// Where its log goes, instead of into [`Process::log`].
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Builder {
        self.stderr = Some(stderr.into());
        self.grapnel_only()
    }

    /// The scenario tests Grapnel, not MQTT: skipped with any other broker.
    pub fn grapnel_only(mut self) -> Builder {
        self.grapnel_only = true;
        self
    }

    /// Uses the broker with the counting allocator; see [`Ledger`](crate::ledger::Ledger).
    pub fn counted(mut self) -> Builder {
        self.program = "grapnel-counted";
        self.grapnel_only()
    }

    /// Starts in the folder of an earlier broker, with its state; see [`Broker::stop`].
    pub fn home(mut self, home: TempDir) -> Builder {
        self.home = Some(home);
        self
    }

    /// For [`scenario!`](crate::scenario): `None` if this run makes no sense with the selected
    /// broker.
    #[track_caller]
    pub fn start_with_shards(self, shards: usize) -> Option<Broker> {
        if Peer::chosen() == Peer::Mosquitto && (self.grapnel_only || shards != 1) {
            eprintln!("skipped: Mosquitto has no shards");
            return None;
        }
        Some(self.shards(shards).start())
    }

    /// Starts the broker and waits until it accepts connections.
    ///
    /// # Panics
    /// If it does not start; the message contains its log.
    #[track_caller]
    pub fn start(self) -> Broker {
        match Peer::chosen() {
            Peer::Mosquitto if !self.grapnel_only => self.start_mosquitto(),
            _ => self.start_grapnel(),
        }
    }

    #[track_caller]
    fn start_grapnel(mut self) -> Broker {
        let transport = self.own_transport();
        let files = (transport != Transport::Tcp).then(Certificates::new);
        if let Some(files) = &files {
            self.config.push_str(&transport::config(transport, files));
            self.listen.clear();
        }
        let (mut command, home) = self.grapnel_command();
        for address in &self.listen {
            command.args(["--listen", address]);
        }
        let process = match self.stderr.take() {
            Some(stderr) => Process::start_with_stderr("grapnel", command, stderr),
            None => Process::start("grapnel", command, None),
        };
        process.wait_for_line("ready", PATIENCE, |line| (line == "ready").then_some(()));
        let addresses: Vec<SocketAddr> = process.wait_for_lines("an address", 1, PATIENCE, |line| {
            line.strip_prefix("listening on mqtt://").and_then(|rest| rest.parse().ok())
        });
        // The listener with plain TCP is behind the main one.
        let address = if files.is_some() { addresses[addresses.len() - 1] } else { addresses[0] };
        let socket = process.wait_for_line("the socket", PATIENCE, |line| {
            line.strip_prefix("ctl socket ").map(PathBuf::from)
        });
        let listener = match files {
            Some(files) => Listener::found(transport, files, &process),
            None => Listener::tcp(address),
        };
        Broker {
            process,
            address,
            listener,
            socket,
            home: Some(home),
            peer: Peer::Grapnel,
            shards: self.shards,
            forgiven: AtomicBool::new(false),
        }
    }

    /// The transport of the main listener: the selected one, unless the test has listeners of its
    /// own.
    fn own_transport(&self) -> Transport {
        let chosen = Transport::chosen();
        let is_own = self.listen != [LISTEN] || self.config.contains("listeners");
        if is_own && chosen != Transport::Tcp {
            eprintln!("not on {chosen:?}: the test has listeners of its own");
            return Transport::Tcp;
        }
        chosen
    }

    /// The command of a broker with this configuration and without a listener, and its folder. For
    /// tests of a refused start.
    pub fn grapnel_command(&mut self) -> (Command, TempDir) {
        let home =
            self.home.take().unwrap_or_else(|| tempfile::tempdir().expect("a place for temporary files"));
        let file = home.path().join("grapnel.toml");
        let config = format!("[plugins]\ndir = {:?}\n{}", plugin::directory(), self.config);
        std::fs::write(&file, config).expect("the directory is ours");
        let mut words = self.wrapper.iter().cloned().chain([plugin::built(self.program).into()]);
        let mut command = command(words.next().expect("the broker at least"));
        command.args(words);
        command.arg("--config").arg(&file).arg("--socket").arg(home.path().join("ctl.sock"));
        command.args(["--shards", &self.shards.to_string()]).args(&self.arguments);
        // Removes the environment of the tests or of the developer's own broker.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GRAPNEL_"))
        {
            command.env_remove(name);
        }
        // The driver of the shards is that of the whole run, where a test does not choose one.
        if let Some(io) = std::env::var_os("GRAPNEL_RUNTIME_IO") {
            command.env("GRAPNEL_RUNTIME_IO", io);
        }
        command.env("GRAPNEL_STATE_DIR", home.path().join("state")).env("GRAPNEL_DIE_WITH_PARENT", "1");
        command.envs(self.environment.iter().cloned());
        if let Some(folder) = &self.working_directory {
            command.current_dir(folder);
        }
        (command, home)
    }

    #[track_caller]
    fn start_mosquitto(self) -> Broker {
        let home = tempfile::tempdir().expect("a place for temporary files");
        let port = free_port();
        let file = home.path().join("mosquitto.conf");
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_type all\n{}",
            self.mosquitto
        );
        std::fs::write(&file, config).expect("the directory is ours");
        let mut command = command("mosquitto");
        command.arg("-c").arg(&file).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let process = Process::start("mosquitto", command, None);
        process.wait_for_line("running", PATIENCE, |line| line.ends_with(" running").then_some(()));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Broker {
            process,
            address,
            listener: Listener::tcp(address),
            socket: PathBuf::new(),
            home: Some(home),
            peer: Peer::Mosquitto,
            shards: 1,
            forgiven: AtomicBool::new(false),
        }
    }
}

/// Where a broker listens if its test says nothing.
const LISTEN: &str = "127.0.0.1:0";

/// A port of loopback that nothing uses now, for a program that cannot take port 0. Another process
/// can take it before that program does.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Number of shards where a test does not say it.
fn default_shards() -> usize {
    match std::env::var("GRAPNEL_TESTS_SHARDS") {
        Err(_) => 2,
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("GRAPNEL_TESTS_SHARDS is {text:?}, not a number")),
    }
}

/// A running broker. Dropping it ends it, and panics if it did not end cleanly.
pub struct Broker {
    process: Process,
    address: SocketAddr,
    listener: Listener,
    socket: PathBuf,
    home: Option<TempDir>,
    peer: Peer,
    shards: usize,
    forgiven: AtomicBool,
}

impl Broker {
    /// A broker with default settings, to be changed before it starts.
    pub fn builder() -> Builder {
        Builder {
            shards: default_shards(),
            config: String::new(),
            mosquitto: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            grapnel_only: false,
            program: "grapnel",
            home: None,
            stderr: None,
            working_directory: None,
            listen: vec![LISTEN.to_owned()],
            wrapper: Vec::new(),
        }
    }

    /// Its addresses, in the order of the listeners.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.process.lines(|line| line.strip_prefix("listening on mqtt://")?.parse().ok())
    }

    /// Its first address with plain TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its main listener, with the transport of the run.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Opens a connection to its main listener.
    ///
    /// # Panics
    /// If the broker does not accept it.
    #[track_caller]
    pub fn connect(&self) -> Socket {
        self.listener.connect(Ipv4Addr::LOCALHOST)
    }

    /// Path of its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its directory: configuration, socket and state.
    ///
    /// # Panics
    /// Never before [`Broker::stop`].
    pub fn home(&self) -> &Path {
        self.home.as_ref().expect("taken only by stop").path()
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Its process, for signals and the log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// True if the broker is Mosquitto, which differs from the specification here: `statement` says
    /// where, `how` in what way. The test then skips the expectation.
    pub fn mosquitto_differs(&self, statement: &str, how: &str) -> bool {
        if self.peer == Peer::Mosquitto {
            eprintln!("not checked with Mosquitto: {statement}: {how}");
        }
        self.peer == Peer::Mosquitto
    }

    /// The test expects this broker to end with an error: dropping it checks nothing.
    pub fn may_end_badly(&self) {
        self.forgiven.store(true, Relaxed);
    }

    /// Ends it with SIGTERM, panics if it did not end cleanly, and returns its folder for another
    /// start.
    #[track_caller]
    pub fn stop(mut self) -> TempDir {
        let status = self.terminate();
        self.check(status);
        self.forgiven.store(true, Relaxed);
        self.home.take().expect("taken only here")
    }

    /// Waits for an end with another cause. Returns the status.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        self.process.wait(PATIENCE)
    }

    fn terminate(&mut self) -> Option<ExitStatus> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(PATIENCE);
        if status.is_none() {
            self.process.kill();
        }
        status
    }

    #[track_caller]
    fn check(&self, status: Option<ExitStatus>) {
        let log = self.process.log();
        assert!(
            status.is_some_and(|s| s.success()),
            "the broker ended with {status:?} after SIGTERM; its log:\n{log}"
        );
        assert!(!log.contains("panicked"), "something panicked in the broker; its log:\n{log}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let status = self.terminate();
        if std::thread::panicking() {
            eprintln!("---- log of the broker ({status:?})\n{}\n----", self.process.log());
        } else if !self.forgiven.load(Relaxed) {
            self.check(status);
        }
    }
}
