//! Configured limits on packets that the codec accepts: the number of user properties, and control
//! characters in strings.

use crate::codec::DecodeError;
use crate::limits::Limits;
use crate::packet::{Packet, Properties, PropertyId, has_control_characters};
use crate::parts::Parts;
use crate::reason::ReasonCode;

/// Checks the number of user properties of a packet.
#[inline]
pub(crate) fn check_user_properties(properties: &Properties<'_>, limits: &Limits) -> Result<(), DecodeError> {
    if properties.is_empty() || !properties.has(PropertyId::User) {
        return Ok(());
    }
    let most = usize::try_from(limits.user_properties_max).unwrap_or(usize::MAX);
    if properties.user().nth(most).is_some() { Err(too_many_user_properties()) } else { Ok(()) }
}

pub(crate) fn beyond_user_properties(packet: &Packet<'_>, limits: &Limits) -> bool {
    let properties = match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            &ack.properties
        }
        Packet::Subscribe(subscribe) => &subscribe.properties,
        Packet::Unsubscribe(unsubscribe) => &unsubscribe.properties,
        Packet::Disconnect(disconnect) => &disconnect.properties,
        Packet::Auth(auth) => &auth.properties,
        _ => return false,
    };
    check_user_properties(properties, limits).is_err()
}

pub(crate) fn too_many_user_properties() -> DecodeError {
    DecodeError {
        reason: ReasonCode::QUOTA_EXCEEDED,
        detail: "more user properties than user_properties_max",
    }
}

/// Whether a string of a packet has a character that the configuration refuses [MQTT-1.5.4-2].
#[inline]
pub(crate) fn refuses_controls(parts: &Parts, packet: &Packet<'_>) -> bool {
    parts.setup.limits.choices.refuses_control_characters && has_control_characters(packet)
}
