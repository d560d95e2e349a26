//! A broker that is stopped for longer than its clients' deadlines, as on an overloaded machine:
//! its own delay must not count against the clients.

use std::time::{Duration, Instant};

use grapnel_tests::client::Event;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Version, scenario};
use rustix::process::Signal;

/// One and a half times a keep alive of 3 s, and the time limit for CONNECT.
const DEADLINE_MS: u64 = 4500;

/// Stops the broker's process, runs `meanwhile`, and continues the process long after every
/// deadline; `observer` receives nothing meanwhile.
fn hold(broker: &Broker, observer: &mut Client, meanwhile: impl FnOnce()) {
    broker.process().signal(Signal::STOP);
    let status = format!("/proc/{}/status", broker.process().id());
    let started = Instant::now();
    while !std::fs::read_to_string(&status).unwrap().contains("State:\tT") {
        assert!(started.elapsed() < PATIENCE, "the broker does not stop");
        std::thread::yield_now();
    }
    meanwhile();
    assert_eq!(observer.next(Duration::from_millis(DEADLINE_MS + 1500)), Event::Silence);
    broker.process().signal(Signal::CONT);
}

scenario! {
    /// [MQTT-3.1.2-22]: bytes that were in the socket in time count as received in time, also a
    /// CONNECT. A client that sent nothing, or only a part, is disconnected.
    fn packets_that_arrived_during_a_stall_are_in_time(
        broker in Broker::builder().grapnel_only().config(&format!("[limits]\nconnect_timeout_ms = {DEADLINE_MS}"))
    ) {
        // Their time begins here; little of it passes before the broker is stopped.
        let mut newcomer = Client::dial(broker, Version::V311);
        let mut half = Client::dial(broker, Version::V311);
        let known = |name: &str| Client::connect(broker, &Connect::new(Version::V5, name).keep_alive(3));
        let (mut lively, mut silent, mut slow) = (known("lively"), known("silent"), known("slow"));
        let connect = |name: &str| Connect::new(Version::V311, name).encode();
        hold(broker, &mut silent, || {
            lively.send_packet(&Packet::Pingreq);
            newcomer.send(&connect("newcomer"));
            half.send(&connect("half")[..9]);
            slow.send(&[0xC0]);
        });
        assert_eq!(lively.receive(), Packet::Pingresp);
        assert!(matches!(newcomer.receive(), Packet::Connack { code: 0, .. }));
        assert_eq!((silent.end(), slow.end(), half.end()), (Some(0x8D), Some(0x8D), None));
        lively.ping();
        newcomer.ping();
    }
}
