//! Many clients that connect at the same moment, and bystanders whose messages are timed meanwhile. Used by the load tests of
//! authentication; one thread drives the storm and one the bystanders.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::line::{Line, ready};
use crate::{Broker, Client, Connect, PATIENCE, Packet, Publish, Version, pause};

/// Clients that have connected at the same moment.
pub struct Storm {
    /// Time from the first CONNECT sent to the first CONNACK received.
    pub first: Duration,
    /// The same to the last CONNACK.
    pub last: Duration,
    /// What each CONNACK said: number of the client and code, in the order in which they came.
    pub codes: Vec<(usize, u8)>,
    /// Those who are in, and stay until this is dropped.
    lines: Vec<Line>,
}

impl Storm {
    /// Opens so many connections, sends all their CONNECTs in one go and waits for every CONNACK. Client N is `PREFIX N`.
    ///
    /// # Panics
    /// If a connection ends or stays without an answer.
    #[track_caller]
    pub fn rage(broker: &Broker, clients: usize, prefix: &str) -> Storm {
        let mut waiting: Vec<(usize, Line)> =
            (0..clients).map(|n| (n, Line::new(Client::dial(broker, Version::V5)))).collect();
        for (n, line) in &mut waiting {
            line.queue(&Connect::new(Version::V5, &format!("{prefix} {n}")).encode());
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
            // From the end, so that the places in front stay what they are.
            for place in places.into_iter().rev() {
                let (n, line) = &mut waiting[place];
                let mut code = None;
                let read = line.read(|packet| match packet {
                    Packet::Connack { code: said, .. } if code.is_none() => code = Some(said),
                    other => panic!("{other:?} instead of CONNACK for client {n}"),
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

/// How long messages took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// How many.
    pub messages: usize,
    /// Half of them took at most this.
    pub p50: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Latency {
    fn of(mut times: Vec<Duration>) -> Latency {
        times.sort_unstable();
        let Some(&longest) = times.last() else { return Latency::default() };
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Latency { messages: times.len(), p50: at(0.5), p99: at(0.99), longest }
    }
}

#[derive(Default)]
struct Watched {
    times: Mutex<Vec<Duration>>,
    stop: AtomicBool,
}

impl Watched {
    fn times(&self) -> MutexGuard<'_, Vec<Duration>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients in a ring that pass a message on, one hop after the other, about one in a millisecond.
pub struct Bystanders {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl Bystanders {
    /// Connects so many, spread over the shards by their names.
    #[track_caller]
    pub fn start(broker: &Broker, count: usize) -> Bystanders {
        let clients = (0..count).map(|n| {
            let mut client = Client::hello(broker, Version::V5, &format!("bystander {n}"));
            client.subscribe(&format!("bystander/{n}"), 0);
            client
        });
        let mut clients: Vec<Client> = clients.collect();
        let watched = Arc::<Watched>::default();
        let shared = Arc::clone(&watched);
        let thread = std::thread::spawn(move || {
            for hop in 0.. {
                let (from, to) = (hop % count, (hop + 1) % count);
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let publish = Publish::new(&format!("bystander/{to}"), hop.to_string());
                let sent = Instant::now();
                clients[from].send_publish(&publish);
                let message = clients[to].receive_publish();
                shared.times().push(sent.elapsed());
                assert_eq!(message.text(), hop.to_string());
                pause(Duration::from_millis(1));
            }
            clients.into_iter().for_each(Client::disconnect);
        });
        Bystanders { watched, thread: Some(thread) }
    }

    /// How long the messages since the last call took.
    pub fn since(&self) -> Latency {
        Latency::of(std::mem::take(&mut *self.watched.times()))
    }

    /// Waits until so many more have passed.
    ///
    /// # Panics
    /// If they do not pass in time.
    #[track_caller]
    pub fn settle(&self, messages: usize) {
        let deadline = Instant::now() + PATIENCE;
        let before = self.watched.times().len();
        while self.watched.times().len() < before + messages {
            assert!(Instant::now() < deadline, "the bystanders' messages do not come");
            pause(Duration::from_millis(1));
        }
    }

    /// Disconnects them.
    ///
    /// # Panics
    /// If a message was lost, or one of them disconnected.
    #[track_caller]
    pub fn finish(mut self) {
        self.watched.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "a bystander was not served, see above");
        }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.watched.stop.store(true, Ordering::Relaxed);
    }
}
