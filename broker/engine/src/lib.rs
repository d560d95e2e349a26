//! The decisions of the Grapnel broker without its I/O: codec, sessions, hook chains, routing and
//! queues.
//!
//! The shell (crate `grapnel`) passes in bytes, envelopes, completions and the time, and takes the
//! results from the outbox. This crate opens no socket, reads no clock, starts no thread and
//! waits for nothing.
#![forbid(unsafe_code)]

pub mod address;
pub mod chunk_table;
mod clients;
mod clock;
pub mod codec;
mod counters;
pub mod delivery;
mod envelope;
mod flow;
pub mod hook;
pub mod id;
mod interface;
mod ledger;
pub mod limits;
pub mod log_rate;
pub mod message;
mod mount_point;
mod on_demand;
mod outbox;
pub mod packet;
mod parts;
mod plugins;
pub mod reason;
mod recheck_queue;
pub mod route;
mod rules;
mod run_queue;
pub mod session;
pub mod shard;
mod shared_message;
mod shrink;
pub mod time;
pub mod timer;
pub mod topic;
mod totals;
mod traces;
mod transport;
mod work;
