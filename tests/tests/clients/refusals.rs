//! What client libraries refuse, or cannot show. Each entry is asserted by the tests of `matrix.rs`
//! that it names, and is a footnote of `tests/CLIENTS.md`.

use grapnel_tests::Version;

use crate::driver::Client;
use crate::matrix::Capability;

/// One refusal.
#[derive(Debug)]
pub struct Refusal {
    /// The client that refuses.
    pub client: Client,
    /// The MQTT versions in which it refuses.
    pub versions: &'static [Version],
    /// The refused capabilities.
    pub capabilities: &'static [Capability],
    /// The message of the library, or a part of it; without one, what its driver saw instead.
    pub says: &'static str,
    /// How it refuses, for the reader of the table.
    pub how: &'static str,
}

/// All of them.
pub static REFUSALS: &[Refusal] = &[
    Refusal {
        client: Client::Mosquitto,
        versions: &[Version::V5],
        capabilities: &[Capability::NoWill],
        says: "mosquitto_sub ends with DISCONNECT 0x04 (with will message)",
        how: "with `-V mqttv5` and a will, mosquitto_sub requests the will when a signal ends it; the broker publishes it \
              ([MQTT-3.1.2-8]), which the test asserts",
    },
    Refusal {
        client: Client::Mosquitto,
        versions: &Version::ALL,
        capabilities: &[Capability::WebSocket, Capability::WebSocketTls],
        says: "Unknown option '--ws'",
        how: "the tools of this version have no WebSocket",
    },
    Refusal {
        client: Client::Rumqttc,
        versions: &[Version::V311, Version::V5],
        capabilities: &[Capability::WebSocket, Capability::WebSocketTls],
        says: "built without the feature websocket",
        how: "not tested: its WebSocket is a feature that brings another version of tungstenite and of what that needs",
    },
    Refusal {
        client: Client::Mosquitto,
        versions: &Version::ALL,
        capabilities: &[Capability::SessionPresent],
        says: "received CONNACK (0)",
        how: "mosquitto_sub does not show the flag; all that `-d` prints of CONNACK is its code",
    },
    Refusal {
        client: Client::Aiomqtt,
        versions: &Version::ALL,
        capabilities: &[Capability::SessionPresent],
        says: "Client has identifier, messages, pending_calls_threshold, publish, subscribe, timeout, unsubscribe",
        how: "aiomqtt drops the flags of CONNACK: its Client has no attribute for them",
    },
    Refusal {
        client: Client::Aiomqtt,
        versions: &Version::ALL,
        capabilities: &[Capability::ComesBack],
        says: "Disconnected during message iteration",
        how: "aiomqtt raises MqttError when the connection ends; its user must connect again",
    },
    Refusal {
        client: Client::Rumqttc,
        versions: &[Version::V31],
        capabilities: Capability::ALL,
        says: "its CONNECT says MQTT, level 4",
        how: "rumqttc has a client of MQTT 3.1.1 and one of MQTT 5, and no option for 3.1; the test reads the CONNECT of the \
              older one",
    },
    Refusal {
        client: Client::Rumqttc,
        versions: &[Version::V311],
        capabilities: &[Capability::Large],
        says: "Cannot send packet of size '1048589'. It's greater than the broker's maximum packet size of: '10240'",
        how: "rumqttc sends and accepts no packet above 10 KiB unless `set_max_packet_size` allows it",
    },
    Refusal {
        client: Client::Rumqttc,
        versions: &[Version::V5],
        capabilities: &[Capability::Large],
        says: "Max Payload size of 10240 has been exceeded by packet of 1048586 bytes",
        how: "rumqttc accepts no packet above 10 KiB unless `set_max_packet_size` allows it; it does not \
              announce this limit to the broker, and closes the connection when a larger packet comes",
    },
    Refusal {
        client: Client::Rumqttc,
        versions: &[Version::V311, Version::V5],
        capabilities: &[Capability::EarlierPubrel],
        says: "Received unsolicited ack pkid: 1",
        how: "rumqttc closes the connection at a PUBREL that belongs to an earlier process of its client, each \
              time it connects; [MQTT-4.3.3-11] requires PUBCOMP",
    },
];

/// The refusal for one cell of the table.
pub fn of(client: Client, version: Version, capability: Capability) -> Option<&'static Refusal> {
    REFUSALS.iter().find(|refusal| {
        refusal.client == client
            && refusal.versions.contains(&version)
            && refusal.capabilities.contains(&capability)
    })
}
