//! Everyday use of MQTT with the client libraries that users have, against a real broker. Each
//! capability is written once (`scenarios.rs`) and run with each client in each version
//! (`matrix.rs`). What a client's library refuses is listed in `refusals.rs`, asserted by the test
//! that meets it, and published as `tests/CLIENTS.md`.
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
