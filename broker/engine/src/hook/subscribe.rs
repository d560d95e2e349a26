//! The events client.subscribe and client.unsubscribe: links change or refuse each topic filter
//! with its options.

use bytes::Bytes;
use grapnel_plugin_abi::host::{ClientIdentity, EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, Field, Status, Ticket};

use super::chain::Fold;
use super::notification::share_group;
use super::requested::{Requested, refuse_all};
use super::tickets::{SavedAccumulator, TicketIssuer};
use super::verdict::{ALLOW, DENY};
use super::view::{ClientView, user_property};
use super::{FaultPolicy, HookPoint, Link};
use crate::id::ShardId;
use crate::packet::Properties;

/// A SUBSCRIBE or UNSUBSCRIBE in its chain.
#[derive(Debug)]
pub struct SubscribeFold<'a> {
    point: HookPoint,
    client: ClientView<'a>,
    properties: Properties<'a>,
    topic_bytes_max: usize,
    /// The filters as changed by the links so far; at the end the result of the chain.
    pub filters: Vec<Requested>,
    overlay: Option<Vec<Requested>>,
    /// Values that were replaced during the event: a view that a hook holds stays valid.
    replaced: Vec<Bytes>,
    issuer: Option<TicketIssuer<'a>>,
    /// The running link.
    running: Option<&'a Link>,
}

impl<'a> SubscribeFold<'a> {
    /// The event of one packet, at client.subscribe or client.unsubscribe; links may defer only
    /// with a ticket issuer.
    pub fn new(
        point: HookPoint,
        client: ClientView<'a>,
        properties: Properties<'a>,
        filters: Vec<Requested>,
        topic_bytes_max: usize,
        issuer: Option<TicketIssuer<'a>>,
    ) -> SubscribeFold<'a> {
        SubscribeFold {
            point,
            client,
            properties,
            topic_bytes_max,
            filters,
            overlay: None,
            replaced: Vec::new(),
            issuer,
            running: None,
        }
    }

    /// The event for this fold.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        self.client.event(self.point, shard, wall_ms)
    }

    fn is_subscribe(&self) -> bool {
        self.point == HookPoint::ClientSubscribe
    }

    /// Applies one change to the overlay.
    ///
    /// # Errors
    /// As [`change`].
    fn change(&mut self, change: &FieldChange<'_>) -> Result<(), Status> {
        let filters = self.overlay.get_or_insert_with(|| self.filters.clone());
        self.replaced.extend(super::requested::change(filters, self.point, change, self.topic_bytes_max)?);
        Ok(())
    }
}

impl EventAccess for SubscribeFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        let filters = self.overlay.as_ref().unwrap_or(&self.filters);
        let requested = || filters.get(index as usize).ok_or(Status::ABSENT);
        match field {
            Field::FILTER => requested().map(|r| FieldValue::Bytes(&r.filter)),
            Field::FILTERS => Ok(FieldValue::Number(filters.len() as u64)),
            Field::FILTER_OPTIONS if self.is_subscribe() => {
                requested().map(|r| FieldValue::Number(u64::from(r.options.to_byte())))
            }
            Field::SHARE_GROUP => share_group(requested()?.filter_text())
                .map(|group| FieldValue::Bytes(group.as_bytes()))
                .ok_or(Status::ABSENT),
            Field::SUBSCRIPTION_ID if self.is_subscribe() => self
                .properties
                .subscription_id()
                .map(|id| FieldValue::Number(u64::from(id)))
                .ok_or(Status::ABSENT),
            Field::USER_PROPERTY | Field::USER_PROPERTIES => user_property(self.properties, field, index),
            Field::VERDICT => {
                let refused = requested()?.refused.is_some();
                Ok(FieldValue::Number(u64::from(if refused { DENY } else { ALLOW })))
            }
            Field::REASON_CODE => requested()?
                .refused
                .map(|reason| FieldValue::Number(u64::from(reason.0)))
                .ok_or(Status::ABSENT),
            _ => self.client.get(field, index),
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        self.change(&change)
    }

    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        Ok(self.client.identity())
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        let issuer = self.issuer.as_mut().ok_or(Status::UNSUPPORTED)?;
        issuer.take(self.running.ok_or(Status::WRONG_MOMENT)?, deadline_ms)
    }
}

impl<'a> Fold<'a> for SubscribeFold<'a> {
    #[inline]
    fn begin(&mut self, link: &'a Link) {
        self.running = Some(link);
    }

    fn topic(&self) -> &str {
        ""
    }

    fn commit(&mut self, _event: &mut Event) -> bool {
        if let Some(issuer) = &mut self.issuer {
            issuer.answered();
        }
        if let Some(next) = self.overlay.take() {
            let before = std::mem::replace(&mut self.filters, next);
            self.replaced.extend(before.into_iter().map(|requested| requested.filter));
        }
        false
    }

    fn on_defer(&mut self) {
        if let (Some(next), Some(issuer)) = (self.overlay.take(), &mut self.issuer) {
            issuer.keep(SavedAccumulator::Filters(std::mem::replace(&mut self.filters, next)));
        }
    }

    fn rollback(&mut self) {
        self.overlay = None;
        if let Some(issuer) = &mut self.issuer {
            issuer.rollback();
        }
    }

    fn ticket(&self) -> Option<Ticket> {
        self.issuer.as_ref().and_then(|issuer| issuer.taken)
    }

    fn has_no_free_ticket(&self) -> bool {
        self.issuer.as_ref().is_some_and(TicketIssuer::is_full)
    }

    fn fail(&mut self, policy: FaultPolicy) {
        if let Some(issuer) = &mut self.issuer {
            issuer.answered();
        }
        if policy == FaultPolicy::Deny {
            refuse_all(&mut self.filters);
        }
    }
}
