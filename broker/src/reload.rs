//! The configuration in force, and its change while the broker runs: `grapnel-ctl config reload`
//! and SIGHUP. A reload reads everything anew and prepares what can fail: it binds the sockets of
//! new listeners and checks plugins. Only then it changes anything; what can still fail then, a
//! step of a plugin, is undone. Called by `control` and by the thread `reload`.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError, RwLock};

use grapnel_engine::shard::Scope;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::config::{CliOverrides, Config, ConfigErrors, Difference, Environment, NoMatch, When, difference};
use crate::log::Level;
use crate::net::{Address, ListenerRules};
use crate::plugin::{LoadError, OpenListener, PluginManager, check};
use crate::shard::handle::ShardHandle;
use crate::shard::listeners::Listeners;

mod listeners;
mod rules;

pub use listeners::{bind, check, open};

/// A listener that accepts connections.
#[derive(Clone, Debug)]
pub struct RunningListener {
    /// Where it listens, with the port that the system chose.
    pub address: Address,
    /// What it says of its connections, its name among it.
    pub rules: Arc<ListenerRules>,
}

impl RunningListener {
    /// What plugins that decide who may connect are told of it.
    pub fn for_plugins(&self) -> OpenListener {
        OpenListener {
            address: self.address.clone(),
            allow_anonymous: self.rules.info.allow_anonymous,
            identity: self.identity().is_some(),
            behind_proxy: self.rules.layers.trusts_proxies(),
        }
    }

    /// What of a client's certificate is its user name and lets it in, as a word of the
    /// configuration.
    pub fn identity(&self) -> Option<&'static str> {
        self.rules.layers.tls.as_ref()?.current().identity().map(|identity| identity.word())
    }
}

/// Why nothing was reloaded. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration has errors, or something that it needs is not there.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
    /// There is no file to read again.
    #[error(
        "the broker was started without a configuration file, so there is nothing to read again; start it with --config FILE"
    )]
    NoFile,
    /// A plugin could not be loaded, changed or unloaded.
    #[error("{error}; nothing of the configuration has changed")]
    Plugin {
        /// What the loader said.
        error: LoadError,
    },
}

/// A key that a reload has changed, or would have to. A value is absent where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangedKey {
    /// Its path.
    pub key: String,
    /// The value in force before.
    pub old: Option<serde_json::Value>,
    /// The value that the file has.
    pub new: Option<serde_json::Value>,
}

impl ChangedKey {
    /// One line for people.
    pub fn line(&self) -> String {
        let is_whole = self.key.matches('.').count() == 1
            || self.key.strip_prefix("listeners.").is_some_and(|_| self.old.is_none() || self.new.is_none());
        let shown = |value: &serde_json::Value| value.to_string();
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if old == new => format!("{}: changed", self.key),
            (Some(old), Some(new)) => format!("{}: {} -> {}", self.key, shown(old), shown(new)),
            (Some(old), None) if is_whole => format!("{}: removed{}", self.key, self.place(old)),
            (None, Some(new)) if is_whole => format!("{}: added{}", self.key, self.place(new)),
            (Some(old), None) => format!("{}: {} -> none", self.key, shown(old)),
            (None, Some(new)) => format!("{}: none -> {}", self.key, shown(new)),
            (None, None) => self.key.clone(),
        }
    }

    /// Where a listener listens or which file a plugin is, for the line that names it; nothing if its
    /// name says it.
    fn place(&self, whole: &serde_json::Value) -> String {
        match whole.as_str() {
            Some(place) if !self.key.ends_with(place) => format!(" ({place})"),
            _ => String::new(),
        }
    }
}

/// What a reload has done, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read.
    pub file: String,
    /// What has changed.
    pub changed: Vec<ChangedKey>,
    /// What differs and has its effect with the next start.
    pub needs_restart: Vec<ChangedKey>,
    /// What was left as it is for another reason, one sentence each.
    pub left: Vec<String>,
}

impl Reloaded {
    fn of(config: &Config, differences: Vec<Difference>) -> Reloaded {
        let file = config.file.as_ref().map_or(String::new(), |file| file.display().to_string());
        let mut reloaded = Reloaded { file, ..Reloaded::default() };
        for Difference { key, old, new, when } in differences {
            let key = ChangedKey { key, old, new };
            match when {
                When::Now => reloaded.changed.push(key),
                When::Start => reloaded.needs_restart.push(key),
            }
        }
        reloaded
    }

    fn log(&self) {
        let (changed, waiting) = (self.changed.len(), self.needs_restart.len());
        tracing::info!(
            changed,
            needs_restart = waiting,
            left = self.left.len(),
            "configuration reloaded from {}",
            self.file
        );
        for key in &self.changed {
            tracing::info!("configuration: {}", key.line());
        }
        for key in &self.needs_restart {
            tracing::warn!("configuration: {}; this has its effect with the next start", key.line());
        }
        for sentence in &self.left {
            tracing::warn!("configuration: {sentence}");
        }
    }
}

/// A request to the thread that reloads.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// Reload the configuration.
    Reload,
    /// Look whether there are certificates to watch.
    Look,
}

/// What a [`Reloader`] works on.
#[derive(Debug)]
pub struct ReloadContext {
    /// The command line, which is applied again.
    pub cli: CliOverrides,
    /// The environment, as of the start of the process.
    pub environment: Environment,
    /// Every shard.
    pub shards: Vec<ShardHandle>,
    /// The loader.
    pub plugins: Arc<PluginManager>,
    /// Changes what is logged.
    pub level: Level,
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The listeners of it, in its order.
    pub open: Vec<RunningListener>,
    /// Requests to the thread that reloads.
    pub requests: SyncSender<Request>,
}

/// The configuration in force. Readers and a reload may be on any thread.
#[derive(Debug)]
pub struct Reloader {
    cli: CliOverrides,
    environment: Environment,
    shards: Vec<ShardHandle>,
    listeners: Listeners,
    plugins: Arc<PluginManager>,
    level: Level,
    config: RwLock<Arc<Config>>,
    open: RwLock<Vec<RunningListener>>,
    requests: SyncSender<Request>,
    turn: Arc<Mutex<()>>,
}

impl Reloader {
    /// The configuration as of the start.
    pub fn new(context: ReloadContext) -> Reloader {
        let ReloadContext { cli, environment, shards, plugins, level, config, open, requests } = context;
        Reloader {
            cli,
            environment,
            listeners: Listeners::new(shards.clone()),
            shards,
            plugins,
            level,
            config: RwLock::new(config),
            open: RwLock::new(open),
            requests,
            turn: Arc::default(),
        }
    }

    /// The configuration in force. Keys that wait for a start have their values of the last start.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The listeners, in the order of the configuration.
    pub fn open(&self) -> Vec<RunningListener> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Held during each change of plugins and each reload, so that there is one at a time.
    pub fn turn(&self) -> &Arc<Mutex<()>> {
        &self.turn
    }

    /// What a reload would do now. Changes nothing.
    ///
    /// # Errors
    /// [`ReloadError::Wrong`], [`ReloadError::NoFile`].
    pub fn differences(&self) -> Result<Reloaded, ReloadError> {
        let (old, new) = (self.config(), self.read()?);
        let sentences = listeners::check(&new);
        if !sentences.is_empty() {
            return Err(ConfigErrors { sentences }.into());
        }
        let mut reloaded = Reloaded::of(&new, difference(&old, &new));
        self.leave_level(&mut reloaded);
        Ok(reloaded)
    }

    /// Leaves the level of the log as it is if the file cannot change it.
    fn leave_level(&self, reloaded: &mut Reloaded) {
        let before = reloaded.changed.len();
        reloaded.changed.retain(|changed| changed.key != "log.level" || !self.level.is_fixed());
        if reloaded.changed.len() < before {
            reloaded.left.push("log.level has no effect, because the variable GRAPNEL_LOG is set".to_owned());
        }
    }

    /// Reads the configuration again and applies it. `force` allows it even if no plugin would then
    /// decide who may connect or what clients may do. Blocks while shards and plugins answer; the
    /// caller holds the turn.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub fn reload(&self, force: bool) -> Result<Reloaded, ReloadError> {
        let result = self.reload_unlogged(force);
        match &result {
            Ok(reloaded) => reloaded.log(),
            Err(error) => {
                let said = error.to_string();
                tracing::error!(
                    "the configuration is not reloaded, and nothing has changed: {}",
                    said.replace('\n', "; ")
                );
            }
        }
        result
    }

    /// As [`Reloader::reload`], for a signal: waits for the turn. Not on a thread of an executor.
    pub fn reload_in_turn(&self) {
        let _turn = self.turn.blocking_lock();
        // Its result stands in the log.
        let _ = self.reload(false);
    }

    /// Whether any listener has certificates.
    pub fn has_certificates(&self) -> bool {
        self.open().iter().any(|listener| listener.rules.layers.tls.is_some())
    }

    /// Reads the certificates of listeners again whose files have changed. Connections stay; where
    /// a new file is wrong, the old one stays in force, and the log says so. It also says which
    /// certificates have expired meanwhile.
    pub fn reload_certificates(&self) {
        for listener in self.open() {
            let name = &listener.rules.info.name;
            let Some(tls) = &listener.rules.layers.tls else { continue };
            if !tls.files_changed() {
                rules::log_warnings(name, &tls.expired());
                continue;
            }
            match tls.reload() {
                Ok(warnings) => {
                    tracing::info!("listener {name}: read its certificates again");
                    rules::log_warnings(name, &warnings);
                }
                Err(error) => tracing::error!("listener {name}: {error}"),
            }
        }
    }

    fn reload_unlogged(&self, force: bool) -> Result<Reloaded, ReloadError> {
        let (old, new) = (self.config(), self.read()?);
        let mut reloaded = Reloaded::of(&new, difference(&old, &new));
        let is_new = |plugin: &crate::config::PluginConfig| {
            !old.plugins.iter().any(|before| before.name == plugin.name && before.is_same(plugin))
        };
        let sentences = check::check_configured(&new, is_new);
        if !sentences.is_empty() {
            return Err(ConfigErrors { sentences }.into());
        }
        let taken = Arc::new(old.taking(&new));
        let prepared = listeners::prepare(&old, &taken, &self.open())?;
        // Everything is prepared. A failure of a plugin drops the sockets, and undoes what was done
        // of plugins.
        let plugins = self.plugins.reconfigure(&old.plugins, &taken.plugins, force);
        reloaded.left = plugins.map_err(|error| ReloadError::Plugin { error })?;
        // From here on nothing can fail.
        self.set_rules(&old, &taken);
        let open = prepared.commit(&self.listeners);
        let addresses = open.iter().map(RunningListener::for_plugins);
        self.plugins.set_rules(&taken, addresses.collect());
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open;
        // A listener may have got certificates. If another request waits, the thread looks anyway.
        let _ = self.requests.try_send(Request::Look);
        if old.log_level != taken.log_level {
            self.level.set(&taken.log_level.to_string());
        }
        self.leave_level(&mut reloaded);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = taken;
        Ok(reloaded)
    }

    /// Reads and checks the configuration.
    fn read(&self) -> Result<Config, ReloadError> {
        if self.cli.config.is_none() {
            return Err(ReloadError::NoFile);
        }
        Ok(Config::load(&self.cli, &self.environment)?)
    }

    /// Gives the shards the limits, and what is allowed if no plugin decides.
    fn set_rules(&self, old: &Config, new: &Config) {
        let allow = new.authorization.no_match == NoMatch::Allow;
        if new.shell_limits != old.shell_limits {
            self.listeners.limit(&Arc::new(new.shell_limits.clone()));
        }
        if new.limits == old.limits && new.authorization == old.authorization {
            return;
        }
        let limits = Arc::new(new.limits.clone());
        let is_stricter = old.authorization.no_match == NoMatch::Allow && !allow;
        for shard in &self.shards {
            let limits = Arc::clone(&limits);
            shard.submit(Box::new(move |shard| {
                shard.set_rules(limits, allow);
                if is_stricter {
                    shard.invalidate(Scope::All);
                }
            }));
        }
    }
}
