//! The listeners of a reload: binds the new ones, and then opens, changes and closes. Also binds
//! those of the start. Called by `program` and `reload`.

use std::sync::Arc;
use std::time::Duration;

use grapnel_engine::shard::ListenerInfo;

use super::RunningListener;
use super::rules::rules;
use crate::config::{Bind, Config, ConfigErrors, ListenerConfig, UnixOptions, is_same_listener};
use crate::lock;
use crate::net::{self, Address, Bound, FileOwner, Listen, ListenError, ListenerRules};
use crate::shard::listeners::Listeners;

/// Binds a listener for each shard. Retries for a time while a process that has just ended may
/// still hold the address.
///
/// # Errors
/// A sentence with a remedy.
pub fn bind(listener: &ListenerConfig, config: &Config) -> Result<Bound, String> {
    bind_beside(listener, config, false)
}

/// As [`bind`]. `takes_over`: the address is that of a listener that is about to be closed.
fn bind_beside(listener: &ListenerConfig, config: &Config, takes_over: bool) -> Result<Bound, String> {
    let listen = Listen {
        bind: match &listener.bind {
            Bind::Tcp(address) => Address::Tcp(*address),
            Bind::Unix(path) => Address::Unix(path.clone()),
        },
        owner: owner(&listener.unix)?,
        rules: rules(listener, None)?,
        takes_over,
    };
    let patience = Duration::from_millis(config.shell_limits.start_retry_ms);
    let in_use = |error: &ListenError| error.is_in_use();
    let bound = lock::patiently(patience, in_use, || {
        net::bind(&listen, config.shards, config.shell_limits.listen_backlog_max)
    });
    bound.map_err(|error| error.to_string())
}

/// What is wrong with the files that listeners name, one sentence each. Binds nothing.
pub fn check(config: &Config) -> Vec<String> {
    let wrong = |listener: &ListenerConfig| {
        let sentence = owner(&listener.unix).and_then(|_| rules(listener, None)).err()?;
        Some(format!("{}: {sentence}", listener.origin))
    };
    config.listeners.iter().filter_map(wrong).collect()
}

/// The listener of bound sockets.
pub fn open(bound: &Bound) -> RunningListener {
    RunningListener { address: bound.local.clone(), rules: Arc::clone(&bound.rules) }
}

/// What is to be done with a listener of the new configuration.
enum Step {
    /// It is new; its sockets take connections into their backlog already.
    Open(Bound),
    /// It goes on, under the name that it had; connections that it accepts from now on get these
    /// rules.
    Keep(RunningListener, Arc<ListenerRules>),
}

/// Listeners that are ready to be opened, changed and closed. Dropping this closes the new sockets
/// and changes nothing else.
pub(super) struct Prepared {
    /// In the order of the new configuration.
    steps: Vec<Step>,
    /// Names of the listeners to close.
    close: Vec<Arc<str>>,
}

/// Binds the listeners that only the new configuration has. `open` are those of the old one, in its
/// order.
///
/// # Errors
/// A sentence for each that cannot be bound; nothing stays bound.
pub(super) fn prepare(
    old: &Config,
    new: &Config,
    open: &[RunningListener],
) -> Result<Prepared, ConfigErrors> {
    let (mut steps, mut sentences) = (Vec::new(), Vec::new());
    let is_gone =
        |listener: &ListenerConfig| !new.listeners.iter().any(|other| is_same_listener(listener, other));
    let close = old.listeners.iter().zip(open).filter(|(listener, _)| is_gone(listener));
    let close: Vec<&RunningListener> = close.map(|(_, running)| running).collect();
    for listener in &new.listeners {
        let before = old.listeners.iter().position(|before| is_same_listener(before, listener));
        match before.and_then(|at| Some((&old.listeners[at], open.get(at)?))) {
            Some((before, running)) => match rules(listener, Some((before, &running.rules))) {
                Ok(rules) => steps.push(Step::Keep(running.clone(), rules)),
                Err(sentence) => sentences.push(format!("{}: {sentence}", listener.origin)),
            },
            None => match take_or_bind(listener, new, &close) {
                Ok(bound) => steps.push(Step::Open(bound)),
                Err(sentence) => sentences.push(format!("{}: {sentence}", listener.origin)),
            },
        }
    }
    if !sentences.is_empty() {
        return Err(ConfigErrors { sentences });
    }
    let close = close.iter().map(|running| Arc::clone(&running.rules.info.name)).collect();
    Ok(Prepared { steps, close })
}

/// Binds a listener. It may have the address of one of those that are to be closed.
fn take_or_bind(
    listener: &ListenerConfig,
    config: &Config,
    close: &[&RunningListener],
) -> Result<Bound, String> {
    let Bind::Tcp(wanted) = listener.bind else { return bind(listener, config) };
    let overlaps = |running: &&&RunningListener| match running.address {
        Address::Tcp(has) => {
            let same = has.ip() == wanted.ip() || has.ip().is_unspecified() || wanted.ip().is_unspecified();
            has.port() == wanted.port() && has.is_ipv4() == wanted.is_ipv4() && same
        }
        Address::Unix(_) => false,
    };
    let Some(running) = close.iter().find(overlaps) else { return bind(listener, config) };
    if wanted.ip().is_unspecified() && running.address != Address::Tcp(wanted) {
        // Bound beside others, it could not be seen that another process has a part of it.
        return Err(format!(
            "cannot listen on {wanted} while the listener {} has {}, which this reload would close; remove that one, \
             reload, add this one, and reload again",
            running.rules.info.name, running.address
        ));
    }
    bind_beside(listener, config, true)
}

impl Prepared {
    /// Closes, changes and opens. Returns the listeners in the order of the new configuration.
    pub fn commit(self, listeners: &Listeners) -> Vec<RunningListener> {
        for name in &self.close {
            listeners.unlisten(name);
        }
        let changed = self.steps.iter().filter_map(|step| match step {
            Step::Keep(running, rules) => Some((running, rules)),
            Step::Open(_) => None,
        });
        rename(&changed.collect::<Vec<_>>(), listeners);
        let step = |step: Step| match step {
            Step::Open(mut bound) => {
                let running = open(&bound);
                if let Err(error) = bound.begin() {
                    tracing::error!("listener {}: cannot listen: {error}", running.rules.info.name);
                }
                listeners.listen(bound);
                running
            }
            Step::Keep(running, rules) => RunningListener { rules, ..running },
        };
        self.steps.into_iter().map(step).collect()
    }
}

/// Gives listeners their new rules. Two listeners may exchange their names, so that those that get
/// another name get one first that no listener has.
fn rename(changed: &[(&RunningListener, &Arc<ListenerRules>)], listeners: &Listeners) {
    let mut steps = Vec::new();
    for (number, (running, rules)) in changed.iter().enumerate() {
        let name = &running.rules.info.name;
        if *name == rules.info.name {
            listeners.relisten(name, rules);
            continue;
        }
        // No name of the configuration has a control character.
        let between: Arc<str> = format!("\0{number}").into();
        let info = ListenerInfo { name: Arc::clone(&between), ..(*rules.info).clone() };
        listeners.relisten(name, &Arc::new(rules.with_info(info)));
        steps.push((between, rules));
    }
    steps.iter().for_each(|(between, rules)| listeners.relisten(between, rules));
}

/// Mode and owner of the file of a Unix socket.
fn owner(unix: &UnixOptions) -> Result<FileOwner, String> {
    let number = |name: &Option<String>, kind: &str, file: &str| {
        name.as_ref().map(|name| number_of(name, kind, file)).transpose()
    };
    Ok(FileOwner {
        mode: unix.mode.unwrap_or(UnixOptions::MODE_DEFAULT),
        user: number(&unix.owner, "user", "/etc/passwd")?,
        group: number(&unix.group, "group", "/etc/group")?,
    })
}

/// The number of a user or group, which may be written as a number.
fn number_of(name: &str, kind: &str, file: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| format!("{file} has no {kind} {name}; write a name that is there, or a number"))
}
