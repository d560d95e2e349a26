//! Tickets of deferred verdicts: a fixed table for each shard, so that a completion never
//! allocates. A late or repeated completion fails because the generation differs. A ticket number
//! has shard (8 bits), generation (32 bits) and index (24 bits).

use bytes::Bytes;
use grapnel_plugin_abi::host::FieldChange;
use grapnel_plugin_abi::raw::{Field, Status, Ticket};

use super::draft::Draft;
use super::requested::Requested;
use super::verdict::{ClientVerdict, NoAnswer};
use super::{FaultPolicy, HookPoint, Link, LinkIdentity, PluginHandle};
use crate::id::{ConnKey, SessionKey, ShardId};
use crate::timer::Timer;

/// What waits for a ticket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiter {
    /// A CONNECT at client.connect.
    Connect(ConnKey),
    /// A CONNECT at client.authenticate.
    Authenticate(ConnKey),
    /// A CONNECT at client.authorize, for its will.
    Will(ConnKey),
    /// A re-authentication at client.authenticate.
    Renewal(ConnKey),
    /// A publish at message.publish or client.authorize, in the slot with this number.
    Publish(SessionKey, u64, HookPoint),
    /// A SUBSCRIBE or UNSUBSCRIBE at its own chain, in the slot with this number.
    Filters(SessionKey, u64, HookPoint),
    /// A delivery to this session at client.authorize.
    Deliver(SessionKey),
    /// A subscription in force that is rechecked at client.authorize, under this number.
    Recheck(u64),
    /// One filter of it at client.authorize.
    Filter(SessionKey, u64, u32),
    /// A retained message that a plugin reads on behalf of a client, at client.authorize, in the
    /// page with this number.
    Fetch(u64),
}

impl Waiter {
    /// The hook point at which it waits.
    pub fn point(&self) -> HookPoint {
        match self {
            Waiter::Connect(_) => HookPoint::ClientConnect,
            Waiter::Authenticate(_) | Waiter::Renewal(_) => HookPoint::ClientAuthenticate,
            Waiter::Publish(_, _, point) | Waiter::Filters(_, _, point) => *point,
            Waiter::Will(_)
            | Waiter::Deliver(_)
            | Waiter::Recheck(_)
            | Waiter::Filter(..)
            | Waiter::Fetch(_) => HookPoint::ClientAuthorize,
        }
    }
}

/// The accumulator from before the link that deferred.
#[derive(Clone, Debug)]
pub enum SavedAccumulator {
    /// At a hook point that decides on a client.
    Client(ClientVerdict),
    /// At message.publish.
    Message(Draft),
    /// At client.subscribe and client.unsubscribe.
    Filters(Vec<Requested>),
}

impl SavedAccumulator {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        match self {
            SavedAccumulator::Client(verdict) => size_of::<ClientVerdict>() + verdict.bytes(),
            SavedAccumulator::Message(draft) => size_of::<Draft>() + draft.bytes(),
            SavedAccumulator::Filters(filters) => {
                filters.iter().map(|one| size_of::<Requested>() + one.filter.len()).sum()
            }
        }
    }
}

/// A change that outlives the call in which it was made.
#[derive(Clone, Debug)]
pub struct OwnedChange {
    /// Which field.
    pub field: Field,
    /// Index, if there are several.
    pub index: u32,
    /// The new number.
    pub number: u64,
    /// The new bytes, or the value of a pair.
    pub bytes: Bytes,
    /// The key of a pair.
    pub key: Bytes,
}

impl OwnedChange {
    /// The change in the form that accumulators take.
    pub fn borrow(&self) -> FieldChange<'_> {
        FieldChange {
            field: self.field,
            index: self.index,
            number: self.number,
            bytes: &self.bytes,
            key: &self.key,
        }
    }
}

/// An open ticket.
#[derive(Clone, Debug)]
pub struct OpenTicket {
    /// Its number, set by [`Tickets::take`].
    pub number: Ticket,
    /// What waits for it.
    pub waiter: Waiter,
    /// The link that deferred.
    pub link: LinkIdentity,
    /// The plugin of the link.
    pub plugin: PluginHandle,
    /// What happens after a missed deadline.
    pub policy: FaultPolicy,
    /// The deadline, monotonic milliseconds.
    pub deadline_ms: u64,
    /// The timer of the deadline; set once the link has returned.
    pub timer: Option<Timer>,
    /// The accumulator to restore if the ticket ends with a fault; `None` if the link had changed
    /// nothing.
    pub before: Option<Box<SavedAccumulator>>,
}

/// The tickets of a shard.
#[derive(Debug)]
pub struct Tickets {
    shard: ShardId,
    places: Vec<(u32, Option<OpenTicket>)>,
    free: Vec<u32>,
    max: usize,
    open: usize,
}

impl Tickets {
    /// At most `max` are open at a time.
    pub fn new(shard: ShardId, max: u64) -> Tickets {
        let max = usize::try_from(max).unwrap_or(usize::MAX).min((1 << 24) - 1);
        Tickets { shard, places: Vec::new(), free: Vec::new(), max, open: 0 }
    }

    /// Whether another ticket is free.
    pub fn has_room(&self) -> bool {
        self.open < self.max
    }

    /// Number of open tickets.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Bytes of the earlier accumulator in a ticket.
    pub fn before_bytes(&self, ticket: Ticket) -> usize {
        self.get(ticket).and_then(|open| open.before.as_ref()).map_or(0, |before| before.bytes())
    }

    /// Opens a ticket.
    ///
    /// # Errors
    /// [`Status::FULL`] when `tickets_max` are open.
    pub fn take(&mut self, mut ticket: OpenTicket) -> Result<Ticket, Status> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < self.max => {
                self.places.push((0, None));
                (self.places.len() - 1) as u32
            }
            None => return Err(Status::FULL),
        };
        let generation = self.places[place as usize].0.wrapping_add(1).max(1);
        let number = self.number(place, generation);
        ticket.number = number;
        self.places[place as usize] = (generation, Some(ticket));
        self.open += 1;
        Ok(number)
    }

    /// Closes a ticket and returns it; `None` if it is closed already.
    pub fn close(&mut self, ticket: Ticket) -> Option<OpenTicket> {
        let place = (ticket.0 & 0x00FF_FFFF) as usize;
        let generation = (ticket.0 >> 24) as u32;
        let entry = self.places.get_mut(place)?;
        if entry.0 != generation {
            return None;
        }
        let open = entry.1.take()?;
        self.free.push(place as u32);
        self.open -= 1;
        Some(open)
    }

    /// An open ticket.
    pub fn get(&self, ticket: Ticket) -> Option<&OpenTicket> {
        let entry = self.places.get((ticket.0 & 0x00FF_FFFF) as usize)?;
        (entry.0 == (ticket.0 >> 24) as u32).then_some(entry.1.as_ref()).flatten()
    }

    /// An open ticket, to change.
    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut OpenTicket> {
        let entry = self.places.get_mut((ticket.0 & 0x00FF_FFFF) as usize)?;
        (entry.0 == (ticket.0 >> 24) as u32).then_some(entry.1.as_mut()).flatten()
    }

    fn number(&self, place: u32, generation: u32) -> Ticket {
        Ticket(u64::from(self.shard.0) << 56 | u64::from(generation) << 24 | u64::from(place))
    }
}

/// What a fold needs to give a ticket to the running link.
#[derive(Debug)]
pub struct TicketIssuer<'a> {
    /// The shard's tickets.
    pub tickets: &'a mut Tickets,
    /// What will wait for the ticket.
    pub waiter: Waiter,
    /// Monotonic time of the event.
    pub now_ms: u64,
    /// The ticket that was taken.
    pub taken: Option<Ticket>,
    /// Whether the running link requested a ticket and none was free.
    full: bool,
}

impl<'a> TicketIssuer<'a> {
    /// A ticket issuer for one event.
    pub fn new(tickets: &'a mut Tickets, waiter: Waiter, now_ms: u64) -> TicketIssuer<'a> {
        TicketIssuer { tickets, waiter, now_ms, taken: None, full: false }
    }

    /// Takes a ticket, one for each call of a link. The deadline is what the plugin requests, at
    /// most what the operator allows the link.
    ///
    /// # Errors
    /// [`Status::WRONG_MOMENT`] for a second ticket, [`Status::FULL`] when none is free.
    pub fn take(&mut self, link: &Link, deadline_ms: u32) -> Result<Ticket, Status> {
        if self.taken.is_some() {
            return Err(Status::WRONG_MOMENT);
        }
        let wait_ms = if deadline_ms == 0 { link.deadline_ms } else { deadline_ms.min(link.deadline_ms) };
        let ticket = self.tickets.take(OpenTicket {
            number: Ticket(0),
            waiter: self.waiter,
            link: link.identity,
            plugin: link.plugin,
            policy: link.policy,
            deadline_ms: self.now_ms + u64::from(wait_ms),
            timer: None,
            before: None,
        });
        self.full = ticket.is_err();
        let ticket = ticket?;
        self.taken = Some(ticket);
        Ok(ticket)
    }

    /// The running link deferred after it changed `before`.
    pub fn keep(&mut self, before: SavedAccumulator) {
        if let Some(open) = self.taken.and_then(|ticket| self.tickets.get_mut(ticket)) {
            open.before = Some(Box::new(before));
        }
    }

    /// The running link has answered, with or without a ticket.
    pub fn answered(&mut self) {
        self.full = false;
    }

    /// Whether the running link requested a ticket and none was free.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Why the link that ran last gave no answer.
    pub fn why(&mut self) -> NoAnswer {
        if std::mem::take(&mut self.full) { NoAnswer::NoRoom } else { NoAnswer::Fault }
    }

    /// The running link failed: closes its ticket.
    pub fn rollback(&mut self) {
        if let Some(ticket) = self.taken.take() {
            self.tickets.close(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open() -> OpenTicket {
        OpenTicket {
            number: Ticket(0),
            waiter: Waiter::Authenticate(ConnKey { index: 1, generation: 1 }),
            link: LinkIdentity(1),
            plugin: PluginHandle(1),
            policy: FaultPolicy::Deny,
            deadline_ms: 5,
            timer: None,
            before: None,
        }
    }

    #[test]
    fn a_ticket_closes_once() {
        let mut tickets = Tickets::new(ShardId(3), 10);
        let ticket = tickets.take(open()).unwrap();
        assert_eq!(ticket.0 >> 56, 3);
        assert!(tickets.close(ticket).is_some());
        assert!(tickets.close(ticket).is_none());
        let again = tickets.take(open()).unwrap();
        assert_ne!(again, ticket, "the place is reused under another generation");
        assert!(tickets.get(ticket).is_none());
    }

    #[test]
    fn a_stale_number_on_a_reused_place_finds_nothing_and_closes_nothing() {
        let mut tickets = Tickets::new(ShardId(0), 1);
        let stale = tickets.take(open()).unwrap();
        assert!(tickets.close(stale).is_some());
        let fresh = tickets.take(open()).unwrap();
        assert_eq!(fresh.0 & 0x00FF_FFFF, stale.0 & 0x00FF_FFFF, "the same place");
        assert!(tickets.get(stale).is_none() && tickets.get_mut(stale).is_none());
        assert!(tickets.close(stale).is_none(), "it is another's by now");
        assert_eq!((tickets.open(), tickets.has_room()), (1, false));
        assert_eq!(tickets.get(fresh).map(|open| open.number), Some(fresh), "which still stands");
        assert_eq!(tickets.close(fresh).map(|open| open.number), Some(fresh));
        assert_eq!((tickets.open(), tickets.has_room()), (0, true));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tickets = Tickets::new(ShardId(0), 2);
        let first = tickets.take(open()).unwrap();
        tickets.take(open()).unwrap();
        assert_eq!(tickets.take(open()), Err(Status::FULL));
        tickets.close(first);
        assert!(tickets.take(open()).is_ok());
    }
}
