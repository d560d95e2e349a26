//! The clients that one worker knows, per shard. Each client is described to the worker once; later
//! calls use its number. The data of its CONNECT is stored, so that a restarted process gets it
//! too. A pending login has its own number, whatever identifier it claims: its calls are in another
//! queue than those of the connected client. When it has connected, its number becomes the
//! client's.

mod described;
mod described_clients;
mod pending_logins;
mod stored_logins;
mod table;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{HookPoint, address_share};

use crate::call_queue::Writing;
use crate::logins::LoginStore;
use crate::queue::{About, Named};
pub use described::{Entering, Who};
use described::{Given, More, described_as};
use described_clients::{Before, DescribedClient, Said};
use pending_logins::{PendingLogin, PendingLogins};
use table::Table;

/// Most pending logins that expire at once.
const EXPIRE_MAX: usize = 256;

/// The bits of a client's number above these hold its shard.
const SHARD_BITS: u32 = 40;

/// The shard of the client with this number.
pub fn shard_of(number: u64) -> u32 {
    u32::try_from((number >> SHARD_BITS).saturating_sub(1)).unwrap_or(0)
}

/// What an event says about whether its connection is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It is not in yet.
    ComesIn,
    /// It was refused; this is the last event about it.
    IsRefused,
    /// Nothing. The event is about a will: before its client is in, or after it has gone.
    Unsaid,
    /// A packet of a login, or of the end of a connection.
    Packet,
    /// A packet of another type. It may be the last one.
    PacketSeen,
    /// An authorization request. It may come before the client is in, if the client resumes the
    /// session of another user.
    Authorizing,
    /// It is in from now on: it is the client.
    LetIn,
    /// It is in, or was and has gone.
    IsIn,
}

/// Where a connection is recorded, and whether it is in: then its calls are in its client's queue
/// and charged to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientRef {
    slot: ClientSlot,
    moment: Moment,
    /// Whether it is in.
    pub is_in: bool,
}

/// Where a connection is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientSlot {
    /// As the connected client.
    Client,
    /// As a pending login, by hash of its identifier and address.
    Visitor(u64),
}

/// Limits of what a shard records for one worker.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Connected clients.
    pub clients_max: usize,
    /// Pending logins.
    pub visitors_max: usize,
    /// Bytes of the descriptions of pending logins.
    pub visitors_bytes_max: usize,
    /// How long a pending login stays after its last event.
    pub visit_max: Duration,
    /// Whether the worker stores login data: then the sessions of clients are recorded for it.
    pub keeps: bool,
}

/// The clients that a shard has described to one worker.
#[derive(Debug)]
pub struct Clients {
    /// By identifier.
    described: Table<Box<str>>,
    /// Connections that are not in yet.
    pending_logins: PendingLogins,
    shard: u32,
    keeps: bool,
    /// The login data of this worker, of all shards.
    logins: Arc<LoginStore>,
    next: u64,
    hasher: RandomState,
    /// The state before the last description, for [`Clients::describe_again`].
    before: Option<Before>,
}

impl Clients {
    /// An empty table for this shard, with these limits.
    pub fn new(shard: u32, places: Places, logins: Arc<LoginStore>) -> Clients {
        Clients {
            described: Table::new(places.clients_max),
            pending_logins: PendingLogins::new(places),
            shard,
            keeps: places.keeps,
            logins,
            next: (u64::from(shard) + 1) << SHARD_BITS,
            hasher: RandomState::new(),
            before: None,
        }
    }

    /// Where the connection of an event is recorded.
    pub fn locate(&mut self, who: &Who<'_>, moment: Moment) -> ClientRef {
        let visit = self.visit(who);
        let (is_client, is_named) = (self.is_client(who), self.described.get(who.client_id).is_some());
        let is_in = match (moment, self.pending_logins.hear(visit, Instant::now())) {
            (Moment::ComesIn, _) => false,
            (Moment::LetIn | Moment::IsIn, _) => true,
            (Moment::PacketSeen, Some(login)) => std::mem::replace(&mut login.packet_seen, true),
            // Still pending: exhook would have seen it connect (`Pool::own_points`).
            (Moment::Authorizing | Moment::Unsaid | Moment::Packet | Moment::IsRefused, Some(_)) => false,
            // A connection that was let in and is refused later stays in the client's queue. A will
            // belongs to the client that is recorded here, or to a connection that has just come or
            // gone.
            (Moment::PacketSeen | Moment::Packet | Moment::IsRefused | Moment::Unsaid, None) => is_client,
            // It may have connected before this version was loaded. If another connection is
            // recorded as the client, this one resumes the session of that client.
            (Moment::Authorizing, None) => is_client || !is_named,
        };
        let slot = match (is_in, self.pending_logins.get(visit)) {
            (true, None) => ClientSlot::Client,
            (true, Some(login)) if self.comes_after_the_client(who, login, moment) => ClientSlot::Client,
            _ => ClientSlot::Visitor(visit),
        };
        ClientRef { slot, moment, is_in }
    }

    /// Whether a pending login that is in becomes the client: the broker has just let it in, or it
    /// came after the present client.
    fn comes_after_the_client(&self, who: &Who<'_>, login: &PendingLogin, moment: Moment) -> bool {
        let client = self.described.get(who.client_id);
        moment == Moment::LetIn || client.is_none_or(|client| client.since < login.came)
    }

    /// The name of a client in calls. The client is described first if needed.
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
                // It may have connected and gone since, so it must not replace the present client.
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
        // The CONNECT data is sent to a process once. A later process gets it as the data of an
        // earlier login.
        let before = known.and_then(|known| known.connect_data.as_ref());
        let entering = entering.filter(|entering| !entering.late || before.is_none());
        let is_told = known.is_some_and(|known| known.said.epoch == epoch);
        // A client that was described with its password is described again, without it, once it is
        // in.
        if let Some(known) = known
            && is_told
            && known.said.print == print
            && entering.is_none()
            && !known.said.entering
            && !known.said.late
        {
            return known.named();
        }
        let saw = is_told && known.is_some_and(|known| known.said.saw);
        let written = entering.map(Entering::written);
        let more = match (entering, &written, before) {
            // Another process, or the version before, answered its login, so this process does not
            // have the result.
            (Some(entering), Some(written), _) if entering.late && entering.is_login_call && !saw => {
                More::Earlier(written)
            }
            (Some(entering), Some(written), _) => More::Entering(entering.password, written),
            (_, _, Some(before)) if !is_told => More::Earlier(before),
            _ => More::None,
        };
        let is_entering = entering.is_some_and(|entering| !entering.late);
        // Not for a client that is in and authenticates again.
        let comes_in = is_entering && slot != ClientSlot::Client;
        let stored = comes_in.then(|| self.logins.stored(who.client_id, self.shard, who.session, epoch));
        let stored = stored.flatten();
        // A connecting client will have login data of its own; a client from before this process
        // has some.
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
        known.session = if is_entering && !comes_in { 0 } else { who.session };
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

    /// Records a connection that no process has been notified of.
    fn add(&mut self, line: &mut Writing<'_>, who: &Who<'_>, slot: ClientSlot) {
        let known = DescribedClient {
            number: self.next,
            said: Said { origin: self.origin(who), ..Said::default() },
            connect_data: None,
            about: None,
            since: 0,
            gaps: self.logins.gaps(),
            session: who.session,
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

    /// Evicts other pending logins while all of them take too many bytes.
    fn make_room(&mut self, line: &mut Writing<'_>, visit: u64) {
        while let Some(gone) = self.pending_logins.too_many_bytes(visit) {
            gone.is_forgotten(line);
        }
    }

    /// Removes a batch of pending logins without recent events, and notifies the process if there
    /// is one. Returns whether there may be more.
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

    /// A connection has just been let in. The client before it is removed, even if the worker has
    /// not been notified of the new one.
    pub fn just_let_in(&mut self, mut line: Option<&mut Writing<'_>>, who: &Who<'_>) {
        self.let_in(line.as_deref_mut(), who);
        if !self.is_client(who)
            && let Some(gone) = self.described.remove(who.client_id)
            && let Some(line) = line
        {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// A pending login that has connected becomes the client and replaces the one before it. `line`
    /// is `None` where no process is notified.
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

    /// The call that [`Clients::number`] was for was not queued, so the next call repeats the
    /// description.
    pub fn describe_again(&mut self, who: &Who<'_>) {
        let Some(before) = self.before.take() else { return };
        if let Some(known) = self.at_mut(who, before.slot) {
            (known.said, known.about) = (before.said, before.about);
            if let Some(kept) = before.connect_data {
                known.connect_data = kept;
            }
        }
    }

    /// The last call about a connection. Its client is forgotten then, even if the call is not
    /// queued. If another connection has taken over the identifier meanwhile, that one stays
    /// described, and this one gets its own number.
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
        // If the call is not queued, a process that was notified before must forget the client all
        // the same. This includes a process that got the description with a call for an earlier
        // process.
        let told = slot.and_then(|slot| self.at(who, slot)).map_or(0, |known| known.said.epoch);
        let named = match slot {
            Some(slot) => self.number_at(line, who, None, slot),
            None => self.stranger(line, who),
        };
        let number = named.number;
        call(line, named);
        let taken = line.is_taken(point);
        // No call of a pending login waits in the client's queue.
        let queue = place.is_in.then_some(who.client_id);
        line.forget(queue, number, if taken { line.epoch() } else { told });
        for gone in self.let_go(who).into_iter().flatten().filter(|gone| gone.number != number) {
            line.forget(Some(who.client_id), gone.number, gone.said.epoch);
        }
    }

    /// Describes a connection that is named only once.
    fn stranger(&mut self, line: &mut Writing<'_>, who: &Who<'_>) -> Named {
        self.next += 1;
        let given = Given { login: self.login(who), stored: None };
        let about = About::new(described_as(who, More::None, &Given::default()));
        let named = Named { number: self.next - 1, about: Some(about), session: who.session };
        line.describe(named.clone(), &described_as(who, More::None, &given));
        named
    }

    /// A connection has ended without a notification to the worker: the worker has not requested
    /// it, or, without `line`, the process with this client has ended.
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

    /// Numbers of connected clients and of pending logins.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.described.len(), self.pending_logins.len())
    }

    /// Whether this connection is recorded as the client of its identifier.
    fn is_client(&self, who: &Who<'_>) -> bool {
        self.described.get(who.client_id).is_some_and(|known| known.said.origin == self.origin(who))
    }

    /// Removes a connection, as a pending login and as the client. It is both if an earlier client
    /// had the same address and port and its end was missed.
    fn let_go(&mut self, who: &Who<'_>) -> [Option<DescribedClient>; 2] {
        let login = self.pending_logins.remove(self.visit(who)).map(|login| login.described);
        let client = if self.is_client(who) { self.described.remove(who.client_id) } else { None };
        [login, client]
    }
}

#[cfg(test)]
mod tests;
