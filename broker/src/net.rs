//! Listening sockets, and what the shell does to sockets without the runtime: bind, accept, send,
//! close. Called by `program` for listeners and by `shard` for the rest; nothing here blocks.

mod address;
mod listen;
mod rules;
mod wire;

pub use address::{Address, FileOwner, SocketFile};
pub(crate) use listen::{Accepted, accept, descriptors_for_clients, refused_for_descriptors};
pub use listen::{Bound, Listen, ListenError, Listening, bind};
pub(crate) use rules::ListenerPlace;
pub use rules::{LayerRules, ListenerCounts, ListenerRules, SocketOptions};
pub(crate) use rules::{count_refused_by_listener, refused_by_listener};
pub(crate) use wire::{Sent, end_sending, send, send_bytes, unread_bytes, unsent_bytes};
