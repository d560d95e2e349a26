//! A simulator of the engine: random clients, plugins and lanes on 1 to 8 shards, from a seed, with
//! a model that computes what must hold. It uses no sockets, no sleeps and no clock. See
//! `shrink.rs` for a run, `op.rs` for the operations, `judge.rs` for the rules.
#![allow(missing_docs, clippy::unwrap_used)]

mod apply;
mod client;
mod engine;
mod generate;
mod judge;
mod known_faults;
mod model;
mod op;
mod plugins;
mod quiesce;
mod random;
mod receive;
mod runs;
mod settings;
mod shrink;
mod steer;
mod wire;
mod world;
