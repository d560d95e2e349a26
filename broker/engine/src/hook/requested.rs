//! The filters of a SUBSCRIBE or UNSUBSCRIBE as changed by the links so far.

use bytes::Bytes;
use grapnel_plugin_abi::host::FieldChange;
use grapnel_plugin_abi::raw::{Field, Status};

use super::HookPoint;
use super::verdict::DENY;
use crate::packet::SubscriptionOptions;
use crate::reason::ReasonCode;
use crate::topic;

/// A topic filter of a SUBSCRIBE or UNSUBSCRIBE, as changed by the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The filter, `$share` prefix included.
    pub filter: Bytes,
    /// Its options; the default for UNSUBSCRIBE, which has none.
    pub options: SubscriptionOptions,
    /// The reason, if a link refused it.
    pub refused: Option<ReasonCode>,
}

impl Requested {
    /// A filter as it is in the packet.
    pub fn new(filter: &str, options: SubscriptionOptions) -> Requested {
        Requested { filter: Bytes::copy_from_slice(filter.as_bytes()), options, refused: None }
    }

    /// The filter as text; it was checked when it was read or set.
    pub fn filter_text(&self) -> &str {
        std::str::from_utf8(&self.filter).unwrap_or("")
    }

    /// The filter for client.authorize; of a shared subscription the part after the share group, as
    /// in EMQX and Mosquitto.
    pub fn topics(&self) -> &str {
        topic::parse_filter(self.filter_text()).map_or("", |parsed| parsed.filter)
    }
}

/// Changes one of the filters; also for changes that come with a deferred answer. Returns the
/// replaced filter, if it replaced one.
///
/// # Errors
/// UNSUPPORTED for a field that cannot be changed at this point, INVALID for an invalid value,
/// ABSENT for a filter that does not exist.
pub(super) fn change(
    filters: &mut [Requested],
    point: HookPoint,
    change: &FieldChange<'_>,
    topic_bytes_max: usize,
) -> Result<Option<Bytes>, Status> {
    let subscribe = point == HookPoint::ClientSubscribe;
    let fits = |reason: ReasonCode| match subscribe {
        true => reason.refuses_subscription(),
        false => reason.refuses_unsubscription(),
    };
    let requested = filters.get_mut(change.index as usize).ok_or(Status::ABSENT)?;
    match change.field {
        Field::FILTER => {
            let filter = super::short_text(change.bytes)?;
            if filter.len() > topic_bytes_max || topic::parse_filter(filter).is_err() {
                return Err(Status::INVALID);
            }
            return Ok(Some(std::mem::replace(&mut requested.filter, Bytes::copy_from_slice(change.bytes))));
        }
        Field::FILTER_OPTIONS if subscribe => {
            let byte = u8::try_from(change.number).map_err(|_| Status::INVALID)?;
            requested.options = SubscriptionOptions::from_byte(byte).map_err(|_| Status::INVALID)?;
        }
        Field::VERDICT if change.number == u64::from(DENY) => {
            requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
        }
        Field::VERDICT => requested.refused = None,
        Field::REASON_CODE => {
            let reason = reason_of(change).filter(|reason| fits(*reason));
            requested.refused = Some(reason.ok_or(Status::INVALID)?);
        }
        _ => return Err(Status::UNSUPPORTED),
    }
    Ok(None)
}

/// Refuses all filters: the effect of a failed link whose policy is to deny.
pub(super) fn refuse_all(filters: &mut [Requested]) {
    for requested in filters {
        requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
    }
}

/// The reason code of a change, if it is one.
fn reason_of(change: &FieldChange<'_>) -> Option<ReasonCode> {
    u8::try_from(change.number).ok().map(ReasonCode)
}
