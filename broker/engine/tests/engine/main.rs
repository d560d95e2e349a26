//! The engine as clients see it, on 1 to 8 shards, without sockets and without sleeps.
#![allow(missing_docs, clippy::unwrap_used)]

mod authority;
mod commands;
mod connecting;
mod deferral;
mod exchange;
mod folds;
mod holding;
mod hooks;
mod lanes;
mod memory;
mod offers;
mod ownership;
mod points;
mod pressure;
mod publishing;
mod retained;
mod sessions;
mod subscribing;
mod subscriptions;
mod table;
mod undone;
mod verdicts;
mod walks;
mod world;
