//! A PostgreSQL server for one test: made in a temporary folder, reachable only through a socket
//! there, ended with the test. Debian's package `postgresql` has the programs.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use grapnel_tests::PATIENCE;
use grapnel_tests::process::{Process, command};
use rustix::process::Signal;
use tempfile::TempDir;

/// Its superuser, without a password.
pub const USER: &str = "grapnel";

/// The system user that runs it if the tests run as root, which PostgreSQL refuses.
const OWNER: &str = "postgres";

/// A server and its data.
pub struct Database {
    folder: TempDir,
    server: Process,
}

/// All its processes are stopped until this is dropped.
pub struct Hanging(Child);

impl Database {
    /// Makes one and starts it.
    pub fn start() -> Database {
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(number_of("-u")), Some(number_of("-g"))).unwrap();
        }
        let mut make = program("initdb");
        make.args(["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        make.arg(format!("--username={USER}")).arg("-D").arg(data(&folder));
        Process::start("initdb", make, None).succeed(PATIENCE * 3);
        let server = serve(&folder);
        Database { folder, server }
    }

    /// Folder of its socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs statements. Returns a line for each row, with `
    /// ` between the columns.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        let mut psql = command("psql");
        psql.arg("-h").arg(self.folder()).args([
            "-U",
            USER,
            "-d",
            "postgres",
            "-AtqX",
            "-v",
            "ON_ERROR_STOP=1",
        ]);
        psql.args(["-c", statements]);
        Process::start("psql", psql, None).succeed(PATIENCE)
    }

    /// Repeats a query until this is the answer.
    #[track_caller]
    #[allow(clippy::disallowed_methods, reason = "a table can only be looked at")]
    pub fn wait_for(&self, statement: &str, expected: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.sql(statement);
            if found == expected {
                return;
            }
            assert!(Instant::now() < until, "{statement} has\n{found}\nand should have\n{expected}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops its processes, as a machine with a lost disk would.
    pub fn hang(&self) -> Hanging {
        // In a session of its own, so that it continues them even if the test and its processes are
        // killed.
        let script =
            "kill -STOP $1; all=\"$1 $(cat /proc/$1/task/$1/children)\"; kill -STOP $all; echo they hang
            read -r _; kill -CONT $all";
        let mut shell = Command::new("setsid");
        shell.args(["sh", "-c", script, "sh", &self.server.id().to_string()]);
        let mut shell =
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "they hang\n");
        Hanging(shell)
    }

    /// Kills it like `kill -9`, also while it hangs. Its processes end once they run again.
    pub fn kill(&mut self, hanging: Option<Hanging>) {
        self.server.signal(Signal::KILL);
        drop(hanging);
        let ended = self.server.wait(PATIENCE);
        assert!(ended.is_some(), "postgres lives on");
    }

    /// Starts it with its existing data.
    pub fn restart(&mut self) {
        self.server = serve(&self.folder);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // An immediate shutdown, but it frees its system resources.
        self.server.signal(Signal::QUIT);
        let _ = self.server.wait(PATIENCE);
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Starts the server. Processes of a killed server may still be about to end; until then it does
/// not start.
fn serve(folder: &TempDir) -> Process {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut server = program("postgres");
        server.arg("-D").arg(data(folder)).arg("-k").arg(folder.path());
        for setting in
            ["listen_addresses=", "fsync=off", "shared_buffers=8MB", "max_connections=40", "autovacuum=off"]
        {
            server.args(["-c", setting]);
        }
        let mut server = Process::start("postgres", server, None);
        let ready =
            |line: &str| line.ends_with("database system is ready to accept connections").then_some(());
        if server.next_line(&mut 0, PATIENCE, ready).is_some() {
            return server;
        }
        server.kill();
        assert!(Instant::now() < until, "postgres does not start: {}", server.log());
    }
}

fn data(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `id -u` or `id -g` of the owner.
fn number_of(which: &str) -> u32 {
    let mut id = command("id");
    id.args([which, OWNER]);
    Process::start("id", id, None).succeed(PATIENCE).parse().unwrap()
}

/// A program of PostgreSQL, which Debian does not put on PATH, run as an allowed user. The server
/// ends cleanly with the test.
fn program(name: &str) -> Command {
    let mut program = if is_root() {
        let mut outer = Command::new("setpriv");
        outer.args(["--reuid", OWNER, "--regid", OWNER, "--clear-groups", "setpriv"]);
        outer
    } else {
        Command::new("setpriv")
    };
    program.args(["--pdeathsig", "QUIT"]).arg(folder_of_programs().join(name));
    // It needs an accessible folder.
    program.current_dir("/");
    program
}

fn folder_of_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is missing; scripts/test --prepare installs it");
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.unwrap().path()).filter(|path| path.join("bin/initdb").exists());
    newest.max_by_key(|path| version(path)).expect("PostgreSQL is installed without its server").join("bin")
}
