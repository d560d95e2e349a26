//! The receiving side of a client: counts messages, reads their headers, writes acknowledgements.
//! Driven by `client` for every PUBLISH, whatever the role of the client.

use crate::client::Shared;
use crate::frames::{self, Publish};
use crate::header;
use crate::stats::record;
use ahash::AHasher;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

/// What one client has to remember of what it received.
#[derive(Debug)]
pub struct Receiver {
    tracker: Option<usize>,
    /// QoS 2 ids between PUBLISH and PUBREL.
    unreleased: HashSet<u16, BuildHasherDefault<AHasher>>,
}

impl Receiver {
    /// `tracker` is the index in [`Shared::trackers`] of the one that this client's messages count in.
    pub fn new(tracker: Option<usize>) -> Self {
        Self { tracker, unreleased: HashSet::default() }
    }

    /// A PUBLISH came: counts it and appends PUBACK or PUBREC.
    #[inline]
    pub fn publish(&mut self, publish: &Publish<'_>, shared: &mut Shared, out: &mut Vec<u8>) {
        match publish.qos {
            0 => {}
            1 => frames::push_ack(0x40, publish.packet_id, out),
            _ => {
                frames::push_ack(0x50, publish.packet_id, out);
                // Until PUBREL the same id is the same message [MQTT-4.3.3-10].
                if !self.unreleased.insert(publish.packet_id) {
                    shared.stats.redelivered += 1;
                    return;
                }
            }
        }
        self.count(publish.payload, shared);
    }

    #[inline]
    fn count(&mut self, payload: &[u8], shared: &mut Shared) {
        let stats = &mut shared.stats;
        stats.received += 1;
        stats.received_bytes += payload.len() as u64;
        stats.receiving.touch(shared.now_ns);
        let Some(stamp) = header::read(payload) else {
            if shared.header_expected {
                stats.error("message without a payload header");
            }
            return;
        };
        if let Some(due_ns) = stamp.due_ns {
            let now_ns = shared.wall_at_zero_ns + shared.now_ns;
            stats.from_the_future += u64::from(due_ns > now_ns);
            record(&mut stats.latency, now_ns.saturating_sub(due_ns));
        }
        if let (Some((publisher, sequence)), Some(tracker)) = (stamp.sequence, self.tracker) {
            shared.trackers[tracker].see(publisher, sequence, shared.gaps_max);
        }
    }

    /// A PUBREL came: appends PUBCOMP [MQTT-4.3.3-11].
    pub fn release(&mut self, packet_id: u16, out: &mut Vec<u8>) {
        // An id of an earlier connection is not known here; its PUBCOMP is owed all the same.
        self.unreleased.remove(&packet_id);
        frames::push_ack(0x70, packet_id, out);
    }
}
