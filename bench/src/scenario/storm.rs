//! Connects as fast as the broker answers: connect, CONNECT, CONNACK, DISCONNECT, and again, a bounded number under
//! way at once. A loop of its own, because nothing here lasts. Called by [`super::run`].

use super::client::client_id;
use super::drive::{random_u32, source};
use super::report::{Measured, Progress, Report};
use super::tally::Tally;
use super::target::Target;
use super::usage::Sampler;
use super::{Scenario, Waiting};
use crate::client::{Failure, State};
use crate::clock::{Clock, nanos};
use crate::frames::{self, ConnectWith, Frame, kind};
use crate::poll::is_connected;
use crate::poll::link::{Filled, Link};
use crate::socket;
use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SLEEP: Duration = Duration::from_millis(50);
/// More than one packet of a handshake ever has.
const READ_BYTES: usize = 64 * 1024;

/// Carries out a connect storm.
pub fn drive(scenario: &Scenario, target: &Target, stop: &Arc<AtomicBool>) -> Result<Report> {
    grapnel_floor::descriptors::reserve(scenario.connects_pending_max)?;
    let mut sampler = target.pid.map(Sampler::new).transpose()?;
    let mut storm = Storm {
        scenario,
        target,
        run: random_u32(),
        clock: Clock::start(),
        now_ns: 0,
        poll: Poll::new().context("cannot create an epoll instance")?,
        places: (0..scenario.connects_pending_max).map(|_| None).collect(),
        tally: Tally::new(),
        over: 0,
        read: vec![0; READ_BYTES].into(),
        out: Vec::new(),
    };
    let mut measured =
        Measured { before: sampler.as_mut().map(Sampler::times).transpose()?, ..Measured::default() };
    let mut events = Events::with_capacity(1024);
    let mut progress = Progress::new(scenario);
    let mut interrupted = false;
    while !storm.is_over() && !interrupted {
        storm.turn(&mut events)?;
        progress.show(storm.now_ns, "connecting", storm.tally.connected.into(), "connected");
        interrupted = stop.load(Ordering::Relaxed);
    }
    progress.clear();
    measured.connect_ns = storm.clock.now_ns();
    // The broker may have died of it, which the errors say.
    measured.connected = sampler.as_mut().and_then(|sampler| sampler.times().ok());
    let mut report = Report::of_connects(scenario, target, &storm.tally, &measured, interrupted);
    if scenario.syscalls {
        report.syscalls_why_not = Some("system calls are counted per message, and there are none".to_owned());
    }
    Ok(report)
}

#[derive(Debug)]
struct Storm<'s> {
    scenario: &'s Scenario,
    target: &'s Target,
    run: u32,
    clock: Clock,
    now_ns: u64,
    poll: Poll,
    /// Connections under way; the position is the epoll token.
    places: Vec<Option<Conn>>,
    tally: Tally,
    /// Connections that are over, one way or another.
    over: u32,
    read: Box<[u8]>,
    out: Vec<u8>,
}

#[derive(Debug)]
struct Conn {
    link: Link,
    state: State,
    ordinal: u32,
    started_ns: u64,
}

impl Storm<'_> {
    fn is_over(&self) -> bool {
        self.over == self.scenario.connections
    }

    fn turn(&mut self, events: &mut Events) -> Result<()> {
        self.now_ns = self.clock.now_ns();
        for place in 0..self.places.len() {
            self.tend(place);
        }
        let patience = if self.scenario.waiting == Waiting::Spin { Duration::ZERO } else { SLEEP };
        if let Err(error) = self.poll.poll(events, Some(patience))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).context("epoll failed");
        }
        for event in events.iter() {
            let place = event.token().0;
            let closed = event.is_read_closed() || event.is_error();
            if let Some(conn) = self.places[place].as_mut().filter(|_| closed) {
                conn.link.peer_closed = true;
            }
            self.now_ns = self.clock.now_ns();
            self.serve(place, event.is_readable() || closed, event.is_writable());
        }
        Ok(())
    }

    /// Fills a free place, and gives up a connection that takes too long.
    fn tend(&mut self, place: usize) {
        match &self.places[place] {
            Some(conn) if self.now_ns.saturating_sub(conn.started_ns) > nanos(self.scenario.patience) => {
                let failure = Failure::Timeout(conn.state);
                self.end(place, Some(&failure));
            }
            None if self.tally.started < self.scenario.connections => self.open(place),
            _ => {}
        }
    }

    fn open(&mut self, place: usize) {
        let ordinal = self.tally.started;
        self.tally.started += 1;
        let started_ns = self.clock.now_ns();
        let opened =
            socket::connect(self.target.addr, source(self.target.addr, ordinal)).and_then(|mut stream| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(place), interest)?;
                Ok(stream)
            });
        match opened {
            Ok(stream) => {
                let link = Link::new(stream);
                self.places[place] = Some(Conn { link, state: State::Connecting, ordinal, started_ns });
            }
            Err(error) => {
                self.over += 1;
                self.tally.failed += 1;
                self.tally.error(&Failure::Connect(socket::explain(&error)).to_string());
            }
        }
    }

    fn serve(&mut self, place: usize, readable: bool, writable: bool) {
        match self.step(place, readable, writable) {
            Ok(false) => {}
            Ok(true) => self.end(place, None),
            Err(failure) => self.end(place, Some(&failure)),
        }
    }

    /// One event of one connection; true if it has come to its good end.
    fn step(&mut self, place: usize, readable: bool, writable: bool) -> Result<bool, Failure> {
        let io = |error: std::io::Error| Failure::Io(error.to_string());
        let Some(conn) = &mut self.places[place] else { return Ok(false) };
        if conn.state == State::Connecting {
            if !(writable || readable) || !is_connected(&conn.link)? {
                return Ok(false);
            }
            let with = ConnectWith {
                version: self.scenario.version,
                client_id: &client_id(self.run, conn.ordinal as usize),
                user_name: None,
                password: None,
                keep_alive_s: 300,
                clean: true,
                session_expiry_s: None,
            };
            frames::connect(&with, &mut self.out)
                .map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
            conn.state = State::AwaitConnack;
        }
        if readable {
            loop {
                let filled = conn.link.fill(&mut self.read).map_err(io)?;
                let was_closing = conn.state == State::Closing;
                let (state, tally) = (&mut conn.state, &mut self.tally);
                let (version, took_ns) = (self.scenario.version, self.now_ns.saturating_sub(conn.started_ns));
                let take = |frame: &Frame<'_>| {
                    if frame.kind() != kind::CONNACK || *state != State::AwaitConnack {
                        return Err(Failure::Unexpected(frame.kind()));
                    }
                    frames::connack(version, frame)?.map_err(Failure::Refused)?;
                    tally.connected += 1;
                    tally.connect_latency.saturating_record(took_ns);
                    *state = State::Closing;
                    Ok(())
                };
                if was_closing && filled == Filled::End {
                    return Ok(true);
                }
                if !conn.link.hand_out(filled, &self.read, take)? {
                    break;
                }
            }
            if conn.state == State::Closing && conn.link.stream.peer_addr().is_ok() {
                frames::disconnect(&mut self.out);
            }
        }
        if !self.out.is_empty() {
            conn.link.send(&mut self.out).map_err(io)?;
            if conn.state == State::Closing {
                // Nothing follows; the broker's own end is then awaited.
                let _ = conn.link.stream.shutdown(std::net::Shutdown::Write);
            }
        }
        Ok(false)
    }

    fn end(&mut self, place: usize, failure: Option<&Failure>) {
        self.out.clear();
        self.over += 1;
        let Some(conn) = self.places[place].take() else { return };
        // After its DISCONNECT a connection may end as it likes.
        if let Some(failure) = failure.filter(|_| conn.state != State::Closing) {
            self.tally.failed += 1;
            self.tally.error(&failure.to_string());
        }
    }
}
