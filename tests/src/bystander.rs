//! Clients that keep working while a test changes the broker. There are two on each shard. They
//! pass messages on in a ring, so that every pair of neighbouring shards is used, and they send
//! pings. The load tests use them. One thread drives them, checks that every message arrives once
//! and in order, and measures latencies. [`Bystanders::beside`] prints the latencies as one row of
//! a table.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::line::{Line, ready};
use crate::wire::Ack;
use crate::{Broker, Client, PATIENCE, Packet, Publish, Version, pause};

/// Bystanders on each shard: one passes a message on to the other, and that one to the next shard.
const EACH_SHARD: usize = 2;
/// Time between two messages of the ring, and between two pings of one client.
const MESSAGE_EVERY: Duration = Duration::from_millis(1);
const PING_EVERY: Duration = Duration::from_millis(10);
/// Messages of one bystander that may wait for their PUBACK, below every broker's Receive Maximum.
const WINDOW: u64 = 30;
/// How long [`Bystanders::beside`] measures before the work begins.
const CALM: Duration = Duration::from_secs(1);
/// Time in which every bystander is served at least once.
const ROUND: Duration = Duration::from_millis(100);
/// Time between two readings of the broker's memory.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A latency above this counts as a stall. It is far above what a busy machine adds, and a default
/// session's queue of 1,000 messages does not last that long.
const STALL: Duration = Duration::from_secs(3);

/// Latencies of messages or of pings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Number of measurements.
    pub count: usize,
    /// 50th percentile.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Maximum.
    pub longest: Duration,
}

impl Latency {
    fn of(mut times: Vec<Duration>) -> Latency {
        times.sort_unstable();
        let Some(&longest) = times.last() else { return Latency::default() };
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Latency { count: times.len(), p50: at(0.5), p99: at(0.99), longest }
    }
}

/// p50, p99 and maximum, in milliseconds.
impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "p50 {:.2} p99 {:6.2} max {:6.2}", ms(self.p50), ms(self.p99), ms(self.longest))
    }
}

/// What the bystanders measured during a period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Felt {
    /// From the moment a message was due to its arrival. A pause of the broker delays all messages
    /// that become due in it.
    pub messages: Latency,
    /// From the moment a PINGREQ was due to its PINGRESP. A client has at most one ping
    /// outstanding.
    pub pings: Latency,
    /// Maximum resident memory of the broker's process, in bytes.
    pub resident_max: u64,
}

/// The effect of a piece of work on the bystanders and on the broker's memory.
#[derive(Clone, Copy, Debug)]
pub struct Beside<T> {
    /// Result of the work.
    pub done: T,
    /// Measured before the work.
    pub before: Felt,
    /// Measured during the work.
    pub during: Felt,
    /// Resident memory of the broker's process before the work, in bytes.
    pub resident_before: u64,
    /// Resident memory of the broker's process after the work, in bytes.
    pub resident_after: u64,
}

impl<T> Beside<T> {
    /// Growth of the broker's memory at its maximum, in bytes.
    pub fn grown_max(&self) -> u64 {
        self.during.resident_max.max(self.resident_after).saturating_sub(self.resident_before)
    }
}

/// Resident memory of the broker's process, in bytes.
///
/// # Panics
/// If the process has ended.
pub fn resident(broker: &Broker) -> u64 {
    resident_of(broker.process().id()).expect("the broker is our child, and runs")
}

fn resident_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// The home shard of every client that is connected or has a session, from the broker's client
/// list.
///
/// # Panics
/// If the request for the list fails.
pub fn homes(broker: &Broker) -> BTreeMap<String, usize> {
    let listed = broker.ctl_json(&["clients", "list", "--limit", "1000000"]);
    let rows = listed["clients"].as_array().expect("a list").iter();
    let home = |row: &serde_json::Value| {
        let shard = row["shard"].as_u64().expect("a shard") as usize;
        (row["client_id"].as_str().expect("a name").to_owned(), shard)
    };
    rows.map(home).collect()
}

#[derive(Default)]
struct Seen {
    messages: Vec<Duration>,
    pings: Vec<Duration>,
    resident_max: u64,
    wrong: Option<String>,
}

struct Shared {
    begun: Instant,
    seen: Mutex<Seen>,
    /// All messages of the ring with a lower number have arrived.
    complete: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bystanders of a broker. They work until they are dropped or [finished](Bystanders::finish).
pub struct Bystanders {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

impl Bystanders {
    /// Connects two clients on each shard.
    #[track_caller]
    pub fn start(broker: &Broker) -> Bystanders {
        let shards: Vec<usize> = (0..broker.shards()).collect();
        Bystanders::start_on(broker, &shards)
    }

    /// Connects two clients on each of these shards.
    ///
    /// # Panics
    /// If a connection is refused.
    #[track_caller]
    pub fn start_on(broker: &Broker, shards: &[usize]) -> Bystanders {
        let ring: Vec<Client> = connect(broker, shards);
        let count = ring.len();
        let members = ring.into_iter().enumerate().map(|(place, mut client)| {
            client.subscribe(&topic(place), 1);
            Member::new(client, place, count)
        });
        let members: Vec<Member> = members.collect();
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            seen: Mutex::default(),
            complete: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let process = broker.process().id();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let ended = Ring { shared: &shared, members, process }.run();
                shared.seen().wrong = ended.err();
            }
        });
        Bystanders { shared, thread: Some(thread), process }
    }

    /// What the bystanders measured since the last call.
    ///
    /// # Panics
    /// If a message was lost, or a bystander was disconnected.
    #[track_caller]
    pub fn since(&self) -> Felt {
        let mut seen = self.shared.seen();
        let wrong = seen.wrong.clone();
        let taken = std::mem::take(&mut *seen);
        drop(seen);
        assert_eq!(wrong, None, "a bystander was not served");
        Felt {
            messages: Latency::of(taken.messages),
            pings: Latency::of(taken.pings),
            resident_max: taken.resident_max,
        }
    }

    /// Waits until every message that is due by now has arrived, and for one more round of the
    /// ring.
    ///
    /// # Panics
    /// If they do not arrive in time, or a bystander found an error.
    #[track_caller]
    pub fn settle(&self) {
        self.complete(self.shared.begun.elapsed() + ROUND);
    }

    /// Waits for every message that is due at a moment of the ring's clock.
    #[track_caller]
    fn complete(&self, moment: Duration) {
        let deadline = Instant::now() + moment.saturating_sub(self.shared.begun.elapsed()) + PATIENCE;
        let last = (moment.as_nanos() / MESSAGE_EVERY.as_nanos()) as u64;
        while self.shared.complete.load(Ordering::Acquire) <= last {
            assert_eq!(self.shared.seen().wrong, None, "a bystander was not served");
            assert!(Instant::now() < deadline, "the bystanders' messages do not come");
            pause(Duration::from_millis(1));
        }
    }

    /// Runs `work`. Prints the bystanders' latencies before and during the work, and the broker's
    /// memory, as the row `row` of a table: p50, p99 and maximum in milliseconds, memory in MiB.
    ///
    /// # Panics
    /// If a bystander lost a message or its connection, or a latency exceeded three seconds.
    #[track_caller]
    pub fn beside<T>(&self, row: &str, what: &str, work: impl FnOnce() -> T) -> Beside<T> {
        let memory = || resident_of(self.process).expect("the broker runs");
        self.settle();
        self.since();
        self.complete(self.shared.begun.elapsed() + CALM);
        let (before, resident_before) = (self.since(), memory());
        let done = work();
        self.settle();
        let (during, resident_after) = (self.since(), memory());
        let beside = Beside { done, before, during, resident_before, resident_after };
        let mib = |bytes: u64| bytes / (1 << 20);
        eprintln!(
            "| {row:>3} | {what:<84} | before {} | during {} | pings before {} | during {} ms | {:>3} -> {:>3}, at most {:>3} MiB |",
            before.messages,
            during.messages,
            before.pings,
            during.pings,
            mib(resident_before),
            mib(resident_after),
            mib(resident_before + beside.grown_max()),
        );
        let longest = during.messages.longest.max(during.pings.longest);
        assert!(longest < STALL, "{what}: a bystander waited for {longest:?}");
        beside
    }

    /// Waits for all messages under way, and disconnects the bystanders.
    ///
    /// # Panics
    /// If a message was lost, or a bystander was disconnected.
    #[track_caller]
    pub fn finish(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "a bystander was not served, see above");
        }
        self.since();
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Connects clients on these shards, in this order. Only the broker can compute the shard of a
/// client identifier, so identifiers are tried until one fits.
#[track_caller]
fn connect(broker: &Broker, shards: &[usize]) -> Vec<Client> {
    let mut found: BTreeMap<usize, Vec<Client>> = BTreeMap::new();
    for round in 0.. {
        assert!(round < 20, "no names are found for all of the shards {shards:?}");
        let name = |n: usize| format!("bystander {round} {n}");
        let candidates = (0..EACH_SHARD * broker.shards()).map(name);
        let candidates: Vec<(String, Client)> =
            candidates.map(|name| (name.clone(), Client::hello(broker, Version::V5, &name))).collect();
        let homes = homes(broker);
        for (name, client) in candidates {
            let members = found.entry(homes[&name]).or_default();
            if members.len() < EACH_SHARD && shards.contains(&homes[&name]) {
                members.push(client);
            } else {
                client.disconnect();
            }
        }
        if shards.iter().all(|shard| found.get(shard).is_some_and(|members| members.len() == EACH_SHARD)) {
            break;
        }
    }
    shards.iter().flat_map(|shard| found.remove(shard).expect("just looked")).collect()
}

fn topic(place: usize) -> String {
    format!("bystander/{place}")
}

/// One client of the ring. It publishes the messages `place`, `place + count` and so on to the next
/// client, each at its time.
struct Member {
    line: Line,
    count: u64,
    next_out: u64,
    next_in: u64,
    unacknowledged: VecDeque<u16>,
    next_ping: Instant,
    ping_waits: bool,
}

impl Member {
    fn new(client: Client, place: usize, count: usize) -> Member {
        Member {
            line: Line::new(client),
            count: count as u64,
            next_out: place as u64,
            next_in: ((place + count - 1) % count) as u64,
            unacknowledged: VecDeque::new(),
            next_ping: Instant::now(),
            ping_waits: false,
        }
    }

    /// Sends what is due.
    fn send(&mut self, begun: Instant, now: Instant) -> Result<(), String> {
        let to = topic(((self.next_out + 1) % self.count) as usize);
        while due(begun, self.next_out) <= now && (self.unacknowledged.len() as u64) < WINDOW {
            let id = (self.next_out / self.count % 60_000) as u16 + 1;
            let publish = Publish::new(&to, self.next_out.to_le_bytes()).qos(1).id(id);
            self.line.queue(&publish.encode(Version::V5));
            self.unacknowledged.push_back(id);
            self.next_out += self.count;
        }
        if self.next_ping <= now && !self.ping_waits {
            self.line.queue(&Packet::Pingreq.encode(Version::V5));
            self.ping_waits = true;
        }
        self.line.flush()
    }

    /// Reads and acknowledges what has arrived. Returns the latencies of the messages and pings.
    fn receive(&mut self, begun: Instant) -> Result<(Vec<Duration>, Vec<Duration>), String> {
        let (mut messages, mut pings) = (Vec::new(), Vec::new());
        let mut acknowledgements = Vec::new();
        let mut wrong = None;
        let (next_in, unacknowledged) = (&mut self.next_in, &mut self.unacknowledged);
        let (next_ping, ping_waits) = (&mut self.next_ping, &mut self.ping_waits);
        let read = self.line.read(|packet| match packet {
            Packet::Publish(publish) if publish.payload == next_in.to_le_bytes() => {
                messages.push(due(begun, *next_in).elapsed());
                *next_in += self.count;
                let id = publish.id.unwrap_or_default();
                acknowledgements.extend(Packet::Puback(Ack::of(id)).encode(Version::V5));
            }
            // PUBACKs come in the order of the publishes, [MQTT-4.6.0-2].
            Packet::Puback(ack) if ack.code < 0x80 && unacknowledged.front() == Some(&ack.id) => {
                unacknowledged.pop_front();
            }
            Packet::Pingresp if *ping_waits => {
                pings.push(next_ping.elapsed());
                // The next ping is scheduled from now: a late PINGRESP does not count twice.
                *next_ping = (*next_ping + PING_EVERY).max(Instant::now());
                *ping_waits = false;
            }
            other => {
                wrong.get_or_insert(format!("{other:?}, where message {next_in} was next"));
            }
        });
        // The error of a packet comes first: it says more than the end of the connection.
        wrong.map_or(read, Err)?;
        self.line.queue(&acknowledgements);
        self.line.flush()?;
        Ok((messages, pings))
    }
}

/// When a message of the ring is due.
fn due(begun: Instant, number: u64) -> Instant {
    begun + MESSAGE_EVERY * number as u32
}

struct Ring<'a> {
    shared: &'a Shared,
    members: Vec<Member>,
    process: u32,
}

impl Ring<'_> {
    fn run(&mut self) -> Result<(), String> {
        let begun = self.shared.begun;
        let mut next_look = begun;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if next_look <= now {
                next_look = now + LOOK_EVERY;
                let resident = resident_of(self.process).unwrap_or_default();
                let mut seen = self.shared.seen();
                seen.resident_max = seen.resident_max.max(resident);
            }
            for (place, member) in self.members.iter_mut().enumerate() {
                member.send(begun, now).map_err(|error| format!("bystander {place}: {error}"))?;
            }
            self.receive(begun)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.members.iter().any(|m| m.ping_waits || !m.unacknowledged.is_empty()) || !self.is_empty() {
            if Instant::now() > deadline {
                return Err("messages, or what acknowledges them, are missing".to_owned());
            }
            self.receive(begun)?;
        }
        for member in &mut self.members {
            member.line.queue(&[0xE0, 0]);
            // An error here changes no result.
            drop(member.line.flush());
        }
        Ok(())
    }

    /// Whether every message has arrived.
    fn is_empty(&self) -> bool {
        let senders = self.members.iter();
        senders.zip(self.members.iter().cycle().skip(1)).all(|(from, to)| from.next_out == to.next_in)
    }

    /// Waits for packets until the next message is due at the latest, and reads them.
    fn receive(&mut self, begun: Instant) -> Result<(), String> {
        let first = self.members.iter().map(|member| due(begun, member.next_out)).min();
        let left = first.map_or(MESSAGE_EVERY, |due| due.saturating_duration_since(Instant::now()));
        let microseconds = left.min(MESSAGE_EVERY).as_micros() as u64;
        // If the next message is due but must wait for a PUBACK, wait for packets a little.
        let microseconds = microseconds.max(100);
        for place in ready(self.members.iter().map(|member| &member.line), microseconds) {
            let received = self.members[place].receive(begun);
            let (messages, pings) = received.map_err(|error| format!("bystander {place}: {error}"))?;
            let mut seen = self.shared.seen();
            seen.messages.extend(messages);
            seen.pings.extend(pings);
        }
        let complete = self.members.iter().map(|member| member.next_in).min();
        self.shared.complete.store(complete.unwrap_or_default(), Ordering::Release);
        Ok(())
    }
}
