//! A publisher: when its next message is due, which packet ids are in flight, what their acknowledgements say.
//! Driven by `client`; writes packets into the caller's buffer and never waits.

use crate::client::{Failure, Shared};
use crate::clock::nanos;
use crate::frames::{self, Connack, PublishHead};
use crate::header::Publisher as Stamp;
use crate::plan::{Plan, PublishPlan};
use crate::reason::Reason;
use crate::stats::record;
use std::sync::Arc;

/// A turn of one publisher ends after this many bytes, so that the others get theirs and one write takes them.
const TURN_BYTES: usize = 64 * 1024;

/// One publishing client.
#[derive(Debug)]
pub struct Publisher {
    head: PublishHead,
    payload: Arc<[u8]>,
    sequence: u64,
    /// When the next message is due; runs behind while the window is shut, so that the stamps tell the wait.
    due_ns: u64,
    interval_ns: u64,
    window: Window,
}

/// Why [`Publisher::produce`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Produced {
    /// Nothing to do until an acknowledgement comes, or ever again.
    Blocked,
    /// The next message is due at this time.
    DueAt(u64),
    /// There is more, but it is another's turn.
    More,
}

impl Publisher {
    /// Prepares the publisher, or says why the broker's CONNACK rules it out.
    pub fn new(plan: &Plan, publish: &PublishPlan, number: u32, connack: &Connack) -> Result<Self, Failure> {
        let unable = |why: String| Failure::Unsupported(why);
        if publish.qos > connack.maximum_qos {
            return Err(unable(format!("the broker takes QoS {} at most", connack.maximum_qos)));
        }
        if publish.retain && !connack.retain_available {
            return Err(unable("the broker takes no retained messages".to_owned()));
        }
        let topic = plan.names.topic(&publish.topic, number);
        let stamp = (publish.fields, Stamp::new(publish.run, number));
        let head =
            PublishHead::new(plan.version, &topic, publish.qos, publish.retain, publish.payload.len(), stamp)
                .map_err(|error| unable(format!("{error:#}")))?;
        let packet_bytes = head.len() + publish.payload.len();
        if packet_bytes > connack.maximum_packet_size as usize {
            let max = connack.maximum_packet_size;
            return Err(unable(format!("a packet of {packet_bytes} bytes, the broker takes {max} at most")));
        }
        Ok(Self {
            head,
            payload: Arc::clone(&publish.payload),
            sequence: 0,
            due_ns: 0,
            interval_ns: nanos(publish.interval),
            window: Window::new(publish.qos, publish.window.min(connack.receive_maximum)),
        })
    }

    /// Makes the first message due at `now_ns`.
    pub fn begin(&mut self, due_ns: u64) {
        self.due_ns = due_ns;
    }

    /// Messages that wait for their acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.window.in_flight()
    }

    /// Appends every message that is due and that window and quota allow, and takes it off the quota.
    pub fn produce(&mut self, quota: &mut u64, shared: &mut Shared, out: &mut Vec<u8>) -> Produced {
        let before = self.sequence;
        let produced = self.fill(*quota, shared, out);
        let sent = self.sequence - before;
        if sent > 0 {
            *quota -= sent;
            shared.remaining -= sent;
            shared.stats.sent += sent;
            shared.stats.sending.touch(shared.now_ns);
            if self.window.qos > 0 {
                shared.in_flight += sent;
            }
        }
        produced
    }

    #[inline]
    fn fill(&mut self, quota: u64, shared: &Shared, out: &mut Vec<u8>) -> Produced {
        let last = self.sequence.saturating_add(quota);
        loop {
            if self.sequence == last {
                return Produced::Blocked;
            }
            if self.interval_ns > 0 && self.due_ns > shared.now_ns {
                return Produced::DueAt(self.due_ns);
            }
            if out.len() >= TURN_BYTES {
                return Produced::More;
            }
            let Some(packet_id) = self.window.take(shared.now_ns) else { return Produced::Blocked };
            self.sequence += 1;
            let due_ns = if self.interval_ns == 0 { shared.now_ns } else { self.due_ns };
            self.head.push(&self.payload, packet_id, self.sequence, shared.wall_at_zero_ns + due_ns, out);
            self.due_ns += self.interval_ns;
        }
    }

    /// PUBACK (MQTT 5.0 section 3.4), or with `Ack::Comp` PUBCOMP (section 3.7).
    pub fn acknowledged(&mut self, ack: Ack, packet_id: u16, code: u8, shared: &mut Shared) {
        let expected = match ack {
            Ack::Pub => Phase::Published,
            Ack::Comp => Phase::Released,
        };
        let Some(sent_ns) = self.window.give_back(packet_id, expected) else {
            shared.stats.error(ack.unexpected());
            return;
        };
        shared.in_flight -= 1;
        if code >= 0x80 {
            self.refused(ack.name(), code, shared);
            return;
        }
        shared.stats.acked += 1;
        shared.stats.acking.touch(shared.now_ns);
        shared.stats.unmatched += u64::from(code == 0x10);
        record(&mut shared.stats.ack_latency, shared.now_ns - sent_ns);
    }

    /// PUBREC: answers with PUBREL, or ends the message on a refusal [MQTT-4.3.3-4].
    pub fn received(&mut self, packet_id: u16, code: u8, shared: &mut Shared, out: &mut Vec<u8>) {
        if code >= 0x80 {
            if self.window.give_back(packet_id, Phase::Published).is_some() {
                shared.in_flight -= 1;
                self.refused("PUBREC", code, shared);
            } else {
                shared.stats.error("PUBREC for a packet id that is not in flight");
            }
        } else if self.window.release(packet_id) {
            frames::push_ack(0x62, packet_id, out);
        } else {
            shared.stats.error("PUBREC for a packet id that is not in flight");
        }
    }

    #[cold]
    fn refused(&self, packet: &str, code: u8, shared: &mut Shared) {
        shared.stats.refused += 1;
        shared.stats.error(&format!("{packet}: {}", Reason::Code(code)));
    }
}

/// Which packet ends a message.
#[derive(Debug, Clone, Copy)]
pub enum Ack {
    /// PUBACK, of QoS 1.
    Pub,
    /// PUBCOMP, of QoS 2.
    Comp,
}

impl Ack {
    fn name(self) -> &'static str {
        match self {
            Self::Pub => "PUBACK",
            Self::Comp => "PUBCOMP",
        }
    }

    fn unexpected(self) -> &'static str {
        match self {
            Self::Pub => "PUBACK for a packet id that is not in flight",
            Self::Comp => "PUBCOMP for a packet id that is not in flight",
        }
    }
}

/// The packet ids 1 to its size, and what each is doing.
#[derive(Debug)]
pub struct Window {
    qos: u8,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    sent_ns: u64,
}

/// What a packet id is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not in use.
    Free,
    /// PUBLISH is sent.
    Published,
    /// PUBREC has come and PUBREL is sent.
    Released,
}

impl Window {
    /// Of this size, or without ids for QoS 0.
    pub fn new(qos: u8, size: u16) -> Self {
        let size = if qos == 0 { 0 } else { size };
        let slots = vec![Slot { phase: Phase::Free, sent_ns: 0 }; usize::from(size)];
        Self { qos, slots, free: (1..=size).rev().collect() }
    }

    /// Ids in use.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A packet id for the next message, 0 with QoS 0, or `None` while the window is full.
    #[inline]
    pub fn take(&mut self, now_ns: u64) -> Option<u16> {
        if self.qos == 0 {
            return Some(0);
        }
        let packet_id = self.free.pop()?;
        self.slots[usize::from(packet_id) - 1] = Slot { phase: Phase::Published, sent_ns: now_ns };
        Some(packet_id)
    }

    fn slot(&mut self, packet_id: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(packet_id).checked_sub(1)?)
    }

    /// Frees the id if it is in this phase; answers when its message was sent.
    #[inline]
    pub fn give_back(&mut self, packet_id: u16, phase: Phase) -> Option<u64> {
        // PUBACK belongs to QoS 1 and PUBCOMP to QoS 2; PUBREC with a refusal ends a QoS 2 message early.
        let slot = self.slot(packet_id).filter(|slot| slot.phase == phase)?;
        slot.phase = Phase::Free;
        let sent_ns = slot.sent_ns;
        self.free.push(packet_id);
        Some(sent_ns)
    }

    /// PUBREC came. True also when it comes again: then PUBREL is repeated [MQTT-4.3.3-4].
    pub fn release(&mut self, packet_id: u16) -> bool {
        let qos = self.qos;
        let slot = self.slot(packet_id).filter(|slot| qos == 2 && slot.phase != Phase::Free);
        slot.map(|slot| slot.phase = Phase::Released).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_hands_out_each_id_once_until_it_comes_back() {
        let mut window = Window::new(1, 3);
        let mut ids: Vec<_> = (0..3).filter_map(|_| window.take(5)).collect();
        ids.sort_unstable();
        assert_eq!((ids, window.take(5)), (vec![1, 2, 3], None));
        assert_eq!(window.give_back(2, Phase::Published), Some(5));
        assert_eq!(window.give_back(2, Phase::Published), None, "a second PUBACK is not expected");
        assert_eq!((window.in_flight(), window.take(6)), (2, Some(2)));
        for stranger in [0, 4, u16::MAX] {
            assert_eq!(window.give_back(stranger, Phase::Published), None);
        }
    }

    #[test]
    fn a_qos_2_message_ends_with_its_pubcomp_alone() {
        let mut window = Window::new(2, 1);
        assert_eq!(window.take(9), Some(1));
        assert_eq!(window.give_back(1, Phase::Released), None, "PUBCOMP before PUBREC");
        assert!(window.release(1) && window.release(1), "PUBREC may come twice");
        assert_eq!(window.give_back(1, Phase::Released), Some(9));
        assert!(!window.release(1));
    }

    #[test]
    fn qos_0_needs_no_window() {
        let mut window = Window::new(0, 1);
        assert_eq!((window.take(1), window.take(1), window.in_flight()), (Some(0), Some(0), 0));
    }
}
