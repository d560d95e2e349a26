//! Tests of what the SDK shows of a client's transport and certificate, without a broker.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, FakeEvent};
use grapnel_plugin_abi::{Authenticate, Error, HookPoint, Host, NoConfig, Plugin, Publish, Reason, Refused};

struct Shows;

/// What the hook at client.authenticate has seen.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Plugin for Shows {
    type Config = NoConfig;
    type Shard = Shows;

    fn load(_config: NoConfig, _host: &Host) -> Result<Shows, Error> {
        Ok(Shows)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Shows, Error> {
        Ok(Shows)
    }
}

impl Shows {
    /// Lets in whose certificate has a name of the works.
    fn login(&mut self, client: &mut Authenticate<'_>) -> Result<(), Refused> {
        let is_ours = client.tls_alternative_names().any(|name| name == "DNS:pump.works");
        let names = [client.username(), client.connect_username(), client.tls_common_name()];
        let shown = format!("{names:?} {} {:?}", client.username_is_certified(), client.account());
        SEEN.lock().unwrap().push(shown);
        if is_ours { client.allow() } else { client.deny(Reason::NOT_AUTHORIZED) }
    }

    fn shows(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        let texts = [
            message.transport(),
            message.tls_version(),
            message.tls_cipher(),
            message.tls_server_name(),
            message.tls_subject(),
            message.tls_common_name(),
            message.tls_issuer(),
            message.tls_serial(),
            message.tls_fingerprint(),
        ];
        let names: Vec<_> = message.tls_alternative_names().collect();
        message
            .set_payload(format!("{} {names:?}", texts.map(|text| text.unwrap_or("-")).join(" ")).as_bytes())
    }
}

grapnel_plugin_abi::plugin!(Shows {
    client.authenticate => Shows::login,
    message.publish => Shows::shows,
});

#[test]
fn a_publish_shows_the_certificate_of_its_client() {
    let mut plugin = testing::load::<Shows>("{}").unwrap();
    let plain = FakeEvent::publish("t", b"");
    let whole = FakeEvent::publish("t", b"")
        .with_certificate("pump", &["DNS:pump.works", "IP:10.0.0.7"])
        .with_text(Field::TLS_SERVER_NAME, "broker.works")
        .with_text(Field::TLS_ISSUER, "CN=CA")
        .with_text(Field::TLS_SERIAL, "0a")
        .with_text(Field::TLS_FINGERPRINT, "ff");
    for (mut event, expected) in [
        (plain, "tcp - - - - - - - - []"),
        (
            whole,
            "tls TLSv1.3 TLS_AES_128_GCM_SHA256 broker.works CN=pump pump CN=CA 0a ff \
             [\"DNS:pump.works\", \"IP:10.0.0.7\"]",
        ),
    ] {
        plugin.run(&mut event);
        assert_eq!(String::from_utf8_lossy(event.payload()), expected);
    }
}

#[test]
fn a_login_shows_both_user_names() {
    let mut plugin = testing::load::<Shows>("{}").unwrap();
    let login = || FakeEvent::new(HookPoint::ClientAuthenticate).with_text(Field::CONNECT_USERNAME, "ann");
    let ours = ["URI:urn:pump", "DNS:pump.works"];
    for (mut event, verdict, shown) in [
        (
            login().with_certificate("pump", &ours).with_certified_username("pump"),
            "Allow",
            r#"[Some("pump"), Some("ann"), Some("pump")] true Some("user pump")"#,
        ),
        (
            login().with_certificate("pump", &[]).with_username("ann").with_number(Field::ANONYMOUS, 1),
            "Deny",
            r#"[Some("ann"), Some("ann"), Some("pump")] false Some("address 127.0.0.1")"#,
        ),
        (
            login().with_text(Field::PEER_HOST, "").with_text(Field::TRANSPORT, "unix"),
            "Deny",
            r#"[None, Some("ann"), None] false Some("unix")"#,
        ),
    ] {
        plugin.run(&mut event);
        assert_eq!(format!("{:?}", event.verdict()), verdict);
        assert_eq!(SEEN.lock().unwrap().pop().as_deref(), Some(shown));
    }
}
