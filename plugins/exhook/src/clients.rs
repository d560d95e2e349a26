//! Which clients a worker has been told of, per shard: each is described once and named by a number from then on. What CONNECT said
//! of a client is kept, so that a process which is started anew hears of it too. A connection that wants to come in goes under a number
//! of its own, whoever it says that it is: what is said of it is in another queue than what is said of the client that is in. When it
//! has come in, its number is the client's.

mod described;
mod table;
mod visitors;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use grapnel_plugin_abi::{HookPoint, address_share};

use crate::kept::{Connection, Kept, owner_of};
use crate::line::Writing;
use crate::queue::{About, Named};
pub use described::{Entering, Who};
use described::{Given, More, Written, described_as};
use table::Table;
use visitors::{Visitor, Visitors};

/// The most that is kept of what a CONNECT said, bytes; a longer one is told once alone.
const KEPT_MAX: usize = 1024;

/// Above these bits of a client's number stands its shard.
const SHARD_BITS: u32 = 40;

/// The shard whose client has this number.
pub fn shard_of(number: u64) -> u32 {
    u32::try_from((number >> SHARD_BITS).saturating_sub(1)).unwrap_or(0)
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
    /// Whether what its login gave has come after it was described.
    late: bool,
    /// What its CONNECT said, as it is written into a description, but for the password.
    kept: Option<Written>,
    /// Its description, for calls that another process is given than was told of it; none that has a password is kept.
    about: Option<Arc<About>>,
    /// Since when it is the client, as a number that grows; 0 for one that was not seen to come in.
    since: u64,
}

/// What an event says of whether its client has come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It wants to; whether another user has the session under its identifier.
    ComesIn(bool),
    /// It may not, which is the last that is heard of it.
    IsRefused,
    /// Nothing: a will, which is asked about before its client is in, and when that has gone.
    Unsaid,
    /// A packet of a login, or of its end.
    Packet,
    /// A packet that is none of a login has come from it, which may be the last one.
    Heard,
    /// It is asked what it may, which is asked before it is in where it goes on with the session of another user.
    Asked,
    /// It has just come in: it is the client from here on.
    LetIn,
    /// It has come in, and may have gone.
    IsIn,
}

/// Where a connection is noted, and whether it has come in, so that it is in the queue of its client and charged to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    seat: Seat,
    moment: Moment,
    /// See [`Place`].
    pub is_in: bool,
}

/// What a worker knew of a client before a call was put together.
#[derive(Debug)]
struct Before {
    seat: Seat,
    print: u64,
    entering: bool,
    origin: u64,
    epoch: u64,
    saw: bool,
    late: bool,
    /// Of another connection than the call was about.
    kept: Option<Option<Written>>,
    about: Option<Arc<About>>,
}

/// Where a connection is noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    /// As its client.
    Client,
    /// As a visitor, by what makes it one.
    Visitor(u64),
}

/// The clients that a shard has described to one worker.
#[derive(Debug)]
pub struct Clients {
    /// By identifier.
    known: Table<Box<str>>,
    /// Those that have not come in.
    visitors: Visitors,
    shard: u32,
    /// What their logins gave, of all shards.
    kept: Arc<Kept>,
    next: u64,
    hasher: RandomState,
    /// Of the client that was described last, for [`Clients::not_told`].
    before: Option<Before>,
}

impl Clients {
    /// None yet, and at most so many on this shard, and so many that have not come in.
    pub fn new(shard: u32, (max, visitors_max): (usize, usize), kept: Arc<Kept>) -> Clients {
        Clients {
            known: Table::new(max),
            visitors: Visitors::new(visitors_max),
            shard,
            kept,
            next: (u64::from(shard) + 1) << SHARD_BITS,
            hasher: RandomState::new(),
            before: None,
        }
    }

    /// Where the connection is noted that an event is about.
    pub fn place(&mut self, who: &Who<'_>, moment: Moment) -> Place {
        let visit = self.visit(who);
        let (is_client, visitor) = (self.is_client(who), self.visitors.get_mut(visit));
        let is_in = match (moment, visitor) {
            (Moment::ComesIn(inherits), visitor) => {
                if let Some(visitor) = visitor {
                    visitor.inherits |= inherits;
                }
                false
            }
            (Moment::LetIn | Moment::IsIn, _) => true,
            (Moment::Asked, Some(visitor)) => !visitor.inherits,
            (Moment::Heard, Some(visitor)) => std::mem::replace(&mut visitor.heard, true),
            (Moment::Unsaid | Moment::Packet | Moment::IsRefused, Some(_)) => false,
            // What was let in and is refused all the same is behind what was said of it.
            (Moment::Heard | Moment::Packet | Moment::IsRefused, None) => is_client,
            (Moment::Asked | Moment::Unsaid, None) => true,
        };
        let seat = match (is_in, self.visitors.get(visit)) {
            (true, None) => Seat::Client,
            (true, Some(visitor)) if self.comes_after_the_client(who, visitor, moment) => Seat::Client,
            _ => Seat::Visitor(visit),
        };
        Place { seat, moment, is_in }
    }

    /// Whether a visitor that is in is the client from now on: the broker has let it in just now, or it came after the one that is.
    fn comes_after_the_client(&self, who: &Who<'_>, visitor: &Visitor, moment: Moment) -> bool {
        let client = self.known.get(who.client_id);
        moment == Moment::LetIn || client.is_none_or(|client| client.since < visitor.came)
    }

    /// A client as calls name it, which is described first where that is needed.
    pub fn number(
        &mut self,
        line: &mut Writing<'_>,
        who: &Who<'_>,
        entering: Option<&Entering<'_>>,
        place: Place,
    ) -> Named {
        if place.seat == Seat::Client {
            self.let_in(line, who);
        }
        let is_new = self.at(who, place.seat).is_none();
        let named = self.number_at(line, who, entering, place.seat);
        if let Seat::Visitor(visit) = place.seat
            && let Some(visitor) = self.visitors.get_mut(visit)
        {
            match place.moment {
                Moment::ComesIn(inherits) => visitor.inherits |= inherits,
                Moment::Heard => visitor.heard = true,
                _ => {}
            }
            if is_new && !matches!(place.moment, Moment::ComesIn(_)) {
                // It may have been in and have gone since: it takes nobody's place.
                visitor.came = 0;
            }
            if place.is_in && visitor.client.is_none() {
                visitor.client = Some(who.client_id.into());
            }
        }
        named
    }

    fn number_at(
        &mut self,
        line: &mut Writing<'_>,
        who: &Who<'_>,
        entering: Option<&Entering<'_>>,
        seat: Seat,
    ) -> Named {
        self.before = None;
        let (print, origin, epoch) = (self.hasher.hash_one(who), self.origin(who), line.epoch());
        let known = self.at(who, seat).filter(|known| known.origin == origin);
        // What its CONNECT said need not be said a second time, and a process after that one is told of it as of something earlier.
        let before = known.and_then(|known| known.kept.as_ref());
        let entering = entering.filter(|entering| !entering.late || before.is_none());
        let is_told = known.is_some_and(|known| known.epoch == epoch);
        // What entered with more is described once more when it is in, then without the password.
        if let Some(known) = known
            && is_told
            && known.print == print
            && entering.is_none()
            && !known.entering
            && !known.late
        {
            return Named { number: known.number, about: known.about.clone() };
        }
        let saw = is_told && known.is_some_and(|known| known.saw);
        let written = entering.map(Entering::written);
        let more = match (entering, &written, before) {
            // Its login was answered by another process, or before this version of the plugin: what came of it is not known here.
            (Some(entering), Some(written), _) if entering.late && entering.is_asked && !saw => {
                More::Earlier(written)
            }
            (Some(entering), Some(written), _) => More::Entering(entering.password, written),
            (_, _, Some(before)) if !is_told => More::Earlier(before),
            _ => More::None,
        };
        let is_entering = entering.is_some_and(|entering| !entering.late);
        let stored = entering.filter(|entering| entering.has_session);
        let stored = stored.and_then(|_| self.kept.stored(who.client_id, self.shard, epoch));
        // Who comes in has a login of its own; who was in before there was this process had one.
        let is_late = known.is_some_and(|known| known.late);
        let has_login = (!is_told || is_late) && !is_entering;
        let login = has_login.then(|| self.kept.of(who.connection(), self.shard)).flatten();
        let described = described_as(who, more, &Given { login, stored });
        if self.at(who, seat).is_none() {
            self.add(line, who, seat);
        }
        let Some(known) = self.at_mut(who, seat) else { return Named::default() };
        let before = known.before(seat, origin);
        known.keep(written);
        (known.print, known.origin, known.epoch, known.entering) = (print, origin, epoch, is_entering);
        (known.saw, known.late) = (saw || is_entering, false);
        let named = known.describe(line, who, described);
        self.before = Some(before);
        named
    }

    fn at(&self, who: &Who<'_>, seat: Seat) -> Option<&Known> {
        match seat {
            Seat::Client => self.known.get(who.client_id),
            Seat::Visitor(visit) => self.visitors.get(visit).map(|visitor| &visitor.known),
        }
    }

    fn at_mut(&mut self, who: &Who<'_>, seat: Seat) -> Option<&mut Known> {
        match seat {
            Seat::Client => self.known.get_mut(who.client_id),
            Seat::Visitor(visit) => self.visitors.get_mut(visit).map(|visitor| &mut visitor.known),
        }
    }

    /// Notes somebody, of whom nobody has been told.
    fn add(&mut self, line: &mut Writing<'_>, who: &Who<'_>, seat: Seat) {
        let known = Known {
            number: self.next,
            print: 0,
            entering: false,
            origin: self.origin(who),
            epoch: 0,
            saw: false,
            late: false,
            kept: None,
            about: None,
            since: 0,
        };
        self.next += 1;
        match seat {
            Seat::Client => self.insert(line, who, known),
            Seat::Visitor(visit) => {
                let address = self.hasher.hash_one(address_share(who.peer_host.unwrap_or("")));
                let came = known.number;
                let visitor = Visitor { known, address, came, heard: false, inherits: false, client: None };
                if let Some(Visitor { known: gone, client, .. }) = self.visitors.insert(visit, visitor) {
                    line.forget(client.as_deref(), gone.number, gone.epoch);
                }
            }
        }
    }

    fn insert(&mut self, line: &mut Writing<'_>, who: &Who<'_>, known: Known) {
        if let Some((client_id, gone)) = self.known.insert(who.client_id.into(), known) {
            line.forget(Some(&client_id), gone.number, gone.epoch);
        }
    }

    /// A visitor that has come in is the client from here on, and not who was that before it.
    pub fn let_in(&mut self, line: &mut Writing<'_>, who: &Who<'_>) {
        let Some(Visitor { mut known, .. }) = self.visitors.remove(self.visit(who)) else { return };
        if let Some(gone) = self.known.remove(who.client_id) {
            line.forget(Some(who.client_id), gone.number, gone.epoch);
        }
        (known.since, self.next) = (self.next, self.next + 1);
        self.insert(line, who, known);
    }

    fn origin(&self, who: &Who<'_>) -> u64 {
        self.hasher.hash_one((who.peer_host, who.peer_port))
    }

    fn visit(&self, who: &Who<'_>) -> u64 {
        self.hasher.hash_one((who.client_id, who.peer_host, who.peer_port))
    }

    /// The call that [`Clients::number`] was for has found no room: what it described is described again with the next one.
    pub fn not_told(&mut self, who: &Who<'_>) {
        let Some(before) = self.before.take() else { return };
        if let Some(known) = self.at_mut(who, before.seat) {
            (known.print, known.entering) = (before.print, before.entering);
            (known.origin, known.epoch, known.saw) = (before.origin, before.epoch, before.saw);
            (known.about, known.late) = (before.about, before.late);
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
        (place, point): (Place, HookPoint),
        call: impl FnOnce(&mut Writing<'_>, Named),
    ) {
        let visit = self.visit(who);
        let seat = match self.visitors.get(visit) {
            Some(_) => Some(Seat::Visitor(visit)),
            None => self.is_client(who).then_some(Seat::Client),
        };
        // Where the call finds no room, whoever was told before forgets all the same: also a process that was told with a call which
        // was put together for one before it.
        let told = seat.and_then(|seat| self.at(who, seat)).map_or(0, |known| known.epoch);
        let named = match seat {
            Some(seat) => self.number_at(line, who, None, seat),
            None => self.stranger(line, who),
        };
        let number = named.number;
        call(line, named);
        let taken = line.is_taken(point);
        // Nothing of a visitor waits in the queue of the client that it names.
        let queue = place.is_in.then_some(who.client_id);
        line.forget(queue, number, if taken { line.epoch() } else { told });
        self.let_go(who);
    }

    /// Describes somebody who is named once.
    fn stranger(&mut self, line: &mut Writing<'_>, who: &Who<'_>) -> Named {
        self.next += 1;
        let given = Given { login: self.kept.of(who.connection(), self.shard), stored: None };
        let about = About::new(described_as(who, More::None, &Given::default()));
        let named = Named { number: self.next - 1, about: Some(about) };
        line.describe(named.clone(), &described_as(who, More::None, &given));
        named
    }

    /// The end of a connection of which the worker is told nothing: because it has not asked for that, or, without `line`, because the
    /// process that knew the client has gone.
    pub fn is_gone(&mut self, line: Option<(&mut Writing<'_>, Place)>, who: &Who<'_>) {
        if let (Some(gone), Some((line, place))) = (self.let_go(who), line) {
            line.forget(place.is_in.then_some(who.client_id), gone.number, gone.epoch);
        }
    }

    /// A client has come in.
    pub fn enter(&self, who: &Who<'_>) {
        let whose = who.connection();
        let user = who.username.filter(|_| !who.anonymous);
        self.kept.enter(whose, self.shard, owner_of(user, whose.host));
    }

    /// A client was not let in.
    pub fn refused(&self, who: &Who<'_>) {
        self.kept.refused(who.connection(), self.shard);
    }

    /// The session of a client has ended: what was kept of it leaves with it, whether the worker is told or not.
    pub fn session_over(&self, client_id: &str) {
        self.kept.over(client_id, self.shard);
    }

    /// What the login of a connection gave has come late, from the version before: it is described with that once more. Whether that
    /// client has come in already.
    pub fn login_came(&mut self, whose: Connection<'_>) -> bool {
        let origin = self.hasher.hash_one((Some(whose.host), Some(whose.port)));
        let known = self.known.get_mut(whose.client_id).filter(|known| known.origin == origin);
        let Some(known) = known.filter(|known| !known.entering) else { return false };
        known.late = true;
        true
    }

    /// Whether it is the connection that is known under its identifier.
    fn is_client(&self, who: &Who<'_>) -> bool {
        self.known.get(who.client_id).is_some_and(|known| known.origin == self.origin(who))
    }

    /// Forgets a connection, which is given where it was known.
    fn let_go(&mut self, who: &Who<'_>) -> Option<Known> {
        let visitor = self.visitors.remove(self.visit(who)).map(|visitor| visitor.known);
        let client = if self.is_client(who) { self.known.remove(who.client_id) } else { None };
        visitor.or(client)
    }
}

impl Known {
    /// What is known of it before it is described as a connection from `origin`.
    fn before(&mut self, seat: Seat, origin: u64) -> Before {
        Before {
            seat,
            print: self.print,
            entering: self.entering,
            origin: self.origin,
            epoch: self.epoch,
            saw: self.saw,
            late: self.late,
            kept: (self.origin != origin).then(|| self.kept.take()),
            about: self.about.clone(),
        }
    }

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

#[cfg(test)]
mod tests;
