//! Outgoing data: every connection's bytes, and the list of those with new ones. Owned by `relay`,
//! which decides the receivers; the relay's loop sends. No I/O; allocates only when a buffer grows.

use super::group::Group;
use super::peer::Peer;
use super::wire;

/// Outgoing data of all connections, by index.
#[derive(Debug, Default)]
pub struct Outbox {
    /// One for each index that was ever used.
    pub peers: Vec<Peer>,
    /// Connections with something new to send, each once.
    dirty: Vec<u32>,
    /// A PUBLISH in the form that the subscribers of one group need.
    anew: Vec<u8>,
    /// Bytes of messages appended since the relay's loop has last sent all.
    pub appended: usize,
    waiting_bytes: usize,
}

impl Outbox {
    /// Adds a connection to the list of those with new bytes.
    pub fn touch(&mut self, index: u32) {
        mark(&mut self.dirty, &mut self.peers[index as usize], index);
    }

    /// Removes and returns the next connection with new bytes.
    pub fn pop_dirty(&mut self) -> Option<u32> {
        let index = self.dirty.pop()?;
        self.peers[index as usize].dirty = false;
        Some(index)
    }

    /// Bytes of messages that wait for acknowledgements, over all connections.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Clears the data of a connection, for the next one with its index.
    pub fn reset(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        self.waiting_bytes -= peer.waiting_bytes();
        peer.reset();
    }

    /// Appends a packet for one connection.
    pub fn push(&mut self, to: u32, packet: &[u8]) {
        self.peers[to as usize].push(packet);
        self.touch(to);
    }

    /// Appends an acknowledgement for one connection.
    #[inline]
    pub fn push_ack(&mut self, to: u32, first: u8, packet_id: u16) {
        let peer = &mut self.peers[to as usize];
        peer.push_ack(first, packet_id);
        mark(&mut self.dirty, peer, to);
    }

    /// A connection has completely acknowledged a message; the next waiting one is sent.
    #[inline]
    pub fn acknowledged(&mut self, from: u32) {
        let peer = &mut self.peers[from as usize];
        let went_out = peer.acknowledged();
        if went_out > 0 {
            self.waiting_bytes -= went_out;
            mark(&mut self.dirty, peer, from);
        }
    }

    // The three are not inlined: each can then use all registers, which matters most here.

    /// Appends a PUBLISH of QoS 0 for every connection in `to`.
    #[inline(never)]
    pub fn deliver(&mut self, to: &[u32], packet: &[u8]) {
        self.appended += packet.len() * to.len();
        for to in to {
            let peer = &mut self.peers[*to as usize];
            peer.push(packet);
            mark(&mut self.dirty, peer, *to);
        }
    }

    /// The same with QoS 1 and 2: each connection gets its own identifier at `id_at`.
    #[inline(never)]
    pub fn deliver_with_id(&mut self, to: &[u32], packet: &[u8], id_at: usize) {
        self.appended += packet.len() * to.len();
        for to in to {
            let peer = &mut self.peers[*to as usize];
            self.waiting_bytes += peer.push_with_id(packet, id_at);
            mark(&mut self.dirty, peer, *to);
        }
    }

    /// Delivers to a group that needs the PUBLISH in another form, or does not receive every
    /// message.
    #[inline(never)]
    pub fn deliver_anew(&mut self, from: u32, parts: &wire::Parts<'_>, group: &Group) {
        let grant = &group.grant;
        let parts = wire::Parts { qos: parts.qos.min(grant.qos), ..*parts };
        let mut anew = std::mem::take(&mut self.anew);
        anew.clear();
        wire::push_publish(grant.v5, &parts, &mut anew);
        // A packet above a client's Maximum Packet Size is not sent [MQTT-3.1.2-25].
        if anew.len() <= grant.packet_bytes_max as usize {
            let own = if grant.no_local { group.to.binary_search(&from).ok() } else { None };
            let (before, after) = match own {
                Some(at) => (&group.to[..at], &group.to[at + 1..]),
                None => (&group.to[..], &[][..]),
            };
            for to in [before, after] {
                match wire::id_at(&anew) {
                    Some(id_at) if parts.qos > 0 => self.deliver_with_id(to, &anew, id_at),
                    _ => self.deliver(to, &anew),
                }
            }
        }
        self.anew = anew;
    }
}

#[inline]
fn mark(dirty: &mut Vec<u32>, peer: &mut Peer, index: u32) {
    if !peer.dirty {
        peer.dirty = true;
        dirty.push(index);
    }
}
