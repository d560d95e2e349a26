//! Packets as they are on the wire, and the broker itself.

use super::event::{client_getters, wrapper};
use crate::raw::Field;

wrapper! {
    /// A packet was read or queued (`packet.received`, `packet.sent`). Called on the client's shard, for every packet: a hook here
    /// is paid for by every message. CONNECT is told where the client's home is known, before `client.connect`. Nothing can be
    /// changed.
    Packet
}

wrapper! {
    /// The broker starts or stops (`broker.starting`, `broker.started`, `broker.stopping`, `broker.stopped`). Called once, on shard
    /// 0; a plugin that is loaded later is not told of what was before. Nothing can be changed.
    ///
    /// `starting`: plugins are loaded and nobody is listened to yet. `started`: clients are. `stopping`: everybody is still
    /// connected. `stopped`: nobody is, or the time for that is over; plugins are unloaded next.
    Broker
}

impl<'a> Packet<'a> {
    client_getters! {}

    /// Type of the packet, 1 (CONNECT) to 15 (AUTH).
    pub fn packet_type(&self) -> u8 {
        self.context.event().action
    }

    /// The packet's bytes that lie together: a large payload of a packet that is sent is not among them. Those of CONNECT hold the
    /// password.
    pub fn bytes(&self) -> &'a [u8] {
        // SAFETY: what is at hand lives as long as the event.
        unsafe { self.context.event().payload.bytes() }
    }

    /// Bytes of the whole packet.
    pub fn size(&self) -> u64 {
        self.context.number(Field::PACKET_BYTES, 0).unwrap_or(0)
    }
}

impl<'a> Broker<'a> {
    /// Version of the broker.
    pub fn version(&self) -> &'a str {
        self.context.text(Field::BROKER_VERSION, 0).unwrap_or("")
    }

    /// Milliseconds since it started.
    pub fn uptime_ms(&self) -> u64 {
        self.context.number(Field::BROKER_UPTIME_MS, 0).unwrap_or(0)
    }

    /// Addresses it listens on, as `ADDRESS:PORT`.
    pub fn listeners(&self) -> impl Iterator<Item = &'a str> {
        (0..).map_while(|index| self.context.text(Field::BROKER_LISTENER, index))
    }

    /// Number of the hook point, as in [`crate::HookPoint`].
    pub fn point(&self) -> u16 {
        self.context.event().point
    }

    /// Wall clock of the event, milliseconds since 1970.
    pub fn wall_ms(&self) -> u64 {
        self.context.event().wall_ms
    }

    /// The broker, for what a hook may ask of it.
    pub fn host(&self) -> crate::Host {
        self.context.host()
    }
}
