//! What plugin authors use: a [`Plugin`] with an instance per shard, typed events, tickets, and the
//! [`plugin!`](crate::plugin) macro that exports it. It is compiled into every plugin; the broker
//! uses none of it.

mod account;
mod address;
mod behalf;
mod client;
mod config;
mod connack;
mod drop_queue;
mod error;
mod event;
mod export;
mod fetched;
mod filter;
mod host;
mod message;
mod message_end;
mod metric;
mod mounting;
mod outgoing;
mod pieces;
mod reason;
mod session;
mod shares;
mod ticket;
mod verb;
mod watch;
mod weigh;

use std::fmt::Display;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub(crate) use account::account_of;
pub use address::address_share;
pub use behalf::{Answer, ClientAction, Identity, OnBehalf};
pub use client::{Action, Authenticate, Authorize, Connect, Connected, Disconnected, Verdict, Will};
pub use config::NoConfig;
pub use connack::Connack;
pub use drop_queue::DropQueue;
pub use error::{Error, Refused};
pub use event::Context;
pub use export::{Exported, HookEvent, MountSpec, hook_name, module, plugin_name, run_hook};
pub use fetched::{Fetch, Fetched, FetchedMessage};
pub use filter::{Filter, Subscribe, Unsubscribe};
pub use host::{Host, Level, RecheckScope};
pub use message::{Delivered, Disposition, Publish};
pub use metric::{Counter, Gauge, GaugePart, Histogram};
pub use mounting::{HookCalls, HookId, Mounting};
pub use notifications::*;
pub use outgoing::Outgoing;
pub(crate) use pieces::entries_of;
pub use pieces::{Entries, Journal, Pieces, StateKey};
pub use reason::Reason;
pub use shares::{EVICTED_AT_ONCE, EntryId, Full, Rejected, ShareLimits, Shares};
pub use ticket::{AuthenticateTicket, AuthorizeTicket, ConnectTicket, FiltersTicket, PublishTicket};
pub use verb::{
    ArgumentType, Arguments, HookInfo, NoArguments, PluginInfo, Secret, VerbCall, VerbError, Verbs,
};
pub use weigh::{Weigh, allocated, tree_entry_bytes};

/// Events of the points that only notify, with their getters. A new event in one of these files
/// needs no other line here.
pub mod notifications {
    pub use super::message_end::*;
    pub use super::session::*;
    pub use super::watch::*;
}

/// The shared part of a plugin: made once when the plugin is loaded, and used by the instances of
/// all shards.
///
/// Each shard has its own instance of [`Plugin::Shard`]. Hooks get the instance as `&mut self`, so
/// that data of one shard needs no lock. Data that all shards read belongs into the shared part.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The plugin's configuration, read with serde from `[plugins.NAME] config` or from ctl.
    /// [`NoConfig`] if there is nothing to configure. A key that the struct does not have is
    /// refused.
    type Config: DeserializeOwned;

    /// The instance of one shard. It never leaves its shard's thread.
    type Shard: 'static;

    /// Makes the shared part. May do I/O. During a reload the old version still runs: take
    /// exclusive resources, such as a port, in [`Plugin::activate`].
    ///
    /// # Errors
    /// Any; the plugin is then not loaded, and the operator gets the text.
    fn load(config: Self::Config, host: &Host) -> Result<Self, Error>;

    /// Makes the instance of one shard, on that shard's thread. No I/O and nothing slow: the
    /// clients of the shard wait meanwhile.
    ///
    /// # Errors
    /// Any; the plugin is then not loaded, and the operator gets the text.
    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<Self::Shard, Error>;

    /// Called after `load` and every `init_shard`. After it, every shard calls the hooks.
    ///
    /// # Errors
    /// Any; the plugin is then unloaded again, and the operator gets the text.
    fn activate(self: &Arc<Self>) -> Result<(), Error> {
        Ok(())
    }

    /// Called when no shard calls the hooks any more. Release what `activate` took.
    fn deactivate(self: &Arc<Self>) {}

    /// Names of plugins that must be loaded before this one.
    const DEPENDS: &'static [&'static str] = &[];

    /// Whether the library may be unmapped once no code of it runs. True only if the plugin has no
    /// thread of its own and no thread-local with a destructor.
    const CLOSABLE: bool = false;

    /// Whether the plugin may be loaded again from code that is already mapped, while an earlier
    /// load still runs. A reload of an unchanged file then maps nothing new. Set it to false if a
    /// static or a thread-local belongs to one load, for example one that stores the [`Host`] or
    /// the configuration.
    const IN_PLACE: bool = true;

    /// JSON Schema of [`Plugin::Config`], for tools and for `plugins check`. The broker checks the
    /// configuration against it before `load`.
    fn config_schema() -> Option<String> {
        None
    }

    /// The verbs that the plugin adds to `grapnel-ctl`. Called for each listing and each call of a
    /// verb: no I/O.
    fn verbs() -> Verbs<Self> {
        Verbs::new()
    }

    /// A timer that the instance set with [`Host::timer`] is due. If it falls due while the plugin
    /// is disabled or tripped, it is called when hooks are called again.
    fn on_timer(shard: &mut Self::Shard, timer: Timer, number: u64) {
        let _ = (shard, timer, number);
    }

    /// An instance message from another instance of this plugin, or from one of its threads
    /// ([`Host::instance_message`]). Messages that are sent while the plugin is disabled or tripped
    /// are delivered when hooks are called again. After a reload, messages from threads of the old
    /// version are delivered to this instance if it has taken over the state; otherwise they are
    /// dropped.
    fn on_instance_message(shard: &mut Self::Shard, message: &InstanceMessage<'_>) {
        let _ = (shard, message);
    }

    /// The result of a request on behalf of a client, if a notification was requested
    /// ([`OnBehalf::answered`], [`Host::authorize_as`]). Called on the shard of the client, once
    /// for each accepted request. After a reload, results for the old version are delivered to this
    /// instance if it has taken over the state; otherwise they are dropped.
    fn on_answer(shard: &mut Self::Shard, answer: Answer) {
        let _ = (shard, answer);
    }

    /// A page of retained messages that was requested with [`Host::fetch_as`]. Called on the shard
    /// of the client. If the request is refused, [`Plugin::on_answer`] is called instead.
    fn on_fetched(shard: &mut Self::Shard, page: &Fetched<'_>) {
        let _ = (shard, page);
    }

    /// The instance's state, for the version that replaces it; `None` if there is nothing to hand
    /// over. The instance goes on as before, because the reload may be cancelled.
    ///
    /// # Errors
    /// Any; the reload is cancelled, and the operator gets the text.
    fn export_state(shard: &Self::Shard) -> Result<Option<Vec<u8>>, Error> {
        let _ = shard;
        Ok(None)
    }

    /// Takes over the state that the old version exported on this shard; returns whether it was
    /// used. May be called again with newer bytes, which replace the earlier ones.
    ///
    /// # Errors
    /// Any; the reload is cancelled, and the operator gets the text.
    fn import_state(shard: &mut Self::Shard, state: &[u8]) -> Result<bool, Error> {
        let _ = (shard, state);
        Ok(false)
    }

    /// The state of the instance as entries, to transfer it in pieces; `Some(shard)` if the
    /// instance implements [`Entries`]. The broker then uses `export_state` and `import_state` only
    /// if the other version does not support pieces. Use pieces for any state that may grow:
    /// `export_state` writes everything in one step while the clients of the shard wait, and
    /// `state_bytes_max` limits its size.
    fn pieces(shard: &mut Self::Shard) -> Option<&mut dyn Pieces> {
        let _ = shard;
        None
    }

    /// Applies a new configuration to the running plugin. By default, and if it returns
    /// [`Configured::Reload`], the broker reloads the plugin with the new configuration.
    ///
    /// # Errors
    /// Any; the old configuration stays in force, and the operator gets the text.
    fn configure(self: &Arc<Self>, config: Self::Config) -> Result<Configured, Error> {
        let _ = config;
        Ok(Configured::Reload)
    }

    /// Called on each shard after [`Plugin::configure`], so that the instance can read the shared
    /// part again.
    ///
    /// Also called when the operator unmounts or remounts hooks of this plugin, or when the plugin
    /// is disabled or tripped, if that changes which hooks about connections and sessions are
    /// called: `client.connack`, `client.connected`, `client.disconnected`, and `session.` created,
    /// resumed, discarded, takenover and terminated. The instance then misses events or has missed
    /// some. It is not called for hooks that the plugin itself mounts or unmounts. It is called
    /// before the hooks are. After a reload of a tripped plugin it is called for the new instance,
    /// after the state is taken over. [`Host::hook_calls`] says which hooks have changed.
    fn configured(self: &Arc<Self>, shard: &mut Self::Shard) {
        let _ = shard;
    }
}

/// The result of a new configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Configured {
    /// It is in force.
    Taken,
    /// It can only be applied by a reload.
    Reload,
}

/// A timer of a shard's instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timer(u64);

impl Timer {
    pub(crate) const fn new(number: u64) -> Timer {
        Timer(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

/// Bytes from another instance of the plugin, or from one of its threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstanceMessage<'a> {
    /// The shard of the sender; `None` for a thread of the plugin.
    pub from_shard: Option<u32>,
    /// The number that the sender passed.
    pub number: u64,
    /// The bytes; a copy made by the broker.
    pub bytes: &'a [u8],
}

/// What a hook returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Continue with the next plugin; the changes of this hook apply.
    Continue,
    /// End the chain; the changes of this hook apply.
    Stop,
    /// The verdict comes later, through the ticket that this call took with `defer`.
    Defer,
    /// No verdict, for example because a process or a database that the plugin uses cannot be
    /// reached. The fault policy decides, and what was granted before stays granted. It does not
    /// count towards the plugin's breaker. The changes of this hook are discarded.
    Unanswered,
}

/// What a hook method may return: [`Flow`], nothing (which means Continue), or a `Result` of these.
/// An error is a fault: the hook's changes are discarded, the fault policy of the hook point
/// applies, and the error is logged.
pub trait IntoFlow {
    /// The flow, or the error.
    ///
    /// # Errors
    /// The text of the hook's own error.
    fn into_flow(self) -> Result<Flow, String>;
}

impl IntoFlow for Flow {
    fn into_flow(self) -> Result<Flow, String> {
        Ok(self)
    }
}

impl IntoFlow for () {
    fn into_flow(self) -> Result<Flow, String> {
        Ok(Flow::Continue)
    }
}

impl<E: Display> IntoFlow for Result<Flow, E> {
    fn into_flow(self) -> Result<Flow, String> {
        self.map_err(|error| error.to_string())
    }
}

impl<E: Display> IntoFlow for Result<(), E> {
    fn into_flow(self) -> Result<Flow, String> {
        self.map(|()| Flow::Continue).map_err(|error| error.to_string())
    }
}
