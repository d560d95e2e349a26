//! Which clients a worker has been told of, per shard: each is described once and named by a number from then on. What CONNECT said
//! of a client is kept, so that a process which is started anew hears of it too. A connection that wants to come in goes under a number
//! of its own, whoever it says that it is: what is said of it is in another queue than what is said of the client that is in. When it
//! has come in, its number is the client's.

mod described;
mod described_clients;
mod pending_logins;
mod table;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{HookPoint, address_share};

use crate::call_queue::Writing;
use crate::logins::{Connection, LoginStore};
use crate::queue::{About, Named};
pub use described::{Entering, Who};
use described::{Given, More, described_as};
use described_clients::{Before, DescribedClient, Said};
use pending_logins::{PendingLogin, PendingLogins};
use table::Table;

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
    PacketSeen,
    /// It is asked what it may, which is asked before it is in where it goes on with the session of another user.
    Authorizing,
    /// It has just come in: it is the client from here on.
    LetIn,
    /// It has come in, and may have gone.
    IsIn,
}

/// Where a connection is noted, and whether it has come in, so that it is in the queue of its client and charged to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientRef {
    slot: ClientSlot,
    moment: Moment,
    /// See [`ClientRef`].
    pub is_in: bool,
}

/// Where a connection is noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientSlot {
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
    described: Table<Box<str>>,
    /// Those that have not come in.
    pending_logins: PendingLogins,
    shard: u32,
    /// What their logins gave, of all shards.
    logins: Arc<LoginStore>,
    next: u64,
    hasher: RandomState,
    /// Of the client that was described last, for [`Clients::describe_again`].
    before: Option<Before>,
}

impl Clients {
    /// None yet, and no more on this shard than there are places.
    pub fn new(shard: u32, places: Places, logins: Arc<LoginStore>) -> Clients {
        Clients {
            described: Table::new(places.clients_max),
            pending_logins: PendingLogins::new(places),
            shard,
            logins,
            next: (u64::from(shard) + 1) << SHARD_BITS,
            hasher: RandomState::new(),
            before: None,
        }
    }

    /// Where the connection is noted that an event is about.
    pub fn locate(&mut self, who: &Who<'_>, moment: Moment) -> ClientRef {
        let visit = self.visit(who);
        let (is_client, is_named) = (self.is_client(who), self.described.get(who.client_id).is_some());
        let is_in = match (moment, self.pending_logins.hear(visit, Instant::now())) {
            (Moment::ComesIn, _) => false,
            (Moment::LetIn | Moment::IsIn, _) => true,
            (Moment::PacketSeen, Some(login)) => std::mem::replace(&mut login.packet_seen, true),
            // Where a worker is asked what clients may, it is seen which of them come in (`Pool::own_points`).
            (Moment::Authorizing | Moment::Unsaid | Moment::Packet | Moment::IsRefused, Some(_)) => false,
            // What was let in and is refused all the same is behind what was said of it. A will is that of a client that is known here,
            // or of somebody who has just come, or has gone.
            (Moment::PacketSeen | Moment::Packet | Moment::IsRefused | Moment::Unsaid, None) => is_client,
            // It may have been in before this version; but where another connection is the client here, it goes on with the session of
            // that one.
            (Moment::Authorizing, None) => is_client || !is_named,
        };
        let slot = match (is_in, self.pending_logins.get(visit)) {
            (true, None) => ClientSlot::Client,
            (true, Some(login)) if self.comes_after_the_client(who, login, moment) => ClientSlot::Client,
            _ => ClientSlot::Visitor(visit),
        };
        ClientRef { slot, moment, is_in }
    }

    /// Whether a visitor that is in is the client from now on: the broker has let it in just now, or it came after the one that is.
    fn comes_after_the_client(&self, who: &Who<'_>, login: &PendingLogin, moment: Moment) -> bool {
        let client = self.described.get(who.client_id);
        moment == Moment::LetIn || client.is_none_or(|client| client.since < login.came)
    }

    /// A client as calls name it, which is described first where that is needed.
    pub fn number(
        &mut self,
        line: &mut Writing<'_>,
        who: &Who<'_>,
        entering: Option<&Entering<'_>>,
        place: ClientRef,
    ) -> Named {
        if place.slot == ClientSlot::Client {
            self.let_in(Some(line), who);
        }
        let is_new = self.at(who, place.slot).is_none();
        let named = self.number_at(line, who, entering, place.slot);
        if let ClientSlot::Visitor(visit) = place.slot
            && let Some(login) = self.pending_logins.get_mut(visit)
        {
            login.packet_seen |= place.moment == Moment::PacketSeen;
            if is_new && place.moment != Moment::ComesIn {
                // It may have been in and have gone since: it takes nobody's place.
                login.came = 0;
            }
            if place.is_in && login.client.is_none() {
                login.client = Some(who.client_id.into());
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
        slot: ClientSlot,
    ) -> Named {
        self.before = None;
        if slot == ClientSlot::Client {
            self.confirm(who);
        }
        let (print, origin, epoch) = (self.hasher.hash_one(who), self.origin(who), line.epoch());
        let known = self.at(who, slot).filter(|known| known.said.origin == origin);
        // What its CONNECT said need not be said a second time, and a process after that one is told of it as of something earlier.
        let before = known.and_then(|known| known.connect_data.as_ref());
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
            (Some(entering), Some(written), _) if entering.late && entering.is_login_call && !saw => {
                More::Earlier(written)
            }
            (Some(entering), Some(written), _) => More::Entering(entering.password, written),
            (_, _, Some(before)) if !is_told => More::Earlier(before),
            _ => More::None,
        };
        let is_entering = entering.is_some_and(|entering| !entering.late);
        let stored = entering.filter(|entering| entering.has_session);
        let stored = stored.and_then(|_| self.logins.stored(who.client_id, self.shard, epoch));
        // Who comes in has a login of its own; who was in before there was this process had one.
        let is_late = known.is_some_and(|known| known.said.late);
        let has_login = (!is_told || is_late) && !is_entering;
        let login = has_login.then(|| self.login(who)).flatten();
        let described = described_as(who, more, &Given { login, stored });
        let bytes = described.len();
        if self.at(who, slot).is_none() {
            self.add(line, who, slot);
        }
        let Some(known) = self.at_mut(who, slot) else { return Named::default() };
        let before = known.before(slot, origin);
        known.keep(written);
        let saw = saw || is_entering;
        known.said = Said { print, origin, epoch, entering: is_entering, saw, late: false };
        let named = known.describe(line, who, described);
        self.before = Some(before);
        if let ClientSlot::Visitor(visit) = slot {
            self.pending_logins.weigh(visit, bytes);
        }
        named
    }

    /// A connection is in. What is kept of it is its own then, whatever was missed; and of one that was known before a gap, what it
    /// gives from now on. Of another, this may be the last that is heard of a session that is over.
    fn confirm(&mut self, who: &Who<'_>) {
        let (gaps, origin) = (self.logins.gaps(), self.origin(who));
        let known = self.described.get_mut(who.client_id).filter(|known| known.said.origin == origin);
        let is_first = known.is_some_and(|known| std::mem::replace(&mut known.gaps, gaps) != gaps);
        self.logins.confirm_once(who.connection(), self.shard, is_first, || who.owner());
    }

    fn at(&self, who: &Who<'_>, slot: ClientSlot) -> Option<&DescribedClient> {
        match slot {
            ClientSlot::Client => self.described.get(who.client_id),
            ClientSlot::Visitor(visit) => self.pending_logins.get(visit).map(|login| &login.described),
        }
    }

    fn at_mut(&mut self, who: &Who<'_>, slot: ClientSlot) -> Option<&mut DescribedClient> {
        match slot {
            ClientSlot::Client => self.described.get_mut(who.client_id),
            ClientSlot::Visitor(visit) => {
                self.pending_logins.get_mut(visit).map(|login| &mut login.described)
            }
        }
    }

    /// Notes somebody, of whom nobody has been told.
    fn add(&mut self, line: &mut Writing<'_>, who: &Who<'_>, slot: ClientSlot) {
        let known = DescribedClient {
            number: self.next,
            said: Said { origin: self.origin(who), ..Said::default() },
            connect_data: None,
            about: None,
            since: 0,
            gaps: self.logins.gaps(),
        };
        self.next += 1;
        match slot {
            ClientSlot::Client => self.insert(line, who, known),
            ClientSlot::Visitor(visit) => {
                let address = self.hasher.hash_one(address_share(who.peer_host.unwrap_or("")));
                let came = known.number;
                if let Some(gone) = self.pending_logins.insert(visit, PendingLogin::new(known, address, came))
                {
                    gone.is_forgotten(line);
                }
            }
        }
    }

    /// Visitors make room for what one of them takes.
    fn make_room(&mut self, line: &mut Writing<'_>, visit: u64) {
        while let Some(gone) = self.pending_logins.too_many_bytes(visit) {
            gone.is_forgotten(line);
        }
    }

    /// Forgets visitors of which nothing has been heard for too long, some at a time, and tells the process where there is one. Whether
    /// there are more of them.
    pub fn expire(&mut self, mut line: Option<&mut Writing<'_>>, now: Instant) -> bool {
        for _ in 0..EXPIRE_MAX {
            let Some(gone) = self.pending_logins.expired(now) else { return false };
            if let Some(line) = &mut line {
                gone.is_forgotten(line);
            }
        }
        true
    }

    fn insert(&mut self, line: &mut Writing<'_>, who: &Who<'_>, known: DescribedClient) {
        if let Some((client_id, gone)) = self.described.insert(who.client_id.into(), known) {
            line.forget(Some(&client_id), gone.number, gone.said.epoch);
        }
    }

    /// A connection has just been let in: who was the client before it is that no longer, also where nobody has heard of this one yet.
    pub fn just_let_in(&mut self, mut line: Option<&mut Writing<'_>>, who: &Who<'_>) {
        self.let_in(line.as_deref_mut(), who);
        if !self.is_client(who)
            && let Some(gone) = self.described.remove(who.client_id)
            && let Some(line) = line
        {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// A visitor that has come in is the client from here on, and not who was that before it. There is no `call_queue` where no process is
    /// told.
    pub fn let_in(&mut self, mut line: Option<&mut Writing<'_>>, who: &Who<'_>) {
        let Some(PendingLogin { described: mut known, .. }) = self.pending_logins.remove(self.visit(who))
        else {
            return;
        };
        let mut forget = |client_id: &str, gone: DescribedClient| {
            if let Some(line) = &mut line {
                line.forget(Some(client_id), gone.number, gone.said.epoch);
            }
        };
        if let Some(gone) = self.described.remove(who.client_id) {
            forget(who.client_id, gone);
        }
        (known.since, self.next) = (self.next, self.next + 1);
        if let Some((client_id, gone)) = self.described.insert(who.client_id.into(), known) {
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
    pub fn describe_again(&mut self, who: &Who<'_>) {
        let Some(before) = self.before.take() else { return };
        if let Some(known) = self.at_mut(who, before.slot) {
            (known.said, known.about) = (before.said, before.about);
            if let Some(kept) = before.connect_data {
                known.connect_data = kept;
            }
        }
    }

    /// The last call about a connection, after which its client is forgotten, also where there is no room for the call. Where another
    /// connection has taken the identifier over meanwhile, that one stays described, and this one goes under a number of its own.
    pub fn last_call(
        &mut self,
        line: &mut Writing<'_>,
        who: &Who<'_>,
        (place, point): (ClientRef, HookPoint),
        call: impl FnOnce(&mut Writing<'_>, Named),
    ) {
        let visit = self.visit(who);
        let slot = match self.pending_logins.get(visit) {
            Some(_) => Some(ClientSlot::Visitor(visit)),
            None => self.is_client(who).then_some(ClientSlot::Client),
        };
        // Where the call finds no room, whoever was told before forgets all the same: also a process that was told with a call which
        // was put together for one before it.
        let told = slot.and_then(|slot| self.at(who, slot)).map_or(0, |known| known.said.epoch);
        let named = match slot {
            Some(slot) => self.number_at(line, who, None, slot),
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

    /// The end of a connection of which the worker is told nothing: because it has not asked for that, or, without `call_queue`, because the
    /// process that knew the client has gone.
    pub fn connection_ended(&mut self, line: Option<(&mut Writing<'_>, ClientRef)>, who: &Who<'_>) {
        let [login, client] = self.let_go(who);
        let Some((line, place)) = line else { return };
        if let Some(gone) = login {
            line.forget(place.is_in.then_some(who.client_id), gone.number, gone.said.epoch);
        }
        if let Some(gone) = client {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// A client has come in, with a session that was there before or a new one.
    pub fn enter(&self, who: &Who<'_>, goes_on: bool) {
        self.logins.enter(who.connection(), self.shard, who.owner(), goes_on);
    }

    /// What the login of a connection gave.
    fn login(&self, who: &Who<'_>) -> Option<Box<[u8]>> {
        self.logins.of(who.connection(), self.shard, who.owner())
    }

    /// A client was not let in.
    pub fn refused(&self, who: &Who<'_>) {
        self.logins.refused(who.connection(), self.shard);
    }

    /// A client has not come in after all.
    pub fn forget_login(&self, who: &Who<'_>) {
        let _ = self.logins.forget(who.connection(), self.shard);
    }

    /// The session of a client has ended: what was kept of it leaves with it, whether the worker is told or not.
    pub fn session_over(&self, client_id: &str) {
        self.logins.over(client_id, self.shard);
    }

    /// What the login of a connection gave has come late, from the version before: it is described with that once more. Whether that
    /// client has come in already.
    pub fn login_came(&mut self, whose: Connection<'_>) -> bool {
        let origin = self.hasher.hash_one((Some(whose.host), Some(whose.port)));
        let known = self.described.get_mut(whose.client_id).filter(|known| known.said.origin == origin);
        let Some(known) = known.filter(|known| !known.said.entering) else { return false };
        known.said.late = true;
        true
    }

    /// How many have come in, and how many have not.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.described.len(), self.pending_logins.len())
    }

    /// Whether it is the connection that is known under its identifier.
    fn is_client(&self, who: &Who<'_>) -> bool {
        self.described.get(who.client_id).is_some_and(|known| known.said.origin == self.origin(who))
    }

    /// Forgets a connection: what was known of it as a visitor, and as a client. It was both where it comes from where a client came
    /// from before, of whose end nobody has heard.
    fn let_go(&mut self, who: &Who<'_>) -> [Option<DescribedClient>; 2] {
        let login = self.pending_logins.remove(self.visit(who)).map(|login| login.described);
        let client = if self.is_client(who) { self.described.remove(who.client_id) } else { None };
        [login, client]
    }
}

#[cfg(test)]
mod tests;
