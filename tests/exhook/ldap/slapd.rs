//! A directory (OpenLDAP's slapd) for one test: made in a temporary folder, reachable only through
//! a socket there, ended with the test. Debian's package `slapd` has the program.

use std::path::{Path, PathBuf};

use grapnel_tests::PATIENCE;
use grapnel_tests::process::{Process, command};
use rustix::process::Signal;
use tempfile::TempDir;

/// The account that looks users up in it, with its password.
pub const READER: (&str, &str) = ("cn=reader,dc=shop", "reading");

const PROGRAM: &str = "/usr/sbin/slapd";

/// A server and its entries.
pub struct Directory {
    folder: TempDir,
    server: Process,
}

impl Directory {
    /// Makes one with the entries of `entries.ldif` and starts it.
    pub fn start() -> Directory {
        assert!(Path::new(PROGRAM).exists(), "slapd is missing; scripts/test --prepare installs it");
        let folder = tempfile::tempdir().unwrap();
        // A copy, because Ubuntu's AppArmor lets the original read nothing outside of the system's
        // folders.
        std::fs::copy(PROGRAM, folder.path().join("slapd")).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let text = std::fs::read_to_string(source("slapd.conf")).unwrap();
        let text = text.replace("FOLDER", folder.path().to_str().unwrap());
        std::fs::write(folder.path().join("slapd.conf"), text).unwrap();
        let mut add = program(&folder);
        add.arg("-Tadd")
            .arg("-f")
            .arg(folder.path().join("slapd.conf"))
            .arg("-l")
            .arg(source("entries.ldif"));
        Process::start("slapadd", add, None).succeed(PATIENCE);
        let server = serve(&folder);
        Directory { folder, server }
    }

    /// Its address, as plugins have it in their configuration.
    pub fn url(&self) -> String {
        url(&self.folder)
    }

    /// Kills it like `kill -9`.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it with its existing entries.
    pub fn restart(&mut self) {
        self.server = serve(&self.folder);
    }

    /// Stops it: connections are accepted, and requests are not answered.
    pub fn hang(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Continues it after [`Directory::hang`].
    pub fn go_on(&self) {
        self.server.signal(Signal::CONT);
    }
}

/// A file beside this one.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("exhook/ldap").join(name)
}

fn url(folder: &TempDir) -> String {
    format!("ldapi://{}", folder.path().join("socket").to_str().unwrap().replace('/', "%2F"))
}

fn program(folder: &TempDir) -> std::process::Command {
    command(folder.path().join("slapd"))
}

fn serve(folder: &TempDir) -> Process {
    let mut server = program(folder);
    server.arg("-f").arg(folder.path().join("slapd.conf")).args(["-h", &url(folder), "-d", "stats"]);
    let server = Process::start("slapd", server, None);
    server.wait_for_line("slapd starting", PATIENCE, |line| line.ends_with("slapd starting").then_some(()));
    server
}
