//! What plugins may do under load: come and go, and answer later. Every message and every client is judged, rates and times are
//! printed and never asserted.
#![allow(clippy::print_stderr, reason = "the tests say what load they made and how fast it went")]

mod deferred;
mod reloads;
