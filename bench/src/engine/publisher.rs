//! A publisher: when its next message is due, which packet ids are in flight, and the results of
//! their acknowledgements. Called by `client`; writes packets into the shared buffer and never
//! waits.

use super::Shared;
use super::failure::Failure;
use crate::clock::nanos;
use crate::frames::{self, Connack, Frame, PublishPrefix, kind};
use crate::header::Publisher as Stamp;
use crate::plan::{Pace, Setup};
use crate::reason::Reason;
use anyhow::{Result, ensure};
use slab::Slab;

/// Maximum bytes of one publisher's turn, so that the others are served and one write sends them.
const TURN_BYTES: usize = 64 * 1024;

/// One publishing client.
#[derive(Debug)]
pub struct Publisher {
    index: usize,
    /// Fixed parts of its packets, by topic.
    heads: Vec<PublishPrefix>,
    window: Window,
    turn: Turn,
}

/// The condition for the next message.
#[derive(Debug)]
enum Turn {
    /// The publisher's own clock.
    Own {
        sequence: u64,
        /// Messages that it may still send.
        quota: u64,
        interval_ns: u64,
        /// When the next message is due; it falls behind while the window is closed, so that the
        /// stamps include the wait.
        due_ns: u64,
    },
    /// Credit from the ledger, or the schedule: so many messages may be sent now.
    Granted(u64),
}

/// Why [`Publisher::produce`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Produced {
    /// Nothing to send until an acknowledgement or credit arrives, or at all.
    Blocked,
    /// The next message is due at this time.
    DueAt(u64),
    /// There is more, after the turns of others.
    More,
}

impl Publisher {
    /// The publisher at `index`, with its share of the limit.
    pub fn new(index: usize, setup: &Setup) -> Self {
        let turn = match setup.pace {
            Pace::Interval { gap, .. } => Turn::Own {
                sequence: 0,
                quota: setup.pace.quota(index, setup.shape.publishers.len()),
                interval_ns: nanos(gap),
                due_ns: 0,
            },
            Pace::Credit { .. } | Pace::Rate(_) => Turn::Granted(0),
        };
        Self { index, heads: Vec::new(), window: Window::new(0, 0), turn }
    }

    /// Encodes the common parts of all messages, or fails if the broker's CONNACK does not allow
    /// them.
    pub fn prepare(&mut self, setup: &Setup, connack: &Connack) -> Result<()> {
        let messages = &setup.messages;
        ensure!(messages.qos <= connack.maximum_qos, "the broker takes QoS {} at most", connack.maximum_qos);
        ensure!(connack.retain_available || !messages.retain, "the broker takes no retained messages");
        let stamp = Stamp::new(messages.run, setup.names.number(self.index));
        for topic in &setup.shape.publishers[self.index].topics {
            let head = PublishPrefix::new(setup.version, topic, messages, stamp)?;
            let (bytes, max) = (head.len() + messages.payload.len(), connack.maximum_packet_size);
            ensure!(bytes <= max as usize, "a packet of {bytes} bytes, the broker takes {max} at most");
            self.heads.push(head);
        }
        self.window = Window::new(messages.qos, messages.window.min(connack.receive_maximum));
        Ok(())
    }

    /// Makes the first message due, if the publisher has its own interval.
    pub fn begin(&mut self, now_ns: u64) {
        if let Turn::Own { due_ns, .. } = &mut self.turn {
            *due_ns = now_ns;
        }
    }

    /// One more message of an open loop is due.
    #[inline]
    pub fn grant(&mut self) {
        if let Turn::Granted(allowance) = &mut self.turn {
            *allowance += 1;
        }
    }

    /// Messages that wait for their acknowledgement.
    pub fn in_flight(&self) -> u64 {
        self.window.in_flight() as u64
    }

    /// Returns the unsent part of its share of the limit, which becomes 0.
    pub fn give_up_quota(&mut self) -> u64 {
        if let Turn::Own { quota, .. } = &mut self.turn { std::mem::take(quota) } else { 0 }
    }

    /// Appends every message that is due and that window and quota allow.
    #[inline]
    pub fn produce(&mut self, shared: &mut Shared<'_>) -> Produced {
        let before = shared.counts.sent;
        let produced = self.fill(shared);
        let sent = shared.counts.sent - before;
        if sent > 0 {
            shared.counts.sending.touch(shared.now_ns);
            if self.window.qos > 0 {
                shared.counts.in_flight += sent;
            }
            if let Some(remaining) = &mut shared.remaining {
                *remaining -= sent;
            }
        }
        produced
    }

    #[inline]
    fn fill(&mut self, shared: &mut Shared<'_>) -> Produced {
        let setup = shared.setup;
        loop {
            match &mut self.turn {
                Turn::Own { quota: 0, .. } => return Produced::Blocked,
                Turn::Own { interval_ns: 1.., due_ns, .. } if *due_ns > shared.now_ns => {
                    return Produced::DueAt(*due_ns);
                }
                Turn::Own { .. } => {}
                Turn::Granted(allowance) => {
                    if *allowance == 0 {
                        *allowance = earned(setup.pace, shared.record.available(self.index));
                    }
                    if *allowance == 0 {
                        return Produced::Blocked;
                    }
                }
            }
            if shared.out.len() >= TURN_BYTES {
                return Produced::More;
            }
            let Some(packet_id) = self.window.take(shared.now_ns) else { return Produced::Blocked };
            shared.counts.sent += 1;
            let (sequence, topic, due_ns) = match &mut self.turn {
                Turn::Own { sequence, quota, interval_ns, due_ns } => {
                    *sequence += 1;
                    *quota -= 1;
                    let due = if *interval_ns == 0 { shared.now_ns } else { *due_ns };
                    *due_ns += *interval_ns;
                    (*sequence, 0, due)
                }
                Turn::Granted(allowance) => {
                    *allowance -= 1;
                    shared.enter(self.index)
                }
            };
            let stamp_ns = shared.wall_at_zero_ns + due_ns;
            self.heads[topic].push(&setup.messages.payload, packet_id, sequence, stamp_ns, &mut shared.out);
        }
    }

    /// Handles PUBACK, PUBREC or PUBCOMP (MQTT 5.0 sections 3.4, 3.5 and 3.7).
    pub fn acknowledgement(
        &mut self,
        kind: u8,
        frame: &Frame<'_>,
        shared: &mut Shared<'_>,
    ) -> Result<(), Failure> {
        let (name, awaited) = match kind {
            kind::PUBACK => ("PUBACK", Phase::Published),
            kind::PUBREC => ("PUBREC", Phase::Published),
            kind::PUBCOMP => ("PUBCOMP", Phase::Released),
            _ => return Err(Failure::Unexpected(kind)),
        };
        let (packet_id, code) = frames::ack(frame)?;
        let counts = &mut shared.counts;
        if kind == kind::PUBREC && code < 0x80 {
            // Also for a duplicate [MQTT-4.3.3-4].
            if self.window.release(packet_id) {
                frames::push_ack(0x62, packet_id, &mut shared.out);
            } else {
                counts.error("PUBREC for a packet id that is not in flight");
            }
            return Ok(());
        }
        let Some(sent_ns) = self.window.give_back(packet_id, awaited) else {
            counts.error(&format!("{name} for a packet id that is not in flight"));
            return Ok(());
        };
        counts.in_flight -= 1;
        if code >= 0x80 {
            counts.refused += 1;
            let what = if shared.record.is_ledger() { "message refused" } else { name };
            counts.error(&format!("{what}: {}", Reason::Code(code)));
            return Ok(());
        }
        counts.acked += 1;
        counts.acking.touch(shared.now_ns);
        counts.unmatched += u64::from(code == 0x10);
        counts.ack_latency.record(shared.now_ns - sent_ns);
        Ok(())
    }
}

/// How many messages a publisher with this credit sends now: complete bursts. In an open loop the
/// schedule decides.
fn earned(pace: Pace, available: u64) -> u64 {
    match pace {
        Pace::Credit { burst, .. } => available - available % u64::from(burst),
        Pace::Rate(_) | Pace::Interval { .. } => 0,
    }
}

/// The packet ids 1 to its size, with the state of those in use.
#[derive(Debug)]
pub struct Window {
    qos: u8,
    size: u16,
    slots: Slab<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    sent_ns: u64,
}

/// State of a packet id in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// PUBLISH is sent.
    Published,
    /// PUBREC has arrived and PUBREL is sent.
    Released,
}

impl Window {
    /// Of this size; QoS 0 needs no ids.
    pub fn new(qos: u8, size: u16) -> Self {
        let slots = Slab::with_capacity(if qos == 0 { 0 } else { size.into() });
        Self { qos, size, slots }
    }

    /// Ids in use.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// A packet id for the next message, 0 with QoS 0, or `None` while the window is full.
    #[inline]
    pub fn take(&mut self, now_ns: u64) -> Option<u16> {
        if self.qos == 0 {
            return Some(0);
        }
        if self.slots.len() >= usize::from(self.size) {
            return None;
        }
        let slot = self.slots.insert(Slot { phase: Phase::Published, sent_ns: now_ns });
        u16::try_from(slot + 1).ok()
    }

    /// Frees the id if it is in this phase. Returns when its message was sent.
    #[inline]
    pub fn give_back(&mut self, packet_id: u16, phase: Phase) -> Option<u64> {
        // PUBACK belongs to QoS 1 and PUBCOMP to QoS 2; PUBREC with a refusal ends a QoS 2 message
        // early.
        let at = usize::from(packet_id).checked_sub(1)?;
        self.slots.get(at).filter(|slot| slot.phase == phase)?;
        Some(self.slots.remove(at).sent_ns)
    }

    /// PUBREC has arrived. True also for a duplicate: then PUBREL is sent again [MQTT-4.3.3-4].
    pub fn release(&mut self, packet_id: u16) -> bool {
        let at = usize::from(packet_id).checked_sub(1).filter(|_| self.qos == 2);
        let slot = at.and_then(|at| self.slots.get_mut(at));
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

    #[test]
    fn credit_is_spent_in_whole_bursts() {
        let pace = Pace::Credit { window: 16, burst: 8 };
        let spent: Vec<_> = [0, 7, 8, 15, 16].into_iter().map(|available| earned(pace, available)).collect();
        assert_eq!(spent, [0, 0, 8, 8, 16]);
        assert_eq!(earned(Pace::Rate(5000), u64::MAX), 0);
    }
}
