//! Opens, changes and closes listeners on all shards while they run, and changes the limits of the
//! shell. Used when the broker starts and when its configuration is reloaded. It binds no socket:
//! `net` does.

use std::sync::Arc;

use super::handle::{Command, ShardHandle};
use super::limits::ShellLimits;
use crate::net::{Bound, ListenerRules};

/// The listeners of all shards. Cheap to clone; any thread. Each request is queued for the shards,
/// which do it in their next turn, in the order of the calls.
#[derive(Clone, Debug)]
pub struct Listeners {
    handles: Vec<ShardHandle>,
}

impl Listeners {
    /// For the shards with these handles, in the order of their ids.
    pub fn new(handles: Vec<ShardHandle>) -> Listeners {
        Listeners { handles }
    }

    /// Makes all shards accept from a listener, each from its own socket.
    pub fn listen(&self, bound: Bound) {
        for (handle, share) in self.handles.iter().zip(bound.into_shares()) {
            handle.command(Command::Listen(vec![share]));
        }
    }

    /// Closes the sockets of the listener with this name; connections that wait in their backlog
    /// are reset. Connections that a shard has accepted stay. Nothing happens if there is no such
    /// listener.
    pub fn unlisten(&self, name: &Arc<str>) {
        self.handles.iter().for_each(|handle| handle.command(Command::Unlisten(Arc::clone(name))));
    }

    /// Gives other properties, among them the name, to the listener with this name. They hold for
    /// connections that are accepted from then on.
    pub fn relisten(&self, name: &Arc<str>, rules: &Arc<ListenerRules>) {
        let command = || Command::Relisten(Arc::clone(name), Arc::clone(rules));
        self.handles.iter().for_each(|handle| handle.command(command()));
    }

    /// Gives all shards other limits of sockets and turns. Those of buffers, lanes and acceptors
    /// that exist already do not change.
    pub fn limit(&self, limits: &Arc<ShellLimits>) {
        self.handles.iter().for_each(|handle| handle.command(Command::Limits(Arc::clone(limits))));
    }
}
