//! A simulator of the engine: random clients, plugins and lanes on 1 to 8 shards, from a seed, with
//! a model that computes what must hold. It uses no sockets, no sleeps and no clock. See
//! `shrink.rs` for a run, `op.rs` for the operations, `checker.rs` for the rules.
#![allow(missing_docs, clippy::unwrap_used)]

mod apply;
mod checker;
mod client;
mod engine;
mod generate;
mod known_faults;
mod model;
mod op;
mod plugin_ops;
mod plugins;
mod quiesce;
mod random;
mod receive;
mod runs;
mod settings;
mod shrink;
mod wire;
mod world;
