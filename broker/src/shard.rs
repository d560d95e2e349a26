//! Shards of the shell: each has a thread, a driver and an engine. `start` makes them, and other
//! threads reach them through `handle`; the rest runs on the shard's own thread.

mod acceptor;
mod alarm;
mod conn;
mod connection;
mod decode;
pub mod handle;
pub mod heartbeat;
mod layered;
pub mod limits;
pub mod listeners;
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
