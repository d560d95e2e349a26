//! Packets that a client sends: CONNECT and SUBSCRIBE once per connection, the fixed part of a
//! PUBLISH once per topic of a publisher, so that sending a message is two copies and a patch.

use crate::header::{Fields, Publisher};
use crate::plan::{Messages, Setup, Version};
use anyhow::{Context, Result};
use bytes::BytesMut;
use grapnel_floor::wire::push_variable;
use mqttbytes::{QoS, qos, v5};

/// Writes the packet that an expression makes. In the expression, the given name is mqttbytes' module
/// of the version: the types of both modules have the same names. What only MQTT 5 has is added by
/// the last argument.
macro_rules! written {
    ($version:expr, $mqtt:ident => $packet:expr $(, $add:expr)?) => {{
        let mut bytes = BytesMut::new();
        let written = if $version == Version::V5 {
            use mqttbytes::v5 as $mqtt;
            let packet = $packet;
            $(let packet = $add(packet);)?
            packet.write(&mut bytes)
        } else {
            use mqttbytes::v4 as $mqtt;
            $packet.write(&mut bytes)
        };
        written.map_err(anyhow::Error::msg).map(|_| bytes)
    }};
}

/// Appends the CONNECT of the client at `index`.
pub fn connect(setup: &Setup, index: usize, out: &mut Vec<u8>) -> Result<()> {
    let (user_name, password) = (setup.names.user_name(index), setup.names.password.clone());
    let login = user_name.is_some() || password.is_some();
    let (user_name, password) = (user_name.unwrap_or_default(), password.unwrap_or_default());
    let expiring =
        |connect| v5::Connect { properties: setup.session_expiry_s.map(expiring_after), ..connect };
    let packet = written!(
        setup.version,
        mqtt => {
            let mut connect = mqtt::Connect::new(setup.names.client_id(index));
            (connect.keep_alive, connect.clean_session) = (setup.keep_alive_s, setup.clean);
            connect.login = login.then(|| mqtt::Login::new(user_name, password));
            connect
        },
        expiring
    );
    let packet = packet.context("cannot write CONNECT")?;
    if setup.version == Version::V31 {
        to_v31(&packet, out);
    } else {
        out.extend_from_slice(&packet);
    }
    Ok(())
}

fn expiring_after(seconds: u32) -> v5::ConnectProperties {
    v5::ConnectProperties {
        session_expiry_interval: Some(seconds),
        receive_maximum: None,
        max_packet_size: None,
        topic_alias_max: None,
        request_response_info: None,
        request_problem_info: None,
        user_properties: Vec::new(),
        authentication_method: None,
        authentication_data: None,
    }
}

/// MQTT 3.1 differs from 3.1.1 only in the protocol's name and level (MQTT 3.1 section 3.1);
/// mqttbytes does not support it.
fn to_v31(v311: &[u8], out: &mut Vec<u8>) {
    const V311_NAME: &[u8] = b"\0\x04MQTT\x04";
    const V31_NAME: &[u8] = b"\0\x06MQIsdp\x03";
    let length_bytes = 1 + v311[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    let rest = &v311[1 + length_bytes + V311_NAME.len()..];
    out.push(v311[0]);
    push_variable(V31_NAME.len() + rest.len(), out);
    out.extend_from_slice(V31_NAME);
    out.extend_from_slice(rest);
}

/// Appends a SUBSCRIBE with packet id 1 for `filters` at `level` (0 to 2).
pub fn subscribe(version: Version, filters: &[String], level: u8, out: &mut Vec<u8>) -> Result<()> {
    let level = qos(level).map_err(anyhow::Error::msg)?;
    let packet = written!(
        version,
        mqtt => {
            let filters = filters.iter().map(|filter| mqtt::SubscribeFilter::new(filter.clone(), level));
            let mut subscribe = mqtt::Subscribe::new_many(filters);
            subscribe.pkid = 1;
            subscribe
        }
    );
    out.extend_from_slice(&packet.context("cannot write SUBSCRIBE")?);
    Ok(())
}

/// Appends a DISCONNECT with reason "normal": two bytes in every version.
pub fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xE0, 0]);
}

/// The constant part of a publisher's PUBLISH packets, up to the payload.
#[derive(Debug)]
pub struct PublishPrefix {
    bytes: Box<[u8]>,
    /// Offset of the packet id, with QoS 1 and 2.
    id_at: Option<usize>,
    fields: Fields,
    publisher: Publisher,
}

impl PublishPrefix {
    /// Prepares packets on `topic` with these payloads; their headers name `publisher`.
    pub fn new(version: Version, topic: &str, messages: &Messages, publisher: Publisher) -> Result<Self> {
        // The whole packet is encoded once; the bytes before the payload are the head.
        let level = qos(messages.qos).map_err(anyhow::Error::msg)?;
        let packet = written!(
            version,
            mqtt => {
                let mut publish = mqtt::Publish::new(topic, level, messages.payload.to_vec());
                (publish.retain, publish.pkid) = (messages.retain, 1);
                publish
            }
        );
        let packet = packet.with_context(|| format!("cannot write PUBLISH on {topic}"))?;
        let head = packet.len() - messages.payload.len();
        let properties = usize::from(version == Version::V5);
        let id_at = (level != QoS::AtMostOnce).then_some(head - properties - 2);
        Ok(Self { bytes: packet[..head].into(), id_at, fields: messages.fields, publisher })
    }

    /// Bytes before the payload.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends one packet. `packet_id` is ignored with QoS 0. Allocates only when `out` grows.
    #[inline]
    pub fn push(&self, payload: &[u8], packet_id: u16, sequence: u64, due_ns: u64, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(payload);
        let packet = &mut out[at..];
        if let Some(id_at) = self.id_at {
            packet[id_at..id_at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        if self.fields.any() {
            self.fields.write(&mut packet[self.bytes.len()..], self.publisher, sequence, due_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frames::{Front, front, publish};
    use crate::header;

    /// The CONNECT of the first client of `conn` with these options.
    fn connect_of(options: &str) -> Vec<u8> {
        let mut out = Vec::new();
        connect(&crate::cli::load(&format!("conn --prefix c {options}")).unwrap().setup, 0, &mut out)
            .unwrap();
        out
    }

    #[test]
    fn a_connect_of_each_version_has_the_bytes_of_its_specification() {
        let v311 = connect_of("-V 4 -u u -P pw");
        assert_eq!(v311, b"\x10\x15\0\x04MQTT\x04\xC2\x01\x2C\0\x02c1\0\x01u\0\x02pw");
        let v31 = connect_of("-V 3 -u u -P pw");
        assert_eq!(v31, b"\x10\x17\0\x06MQIsdp\x03\xC2\x01\x2C\0\x02c1\0\x01u\0\x02pw");
        let v5 = connect_of("-V 5 -C false -x 60");
        assert_eq!(v5, b"\x10\x14\0\x04MQTT\x05\x00\x01\x2C\x05\x11\0\0\0\x3C\0\x02c1");
    }

    #[test]
    fn the_length_of_a_long_mqtt_31_connect_is_its_own() {
        // 126 bytes of body become 128: the length grows to a second byte.
        let out = connect_of(&format!("-V 3 --prefix {}", "c".repeat(118)));
        assert_eq!(&out[..3], [0x10, 0x85, 0x01]);
        assert_eq!(out.len(), 3 + 133);
    }

    #[test]
    fn a_subscribe_names_every_filter() {
        let filters = ["a/1".to_owned(), "b".to_owned()];
        let mut out = Vec::new();
        subscribe(Version::V311, &filters, 1, &mut out).unwrap();
        assert_eq!(out, b"\x82\x0C\0\x01\0\x03a/1\x01\0\x01b\x01");
        out.clear();
        subscribe(Version::V5, &filters, 2, &mut out).unwrap();
        assert_eq!(out, b"\x82\x0D\0\x01\0\0\x03a/1\x02\0\x01b\x02");
    }

    #[test]
    fn a_pushed_publish_differs_by_id_and_stamp_alone() {
        let publisher = Publisher::new(3, 4);
        for version in [Version::V31, Version::V311, Version::V5] {
            for qos in 0..3 {
                let fields = Fields { cnt: true, ts: true };
                let payload = [b'a'; 40].into();
                let messages = Messages { qos, retain: true, fields, payload, ..Messages::default() };
                let head = PublishPrefix::new(version, "t/1", &messages, publisher).unwrap();
                let mut out = Vec::new();
                head.push(&messages.payload, 0x0203, 11, 12, &mut out);
                head.push(&messages.payload, 0x0204, 12, 13, &mut out);
                let Ok(Front::Whole(frame)) = front(&out) else { panic!("not whole") };
                assert_eq!(frame.bytes[0] & 0x0F, qos << 1 | 1, "retain set, not a duplicate");
                assert_eq!(frame.bytes.len() * 2, out.len());
                let publish = publish(version == Version::V5, frame.bytes[0], frame.body).unwrap();
                assert_eq!(publish.packet_id, if qos == 0 { 0 } else { 0x0203 });
                assert_eq!(publish.payload.len(), 40);
                let stamp = header::read(publish.payload).unwrap();
                assert_eq!((stamp.sequence, stamp.due_ns), (Some((publisher, 11)), Some(12)));
            }
        }
    }

    #[test]
    fn without_fields_the_payload_is_left_alone() {
        let messages = Messages { payload: b"hi".as_slice().into(), ..Messages::default() };
        let head = PublishPrefix::new(Version::V311, "t", &messages, Publisher::new(0, 0)).unwrap();
        let mut out = Vec::new();
        head.push(b"hi", 0, 1, 1, &mut out);
        assert_eq!(out, [0x30, 5, 0, 1, b't', b'h', b'i']);
    }
}
