//! The end of a run: every ticket is answered, every client reads, every client with a session
//! resumes it, and then all disconnect. The rules for the whole run are checked here.

use std::collections::BTreeMap;

use grapnel_engine::packet::Version;

use crate::checker::Rule;
use crate::client::{Client, Stage};
use crate::model::{DueRetained, client_id};
use crate::op::{Connect, FILTERS};
use crate::world::World;

impl World {
    /// Bounds that hold at every moment.
    pub fn check_bounds(&mut self) {
        let wrong = self.engine.wrong_ledger();
        self.checker.check(wrong.is_none(), Rule::LedgerWrong, || wrong.unwrap_or_default());
        self.check_answers();
        for client in 0..self.clients.len() {
            if self.clients[client].current.is_some() {
                self.check_bounds_of(client);
            }
        }
    }

    fn check_bounds_of(&mut self, client: usize) {
        let Some(details) = self.engine.details(&self.clients[client].id) else { return };
        let limits = &self.settings.limits;
        // One packet more than the limit may have been read, and the end and the will of the
        // connection.
        let most = limits.slots_max + 3;
        self.checker.check(details.slots as u64 <= most, Rule::SlotsBounded, || {
            format!("{} has {} slots, at most {most}", client_id(client), details.slots)
        });
        let queued = details.summary.queued as u64;
        self.checker.check(queued <= limits.session_queue_messages_max, Rule::QueueBounded, || {
            format!("{} has {queued} messages queued", client_id(client))
        });
        let most = limits.outbound_bytes_max + limits.packet_bytes_max + 512;
        let pings = self.clients[client].current.map_or(0, |socket| self.sockets[socket].pings);
        let rule = if pings > 100 { Rule::OutboundAnswers } else { Rule::OutboundBounded };
        self.checker.check(details.outbound_bytes as u64 <= most, rule, || {
            format!("{} has {} bytes queued, at most {most}", client_id(client), details.outbound_bytes)
        });
    }

    /// Ends the run.
    pub fn quiesce(&mut self) {
        self.remove_blocks();
        self.run_until_idle();
        self.check_answered();
        self.check_behalf_answers();
        self.reconnect_all();
        self.run_until_idle();
        self.check_answered();
        self.check_granted();
        self.check_lost();
        self.check_retained();
        self.disconnect_all();
    }

    /// All blocks are removed.
    fn remove_blocks(&mut self) {
        self.engine.release_all();
        self.release_plugins();
        for client in 0..self.clients.len() {
            self.clients[client].withholds = false;
            self.uncork(client);
        }
        for number in self.live.clone() {
            let socket = &mut self.sockets[number];
            socket.intake = usize::MAX;
            socket.closes_after = None;
            self.take_in(number);
        }
    }

    /// Runs until nothing moves, and advances the clock for what needs time.
    fn run_until_idle(&mut self) {
        for _ in 0..12 {
            self.run_turns();
            self.answer_all();
            self.run_turns();
            self.engine.pass_ms(1000);
        }
        self.run_turns();
    }

    fn check_answered(&mut self) {
        for number in self.live.clone() {
            let socket = &self.sockets[number];
            match socket.stage {
                Stage::Connecting => {
                    let auth = socket.connect.auth;
                    self.checker.broken(Rule::ConnectForever, || format!("socket {number}, AUTH {auth}"));
                }
                Stage::Live => {
                    let (paused, unread) = (socket.paused, socket.unread.len());
                    self.checker.check(!paused, Rule::PausedForever, || {
                        format!("socket {number} with {unread} bytes unread")
                    });
                    let expected: Vec<_> = socket.expected.iter().take(4).collect();
                    let short = socket.connect.packet_bytes_max.is_some_and(|most| most < 200);
                    let rule = if short && self.model.touched_by(socket.client) {
                        Rule::AcknowledgementTooLarge
                    } else {
                        Rule::AcknowledgementMissing
                    };
                    self.checker.check(paused || expected.is_empty(), rule, || {
                        format!("{expected:?} on socket {number}")
                    });
                    let again: Vec<_> = socket.expected_again.iter().take(4).collect();
                    self.checker.check(paused || again.is_empty(), Rule::AcknowledgementMissing, || {
                        format!("{again:?} on socket {number}, after a resume")
                    });
                    self.checker.check(paused || socket.pings == 0, Rule::AcknowledgementMissing, || {
                        format!("PINGRESP on socket {number}")
                    });
                }
                Stage::Replaced | Stage::Over => {}
            }
        }
        for client in 0..self.clients.len() {
            let slots = self.slots_of(client);
            self.checker.check(slots == 0, Rule::SlotLeft, || format!("{} has {slots}", client_id(client)));
        }
    }

    /// Each absent client with a session resumes it.
    fn reconnect_all(&mut self) {
        for client in self.model.sessions.there(self.engine.now_ms()) {
            if self.clients[client].current.is_none() {
                let user = self.model.sessions.user(client);
                self.connect(&self.plain(client, user));
                self.run_turns();
            }
        }
    }

    pub fn plain(&self, client: usize, user: u8) -> Connect {
        Connect {
            client: client as u8,
            user,
            version: self.model.lives[client].version.unwrap_or(Version::V5),
            clean: false,
            expiry_s: Some(100),
            keep_alive_s: 0,
            receive_maximum: None,
            packet_bytes_max: None,
            alias_max: 0,
            will: None,
            auth: false,
            shard: 0,
        }
    }

    /// Checks the subscriptions of connected clients.
    fn check_granted(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].current.is_none() || !self.clients[client].requests.is_empty() {
                continue;
            }
            let there = self.engine.filters(&self.clients[client].id);
            for filter in &self.model.lives[client].granted {
                let text = crate::op::FILTERS[usize::from(*filter)];
                self.checker.check(there.iter().any(|there| there == text), Rule::Revoked, || {
                    format!("{} had {text}", client_id(client))
                });
            }
        }
    }

    fn check_lost(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].current.is_some() {
                self.check_lost_of(client);
            }
        }
    }

    /// Checks that a connected client has received its messages, except for the drops that its
    /// session and the lanes have counted.
    fn check_lost_of(&mut self, client: usize) {
        let counters = self.engine.counters();
        let dropped = self.engine.details(&self.clients[client].id).map_or(0, |details| details.dropped);
        // The session counts messages that do not fit its queue; other drops have one counter for
        // all.
        let others = counters.messages_dropped
            - counters.messages_dropped_no_subscribers
            - counters.messages_dropped_queue_full;
        let missing = self.model.missing(client, false);
        let text = |list: &[u32]| {
            let first: Vec<_> = list.iter().take(5).collect();
            format!(
                "{} lacks {} messages, {dropped} drops are counted: {first:?}",
                client_id(client),
                list.len()
            )
        };
        self.checker.check(missing.len() as u64 <= dropped + others, Rule::Lost, || text(&missing));
        if counters.messages_dropped_queue_full + counters.messages_dropped_lane_full == 0 {
            let mut fitting = missing;
            fitting.retain(|number| self.model.fits(client, *number));
            self.checker.check(fitting.is_empty(), Rule::LostTooLarge, || text(&fitting));
        }
        let full = self.model.missing(client, true);
        self.checker.check(full.len() as u64 <= dropped + others, Rule::LostFull, || text(&full));
        let life = &self.model.lives[client];
        let rule = if dropped + others > 0 { Rule::RetainedDropped } else { Rule::RetainedNotSent };
        let mut due = life.due_retained.clone();
        let fits = |due: &DueRetained| life.packet_bytes_max.is_none() || self.model.fits(client, due.number);
        due.retain(|_, due| fits(due));
        self.checker.check(due.is_empty(), rule, || format!("{} lacks {due:?}", client_id(client)));
        // Without a SUBACK, only subscriptions in force deliver.
        let there = self.engine.filters(&self.clients[client].id);
        let in_force = |due: &DueRetained| {
            due.acknowledged || there.iter().any(|there| there == FILTERS[usize::from(due.filter)])
        };
        let mut due = life.due_at_resume.clone();
        due.retain(|_, due| fits(due) && in_force(due));
        let lacks = || format!("{} lacks {due:?}", client_id(client));
        self.checker.check(due.is_empty(), Rule::RetainedAtResume, lacks);
    }

    /// A new client subscribes to everything.
    fn check_retained(&mut self) {
        self.model.retained.is_settled(|_| false);
        let number = self.clients.len();
        self.clients.push(Client::new("reader".into()));
        self.model.add_client();
        self.connect(&Connect { clean: true, ..self.plain(number, 0) });
        self.run_turns();
        let Some(socket) = self.clients[number].current else { return };
        self.model.retained.reader = Some((number, BTreeMap::new()));
        let drops_before = self.engine.counters().messages_dropped;
        let qos = (self.settings.seed % 3) as u8;
        self.subscribe_all(number, qos);
        self.run_until_idle();
        let Some((_, got)) = self.model.retained.reader.take() else { return };
        if self.sockets[socket].stage == Stage::Live {
            let drops = self.engine.counters().messages_dropped;
            let known = if self.settings.retained_small {
                Some(None)
            } else {
                (drops_before != drops).then_some(Some(Rule::RetainedDropped))
            };
            self.model.retained.compare(&mut self.checker, &self.model.messages, &got, known);
        }
    }

    fn disconnect_all(&mut self) {
        for number in self.live.clone() {
            self.lose(number, false);
        }
        // Longer than every expiry and every delay.
        for _ in 0..4 {
            self.run_turns();
            self.engine.pass_ms(400_000);
        }
        self.run_until_idle();
        self.model.wills.all_due();
        let counters = self.engine.counters();
        self.model.wills.compare(&mut self.checker, counters.messages_wills);
        let gauges = [
            (counters.connections_count, Rule::GaugeConnections),
            (counters.sessions_count, Rule::GaugeSessions),
            (counters.subscriptions_count, Rule::GaugeSubscriptions),
        ];
        for (count, rule) in gauges {
            self.checker.check(count == 0, rule, || format!("{count} are left"));
        }
    }
}
