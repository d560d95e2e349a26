//! The events client.subscribe and client.unsubscribe: the topic filters, with their options, which links rewrite or refuse one by
//! one.

use bytes::Bytes;
use grapnel_plugin_abi::host::{EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, Field, Status, Ticket};

use super::chain::Fold;
use super::client::{ALLOW, ClientView, DENY, user_property};
use super::tickets::{Before, TicketDesk};
use super::told::share_group;
use super::{HookPoint, Link};
use crate::id::ShardId;
use crate::packet::{Properties, SubscriptionOptions};
use crate::reason::ReasonCode;
use crate::topic;

/// A topic filter of a SUBSCRIBE or UNSUBSCRIBE as the chain leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The filter, $share prefix included.
    pub filter: Bytes,
    /// Its options; the default at UNSUBSCRIBE, which has none.
    pub options: SubscriptionOptions,
    /// Whether a link refused it, and why.
    pub refused: Option<ReasonCode>,
}

impl Requested {
    /// As it stands in the packet.
    pub fn new(filter: &str, options: SubscriptionOptions) -> Requested {
        Requested { filter: Bytes::copy_from_slice(filter.as_bytes()), options, refused: None }
    }

    /// The filter as text; it was checked when it was read or set.
    pub fn filter_text(&self) -> &str {
        std::str::from_utf8(&self.filter).unwrap_or("")
    }
}

/// A SUBSCRIBE or UNSUBSCRIBE on its way along its chain.
#[derive(Debug)]
pub struct SubscribeFold<'a> {
    point: HookPoint,
    client: ClientView<'a>,
    properties: Properties<'a>,
    topic_bytes_max: usize,
    /// What the links before have left; the chain's answer at the end.
    pub filters: Vec<Requested>,
    overlay: Option<Vec<Requested>>,
    /// What was replaced during the event: a view a hook took of it stays valid.
    replaced: Vec<Bytes>,
    desk: Option<TicketDesk<'a>>,
    /// The running link.
    running: Option<&'a Link>,
}

impl<'a> SubscribeFold<'a> {
    /// The event of one packet, at client.subscribe or client.unsubscribe; a desk lets links defer.
    pub fn new(
        point: HookPoint,
        client: ClientView<'a>,
        properties: Properties<'a>,
        filters: Vec<Requested>,
        topic_bytes_max: usize,
        desk: Option<TicketDesk<'a>>,
    ) -> SubscribeFold<'a> {
        SubscribeFold {
            point,
            client,
            properties,
            topic_bytes_max,
            filters,
            overlay: None,
            replaced: Vec::new(),
            desk,
            running: None,
        }
    }

    /// The event that goes with it.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        self.client.event(self.point, shard, wall_ms)
    }

    fn is_subscribe(&self) -> bool {
        self.point == HookPoint::ClientSubscribe
    }

    fn may_refuse(&self, reason: ReasonCode) -> bool {
        if self.is_subscribe() { reason.refuses_subscription() } else { reason.refuses_unsubscription() }
    }

    /// Takes one change into the overlay; also for changes that come with a completion.
    ///
    /// # Errors
    /// UNSUPPORTED for what cannot be changed here, INVALID for a value that cannot be taken, ABSENT for a filter that is not there.
    pub fn change(&mut self, change: &FieldChange<'_>) -> Result<(), Status> {
        let (subscribe, reason) = (self.is_subscribe(), reason_of(change).filter(|r| self.may_refuse(*r)));
        let filters = self.overlay.get_or_insert_with(|| self.filters.clone());
        let requested = filters.get_mut(change.index as usize).ok_or(Status::ABSENT)?;
        match change.field {
            Field::FILTER => {
                let filter = super::text(change.bytes)?;
                if filter.len() > self.topic_bytes_max || topic::parse_filter(filter).is_err() {
                    return Err(Status::INVALID);
                }
                let before = std::mem::replace(&mut requested.filter, Bytes::copy_from_slice(change.bytes));
                self.replaced.push(before);
            }
            Field::FILTER_OPTIONS if subscribe => {
                let byte = u8::try_from(change.number).map_err(|_| Status::INVALID)?;
                requested.options = SubscriptionOptions::from_byte(byte).map_err(|_| Status::INVALID)?;
            }
            Field::VERDICT if change.number == u64::from(DENY) => {
                requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
            }
            Field::VERDICT => requested.refused = None,
            Field::REASON_CODE => requested.refused = Some(reason.ok_or(Status::INVALID)?),
            _ => return Err(Status::UNSUPPORTED),
        }
        Ok(())
    }

    /// The filters with the changes that came with a completion.
    pub fn changed(self) -> Vec<Requested> {
        self.overlay.unwrap_or(self.filters)
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

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        let desk = self.desk.as_mut().ok_or(Status::UNSUPPORTED)?;
        desk.take(self.running.ok_or(Status::WRONG_MOMENT)?, deadline_ms)
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
        if let Some(next) = self.overlay.take() {
            let before = std::mem::replace(&mut self.filters, next);
            self.replaced.extend(before.into_iter().map(|requested| requested.filter));
        }
        false
    }

    fn park(&mut self) {
        if let (Some(next), Some(desk)) = (self.overlay.take(), &mut self.desk) {
            desk.keep(Before::Filters(std::mem::replace(&mut self.filters, next)));
        }
    }

    fn rollback(&mut self) {
        self.overlay = None;
        if let Some(desk) = &mut self.desk {
            desk.rollback();
        }
    }

    fn ticket(&self) -> Option<Ticket> {
        self.desk.as_ref().and_then(|desk| desk.taken)
    }

    fn deny(&mut self) {
        for requested in &mut self.filters {
            requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
        }
    }
}

/// The reason code of a change, if it is one.
fn reason_of(change: &FieldChange<'_>) -> Option<ReasonCode> {
    u8::try_from(change.number).ok().map(ReasonCode)
}
