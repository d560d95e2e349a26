//! Packets that a client sends: CONNECT and SUBSCRIBE once per connection, the fixed part of a PUBLISH once per
//! topic of a publisher, so that sending a message is two copies and a patch.

use crate::header::{Fields, Publisher};
use crate::plan::Version;
use anyhow::{Context, Result};
use bytes::BytesMut;
use grapnel_floor::wire::push_variable;
use mqttbytes::{QoS, qos, v4, v5};

/// What a CONNECT carries.
#[derive(Debug, Clone, Copy)]
pub struct ConnectWith<'a> {
    /// Decides name, level and form.
    pub version: Version,
    /// May not be empty here.
    pub client_id: &'a str,
    /// None: flag unset.
    pub user_name: Option<&'a str>,
    /// None: flag unset.
    pub password: Option<&'a str>,
    /// Seconds, 0 for none.
    pub keep_alive_s: u16,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Seconds; MQTT 5 only.
    pub session_expiry_s: Option<u32>,
}

/// Appends a CONNECT.
pub fn connect(with: &ConnectWith<'_>, out: &mut Vec<u8>) -> Result<()> {
    let mut packet = BytesMut::new();
    let written = if with.version == Version::V5 {
        connect_v5(with, &mut packet)
    } else {
        connect_v4(with, &mut packet)
    };
    written.map_err(anyhow::Error::msg).context("cannot write CONNECT")?;
    if with.version == Version::V31 {
        to_v31(&packet, out);
    } else {
        out.extend_from_slice(&packet);
    }
    Ok(())
}

fn connect_v4(with: &ConnectWith<'_>, packet: &mut BytesMut) -> Result<usize, mqttbytes::Error> {
    let mut connect = v4::Connect::new(with.client_id);
    connect.keep_alive = with.keep_alive_s;
    connect.clean_session = with.clean;
    if with.user_name.is_some() || with.password.is_some() {
        connect.set_login(with.user_name.unwrap_or_default(), with.password.unwrap_or_default());
    }
    connect.write(packet)
}

fn connect_v5(with: &ConnectWith<'_>, packet: &mut BytesMut) -> Result<usize, mqttbytes::Error> {
    let mut connect = v5::Connect::new(with.client_id);
    connect.keep_alive = with.keep_alive_s;
    connect.clean_session = with.clean;
    if with.user_name.is_some() || with.password.is_some() {
        connect.set_login(with.user_name.unwrap_or_default(), with.password.unwrap_or_default());
    }
    if let Some(expiry_s) = with.session_expiry_s {
        connect.properties = Some(v5::ConnectProperties {
            session_expiry_interval: Some(expiry_s),
            receive_maximum: None,
            max_packet_size: None,
            topic_alias_max: None,
            request_response_info: None,
            request_problem_info: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        });
    }
    connect.write(packet)
}

/// MQTT 3.1 differs from 3.1.1 in the protocol's name and level alone (MQTT 3.1 section 3.1); mqttbytes does
/// not know it.
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
    let mut packet = BytesMut::new();
    let level = qos(level).map_err(anyhow::Error::msg)?;
    let written = if version == Version::V5 {
        let filters = filters.iter().map(|filter| v5::SubscribeFilter::new(filter.clone(), level)).collect();
        v5::Subscribe { pkid: 1, filters, properties: None }.write(&mut packet)
    } else {
        let filters = filters.iter().map(|filter| v4::SubscribeFilter::new(filter.clone(), level)).collect();
        v4::Subscribe { pkid: 1, filters }.write(&mut packet)
    };
    written.map_err(anyhow::Error::msg).context("cannot write SUBSCRIBE")?;
    out.extend_from_slice(&packet);
    Ok(())
}

/// Appends an acknowledgement without reason code, which means success; `first` says which.
#[inline]
pub fn push_ack(first: u8, packet_id: u16, out: &mut Vec<u8>) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// Appends a DISCONNECT with reason "normal": two bytes in every version.
pub fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xE0, 0]);
}

/// The part of a publisher's PUBLISH packets that stays the same, up to the payload.
#[derive(Debug)]
pub struct PublishHead {
    bytes: Box<[u8]>,
    /// Where the packet id stands, with QoS 1 and 2.
    id_at: Option<usize>,
    fields: Fields,
    publisher: Publisher,
}

impl PublishHead {
    /// Prepares packets on `topic` with payloads of `payload_bytes`.
    pub fn new(
        version: Version,
        topic: &str,
        level: u8,
        retain: bool,
        payload_bytes: usize,
        stamp: (Fields, Publisher),
    ) -> Result<Self> {
        // The whole packet is encoded once; whatever stands before the payload is the head.
        let mut packet = BytesMut::new();
        let level = qos(level).map_err(anyhow::Error::msg)?;
        let payload = vec![0; payload_bytes];
        let written = if version == Version::V5 {
            let mut publish = v5::Publish::new(topic, level, payload);
            (publish.retain, publish.pkid) = (retain, 1);
            publish.write(&mut packet)
        } else {
            let mut publish = v4::Publish::new(topic, level, payload);
            (publish.retain, publish.pkid) = (retain, 1);
            publish.write(&mut packet)
        };
        written.map_err(anyhow::Error::msg).with_context(|| format!("cannot write PUBLISH on {topic}"))?;
        let head = packet.len() - payload_bytes;
        let properties = usize::from(version == Version::V5);
        let id_at = (level != QoS::AtMostOnce).then_some(head - properties - 2);
        let (fields, publisher) = stamp;
        Ok(Self { bytes: packet[..head].into(), id_at, fields, publisher })
    }

    /// Bytes before the payload.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends one packet. `packet_id` is ignored with QoS 0. Allocates only where `out` grows.
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
    use crate::header;

    const WITH: ConnectWith<'_> = ConnectWith {
        version: Version::V311,
        client_id: "c1",
        user_name: Some("u"),
        password: Some("pw"),
        keep_alive_s: 300,
        clean: true,
        session_expiry_s: None,
    };

    #[test]
    fn a_connect_of_each_version_has_the_bytes_of_its_specification() {
        let mut out = Vec::new();
        connect(&WITH, &mut out).unwrap();
        assert_eq!(out, b"\x10\x15\0\x04MQTT\x04\xC2\x01\x2C\0\x02c1\0\x01u\0\x02pw");

        out.clear();
        connect(&ConnectWith { version: Version::V31, ..WITH }, &mut out).unwrap();
        assert_eq!(out, b"\x10\x17\0\x06MQIsdp\x03\xC2\x01\x2C\0\x02c1\0\x01u\0\x02pw");

        out.clear();
        let v5 = ConnectWith {
            version: Version::V5,
            user_name: None,
            password: None,
            clean: false,
            session_expiry_s: Some(60),
            ..WITH
        };
        connect(&v5, &mut out).unwrap();
        assert_eq!(out, b"\x10\x14\0\x04MQTT\x05\x00\x01\x2C\x05\x11\0\0\0\x3C\0\x02c1");
    }

    #[test]
    fn the_length_of_a_long_mqtt_31_connect_is_its_own() {
        let id = "c".repeat(119);
        let mut out = Vec::new();
        // 126 bytes of body become 128: the length grows to a second byte.
        let with =
            ConnectWith { version: Version::V31, client_id: &id, user_name: None, password: None, ..WITH };
        connect(&with, &mut out).unwrap();
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
        let fields = Fields { cnt: true, ts: true };
        let publisher = Publisher::new(3, 4);
        for version in [Version::V31, Version::V311, Version::V5] {
            for level in 0..3 {
                let head = PublishHead::new(version, "t/1", level, true, 40, (fields, publisher)).unwrap();
                let mut out = Vec::new();
                head.push(&[b'a'; 40], 0x0203, 11, 12, &mut out);
                head.push(&[b'a'; 40], 0x0204, 12, 13, &mut out);
                let crate::frames::Front::Whole(frame) = crate::frames::front(&out).unwrap() else {
                    panic!("not whole")
                };
                assert_eq!(frame.bytes[0] & 0x0F, level << 1 | 1, "retain set, not a duplicate");
                assert_eq!(frame.bytes.len() * 2, out.len());
                let publish = crate::frames::publish(version, &frame).unwrap();
                assert_eq!(publish.packet_id, if level == 0 { 0 } else { 0x0203 });
                assert_eq!(publish.payload.len(), 40);
                let stamp = header::read(publish.payload).unwrap();
                assert_eq!((stamp.sequence, stamp.due_ns), (Some((publisher, 11)), Some(12)));
            }
        }
    }

    #[test]
    fn without_fields_the_payload_is_left_alone() {
        let stamp = (Fields::default(), Publisher::new(0, 0));
        let head = PublishHead::new(Version::V311, "t", 0, false, 2, stamp).unwrap();
        let mut out = Vec::new();
        head.push(b"hi", 0, 1, 1, &mut out);
        assert_eq!(out, [0x30, 5, 0, 1, b't', b'h', b'i']);
    }
}
