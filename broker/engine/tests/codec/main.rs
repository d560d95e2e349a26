//! The wire codec from outside: one table of packets and one of broken packets that every test here reads, round trips of
//! generated packets, and two other codecs as oracles. Needs no socket and no clock.
#![allow(clippy::unwrap_used, missing_docs)]

mod differential;
mod fast_path;
mod identity;
mod malformed;
mod notation;
mod table;
mod table_v5;
