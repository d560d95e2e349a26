//! Back-pressure: which connections are not read while too many bytes wait to be sent. Called by
//! the relay per event; decides, and uses no socket.
//!
//! The baseline relay drops nothing. Bytes that a subscriber does not accept are stored, and beyond
//! a limit publishers are not read until they have been accepted, so that TCP slows the publishers
//! down. One subscriber that never reads stops every publisher.

use super::relay::Relay;

/// Limit of stored message bytes for all connections together. Above it publishers are not read,
/// and below half of it they are read again. What one turn has read beyond the limit is stored all
/// the same.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same limit for one connection, which is then not read itself: for a client that sends
/// requests and does not read.
const OWN_BYTES_MAX: usize = 1024 * 1024;

/// The state of the back-pressure.
#[derive(Debug, Default)]
pub struct Flow {
    /// Connections that are not read.
    pub paused: Vec<u32>,
    /// Bytes that sockets have not accepted, over all connections.
    left_over: usize,
}

impl Flow {
    /// The unsent bytes of a connection have changed from `counted` to `now`.
    pub fn count_left_over(&mut self, counted: &mut usize, now: usize) {
        self.left_over = self.left_over - *counted + now;
        *counted = now;
    }

    /// Whether a readable connection with `own` stored bytes must not be read.
    #[inline]
    pub fn must_pause(&self, own: usize, relay: &mut Relay, index: u32) -> bool {
        own > OWN_BYTES_MAX || self.holds_publisher(KEPT_BYTES_MAX, relay, index)
    }

    /// Whether a paused connection must stay paused.
    pub fn must_stay_paused(&self, own: usize, relay: &mut Relay, index: u32) -> bool {
        own > OWN_BYTES_MAX / 2 || self.holds_publisher(KEPT_BYTES_MAX / 2, relay, index)
    }

    fn holds_publisher(&self, kept_bytes_max: usize, relay: &mut Relay, index: u32) -> bool {
        if self.left_over + relay.out.waiting_bytes() <= kept_bytes_max {
            return false;
        }
        let peer = relay.peer(index);
        // Waiting messages are sent only if their acknowledgements are read.
        peer.publishes && peer.waiting_bytes() == 0
    }

    /// Whether so many bytes wait for one connection's acknowledgements that it must be closed. A
    /// pause cannot help, and such a connection is never paused for this: a client that publishes
    /// to itself and does not acknowledge.
    pub fn has_too_many_unacknowledged_bytes(waiting_bytes: usize) -> bool {
        waiting_bytes > 2 * KEPT_BYTES_MAX
    }
}
