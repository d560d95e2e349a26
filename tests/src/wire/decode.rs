//! Decodes and checks packets of the server: a packet that a server must not send is an error that
//! names the statement.

use super::property::{self, Kind};
use super::{Ack, Packet, Properties, Publish, Value, Version};

/// Result of the decoding of a buffer's beginning.
#[derive(Debug, PartialEq)]
pub enum Decoded {
    /// A packet and its length in bytes.
    Packet(Packet, usize),
    /// Not yet a complete packet.
    More,
}

/// Reads the first packet of `bytes`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode(version: Version, bytes: &[u8]) -> Result<Decoded, String> {
    let Some(&first) = bytes.first() else { return Ok(Decoded::More) };
    let Some((length, header)) = remaining_length(&bytes[1..])? else { return Ok(Decoded::More) };
    let total = 1 + header + length;
    if bytes.len() < total {
        return Ok(Decoded::More);
    }
    let mut body = Body { version, kind: first >> 4, rest: &bytes[1 + header..total] };
    let packet =
        body.packet(first).map_err(|error| format!("{error} in {:02x?}", &bytes[..total.min(200)]))?;
    Ok(Decoded::Packet(packet, total))
}

fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return shortest(value, place + 1).map(|()| Some((value, place + 1)));
        }
    }
    if bytes.len() >= 4 { Err("a remaining length of more than four bytes".to_owned()) } else { Ok(None) }
}

/// [MQTT-1.5.5-1]: as few bytes as the value needs.
fn shortest(value: usize, bytes: usize) -> Result<(), String> {
    let needed = [0x80, 0x4000, 0x20_0000].iter().filter(|limit| value >= **limit).count() + 1;
    if bytes == needed { Ok(()) } else { Err(format!("{value} in {bytes} bytes, [MQTT-1.5.5-1]")) }
}

struct Body<'a> {
    version: Version,
    kind: u8,
    rest: &'a [u8],
}

impl Body<'_> {
    fn packet(&mut self, first: u8) -> Result<Packet, String> {
        let expected_flags = if self.kind == 6 { 2 } else { 0 };
        if self.kind != 3 && first & 0x0F != expected_flags {
            return Err(format!("flags {:#x} in the first byte, [MQTT-2.1.3-1]", first & 0x0F));
        }
        let packet = match self.kind {
            2 => self.connack()?,
            3 => Packet::Publish(self.publish(first)?),
            4 => Packet::Puback(self.ack(PUBACK)?),
            5 => Packet::Pubrec(self.ack(PUBACK)?),
            6 => Packet::Pubrel(self.ack(&[0x00, 0x92])?),
            7 => Packet::Pubcomp(self.ack(&[0x00, 0x92])?),
            9 => {
                let allowed = if self.version.is_5() { SUBACK } else { SUBACK_V3 };
                let (id, properties, codes) = self.codes(allowed)?;
                Packet::Suback { id, codes, properties }
            }
            11 => {
                let (id, properties, codes) = self.codes(UNSUBACK)?;
                Packet::Unsuback { id, codes, properties }
            }
            13 => Packet::Pingresp,
            14 if self.version.is_5() => {
                let (code, properties) = self.reason(DISCONNECT)?;
                Packet::Disconnect { code, properties }
            }
            15 if self.version.is_5() => {
                let (code, properties) = self.reason(&[0x00, 0x18])?;
                Packet::Auth { code, properties }
            }
            other => return Err(format!("packet type {other}, which a server does not send")),
        };
        if self.rest.is_empty() { Ok(packet) } else { Err(format!("{} bytes too many", self.rest.len())) }
    }

    fn connack(&mut self) -> Result<Packet, String> {
        let flags = self.byte()?;
        let code = self.byte()?;
        let properties = self.properties()?;
        let allowed = if self.version.is_5() { CONNACK } else { &[0, 1, 2, 3, 4, 5] };
        if !allowed.contains(&code) {
            return Err(format!("CONNACK code {code:#04x}, [MQTT-3.2.2-8]"));
        }
        if flags & 0xFE != 0 || (self.version == Version::V31 && flags != 0) {
            return Err(format!("CONNACK flags {flags:#04x}, [MQTT-3.2.2-1]"));
        }
        if flags == 1 && code != 0 {
            return Err("session present on a refusal, [MQTT-3.2.2-6]".to_owned());
        }
        Ok(Packet::Connack { session_present: flags == 1, code, properties })
    }

    fn publish(&mut self, first: u8) -> Result<Publish, String> {
        let (dup, qos, retain) = (first & 8 != 0, first >> 1 & 3, first & 1 != 0);
        if qos == 3 || (qos == 0 && dup) {
            return Err(format!("PUBLISH flags {first:#x}, [MQTT-3.3.1-4] or [MQTT-3.3.1-2]"));
        }
        let topic = self.text()?;
        if topic.contains(['+', '#']) {
            return Err(format!("wildcard in the topic name {topic:?}, [MQTT-3.3.2-2]"));
        }
        let id = if qos > 0 { Some(self.packet_id()?) } else { None };
        let properties = self.properties()?;
        if topic.is_empty() && properties.find(property::TOPIC_ALIAS).is_none() {
            return Err("empty topic name without a topic alias".to_owned());
        }
        let payload = std::mem::take(&mut self.rest).to_vec();
        Ok(Publish { dup, qos, retain, topic, id, properties, payload })
    }

    fn ack(&mut self, allowed: &[u8]) -> Result<Ack, String> {
        let id = self.packet_id()?;
        let (code, properties) = if self.version.is_5() { self.reason(allowed)? } else { Default::default() };
        Ok(Ack { id, code, properties })
    }

    fn reason(&mut self, allowed: &[u8]) -> Result<(u8, Properties), String> {
        if self.rest.is_empty() {
            return Ok((0, Properties::default()));
        }
        let code = self.byte()?;
        if !allowed.contains(&code) {
            return Err(format!("reason code {code:#04x} in packet type {}", self.kind));
        }
        let properties = if self.rest.is_empty() { Properties::default() } else { self.properties()? };
        Ok((code, properties))
    }

    fn codes(&mut self, allowed: &[u8]) -> Result<(u16, Properties, Vec<u8>), String> {
        let id = self.packet_id()?;
        let properties = self.properties()?;
        let codes = std::mem::take(&mut self.rest).to_vec();
        if !self.version.is_5() && self.kind == 11 {
            return if codes.is_empty() {
                Ok((id, properties, codes))
            } else {
                Err("UNSUBACK with a payload".to_owned())
            };
        }
        match codes.iter().find(|code| !allowed.contains(code)) {
            Some(code) => Err(format!("reason code {code:#04x} in packet type {}", self.kind)),
            None => Ok((id, properties, codes)),
        }
    }

    fn properties(&mut self) -> Result<Properties, String> {
        if !self.version.is_5() {
            return Ok(Properties::default());
        }
        let length = self.variable()? as usize;
        let (mine, rest) = self.rest.split_at_checked(length).ok_or("properties run over the end")?;
        self.rest = rest;
        let mut inner = Body { version: self.version, kind: self.kind, rest: mine };
        let mut list = Properties::default();
        while !inner.rest.is_empty() {
            let id = inner.byte()?;
            let (kind, packets) =
                property::from_server(id).ok_or(format!("property {id:#04x} from a server"))?;
            if !packets.contains(&self.kind) {
                return Err(format!("property {id:#04x} in packet type {}", self.kind));
            }
            // A user property may repeat, and so may the subscription identifier of a PUBLISH
            // (section 3.3.2.3.8).
            if list.find(id).is_some() && ![property::USER_PROPERTY, property::SUBSCRIPTION_ID].contains(&id)
            {
                return Err(format!("property {id:#04x} twice"));
            }
            let value = inner.value(kind)?;
            list.push(id, value);
        }
        Ok(list)
    }

    fn value(&mut self, kind: Kind) -> Result<Value, String> {
        Ok(match kind {
            Kind::Byte => Value::Byte(self.byte()?),
            Kind::U16 => Value::U16(self.u16()?),
            Kind::U32 => {
                let high = u32::from(self.u16()?);
                Value::U32(high << 16 | u32::from(self.u16()?))
            }
            Kind::Variable => Value::Variable(self.variable()?),
            Kind::Text => Value::Text(self.text()?),
            Kind::Binary => Value::Binary(self.binary()?.to_vec()),
            Kind::Pair => {
                let key = self.text()?;
                Value::Pair(key, self.text()?)
            }
        })
    }

    fn packet_id(&mut self) -> Result<u16, String> {
        match self.u16()? {
            0 => Err("packet identifier 0, [MQTT-2.2.1-3]".to_owned()),
            id => Ok(id),
        }
    }

    fn byte(&mut self) -> Result<u8, String> {
        let (&byte, rest) = self.rest.split_first().ok_or("too short")?;
        self.rest = rest;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from(self.byte()?) << 8 | u16::from(self.byte()?))
    }

    fn variable(&mut self) -> Result<u32, String> {
        let (value, used) = remaining_length(self.rest)?.ok_or("too short")?;
        self.rest = &self.rest[used..];
        Ok(value as u32)
    }

    fn binary(&mut self) -> Result<&[u8], String> {
        let length = usize::from(self.u16()?);
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or("a string runs over the end")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let text = std::str::from_utf8(self.binary()?).map_err(|e| format!("{e}, [MQTT-1.5.4-1]"))?;
        if text.contains('\0') {
            Err("U+0000 in a string, [MQTT-1.5.4-2]".to_owned())
        } else {
            Ok(text.to_owned())
        }
    }
}

const CONNACK: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
    0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const SUBACK: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const SUBACK_V3: &[u8] = &[0x00, 0x01, 0x02, 0x80];
const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
/// Table 3-10 (section 3.14.2.1), and 0x8C, which table 2-6 (section 2.4) gives to CONNACK and
/// DISCONNECT.
const DISCONNECT: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_split_anywhere_is_read_when_it_is_complete() {
        let bytes = Publish::new("a/b", "hello").qos(1).id(7).encode(Version::V5);
        for cut in 0..bytes.len() {
            assert_eq!(decode(Version::V5, &bytes[..cut]), Ok(Decoded::More), "cut at {cut}");
        }
        let Ok(Decoded::Packet(Packet::Publish(publish), used)) = decode(Version::V5, &bytes) else {
            panic!()
        };
        assert_eq!((publish.topic.as_str(), publish.id, used), ("a/b", Some(7), bytes.len()));
    }

    /// Tables 2-6 and 3-10 do not agree on 0x8C; what either of them allows is no error.
    #[test]
    fn a_disconnect_may_have_the_codes_of_both_tables() {
        let is_allowed = |code: &u8| decode(Version::V5, &[0xE0, 1, *code]).is_ok();
        let refused: Vec<u8> = (0x80..=0xA2).filter(|code| !is_allowed(code)).collect();
        assert_eq!(refused, [0x84, 0x85, 0x86, 0x88, 0x8A, 0x91, 0x92]);
        assert!(!is_allowed(&0x04), "only a client sends it");
    }

    #[test]
    fn packets_that_a_server_must_not_send_are_errors() {
        let wrong: &[&[u8]] = &[
            &[0x10, 0],                      // CONNECT
            &[0x21, 3, 0, 0, 0],             // flags
            &[0x20, 3, 2, 0, 0],             // reserved CONNACK flag
            &[0x20, 3, 1, 0x87, 0],          // session present on a refusal
            &[0x20, 5, 0, 0, 2, 0x23, 0],    // property cut short
            &[0x36, 5, 0, 1, b'a', 0, 1],    // QoS 3
            &[0x32, 6, 0, 1, b'a', 0, 0, 0], // packet id 0
            &[0x30, 4, 0, 1, b'#', 0],       // wildcard
            &[0x40, 3, 0, 1, 0x92],          // reason code of another packet
            &[0xE0, 7, 0x8B, 5, 0x11, 0, 0, 0, 1],
            &[0x20, 0x83, 0x00, 0, 0, 0], // remaining length longer than needed
        ];
        for bytes in wrong {
            assert!(decode(Version::V5, bytes).is_err(), "{bytes:02x?}");
        }
    }
}
