//! The loop that runs a plan: one thread, one epoll, all connections of the load. Called by `main`
//! once per run. It opens connections at their pace, passes frames to `client`, and decides when
//! the run ends.

mod ending;
pub mod link;
mod progress;

use crate::client::{Client, Failure, Shared, State};
use crate::clock::{Clock, nanos};
use crate::plan::{Plan, PublishPlan, Role};
use crate::publish::Produced;
use crate::sequence::Tracker;
use crate::socket;
use crate::stats::Stats;
use crate::wheel::Wheel;
use anyhow::{Context, Result};
use link::Link;
use mio::{Events, Interest, Poll, Token};
use progress::Progress;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// All connections read into one buffer of this size.
pub const READ_BYTES: usize = 256 * 1024;
/// Longest sleep: how late a signal, the end of the duration or a progress line can be noticed.
const SLEEP_NS_MAX: u64 = 50_000_000;
/// Connects begun before established connections get their turn.
const CONNECTS_PER_TURN: u32 = 64;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The counts.
    pub stats: Stats,
    /// What receivers saw of sequences.
    pub trackers: Vec<Tracker>,
    /// QoS 1 and 2 messages that were never acknowledged.
    pub unacked: u64,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// Nanoseconds from start to end.
    pub elapsed_ns: u64,
}

/// Carries out `plan`, and ends early, in order, when `stop` becomes true.
pub fn drive(plan: &Plan, stop: &Arc<AtomicBool>) -> Result<Outcome> {
    grapnel_floor::descriptors::reserve(plan.count)?;
    progress::withdraw_ready(plan)?;
    let mut turn = Run::new(plan)?;
    while turn.phase != Phase::Over {
        turn.turn(stop)?;
    }
    turn.progress.clear_line();
    let elapsed_ns = turn.clock.now_ns();
    Ok(Outcome {
        stats: turn.shared.stats,
        trackers: turn.shared.trackers,
        unacked: turn.unacked,
        interrupted: turn.interrupted,
        elapsed_ns,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The load runs.
    Running,
    /// Nothing new is published; acknowledgements are awaited until then.
    Draining(u64),
    /// DISCONNECT is sent; the ends of the connections are awaited until then.
    Closing(u64),
    Over,
}

#[derive(Debug, Clone, Copy)]
enum Alarm {
    /// A publisher's next message is due.
    Produce(usize),
    /// A connection may have been quiet for too long.
    KeepAlive(usize),
    /// A handshake should be over.
    Handshake(usize),
}

#[derive(Debug)]
struct Conn {
    client: Client,
    link: Option<Link>,
    /// An `Alarm::Produce` is in the wheel.
    armed: bool,
    /// Stands in `again`, and whether it is to be read.
    again: Option<bool>,
}

#[derive(Debug)]
struct Run<'p> {
    plan: &'p Plan,
    clock: Clock,
    poll: Poll,
    events: Events,
    wheel: Wheel<Alarm>,
    /// By client number less the first; also the epoll token.
    conns: Vec<Conn>,
    shared: Shared,
    read: Box<[u8]>,
    out: Vec<u8>,
    due: Vec<Alarm>,
    /// Connections that have more to do although no event will say so.
    again: Vec<usize>,
    again_spare: Vec<usize>,
    shared_filters: HashMap<Vec<String>, usize>,
    phase: Phase,
    live: u32,
    next_connect_ns: u64,
    /// When every client was ready or had failed.
    settled_ns: Option<u64>,
    unacked: u64,
    interrupted: bool,
    progress: Progress,
}

impl<'p> Run<'p> {
    fn new(plan: &'p Plan) -> Result<Self> {
        let clock = Clock::start();
        let wall_at_zero_ns = clock.wall_ns(0);
        let publishes = matches!(plan.role, Role::Publish(_));
        Ok(Self {
            plan,
            clock,
            poll: Poll::new().context("cannot create an epoll instance")?,
            events: Events::with_capacity(1024),
            wheel: Wheel::new(),
            conns: Vec::with_capacity(plan.count as usize),
            shared: Shared {
                stats: Stats::new(),
                trackers: Vec::new(),
                gaps_max: plan.gaps_max,
                header_expected: matches!(&plan.role, Role::Subscribe(subscribe) if subscribe.header_expected),
                remaining: plan.limit.filter(|_| publishes).unwrap_or(u64::MAX),
                in_flight: 0,
                now_ns: 0,
                wall_at_zero_ns,
            },
            read: vec![0; READ_BYTES].into(),
            out: Vec::with_capacity(READ_BYTES),
            due: Vec::new(),
            again: Vec::new(),
            again_spare: Vec::new(),
            shared_filters: HashMap::new(),
            phase: Phase::Running,
            live: 0,
            next_connect_ns: 0,
            settled_ns: None,
            unacked: 0,
            interrupted: false,
            progress: Progress::new(plan),
        })
    }

    fn turn(&mut self, stop: &AtomicBool) -> Result<()> {
        let sleep_ns = self.sleep_ns();
        let polled = self.poll.poll(&mut self.events, Some(std::time::Duration::from_nanos(sleep_ns)));
        if let Err(error) = polled
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).context("epoll failed");
        }
        self.tell_time();

        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let index = event.token().0;
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
        self.ring_alarms();
        self.advance_phase(stop)?;
        self.progress.show(&self.shared, self.live);
        Ok(())
    }

    fn tell_time(&mut self) {
        self.shared.now_ns = self.clock.now_ns();
    }

    fn sleep_ns(&self) -> u64 {
        if !self.again.is_empty() {
            return 0;
        }
        let now_ns = self.clock.now_ns();
        let mut sleep_ns = self.wheel.idle_ns(now_ns, SLEEP_NS_MAX);
        if self.may_connect() {
            sleep_ns = sleep_ns.min(self.next_connect_ns.saturating_sub(now_ns));
        }
        sleep_ns
    }

    fn may_connect(&self) -> bool {
        let stats = &self.shared.stats;
        let under_way = stats.started - stats.ready - stats.failed;
        self.phase == Phase::Running
            && stats.started < self.plan.count
            && (under_way as usize) < self.plan.connects_pending_max
    }

    fn open_connections(&mut self) {
        for _ in 0..CONNECTS_PER_TURN {
            if !self.may_connect() || self.shared.now_ns < self.next_connect_ns {
                return;
            }
            self.next_connect_ns += nanos(self.plan.connect_gap);
            self.open_connection();
        }
    }

    fn open_connection(&mut self) {
        let index = self.conns.len();
        let ordinal = self.shared.stats.started;
        self.tell_time();
        let number = self.plan.start_number + ordinal + 1;
        self.shared.stats.started += 1;
        self.shared.stats.first_connect_ns.get_or_insert(self.shared.now_ns);
        let tracker = self.tracker_of(number);
        let client = Client::new(number, self.quota_of(ordinal), tracker, self.shared.now_ns);
        self.conns.push(Conn { client, link: None, armed: false, again: None });

        let sources = &self.plan.sources;
        let source = (!sources.is_empty()).then(|| sources[index % sources.len()]);
        let opened = socket::connect(self.plan.broker, source).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), interest)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                self.conns[index].link = Some(Link::new(stream));
                self.live += 1;
                let give_up_ns = self.shared.now_ns + nanos(self.plan.connect_timeout);
                self.wheel.arm(give_up_ns, Alarm::Handshake(index));
            }
            Err(error) => self.fail(index, &Failure::Connect(socket::explain(&error))),
        }
    }

    /// The limit is shared evenly; the first clients send what is left over.
    fn quota_of(&self, ordinal: u32) -> u64 {
        let Some(limit) = self.plan.limit else { return u64::MAX };
        let count = u64::from(self.plan.count);
        limit / count + u64::from(u64::from(ordinal) < limit % count)
    }

    /// A tracker of its own for each plain subscriber, one in common for the members of a shared subscription.
    fn tracker_of(&mut self, number: u32) -> Option<usize> {
        let Role::Subscribe(subscribe) = &self.plan.role else { return None };
        let trackers = &mut self.shared.trackers;
        let mut add = || {
            trackers.push(Tracker::default());
            trackers.len() - 1
        };
        if !subscribe.filters.iter().all(|filter| filter.starts_with("$share/")) {
            return Some(add());
        }
        let filters = subscribe.filters.iter().map(|filter| self.plan.names.topic(filter, number)).collect();
        Some(*self.shared_filters.entry(filters).or_insert_with(add))
    }

    fn serve_again(&mut self) {
        let mut again = std::mem::replace(&mut self.again, std::mem::take(&mut self.again_spare));
        for index in again.drain(..) {
            let readable = self.conns[index].again.take().unwrap_or(false);
            self.serve(index, readable, false);
        }
        self.again_spare = again;
    }

    fn ring_alarms(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.shared.now_ns, &mut due);
        for alarm in due.drain(..) {
            match alarm {
                Alarm::Produce(index) => {
                    self.conns[index].armed = false;
                    self.serve(index, false, false);
                }
                Alarm::KeepAlive(index) => self.keep_alive(index),
                Alarm::Handshake(index) => {
                    let state = self.conns[index].client.state;
                    if matches!(state, State::Connecting | State::AwaitConnack | State::AwaitSuback) {
                        self.fail(index, &Failure::Timeout(state));
                    }
                }
            }
        }
        self.due = due;
    }

    fn keep_alive(&mut self, index: usize) {
        let Conn { client, link, .. } = &mut self.conns[index];
        let Some(link) = link.as_mut().filter(|_| client.state == State::Ready) else { return };
        let asked = client.keep_alive(self.shared.now_ns, &mut self.out);
        let sent = asked.and_then(|next_ns| {
            if !self.out.is_empty() {
                client.last_sent_ns = self.shared.now_ns;
                link.send(&mut self.out).map_err(|error| Failure::Io(error.to_string()))?;
            }
            Ok(next_ns)
        });
        match sent {
            Ok(Some(next_ns)) => self.wheel.arm(next_ns, Alarm::KeepAlive(index)),
            Ok(None) => {}
            Err(failure) => self.fail(index, &failure),
        }
    }

    fn serve(&mut self, index: usize, readable: bool, writable: bool) {
        if self.conns[index].link.is_none() {
            return;
        }
        if let Err(failure) = self.step(index, readable, writable) {
            self.fail(index, &failure);
        }
    }

    /// One connection's turn: finish connecting, write what was left, read once, publish what is due, write.
    fn step(&mut self, index: usize, readable: bool, writable: bool) -> Result<(), Failure> {
        let io = |error: std::io::Error| Failure::Io(error.to_string());
        let conn = &mut self.conns[index];
        let (client, Some(link)) = (&mut conn.client, &mut conn.link) else { return Ok(()) };
        let state_before = client.state;

        if client.state == State::Connecting {
            if !(writable || readable) || !is_connected(link)? {
                return Ok(());
            }
            client.open(self.plan, &mut self.out)?;
        }
        if writable && link.has_unsent() {
            link.flush().map_err(io)?;
        }
        let mut more_to_read = false;
        if readable {
            let filled = link.fill(&mut self.read).map_err(io)?;
            self.shared.now_ns = self.clock.now_ns();
            let take = |frame: &crate::frames::Frame<'_>| {
                client.frame(frame, self.plan, &mut self.shared, &mut self.out)
            };
            more_to_read = link.hand_out(filled, &self.read, take)?;
        }
        if state_before != State::Ready && conn.client.state == State::Ready {
            self.became_ready(index);
        }
        self.produce_and_send(index, more_to_read).map_err(io)
    }

    fn produce_and_send(&mut self, index: usize, more_to_read: bool) -> std::io::Result<()> {
        let publishing = self.phase == Phase::Running && (self.settled_ns.is_some() || !self.waits_for_all());
        let conn = &mut self.conns[index];
        let (client, Some(link)) = (&mut conn.client, &mut conn.link) else { return Ok(()) };
        // A socket that is full comes back with a writable event, and only then gets more.
        let produced = if publishing && !link.has_unsent() {
            client.produce(&mut self.shared, &mut self.out)
        } else {
            Produced::Blocked
        };
        if !self.out.is_empty() {
            client.last_sent_ns = self.shared.now_ns;
            link.send(&mut self.out)?;
        }
        let more_to_send = produced == Produced::More && !link.has_unsent();
        if let Produced::DueAt(due_ns) = produced
            && !conn.armed
        {
            conn.armed = true;
            self.wheel.arm(due_ns, Alarm::Produce(index));
        }
        if more_to_read || more_to_send {
            if conn.again.is_none() {
                self.again.push(index);
            }
            conn.again = Some(more_to_read || conn.again.unwrap_or(false));
        }
        if client.state == State::Closing && !link.has_unsent() {
            // Tells the broker that nothing follows; its own end is then awaited.
            let _ = link.stream.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }

    fn publish_plan(&self) -> Option<&'p PublishPlan> {
        if let Role::Publish(publish) = &self.plan.role { Some(publish) } else { None }
    }

    fn waits_for_all(&self) -> bool {
        self.publish_plan().is_some_and(|publish| publish.wait_for_all)
    }

    fn became_ready(&mut self, index: usize) {
        let now_ns = self.shared.now_ns;
        let client = &mut self.conns[index].client;
        client.begin(now_ns);
        // Any time will do: the answer says when to ask again.
        self.wheel.arm(now_ns, Alarm::KeepAlive(index));
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
        if self.plan.limit.is_some() && self.phase == Phase::Running {
            self.shared.remaining = self.shared.remaining.saturating_sub(conn.client.forgo_quota());
        }
        let in_flight = conn.client.in_flight();
        self.shared.in_flight -= in_flight;
        self.unacked += in_flight;
        let stats = &mut self.shared.stats;
        match state {
            State::Closing => return,
            State::Ready => stats.disconnects += 1,
            _ => stats.failed += 1,
        }
        let text = failure.to_string();
        if stats.error(&text) {
            let number = conn.client.number;
            self.progress.complain(&self.plan.names.client_id(number), self.plan.broker, &text);
        }
    }
}

/// Whether connect() has succeeded; it may not be decided yet.
pub fn is_connected(link: &Link) -> Result<bool, Failure> {
    let refused = |error: std::io::Error| Failure::Connect(socket::explain(&error));
    if let Some(error) = link.stream.take_error().map_err(refused)? {
        return Err(refused(error));
    }
    match link.stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(refused(error)),
    }
}
