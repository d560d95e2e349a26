//! Tests of the packets that a client sends for given frames, at given times.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::engine::MessageRecord;
use crate::engine::counts::Counts;
use crate::frames::{Front, front};
use crate::header::{Fields, Publisher as Stamp};
use crate::sequence::Tracker;

const S: u64 = 1_000_000_000;

/// A client with its shared state, and the bytes it wrote last.
struct Bed {
    client: Client,
    shared: Shared<'static>,
}

impl Bed {
    fn new(arguments: &str) -> Self {
        let load = crate::cli::load(arguments).unwrap();
        let setup: &'static Setup = Box::leak(Box::new(load.setup));
        let trackers = vec![Tracker::default()];
        let mut counts = Counts::new();
        counts.measure(true);
        let mut shared = Shared {
            setup,
            counts,
            record: MessageRecord::Headers {
                trackers,
                tracker_of: vec![0; 200],
                gaps_max: 8,
                expected: false,
            },
            schedule: None,
            remaining: load.command.limit(),
            out: Vec::new(),
            now_ns: 0,
            wall_at_zero_ns: 100 * S,
        };
        let mut client = Client::new(0, setup, 0);
        client.open(&mut shared).unwrap();
        assert_eq!(shared.out[0], 0x10);
        Self { client, shared }
    }

    /// Passes these bytes as if from the broker. Returns what the client writes.
    fn hears(&mut self, bytes: &[u8]) -> Result<&[u8], Failure> {
        self.shared.out.clear();
        let Front::Whole(frame) = front(bytes).unwrap() else { panic!("not whole: {bytes:02x?}") };
        self.client.frame(&frame, &mut self.shared)?;
        Ok(&self.shared.out)
    }

    /// Calls `keep_alive` so many seconds after the start.
    fn keep_alive(&mut self, at_s: u64) -> (Result<Option<u64>, Failure>, &[u8]) {
        self.shared.out.clear();
        self.shared.now_ns = at_s * S;
        (self.client.keep_alive(&mut self.shared), &self.shared.out)
    }

    fn publishes(&mut self) -> (Produced, &[u8]) {
        self.shared.out.clear();
        (self.client.produce(&mut self.shared), &self.shared.out)
    }
}

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

#[test]
fn only_a_connack_opens_a_connection() {
    for early in [&[0xD0, 0][..], &[0x30, 3, 0, 1, b't'], &[0x40, 2, 0, 1], &[0xE0, 0]] {
        let mut bed = Bed::new("pub -V 4 -t t");
        assert_eq!(bed.hears(early), Err(Failure::Unexpected(early[0] >> 4)));
    }
    let mut bed = Bed::new("pub -V 4 -t t");
    assert!(bed.hears(&CONNACK).unwrap().is_empty());
    assert_eq!(bed.client.state, State::Ready);
    assert_eq!(bed.hears(&CONNACK), Err(Failure::Unexpected(2)), "a second one is a mistake");
}

#[test]
fn a_subscriber_is_ready_with_its_suback() {
    let mut bed = Bed::new("sub -V 4 -q 1 -t a -t b");
    assert_eq!(bed.hears(&CONNACK).unwrap()[0], 0x82);
    assert_eq!((bed.client.state, bed.shared.counts.ready), (State::AwaitSuback, 0));
    assert!(matches!(bed.hears(&[0x90, 3, 0, 1, 1]), Err(Failure::Malformed(_))), "one code for two filters");
    bed.hears(&[0x90, 4, 0, 1, 1, 0]).unwrap();
    assert_eq!((bed.client.state, bed.shared.counts.ready), (State::Ready, 1));
    assert_eq!(bed.shared.counts.errors["SUBACK grants a lower QoS than requested"], 1);
}

#[test]
fn a_retained_message_before_the_suback_is_counted() {
    let mut bed = Bed::new("sub -V 4 -q 1 -t a");
    bed.hears(&CONNACK).unwrap();
    assert_eq!(bed.hears(&[0x33, 5, 0, 1, b'a', 0, 9]).unwrap(), [0x40, 2, 0, 9]);
    assert_eq!(bed.shared.counts.received, 1);
}

#[test]
fn a_broker_that_cannot_take_the_load_is_refused() {
    let at_most_qos_1 = [0x20, 5, 0, 0, 2, 0x24, 1];
    let no_retain = [0x20, 5, 0, 0, 2, 0x25, 0];
    let small_packets = [0x20, 8, 0, 0, 5, 0x27, 0, 0, 1, 0];
    for (arguments, connack, part) in [
        ("pub -t t -q 2", &at_most_qos_1[..], "QoS 1 at most"),
        ("pub -t t -r", &no_retain, "no retained messages"),
        ("pub -t t -s 300", &small_packets, "256 at most"),
    ] {
        let failure = Bed::new(arguments).hears(connack).unwrap_err();
        assert!(failure.to_string().contains(part), "{arguments}: {failure}");
    }
    assert!(Bed::new("pub -t t -q 1 -s 200").hears(&small_packets).is_ok());
}

#[test]
fn a_qos_2_message_is_acknowledged_by_its_pubcomp() {
    let mut bed = Bed::new("pub -V 4 -t t -q 2 -s 0 -I 0 -w 1");
    bed.hears(&CONNACK).unwrap();
    bed.shared.now_ns = S;
    assert_eq!(bed.publishes(), (Produced::Blocked, &[0x34, 5, 0, 1, b't', 0, 1][..]));
    assert_eq!(bed.publishes(), (Produced::Blocked, &[][..]), "the window is one message wide");
    assert_eq!(bed.hears(&[0x50, 2, 0, 1]).unwrap(), [0x62, 2, 0, 1]);
    assert_eq!((bed.shared.counts.acked, bed.shared.counts.in_flight), (0, 1));
    bed.shared.now_ns = 3 * S;
    assert!(bed.hears(&[0x70, 2, 0, 1]).unwrap().is_empty());
    assert_eq!((bed.shared.counts.acked, bed.shared.counts.in_flight), (1, 0));
    assert_eq!(bed.shared.counts.ack_latency.histogram().max() / S, 2);
    assert!(!bed.publishes().1.is_empty());
}

#[test]
fn an_unknown_acknowledgement_is_an_error_and_opens_no_window() {
    let mut bed = Bed::new("pub -V 4 -t t -q 1 -I 0 -w 1");
    bed.hears(&CONNACK).unwrap();
    bed.publishes();
    for (strange, error) in [
        (&[0x40, 2, 0, 9], "PUBACK for a packet id that is not in flight"),
        (&[0x50, 2, 0, 1], "PUBREC for a packet id that is not in flight"),
        (&[0x70, 2, 0, 1], "PUBCOMP for a packet id that is not in flight"),
    ] {
        assert!(bed.hears(strange).unwrap().is_empty());
        assert_eq!(bed.shared.counts.errors[error], 1);
    }
    assert_eq!(
        (bed.client.publisher().unwrap().in_flight(), bed.shared.counts.in_flight, bed.shared.counts.acked),
        (1, 1, 0)
    );
}

#[test]
fn a_publisher_that_was_held_up_catches_up_with_its_schedule() {
    let mut bed = Bed::new("pub -V 4 -t t -q 1 -I 100 -w 1 --payload-hdrs ts -s 12");
    bed.hears(&CONNACK).unwrap();
    bed.client.publisher().unwrap().begin(S);
    bed.shared.now_ns = S;
    assert_eq!(bed.publishes().0, Produced::DueAt(S + S / 10));
    bed.shared.now_ns = 2 * S;
    let mut due_ns = || {
        bed.hears(&[0x40, 2, 0, 1]).unwrap();
        crate::header::read(&bed.publishes().1[7..]).unwrap().due_ns.unwrap()
    };
    // Stamped with the time it was due, not the time it was sent.
    assert_eq!(due_ns(), 101 * S + S / 10);
    assert_eq!(due_ns(), 101 * S + S / 5);
}

#[test]
fn a_quota_ends_a_publisher() {
    let mut bed = Bed::new("pub -V 4 -t t -I 0 -s 0 -c 1 -L 1000");
    bed.hears(&CONNACK).unwrap();
    assert_eq!(bed.publishes(), (Produced::Blocked, &[0x30, 3, 0, 1, b't'].repeat(1000)[..]));
    assert_eq!((bed.client.publisher().unwrap().give_up_quota(), bed.shared.counts.sent), (0, 1000));
}

#[test]
fn a_quiet_connection_pings_and_a_mute_broker_is_noticed() {
    let mut bed = Bed::new("conn -V 4 -k 100");
    bed.hears(&CONNACK).unwrap();
    assert_eq!(bed.keep_alive(74), (Ok(Some(75 * S)), &[][..]));
    assert_eq!(bed.keep_alive(75), (Ok(Some(150 * S)), &[0xC0, 0][..]));
    bed.client.last_sent_ns = 75 * S;
    assert_eq!(bed.keep_alive(150).0, Err(Failure::NoPingresp));
    bed.hears(&[0xD0, 0]).unwrap();
    assert_eq!(bed.keep_alive(150).0, Ok(Some(225 * S)));
}

#[test]
fn the_keep_alive_of_the_broker_holds() {
    let mut bed = Bed::new("conn -k 100");
    bed.hears(&[0x20, 6, 0, 0, 3, 0x13, 0, 20]).unwrap();
    assert_eq!(bed.keep_alive(1).0, Ok(Some(15 * S)));
    let mut bed = Bed::new("conn -k 0");
    bed.hears(&[0x20, 3, 0, 0, 0]).unwrap();
    assert_eq!(bed.keep_alive(1000).0, Ok(None));
}

#[test]
fn received_messages_are_counted_once_and_acknowledged_each_time() {
    let mut bed = Bed::new("sub -V 4 -q 2 -t t");
    bed.hears(&CONNACK).unwrap();
    bed.hears(&[0x90, 3, 0, 1, 2]).unwrap();
    let publish = [0x34, 6, 0, 1, b't', 0, 7, b'x'];
    assert_eq!(bed.hears(&publish).unwrap(), [0x50, 2, 0, 7]);
    assert_eq!(bed.hears(&publish).unwrap(), [0x50, 2, 0, 7], "PUBREC is owed again");
    assert_eq!((bed.shared.counts.received, bed.shared.counts.redelivered), (1, 1));
    assert_eq!(bed.hears(&[0x62, 2, 0, 7]).unwrap(), [0x70, 2, 0, 7]);
    assert_eq!(bed.hears(&publish).unwrap(), [0x50, 2, 0, 7]);
    assert_eq!(bed.shared.counts.received, 2, "after PUBREL the id is a new message");
    assert_eq!(bed.hears(&[0x62, 2, 0, 99]).unwrap(), [0x70, 2, 0, 99]);
}

#[test]
fn headers_feed_latency_and_sequence() {
    let mut bed = Bed::new("sub -V 4 -t t");
    bed.hears(&CONNACK).unwrap();
    bed.hears(&[0x90, 3, 0, 1, 0]).unwrap();
    let fields = Fields { cnt: true, ts: true };
    let mut message = |sequence, due_ns, now_ns| {
        let mut packet = vec![0x30, 31, 0, 1, b't'];
        packet.resize(33, 0);
        fields.write(&mut packet[5..], Stamp::new(1, 1), sequence, due_ns);
        bed.shared.now_ns = now_ns;
        bed.hears(&packet).unwrap();
    };
    // The run began at 100 s of wall time.
    message(1, 101 * S, 2 * S);
    message(3, 103 * S, 2 * S);
    let MessageRecord::Headers { expected, .. } = &mut bed.shared.record else { panic!("no headers") };
    *expected = true;
    bed.hears(&[0x30, 4, 0, 1, b't', b'x']).unwrap();
    let Shared { counts, record: MessageRecord::Headers { trackers, .. }, .. } = &bed.shared else {
        panic!()
    };
    let latency = counts.latency.histogram();
    assert_eq!((counts.received, latency.len(), counts.from_the_future), (3, 2, 1));
    assert_eq!(latency.max() / S, 1);
    assert_eq!(trackers[0].tallies().next().unwrap().1.lost, 1);
    assert_eq!(counts.errors["message without a payload header"], 1);
}
