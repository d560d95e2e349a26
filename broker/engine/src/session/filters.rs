//! A SUBSCRIBE or UNSUBSCRIBE on its way: what of it is kept at each step. `flow/filters.rs` moves it.

use std::num::NonZeroU16;
use std::sync::Arc;

use grapnel_plugin_abi::raw::Ticket;

use crate::hook::HookPoint;
use crate::hook::requested::Requested;
use crate::hook::suspended::{AuthorizationRequest, Suspended};
use crate::packet::{OwnedProperties, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::reason::ReasonCode;

/// A subscription that waits for the barrier, to be followed by retained messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Place in the SUBSCRIBE packet.
    pub place: usize,
    /// Full filter.
    pub filter: Arc<str>,
    /// Sequence number it waits for, 0 for none.
    pub barrier_seq: u64,
    /// Whether the subscription was not there before.
    pub is_new: bool,
    /// Number of the reader of its retained messages; 0 where none are wanted.
    pub reader: u64,
    /// Number of its filter in the routes.
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

/// Whether a filter may be subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterDecision {
    /// That is still asked.
    Open(Box<AuthorizationRequest>),
    /// It has been asked.
    Done(Answered),
}

/// What client.authorize has said of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// It may be subscribed to, or not for this reason.
    pub answer: Result<(), ReasonCode>,
    /// Version of the rules by which that is so.
    pub epoch: u64,
    /// How often it has been asked anew because they had changed.
    pub rounds: u8,
}

/// What a filter is charged for beside its text: the question whether it may be subscribed to, its code, and what is granted.
const FILTER_BYTES: usize = size_of::<Requested>()
    + size_of::<FilterDecision>()
    + size_of::<AuthorizationRequest>()
    + size_of::<Granted>()
    + 1;

/// A SUBSCRIBE or UNSUBSCRIBE. It begins when it is in front.
#[derive(Debug)]
pub struct FilterPacket {
    /// Its packet identifier; `None` where a plugin subscribes for the client, which gets no SUBACK.
    pub packet_id: Option<NonZeroU16>,
    /// Which of the two it is.
    pub subscribe: bool,
    /// Its properties as they came, for hooks.
    pub properties: OwnedProperties,
    /// The filters as they came, or as the chain has left them; none while it is on its way there.
    pub requested: Vec<Requested>,
    /// Filters of the packet beyond those, which are refused.
    pub beyond: usize,
    /// One for each filter that has been put to client.authorize.
    pub permits: Vec<FilterDecision>,
    /// Reason codes so far.
    pub codes: Vec<u8>,
    /// What was granted.
    pub granted: Vec<Granted>,
    /// Number of the batch of its retained messages.
    pub batch: u64,
    /// How many of those granted are known to that batch.
    pub in_batch: usize,
    /// How far it has come.
    pub step: FilterStep,
    /// Whether it stands in the row of those that go on in the next turn.
    pub is_queued: bool,
}

/// How far a SUBSCRIBE or UNSUBSCRIBE has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FilterStep {
    /// Something is in front.
    Unstarted,
    /// At the packet's own hook point, with the filters as its links have left them so far.
    Chain(Suspended<Vec<Requested>>),
    /// At client.authorize: so many filters wait for an answer.
    Authorize(usize),
    /// Its filters are being put into force, or taken out of it.
    Apply,
    /// Until the other shards have acknowledged the changes of interest up to this number, or until this time, monotonic
    /// milliseconds.
    Barrier(u64, u64),
    /// Until the owners of retained messages have set their marks, or until this time.
    Marks(u64),
    /// SUBACK is out; so many of what was granted have been told of.
    Notify(usize),
}

impl FilterPacket {
    /// The tickets that it waits for.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let of_chain = match &self.step {
            FilterStep::Chain(chain) => chain.ticket(),
            _ => None,
        };
        let of_filters = self.permits.iter().filter_map(|decision| match decision {
            FilterDecision::Open(request) => request.ticket(),
            FilterDecision::Done(_) => None,
        });
        of_chain.into_iter().chain(of_filters)
    }

    /// Of a SUBSCRIBE, of which at most so many filters are kept.
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

    /// Of an UNSUBSCRIBE, of which at most so many filters are kept.
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

    /// What a plugin has put into force for a client, so that its retained messages follow.
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
            permits: Vec::new(),
            codes: Vec::new(),
            granted: Vec::new(),
            batch: 0,
            in_batch: 0,
            step,
            is_queued: false,
        }
    }

    /// Bytes that it is charged for: each filter with all that there will be of it.
    pub fn bytes(&self) -> usize {
        let (on_its_way, kept) = match &self.step {
            FilterStep::Chain(chain) => (&chain.accumulator[..], chain.before_bytes()),
            _ => (&[][..], 0),
        };
        let filters = self.requested.iter().chain(on_its_way);
        let filters: usize = filters.map(|one| FILTER_BYTES + 2 * one.filter.len()).sum();
        // A plugin asks for one filter, which is in force from the beginning.
        let granted = self.granted.iter().filter(|_| self.packet_id.is_none());
        self.properties.len() + kept + filters + self.beyond + granted.map(Granted::bytes).sum::<usize>()
    }

    /// Begins its own chain.
    pub fn begin_chain(&mut self, epoch: u64) {
        let point = if self.subscribe { HookPoint::ClientSubscribe } else { HookPoint::ClientUnsubscribe };
        self.step = FilterStep::Chain(Suspended::new(point, std::mem::take(&mut self.requested), epoch));
    }

    /// Its own chain is through, and has left these filters.
    pub fn end_chain(&mut self, requested: Vec<Requested>) {
        self.requested = requested;
        self.step = if self.subscribe { FilterStep::Authorize(0) } else { FilterStep::Apply };
    }
}
