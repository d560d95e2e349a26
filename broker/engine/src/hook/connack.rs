//! The event client.connack: the properties of a CONNACK, with success or refusal, before it is
//! sent. Links cannot change the decision, only its text and what is granted.

use bytes::Bytes;
use grapnel_plugin_abi::host::{EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, Field, Status, Ticket};
use smallvec::SmallVec;

use super::chain::Fold;
use super::section::{Section, change_over};
use super::view::{ClientView, user_property};
use super::{FaultPolicy, HookPoint, Link};
use crate::id::ShardId;
use crate::packet::{PACKET_BYTES_MAX, Properties, Property};
use crate::reason::ReasonCode;

/// The upper limits of what is granted, whatever a link sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grants {
    /// `receive_max`.
    pub receive_maximum: u16,
    /// `packet_bytes_max`.
    pub packet_bytes: u32,
    /// `topic_alias_max`.
    pub topic_aliases: u16,
    /// `session_expiry_max_s`.
    pub session_expiry_s: u32,
    /// `user_properties_max`.
    pub user_properties: usize,
}

/// A CONNACK in its chain.
#[derive(Debug)]
pub struct ConnackFold<'a> {
    client: ClientView<'a>,
    reason: ReasonCode,
    session_present: bool,
    grants: Grants,
    /// The property section as changed by the links so far; at the end the result of the chain.
    pub section: Section,
    overlay: Option<Section>,
    /// Sections that were replaced during the event: a view that a hook holds stays valid.
    replaced: SmallVec<[Bytes; 2]>,
}

impl<'a> ConnackFold<'a> {
    /// The event of one CONNACK; `reason` is the code of MQTT 5, also for older clients.
    pub fn new(
        client: ClientView<'a>,
        reason: ReasonCode,
        session_present: bool,
        section: Bytes,
        grants: Grants,
    ) -> ConnackFold<'a> {
        ConnackFold {
            client,
            reason,
            session_present,
            grants,
            section: Section::of(section),
            overlay: None,
            replaced: SmallVec::new(),
        }
    }

    /// The event for this fold.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        let mut event = self.client.event(HookPoint::ClientConnack, shard, wall_ms);
        event.reason_code = self.reason.0;
        event
    }

    fn current(&self) -> &Section {
        self.overlay.as_ref().unwrap_or(&self.section)
    }

    /// The property section, as a field shows it, and the index of the field there.
    fn properties(&self, field: Field, index: u32) -> (Properties<'_>, u32) {
        let (properties, index) = self.current().shown(field, index);
        (Properties::from_encoded(properties), index)
    }

    /// What success grants beside the properties: the value that applies if CONNACK does not name
    /// it.
    fn granted(&self, field: Field) -> Option<u64> {
        if self.reason.is_error() {
            return None;
        }
        let (properties, _) = self.properties(field, 0);
        Some(match field {
            Field::KEEP_ALIVE_S => {
                properties.server_keep_alive_s().unwrap_or(self.client.keep_alive_s).into()
            }
            Field::SESSION_EXPIRY_S => properties.session_expiry_s().unwrap_or(self.client.expiry_s).into(),
            Field::RECEIVE_MAXIMUM => properties.receive_maximum().unwrap_or(u16::MAX).into(),
            Field::MAXIMUM_PACKET_SIZE => properties.maximum_packet_size().unwrap_or(PACKET_BYTES_MAX).into(),
            Field::TOPIC_ALIAS_MAXIMUM => properties.topic_alias_maximum().unwrap_or(0).into(),
            _ => return None,
        })
    }

    /// A granted number as a property; at most the limit of the broker.
    fn grant(&self, field: Field, number: u64) -> Result<Property<'static>, Status> {
        let up_to = |min: u64, max: u64| (min..=max).contains(&number).then_some(()).ok_or(Status::INVALID);
        let grants = &self.grants;
        Ok(match field {
            Field::KEEP_ALIVE_S => {
                up_to(0, u16::MAX.into())?;
                Property::ServerKeepAlive(number as u16)
            }
            Field::SESSION_EXPIRY_S => {
                up_to(0, grants.session_expiry_s.into())?;
                Property::SessionExpiry(number as u32)
            }
            // 0 would be a protocol error in these two [sections 3.2.2.3.3 and 3.2.2.3.6].
            Field::RECEIVE_MAXIMUM => {
                up_to(1, grants.receive_maximum.into())?;
                Property::ReceiveMaximum(number as u16)
            }
            Field::MAXIMUM_PACKET_SIZE => {
                up_to(1, grants.packet_bytes.into())?;
                Property::MaximumPacketSize(number as u32)
            }
            Field::TOPIC_ALIAS_MAXIMUM => {
                up_to(0, grants.topic_aliases.into())?;
                Property::TopicAliasMaximum(number as u16)
            }
            _ => return Err(Status::UNSUPPORTED),
        })
    }
}

impl EventAccess for ConnackFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        if let Some(count) = self.current().user_count(field) {
            return Ok(count);
        }
        let (properties, index) = self.properties(field, index);
        let text = match field {
            Field::REASON_CODE => return Ok(FieldValue::Number(u64::from(self.reason.0))),
            Field::SESSION_PRESENT => return Ok(FieldValue::Number(u64::from(self.session_present))),
            Field::USER_PROPERTY | Field::USER_PROPERTIES => {
                return user_property(properties, field, index);
            }
            Field::REASON_STRING => properties.reason_string(),
            Field::RESPONSE_INFO => properties.response_info(),
            Field::SERVER_REFERENCE => properties.server_reference(),
            Field::ASSIGNED_CLIENT_ID => properties.assigned_client_id(),
            _ => {
                return match self.granted(field) {
                    Some(number) => Ok(FieldValue::Number(number)),
                    None => self.client.get(field, index),
                };
            }
        };
        text.map(|text| FieldValue::Bytes(text.as_bytes())).ok_or(Status::ABSENT)
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        let elsewhere = matches!(self.reason, ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED);
        let granted = match change.field {
            Field::USER_PROPERTY | Field::REASON_STRING => None,
            // Allowed only with these two reasons [section 3.2.2.3.16].
            Field::SERVER_REFERENCE if elsewhere => None,
            Field::SERVER_REFERENCE => return Err(Status::INVALID),
            _ if self.reason.is_error() => return Err(Status::UNSUPPORTED),
            // Only for a client that requested it [MQTT-3.1.2-28].
            Field::RESPONSE_INFO if !self.client.wants_response_info() => return Err(Status::INVALID),
            Field::RESPONSE_INFO => None,
            field => Some(self.grant(field, change.number)?),
        };
        let most = self.grants.user_properties;
        change_over(&mut self.overlay, &self.section, &mut self.replaced, |next| {
            match (change.field, granted) {
                (_, Some(property)) => next.put(property.id(), Some(property)),
                (Field::USER_PROPERTY, _) => next.put_user(&change, most),
                (Field::REASON_STRING, _) => next.put_text(&change, Property::ReasonString),
                (Field::SERVER_REFERENCE, _) => next.put_text(&change, Property::ServerReference),
                _ => next.put_text(&change, Property::ResponseInfo),
            }
        })
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, _deadline_ms: u32) -> Result<Ticket, Status> {
        Err(Status::UNSUPPORTED)
    }
}

impl<'a> Fold<'a> for ConnackFold<'a> {
    #[inline]
    fn begin(&mut self, _link: &'a Link) {}

    fn commit(&mut self, _event: &mut Event) -> bool {
        if let Some(next) = self.overlay.take() {
            self.replaced.extend(std::mem::replace(&mut self.section, next).seen());
        }
        false
    }

    fn topic(&self) -> &str {
        ""
    }

    fn rollback(&mut self) {
        self.overlay = None;
    }

    fn ticket(&self) -> Option<Ticket> {
        None
    }

    fn fail(&mut self, _policy: FaultPolicy) {}
}
