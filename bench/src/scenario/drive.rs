//! The loop of a scenario: one thread and one epoll for publishers and subscribers. Called by
//! [`super::run`]. It connects all clients, warms up, measures and drains; `ledger` counts the
//! messages.

mod alarm;
mod phase;

use super::client::{Client, Shared, client_id};
use super::ledger::Ledger;
use super::report::{Measured, Report};
use super::shape::Shape;
use super::tally::Tally;
use super::target::Target;
use super::usage::Sampler;
use super::{Pace, Scenario, Waiting};
use crate::client::{Failure, State};
use crate::clock::Clock;
use crate::poll::link::Link;
use crate::poll::{READ_BYTES, is_connected};
use crate::socket;
use alarm::Alarm;
use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token};
use phase::{Calls, Phase};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Longest sleep: how late a signal or the end of a phase can be noticed where nothing happens.
const SLEEP_NS_MAX: u64 = 50_000_000;
/// Connects from one local address; it has some 28,000 ports, of which others use a few.
pub const CONNECTS_PER_SOURCE: u32 = 20_000;

/// Carries out a scenario with messages, or an idle one.
pub fn drive(scenario: &Scenario, target: &Target, stop: &Arc<AtomicBool>) -> Result<Report> {
    let run = random_u32();
    let shape = Shape::of(scenario, run);
    let clients = u32::try_from(shape.clients()).unwrap_or(u32::MAX);
    grapnel_floor::descriptors::reserve(clients)?;
    let mut turns = Run::new(scenario, target, &shape, run)?;
    while turns.phase != Phase::Over {
        turns.turn(stop)?;
    }
    turns.progress.clear();
    Ok(turns.report())
}

/// From the seed that the standard library draws for its hash maps: distinct between runs, which is all it is for.
pub fn random_u32() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    u32::try_from(random >> 32).unwrap_or_default()
}

/// The local address for a connect: one on loopback for each [`CONNECTS_PER_SOURCE`], the system's choice elsewhere.
pub fn source(broker: SocketAddr, ordinal: u32) -> Option<IpAddr> {
    let at = ordinal / CONNECTS_PER_SOURCE;
    let on_loopback = matches!(broker.ip(), IpAddr::V4(addr) if addr.is_loopback());
    // 127.0.0.1 itself is left to others.
    (on_loopback && at > 0).then(|| IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + at)))
}

#[derive(Debug)]
struct Conn {
    client: Client,
    link: Option<Link>,
    /// Stands in `again`, and whether it is to be read.
    again: Option<bool>,
}

#[derive(Debug)]
struct Run<'s> {
    scenario: &'s Scenario,
    target: &'s Target,
    clock: Clock,
    poll: Poll,
    /// Of an open loop that sleeps.
    alarm: Option<Alarm>,
    events: Events,
    /// By client number, which is also the epoll token.
    conns: Vec<Conn>,
    shared: Shared<'s>,
    read: Box<[u8]>,
    out: Vec<u8>,
    /// Publishers that may have something to send.
    ready: Vec<usize>,
    /// Connections that have more to do although no event will say so.
    again: Vec<usize>,
    again_spare: Vec<usize>,
    live: u32,
    phase: Phase,
    measured: Measured,
    sampler: Option<Sampler>,
    next_sample_ns: u64,
    calls: Calls,
    /// Time in which there was nothing to do.
    idle_ns: u64,
    /// When the last delivery or acknowledgement came, and how many there were.
    progressed: (u64, u64),
    interrupted: bool,
    progress: super::report::Progress,
}

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario, target: &'s Target, shape: &'s Shape, run: u32) -> Result<Self> {
        let window = match scenario.pace {
            Pace::Credit { window, .. } => Some(window),
            Pace::Rate(_) => None,
        };
        let mut sampler = target.pid.map(Sampler::new).transpose()?;
        let before = sampler.as_mut().map(Sampler::times).transpose()?;
        let memory_before = sampler.as_ref().map(Sampler::memory).transpose()?;
        let poll = Poll::new().context("cannot create an epoll instance")?;
        let open_loop = matches!(scenario.pace, Pace::Rate(_));
        let alarm = if open_loop && scenario.waiting == Waiting::Sleep {
            Some(Alarm::new(poll.registry())?)
        } else {
            None
        };
        Ok(Self {
            scenario,
            target,
            clock: Clock::start(),
            poll,
            alarm,
            events: Events::with_capacity(1024),
            conns: Vec::with_capacity(shape.clients()),
            shared: Shared {
                scenario,
                shape,
                run,
                ledger: Ledger::new(shape, window),
                tally: Tally::new(),
                schedule: None,
                payload: vec![b'a'; scenario.size].into(),
                keep_alive_s: keep_alive_s(scenario),
                now_ns: 0,
            },
            read: vec![0; READ_BYTES].into(),
            out: Vec::with_capacity(READ_BYTES),
            ready: Vec::new(),
            again: Vec::new(),
            again_spare: Vec::new(),
            live: 0,
            phase: Phase::Connecting,
            measured: Measured { before, memory_before, ..Measured::default() },
            sampler,
            next_sample_ns: 0,
            calls: Calls::default(),
            idle_ns: 0,
            progressed: (0, 0),
            interrupted: false,
            progress: super::report::Progress::new(scenario),
        })
    }

    fn turn(&mut self, stop: &AtomicBool) -> Result<()> {
        self.wait()?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let index = event.token().0;
            if index >= self.conns.len() {
                // The alarm: what it rang for is dealt below.
                continue;
            }
            // Errors, like the end, show in the read that follows them.
            let closed = event.is_read_closed() || event.is_error();
            if let Some(link) = self.conns[index].link.as_mut().filter(|_| closed) {
                link.peer_closed = true;
            }
            self.serve(index, event.is_readable() || closed, event.is_writable());
        }
        self.events = events;
        self.serve_again();
        self.open_connections();
        self.deal();
        self.serve_publishers();
        self.advance_phase(stop)?;
        let (count, what) = match self.phase {
            Phase::Connecting => (self.shared.tally.ready.into(), "clients ready"),
            _ => (self.shared.ledger.delivered, "delivered"),
        };
        self.progress.show(self.shared.now_ns, self.phase.name(), count, what);
        Ok(())
    }

    /// Waits for events, and books the time as idle.
    fn wait(&mut self) -> Result<()> {
        if self.phase.awaits_perf() {
            // perf shares this CPU, and with real-time priority it would never have it while the generator spins.
            std::thread::yield_now();
        }
        let before_ns = self.shared.now_ns;
        let has_work = !self.again.is_empty() || !self.ready.is_empty() || self.may_connect();
        let spins = self.scenario.waiting == Waiting::Spin && self.phase.is_load();
        let mut patience = Duration::ZERO;
        if !has_work && !spins {
            let now_ns = self.clock.now_ns();
            if let (Some(schedule), Some(alarm)) = (&self.shared.schedule, &self.alarm)
                && self.phase.is_load()
            {
                alarm.ring_in(schedule.next_ns().saturating_sub(now_ns))?;
            }
            patience = Duration::from_nanos(self.phase.rest_ns(now_ns).min(SLEEP_NS_MAX));
        }
        if let Err(error) = self.poll.poll(&mut self.events, Some(patience))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).context("epoll failed");
        }
        self.tell_time();
        if !patience.is_zero() || (!has_work && self.events.is_empty()) {
            self.idle_ns += self.shared.now_ns - before_ns;
        }
        Ok(())
    }

    fn tell_time(&mut self) {
        self.shared.now_ns = self.clock.now_ns();
    }

    fn may_connect(&self) -> bool {
        let Tally { started, ready, failed, .. } = self.shared.tally;
        self.phase == Phase::Connecting
            && (started as usize) < self.shared.shape.clients()
            && started - ready - failed < self.scenario.connects_pending_max
    }

    fn open_connections(&mut self) {
        while self.may_connect() {
            self.open_connection();
        }
    }

    fn open_connection(&mut self) {
        let index = self.conns.len();
        self.tell_time();
        let ordinal = self.shared.tally.started;
        self.shared.tally.started += 1;
        let client = Client::new(index, self.shared.shape, self.shared.now_ns);
        self.conns.push(Conn { client, link: None, again: None });
        let opened =
            socket::connect(self.target.addr, source(self.target.addr, ordinal)).and_then(|mut stream| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(index), interest)?;
                Ok(stream)
            });
        match opened {
            Ok(stream) => {
                self.conns[index].link = Some(Link::new(stream));
                self.live += 1;
            }
            Err(error) => self.fail(index, &Failure::Connect(socket::explain(&error))),
        }
    }

    fn serve_again(&mut self) {
        let mut again = std::mem::replace(&mut self.again, std::mem::take(&mut self.again_spare));
        for index in again.drain(..) {
            let readable = self.conns[index].again.take().unwrap_or(false);
            self.serve(index, readable, false);
        }
        self.again_spare = again;
    }

    /// Lets publishers of an open loop send what is due by now.
    fn deal(&mut self) {
        if !self.phase.is_load() {
            return;
        }
        let Some(schedule) = &mut self.shared.schedule else { return };
        while let Some(publisher) = schedule.deal(self.shared.now_ns) {
            self.conns[publisher].client.grant();
            if self.ready.last() != Some(&publisher) {
                self.ready.push(publisher);
            }
        }
    }

    fn serve_publishers(&mut self) {
        self.shared.ledger.take_freed(&mut self.ready);
        let mut ready = std::mem::take(&mut self.ready);
        for publisher in ready.drain(..) {
            self.tell_time();
            if let Err(error) = self.produce_and_send(publisher, false) {
                self.fail(publisher, &Failure::Io(error.to_string()));
            }
        }
        self.ready = ready;
    }

    fn serve(&mut self, index: usize, readable: bool, writable: bool) {
        if self.conns[index].link.is_none() {
            return;
        }
        if let Err(failure) = self.step(index, readable, writable) {
            self.fail(index, &failure);
        }
    }

    /// One connection's turn: finish connecting, write what was left, read once, publish, write.
    fn step(&mut self, index: usize, readable: bool, writable: bool) -> Result<(), Failure> {
        let io = |error: std::io::Error| Failure::Io(error.to_string());
        let Conn { client, link: Some(link), .. } = &mut self.conns[index] else { return Ok(()) };
        if client.state == State::Connecting {
            if !(writable || readable) || !is_connected(link)? {
                return Ok(());
            }
            client.open(&self.shared, &mut self.out)?;
        }
        if writable && link.has_unsent() {
            link.flush().map_err(io)?;
        }
        let mut more_to_read = false;
        if readable {
            let filled = link.fill(&mut self.read).map_err(io)?;
            self.shared.now_ns = self.clock.now_ns();
            let take =
                |frame: &crate::frames::Frame<'_>| client.frame(frame, &mut self.shared, &mut self.out);
            more_to_read = link.hand_out(filled, &self.read, take)?;
        }
        self.produce_and_send(index, more_to_read).map_err(io)
    }

    fn produce_and_send(&mut self, index: usize, more_to_read: bool) -> std::io::Result<()> {
        let Conn { client, link: Some(link), again } = &mut self.conns[index] else { return Ok(()) };
        // A socket that is full comes back with a writable event, and only then gets more.
        let publishes = self.phase.is_load() && client.is_publisher() && !link.has_unsent();
        let more = publishes && client.produce(&mut self.shared, &mut self.out);
        if !self.out.is_empty() {
            link.send(&mut self.out)?;
        }
        if more_to_read || (more && !link.has_unsent()) {
            if again.is_none() {
                self.again.push(index);
            }
            *again = Some(more_to_read || again.unwrap_or(false));
        }
        if client.state == State::Closing && !link.has_unsent() {
            // Tells the broker that nothing follows; its own end is then awaited.
            let _ = link.stream.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }

    /// Ends a connection that ended otherwise than it should, unless it was about to end anyway.
    fn fail(&mut self, index: usize, failure: &Failure) {
        self.out.clear();
        let conn = &mut self.conns[index];
        let state = std::mem::replace(&mut conn.client.state, State::Ended);
        if state == State::Ended {
            return;
        }
        if conn.link.take().is_some() {
            self.live -= 1;
        }
        let tally = &mut self.shared.tally;
        match state {
            State::Closing => return,
            State::Ready => tally.disconnects += 1,
            _ => tally.failed += 1,
        }
        let text = failure.to_string();
        if tally.error(&text) {
            self.progress.complain(&client_id(self.shared.run, index), self.target.addr, &text);
        }
    }
}

/// Twice as long as the run may last, so that no client has to ping.
fn keep_alive_s(scenario: &Scenario) -> u16 {
    let run_s = (scenario.warm_up + scenario.duration * 2 + scenario.patience * 2).as_secs();
    u16::try_from(run_s * 2 + 300).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_connects_are_spread_over_local_addresses() {
        let broker = "127.0.0.1:1883".parse().unwrap();
        assert_eq!(source(broker, 0), None);
        assert_eq!(source(broker, CONNECTS_PER_SOURCE - 1), None);
        assert_eq!(source(broker, CONNECTS_PER_SOURCE), Some("127.0.0.2".parse().unwrap()));
        assert_eq!(source(broker, 3 * CONNECTS_PER_SOURCE), Some("127.0.0.4".parse().unwrap()));
        for elsewhere in ["10.0.0.1:1883", "[::1]:1883"] {
            assert_eq!(source(elsewhere.parse().unwrap(), 3 * CONNECTS_PER_SOURCE), None);
        }
    }

    #[test]
    fn nobody_has_to_ping() {
        let mut scenario = Scenario::new(crate::scenario::Kind::Idle);
        assert!(keep_alive_s(&scenario) > 300);
        scenario.duration = Duration::from_secs(1_000_000);
        assert_eq!(keep_alive_s(&scenario), u16::MAX);
    }
}
