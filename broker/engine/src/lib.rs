//! The decisions of the Grapnel broker and none of its I/O: codec, sessions, hook chains, routing and queues.
//!
//! The shell (crate `grapnel`) feeds it bytes, envelopes, completions and the time, and carries away what it leaves in the
//! outbox. Nothing here opens a socket, reads a clock, starts a thread or awaits.
#![forbid(unsafe_code)]

pub mod codec;
pub mod delivery;
pub mod hook;
pub mod id;
pub mod limits;
pub mod message;
pub mod packet;
pub mod pipeline;
pub mod reason;
pub mod route;
pub mod session;
pub mod time;
pub mod timer;
pub mod topic;
