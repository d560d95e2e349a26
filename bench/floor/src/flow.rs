//! Back-pressure: whose connection is not read while too much waits to be sent. Called by `floor` per event; decides,
//! and touches no socket.
//!
//! The floor drops nothing. What a subscriber does not take is kept, and beyond a bound publishers are not read until
//! it has been taken, so that TCP slows them down. One subscriber that never reads stops every publisher.

use super::relay::Relay;

/// Bytes of messages kept for all connections together above which publishers are held, and below half of which they
/// are read again. What one turn has read beyond it is kept all the same.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same for what is kept for one connection, and holds that connection: a client that asks and does not read.
const OWN_BYTES_MAX: usize = 1024 * 1024;

/// The state of it.
#[derive(Debug, Default)]
pub struct Flow {
    /// Connections that are not read.
    pub paused: Vec<u32>,
    /// Bytes that sockets have not taken, over all connections.
    left_over: usize,
    appended: usize,
}

impl Flow {
    /// Adds bytes appended; answers how many that makes in this turn.
    #[inline]
    pub fn add_appended(&mut self, bytes: usize) -> usize {
        self.appended += bytes;
        self.appended
    }

    /// Everything appended was tried to send.
    pub fn turn_ends(&mut self) {
        self.appended = 0;
    }

    /// What is left over for a connection has changed from `counted` to `now`.
    pub fn count_left_over(&mut self, counted: &mut usize, now: usize) {
        self.left_over = self.left_over - *counted + now;
        *counted = now;
    }

    /// Whether a connection for which `own` bytes are kept is to be held now that it could be read.
    #[inline]
    pub fn must_pause(&self, own: usize, relay: &mut Relay, index: u32) -> bool {
        own > OWN_BYTES_MAX || self.holds_publisher(KEPT_BYTES_MAX, relay, index)
    }

    /// Whether a connection that is held stays so.
    pub fn must_stay_paused(&self, own: usize, relay: &mut Relay, index: u32) -> bool {
        own > OWN_BYTES_MAX / 2 || self.holds_publisher(KEPT_BYTES_MAX / 2, relay, index)
    }

    fn holds_publisher(&self, kept_bytes_max: usize, relay: &mut Relay, index: u32) -> bool {
        if self.left_over + relay.out.waiting_bytes() <= kept_bytes_max {
            return false;
        }
        let peer = relay.peer(index);
        // Messages that wait for acknowledgements leave only if these are read.
        peer.publishes && peer.waiting_bytes() == 0
    }

    /// Whether so much waits for one connection's acknowledgements that holding it cannot be the answer (it is never
    /// held for that) and closing it must be: a client that publishes to itself and does not acknowledge.
    pub fn is_beyond_help(waiting_bytes: usize) -> bool {
        waiting_bytes > 2 * KEPT_BYTES_MAX
    }
}
