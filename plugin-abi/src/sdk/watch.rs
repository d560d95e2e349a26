//! Packets as they are on the wire, and the broker itself.

use super::event::{client_getters, wrapper};
use crate::raw::Field;

wrapper! {
    /// A packet was read or queued (`packet.received`, `packet.sent`). Called on the client's shard
    /// for every packet, so a hook here costs time for each message. For CONNECT it is called once
    /// the client's home shard is known, before `client.connect`. Nothing can be changed.
    Packet
}

wrapper! {
    /// The broker starts or stops (`broker.starting`, `broker.started`, `broker.stopping`,
    /// `broker.stopped`). Called once, on shard 0. A plugin that is loaded later does not get
    /// earlier events. Nothing can be changed.
    ///
    /// `starting`: plugins are loaded, and no listener is open yet. `started`: listeners are open.
    /// `stopping`: clients are still connected. `stopped`: all clients are disconnected, or the
    /// time limit is over; plugins are unloaded next.
    Broker
}

impl<'a> Packet<'a> {
    client_getters! {}

    /// Type of the packet, 1 (CONNECT) to 15 (AUTH).
    pub fn packet_type(&self) -> u8 {
        self.context.event().action
    }

    /// The first contiguous bytes of the packet: a large payload of a sent packet is not included.
    /// The bytes of CONNECT include the password.
    pub fn bytes(&self) -> &'a [u8] {
        // SAFETY: what is at hand lives as long as the event.
        unsafe { self.context.event().payload.bytes() }
    }

    /// Size of the whole packet, bytes.
    pub fn size(&self) -> u64 {
        self.context.number(Field::PACKET_BYTES, 0).unwrap_or(0)
    }
}

impl<'a> Broker<'a> {
    /// Version of the broker.
    pub fn version(&self) -> &'a str {
        self.context.text(Field::BROKER_VERSION, 0).unwrap_or("")
    }

    /// Time since the broker started, milliseconds.
    pub fn uptime_ms(&self) -> u64 {
        self.context.number(Field::BROKER_UPTIME_MS, 0).unwrap_or(0)
    }

    /// Addresses of the listeners, as `ADDRESS:PORT`.
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

    /// The broker.
    pub fn host(&self) -> crate::Host {
        self.context.host()
    }
}
