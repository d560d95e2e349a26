//! What plugin authors use: a [`Plugin`] with its instance per shard, typed events, tickets, and the [`plugin!`](crate::plugin)
//! macro that exports it. It is compiled into every plugin; the broker uses none of it.

mod client;
mod config;
mod error;
mod event;
mod export;
mod filter;
mod host;
mod message;
mod reason;
mod ticket;

use std::fmt::Display;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use client::{Action, Authenticate, Authorize, Connect, Connected, Disconnected, Notice, Verdict};
pub use config::NoConfig;
pub use error::{Error, Refused};
pub use event::Context;
pub use export::{Exported, HookEvent, MountSpec, hook_name, module, plugin_name, run_hook};
pub use filter::{Filter, Subscribe};
pub use host::{Host, Level};
pub use message::{Delivered, Publish};
pub use reason::Reason;
pub use ticket::{AuthenticateTicket, PublishTicket};

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
