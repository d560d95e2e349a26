//! The stored state of a SUBSCRIBE or UNSUBSCRIBE at each of its steps. `flow/filters.rs` moves it
//! on.

use std::num::NonZeroU16;
use std::sync::Arc;

use grapnel_plugin_abi::raw::Ticket;

use crate::hook::HookPoint;
use crate::hook::requested::Requested;
use crate::hook::suspended::{AuthorizationRequest, Suspended};
use crate::mount_point::Mount;
use crate::packet::{OwnedProperties, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::reason::ReasonCode;

/// A granted subscription that waits for the barrier; its retained messages come after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Index in the SUBSCRIBE packet.
    pub place: usize,
    /// Full filter.
    pub filter: Arc<str>,
    /// Sequence number for which it waits; 0 for none.
    pub barrier_seq: u64,
    /// Whether the subscription is new.
    pub is_new: bool,
    /// Number of the reader of its retained messages; 0 if none are to be sent.
    pub reader: u64,
    /// Number of its filter in the routing tables.
    pub number: u32,
    /// Options.
    pub options: SubscriptionOptions,
    /// Subscription identifier, 0 for none.
    pub id: u32,
}

impl Granted {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<Granted>() + self.filter.len()
    }
}

/// The decision on a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterDecision {
    /// The authorization request is open.
    Open(Box<AuthorizationRequest>),
    /// The request has its answer.
    Done(Answered),
}

/// The answer of client.authorize for a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Allowed, or refused with this reason.
    pub answer: Result<(), ReasonCode>,
    /// Version of the rules behind this answer.
    pub epoch: u64,
    /// How often the filter was authorized again because the rules changed.
    pub rounds: u8,
}

/// What a filter is charged for beside its text: its authorization request, its decision, its
/// reason code and its grant.
const FILTER_BYTES: usize = size_of::<Requested>()
    + size_of::<FilterDecision>()
    + size_of::<AuthorizationRequest>()
    + size_of::<Granted>()
    + 1;

/// A SUBSCRIBE or UNSUBSCRIBE. It starts when it is the first in the queue.
#[derive(Debug)]
pub struct FilterPacket {
    /// Its packet identifier; `None` if a plugin subscribes for the client, which then gets no
    /// SUBACK.
    pub packet_id: Option<NonZeroU16>,
    /// Whether it is a SUBSCRIBE.
    pub subscribe: bool,
    /// Its properties as received, for hooks.
    pub properties: OwnedProperties,
    /// The filters as received, or as changed by the chain; empty while the chain has them.
    pub requested: Vec<Requested>,
    /// Number of further filters in the packet, which are refused.
    pub beyond: usize,
    /// One decision for each filter that was passed to client.authorize.
    pub decisions: Vec<FilterDecision>,
    /// Reason codes so far.
    pub codes: Vec<u8>,
    /// The subscriptions that were granted.
    pub granted: Vec<Granted>,
    /// Number of the batch of retained messages.
    pub batch: u64,
    /// How many of those granted are in that batch.
    pub in_batch: usize,
    /// The current step.
    pub step: FilterStep,
    /// Whether it is in the queue for the next turn.
    pub is_queued: bool,
}

/// The step of a SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FilterStep {
    /// It waits for packets in front.
    Unstarted,
    /// In the chain of the packet's own hook point, with the filters as changed by the links so
    /// far.
    Chain(Suspended<Vec<Requested>>),
    /// At client.authorize; this number of filters waits for an answer.
    Authorize(usize),
    /// Its filters are being added or removed.
    Apply,
    /// Waits until the other shards have acknowledged the interest changes up to this number, or
    /// until this time, monotonic milliseconds.
    Barrier(u64, u64),
    /// Waits until the owners of retained messages have set their marks, or until this time,
    /// monotonic milliseconds.
    Marks(u64),
    /// SUBACK is sent; this many of the granted subscriptions have been notified.
    Notify(usize),
}

impl FilterPacket {
    /// The tickets for which it waits.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let of_chain = match &self.step {
            FilterStep::Chain(chain) => chain.ticket(),
            _ => None,
        };
        let of_filters = self.decisions.iter().filter_map(|decision| match decision {
            FilterDecision::Open(request) => request.ticket(),
            FilterDecision::Done(_) => None,
        });
        of_chain.into_iter().chain(of_filters)
    }

    /// From a SUBSCRIBE; at most `most` filters are stored.
    pub fn of_subscribe(subscribe: &Subscribe<'_>, most: usize) -> FilterPacket {
        let mut filters = subscribe.filters;
        let kept = filters.by_ref().take(most).map(|(filter, options)| Requested::new(filter, options));
        FilterPacket {
            packet_id: Some(subscribe.packet_id),
            properties: OwnedProperties::of(&subscribe.properties),
            requested: kept.collect(),
            beyond: filters.count(),
            ..FilterPacket::at(FilterStep::Unstarted, true)
        }
    }

    /// From an UNSUBSCRIBE; at most `most` filters are stored.
    pub fn of_unsubscribe(unsubscribe: &Unsubscribe<'_>, most: usize) -> FilterPacket {
        let mut filters = unsubscribe.filters;
        let kept = filters.by_ref().take(most);
        let kept = kept.map(|filter| Requested::new(filter, SubscriptionOptions::default()));
        FilterPacket {
            packet_id: Some(unsubscribe.packet_id),
            properties: OwnedProperties::of(&unsubscribe.properties),
            requested: kept.collect(),
            beyond: filters.count(),
            ..FilterPacket::at(FilterStep::Unstarted, false)
        }
    }

    /// From a subscription that a plugin has put into force for a client, so that its retained
    /// messages follow.
    pub fn of_plugin(granted: Granted, batch: u64) -> FilterPacket {
        FilterPacket { granted: vec![granted], batch, ..FilterPacket::at(FilterStep::Apply, true) }
    }

    fn at(step: FilterStep, subscribe: bool) -> FilterPacket {
        FilterPacket {
            packet_id: None,
            subscribe,
            properties: OwnedProperties::default(),
            requested: Vec::new(),
            beyond: 0,
            decisions: Vec::new(),
            codes: Vec::new(),
            granted: Vec::new(),
            batch: 0,
            in_batch: 0,
            step,
            is_queued: false,
        }
    }

    /// Bytes that it is charged for: for each filter all that will be stored for it.
    pub fn bytes(&self) -> usize {
        let (on_its_way, kept) = match &self.step {
            FilterStep::Chain(chain) => (&chain.accumulator[..], chain.before_bytes()),
            _ => (&[][..], 0),
        };
        let filters = self.requested.iter().chain(on_its_way);
        let filters: usize = filters.map(|one| FILTER_BYTES + 2 * one.filter.len()).sum();
        // A request of a plugin has one filter, which is in force from the start.
        let granted = self.granted.iter().filter(|_| self.packet_id.is_none());
        self.properties.len() + kept + filters + self.beyond + granted.map(Granted::bytes).sum::<usize>()
    }

    /// Starts the chain of its own hook point.
    pub fn begin_chain(&mut self, epoch: u64) {
        let point = if self.subscribe { HookPoint::ClientSubscribe } else { HookPoint::ClientUnsubscribe };
        self.step = FilterStep::Chain(Suspended::new(point, std::mem::take(&mut self.requested), epoch));
    }

    /// Ends that chain, with these filters as the client names them. From here on they have its
    /// mount point.
    pub fn end_chain(&mut self, requested: Vec<Requested>, mount: Option<&Mount>) {
        self.requested = requested;
        if let Some(mount) = mount {
            for request in &mut self.requested {
                request.filter = mount.filter(request.filter_text()).into();
            }
        }
        self.step = if self.subscribe { FilterStep::Authorize(0) } else { FilterStep::Apply };
    }
}
