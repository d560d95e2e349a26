//! The ordered queue of received packets that wait: for a deferred verdict, the owner of a retained
//! message, a full lane, the SUBACK barrier, or the packets in front. They take effect and are
//! acknowledged in order of arrival.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use bytes::Bytes;
use grapnel_plugin_abi::raw::Ticket;

use super::behalf::Behalf;
use super::ending::{End, EndCause};
use super::filters::FilterPacket;
use super::publish::{OrderingLimit, PublishMetadata, PublishSlot, Refused, Stage, Verdict};
use crate::id::ConnKey;
use crate::on_demand::{Empty, OnDemand};
use crate::packet::{DisconnectRequest, QoS};

/// A packet that waits.
#[derive(Debug)]
pub enum SlotBody {
    /// A PUBLISH, or the will.
    Publish(Box<PublishSlot>),
    /// A PUBLISH that has no effect, or a request of a plugin that is not a publish.
    Refused(Box<Refused>),
    /// A SUBSCRIBE or UNSUBSCRIBE.
    Filters(Box<FilterPacket>),
    /// A DISCONNECT.
    Disconnect(DisconnectRequest),
    /// The end of the connection; the packets it sent are in front.
    End(Box<End>),
}

/// A received packet that waits.
#[derive(Debug)]
pub struct Slot {
    /// The connection it came from.
    pub conn: Option<ConnKey>,
    /// Bytes that it counts against `slot_bytes_max`.
    bytes: usize,
    /// The packet.
    pub body: SlotBody,
}

impl Slot {
    /// A new slot.
    pub fn new(conn: Option<ConnKey>, body: SlotBody) -> Slot {
        Slot { conn, bytes: body.bytes(), body }
    }

    /// Recomputes the bytes that it adds to a ledger.
    pub fn recount(&self) -> usize {
        SLOT_BYTES + self.body.bytes()
    }
}

impl SlotBody {
    /// Bytes that it counts against `slot_bytes_max`.
    fn bytes(&self) -> usize {
        match self {
            SlotBody::Publish(publish) => {
                let as_sent = publish.as_sent.as_ref().map_or(0, |as_sent| as_sent.bytes());
                publish.message.bytes() + publish.stage.bytes() + behalf_bytes(&publish.behalf) + as_sent
            }
            SlotBody::Refused(refused) => {
                refused.verdict.text.as_ref().map_or(0, Bytes::len) + behalf_bytes(&refused.behalf)
            }
            SlotBody::Filters(packet) => packet.bytes(),
            SlotBody::Disconnect(_) => 0,
            SlotBody::End(end) => size_of::<End>() + end.will.as_ref().map_or(0, |will| will.bytes()),
        }
    }
}

#[inline]
fn behalf_bytes(behalf: &Option<Box<Behalf>>) -> usize {
    behalf.as_ref().map_or(0, |behalf| behalf.bytes())
}

/// What every slot is charged for beside its packet.
const SLOT_BYTES: usize = size_of::<Slot>() + size_of::<PublishSlot>();

/// Capacity that an empty queue keeps, in packets.
const SPARE: usize = 64;

/// The slots of a session.
#[derive(Debug, Default)]
pub struct Slots {
    waiting: OnDemand<Waiting>,
    /// Number of the packet in front.
    first: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Slot>,
    /// Bytes of the packets.
    bytes: usize,
}

impl Empty for Waiting {
    const EMPTY: &'static Waiting = &Waiting { queue: VecDeque::new(), bytes: 0 };
}

impl Slots {
    /// Bytes that it has allocated, without its entries.
    #[inline]
    pub(crate) fn part_bytes(&self) -> usize {
        self.waiting.memory()
    }

    /// Number of waiting packets.
    pub fn len(&self) -> usize {
        self.waiting.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.queue.is_empty()
    }

    /// Bytes of the waiting packets.
    pub fn bytes(&self) -> usize {
        self.waiting.bytes
    }

    /// Bytes that the waiting packets add to a ledger.
    pub fn charge(&self) -> usize {
        self.waiting.queue.len() * SLOT_BYTES + self.waiting.bytes
    }

    /// Whether only publishes wait, so that another may begin its chain behind them.
    pub fn only_publishes(&self) -> bool {
        self.waiting.queue.iter().all(|slot| match &slot.body {
            SlotBody::Publish(publish) => !matches!(publish.stage, Stage::Unstarted),
            SlotBody::Refused(_) => true,
            _ => false,
        })
    }

    /// Puts a packet at the end. Returns the slot id, which names it until it leaves.
    pub fn push(&mut self, slot: Slot) -> u64 {
        let Waiting { queue, bytes } = self.waiting.make();
        *bytes += slot.bytes;
        queue.push_back(slot);
        self.first + queue.len() as u64 - 1
    }

    /// Puts a packet in front, in the place of the one that was just taken.
    pub fn push_front(&mut self, slot: Slot) {
        let Waiting { queue, bytes } = self.waiting.make();
        *bytes += slot.bytes;
        queue.push_front(slot);
        self.first -= 1;
    }

    /// The number that the next packet will have.
    pub fn next_number(&self) -> u64 {
        self.first + self.waiting.queue.len() as u64
    }

    /// The packet in front.
    pub fn front_mut(&mut self) -> Option<&mut Slot> {
        self.waiting.get_mut()?.queue.front_mut()
    }

    /// If the end of the last connection waits, records that the client is connected again.
    pub fn note_return(&mut self, now_ms: u64) {
        let Some(Waiting { queue, .. }) = self.waiting.get_mut() else { return };
        let last = queue.iter_mut().rev().find_map(|slot| match &mut slot.body {
            SlotBody::End(end) => Some(end),
            _ => None,
        });
        if let Some(end) = last {
            end.returned_ms = Some(now_ms);
        }
    }

    /// Whether a DISCONNECT waits; then its client sends nothing more.
    pub fn has_disconnect(&self) -> bool {
        self.waiting.queue.iter().any(|slot| matches!(slot.body, SlotBody::Disconnect(_)))
    }

    /// The waiting DISCONNECT of a connection.
    pub fn disconnect_of(&self, conn: ConnKey) -> Option<DisconnectRequest> {
        self.waiting.queue.iter().filter(|slot| slot.conn == Some(conn)).find_map(|slot| match slot.body {
            SlotBody::Disconnect(leave) if !leave.forbidden => Some(leave),
            _ => None,
        })
    }

    /// The packet in front.
    pub fn front(&self) -> Option<&Slot> {
        self.waiting.queue.front()
    }

    /// Number of the packet in front.
    pub fn front_number(&self) -> u64 {
        self.first
    }

    /// Takes the packet in front.
    pub fn pop(&mut self) -> Option<Slot> {
        let Waiting { queue, bytes } = self.waiting.get_mut()?;
        let slot = queue.pop_front()?;
        self.first += 1;
        *bytes -= slot.bytes;
        // A client subscribes seldom, so that the next packet may allocate again. One that publishes
        // may do so at once.
        let is_seldom = !matches!(slot.body, SlotBody::Publish(_) | SlotBody::Refused(_));
        if queue.is_empty() && (is_seldom || queue.capacity() > SPARE) {
            self.waiting.release();
        }
        Some(slot)
    }

    /// A packet by its slot id.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Slot> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get_mut()?.queue.get_mut(place)
    }

    /// A waiting publish by its slot id.
    pub fn publish_mut(&mut self, number: u64) -> Option<&mut PublishSlot> {
        match &mut self.get_mut(number)?.body {
            SlotBody::Publish(publish) => Some(publish),
            _ => None,
        }
    }

    /// Updates the bytes of a packet that hooks have changed.
    pub fn recharge(&mut self, number: u64) {
        let Some(slot) = self.get_mut(number) else { return };
        let before = std::mem::replace(&mut slot.bytes, slot.body.bytes());
        let after = slot.bytes;
        self.recount(before, after);
    }

    /// Refuses a waiting publish: its message is dropped and its slot stays.
    pub fn refuse(&mut self, number: u64, verdict: Verdict) {
        let Some(slot) = self.get_mut(number) else { return };
        let SlotBody::Publish(publish) = &mut slot.body else { return };
        let refused = Refused { metadata: publish.metadata, verdict, behalf: publish.behalf.take() };
        let refused = Slot::new(slot.conn, SlotBody::Refused(Box::new(refused)));
        let (before, after) = (slot.bytes, refused.bytes);
        *slot = refused;
        self.recount(before, after);
    }

    /// Counts the new bytes of a packet.
    fn recount(&mut self, before: usize, after: usize) {
        if let Some(Waiting { bytes, .. }) = self.waiting.get_mut() {
            *bytes = *bytes - before + after;
        }
    }

    /// Whether a publish waits that has had no effect yet.
    pub fn may_be_refused(&self) -> bool {
        self.publishes().any(PublishSlot::may_be_refused)
    }

    /// The ordering limit for the publish with this slot id, from the nearest one in front that is
    /// still in its chains.
    pub fn in_front(&self, number: u64) -> OrderingLimit {
        let Ok(before) = usize::try_from(number.saturating_sub(self.first)) else {
            return OrderingLimit::default();
        };
        let ahead = self.waiting.queue.iter().take(before).rev().find_map(|slot| match &slot.body {
            SlotBody::Publish(publish) => publish.position(),
            _ => None,
        });
        ahead.unwrap_or_default()
    }

    /// Publishes that wait for a plugin, or behind one that does.
    pub fn deferred(&self) -> usize {
        self.publishes().filter(|publish| publish.is_in_progress()).count()
    }

    /// Publishes that wait for a ticket.
    pub fn tickets(&self) -> usize {
        self.publishes().filter(|publish| publish.stage.ticket().is_some()).count()
    }

    /// The tickets that packets wait for.
    pub fn open_tickets(&self) -> impl Iterator<Item = Ticket> {
        self.waiting.queue.iter().flat_map(|slot| {
            let (publish, filters) = match &slot.body {
                SlotBody::Publish(publish) => (publish.stage.ticket(), None),
                SlotBody::Filters(packet) => (None, Some(packet.tickets())),
                SlotBody::Refused(_) | SlotBody::Disconnect(_) | SlotBody::End(_) => (None, None),
            };
            publish.into_iter().chain(filters.into_iter().flatten())
        })
    }

    /// Whether a publish with this identifier waits for its acknowledgement; a resend is joined
    /// with it.
    pub fn has_publish(&self, packet_id: NonZeroU16) -> bool {
        self.unacknowledged().any(|metadata| metadata.packet_id == Some(packet_id))
    }

    /// Number of publishes that the broker has not acknowledged yet.
    pub fn acknowledgements_owed(&self) -> usize {
        if self.waiting.queue.is_empty() { 0 } else { self.unacknowledged().count() }
    }

    /// Number of publishes of clients that begin a QoS 2 exchange when they are acknowledged.
    pub fn exactly_once(&self) -> usize {
        if self.waiting.queue.is_empty() {
            0
        } else {
            self.unacknowledged().filter(|metadata| metadata.packet_qos == QoS::ExactlyOnce).count()
        }
    }

    /// Metadata of the publishes that the broker has not acknowledged yet.
    fn unacknowledged(&self) -> impl Iterator<Item = &PublishMetadata> {
        let heads = self.waiting.queue.iter().filter_map(|slot| match &slot.body {
            SlotBody::Publish(publish) => Some(&publish.metadata),
            SlotBody::Refused(refused) => Some(&refused.metadata),
            _ => None,
        });
        heads.filter(|metadata| metadata.packet_id.is_some())
    }

    /// All waiting publishes in order.
    pub fn publishes(&self) -> impl Iterator<Item = &PublishSlot> {
        self.waiting.queue.iter().filter_map(|slot| match &slot.body {
            SlotBody::Publish(publish) => Some(&**publish),
            _ => None,
        })
    }

    /// Sets the cause of the waiting end of a connection. Used when the DISCONNECT of its client is
    /// processed after the connection is gone.
    pub fn mark_end(&mut self, conn: ConnKey, cause: EndCause) {
        let Some(Waiting { queue, .. }) = self.waiting.get_mut() else { return };
        for slot in queue {
            if let SlotBody::End(end) = &mut slot.body
                && slot.conn == Some(conn)
            {
                end.cause = cause;
            }
        }
    }

    /// All waiting packets in order.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.waiting.queue.iter()
    }
}
