//! Who runs the hooks, and what is started for that.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use grapnel_plugin_abi::Error;

use super::Written;

/// What runs hooks in Java.
const JAR: &str = "grapnel-exhook.jar";
/// How Python is told to run our package: it searches no folder that is not named by an absolute path, so that a file in the folder
/// where it happens to run never takes the place of a module.
const RUN_PACKAGE: &str = "import sys; sys.path[:] = [path for path in sys.path if path.startswith('/')]; import runpy; \
    runpy.run_module('grapnel_exhook', run_name='__main__', alter_sys=True)";

/// Who runs the hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Our own API and EMQX's, told apart by the module.
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

    /// Which of the plugin's hooks are its: drivers of one language have one place, so that at most one of them runs at a time.
    pub const fn place(self) -> usize {
        match self {
            Driver::Python3 | Driver::Amqtt => 0,
            Driver::Java => 1,
        }
    }

    /// What is imported unless the configuration says otherwise.
    pub(super) const fn init_module(self) -> &'static str {
        match self {
            Driver::Python3 | Driver::Amqtt => "main",
            Driver::Java => "Main",
        }
    }
}

/// How many places there are for drivers.
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

impl Written {
    /// What runs the hooks of a driver, and with which arguments.
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
        // What later versions of Java mean by text without being told; the operator's options come behind it.
        let mut arguments = vec![OsString::from("-Dfile.encoding=UTF-8")];
        arguments.extend(self.java_options.iter().map(OsString::from));
        arguments.extend([OsString::from("-cp"), jar.into(), OsString::from("io.grapnel.exhook.Worker")]);
        Ok((program("java", self.java.as_deref().unwrap_or(Path::new("java")))?, arguments))
    }
}

/// A path of the configuration as it is from the broker's working directory: workers run elsewhere.
pub(super) fn absolute(key: &str, path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| Error::new(format!("{key} = {}: {error}", path.display())))
}

/// The same of a path that workers search: they take several with `:` between.
pub(super) fn searched(key: &str, path: &Path) -> Result<PathBuf, Error> {
    let path = absolute(key, path)?;
    if path.as_os_str().as_bytes().contains(&b':') {
        return Err(Error::new(format!("{key}: {} has a `:`, which separates paths", path.display())));
    }
    Ok(path)
}

/// The same of a program; a name without a slash is looked up in PATH.
fn program(key: &str, program: &Path) -> Result<PathBuf, Error> {
    if program.as_os_str().as_bytes().contains(&b'/') { absolute(key, program) } else { Ok(program.into()) }
}
