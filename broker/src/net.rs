//! Listening sockets, and what the shell does to sockets without the runtime: bind, accept, send,
//! close. Called by `program` for listeners and by `shard` for the rest; nothing here blocks.

mod listen;
mod watch;
mod wire;

pub(crate) use listen::{Accepted, accept, descriptors_for_clients, refused_for_descriptors};
pub use listen::{Bound, Listen, ListenError, Listening, bind};
pub(crate) use watch::{Closed, Watch};
pub(crate) use wire::{Sent, end_sending, send, unread_bytes};
