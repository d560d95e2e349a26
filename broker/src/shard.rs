//! Shards of the shell: each has a thread, an executor and an engine. `start` makes them, and other
//! threads reach them through `handle`; the rest runs on the shard's own thread.

mod acceptor;
mod alarm;
mod closings;
mod conn;
mod connection;
pub mod handle;
pub mod heartbeat;
pub mod limits;
mod mesh;
mod outbox;
mod read_buffer;
mod slow;
pub mod start;
mod state;
pub mod supervise;
mod turn;
pub mod watchdog;

#[cfg(test)]
mod tests;
