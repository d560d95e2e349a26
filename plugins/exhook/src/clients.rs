//! Which clients a worker has been told of, per shard: each is described once and named by a number from then on.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::line::Writing;

/// Most clients that one shard keeps described to one worker; the one described first is forgotten for one more.
const KNOWN_MAX: usize = 16_384;
/// Described, and forgotten: numbers in the place of a hook point's.
const DESCRIBED: i64 = -1;
const FORGOTTEN: i64 = -2;

/// A client as an event shows it.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Who<'a> {
    /// Its identifier.
    pub client_id: &'a str,
    /// Its user name.
    pub username: Option<&'a str>,
    /// Whether it is a superuser.
    pub superuser: bool,
    /// Whether nobody has vouched for it.
    pub anonymous: bool,
    /// 3, 4 or 5.
    pub version: u8,
    /// Where it comes from.
    pub peer_host: Option<&'a str>,
    /// Its port there.
    pub peer_port: Option<u16>,
    /// The port it came to.
    pub local_port: Option<u16>,
    /// The listener it came through.
    pub listener: Option<&'a str>,
}

/// What is only known while a client is being let in.
#[derive(Clone, Debug, Default)]
pub struct Entering<'a> {
    /// Any bytes.
    pub password: Option<&'a [u8]>,
    /// Of CONNECT.
    pub clean_start: bool,
    /// Seconds.
    pub keep_alive_s: u16,
    /// Seconds.
    pub session_expiry_s: u32,
    /// Of CONNECT.
    pub receive_maximum: Option<u16>,
    /// Milliseconds since 1970.
    pub connected_at_ms: Option<u64>,
    /// Topic, payload, QoS and retain flag.
    pub will: Option<(&'a str, &'a [u8], u8, bool)>,
    /// User properties.
    pub properties: Vec<(&'a str, &'a str)>,
}

#[derive(Debug)]
struct Known {
    number: u64,
    print: u64,
}

/// The clients that a shard has described to one worker.
#[derive(Debug)]
pub struct Clients {
    known: HashMap<Box<str>, Known>,
    order: VecDeque<Box<str>>,
    /// Of the process that was told.
    epoch: u64,
    next: u64,
    hasher: RandomState,
}

impl Clients {
    /// None, on this shard.
    pub fn new(shard: u32) -> Clients {
        Clients {
            known: HashMap::new(),
            order: VecDeque::new(),
            epoch: 0,
            next: (u64::from(shard) + 1) << 40,
            hasher: RandomState::new(),
        }
    }

    /// The number of a client, which is described first where that is needed.
    pub fn number(&mut self, line: &mut Writing<'_>, who: &Who<'_>, entering: Option<&Entering<'_>>) -> u64 {
        if self.epoch != line.epoch() {
            self.known.clear();
            self.order.clear();
            self.epoch = line.epoch();
        }
        // What entered with more is described once more when it is in, then without the password.
        let print = self.hasher.hash_one((who, entering.is_some()));
        let known = self.known.get_mut(who.client_id);
        if let Some(known) = known {
            if known.print != print || entering.is_some() {
                known.print = print;
                describe(line, known.number, who, entering);
            }
            return known.number;
        }
        while self.known.len() >= KNOWN_MAX {
            let Some(first) = self.order.pop_front() else { break };
            if let Some(known) = self.known.remove(&first) {
                line.call(0, FORGOTTEN, known.number, |data| {
                    data.nil();
                });
            }
        }
        let number = self.next;
        self.next += 1;
        self.known.insert(who.client_id.into(), Known { number, print });
        self.order.push_back(who.client_id.into());
        describe(line, number, who, entering);
        number
    }

    /// The client has gone.
    pub fn forget(&mut self, line: &mut Writing<'_>, client_id: &str) {
        if self.epoch == line.epoch()
            && let Some(known) = self.known.remove(client_id)
        {
            line.call(0, FORGOTTEN, known.number, |data| {
                data.nil();
            });
            // The order names it still; that costs a look when its turn comes, and nothing grows: see below.
            if self.order.len() > 2 * KNOWN_MAX {
                self.order.retain(|name| self.known.contains_key(name));
            }
        }
    }
}

fn describe(line: &mut Writing<'_>, number: u64, who: &Who<'_>, entering: Option<&Entering<'_>>) {
    line.call(0, DESCRIBED, number, |out| {
        out.map(if entering.is_some() { 17 } else { 9 });
        out.text("client_id").text(who.client_id);
        out.text("username").text_or_nil(who.username);
        out.text("superuser").flag(who.superuser);
        out.text("anonymous").flag(who.anonymous);
        out.text("version").number(who.version);
        out.text("peer_host").text(who.peer_host.unwrap_or(""));
        out.text("peer_port").number(who.peer_port.unwrap_or(0));
        out.text("local_port").number(who.local_port.unwrap_or(0));
        out.text("listener").text(who.listener.unwrap_or(""));
        let Some(entering) = entering else { return };
        out.text("password").bytes_or_nil(entering.password);
        out.text("clean_start").flag(entering.clean_start);
        out.text("keep_alive_s").number(entering.keep_alive_s);
        out.text("session_expiry_s").number(entering.session_expiry_s);
        out.text("receive_maximum").number(entering.receive_maximum.unwrap_or(u16::MAX));
        out.text("connected_at_ms").number(entering.connected_at_ms.unwrap_or(0));
        out.text("will");
        match entering.will {
            Some((topic, payload, qos, retain)) => {
                out.map(4).text("topic").text(topic).text("payload").bytes(payload);
                out.text("qos").number(qos).text("retain").flag(retain);
            }
            None => {
                out.nil();
            }
        }
        out.text("properties").list(entering.properties.len());
        for (key, value) in &entering.properties {
            out.list(2).text(key).text(value);
        }
    });
}
