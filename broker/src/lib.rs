//! The shell of the Grapnel broker: drivers, sockets, lanes between shards, plugin loader and
//! control plane. `grapnel-engine` has the protocol logic; this crate moves bytes, envelopes and
//! requests to it and from it.

pub mod announce;
pub mod config;
pub mod control;
pub mod ctl;
pub mod fatal;
mod lock;
pub mod log;
pub mod net;
pub mod plugin;
pub mod preflight;
pub mod program;
pub mod reload;
pub mod rt;
pub mod shard;
mod transport;
mod usage;
