//! Bytes that a connection and a session are charged for.

use crate::clients::connection::{Connection, Handshake};
use crate::clock::TIMER_BYTES;
use crate::ledger::{Holder, IN_FLIGHT, OUTBOUND, QUEUE, READ, SLOTS, Weight};
use crate::limits::Limits;
use crate::session::{Phase, Session};

impl Holder for Connection {
    const BY_FIRST_PART: bool = true;

    fn weight(&self, limits: &Limits) -> Weight {
        let chosen = self.own_bytes();
        let parts = [self.read_bytes, self.out.memory_bytes(), 0, self.fixed_bytes() + chosen];
        let chosen = chosen + parts[READ] + parts[OUTBOUND];
        let pending = self.session.is_none();
        Weight {
            parts,
            pending: if pending { chosen } else { 0 },
            chosen,
            burst: self.out.len().saturating_sub(limits.outbound_bytes_max as usize),
            first: pending,
            yields: false,
            ends: true,
        }
    }

    fn recount(&self) -> [usize; 4] {
        [self.read_bytes, self.out.recount(), 0, self.fixed_bytes() + self.recount_own_bytes()]
    }
}

impl Connection {
    /// Bytes that do not depend on the client.
    fn fixed_bytes(&self) -> usize {
        let handshake = if self.handshake().is_some() { size_of::<Handshake>() } else { 0 };
        let watch = if self.watch.is_some() { TIMER_BYTES } else { 0 };
        size_of::<Connection>() + handshake + watch
    }

    /// Bytes of an undecided CONNECT, of a re-authentication, and of topic aliases.
    fn own_bytes(&self) -> usize {
        self.own_bytes_but_aliases() + self.aliases.as_ref().map_or(0, |aliases| aliases.charge())
    }

    fn recount_own_bytes(&self) -> usize {
        self.own_bytes_but_aliases()
            + self.aliases.as_ref().map_or(0, |aliases| aliases.charge() - aliases.bytes + aliases.recount())
    }

    fn own_bytes_but_aliases(&self) -> usize {
        // With a session, the session is charged for the identity of the client.
        let identity = self.identity.as_ref().filter(|_| self.session.is_none());
        let identity = identity.map_or(0, |identity| identity.bytes());
        let Some(handshake) = self.handshake() else { return identity };
        let admission = handshake.admission.as_ref().map_or(0, |admission| admission.bytes());
        let renewal = handshake.renewal.as_ref().map_or(0, |renewal| renewal.bytes());
        let method = handshake.auth_method.as_ref().map_or(0, |method| method.len());
        let tls =
            handshake.peer.as_ref().filter(|_| self.identity.is_none()).and_then(|peer| peer.tls.as_ref());
        // Before CONNECT, the connection has them alone.
        let told = tls.map_or(0, |tls| tls.bytes());
        admission + renewal + method + told + identity
    }
}

/// Charge for a packet identifier that waits for PUBREL: an entry of a set.
const AWAITING_REL_BYTES: usize = 8;

/// Charge for a queue entry beside its message.
const DELIVERY_BYTES: usize = size_of::<crate::session::Delivery>();

impl Holder for Session {
    const BY_FIRST_PART: bool = false;

    fn weight(&self, _limits: &Limits) -> Weight {
        let chosen = self.own_bytes(self.subscriptions.bytes());
        let parts = [
            self.slots.charge(),
            self.queue.bytes() + self.queue.len() * DELIVERY_BYTES,
            self.inflight.bytes(),
            self.fixed_bytes() + chosen,
        ];
        Weight {
            parts,
            chosen: parts[SLOTS] + parts[QUEUE] + parts[IN_FLIGHT] + chosen,
            // A detached session cannot be ended, except a request queue of a plugin with requests
            // to refuse.
            yields: self.rare().request_queue.is_some(),
            ends: !self.detached || self.rare().request_queue.is_some() && self.slots.may_be_refused(),
            ..Weight::default()
        }
    }

    fn recount(&self) -> [usize; 4] {
        [
            self.slots.iter().map(|slot| slot.recount()).sum(),
            self.queue.iter().map(|delivery| DELIVERY_BYTES + delivery.message.bytes()).sum(),
            self.inflight.iter().map(|outgoing| outgoing.bytes()).sum(),
            self.fixed_bytes() + self.own_bytes(self.subscriptions.recount()),
        ]
    }
}

impl Session {
    /// Bytes that do not depend on the client.
    fn fixed_bytes(&self) -> usize {
        let (ends, packets) = self.timers();
        let timers = ends.iter().chain(&packets).flatten().count() * TIMER_BYTES;
        size_of::<Session>() + self.parts_bytes() + timers
    }

    /// All messages that are on their way to its client.
    pub(crate) fn shared_messages(&self) -> impl Iterator<Item = &crate::shared_message::SharedMessage> {
        let sent = self.inflight.iter().map(|outgoing| match &outgoing.phase {
            Phase::Published(delivery) | Phase::Released(delivery) => &delivery.message,
        });
        let asked = self.deliveries.iter().flat_map(|deliveries| deliveries.shared_messages());
        self.queue.iter().map(|delivery| &delivery.message).chain(sent).chain(asked)
    }

    fn own_bytes(&self, subscriptions: usize) -> usize {
        let wills = [&self.will, &self.rare().delayed_will].into_iter().flatten().map(|will| will.bytes());
        let readers = self.readers.as_ref().map_or(0, |readers| readers.bytes());
        let deliveries = self.deliveries.as_ref().map_or(0, |deliveries| deliveries.charge());
        let awaiting = self.awaiting_rel.len() * AWAITING_REL_BYTES;
        subscriptions + wills.sum::<usize>() + readers + deliveries + awaiting + self.identity.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::session::{Identity, Inflight, Queue, Slots, Subscriptions};

    /// Every idle client has one of each. Parts that few clients use belong behind a pointer.
    #[test]
    fn what_every_client_has_stays_small() {
        for (name, bytes, most) in [
            ("Connection", size_of::<Connection>(), 128),
            ("Session", size_of::<Session>(), 192),
            ("Identity", size_of::<Identity>(), 144),
            ("Address", size_of::<Address>(), 24),
            ("Inflight", size_of::<Inflight>(), 16),
            ("Queue", size_of::<Queue>(), 8),
            ("Slots", size_of::<Slots>(), 16),
            ("Subscriptions", size_of::<Subscriptions>(), 32),
        ] {
            assert!(bytes <= most, "{name} has {bytes} bytes, not {most}");
        }
    }
}
