//! What client libraries refuse, or cannot show. Each entry is asserted by the tests of `matrix.rs` that it names, and is a
//! footnote of `tests/CLIENTS.md`.

use grapnel_tests::Version;

use crate::driver::Client;
use crate::matrix::Capability;

/// One refusal.
#[derive(Debug)]
pub struct Refusal {
    /// Who refuses.
    pub client: Client,
    /// In which versions of MQTT.
    pub versions: &'static [Version],
    /// What.
    pub capability: Capability,
    /// What the library says, or part of it.
    pub says: &'static str,
    /// How it refuses, for the reader of the table.
    pub how: &'static str,
}

/// All of them.
pub const REFUSALS: &[Refusal] = &[
    Refusal {
        client: Client::Mosquitto,
        versions: &[Version::V5],
        capability: Capability::NoWill,
        says: "mosquitto_sub ends with DISCONNECT 0x04 (with will message)",
        how: "with `-V mqttv5` and a will, mosquitto_sub asks for the will when a signal ends it; the broker publishes it \
              ([MQTT-3.1.2-8]), which the test asserts",
    },
    Refusal {
        client: Client::Mosquitto,
        versions: &Version::ALL,
        capability: Capability::SessionPresent,
        says: "received CONNACK (0)",
        how: "mosquitto_sub does not show the flag; all that `-d` prints of CONNACK is its code",
    },
    Refusal {
        client: Client::Aiomqtt,
        versions: &Version::ALL,
        capability: Capability::SessionPresent,
        says: "the library keeps the flag to itself",
        how: "aiomqtt's Client has neither an attribute nor a callback with the flags of CONNACK",
    },
];

/// What is listed for one cell of the table.
pub fn of(client: Client, version: Version, capability: Capability) -> Option<&'static Refusal> {
    REFUSALS.iter().find(|refusal| {
        refusal.client == client && refusal.versions.contains(&version) && refusal.capability == capability
    })
}
