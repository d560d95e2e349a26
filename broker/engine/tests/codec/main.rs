//! Tests of the wire codec through its API: one table of valid packets and one of broken packets
//! that all tests use, round trips of generated packets, and two other codecs as oracles. They use
//! no socket and no clock.
#![allow(clippy::unwrap_used, missing_docs)]

mod differential;
mod fast_path;
mod identity;
mod malformed;
mod notation;
mod table;
mod table_v5;
