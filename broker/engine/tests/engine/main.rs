//! The engine as clients see it, on 1 to 8 shards, without sockets and without sleeps.
#![allow(missing_docs, clippy::unwrap_used)]

mod authority;
mod commands;
mod deferral;
mod exchange;
mod folds;
mod hooks;
mod points;
mod sessions;
mod subscriptions;
mod table;
mod undone;
mod walks;
mod world;
