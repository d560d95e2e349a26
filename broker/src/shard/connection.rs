//! What a shard does with one connection: offers received bytes to the engine, sends the rest after
//! a full socket has room, and sends the last bytes. Called by the shard's loop for each event of
//! the driver, and for connections that are to be continued without one.

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Ended, Outbound, Reading};

use super::conn::{Flushed, Leaving, Phase, Token, flush_through};
use super::read_buffer::Step;
use super::state::State;
use crate::net;
use crate::rt::{self, Chunk, Event, Release};

/// Bytes that are offered to the engine before what it has to send is sent.
const FLUSH_BYTES: usize = 64 << 10;
/// Connections with bytes to send, beyond which these are sent at once.
const FLUSH_CONNECTIONS: usize = 64;

impl State {
    /// Handles the events that the driver has collected by now. Those that come meanwhile wait for
    /// the next round, so that each round ends.
    pub(super) fn take_events(&mut self) {
        for _ in 0..self.driver.collected() {
            let Some(event) = self.driver.next_event() else { return };
            self.begin();
            match event {
                Event::Received { owner, chunk } => self.received(owner, chunk),
                Event::Ended { owner } => self.ended(owner),
                Event::Closed { owner, broken } => self.closed_unread(owner, broken),
                Event::Room { owner } => self.has_room(owner),
                Event::Released { owner, socket } => self.released(owner, socket),
                Event::Waiting { listener } => self.connection_waits(listener),
            }
            self.flush_if_much();
        }
    }

    /// Continues the connections that are listed, each once.
    pub(super) fn continue_listed(&mut self) {
        for _ in 0..self.listed.len() {
            let Some(token) = self.listed.pop_front() else { return };
            // The connection may have ended, and another one may have its token.
            if self.conns.get_mut(token).is_some_and(|conn| std::mem::take(&mut conn.listed)) {
                self.begin();
                self.go_on(token);
                self.flush_if_much();
            }
        }
    }

    /// Sends what the engine has to send before more is read, if it is much: otherwise it is sent
    /// once for all events of a round.
    fn flush_if_much(&mut self) {
        let many = self.engine.outbox().dirty.len() >= FLUSH_CONNECTIONS;
        if self.offered_bytes >= FLUSH_BYTES || many && !self.engine.has_work() {
            self.empty_outbox();
        }
    }

    /// Sends what the engine has to send, at the end of a round. If it has a large fan-out under
    /// way, or a publisher goes on after one, the next round makes more of it first, so that each
    /// connection gets both with one call; but not twice in succession.
    pub(super) fn flush(&mut self) {
        let more = self.engine.has_work() || !self.engine.outbox().resume.is_empty();
        if more && !std::mem::replace(&mut self.postponed, true) {
            self.turn_due = true;
        } else {
            self.postponed = false;
            self.empty_outbox();
        }
    }

    fn go_on(&mut self, token: Token) {
        let conn = &mut self.conns[token];
        match conn.phase {
            Phase::Serving => {
                if conn.layered.as_ref().is_some_and(|layered| !layered.held.is_empty()) {
                    self.decode(token, None);
                } else if conn.reading == Reading::Reading && std::mem::take(&mut conn.resumed) {
                    // What had arrived in time is offered with this; the engine begins anew to count.
                    self.offer(token, &Input::Nothing, u64::MAX);
                }
            }
            Phase::Lingering(_) => self.linger(token),
            Phase::Leaving(_) => {}
            Phase::Ended => self.remove(token),
        }
    }

    fn received(&mut self, token: Token, chunk: Chunk) {
        if let Some(conn) = self.conns.get_mut(token) {
            match &mut conn.phase {
                Phase::Serving | Phase::Leaving(_) if conn.layered.is_some() => {
                    self.decode(token, Some(&chunk));
                }
                Phase::Serving if conn.reading == Reading::Reading && !conn.resumed => {
                    self.offer(token, &Input::Chunk(&chunk), chunk.len() as u64);
                }
                // Received before the driver stopped reading: it is offered later.
                Phase::Serving => {
                    conn.read_buffer.hold(self.driver.bytes(&chunk));
                    self.engine.charge_read_buffer(conn.key, conn.memory());
                }
                Phase::Leaving(leaving) => leaving.unread.extend_from_slice(self.driver.bytes(&chunk)),
                Phase::Lingering(linger) => {
                    linger.read_bytes += chunk.len() as u64;
                    if linger.read_bytes > self.config.limits.linger_read_bytes_max {
                        self.end(token);
                    }
                }
                Phase::Ended => {}
            }
        }
        self.driver.give_back(chunk);
    }

    /// Called when nothing more will be received.
    fn ended(&mut self, token: Token) {
        let Some(conn) = self.conns.get(token) else { return };
        match conn.phase {
            // What it has sent before is offered first; the next read reports the end again.
            Phase::Serving if !conn.read_buffer.is_empty() && is_held(conn.reading, conn.resumed) => {}
            Phase::Serving => self.connection_closed(token, Ended::ByPeer),
            Phase::Lingering(_) => self.end(token),
            // Its next shard sees the end.
            Phase::Leaving(_) | Phase::Ended => {}
        }
    }

    /// Called when the peer of a connection that is not read has closed it. Bytes that it sent
    /// before are still offered when the engine reads again. If there are none, or the connection
    /// is broken, it ends at once.
    fn closed_unread(&mut self, token: Token, broken: bool) {
        let Some(conn) = self.conns.get(token) else { return };
        let held = matches!(conn.phase, Phase::Serving) && matches!(conn.reading, Reading::Paused(_));
        let unread = || !conn.read_buffer.is_empty() || net::unread_bytes(self.driver.fd(conn.socket)) > 0;
        if held && (broken || !unread()) {
            self.connection_closed(token, Ended::ByPeer);
        }
    }

    fn has_room(&mut self, token: Token) {
        match self.conns.get(token).map(|conn| &conn.phase) {
            Some(Phase::Serving) => self.write_on(token),
            Some(Phase::Lingering(_)) => self.linger(token),
            Some(Phase::Leaving(_) | Phase::Ended) | None => {}
        }
    }

    /// Offers the read buffer and then what was received to the engine. `count` bytes of the socket
    /// are used up with that.
    pub(super) fn offer(&mut self, token: Token, input: &Input<'_>, count: u64) {
        let State { engine, conns, driver, .. } = self;
        let conn = &mut conns[token];
        let key = conn.key;
        let bytes = match input {
            Input::Nothing => &[][..],
            Input::Chunk(chunk) => driver.bytes(chunk),
            Input::Decoded(bytes) => bytes,
        };
        self.offered_bytes += bytes.len();
        let before = conn.read_buffer.memory();
        let mut taken = 0;
        let step = conn.read_buffer.offer(bytes, |input| {
            let received = engine.receive(key, input);
            taken += received.consumed;
            received
        });
        let after = conn.read_buffer.memory();
        if taken > 0 && !matches!(step, Step::Handoff(..)) {
            conn.peer = None;
        }
        if after != before || conn.layered.is_some() {
            engine.charge_read_buffer(key, conn.memory());
        }
        match step {
            Step::Read => {
                self.count_offered(token, count);
                match self.conns[token].layered.as_mut().and_then(|layered| layered.ended.take()) {
                    Some(error) => self.end_layers(token, &error),
                    None => self.read(token),
                }
            }
            Step::Pause => {
                self.conns[token].reading = self.engine.reading(key).unwrap_or_default();
                self.driver.pause(self.conns[token].socket);
                // The client has sent something, and the engine does not count silence while it
                // reads nothing.
                self.count_offered(token, u64::MAX);
            }
            Step::Handoff(shard, unread) => self.leave(token, shard, unread),
            // The last bytes are in the outbox under `closing`, and replace this empty queue at once:
            // it must not be taken for all that is to be sent.
            Step::Closed => {
                self.linger_with(token, Outbound::default());
                self.begin_closing();
            }
        }
    }

    /// Reads a connection. One that may be handed off is read once at a time, so that its socket
    /// can be given up at once.
    pub(super) fn read(&mut self, token: Token) {
        let conn = &self.conns[token];
        if conn.layered.as_ref().is_some_and(|layered| layered.is_choked()) {
            return self.driver.pause(conn.socket);
        }
        let how = if conn.peer.is_some() { rt::Reading::Once } else { rt::Reading::Stream };
        self.driver.read(conn.socket, how);
    }

    /// Counts offered bytes of a connection whose deadline is being checked. When all bytes that
    /// had arrived in time were offered, the engine decides.
    pub(super) fn count_offered(&mut self, token: Token, count: u64) {
        let conn = &mut self.conns[token];
        let Some(unheard) = conn.deadline_bytes else { return };
        let left = unheard.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        conn.deadline_bytes = (left > 0).then_some(left);
        if left == 0 {
            self.engine.deadline_checked(conn.key);
        }
    }

    /// Gives a connection, of which the engine knows nothing any more, to its home shard.
    fn leave(&mut self, token: Token, shard: ShardId, unread: Vec<u8>) {
        self.forget_key(token);
        let leaving = Leaving { shard, unread };
        match self.driver.release(self.conns[token].socket) {
            Release::Now(socket) => {
                let conn = self.take(token);
                self.hand_off(conn, socket, leaving);
            }
            Release::Later => self.set_phase(token, Phase::Leaving(Box::new(leaving))),
        }
    }

    fn released(&mut self, token: Token, socket: std::os::fd::OwnedFd) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        let phase = std::mem::replace(&mut conn.phase, Phase::Ended);
        let conn = self.take(token);
        if let Phase::Leaving(leaving) = phase {
            self.hand_off(conn, socket, *leaving);
        }
    }

    /// Continues to send after the socket was full, and waits for room again.
    fn write_on(&mut self, token: Token) {
        let State { engine, conns, driver, .. } = self;
        let conn = &mut conns[token];
        let key = conn.key;
        let mut left = 0;
        match engine.outbound(key) {
            Some(outbound) => {
                // An empty piece at the front would be sent as zero bytes, again and again.
                if !outbound.is_empty() && outbound.front().is_empty() {
                    outbound.advance(0);
                }
                let (flushed, count) =
                    flush_through(conn.layered.as_deref_mut(), driver.fd(conn.socket), outbound);
                left = count;
                conn.sent(count);
                match flushed {
                    Flushed::All => {
                        outbound.release();
                        conn.full = None;
                    }
                    Flushed::Full => driver.want_room(conn.socket),
                    Flushed::Broken => return self.connection_closed(token, Ended::ByPeer),
                }
            }
            None => conn.full = None,
        }
        // It may not have been read for what its layers had to send.
        let reads = conn.reading == Reading::Reading && !conn.resumed;
        if reads && conn.layered.as_ref().is_some_and(|layered| !layered.is_choked()) {
            self.read(token);
        }
        if left > 0 {
            self.engine.written(key);
        }
    }

    /// Sends the last bytes, closes the sending side, and waits until the peer has closed its side.
    /// Closing a socket with unread bytes resets the connection, and the peer would lose bytes that
    /// it has not read.
    fn linger(&mut self, token: Token) {
        let State { conns, driver, .. } = self;
        let conn = &mut conns[token];
        let Phase::Lingering(linger) = &mut conn.phase else { return };
        let socket = driver.fd(conn.socket);
        let mut flushed = flush_through(conn.layered.as_deref_mut(), socket, &mut linger.outbound).0;
        if flushed == Flushed::All
            && let Some(layered) = conn.layered.as_deref_mut()
        {
            layered.close();
            flushed = layered.flush_own(socket).0;
        }
        match flushed {
            Flushed::All => {}
            Flushed::Full => return driver.want_room(conn.socket),
            Flushed::Broken => return self.end(token),
        }
        if !linger.write_closed {
            net::end_sending(driver.fd(conn.socket));
            linger.write_closed = true;
        }
        driver.read(conn.socket, rt::Reading::Stream);
    }
}

/// What is offered to the engine beside the read buffer.
pub(super) enum Input<'a> {
    /// Nothing.
    Nothing,
    /// Bytes as they were received.
    Chunk(&'a Chunk),
    /// Bytes that layers have decoded.
    Decoded(&'a [u8]),
}

/// Whether what was received is kept for later.
pub(super) fn is_held(reading: Reading, resumed: bool) -> bool {
    reading != Reading::Reading || resumed
}

#[cfg(test)]
mod tests {
    use crate::shard::conn::Conn;

    #[test]
    fn a_connection_is_at_most_128_bytes_in_its_table() {
        let bytes = size_of::<Option<Conn>>();
        assert!(bytes <= 128, "{bytes} bytes");
    }
}
