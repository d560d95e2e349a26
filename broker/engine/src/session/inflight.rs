//! QoS 1 and 2 packets on their way to the client: packet identifiers, the window, and the phase of
//! each exchange (MQTT 5.0 sections 4.3 and 4.4).

use std::collections::VecDeque;
use std::num::NonZeroU16;

use super::Delivery;
use crate::on_demand::{Empty, OnDemand};
use crate::packet::QoS;

/// The phase of a packet sent to the client.
#[derive(Clone, Debug)]
pub enum Phase {
    /// PUBLISH sent; waits for PUBACK or PUBREC.
    Published(Delivery),
    /// PUBREC came and PUBREL was sent; waits for PUBCOMP. The message is not sent again
    /// [MQTT-4.3.3-8]; it is stored for later notifications.
    Released(Delivery),
}

/// A packet sent and not acknowledged.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its identifier.
    pub packet_id: NonZeroU16,
    /// Its phase.
    pub phase: Phase,
}

impl Outgoing {
    /// Bytes that it adds to a ledger.
    pub fn bytes(&self) -> usize {
        let (Phase::Published(delivery) | Phase::Released(delivery)) = &self.phase;
        size_of::<Outgoing>() + delivery.message.bytes()
    }
}

/// The packets in flight, in the order in which they were sent [MQTT-4.6.0-5].
#[derive(Debug)]
pub struct Inflight {
    packets: OnDemand<Packets>,
    next_id: NonZeroU16,
    /// How many identifiers from the next one on are known to be unused.
    unused: u16,
    window: u16,
}

#[derive(Debug, Default)]
struct Packets {
    entries: VecDeque<Outgoing>,
    /// How many of the oldest entries have been sent on the present connection.
    sent: usize,
    /// Bytes of the messages.
    bytes: usize,
}

impl Empty for Packets {
    const EMPTY: &'static Packets = &Packets { entries: VecDeque::new(), sent: 0, bytes: 0 };
}

impl Packets {
    fn remove(&mut self, place: usize) -> Option<Outgoing> {
        if place < self.sent {
            self.sent -= 1;
        }
        // Most often the oldest one is acknowledged.
        let entry = if place == 0 { self.entries.pop_front()? } else { self.entries.remove(place)? };
        self.bytes -= entry.bytes();
        Some(entry)
    }
}

/// A window as it is stored: at most 65,535 packets.
fn stored(window: usize) -> u16 {
    u16::try_from(window).unwrap_or(u16::MAX)
}

/// Why an acknowledgement is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckError {
    /// No packet with that identifier is in flight.
    Unknown,
    /// The packet waits for another acknowledgement.
    Unexpected,
}

impl Inflight {
    /// Bytes that it has allocated, without its entries.
    #[inline]
    pub(crate) fn part_bytes(&self) -> usize {
        self.packets.memory()
    }

    /// An empty window of `window` packets (1 to 65,535).
    pub fn new(window: usize) -> Inflight {
        Inflight { packets: OnDemand::default(), next_id: NonZeroU16::MIN, unused: 0, window: stored(window) }
    }

    /// Starts another connection with its own Receive Maximum [MQTT-3.3.4-9]: all packets are to be
    /// sent again.
    pub fn restart(&mut self, window: usize) {
        self.window = stored(window);
        self.send_again();
    }

    fn send_again(&mut self) {
        if let Some(packets) = self.packets.get_mut() {
            packets.sent = 0;
        }
    }

    /// The next packet of an earlier connection to send again, in order [MQTT-4.4.0-1]. `None` if
    /// the window is full or none is left.
    pub fn next_resend(&mut self) -> Option<Outgoing> {
        let packets = self.packets.get_mut().filter(|packets| packets.sent < usize::from(self.window))?;
        let entry = packets.entries.get(packets.sent)?.clone();
        packets.sent += 1;
        Some(entry)
    }

    /// Whether packets of an earlier connection are still to be sent again.
    #[inline]
    pub fn has_resends(&self) -> bool {
        self.packets.sent < self.packets.entries.len()
    }

    /// Bytes of the messages in flight.
    pub fn bytes(&self) -> usize {
        self.packets.bytes
    }

    /// The messages that may be sent again, in order.
    pub fn published(&self) -> impl Iterator<Item = &Delivery> {
        self.packets.entries.iter().filter_map(|entry| match &entry.phase {
            Phase::Published(delivery) => Some(delivery),
            Phase::Released(_) => None,
        })
    }

    /// Removes the messages for which `stays` returns false. To be called only while the client has
    /// no connection or was sent nothing on it.
    pub fn withdraw(&mut self, mut stays: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let mut gone = Vec::new();
        let Some(packets) = self.packets.get_mut() else { return gone };
        packets.sent = 0;
        let bytes = &mut packets.bytes;
        packets.entries.retain(|entry| match &entry.phase {
            Phase::Published(delivery) if !stays(delivery) => {
                *bytes -= entry.bytes();
                gone.push(delivery.clone());
                false
            }
            _ => true,
        });
        gone
    }

    /// Number of packets in flight.
    pub fn len(&self) -> usize {
        self.packets.entries.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.packets.entries.is_empty()
    }

    /// Whether another packet may be sent.
    pub fn has_room(&self) -> bool {
        let sent = self.packets.sent;
        sent == self.packets.entries.len() && sent < usize::from(self.window)
    }

    /// How many more packets may be sent.
    pub fn room(&self) -> usize {
        let sent = self.packets.sent;
        if sent == self.packets.entries.len() { usize::from(self.window).saturating_sub(sent) } else { 0 }
    }

    /// The next unused identifier [MQTT-2.2.1-3]. The window is below 65,535, so there is one.
    pub fn next_packet_id(&mut self) -> NonZeroU16 {
        while self.unused == 0 {
            // From here to the next identifier that is in use. Those that are used from now on are
            // behind this one, so that the search is not needed again before.
            let next = u32::from(self.next_id.get());
            let ahead = |entry: &Outgoing| {
                let id = u32::from(entry.packet_id.get());
                if id >= next { id - next } else { id + u32::from(u16::MAX) - next }
            };
            let nearest = self.packets.entries.iter().map(ahead).min().unwrap_or(u32::from(u16::MAX));
            self.unused = u16::try_from(nearest).unwrap_or(u16::MAX);
            if self.unused == 0 {
                self.advance_id();
            }
        }
        self.unused -= 1;
        self.advance_id()
    }

    /// The identifier that is next, and goes to the one behind it.
    fn advance_id(&mut self) -> NonZeroU16 {
        let behind = self.next_id.checked_add(1).unwrap_or(NonZeroU16::MIN);
        std::mem::replace(&mut self.next_id, behind)
    }

    /// Records a PUBLISH that is being sent with an identifier from [`Inflight::next_packet_id`].
    pub fn publish(&mut self, packet_id: NonZeroU16, delivery: Delivery) {
        let packets = self.packets.make();
        debug_assert!(packets.entries.len() < usize::from(u16::MAX), "every identifier would be in use");
        let entry = Outgoing { packet_id, phase: Phase::Published(delivery) };
        packets.bytes += entry.bytes();
        packets.entries.push_back(entry);
        packets.sent += 1;
    }

    /// The packets, and the place of the one with this identifier.
    fn find(&mut self, packet_id: NonZeroU16) -> Result<(&mut Packets, usize), AckError> {
        let packets = self.packets.get_mut().ok_or(AckError::Unknown)?;
        let place = packets.entries.iter().position(|entry| entry.packet_id == packet_id);
        place.map(|place| (packets, place)).ok_or(AckError::Unknown)
    }

    /// PUBACK: the exchange of a QoS 1 message is over.
    ///
    /// # Errors
    /// No such packet, or one of QoS 2.
    pub fn puback(&mut self, packet_id: NonZeroU16) -> Result<Delivery, AckError> {
        let (packets, place) = self.find(packet_id)?;
        match &packets.entries[place].phase {
            Phase::Published(delivery) if delivery.qos == QoS::AtLeastOnce => {}
            _ => return Err(AckError::Unexpected),
        }
        match packets.remove(place).map(|entry| entry.phase) {
            Some(Phase::Published(delivery)) => Ok(delivery),
            _ => Err(AckError::Unknown),
        }
    }

    /// PUBREC with success: PUBREL is to be sent; the message is not sent again. Also for a
    /// repeated PUBREC.
    ///
    /// # Errors
    /// No such packet, or one of QoS 1.
    pub fn pubrec(&mut self, packet_id: NonZeroU16) -> Result<(), AckError> {
        let (packets, place) = self.find(packet_id)?;
        let entry = &mut packets.entries[place];
        match &entry.phase {
            Phase::Published(delivery) if delivery.qos == QoS::ExactlyOnce => {
                entry.phase = Phase::Released(delivery.clone());
                Ok(())
            }
            Phase::Released(_) => Ok(()),
            Phase::Published(_) => Err(AckError::Unexpected),
        }
    }

    /// PUBREC with a failure: the exchange is over [MQTT-4.3.3-4].
    ///
    /// # Errors
    /// No such packet, or one of QoS 1.
    pub fn pubrec_failed(&mut self, packet_id: NonZeroU16) -> Result<(), AckError> {
        self.pubrec(packet_id)?;
        self.pubcomp(packet_id).map(drop)
    }

    /// PUBCOMP: the exchange of a QoS 2 message is over.
    ///
    /// # Errors
    /// No such packet, or one that PUBREC has not come for.
    pub fn pubcomp(&mut self, packet_id: NonZeroU16) -> Result<Delivery, AckError> {
        let (packets, place) = self.find(packet_id)?;
        if !matches!(packets.entries[place].phase, Phase::Released(_)) {
            return Err(AckError::Unexpected);
        }
        match packets.remove(place).map(|entry| entry.phase) {
            Some(Phase::Released(delivery)) => Ok(delivery),
            _ => Err(AckError::Unknown),
        }
    }

    /// All packets, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        self.packets.entries.iter()
    }

    /// Takes everything out, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Outgoing> + use<> {
        self.packets.take().entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::message::Message;

    fn delivery(qos: QoS) -> Delivery {
        let message = Message {
            id: 0,
            topic: "t".into(),
            payload: bytes::Bytes::new(),
            properties: Box::default(),
            qos,
            retain: false,
            from: "".into(),
            origin: None,
            expires_at_ms: None,
            wall_ms: 0,
            ancestry: 0,
            flow: None,
        };
        Delivery {
            message: Rc::new(Arc::new(message).into()),
            qos,
            retain: false,
            subscription_ids: Box::default(),
            group: None,
            reader: 0,
        }
    }

    #[test]
    fn identifiers_are_unused_ones_in_turn_however_many_are_in_flight() {
        // Every third packet stays for a while, so that the count meets some in each of its rounds.
        let mut inflight = Inflight::new(65_535);
        let mut staying = VecDeque::new();
        for n in 0..200_000 {
            let id = inflight.next_packet_id();
            assert!(!staying.contains(&id), "{id} is in use");
            inflight.publish(id, delivery(QoS::AtLeastOnce));
            if n % 997 == 0 {
                staying.push_back(id);
                if staying.len() > 90 {
                    let oldest = staying.pop_front().unwrap();
                    inflight.puback(oldest).unwrap();
                }
            } else {
                inflight.puback(id).unwrap();
            }
        }
    }

    #[test]
    fn an_identifier_in_use_is_passed_over_after_the_count_wraps() {
        let mut inflight = Inflight::new(10);
        let first = inflight.next_packet_id();
        inflight.publish(first, delivery(QoS::AtLeastOnce));
        for _ in 0..65_534 {
            assert_ne!(inflight.next_packet_id(), first);
        }
        assert_ne!(inflight.next_packet_id(), first, "1 is in use, so 2 comes after 65,535");
    }

    #[test]
    fn qos_2_takes_four_packets() {
        let mut inflight = Inflight::new(10);
        let id = inflight.next_packet_id();
        inflight.publish(id, delivery(QoS::ExactlyOnce));
        assert_eq!(inflight.puback(id).unwrap_err(), AckError::Unexpected);
        assert_eq!(inflight.pubcomp(id).unwrap_err(), AckError::Unexpected);
        assert_eq!(inflight.pubrec(id), Ok(()));
        assert_eq!(inflight.pubrec(id), Ok(()), "a repeated PUBREC is answered again");
        inflight.pubcomp(id).unwrap();
        assert_eq!(inflight.pubcomp(id).unwrap_err(), AckError::Unknown);
    }

    /// So many packets sent in a window, with their identifiers.
    fn sent(window: usize, count: usize) -> (Inflight, Vec<NonZeroU16>) {
        let mut inflight = Inflight::new(window);
        let ids = (0..count).map(|_| {
            let id = inflight.next_packet_id();
            inflight.publish(id, delivery(QoS::AtLeastOnce));
            id
        });
        let ids = ids.collect();
        (inflight, ids)
    }

    #[test]
    fn there_is_room_up_to_the_window() {
        let (mut inflight, ids) = sent(3, 2);
        assert_eq!((inflight.has_room(), inflight.room(), inflight.len()), (true, 1, 2));
        let id = inflight.next_packet_id();
        inflight.publish(id, delivery(QoS::AtLeastOnce));
        assert_eq!((inflight.has_room(), inflight.room()), (false, 0));
        inflight.puback(ids[1]).unwrap();
        assert_eq!((inflight.has_room(), inflight.room()), (true, 1));
        assert_eq!(inflight.iter().map(|entry| entry.packet_id).collect::<Vec<_>>(), [ids[0], id]);
    }

    #[test]
    fn a_smaller_window_is_respected_on_resend() {
        let (mut inflight, ids) = sent(4, 4);
        inflight.restart(2);
        assert_eq!((inflight.has_resends(), inflight.has_room(), inflight.room()), (true, false, 0));
        let mut again = Vec::new();
        while let Some(outgoing) = inflight.next_resend() {
            again.push(outgoing.packet_id);
        }
        assert_eq!(again, ids[..2], "[MQTT-3.3.4-9]");
        inflight.puback(ids[0]).unwrap();
        assert_eq!(inflight.next_resend().map(|outgoing| outgoing.packet_id), Some(ids[2]));
        assert!(inflight.next_resend().is_none());
        // An acknowledgement of a packet that was not sent on this connection makes no room.
        inflight.puback(ids[3]).unwrap();
        assert!(!inflight.has_resends() && inflight.next_resend().is_none());
        assert_eq!((inflight.has_room(), inflight.room()), (false, 0));
        inflight.puback(ids[1]).unwrap();
        assert_eq!((inflight.has_room(), inflight.room()), (true, 1));
    }

    #[test]
    fn removed_packets_are_not_counted() {
        let (mut inflight, ids) = sent(4, 3);
        let one = inflight.bytes() / 3;
        assert!(one >= size_of::<Outgoing>() && inflight.bytes() == 3 * one);
        inflight.puback(ids[0]).unwrap();
        assert_eq!(inflight.bytes(), 2 * one);
        let mut stays = [true, false].into_iter();
        assert_eq!(inflight.withdraw(|_| stays.next().unwrap()).len(), 1);
        assert_eq!((inflight.bytes(), inflight.len()), (one, 1));
        assert!(inflight.has_resends(), "what stays is sent on the next connection");
        assert_eq!(inflight.drain().count(), 1);
        assert_eq!((inflight.bytes(), inflight.is_empty()), (0, true));
    }

    #[test]
    fn a_failed_pubrec_ends_the_exchange() {
        let mut inflight = Inflight::new(1);
        let id = inflight.next_packet_id();
        inflight.publish(id, delivery(QoS::ExactlyOnce));
        assert!(!inflight.has_room());
        inflight.pubrec_failed(id).unwrap();
        assert!(inflight.has_room());
    }
}
