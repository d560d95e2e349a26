//! Every client: what MQTT users do every day, done by the clients they have, against a real broker. Each capability is
//! written once (`scenarios.rs`) and run with each client in each version (`matrix.rs`); what a client's library refuses is
//! listed in `refusals.rs`, asserted by the very test that runs into it, and published as `tests/CLIENTS.md`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod clients_md;
mod driver;
mod link;
mod matrix;
mod mosquitto;
mod refusals;
mod rumqttc;
mod scenarios;
mod scripted;
