//! What plugin authors use: a [`Plugin`] with an instance per shard, typed events, tickets, and the
//! [`plugin!`](crate::plugin) macro that exports it. It is compiled into every plugin; the broker
//! uses none of it.

mod address;
mod aftermath;
mod behalf;
mod client;
mod config;
mod connack;
mod error;
mod event;
mod export;
mod fetched;
mod filter;
mod host;
mod leftovers;
mod message;
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

pub use address::address_share;
pub use behalf::{Answer, Identity, OnBehalf, Wish};
pub use client::{Action, Authenticate, Authorize, Connect, Connected, Disconnected, Verdict, Will};
pub use config::NoConfig;
pub use connack::Connack;
pub use error::{Error, Refused};
pub use event::Context;
pub use export::{Exported, HookEvent, MountSpec, hook_name, module, plugin_name, run_hook};
pub use fetched::{Fetch, Fetched, FetchedMessage};
pub use filter::{Filter, Subscribe, Unsubscribe};
pub use host::{Host, Level, Whose};
pub use leftovers::Leftovers;
pub use message::{Delivered, Disposition, Publish};
pub use metric::{Counter, Gauge, GaugePart, Histogram};
pub use mounting::{HookId, Mounting};
pub use notifications::*;
pub use outgoing::Outgoing;
pub(crate) use pieces::entries_of;
pub use pieces::{Entries, Journal, Pieces, StateKey};
pub use reason::Reason;
pub use shares::{EVICTED_AT_ONCE, EntryId, Full, Rejected, ShareLimits, Shares};
pub use ticket::{AuthenticateTicket, AuthorizeTicket, ConnectTicket, FiltersTicket, PublishTicket};
pub use verb::{
    AboutPlugin, ArgumentType, Arguments, HookAbout, NoArguments, Secret, VerbCall, VerbError, Verbs,
};
pub use weigh::{Weigh, allocated, tree_entry_bytes};

/// Events of the points that only notify, with what they show: an event that is added to a file of these needs no
/// other line.
pub mod notifications {
    pub use super::aftermath::*;
    pub use super::session::*;
    pub use super::watch::*;
}

/// A plugin's shared part: made once when it is loaded, and used by the instances of all shards.
///
/// Each shard has an instance of [`Plugin::Shard`] of its own, which its hooks get as `&mut self`: no lock is needed for what
/// belongs to one shard. What all shards read belongs into the shared part.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// What the operator configures, read with serde from `[plugins.NAME] config` or from ctl. [`NoConfig`] where there is
    /// nothing to configure. A key that the struct does not have is refused.
    type Config: DeserializeOwned;

    /// The instance of one shard. It never leaves its shard's thread.
    type Shard: 'static;

    /// Makes the shared part. May do I/O. While a plugin is reloaded its older version still runs: take exclusive resources,
    /// such as a port, in [`Plugin::activate`].
    ///
    /// # Errors
    /// Any; the plugin is then not loaded, and the operator reads the text.
    fn load(config: Self::Config, host: &Host) -> Result<Self, Error>;

    /// Makes the instance of one shard, on its thread: no I/O and nothing slow, since the shard's clients wait.
    ///
    /// # Errors
    /// Any; the plugin is then not loaded, and the operator reads the text.
    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<Self::Shard, Error>;

    /// From now on every shard calls the hooks. Called after `load` and every `init_shard`.
    ///
    /// # Errors
    /// Any; the plugin is then taken out again, and the operator reads the text.
    fn activate(self: &Arc<Self>) -> Result<(), Error> {
        Ok(())
    }

    /// No shard calls the hooks any more. Give back what `activate` took.
    fn deactivate(self: &Arc<Self>) {}

    /// Names of plugins that must be loaded before this one.
    const DEPENDS: &'static [&'static str] = &[];

    /// Whether the library may be unmapped once it is proven quiet: no thread of its own, no thread-local with a destructor.
    const CLOSABLE: bool = false;

    /// Whether the plugin may be loaded again over the code that is mapped already, beside a load that still runs: a reload whose file
    /// has not changed then maps nothing new. False where a static or a thread-local of the plugin belongs to one load, as one that
    /// keeps the [`Host`] or what the operator configured.
    const IN_PLACE: bool = true;

    /// JSON Schema of [`Plugin::Config`], for tools and for `plugins check`; what it says is checked before `load`.
    fn config_schema() -> Option<String> {
        None
    }

    /// The verbs that the plugin adds to `grapnel-ctl`. Called whenever they are listed or one of them is called: no I/O.
    fn verbs() -> Verbs<Self> {
        Verbs::new()
    }

    /// A timer that the instance armed with [`Host::timer`] is due. One that falls due while the plugin is disabled or tripped comes
    /// when it is called again.
    fn on_timer(shard: &mut Self::Shard, timer: Timer, number: u64) {
        let _ = (shard, timer, number);
    }

    /// An instance message from another instance of this plugin, or from a thread of it ([`Host::instance_message`]). What is sent while the plugin is disabled or
    /// tripped comes when it is called again. What threads of the version before still send comes to this one where it has taken over
    /// its state; else nobody gets it.
    fn on_instance_message(shard: &mut Self::Shard, message: &InstanceMessage<'_>) {
        let _ = (shard, message);
    }

    /// What became of something that the plugin asked for on behalf of a client and wanted to be told of
    /// ([`OnBehalf::answered`], [`Host::authorize_as`]). Called on the shard of the client, once for each that was taken. What the
    /// version before is still owed comes to this one where it has taken over its state; else nobody is told.
    fn on_answer(shard: &mut Self::Shard, answer: Answer) {
        let _ = (shard, answer);
    }

    /// A page of retained messages that the plugin has asked for on behalf of a client ([`Host::fetch_as`]); one that is refused comes
    /// to [`Plugin::on_answer`]. Called on the shard of the client.
    fn on_fetched(shard: &mut Self::Shard, page: &Fetched<'_>) {
        let _ = (shard, page);
    }

    /// What the instance knows, for the version that replaces it: `None` where there is nothing to hand over. The instance goes
    /// on as before, because the reload may be called off.
    ///
    /// # Errors
    /// Any; the reload is called off, and the operator reads the text.
    fn export_state(shard: &Self::Shard) -> Result<Option<Vec<u8>>, Error> {
        let _ = shard;
        Ok(None)
    }

    /// Takes over what the version before exported on this shard; whether it was wanted. May be called again with newer bytes,
    /// which replace what came before.
    ///
    /// # Errors
    /// Any; the reload is called off, and the operator reads the text.
    fn import_state(shard: &mut Self::Shard, state: &[u8]) -> Result<bool, Error> {
        let _ = (shard, state);
        Ok(false)
    }

    /// The state of the instance as entries, where it is to go over in pieces; `Some(shard)` where the instance implements [`Entries`].
    /// `export_state` and `import_state` are then asked only where the other version knows no pieces. It is right for whatever may
    /// grow: with `export_state` all is written in one step, for which the clients of the shard wait, and `state_bytes_max` bounds it.
    fn pieces(shard: &mut Self::Shard) -> Option<&mut dyn Pieces> {
        let _ = shard;
        None
    }

    /// Takes a new configuration into the running plugin. Without it, and where it answers [`Configured::Reload`], the broker
    /// reloads the plugin with the new configuration.
    ///
    /// # Errors
    /// Any; the configuration before it stays, and the operator reads the text.
    fn configure(self: &Arc<Self>, config: Self::Config) -> Result<Configured, Error> {
        let _ = config;
        Ok(Configured::Reload)
    }

    /// After [`Plugin::configure`], on each shard: the instance looks at the shared part again. Also where other hooks of the plugin
    /// about the life of connections and sessions are called than before (`client.connack`, `client.connected`,
    /// `client.disconnected`, and `session.` created, resumed, discarded, takenover and terminated), because the operator has taken
    /// some out or put them back, or the plugin was disabled or tripped: it misses events, or has missed some. What the plugin mounts
    /// or unmounts itself is not told. It is called before the hooks are; after a reload of a plugin that was tripped, for the new
    /// instance, behind the state that it takes over.
    fn configured(self: &Arc<Self>, shard: &mut Self::Shard) {
        let _ = shard;
    }
}

/// What became of a new configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Configured {
    /// It is in force.
    Taken,
    /// It can only be taken by a reload.
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
    /// The shard it comes from; `None` for a thread of the plugin's.
    pub from_shard: Option<u32>,
    /// What the sender gave with it.
    pub number: u64,
    /// The bytes, which the broker has copied.
    pub bytes: &'a [u8],
}

/// What a hook returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Go on with the next plugin; what this hook changed is kept.
    Continue,
    /// End the chain; what this hook changed is kept.
    Stop,
    /// The answer comes later, through the ticket that this call took with `defer`.
    Defer,
    /// Nobody has answered, as where a process or a database that the plugin asks is away: the fault policy decides, what was
    /// granted before stays, and it does not count towards the plugin's breaker. What this hook changed is thrown away.
    Unanswered,
}

/// What a hook method may return: [`Flow`], nothing (which means Continue), or a `Result` of these. An error is a fault: the
/// hook's changes are thrown away, the fault policy of the hook point holds, and the error is logged.
pub trait IntoFlow {
    /// The flow, or what went wrong.
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
