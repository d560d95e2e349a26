//! Shards as the shell runs them: one thread, one executor and one engine each. `start` makes them, `handle` is how other
//! threads reach them; the rest is what happens on a shard's own thread.

mod acceptor;
mod alarm;
mod closings;
mod conn;
mod connection;
pub mod handle;
pub mod limits;
mod mesh;
mod outbox;
pub mod pulse;
mod rest;
mod slow;
pub mod start;
mod state;
pub mod supervise;
mod turn;
pub mod watchdog;

#[cfg(test)]
mod tests;
