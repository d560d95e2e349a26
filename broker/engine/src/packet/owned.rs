//! Packets that own their data, for packets that wait: each is parsed once, and views of it are
//! free. Made from the borrowed packets of this folder; nothing is checked again.

use super::{Connect, Disconnect, Properties, QoS, Version, Will};
use crate::reason::ReasonCode;

/// A checked property section that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnedProperties {
    bytes: Box<[u8]>,
    present: u64,
}

impl OwnedProperties {
    /// A copy of a section.
    pub fn of(properties: &Properties<'_>) -> OwnedProperties {
        OwnedProperties { bytes: properties.as_bytes().into(), present: properties.present() }
    }

    /// The section.
    pub fn view(&self) -> Properties<'_> {
        Properties::with_present(&self.bytes, self.present)
    }

    /// Bytes that it holds.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no property.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A CONNECT that waits to be decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedConnect {
    version: Version,
    clean_start: bool,
    keep_alive_s: u16,
    client_id: Box<str>,
    username: Option<Box<str>>,
    password: Option<Box<[u8]>>,
    will: Option<Box<OwnedWill>>,
    properties: OwnedProperties,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct OwnedWill {
    topic: Box<str>,
    payload: Box<[u8]>,
    qos: QoS,
    retain: bool,
    properties: OwnedProperties,
}

impl OwnedConnect {
    /// A copy of a CONNECT.
    pub fn of(connect: &Connect<'_>) -> OwnedConnect {
        OwnedConnect {
            version: connect.version,
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            client_id: connect.client_id.into(),
            username: connect.username.map(Box::from),
            password: connect.password.map(Box::from),
            will: connect.will.map(|will| {
                Box::new(OwnedWill {
                    topic: will.topic.into(),
                    payload: will.payload.into(),
                    qos: will.qos,
                    retain: will.retain,
                    properties: OwnedProperties::of(&will.properties),
                })
            }),
            properties: OwnedProperties::of(&connect.properties),
        }
    }

    /// The packet as it was read.
    pub fn view(&self) -> Connect<'_> {
        Connect {
            version: self.version,
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            client_id: &self.client_id,
            username: self.username.as_deref(),
            password: self.password.as_deref(),
            will: self.will.as_deref().map(|will| Will {
                topic: &will.topic,
                payload: &will.payload,
                qos: will.qos,
                retain: will.retain,
                properties: will.properties.view(),
            }),
            properties: self.properties.view(),
        }
    }

    /// Bytes that it holds, for its charge.
    pub fn bytes(&self) -> usize {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| will.topic.len() + will.payload.len() + will.properties.len());
        self.client_id.len()
            + self.username.as_ref().map_or(0, |name| name.len())
            + self.password.as_ref().map_or(0, |password| password.len())
            + self.properties.len()
            + will
    }
}

/// The request of a DISCONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DisconnectRequest {
    /// The reason.
    pub reason: ReasonCode,
    /// The session expiry interval that it sets, seconds.
    pub expiry_s: Option<u32>,
    /// Whether it sets the interval without permission: then it is a protocol error and no
    /// DISCONNECT [MQTT-3.14.2-2].
    pub forbidden: bool,
}

impl DisconnectRequest {
    /// From a DISCONNECT. `requested_expiry_s` is the interval in CONNECT: 0 must stay 0, whatever
    /// was granted [MQTT-3.14.2-2].
    pub fn of(disconnect: &Disconnect<'_>, requested_expiry_s: u32) -> DisconnectRequest {
        let expiry_s = disconnect.properties.session_expiry_s();
        let forbidden = requested_expiry_s == 0 && expiry_s.is_some_and(|expiry_s| expiry_s > 0);
        DisconnectRequest { reason: disconnect.reason, expiry_s, forbidden }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Property, push_property};

    #[test]
    fn a_connect_is_what_it_was() {
        let mut section = Vec::new();
        push_property(&mut section, Property::SessionExpiry(7));
        push_property(&mut section, Property::User("a", "b"));
        let properties = Properties::from_encoded(&section);
        let will = Will { topic: "w/t", payload: b"\0\xFF", qos: QoS::ExactlyOnce, retain: true, properties };
        let connect = Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 9,
            client_id: "c",
            username: Some(""),
            password: Some(b"\0p"),
            will: Some(will),
            properties,
        };
        let owned = OwnedConnect::of(&connect);
        assert_eq!(owned.view(), connect);
        assert_eq!(owned.view().properties.session_expiry_s(), Some(7));
        assert_eq!(owned.bytes(), 1 + 2 + section.len() + 3 + 2 + section.len());
        let bare = Connect { username: None, password: None, will: None, ..connect };
        assert_eq!(OwnedConnect::of(&bare).view(), bare);
    }
}
