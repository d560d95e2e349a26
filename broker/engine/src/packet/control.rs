//! Characters that MQTT advises against in strings: control characters and Unicode noncharacters
//! [MQTT-1.5.4-2, section 1.5.4]. The codec accepts them; callers that refuse them use this check.

use super::{Connect, Packet, Properties, Property};

/// Whether a string has U+0001 to U+001F, U+007F to U+009F, or a Unicode noncharacter.
fn has_control(text: &str) -> bool {
    // Most strings are printable ASCII, which has no control character.
    let plain = text.bytes().all(|byte| (0x20..0x7F).contains(&byte));
    !plain && text.chars().any(is_control)
}

fn is_control(character: char) -> bool {
    let code = u32::from(character);
    matches!(code, 0x01..=0x1F | 0x7F..=0x9F | 0xFDD0..=0xFDEF) || code & 0xFFFE == 0xFFFE
}

fn in_properties(properties: &Properties<'_>) -> bool {
    properties.iter().any(|property| match property {
        Property::User(name, value) => has_control(name) || has_control(value),
        Property::ContentType(text)
        | Property::ResponseTopic(text)
        | Property::AssignedClientId(text)
        | Property::AuthMethod(text)
        | Property::ResponseInfo(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => has_control(text),
        _ => false,
    })
}

fn in_connect(connect: &Connect<'_>) -> bool {
    has_control(connect.client_id)
        || connect.username.is_some_and(has_control)
        || in_properties(&connect.properties)
        || connect.will.is_some_and(|will| has_control(will.topic) || in_properties(&will.properties))
}

/// Whether a string of the packet has such a character: topic, filter, identifier, name or
/// property. Payloads and passwords are not strings.
pub fn has_control_characters(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(connect) => in_connect(connect),
        Packet::ConnAck(connack) => in_properties(&connack.properties),
        Packet::Publish(publish) => has_control(publish.topic) || in_properties(&publish.properties),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            in_properties(&ack.properties)
        }
        Packet::Subscribe(subscribe) => {
            subscribe.filters.into_iter().any(|(filter, _)| has_control(filter))
                || in_properties(&subscribe.properties)
        }
        Packet::SubAck(suback) => in_properties(&suback.properties),
        Packet::Unsubscribe(unsubscribe) => {
            unsubscribe.filters.into_iter().any(has_control) || in_properties(&unsubscribe.properties)
        }
        Packet::UnsubAck(unsuback) => in_properties(&unsuback.properties),
        Packet::PingReq | Packet::PingResp => false,
        Packet::Disconnect(disconnect) => in_properties(&disconnect.properties),
        Packet::Auth(auth) => in_properties(&auth.properties),
    }
}

#[cfg(test)]
mod tests {
    use super::has_control;

    #[test]
    fn each_range_to_its_ends() {
        for (text, has) in [
            ("", false),
            ("a b/~", false),
            ("\u{1}", true),
            ("\u{1F}", true),
            ("x\u{7F}", true),
            ("\u{80}", true),
            ("\u{9F}", true),
            ("\u{A0}\u{FEFF}é日", false),
            ("\u{FDCF}\u{FDF0}", false),
            ("\u{FDD0}", true),
            ("\u{FDEF}", true),
            ("\u{FFFD}", false),
            ("\u{FFFE}", true),
            ("\u{1FFFF}", true),
            ("\u{10FFFE}", true),
            ("\u{10FFFD}", false),
        ] {
            assert_eq!(has_control(text), has, "{text:?}");
        }
    }
}
