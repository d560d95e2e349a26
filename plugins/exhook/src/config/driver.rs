//! The programs that run hooks, and how they are started.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use grapnel_plugin_abi::Error;

use super::RawConfig;

/// The jar that runs hooks in Java.
const JAR: &str = "grapnel-exhook.jar";
/// How Python runs our package. It removes relative folders from the search path, so that no file
/// in the working directory can replace a module.
const RUN_PACKAGE: &str = "import sys; sys.path[:] = [path for path in sys.path if path.startswith('/')]; import runpy; \
    runpy.run_module('grapnel_exhook', run_name='__main__', alter_sys=True)";

/// The drivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Our own API and EMQX's; the module's contents decide which.
    Python3,
    /// aMQTT's plugins.
    Amqtt,
    /// EMQX's hooks in Java.
    Java,
}

impl Driver {
    /// Its name in the configuration and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Python3 => "python3",
            Driver::Amqtt => "amqtt",
            Driver::Java => "java",
        }
    }

    /// Index of the driver's set of hooks in the plugin. Drivers of one language share an index, so
    /// that at most one of them runs at a time.
    pub const fn place(self) -> usize {
        match self {
            Driver::Python3 | Driver::Amqtt => 0,
            Driver::Java => 1,
        }
    }

    /// The module that is imported by default.
    pub(super) const fn init_module(self) -> &'static str {
        match self {
            Driver::Python3 | Driver::Amqtt => "main",
            Driver::Java => "Main",
        }
    }
}

/// Number of such sets.
pub const PLACES: usize = 2;

impl Driver {
    pub(super) fn read(name: &str) -> Result<Driver, Error> {
        match name.trim() {
            "python3" | "python" => Ok(Driver::Python3),
            "amqtt" => Ok(Driver::Amqtt),
            "java" => Ok(Driver::Java),
            "python2" => Err(Error::new(
                "driver python2: Python 2 has ended; the same hooks run with driver = \"python3\" once they are Python 3",
            )),
            several if several.contains(',') => Err(Error::new(format!(
                "driver = {several:?}: one driver for each load; load exhook once more under another name (--name)"
            ))),
            other => Err(Error::new(format!("driver = {other:?}: there are python3, amqtt and java"))),
        }
    }
}

impl RawConfig {
    /// The program that runs the hooks of a driver, and its arguments.
    pub(super) fn program(
        &self,
        driver: Driver,
        beside: Option<&Path>,
    ) -> Result<(PathBuf, Vec<OsString>), Error> {
        if driver != Driver::Java {
            let python = self.python.as_deref().unwrap_or(Path::new("python3"));
            return Ok((program("python", python)?, ["-u", "-c", RUN_PACKAGE].map(OsString::from).to_vec()));
        }
        let jar = self.java_jar.clone().or_else(|| Some(beside?.join(JAR)));
        let jar = jar.ok_or_else(|| Error::new(format!("java_jar is missing: where {JAR} is")))?;
        let jar = searched("java_jar", &jar)?;
        if !jar.exists() {
            return Err(Error::new(format!(
                "there is no {}: build it with plugins/exhook/sdk/java/build, or say where it is with `java_jar`",
                jar.display()
            )));
        }
        // Later versions of Java have this as their default encoding; the operator's options follow
        // it.
        let mut arguments = vec![OsString::from("-Dfile.encoding=UTF-8")];
        arguments.extend(self.java_options.iter().map(OsString::from));
        arguments.extend([OsString::from("-cp"), jar.into(), OsString::from("io.grapnel.exhook.Worker")]);
        Ok((program("java", self.java.as_deref().unwrap_or(Path::new("java")))?, arguments))
    }
}

/// Makes a configured path absolute, because workers run in another folder.
pub(super) fn absolute(key: &str, path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| Error::new(format!("{key} = {}: {error}", path.display())))
}

/// As [`absolute`], for a search path: `:` separates its folders.
pub(super) fn searched(key: &str, path: &Path) -> Result<PathBuf, Error> {
    let path = absolute(key, path)?;
    if path.as_os_str().as_bytes().contains(&b':') {
        return Err(Error::new(format!("{key}: {} has a `:`, which separates paths", path.display())));
    }
    Ok(path)
}

/// As [`absolute`], for a program; a name without a slash is looked up in PATH.
fn program(key: &str, program: &Path) -> Result<PathBuf, Error> {
    if program.as_os_str().as_bytes().contains(&b'/') { absolute(key, program) } else { Ok(program.into()) }
}
