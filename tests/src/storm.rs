//! Many clients that connect at the same time. Used by the load tests of authentication.

use std::time::{Duration, Instant};

use crate::line::{Line, ready};
use crate::{Broker, Client, Connect, PATIENCE, Packet, Version};

/// Clients that have connected at the same moment.
pub struct Storm {
    /// Time from the first CONNECT sent to the first CONNACK received.
    pub first: Duration,
    /// The same to the last CONNACK.
    pub last: Duration,
    /// The result of each CONNACK: number of the client and code, in the order of arrival.
    pub codes: Vec<(usize, u8)>,
    /// The connected clients, which stay until this is dropped.
    lines: Vec<Line>,
}

impl Storm {
    /// [`Storm::of`] for so many clients with default requests. Client N is `PREFIX N`.
    ///
    /// # Panics
    /// If a connection ends or gets no answer.
    #[track_caller]
    pub fn run(broker: &Broker, clients: usize, prefix: &str) -> Storm {
        Storm::of(broker, clients, |n| Connect::new(Version::V5, &format!("{prefix} {n}")))
    }

    /// Opens so many connections, sends all their MQTT 5 CONNECTs at once and waits for every
    /// CONNACK. Packets after CONNACK are ignored: the clients may take each other over.
    ///
    /// # Panics
    /// If a connection ends or gets no answer.
    #[track_caller]
    pub fn of(broker: &Broker, clients: usize, connect: impl Fn(usize) -> Connect) -> Storm {
        let mut waiting: Vec<(usize, Line)> =
            (0..clients).map(|n| (n, Line::new(Client::dial(broker, Version::V5)))).collect();
        for (n, line) in &mut waiting {
            line.queue(&connect(*n).encode());
        }
        let mut storm = Storm {
            first: Duration::ZERO,
            last: Duration::ZERO,
            codes: Vec::with_capacity(clients),
            lines: Vec::with_capacity(clients),
        };
        let begun = Instant::now();
        for (n, line) in &mut waiting {
            line.flush().unwrap_or_else(|error| panic!("client {n}: {error}"));
        }
        while !waiting.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{} of {clients} clients have no CONNACK", waiting.len());
            let places = ready(waiting.iter().map(|(_, line)| line), 1_000_000);
            // From the end, so that the other indexes stay valid.
            for place in places.into_iter().rev() {
                let (n, line) = &mut waiting[place];
                let mut code = None;
                let read = line.read(|packet| match packet {
                    Packet::Connack { code: received, .. } if code.is_none() => code = Some(received),
                    other => assert!(code.is_some(), "{other:?} instead of CONNACK for client {n}"),
                });
                let Some(code) = code else {
                    read.unwrap_or_else(|error| panic!("client {n} without a CONNACK: {error}"));
                    continue;
                };
                storm.last = begun.elapsed();
                if storm.codes.is_empty() {
                    storm.first = storm.last;
                }
                storm.codes.push((*n, code));
                storm.lines.push(waiting.swap_remove(place).1);
            }
        }
        storm
    }
}
