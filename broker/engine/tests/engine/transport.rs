//! What the layers below MQTT have found about a connection: what hooks see of it, a user name from
//! a certificate, addresses of proxies and of Unix sockets; and the rules of a listener for protocol
//! versions and keep alive.

use std::num::NonZeroU16;
use std::sync::Arc;

use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::session::Identity;
use grapnel_engine::shard::{
    CertificateFacts, ConnectLimit, ConnectRefused, ListenerInfo, Peer, TlsFacts, Transport, Versions,
};
use grapnel_plugin_abi::host::ClientIdentity;
use grapnel_plugin_abi::raw::{Field, Flow, Status};

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{Call, Log, link, mount};
use crate::points::notified;
use crate::world::{ClientId, ConnectRequest, Got, World};

const AUTHENTICATE: HookPoint = HookPoint::ClientAuthenticate;
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// A TLS connection with a certificate of which everything is known.
fn tls() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".into(),
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        server_name: "broker.works".into(),
        certificate: Some(CertificateFacts {
            subject: "CN=pump,O=Works".into(),
            common_name: "pump".into(),
            alternative_names: vec!["DNS:pump.works".into(), "IP:10.0.0.7".into()],
            issuer: "CN=Works CA".into(),
            serial: "0a".into(),
            fingerprint: "00ff".into(),
        }),
    }
}

/// The listener takes the user name `pump` from the certificate.
fn certify(peer: &mut Peer) {
    peer.tls = Some(Arc::new(tls()));
    peer.username = Some("pump".into());
}

fn named(version: Version) -> ConnectRequest<'static> {
    ConnectRequest { username: Some("ann"), password: Some(b"secret"), ..ConnectRequest::v(version) }
}

/// Connects after the layers have found something out, and returns what CONNECT is answered with.
fn connect_as(
    world: &mut World,
    client_id: &str,
    request: &ConnectRequest<'_>,
    more: impl FnOnce(&mut Peer),
) -> (ClientId, Option<Got>) {
    let client = world.open(request.version);
    assert!(world.identify(client, more), "its CONNECT has not been read");
    world.send_connect(client, client_id, request);
    let connack = world.take(client).into_iter().next();
    (client, connack)
}

fn answered(code: u8) -> Option<Got> {
    Some(Got::ConnAck { present: false, code })
}

/// The fields of the transport: each text, `-` where it is absent.
fn shown(call: &Call<'_>) -> String {
    let field = |field, index| match call.value(field, index) {
        // SAFETY: the view is of the running event.
        Ok(value) => match unsafe { value.bytes.text() } {
            "" => value.number.to_string(),
            text => text.to_owned(),
        },
        Err(Status::ABSENT) => "-".to_owned(),
        Err(status) => format!("{status:?}"),
    };
    let single = [
        Field::TRANSPORT,
        Field::TLS_VERSION,
        Field::TLS_CIPHER,
        Field::TLS_SERVER_NAME,
        Field::TLS_SUBJECT,
        Field::TLS_COMMON_NAME,
        Field::TLS_ISSUER,
        Field::TLS_SERIAL,
        Field::TLS_FINGERPRINT,
        Field::TLS_ALTERNATIVE_NAMES,
    ];
    let names = (0..3).map(|index| field(Field::TLS_ALTERNATIVE_NAME, index));
    single.into_iter().map(|one| field(one, 0)).chain(names).collect::<Vec<_>>().join(" ")
}

const EVERYTHING: &str = "wss TLSv1.3 TLS_AES_128_GCM_SHA256 broker.works CN=pump,O=Works pump CN=Works CA 0a 00ff 2 \
                          DNS:pump.works IP:10.0.0.7 -";

/// The points at which a client connects, publishes and leaves.
const LIFE: [HookPoint; 6] = [
    HookPoint::ClientConnect,
    HookPoint::ClientAuthenticate,
    HookPoint::ClientConnack,
    HookPoint::ClientConnected,
    HookPoint::MessagePublish,
    HookPoint::ClientDisconnected,
];

#[test]
fn hooks_see_the_tls_connection_and_the_certificate() {
    for (facts, expected) in [
        (Some(tls()), EVERYTHING),
        (None, "wss - - - - - - - - - - - -"),
        (
            Some(TlsFacts { certificate: None, server_name: String::new(), ..tls() }),
            "wss TLSv1.3 TLS_AES_128_GCM_SHA256 - - - - - - - - - -",
        ),
        (
            Some(TlsFacts { certificate: Some(CertificateFacts::default()), ..TlsFacts::default() }),
            "wss - - - - - - - - 0 - - -",
        ),
    ] {
        let mut world = World::new(1);
        world.listener.transport = Transport::Wss;
        let log = Log::default();
        mount(&mut world, notified(&log, &LIFE, shown));
        let request = ConnectRequest::v(Version::V5);
        let (client, _) = connect_as(&mut world, "c", &request, |peer| peer.tls = facts.map(Arc::new));
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        world.disconnect(client, ReasonCode::SUCCESS);
        assert_eq!(log.take(), [expected; LIFE.len()]);
    }
}

/// All that is known of a connection moves along to the client's home shard.
#[test]
fn nothing_is_lost_in_a_handoff() {
    let mut world = World::new(2);
    world.listener.transport = Transport::Wss;
    world.allow_anonymous = false;
    let log = Log::default();
    for shard in &mut world.shards {
        shard.swap_chains(ChainTable::compile(
            1,
            notified(&log, &[HookPoint::ClientConnected], |call| {
                format!("{} {}", call.text(Field::USERNAME), shown(call))
            }),
        ));
    }
    let mut homes = [0; 2];
    for number in 0..16 {
        let request = ConnectRequest::v(Version::V311);
        let (client, got) = connect_as(&mut world, &format!("c{number}"), &request, certify);
        assert_eq!(got, answered(0));
        // Connections are opened on both shards in turn.
        homes[usize::from(world.shard_of(client) != client % 2)] += 1;
        assert_eq!(log.take(), [format!("pump {EVERYTHING}")]);
    }
    assert!(homes.iter().all(|count| *count > 0), "some stay, some move: {homes:?}");
}

/// A stored identity has the same, for requests on behalf of the client.
#[test]
fn a_stored_identity_has_the_certificate() {
    let mut world = World::new(1);
    let log = Log::default();
    let stored = notified(&log, &[HookPoint::ClientConnected], |call| {
        let bytes = call.identity().expect("the client is in");
        let kept = ClientIdentity::decode(&bytes).expect("an identity");
        let identity = Identity::from_stored(&kept).expect("a client's");
        let other = ClientIdentity { transport: "pigeon", ..kept };
        assert!(Identity::from_stored(&other).is_none());
        let facts = [identity.tls.as_deref() == Some(&tls()), identity.is_certified, identity.anonymous];
        format!("{:?} {:?} {facts:?}", identity.transport, identity.peer.get())
    });
    mount(&mut world, stored);
    world.listener.transport = Transport::Tls;
    connect_as(&mut world, "c", &ConnectRequest::v(Version::V5), certify);
    assert_eq!(log.take(), ["Some(Tls) Some(127.0.0.1:40000) [true, true, false]"]);
    world.listener.transport = Transport::Unix;
    connect_as(&mut world, "d", &ConnectRequest::v(Version::V5), |peer| peer.peer = None);
    assert_eq!(log.take(), ["Some(Unix) None [false, false, true]"]);
}

/// Where the listener takes the user name from the certificate, CONNECT cannot name another user.
/// Hooks of the login see both, and the password.
#[test]
fn the_certificate_names_the_user() {
    for version in VERSIONS {
        let mut world = World::new(1);
        let log = Log::default();
        let points = [HookPoint::ClientConnect, AUTHENTICATE, HookPoint::ClientConnected];
        let sees = |call: &Call<'_>| {
            let fields = [Field::USERNAME, Field::CONNECT_USERNAME, Field::PASSWORD];
            let numbers = [Field::USERNAME_CERTIFIED, Field::ANONYMOUS].map(|field| call.number(field));
            format!("{:?} {numbers:?}", fields.map(|field| call.text(field)))
        };
        mount(&mut world, notified(&log, &points, sees));
        let (_, got) = connect_as(&mut world, "c", &named(version), certify);
        assert_eq!(got, answered(0), "{version:?}");
        assert_eq!(
            log.take(),
            [
                r#"["pump", "ann", "-"] [Ok(1), Ok(1)]"#,
                r#"["pump", "ann", "secret"] [Ok(1), Ok(1)]"#,
                r#"["pump", "-", "-"] [Ok(1), Ok(0)]"#,
            ],
            "{version:?}"
        );
        let client = world.shards[0].client("c").expect("it is in");
        assert_eq!(client.summary.username.as_deref(), Some("pump"));
        assert_eq!(world.shards[0].counters().client_auth_anonymous, 0, "it is authenticated");
    }
}

/// The certificate is the login: it needs no Allow of a plugin, and a plugin can refuse it. Without
/// a name from a certificate nobody gets in, whatever certificate there is.
#[test]
fn a_name_from_the_certificate_lets_in_unless_a_hook_refuses() {
    type Mounts = fn() -> Vec<(HookPoint, Link)>;
    let silent: Mounts = || vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Deny, |_| Flow::CONTINUE))];
    let broken: Mounts = || vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Ignore, |_| Flow::FAULT))];
    let strict: Mounts = || vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Deny, |_| Flow::FAULT))];
    let denies: Mounts = || {
        let denies = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 2, "", "");
            Flow::CONTINUE
        });
        vec![(AUTHENTICATE, denies)]
    };
    for (mounts, v5, v3) in
        [(Vec::new as Mounts, 0, 0), (silent, 0, 0), (broken, 0, 0), (strict, 0x88, 3), (denies, 0x86, 5)]
    {
        for (version, code) in [(Version::V5, v5), (Version::V311, v3), (Version::V31, v3)] {
            let mut world = World::new(1);
            world.allow_anonymous = false;
            mount(&mut world, mounts());
            for request in [named(version), ConnectRequest::v(version)] {
                let (_, got) = connect_as(&mut world, "c", &request, certify);
                assert_eq!(got, answered(code), "{version:?}");
                let (_, got) = connect_as(&mut world, "d", &request, |peer| peer.tls = Some(Arc::new(tls())));
                let refused = match (code, version) {
                    (0, Version::V5) => 0x86,
                    (0, _) => 5,
                    (code, _) => code,
                };
                assert_eq!(got, answered(refused), "{version:?}: the certificate alone is no login");
            }
        }
    }
}

/// An authentication method is for a plugin to handle [section 4.12], also beside a certificate.
#[test]
fn a_certificate_answers_no_authentication_method() {
    let mut world = World::new(1);
    let request =
        ConnectRequest { properties: vec![Property::AuthMethod("M")], ..ConnectRequest::v(Version::V5) };
    assert_eq!(connect_as(&mut world, "c", &request, certify).1, answered(0x8C));
    mount(&mut world, vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Deny, |_| Flow::CONTINUE))]);
    assert_eq!(connect_as(&mut world, "c", &request, certify).1, answered(0x86));
}

/// A session belongs to the user of the certificate: another user does not get it.
#[test]
fn a_session_belongs_to_the_user_of_the_certificate() {
    let mut world = World::new(1);
    let stored = |username| ConnectRequest {
        clean: false,
        username,
        properties: vec![Property::SessionExpiry(100)],
        ..ConnectRequest::v(Version::V5)
    };
    let resumed = Some(Got::ConnAck { present: true, code: 0 });
    connect_as(&mut world, "c", &stored(None), certify);
    assert_eq!(connect_as(&mut world, "c", &stored(Some("ann")), certify).1, resumed, "CONNECT has no say");
    assert_eq!(world.try_connect("c", &stored(Some("ann"))).1, answered(0));
}

/// What is known may only change before CONNECT: afterwards it has been used.
#[test]
fn a_connection_is_identified_before_its_connect_only() {
    let mut world = World::new(1);
    let taken = DeferredTickets::default();
    mount(&mut world, vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &taken))]);
    let request = ConnectRequest::v(Version::V5);
    let (waits, _) = connect_as(&mut world, "c", &request, |_| {});
    assert!(!world.identify(waits, certify), "its CONNECT waits for a plugin");
    mount(&mut world, Vec::new());
    let lives = world.connect("d", &request);
    assert!(!world.identify(lives, certify), "it is in");
    assert_eq!(world.shards[0].client("d").expect("it is in").summary.username, None);
    let silent = world.open(Version::V5);
    assert!(world.identify(silent, |_| {}) && world.identify(silent, certify), "again, too");
    let (peer, key) = (world.peer(), world.key_of(silent));
    world.lose(silent);
    assert!(!world.shards[0].identify(key, peer), "a stale key");
}

/// Pending CONNECTs are counted by the address that a proxy tells, and not by the proxy's. Clients
/// of Unix sockets count as one address.
#[test]
fn pending_connects_are_counted_by_the_client_s_own_address() {
    let proxied = |address: &'static str| move |peer: &mut Peer| peer.peer = address.parse().ok();
    for (first, limit) in [
        ("10.0.0.1:1", ConnectLimit::Address("10.0.0.1".parse().unwrap())),
        // No address, as for a Unix socket.
        ("", ConnectLimit::UnixSockets),
    ] {
        let mut world = World::with(1, |limits| limits.connects_pending_per_address_max = 1);
        let taken = DeferredTickets::default();
        mount(&mut world, vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &taken))]);
        let request = ConnectRequest::v(Version::V5);
        let (waits, got) = connect_as(&mut world, "one", &request, proxied(first));
        assert_eq!(got, None, "{first}: it waits");
        assert_eq!(connect_as(&mut world, "two", &request, proxied(first)).1, answered(0x89));
        let logged = world.shards[0].outbox().connect_refused.take();
        assert_eq!(logged, Some(ConnectRefused { limit, unlogged: 0 }));
        assert_eq!(connect_as(&mut world, "three", &request, proxied("10.0.0.2:1")).1, None);
        assert_eq!(world.try_connect("four", &request).1, None, "that of the socket");
        world.lose(waits);
        assert_eq!(connect_as(&mut world, "five", &request, proxied(first)).1, None);
    }
}

#[test]
fn hooks_and_lists_show_the_address_that_a_proxy_tells_and_none_of_a_unix_socket() {
    let mut world = World::new(1);
    let log = Log::default();
    let fields = [Field::PEER_HOST, Field::PEER_PORT, Field::SOCK_HOST, Field::SOCK_PORT];
    let sees = move |call: &Call<'_>| {
        let one = |field| match call.value(field, 0) {
            Ok(_) => format!("{}{}", call.text(field), call.number(field).unwrap_or(0)),
            Err(status) => format!("{status:?}"),
        };
        fields.map(one).join(" ")
    };
    mount(&mut world, notified(&log, &[AUTHENTICATE, HookPoint::ClientConnected], sees));
    let request = ConnectRequest::v(Version::V5);
    connect_as(&mut world, "proxied", &request, |peer| {
        peer.peer = "[2001:db8::7]:5000".parse().ok();
        peer.local = "192.0.2.1:8883".parse().ok();
    });
    assert_eq!(log.take(), ["2001:db8::70 5000 192.0.2.10 8883"; 2]);
    connect_as(&mut world, "unix", &request, |peer| (peer.peer, peer.local) = (None, None));
    assert_eq!(log.take(), ["ABSENT ABSENT ABSENT ABSENT"; 2]);
    let peer_of = |name| world.shards[0].client(name).expect("it is in").summary.peer;
    assert_eq!(peer_of("proxied"), "[2001:db8::7]:5000".parse().ok());
    assert_eq!(peer_of("unix"), None);
}

/// The client is charged for its certificate, before CONNECT, while CONNECT waits, and then with
/// its session. `World::drive` compares the ledger with a recount.
#[test]
fn a_certificate_is_charged_once() {
    let mut world = World::new(1);
    let subject = "x".repeat(10_000);
    let certificate = CertificateFacts { subject, ..CertificateFacts::default() };
    let facts = Arc::new(TlsFacts { certificate: Some(certificate), ..TlsFacts::default() });
    let charged = |world: &mut World| {
        world.shards[0].settle_memory();
        let ledger = world.shards[0].ledger();
        [ledger.connections, ledger.sessions].map(|bytes| bytes / 10_000)
    };
    let request = ConnectRequest::v(Version::V5);
    let client = world.open(request.version);
    assert_eq!(charged(&mut world), [0, 0]);
    assert!(world.identify(client, |peer| peer.tls = Some(facts)));
    world.drive();
    assert_eq!(charged(&mut world), [1, 0]);
    let taken = DeferredTickets::default();
    mount(&mut world, vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &taken))]);
    world.send_connect(client, "c", &request);
    assert_eq!(charged(&mut world), [1, 0]);
    let allows = vec![crate::hooks::number(Field::VERDICT, 1)];
    crate::hooks::complete(&mut world, taken.ticket(0), Flow::STOP, allows);
    assert_eq!(charged(&mut world), [0, 1]);
}

/// A listener refuses the versions that it does not accept, before any hook decides [MQTT-3.1.2-2].
#[test]
fn a_listener_accepts_its_protocol_versions_only() {
    let has =
        |bits: u8, version| bits & [1, 2, 4][VERSIONS.iter().position(|one| *one == version).unwrap()] > 0;
    for bits in 0..8 {
        let mut world = World::new(1);
        world.listener.versions = Versions { v31: bits & 1 > 0, v311: bits & 2 > 0, v5: bits & 4 > 0 };
        let log = Log::default();
        mount(&mut world, notified(&log, &[HookPoint::ClientConnect, AUTHENTICATE], |_| "asked".into()));
        for version in VERSIONS {
            let (client, got) = world.try_connect("c", &ConnectRequest::v(version));
            let refusal = if version == Version::V5 { 0x84 } else { 1 };
            let accepts = has(bits, version);
            assert_eq!(got, answered(if accepts { 0 } else { refusal }), "{bits:b} {version:?}");
            assert_eq!(world.is_closed(client), !accepts);
            assert_eq!(log.take().len(), if accepts { 2 } else { 0 }, "{bits:b} {version:?}");
        }
    }
    assert_eq!(ListenerInfo::default().versions, Versions { v31: true, v311: true, v5: true });
}

/// An MQTT 5 client is told a shorter keep alive, and the broker uses it [MQTT-3.2.2-21]. Another
/// client cannot be told, so that its own applies [MQTT-3.2.2-22].
#[test]
fn a_listener_shortens_the_keep_alive() {
    // Limit of the broker, limit of the listener, requested, granted to MQTT 5.
    for (broker_s, listener_s, requested_s, granted_s) in [
        (u16::MAX, None, 0, 0),
        (u16::MAX, None, 60, 60),
        (u16::MAX, Some(u16::MAX), 0, 0),
        (u16::MAX, Some(u16::MAX), u16::MAX, u16::MAX),
        (u16::MAX, Some(60), 59, 59),
        (u16::MAX, Some(60), 60, 60),
        (u16::MAX, Some(60), 61, 60),
        (u16::MAX, Some(60), 0, 60),
        (u16::MAX, Some(1), 0, 1),
        (50, Some(60), 0, 50),
        (70, Some(60), 65, 60),
        (70, None, 0, 70),
    ] {
        for version in VERSIONS {
            let mut world = World::with(1, |limits| limits.keep_alive_max_s = u64::from(broker_s));
            world.listener.keep_alive_max_s = listener_s.and_then(NonZeroU16::new);
            let request = ConnectRequest { keep_alive_s: requested_s, ..ConnectRequest::v(version) };
            let client = world.open(version);
            world.send_connect(client, "c", &request);
            let told = server_keep_alive(&world.take_raw(client), version);
            let granted_s = if version == Version::V5 { granted_s } else { requested_s };
            assert_eq!(told.unwrap_or(requested_s), granted_s, "{listener_s:?} {requested_s} {version:?}");
            assert_eq!(told.is_some(), granted_s != requested_s);
            let summary = world.shards[0].client("c").expect("it is in").summary;
            assert_eq!(summary.keep_alive_s, granted_s);
            if granted_s < 100 {
                // One and a half times that, and the next second.
                world.pass_ms(u64::from(granted_s) * 1_500 + 2_000);
                assert_eq!(world.is_closed(client), granted_s > 0, "{granted_s} {version:?} [MQTT-3.1.2-22]");
            }
        }
    }
}

/// Server Keep Alive in a CONNACK with success.
fn server_keep_alive(bytes: &[u8], version: Version) -> Option<u16> {
    let frame = grapnel_engine::codec::frame(bytes, u32::MAX).expect("a packet").expect("all of it");
    match grapnel_engine::codec::decode(&frame, version).expect("a packet") {
        Packet::ConnAck(connack) if connack.code == 0 => connack.properties.server_keep_alive_s(),
        other => panic!("{other:?}"),
    }
}
