//! Which clients a worker has been told of, per shard: each is described once and named by a number from then on. What CONNECT said
//! of a client is kept, so that a process which is started anew hears of it too.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use grapnel_plugin_abi::HookPoint;

use crate::kept::{Connection, Kept};
use crate::line::Writing;
use crate::queue::{About, Named};
use crate::wire::Writer;

/// The most that is kept of what a CONNECT said, bytes; a longer one is told once alone.
const KEPT_MAX: usize = 1024;

/// Above these bits of a client's number stands its shard.
const SHARD_BITS: u32 = 40;

/// The shard whose client has this number.
pub fn shard_of(number: u64) -> u32 {
    u32::try_from((number >> SHARD_BITS).saturating_sub(1)).unwrap_or(0)
}

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

/// What is only known while a client is being let in, or has just been.
#[derive(Clone, Debug, Default)]
pub struct Entering<'a> {
    /// Whether it is in already, so that there is no password, and nothing is known of a will.
    pub late: bool,
    /// Whether the worker is asked about logins, so that a process that has not heard of this one has missed it.
    pub is_asked: bool,
    /// Whether there is a session under its identifier.
    pub has_session: bool,
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
    /// Of all that was said of it.
    print: u64,
    /// Whether it was said with what is only known while it is being let in.
    entering: bool,
    /// Of where it comes from: another connection may take the identifier over.
    origin: u64,
    /// Of the process that was told.
    epoch: u64,
    /// Whether that process was told while it came in.
    saw: bool,
    /// What its CONNECT said, as it is written into a description, but for the password.
    kept: Option<Written>,
    /// Its description, for calls that another process is given than was told of it; none that has a password is kept.
    about: Option<Arc<About>>,
}

/// What a CONNECT said but for the password: so many pairs of a map.
#[derive(Clone, Debug)]
struct Written {
    pairs: usize,
    bytes: Box<[u8]>,
}

impl Who<'_> {
    fn connection(&self) -> Connection<'_> {
        Connection {
            client_id: self.client_id,
            host: self.peer_host.unwrap_or(""),
            port: self.peer_port.unwrap_or(0),
        }
    }
}

/// Whether a last call is that of a session, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The session has ended.
    Is,
    /// It has not, or that is another call.
    IsNot,
    /// No other call says so: the worker finds out by this one, if it is told.
    IfNotTold,
}

/// What a worker knew of a client before a call was put together.
#[derive(Debug)]
struct Before {
    print: u64,
    entering: bool,
    origin: u64,
    epoch: u64,
    saw: bool,
    /// Of another connection than the call was about.
    kept: Option<Option<Written>>,
    about: Option<Arc<About>>,
}

/// The clients that a shard has described to one worker.
#[derive(Debug)]
pub struct Clients {
    known: HashMap<Box<str>, Known>,
    order: VecDeque<Box<str>>,
    /// Most of them; the one described first is forgotten for one more.
    max: usize,
    shard: u32,
    /// What their logins gave, of all shards.
    kept: Arc<Kept>,
    next: u64,
    hasher: RandomState,
    /// Of the client that was described last, for [`Clients::not_told`].
    before: Option<Before>,
}

impl Clients {
    /// None yet, and at most so many, on this shard.
    pub fn new(shard: u32, max: usize, kept: Arc<Kept>) -> Clients {
        Clients {
            known: HashMap::new(),
            order: VecDeque::new(),
            max,
            shard,
            kept,
            next: (u64::from(shard) + 1) << SHARD_BITS,
            hasher: RandomState::new(),
            before: None,
        }
    }

    /// A client as calls name it, which is described first where that is needed.
    pub fn number(
        &mut self,
        line: &mut Writing<'_>,
        who: &Who<'_>,
        entering: Option<&Entering<'_>>,
    ) -> Named {
        self.before = None;
        let (print, origin, epoch) = (self.hasher.hash_one(who), self.origin(who), line.epoch());
        let known = self.known.get(who.client_id).filter(|known| known.origin == origin);
        // What its CONNECT said need not be said a second time, and a process after that one is told of it as of something earlier.
        let has_come = known.is_some_and(|known| known.kept.is_some());
        let saw = known.is_some_and(|known| known.epoch == epoch && known.saw);
        let entering = entering.filter(|entering| !entering.late || !has_come);
        let written = entering.map(Entering::written);
        let more = match (entering, &written) {
            // Its login was answered by another process, or before this version of the plugin: what came of it is not known here.
            (Some(entering), Some(written)) if entering.late && entering.is_asked && !saw => {
                More::Earlier(written)
            }
            (Some(entering), Some(written)) => More::Entering(entering.password, written),
            _ => More::None,
        };
        let is_entering = entering.is_some_and(|entering| !entering.late);
        let stored = entering.filter(|entering| entering.has_session);
        let stored = stored.and_then(|_| self.kept.stored(who.client_id, self.shard, epoch));
        let (kept, shard) = (&self.kept, self.shard);
        // Who comes in has a login of its own; who was in before there was this process had one.
        let login = |told: bool| if told || is_entering { None } else { kept.of(who.connection(), shard) };
        if let Some(known) = self.known.get_mut(who.client_id) {
            let told = known.epoch == epoch;
            // What entered with more is described once more when it is in, then without the password.
            if told && known.print == print && written.is_none() && !known.entering {
                return Named { number: known.number, about: known.about.clone() };
            }
            self.before = Some(Before {
                print: known.print,
                entering: known.entering,
                origin: known.origin,
                epoch: known.epoch,
                saw: known.saw,
                kept: (known.origin != origin).then(|| known.kept.take()),
                about: known.about.clone(),
            });
            let more = match &known.kept {
                Some(kept) if !told && written.is_none() => More::Earlier(kept),
                _ => more,
            };
            let given = Given { login: login(told && known.origin == origin), stored };
            let described = described_as(who, more, &given);
            known.keep(written);
            (known.print, known.origin, known.epoch, known.entering) = (print, origin, epoch, is_entering);
            known.saw = saw || is_entering;
            return known.describe(line, who, described);
        }
        while self.known.len() >= self.max {
            let Some(first) = self.order.pop_front() else { break };
            if let Some(known) = self.known.remove(&first).filter(|known| known.epoch == epoch) {
                line.forget(&first, known.number);
            }
        }
        let number = self.next;
        self.next += 1;
        let nobody =
            Before { print: 0, entering: false, origin, epoch: 0, saw: false, kept: None, about: None };
        self.before = Some(nobody);
        let described = described_as(who, more, &Given { login: login(false), stored });
        let mut known = Known {
            number,
            print,
            entering: is_entering,
            origin,
            epoch,
            saw: is_entering,
            kept: None,
            about: None,
        };
        known.keep(written);
        let named = known.describe(line, who, described);
        self.known.insert(who.client_id.into(), known);
        self.order.push_back(who.client_id.into());
        named
    }

    fn origin(&self, who: &Who<'_>) -> u64 {
        self.hasher.hash_one((who.peer_host, who.peer_port))
    }

    /// The call that [`Clients::number`] was for has found no room: what it described is described again with the next one.
    pub fn not_told(&mut self, client_id: &str) {
        let Some(before) = self.before.take() else { return };
        if let Some(known) = self.known.get_mut(client_id) {
            (known.print, known.entering) = (before.print, before.entering);
            (known.origin, known.epoch, known.saw) = (before.origin, before.epoch, before.saw);
            known.about = before.about;
            if let Some(kept) = before.kept {
                known.kept = kept;
            }
        }
    }

    /// The last call about a connection, after which its client is forgotten, also where there is no room for the call. Where another
    /// connection has taken the identifier over meanwhile, that one stays described, and this one goes under a number of its own.
    pub fn last_call(
        &mut self,
        line: &mut Writing<'_>,
        who: &Who<'_>,
        (is_over, point): (Over, HookPoint),
        call: impl FnOnce(&mut Writing<'_>, Named),
    ) {
        let (taken_over, epoch) = (self.is_taken_over(who), line.epoch());
        let was_told = !taken_over && self.known.get(who.client_id).is_some_and(|known| known.epoch == epoch);
        let named = if taken_over {
            self.next += 1;
            let given = Given { login: self.kept.of(who.connection(), self.shard), stored: None };
            let named = Named {
                number: self.next - 1,
                about: Some(About::new(described_as(who, More::None, &Given::default()))),
            };
            line.describe(named.clone(), &described_as(who, More::None, &given));
            named
        } else {
            self.number(line, who, None)
        };
        let number = named.number;
        call(line, named);
        let taken = line.is_taken(point);
        if taken || was_told {
            line.forget(who.client_id, number);
        }
        self.let_go(who, taken_over, is_over, taken);
        // The order names it still, which costs a look when its turn comes.
        if self.order.len() > 2 * self.max {
            self.order.retain(|name| self.known.contains_key(name));
        }
    }

    /// A last call that nobody takes: the process that knew the client has gone.
    pub fn is_gone(&mut self, who: &Who<'_>, is_over: Over) {
        self.let_go(who, self.is_taken_over(who), is_over, false);
    }

    /// Whether another connection has its identifier now.
    fn is_taken_over(&self, who: &Who<'_>) -> bool {
        self.known.get(who.client_id).is_some_and(|known| known.origin != self.origin(who))
    }

    /// Forgets a connection, and what was kept of its session if that is over, whether a worker was told of it or not.
    fn let_go(&mut self, who: &Who<'_>, taken_over: bool, is_over: Over, was_told: bool) {
        if !taken_over {
            self.known.remove(who.client_id);
        }
        match is_over {
            // Nobody else has this identifier: whatever is kept of it is of a session that has ended.
            Over::Is if !taken_over => self.kept.forget_client(who.client_id, self.shard),
            Over::Is => self.kept.forget(who.connection(), self.shard),
            Over::IfNotTold if !was_told => self.kept.forget(who.connection(), self.shard),
            Over::IsNot | Over::IfNotTold => {}
        }
    }
}

impl Known {
    /// Keeps what a CONNECT said, if there was one.
    fn keep(&mut self, written: Option<Written>) {
        if let Some(written) = written {
            self.kept = Some(written).filter(|written| written.bytes.len() <= KEPT_MAX);
        }
    }

    /// Describes it like this. What calls are given besides is for a process that has not been told: with the password only the call
    /// that it is there for.
    fn describe(&mut self, line: &mut Writing<'_>, who: &Who<'_>, described: Vec<u8>) -> Named {
        let number = self.number;
        if self.entering {
            line.describe(Named { number, about: None }, &described);
            self.about = None;
            return Named { number, about: Some(About::new(described)) };
        }
        // What its login gave is added when another process is given a call: it may have changed by then.
        let earlier =
            self.kept.as_ref().map(|kept| described_as(who, More::Earlier(kept), &Given::default()));
        let named = Named { number, about: None };
        line.describe(named, &described);
        self.about = Some(About::new(earlier.unwrap_or(described)));
        Named { number, about: self.about.clone() }
    }
}

impl Entering<'_> {
    /// All but the password, as pairs of a map.
    fn written(&self) -> Written {
        let mut bytes = Vec::new();
        let out = &mut Writer(&mut bytes);
        out.text("clean_start").flag(self.clean_start);
        out.text("keep_alive_s").number(self.keep_alive_s);
        out.text("session_expiry_s").number(self.session_expiry_s);
        out.text("receive_maximum").number(self.receive_maximum.unwrap_or(u16::MAX));
        out.text("connected_at_ms").number(self.connected_at_ms.unwrap_or(0));
        if !self.late {
            out.text("will");
        }
        match self.will {
            Some((topic, payload, qos, retain)) => {
                out.map(4).text("topic").text(topic).text("payload").bytes(payload);
                out.text("qos").number(qos).text("retain").flag(retain);
            }
            None if !self.late => {
                out.nil();
            }
            None => {}
        }
        out.text("properties").list(self.properties.len());
        for (key, value) in &self.properties {
            out.list(2).text(key).text(value);
        }
        Written { pairs: if self.late { 6 } else { 7 }, bytes: bytes.into() }
    }
}

/// What a description says besides.
#[derive(Clone, Copy, Debug)]
enum More<'a> {
    /// Nothing.
    None,
    /// It is coming in: its password, and what [`Entering::written`] gives.
    Entering(Option<&'a [u8]>, &'a Written),
    /// It had come in before there was this process: what [`Entering::written`] gave then.
    Earlier(&'a Written),
}

/// What hooks of another process have had kept.
#[derive(Debug, Default)]
struct Given {
    /// Of its login.
    login: Option<Box<[u8]>>,
    /// Of the login that the session under its identifier is from.
    stored: Option<Box<[u8]>>,
}

/// A description: a map, as MessagePack has it.
fn described_as(who: &Who<'_>, more: More<'_>, given: &Given) -> Vec<u8> {
    let mut bytes = Vec::new();
    let out = &mut Writer(&mut bytes);
    let said = match more {
        More::None => 0,
        More::Entering(password, said) => said.pairs + usize::from(password.is_some()),
        More::Earlier(said) => 1 + said.pairs,
    };
    out.map(9 + said + usize::from(given.login.is_some()) + usize::from(given.stored.is_some()));
    out.text("client_id").text(who.client_id);
    out.text("username").text_or_nil(who.username);
    out.text("superuser").flag(who.superuser);
    out.text("anonymous").flag(who.anonymous);
    out.text("version").number(who.version);
    out.text("peer_host").text(who.peer_host.unwrap_or(""));
    out.text("peer_port").number(who.peer_port.unwrap_or(0));
    out.text("local_port").number(who.local_port.unwrap_or(0));
    out.text("listener").text(who.listener.unwrap_or(""));
    for (key, bytes) in [("login", &given.login), ("stored", &given.stored)] {
        if let Some(bytes) = bytes {
            out.text(key).bytes(bytes);
        }
    }
    match more {
        More::None => {}
        More::Entering(password, said) => {
            if let Some(password) = password {
                out.text("password").bytes(password);
            }
            out.0.extend_from_slice(&said.bytes);
        }
        More::Earlier(said) => {
            out.text("earlier").flag(true);
            out.0.extend_from_slice(&said.bytes);
        }
    }
    bytes
}

#[cfg(test)]
mod tests;
