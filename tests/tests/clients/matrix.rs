//! Every capability with every client in every version, without exceptions; `refusals.rs` lists
//! what a library refuses. Tests are named CAPABILITY::CLIENT::VERSION and run on 2 shards; some
//! capabilities run on 1 and 8 too.

use grapnel_tests::{Broker, Version};

use crate::driver::{Client, Refused, World};
use crate::{refusals, scenarios};

/// Makes the list of capabilities and their tests. `scenarios.rs` has a function of each name.
macro_rules! capabilities {
    ($($capability:ident $scenario:ident $title:literal $($more:ident)?;)*) => {
        /// Capabilities of a client: the columns of the table.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Capability { $(#[doc = $title] $capability),* }

        impl Capability {
            /// All of them.
            pub const ALL: &[Capability] = &[$(Capability::$capability),*];

            /// The heading in the table.
            pub fn title(self) -> &'static str {
                match self { $(Capability::$capability => $title),* }
            }
        }

        $(mod $scenario {
            use super::*;

            fn run(client: Client, version: Version, shards: usize) {
                check(Capability::$capability, scenarios::$scenario, client, version, shards);
            }

            every_client! { $($more)? }
        })*
    };
}

macro_rules! every_client {
    ($($more:ident)?) => {
        every_version! { mosquitto Mosquitto $($more)? }
        every_version! { paho Paho $($more)? }
        every_version! { aiomqtt Aiomqtt $($more)? }
        every_version! { mqttjs MqttJs $($more)? }
        every_version! { rumqttc Rumqttc $($more)? }
    };
}

macro_rules! every_version {
    ($module:ident $client:ident $($more:ident)?) => {
        mod $module {
            use super::*;

            #[test] fn v31() { run(Client::$client, Version::V31, 2) }
            #[test] fn v311() { run(Client::$client, Version::V311, 2) }
            #[test] fn v5() { run(Client::$client, Version::V5, 2) }
            $(every_version! { @$more $client })?
        }
    };
    (@on_1_and_8_shards $client:ident) => {
        #[test] fn v5_shards_1() { run(Client::$client, Version::V5, 1) }
        #[test] fn v5_shards_8() { run(Client::$client, Version::V5, 8) }
    };
}

capabilities! {
    Connects connects "connects";
    EveryQos every_qos "QoS 0, 1, 2 each way" on_1_and_8_shards;
    Will will "will when it dies";
    NoWill no_will "no will when it disconnects";
    Retained retained "retained: get, clear";
    SessionPresent session_present "reports session present";
    Queued queued "queued messages on return" on_1_and_8_shards;
    ComesBack comes_back "returns by itself, with its session";
    EarlierPubrel earlier_pubrel "QoS 2 begun by an earlier process";
    Shared shared "shared subscription" on_1_and_8_shards;
    Large large "1 MiB each way";
    LargeWithRoom large_with_room "1 MiB, its limit raised";
    Tls tls "TLS";
    Certificate certificate "TLS with its own certificate";
    WebSocket websocket "WebSocket";
    WebSocketTls websocket_tls "WebSocket over TLS";
}

/// Runs a scenario and compares its result with the table.
#[track_caller]
fn check(
    capability: Capability,
    scenario: fn(&World) -> Result<(), Refused>,
    client: Client,
    version: Version,
    shards: usize,
) {
    // Space for a mebibyte of payload: by default that is the limit of a whole packet.
    let settings = "[limits]\npacket_bytes_max = 2097152";
    let broker = Broker::builder().grapnel_only().config(settings).shards(shards).start();
    let outcome = scenario(&World { broker: &broker, client, version });
    let listed = refusals::of(client, version, capability);
    match (outcome, listed) {
        (Ok(()), None) => {}
        (Err(Refused(text)), Some(refusal)) => {
            assert!(text.contains(refusal.says), "refusals.rs expects {:?}, it said {text:?}", refusal.says);
        }
        (Ok(()), Some(refusal)) => panic!("{refusal:?} no longer holds: take it out of refusals.rs"),
        (Err(refused), None) => panic!("{refused:?}: if that is the library's doing, list it in refusals.rs"),
    }
}

/// The table is valid for these versions of the libraries.
#[test]
fn releases_are_those_of_the_table() {
    for client in Client::ALL {
        let ((name, release), running) = (client.release(), client.running_release());
        let fits = running == release || running.starts_with(&format!("{release}."));
        assert!(fits, "{name} is {running}, but the table speaks of {release}: run scripts/test --prepare");
    }
}
