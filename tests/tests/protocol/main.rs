//! The guarantees of MQTT, tested from outside through real clients and raw sockets. Every
//! expectation comes from the specification; `GRAPNEL_TESTS_PEER=mosquitto` runs the same tests
//! against another broker to check the tests themselves.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod connecting;
mod malformed;
mod mosquitto_clients;
mod paho_clients;
mod publishing;
mod qos;
mod retained;
mod sessions;
mod shared;
mod subscribing;
mod wills;
