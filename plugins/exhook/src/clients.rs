//! Which clients a worker has been told of, per shard: each is described once and named by a number from then on. What CONNECT said
//! of a client is kept, so that a process which is started anew hears of it too. A connection that wants to come in goes under a number
//! of its own, whoever it says that it is: what is said of it is in another queue than what is said of the client that is in. When it
//! has come in, its number is the client's.

mod described;
mod known;
mod table;
mod visitors;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{HookPoint, address_share};

use crate::kept::{Connection, Kept};
use crate::line::Writing;
use crate::queue::{About, Named};
pub use described::{Entering, Who};
use described::{Given, More, described_as};
use known::{Before, Known, Said};
use table::Table;
use visitors::{Visitor, Visitors};

/// Most visitors that are forgotten at once because nothing was heard of them.
const EXPIRE_MAX: usize = 256;

/// Above these bits of a client's number stands its shard.
const SHARD_BITS: u32 = 40;

/// The shard whose client has this number.
pub fn shard_of(number: u64) -> u32 {
    u32::try_from((number >> SHARD_BITS).saturating_sub(1)).unwrap_or(0)
}

/// What an event says of whether its client has come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It wants to.
    ComesIn,
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

/// Where a connection is noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    /// As its client.
    Client,
    /// As a visitor, by what makes it one.
    Visitor(u64),
}

/// How many connections a shard keeps described to one worker.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// That have come in.
    pub clients_max: usize,
    /// That have not.
    pub visitors_max: usize,
    /// Bytes of the descriptions of those.
    pub visitors_bytes_max: usize,
    /// How long one of those stays of which nothing is heard.
    pub visit_max: Duration,
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
    /// None yet, and no more on this shard than there are places.
    pub fn new(shard: u32, places: Places, kept: Arc<Kept>) -> Clients {
        Clients {
            known: Table::new(places.clients_max),
            visitors: Visitors::new(places),
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
        let (is_client, is_named) = (self.is_client(who), self.known.get(who.client_id).is_some());
        let is_in = match (moment, self.visitors.hear(visit, Instant::now())) {
            (Moment::ComesIn, _) => false,
            (Moment::LetIn | Moment::IsIn, _) => true,
            (Moment::Heard, Some(visitor)) => std::mem::replace(&mut visitor.heard, true),
            // Where a worker is asked what clients may, it is seen which of them come in (`Pool::own_points`).
            (Moment::Asked | Moment::Unsaid | Moment::Packet | Moment::IsRefused, Some(_)) => false,
            // What was let in and is refused all the same is behind what was said of it. A will is that of a client that is known here,
            // or of somebody who has just come, or has gone.
            (Moment::Heard | Moment::Packet | Moment::IsRefused | Moment::Unsaid, None) => is_client,
            // It may have been in before this version; but where another connection is the client here, it goes on with the session of
            // that one.
            (Moment::Asked, None) => is_client || !is_named,
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
            self.let_in(Some(line), who);
        }
        let is_new = self.at(who, place.seat).is_none();
        let named = self.number_at(line, who, entering, place.seat);
        if let Seat::Visitor(visit) = place.seat
            && let Some(visitor) = self.visitors.get_mut(visit)
        {
            visitor.heard |= place.moment == Moment::Heard;
            if is_new && place.moment != Moment::ComesIn {
                // It may have been in and have gone since: it takes nobody's place.
                visitor.came = 0;
            }
            if place.is_in && visitor.client.is_none() {
                visitor.client = Some(who.client_id.into());
            }
            self.make_room(line, visit);
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
        if seat == Seat::Client {
            self.confirm(who);
        }
        let (print, origin, epoch) = (self.hasher.hash_one(who), self.origin(who), line.epoch());
        let known = self.at(who, seat).filter(|known| known.said.origin == origin);
        // What its CONNECT said need not be said a second time, and a process after that one is told of it as of something earlier.
        let before = known.and_then(|known| known.kept.as_ref());
        let entering = entering.filter(|entering| !entering.late || before.is_none());
        let is_told = known.is_some_and(|known| known.said.epoch == epoch);
        // What entered with more is described once more when it is in, then without the password.
        if let Some(known) = known
            && is_told
            && known.said.print == print
            && entering.is_none()
            && !known.said.entering
            && !known.said.late
        {
            return Named { number: known.number, about: known.about.clone() };
        }
        let saw = is_told && known.is_some_and(|known| known.said.saw);
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
        let is_late = known.is_some_and(|known| known.said.late);
        let has_login = (!is_told || is_late) && !is_entering;
        let login = has_login.then(|| self.login(who)).flatten();
        let described = described_as(who, more, &Given { login, stored });
        let bytes = described.len();
        if self.at(who, seat).is_none() {
            self.add(line, who, seat);
        }
        let Some(known) = self.at_mut(who, seat) else { return Named::default() };
        let before = known.before(seat, origin);
        known.keep(written);
        let saw = saw || is_entering;
        known.said = Said { print, origin, epoch, entering: is_entering, saw, late: false };
        let named = known.describe(line, who, described);
        self.before = Some(before);
        if let Seat::Visitor(visit) = seat {
            self.visitors.weigh(visit, bytes);
        }
        named
    }

    /// A connection is in. What is kept of it is its own then, whatever was missed; and of one that was known before a gap, what it
    /// gives from now on. Of another, this may be the last that is heard of a session that is over.
    fn confirm(&mut self, who: &Who<'_>) {
        let (gaps, origin) = (self.kept.gaps(), self.origin(who));
        let known = self.known.get_mut(who.client_id).filter(|known| known.said.origin == origin);
        let is_first = known.is_some_and(|known| std::mem::replace(&mut known.gaps, gaps) != gaps);
        self.kept.confirm_once(who.connection(), self.shard, is_first, || who.owner());
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
            said: Said { origin: self.origin(who), ..Said::default() },
            kept: None,
            about: None,
            since: 0,
            gaps: self.kept.gaps(),
        };
        self.next += 1;
        match seat {
            Seat::Client => self.insert(line, who, known),
            Seat::Visitor(visit) => {
                let address = self.hasher.hash_one(address_share(who.peer_host.unwrap_or("")));
                let came = known.number;
                if let Some(gone) = self.visitors.insert(visit, Visitor::new(known, address, came)) {
                    gone.is_forgotten(line);
                }
            }
        }
    }

    /// Visitors make room for what one of them takes.
    fn make_room(&mut self, line: &mut Writing<'_>, visit: u64) {
        while let Some(gone) = self.visitors.too_many_bytes(visit) {
            gone.is_forgotten(line);
        }
    }

    /// Forgets visitors of which nothing has been heard for too long, some at a time, and tells the process where there is one. Whether
    /// there are more of them.
    pub fn expire(&mut self, mut line: Option<&mut Writing<'_>>, now: Instant) -> bool {
        for _ in 0..EXPIRE_MAX {
            let Some(gone) = self.visitors.expired(now) else { return false };
            if let Some(line) = &mut line {
                gone.is_forgotten(line);
            }
        }
        true
    }

    fn insert(&mut self, line: &mut Writing<'_>, who: &Who<'_>, known: Known) {
        if let Some((client_id, gone)) = self.known.insert(who.client_id.into(), known) {
            line.forget(Some(&client_id), gone.number, gone.said.epoch);
        }
    }

    /// A connection has just been let in: who was the client before it is that no longer, also where nobody has heard of this one yet.
    pub fn just_let_in(&mut self, mut line: Option<&mut Writing<'_>>, who: &Who<'_>) {
        self.let_in(line.as_deref_mut(), who);
        if !self.is_client(who)
            && let Some(gone) = self.known.remove(who.client_id)
            && let Some(line) = line
        {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// A visitor that has come in is the client from here on, and not who was that before it. There is no `line` where no process is
    /// told.
    pub fn let_in(&mut self, mut line: Option<&mut Writing<'_>>, who: &Who<'_>) {
        let Some(Visitor { mut known, .. }) = self.visitors.remove(self.visit(who)) else { return };
        let mut forget = |client_id: &str, gone: Known| {
            if let Some(line) = &mut line {
                line.forget(Some(client_id), gone.number, gone.said.epoch);
            }
        };
        if let Some(gone) = self.known.remove(who.client_id) {
            forget(who.client_id, gone);
        }
        (known.since, self.next) = (self.next, self.next + 1);
        if let Some((client_id, gone)) = self.known.insert(who.client_id.into(), known) {
            forget(&client_id, gone);
        }
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
            (known.said, known.about) = (before.said, before.about);
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
        let told = seat.and_then(|seat| self.at(who, seat)).map_or(0, |known| known.said.epoch);
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
        for gone in self.let_go(who).into_iter().flatten().filter(|gone| gone.number != number) {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// Describes somebody who is named once.
    fn stranger(&mut self, line: &mut Writing<'_>, who: &Who<'_>) -> Named {
        self.next += 1;
        let given = Given { login: self.login(who), stored: None };
        let about = About::new(described_as(who, More::None, &Given::default()));
        let named = Named { number: self.next - 1, about: Some(about) };
        line.describe(named.clone(), &described_as(who, More::None, &given));
        named
    }

    /// The end of a connection of which the worker is told nothing: because it has not asked for that, or, without `line`, because the
    /// process that knew the client has gone.
    pub fn is_gone(&mut self, line: Option<(&mut Writing<'_>, Place)>, who: &Who<'_>) {
        let [visitor, client] = self.let_go(who);
        let Some((line, place)) = line else { return };
        if let Some(gone) = visitor {
            line.forget(place.is_in.then_some(who.client_id), gone.number, gone.said.epoch);
        }
        if let Some(gone) = client {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// A client has come in, with a session that was there before or a new one.
    pub fn enter(&self, who: &Who<'_>, goes_on: bool) {
        self.kept.enter(who.connection(), self.shard, who.owner(), goes_on);
    }

    /// What the login of a connection gave.
    fn login(&self, who: &Who<'_>) -> Option<Box<[u8]>> {
        self.kept.of(who.connection(), self.shard, who.owner())
    }

    /// A client was not let in.
    pub fn refused(&self, who: &Who<'_>) {
        self.kept.refused(who.connection(), self.shard);
    }

    /// A client has not come in after all.
    pub fn forget_login(&self, who: &Who<'_>) {
        let _ = self.kept.forget(who.connection(), self.shard);
    }

    /// The session of a client has ended: what was kept of it leaves with it, whether the worker is told or not.
    pub fn session_over(&self, client_id: &str) {
        self.kept.over(client_id, self.shard);
    }

    /// What the login of a connection gave has come late, from the version before: it is described with that once more. Whether that
    /// client has come in already.
    pub fn login_came(&mut self, whose: Connection<'_>) -> bool {
        let origin = self.hasher.hash_one((Some(whose.host), Some(whose.port)));
        let known = self.known.get_mut(whose.client_id).filter(|known| known.said.origin == origin);
        let Some(known) = known.filter(|known| !known.said.entering) else { return false };
        known.said.late = true;
        true
    }

    /// How many have come in, and how many have not.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.known.len(), self.visitors.len())
    }

    /// Whether it is the connection that is known under its identifier.
    fn is_client(&self, who: &Who<'_>) -> bool {
        self.known.get(who.client_id).is_some_and(|known| known.said.origin == self.origin(who))
    }

    /// Forgets a connection: what was known of it as a visitor, and as a client. It was both where it comes from where a client came
    /// from before, of whose end nobody has heard.
    fn let_go(&mut self, who: &Who<'_>) -> [Option<Known>; 2] {
        let visitor = self.visitors.remove(self.visit(who)).map(|visitor| visitor.known);
        let client = if self.is_client(who) { self.known.remove(who.client_id) } else { None };
        [visitor, client]
    }
}

#[cfg(test)]
mod tests;
