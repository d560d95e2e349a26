//! Subscribers of one topic that get the same packet. `routes` makes groups, `outbox` delivers to
//! them. No I/O.

/// Common properties of the subscribers of a group, so that a message is encoded and checked once
/// for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Whether packets have properties.
    pub v5: bool,
    /// Highest QoS of a delivery.
    pub qos: u8,
    /// Their Maximum Packet Size, in bytes.
    pub packet_bytes_max: u32,
    /// They do not receive what they publish themselves (MQTT 5.0 section 3.8.3.1).
    pub no_local: bool,
}

/// Subscribers of one topic that get the same packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub grant: Grant,
    /// Connections, in ascending order.
    pub to: Vec<u32>,
    /// First byte of a PUBLISH with their QoS, if that is 1 or 2; otherwise 0.
    pub first_with_id: u8,
    plain: Plain,
}

/// Whether a group accepts any packet of a version unchanged: computed once, read for each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    No,
    Mqtt3,
    Mqtt5,
}

impl Group {
    /// A group of connections with a common `grant`.
    pub fn new(grant: Grant, to: Vec<u32>) -> Self {
        let plain = match grant {
            Grant { no_local: true, .. } | Grant { packet_bytes_max: ..=0xFFFF_FFFE, .. } => Plain::No,
            Grant { v5: false, .. } => Plain::Mqtt3,
            Grant { v5: true, .. } => Plain::Mqtt5,
        };
        let first_with_id = if grant.qos == 0 { 0 } else { 0x30 | grant.qos << 1 };
        Self { grant, to, first_with_id, plain }
    }

    /// Whether its subscribers accept any packet of this version, unchanged.
    #[inline]
    pub fn is_plain_of(&self, v5: bool) -> bool {
        self.plain == if v5 { Plain::Mqtt5 } else { Plain::Mqtt3 }
    }
}
