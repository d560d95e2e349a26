//! The event client.subscribe: the topic filters with their options, which links rewrite or refuse one by one.

use bytes::Bytes;
use grapnel_plugin_abi::host::{EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, Field, Status, Ticket};

use super::chain::Fold;
use super::client::{ALLOW, ClientView, DENY};
use super::{HookPoint, Link};
use crate::id::ShardId;
use crate::packet::SubscriptionOptions;
use crate::reason::ReasonCode;
use crate::topic;

/// A topic filter of a SUBSCRIBE as the chain leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The filter, $share prefix included.
    pub filter: Bytes,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Whether a link refused it, and why.
    pub refused: Option<ReasonCode>,
}

impl Requested {
    /// The filter as text; it was checked when it was read or set.
    pub fn filter_text(&self) -> &str {
        std::str::from_utf8(&self.filter).unwrap_or("")
    }
}

/// A SUBSCRIBE on its way along the chain.
#[derive(Debug)]
pub struct SubscribeFold<'a> {
    client: ClientView<'a>,
    subscription_id: u32,
    topic_bytes_max: usize,
    /// What the links before have left; the chain's answer at the end.
    pub filters: Vec<Requested>,
    overlay: Option<Vec<Requested>>,
    /// What was replaced during the event: a view a hook took of it stays valid.
    replaced: Vec<Bytes>,
}

impl<'a> SubscribeFold<'a> {
    /// The event of one SUBSCRIBE.
    pub fn new(
        client: ClientView<'a>,
        filters: Vec<Requested>,
        subscription_id: u32,
        topic_bytes_max: usize,
    ) -> SubscribeFold<'a> {
        SubscribeFold {
            client,
            subscription_id,
            topic_bytes_max,
            filters,
            overlay: None,
            replaced: Vec::new(),
        }
    }

    /// The event that goes with it.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        self.client.event(HookPoint::ClientSubscribe, shard, wall_ms)
    }
}

impl EventAccess for SubscribeFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        let filters = self.overlay.as_ref().unwrap_or(&self.filters);
        let requested = || filters.get(index as usize).ok_or(Status::ABSENT);
        match field {
            Field::FILTER => requested().map(|r| FieldValue::Bytes(&r.filter)),
            Field::FILTER_OPTIONS => requested().map(|r| FieldValue::Number(u64::from(r.options.to_byte()))),
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
            Field::FILTER_OPTIONS => {
                let byte = u8::try_from(change.number).map_err(|_| Status::INVALID)?;
                requested.options = SubscriptionOptions::from_byte(byte).map_err(|_| Status::INVALID)?;
            }
            Field::VERDICT if change.number == u64::from(DENY) => {
                requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
            }
            Field::VERDICT => requested.refused = None,
            Field::REASON_CODE => {
                let code = ReasonCode(u8::try_from(change.number).map_err(|_| Status::INVALID)?);
                if !code.is_defined() || !code.is_error() {
                    return Err(Status::INVALID);
                }
                requested.refused = Some(code);
            }
            _ => return Err(Status::UNSUPPORTED),
        }
        Ok(())
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, _deadline_ms: u32) -> Result<Ticket, Status> {
        Err(Status::UNSUPPORTED)
    }
}

impl Fold for SubscribeFold<'_> {
    fn begin(&mut self, _link: &Link) {
        self.overlay = None;
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

    fn rollback(&mut self) {
        self.overlay = None;
    }

    fn ticket(&self) -> Option<Ticket> {
        None
    }

    fn deny(&mut self) {
        for requested in &mut self.filters {
            requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
        }
    }
}

impl SubscribeFold<'_> {
    /// The subscription identifier of the packet, 0 where it has none.
    pub fn subscription_id(&self) -> u32 {
        self.subscription_id
    }
}
