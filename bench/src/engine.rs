//! The engine that carries out every load: one thread, one epoll, for publishers and subscribers.
//! `load` (pub, sub, conn) and `scenario` (run) call [`Engine::turn`] until their end condition,
//! and select the next phase between two turns. The engine opens connections, moves bytes and
//! passes frames to `client`; it never decides when a run ends.

mod client;
pub mod counts;
mod failure;
mod layers;
pub mod ledger;
mod link;
mod progress;
mod publisher;
mod schedule;
mod shared;

pub use progress::Progress;
pub use schedule::Schedule;
pub use shared::{MessageRecord, Shared};

use crate::clock::{Clock, nanos};
use crate::frames::Frame;
use crate::plan::{Pace, Setup};
use crate::socket;
use anyhow::{Context, Result};
use client::Client;
use counts::Counts;
use failure::{Failure, State};
use layers::Layers;
use link::{Buffers, Link};
use mio::{Events, Interest, Poll, Token};
use publisher::Produced;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// All connections read into one buffer of this size.
const READ_BYTES: usize = 256 * 1024;
/// Longest sleep: the maximum delay before a signal, the end of a phase or a progress line is
/// noticed when nothing happens.
const SLEEP_NS_MAX: u64 = 50_000_000;
/// Connects begun before established connections are handled.
const CONNECTS_PER_TURN: u32 = 64;

/// Actions at a set time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// A publisher's next message is due.
    Produce(usize),
    /// A connection may need a PINGREQ.
    KeepAlive(usize),
    /// The time limit of a handshake is over.
    Handshake(usize),
}

#[derive(Debug)]
struct Conn {
    client: Client,
    link: Option<Link>,
    /// An `Alarm::Produce` is set.
    armed: bool,
    /// In the list `again`, and whether the connection is to be read.
    again: Option<bool>,
}

/// A run under way.
#[derive(Debug)]
pub struct Engine<'s> {
    /// State that the clients share.
    pub shared: Shared<'s>,
    /// The time.
    pub clock: Clock,
    /// Whether connections are opened.
    pub connecting: bool,
    /// Whether publishers publish.
    pub publishing: bool,
    /// Publishers that may have something to send.
    pub ready: Vec<usize>,
    /// Connections with a socket.
    pub live: u32,
    /// Time without work.
    pub idle_ns: u64,
    /// Progress output.
    pub progress: Progress,
    poll: Poll,
    events: Events,
    /// By position among the clients, which is also the epoll token.
    conns: Vec<Conn>,
    alarms: BinaryHeap<Reverse<(u64, Alarm)>>,
    buffers: Buffers,
    /// Connections with more work that no event will report.
    again: VecDeque<usize>,
    next_connect_ns: u64,
}

impl<'s> Engine<'s> {
    /// Opens no connection yet. Fails if this process cannot have so many.
    pub fn new(setup: &'s Setup, record: MessageRecord) -> Result<Self> {
        let clients = setup.shape.clients();
        let open = if setup.leaves { clients.min(setup.connects_pending_max) } else { clients };
        grapnel_floor::descriptors::reserve(u32::try_from(open).unwrap_or(u32::MAX))?;
        let clock = Clock::start();
        let remaining = if let Pace::Interval { limit, .. } = setup.pace { limit } else { None };
        Ok(Self {
            shared: Shared {
                setup,
                counts: Counts::new(),
                record,
                schedule: None,
                remaining: remaining.filter(|_| !setup.shape.publishers.is_empty()),
                out: Vec::with_capacity(READ_BYTES),
                now_ns: 0,
                wall_at_zero_ns: clock.wall_ns(0),
            },
            clock,
            connecting: true,
            publishing: false,
            ready: Vec::new(),
            live: 0,
            idle_ns: 0,
            progress: Progress::new(setup.talks),
            poll: Poll::new().context("cannot create an epoll instance")?,
            events: Events::with_capacity(1024),
            conns: Vec::with_capacity(clients),
            alarms: BinaryHeap::new(),
            buffers: Buffers::new(READ_BYTES),
            again: VecDeque::new(),
            next_connect_ns: 0,
        })
    }

    /// Waits until there is work, or until a time, and does the work. With `spins` it does not
    /// sleep.
    pub fn turn(&mut self, spins: bool, until_ns: u64) -> Result<()> {
        self.wait(spins, until_ns)?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let index = event.token().0;
            // Errors, like the end, are found by the read that follows them.
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
        self.deal();
        self.serve_publishers();
        Ok(())
    }

    /// Waits for events, and counts the time as idle.
    fn wait(&mut self, spins: bool, until_ns: u64) -> Result<()> {
        let before_ns = self.shared.now_ns;
        let now_ns = if spins { before_ns } else { self.clock.now_ns() };
        let next_connect_ns = if self.may_connect() { self.next_connect_ns } else { u64::MAX };
        let has_work = !self.again.is_empty() || !self.ready.is_empty() || next_connect_ns <= now_ns;
        let mut patience = Duration::ZERO;
        if !has_work && !spins {
            let schedule = self.shared.schedule.as_ref().filter(|_| self.publishing);
            let due_ns = schedule.map_or(u64::MAX, Schedule::next_ns);
            let alarm_ns = self.alarms.peek().map_or(u64::MAX, |Reverse((due_ns, _))| *due_ns);
            let next_ns = due_ns.min(alarm_ns).min(next_connect_ns).min(until_ns);
            patience = Duration::from_nanos(next_ns.saturating_sub(now_ns).min(SLEEP_NS_MAX));
            // epoll itself counts in milliseconds, which is too coarse for an open loop.
            let timeout = Timespec::try_from(patience).context("a sleep that is too long")?;
            // A signal ends the sleep early; other errors come from the next call too.
            let _ =
                rustix::event::poll(&mut [PollFd::new(&self.poll.registry(), PollFlags::IN)], Some(&timeout));
        }
        if let Err(error) = self.poll.poll(&mut self.events, Some(Duration::ZERO))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).context("epoll failed");
        }
        self.update_clock();
        if !patience.is_zero() || (!has_work && self.events.is_empty()) {
            self.idle_ns += self.shared.now_ns - before_ns;
        }
        Ok(())
    }

    /// Reads the clock for the clients.
    pub fn update_clock(&mut self) {
        self.shared.now_ns = self.clock.now_ns();
    }

    fn may_connect(&self) -> bool {
        let Counts { started, ready, failed, .. } = self.shared.counts;
        let setup = self.shared.setup;
        let under_way = if setup.leaves { self.live } else { started - ready - failed };
        self.connecting
            && (started as usize) < setup.shape.clients()
            && (under_way as usize) < setup.connects_pending_max
    }

    fn open_connections(&mut self) {
        for _ in 0..CONNECTS_PER_TURN {
            if !self.may_connect() || self.shared.now_ns < self.next_connect_ns {
                return;
            }
            self.next_connect_ns += nanos(self.shared.setup.connect_gap);
            self.open_connection();
        }
    }

    fn open_connection(&mut self) {
        self.update_clock();
        let Shared { setup, counts, now_ns, .. } = &mut self.shared;
        let (index, now_ns) = (self.conns.len(), *now_ns);
        counts.started += 1;
        counts.first_connect_ns.get_or_insert(now_ns);
        let client = Client::new(index, setup, now_ns);
        let source = setup.sources.of(setup.broker, index);
        let give_up_ns = now_ns + nanos(setup.connect_timeout);
        self.conns.push(Conn { client, link: None, armed: false, again: None });
        let connect = || {
            let mut stream = socket::connect(setup.broker, source)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), interest)?;
            Ok(stream)
        };
        let layers = Layers::new(setup);
        let stream = connect().map_err(|error| Failure::Connect(socket::explain(&error)));
        match stream.and_then(|stream| Ok(Link::new(stream, layers?))) {
            Ok(link) => {
                self.conns[index].link = Some(link);
                self.live += 1;
                self.alarm(give_up_ns, Alarm::Handshake(index));
            }
            Err(failure) => self.fail(index, &failure),
        }
    }

    fn alarm(&mut self, due_ns: u64, alarm: Alarm) {
        self.alarms.push(Reverse((due_ns, alarm)));
    }

    fn serve_again(&mut self) {
        // Those that are added meanwhile are served in the next turn.
        for _ in 0..self.again.len() {
            let Some(index) = self.again.pop_front() else { return };
            let readable = self.conns[index].again.take().unwrap_or(false);
            self.serve(index, readable, false);
        }
    }

    fn ring_alarms(&mut self) {
        while let Some(Reverse((due_ns, alarm))) = self.alarms.peek().copied()
            && due_ns <= self.shared.now_ns
        {
            self.alarms.pop();
            match alarm {
                Alarm::Produce(index) => {
                    self.conns[index].armed = false;
                    self.serve(index, false, false);
                }
                Alarm::KeepAlive(index) => self.keep_alive(index),
                Alarm::Handshake(index) => {
                    let Client { state, .. } = self.conns[index].client;
                    let leaving = self.shared.setup.leaves && state == State::Closing;
                    if self.conns[index].client.in_handshake() || leaving {
                        self.fail(index, &Failure::Timeout(state));
                    }
                }
            }
        }
    }

    fn keep_alive(&mut self, index: usize) {
        let Conn { client, link, .. } = &mut self.conns[index];
        let Some(link) = link.as_mut().filter(|_| client.state == State::Ready) else { return };
        let asked = client.keep_alive(&mut self.shared);
        let sent = asked.and_then(|next_ns| {
            if !self.shared.out.is_empty() {
                client.last_sent_ns = self.shared.now_ns;
                link.send(&mut self.shared.out)?;
            }
            Ok(next_ns)
        });
        match sent {
            Ok(Some(next_ns)) => self.alarm(next_ns, Alarm::KeepAlive(index)),
            Ok(None) => {}
            Err(failure) => self.fail(index, &failure),
        }
    }

    /// Makes publishers of an open loop send what is due by now.
    fn deal(&mut self) {
        let Some(schedule) = self.shared.schedule.as_mut().filter(|_| self.publishing) else { return };
        while let Some(publisher) = schedule.deal(self.shared.now_ns) {
            if let Some(publisher) = self.conns[publisher].client.publisher() {
                publisher.grant();
            }
            if self.ready.last() != Some(&publisher) {
                self.ready.push(publisher);
            }
        }
    }

    fn serve_publishers(&mut self) {
        if let MessageRecord::Ledger(ledger) = &mut self.shared.record {
            ledger.take_freed(&mut self.ready);
        }
        let mut ready = std::mem::take(&mut self.ready);
        for publisher in ready.drain(..) {
            self.update_clock();
            if let Err(error) = self.produce_and_send(publisher, false) {
                self.fail(publisher, &error.into());
            }
        }
        self.ready = ready;
    }

    /// Makes the publisher at `index` send; its first message is due at `due_ns`.
    pub fn begin(&mut self, index: usize, due_ns: u64) {
        if let Some(publisher) = self.conns[index].client.publisher() {
            publisher.begin(due_ns);
        }
        self.serve(index, false, false);
    }

    fn serve(&mut self, index: usize, readable: bool, writable: bool) {
        if self.conns[index].link.is_none() {
            return;
        }
        if let Err(failure) = self.step(index, readable, writable) {
            self.fail(index, &failure);
        }
    }

    /// One connection's turn: finish connecting and the handshakes, write the unsent bytes, read once, publish, write.
    fn step(&mut self, index: usize, readable: bool, writable: bool) -> Result<(), Failure> {
        let Conn { client, link: Some(link), .. } = &mut self.conns[index] else { return Ok(()) };
        let was_in_handshake = client.in_handshake();
        if client.state == State::Connecting {
            if !(writable || readable) || !link.is_connected()? {
                return Ok(());
            }
            link.begin()?;
            client.state = State::Opening;
        }
        if writable && link.has_unsent() {
            link.flush()?;
        }
        let mut filled = None;
        if readable {
            filled = link.fill(&mut self.buffers)?;
            self.shared.now_ns = self.clock.now_ns();
        }
        if client.state == State::Opening && link.is_open() {
            self.shared.counts.handshakes.add(link.handshake());
            client.open(&mut self.shared)?;
        }
        let mut more_to_read = false;
        if let Some(filled) = filled {
            let take = |frame: &Frame<'_>| client.frame(frame, &mut self.shared);
            more_to_read = link.hand_out(filled, &self.buffers, take)?;
        }
        if was_in_handshake && client.state == State::Ready {
            let now_ns = self.shared.now_ns;
            if let Some(publisher) = client.publisher() {
                publisher.begin(now_ns);
            }
            // Any time is possible: the return value is the time of the next call.
            self.alarm(now_ns, Alarm::KeepAlive(index));
        }
        Ok(self.produce_and_send(index, more_to_read)?)
    }

    fn produce_and_send(&mut self, index: usize, more_to_read: bool) -> std::io::Result<()> {
        let Conn { client, link: Some(link), again, armed } = &mut self.conns[index] else { return Ok(()) };
        // A full socket causes a writable event, and receives no more bytes before it.
        let produced = if self.publishing && !link.has_unsent() {
            client.produce(&mut self.shared)
        } else {
            Produced::Blocked
        };
        if !self.shared.out.is_empty() {
            client.last_sent_ns = self.shared.now_ns;
            link.send(&mut self.shared.out)?;
        }
        let more_to_send = produced == Produced::More && !link.has_unsent();
        if more_to_read || more_to_send {
            if again.is_none() {
                self.again.push_back(index);
            }
            *again = Some(more_to_read || again.unwrap_or(false));
        }
        if client.state == State::Closing && !link.has_unsent() {
            // Tells the broker that nothing follows; the broker's end is then awaited.
            link.shut_down();
        }
        if let Produced::DueAt(due_ns) = produced
            && !std::mem::replace(armed, true)
        {
            self.alarm(due_ns, Alarm::Produce(index));
        }
        Ok(())
    }

    /// Whether no sent message waits for the broker or for a socket.
    pub fn is_drained(&self) -> bool {
        let unsent = |conn: &Conn| conn.link.as_ref().is_some_and(Link::has_unsent);
        self.shared.counts.in_flight == 0 && !self.conns.iter().any(unsent)
    }

    /// Whether every client has become ready or has failed.
    pub fn is_settled(&self) -> bool {
        let Counts { ready, failed, .. } = self.shared.counts;
        (ready + failed) as usize == self.shared.setup.shape.clients()
    }

    /// Ends every connection from our side, waits until the broker has ended them too, at most this
    /// long, and removes the progress line.
    pub fn close(&mut self, patience: Duration) -> Result<()> {
        self.close_all();
        let until_ns = self.shared.now_ns + nanos(patience);
        while self.live > 0 && self.shared.now_ns < until_ns {
            self.turn(false, until_ns)?;
        }
        self.progress.clear();
        Ok(())
    }

    fn close_all(&mut self) {
        (self.connecting, self.publishing) = (false, false);
        for index in 0..self.conns.len() {
            let Conn { client, link: Some(_), .. } = &mut self.conns[index] else { continue };
            let in_handshake =
                matches!(client.state, State::Connecting | State::Opening | State::AwaitConnack);
            client.close(&mut self.shared);
            if in_handshake || self.produce_and_send(index, false).is_err() {
                // Not connected: no DISCONNECT is needed.
                self.fail(index, &Failure::Closed);
            }
        }
    }

    /// Ends a connection and counts the failure, unless it was being closed anyway.
    fn fail(&mut self, index: usize, failure: &Failure) {
        self.shared.out.clear();
        let Conn { client, link, .. } = &mut self.conns[index];
        let state = std::mem::replace(&mut client.state, State::Ended);
        if state == State::Ended {
            return;
        }
        if link.take().is_some() {
            self.live -= 1;
        }
        let Shared { counts, remaining, setup, .. } = &mut self.shared;
        if let Some(publisher) = client.publisher() {
            if let Some(remaining) = remaining {
                *remaining = remaining.saturating_sub(publisher.give_up_quota());
            }
            counts.in_flight -= publisher.in_flight();
            counts.abandoned += publisher.in_flight();
        }
        match state {
            State::Closing => return,
            State::Ready => counts.disconnects += 1,
            _ => counts.failed += 1,
        }
        let text = failure.to_string();
        if counts.error(&text) {
            self.progress.complain(&setup.names.client_id(index), setup.broker, &text);
        }
    }
}
