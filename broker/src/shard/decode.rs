//! Received bytes of connections with layers: decodes them, gives the engine the identity of the
//! peer when the layers are open, and offers the result.

use grapnel_engine::shard::{Ended, Outbound, Reading};

use super::conn::{Conn, Flushed, Phase, Token};
use super::connection::{Input, is_held};
use super::state::State;
use crate::net;
use crate::rt::Chunk;
use crate::transport::LayerError;

/// Received pieces that connections in their handshakes may decode in a round of the loop. The
/// others wait for the next round, so that a flood of handshakes, each of which may cost a
/// signature, delays nobody.
pub(super) const HANDSHAKE_STEPS: usize = 4;
/// Interval of the log line about refused connections, milliseconds.
const LOG_EVERY_MS: u64 = 1000;
/// Capacity of the buffer for decoded bytes that stays, bytes.
const DECODED_KEPT_BYTES: usize = 256 << 10;

impl State {
    /// Decodes a chunk, or what is held, and offers the result.
    pub(super) fn decode(&mut self, token: Token, chunk: Option<&Chunk>) {
        let conn = &mut self.conns[token];
        let Some(mut layered) = conn.layered.take() else { return };
        let waits = !layered.identified
            && (self.handshake_steps == 0 || (chunk.is_some() && self.held_handshakes > 0));
        if waits || (chunk.is_some() && !layered.held.is_empty()) {
            self.held_handshakes += u64::from(layered.held.is_empty());
            layered.held.extend_from_slice(chunk.map_or(&[], |chunk| self.driver.bytes(chunk)));
            conn.layered = Some(layered);
            self.engine.charge_read_buffer(conn.key, conn.memory());
            return self.list(token);
        }
        let mut decoded = std::mem::take(&mut self.decoded);
        let held = std::mem::take(&mut layered.held);
        self.held_handshakes -= u64::from(!held.is_empty());
        let bytes = chunk.map_or(&held[..], |chunk| self.driver.bytes(chunk));
        let count = bytes.len() as u64;
        let identified = layered.identified;
        if !identified {
            self.handshake_steps = self.handshake_steps.saturating_sub(1);
        }
        let received = layered.receive(bytes, &mut decoded);
        let speaks = layered.is_open() || !decoded.is_empty();
        // Known before anything is offered: a handoff takes it along.
        layered.ended = layered.ended.take().or(received.err());
        conn.layered = Some(layered);
        let identity = if !identified && speaks { self.identify(token) } else { Ok(()) };
        // What was decoded before an error counts, unless it is a stranger's.
        if self.conns[token].layered.as_ref().is_some_and(|layered| layered.identified) {
            self.offer_decoded(token, &decoded, count);
        } else {
            self.count_offered(token, count);
            self.read(token);
        }
        decoded.clear();
        if decoded.capacity() <= DECODED_KEPT_BYTES {
            self.decoded = decoded;
        }
        self.after_decoding(token, identity);
    }

    /// Tells the engine what the layers know of the peer.
    fn identify(&mut self, token: Token) -> Result<(), LayerError> {
        let conn = &mut self.conns[token];
        let (Some(layered), Some(peer)) = (conn.layered.as_mut(), conn.peer.as_ref()) else { return Ok(()) };
        let peer = layered.identify((**peer).clone())?;
        layered.identified = true;
        layered.handshake = None;
        conn.clear_alarm();
        if let Some(full) = &conn.full {
            let at_ms = full.since_ms + self.config.limits.write_stall_timeout_ms;
            conn.set_alarm(token, at_ms, &mut self.alarms);
        }
        conn.peer = Some(Box::new(peer.clone()));
        if matches!(conn.phase, Phase::Serving) && !self.engine.identify(conn.key, peer) {
            return Err(LayerError::Closed);
        }
        Ok(())
    }

    fn offer_decoded(&mut self, token: Token, decoded: &[u8], count: u64) {
        let conn = &mut self.conns[token];
        match &mut conn.phase {
            Phase::Serving if conn.reading == Reading::Reading && !conn.resumed => {
                self.offer(token, &Input::Decoded(decoded), count);
            }
            Phase::Serving => {
                conn.read_buffer.hold(decoded);
                self.engine.charge_read_buffer(conn.key, conn.memory());
            }
            Phase::Leaving(leaving) => leaving.unread.extend_from_slice(decoded),
            Phase::Lingering(_) | Phase::Ended => {}
        }
    }

    /// Sends what the layers have to send, and ends the connection if they say so.
    fn after_decoding(&mut self, token: Token, identity: Result<(), LayerError>) {
        // A handoff may have taken it.
        let Some(conn) = self.conns.get_mut(token) else { return };
        if !matches!(conn.phase, Phase::Serving) {
            return;
        }
        if let Err(error) = identity {
            return self.end_layers(token, &error);
        }
        let held = !conn.read_buffer.is_empty() && is_held(conn.reading, conn.resumed);
        // What it sent before is offered first, as without layers.
        if !held && let Some(error) = conn.layered.as_mut().and_then(|layered| layered.ended.take()) {
            return self.end_layers(token, &error);
        }
        if conn.full.is_some() {
            if conn.layered.as_ref().is_some_and(|layered| layered.is_choked()) {
                self.driver.pause(conn.socket);
            }
            return;
        }
        let Some(layered) = conn.layered.as_deref_mut() else { return };
        let (flushed, left) = layered.flush_own(self.driver.fd(conn.socket));
        if layered.is_done() {
            conn.layered = None;
        }
        conn.sent(left);
        match flushed {
            Flushed::All => {}
            Flushed::Full => self.is_full(token),
            Flushed::Broken => self.connection_closed(token, Ended::ByPeer),
        }
    }

    /// Ends a connection whose layers have ended or refused it. What they say to the peer is sent
    /// before.
    pub(super) fn end_layers(&mut self, token: Token, error: &LayerError) {
        if let LayerError::Refused(why) = error {
            self.note_refused_layers(token, why);
        }
        let key = self.conns[token].key;
        self.forget_key(token);
        self.engine.closed(key, Ended::ByPeer);
        self.linger_with(token, Outbound::default());
    }

    /// Ends a connection whose handshake takes too long.
    pub(super) fn end_slow_handshake(&mut self, token: Token) {
        self.end_layers(
            token,
            &LayerError::Refused(
                "its TLS handshake, or what precedes MQTT behind it, has taken too long".to_owned(),
            ),
        );
    }

    /// Counts a connection that its layers have refused, and logs that at a limited rate.
    #[cold]
    fn note_refused_layers(&mut self, token: Token, why: &str) {
        net::count_refused_by_listener();
        let Some(unlogged) = self.layers_refused.record_within(LOG_EVERY_MS, self.now.mono_ms) else {
            return;
        };
        let conn = &self.conns[token];
        let from = conn.origin();
        let to = conn
            .layered
            .as_ref()
            .map_or_else(String::new, |layered| format!(" to listener {}", layered.listener()));
        let of = self.engine.client_id_of(conn.key).map_or_else(String::new, |id| format!(" of client {id}"));
        let more =
            if unlogged == 0 { String::new() } else { format!("; {unlogged} more since the last line") };
        tracing::warn!("a connection{from}{to}{of} was closed: {why}{more}");
    }
}

impl Conn {
    /// Where it comes from, for the log; empty if that is not known any more.
    fn origin(&self) -> String {
        let address = self.peer.as_ref().and_then(|peer| peer.peer);
        address.map_or_else(String::new, |address| format!(" from {address}"))
    }
}
