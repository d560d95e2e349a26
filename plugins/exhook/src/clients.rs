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

use crate::call_queue::QueueWriter;
use crate::logins::LoginStore;
use crate::queue::{Description, NamedClient};
pub use described::{CertificateDetails, ConnectDetails, EventClient, TlsDetails};
use described::{ExtraFields, StoredData, described_as};
use described_clients::{DescribedClient, PreviousRecord, SeenLogin, SentDescription};
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
pub enum ConnectionState {
    /// It is not in yet.
    Connecting,
    /// It was refused; this is the last event about it.
    Refused,
    /// Nothing. The event is about a will: before its client is in, or after it has gone.
    Unknown,
    /// A packet of a login, or of the end of a connection.
    Packet,
    /// A packet of another type. It may be the last one.
    PacketSeen,
    /// An authorization request. It may come before the client is in, if the client resumes the
    /// session of another user.
    Authorizing,
    /// It is in from now on: it is the client.
    Admitted,
    /// It is in, or was and has gone.
    Connected,
}

/// Where a connection is recorded, and whether it is in: then its calls are in its client's queue
/// and charged to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientRef {
    slot: ClientSlot,
    connection_state: ConnectionState,
    /// Whether it is in.
    pub is_connected: bool,
}

/// Where a connection is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientSlot {
    /// As the connected client.
    Client,
    /// As a pending login, by hash of its identifier and address.
    Pending(u64),
}

/// Limits of what a shard records for one worker.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Connected clients.
    pub clients_max: usize,
    /// Pending logins.
    pub pending_max: usize,
    /// Bytes of the descriptions of pending logins.
    pub pending_bytes_max: usize,
    /// How long a pending login stays after its last event.
    pub pending_time_max: Duration,
    /// Whether the worker stores login data: then the sessions of clients are recorded for it.
    pub stores_logins: bool,
}

/// The clients that a shard has described to one worker.
#[derive(Debug)]
pub struct Clients {
    /// By identifier.
    described: Table<Box<str>>,
    /// Connections that are not in yet.
    pending_logins: PendingLogins,
    shard: u32,
    stores_logins: bool,
    /// The login data of this worker, of all shards.
    logins: Arc<LoginStore>,
    next: u64,
    hasher: RandomState,
    /// The state before the last description, for [`Clients::describe_again`].
    before: Option<PreviousRecord>,
}

impl Clients {
    /// An empty table for this shard, with these limits.
    pub fn new(shard: u32, limits: ClientLimits, logins: Arc<LoginStore>) -> Clients {
        Clients {
            described: Table::new(limits.clients_max),
            pending_logins: PendingLogins::new(limits),
            shard,
            stores_logins: limits.stores_logins,
            logins,
            next: (u64::from(shard) + 1) << SHARD_BITS,
            hasher: RandomState::new(),
            before: None,
        }
    }

    /// Where the connection of an event is recorded.
    pub fn locate(&mut self, who: &EventClient<'_>, connection_state: ConnectionState) -> ClientRef {
        let login_key = self.login_key(who);
        let (is_client, is_named) = (self.is_client(who), self.described.get(who.client_id).is_some());
        let is_connected = match (connection_state, self.pending_logins.touch(login_key, Instant::now())) {
            (ConnectionState::Connecting, _) => false,
            (ConnectionState::Admitted | ConnectionState::Connected, _) => true,
            (ConnectionState::PacketSeen, Some(login)) => std::mem::replace(&mut login.packet_seen, true),
            // Still pending: exhook would have seen it connect (`Pool::own_points`).
            (
                ConnectionState::Authorizing
                | ConnectionState::Unknown
                | ConnectionState::Packet
                | ConnectionState::Refused,
                Some(_),
            ) => false,
            // A connection that was let in and is refused later stays in the client's queue. A will
            // belongs to the client that is recorded here, or to a connection that has just come or
            // gone.
            (
                ConnectionState::PacketSeen
                | ConnectionState::Packet
                | ConnectionState::Refused
                | ConnectionState::Unknown,
                None,
            ) => is_client,
            // It may have connected before this version was loaded. If another connection is
            // recorded as the client, this one resumes the session of that client.
            (ConnectionState::Authorizing, None) => is_client || !is_named,
        };
        let slot = match (is_connected, self.pending_logins.get(login_key)) {
            (true, None) => ClientSlot::Client,
            (true, Some(login)) if self.becomes_client(who, login, connection_state) => ClientSlot::Client,
            _ => ClientSlot::Pending(login_key),
        };
        ClientRef { slot, connection_state, is_connected }
    }

    /// Whether a pending login that is in becomes the client: the broker has just let it in, or it
    /// came after the present client.
    fn becomes_client(
        &self,
        who: &EventClient<'_>,
        login: &PendingLogin,
        connection_state: ConnectionState,
    ) -> bool {
        let client = self.described.get(who.client_id);
        connection_state == ConnectionState::Admitted || client.is_none_or(|client| client.since < login.came)
    }

    /// The name of a client in calls. The client is described first if needed.
    pub fn number(
        &mut self,
        writer: &mut QueueWriter<'_>,
        who: &EventClient<'_>,
        connecting: Option<&ConnectDetails<'_>>,
        place: ClientRef,
    ) -> NamedClient {
        if place.slot == ClientSlot::Client {
            self.promote_pending(Some(writer), who);
        }
        let pending = connecting.filter(|connecting| !connecting.late);
        if let (ClientSlot::Pending(login_key), Some(connecting)) = (place.slot, pending) {
            self.end_earlier_login(writer, who, (login_key, connecting.connection));
        }
        let is_new = self.at(who, place.slot).is_none();
        let named = self.number_at(writer, who, connecting, place.slot);
        if let ClientSlot::Pending(login_key) = place.slot
            && let Some(login) = self.pending_logins.get_mut(login_key)
        {
            login.packet_seen |= place.connection_state == ConnectionState::PacketSeen;
            if let Some(ConnectDetails { connection, .. }) = pending {
                let (connection, session) = (*connection, who.session);
                login.described.login = Some(SeenLogin { connection, session, gaps: self.logins.gaps() });
            }
            if is_new && place.connection_state != ConnectionState::Connecting {
                // It may have connected and gone since, so it must not replace the present client.
                login.came = 0;
            }
            if place.is_connected && login.client.is_none() {
                login.client = Some(who.client_id.into());
            }
            self.make_room(writer, login_key);
        }
        named
    }

    fn number_at(
        &mut self,
        writer: &mut QueueWriter<'_>,
        who: &EventClient<'_>,
        connecting: Option<&ConnectDetails<'_>>,
        slot: ClientSlot,
    ) -> NamedClient {
        self.before = None;
        if slot == ClientSlot::Client {
            self.confirm(who);
        }
        let (print, origin, epoch) = (self.hasher.hash_one(who), self.origin(who), writer.epoch());
        let known = self.at(who, slot).filter(|known| known.sent.origin == origin);
        // The CONNECT data is sent to a process once. A later process gets it as the data of an
        // earlier login.
        let before = known.and_then(|known| known.connect_data.as_ref());
        let connecting = connecting.filter(|connecting| !connecting.late || before.is_none());
        let is_notified = known.is_some_and(|known| known.sent.epoch == epoch);
        // A client that was described with its password is described again, without it, once it is
        // in.
        if let Some(known) = known
            && is_notified
            && known.sent.print == print
            && connecting.is_none()
            && !known.sent.connecting
            && !known.sent.late
        {
            return known.named();
        }
        let saw_connect = is_notified && known.is_some_and(|known| known.sent.saw_connect);
        let written = connecting.map(ConnectDetails::connect_data);
        let more = match (connecting, &written, before) {
            // Another process, or the version before, answered its login, so this process does not
            // have the result.
            (Some(connecting), Some(written), _)
                if connecting.late && connecting.is_login_call && !saw_connect =>
            {
                ExtraFields::Earlier(written)
            }
            (Some(connecting), Some(written), _) => ExtraFields::Connecting(connecting.password, written),
            (_, _, Some(before)) if !is_notified => ExtraFields::Earlier(before),
            _ => ExtraFields::None,
        };
        let is_connecting = connecting.is_some_and(|connecting| !connecting.late);
        // Not for a client that is in and authenticates again.
        let comes_in = is_connecting && slot != ClientSlot::Client;
        let stored = comes_in.then(|| self.logins.stored(who.client_id, self.shard, who.session, epoch));
        let stored = stored.flatten();
        // A connecting client will have login data of its own; a client from before this process
        // has some.
        let is_late = known.is_some_and(|known| known.sent.late);
        let has_login = (!is_notified || is_late) && !is_connecting;
        let login = has_login.then(|| self.login(who)).flatten();
        let described = described_as(who, more, &StoredData { login, stored });
        let bytes = described.len();
        if self.at(who, slot).is_none() {
            self.add(writer, who, slot);
        }
        let Some(known) = self.at_mut(who, slot) else { return NamedClient::default() };
        let before = known.before(slot, origin);
        known.session = if is_connecting && !comes_in { 0 } else { who.session };
        known.store_connect_data(written);
        let saw_connect = saw_connect || is_connecting;
        known.sent =
            SentDescription { print, origin, epoch, connecting: is_connecting, saw_connect, late: false };
        let named = known.describe(writer, who, described);
        self.before = Some(before);
        if let ClientSlot::Pending(login_key) = slot {
            self.pending_logins.weigh(login_key, bytes);
        }
        named
    }

    fn at(&self, who: &EventClient<'_>, slot: ClientSlot) -> Option<&DescribedClient> {
        match slot {
            ClientSlot::Client => self.described.get(who.client_id),
            ClientSlot::Pending(login_key) => {
                self.pending_logins.get(login_key).map(|login| &login.described)
            }
        }
    }

    fn at_mut(&mut self, who: &EventClient<'_>, slot: ClientSlot) -> Option<&mut DescribedClient> {
        match slot {
            ClientSlot::Client => self.described.get_mut(who.client_id),
            ClientSlot::Pending(login_key) => {
                self.pending_logins.get_mut(login_key).map(|login| &mut login.described)
            }
        }
    }

    /// Records a connection that no process has been notified of.
    fn add(&mut self, writer: &mut QueueWriter<'_>, who: &EventClient<'_>, slot: ClientSlot) {
        let known = DescribedClient {
            number: self.next,
            sent: SentDescription { origin: self.origin(who), ..SentDescription::default() },
            connect_data: None,
            about: None,
            since: 0,
            gaps: self.logins.gaps(),
            session: who.session,
            login: None,
        };
        self.next += 1;
        match slot {
            ClientSlot::Client => self.insert(writer, who, known),
            ClientSlot::Pending(login_key) => {
                let address = self.hasher.hash_one(address_share(who.peer_host.unwrap_or("")));
                let came = known.number;
                if let Some(removed) =
                    self.pending_logins.insert(login_key, PendingLogin::new(known, address, came))
                {
                    removed.is_forgotten(writer);
                }
            }
        }
    }

    /// Evicts other pending logins while all of them take too many bytes.
    fn make_room(&mut self, writer: &mut QueueWriter<'_>, login_key: u64) {
        while let Some(removed) = self.pending_logins.too_many_bytes(login_key) {
            removed.is_forgotten(writer);
        }
    }

    /// Removes a batch of pending logins without recent events, and notifies the process if there
    /// is one. Returns whether there may be more.
    pub fn expire(&mut self, mut writer: Option<&mut QueueWriter<'_>>, now: Instant) -> bool {
        for _ in 0..EXPIRE_MAX {
            let Some(removed) = self.pending_logins.expired(now) else { return false };
            if let Some(writer) = &mut writer {
                removed.is_forgotten(writer);
            }
        }
        true
    }

    fn insert(&mut self, writer: &mut QueueWriter<'_>, who: &EventClient<'_>, known: DescribedClient) {
        if let Some((client_id, removed)) = self.described.insert(who.client_id.into(), known) {
            writer.forget(Some(&client_id), removed.number, removed.sent.epoch);
        }
    }

    /// A connection has just been let in. The client before it is removed, even if the worker has
    /// not been notified of the new one.
    pub fn replace_client(&mut self, mut writer: Option<&mut QueueWriter<'_>>, who: &EventClient<'_>) {
        self.promote_pending(writer.as_deref_mut(), who);
        if !self.is_client(who)
            && let Some(removed) = self.described.remove(who.client_id)
            && let Some(writer) = writer
        {
            writer.forget(Some(who.client_id), removed.number, removed.sent.epoch);
        }
    }

    /// A pending login that has connected becomes the client and replaces the one before it.
    /// `writer` is `None` where no process is notified.
    pub fn promote_pending(&mut self, mut writer: Option<&mut QueueWriter<'_>>, who: &EventClient<'_>) {
        let Some(PendingLogin { described: mut known, .. }) = self.pending_logins.remove(self.login_key(who))
        else {
            return;
        };
        let mut forget = |client_id: &str, removed: DescribedClient| {
            if let Some(writer) = &mut writer {
                writer.forget(Some(client_id), removed.number, removed.sent.epoch);
            }
        };
        if let Some(removed) = self.described.remove(who.client_id) {
            forget(who.client_id, removed);
        }
        (known.since, self.next) = (self.next, self.next + 1);
        if let Some((client_id, removed)) = self.described.insert(who.client_id.into(), known) {
            forget(&client_id, removed);
        }
    }

    fn origin(&self, who: &EventClient<'_>) -> u64 {
        self.hasher.hash_one((who.peer_host, who.peer_port))
    }

    fn login_key(&self, who: &EventClient<'_>) -> u64 {
        self.hasher.hash_one((who.client_id, who.peer_host, who.peer_port))
    }

    /// The call that [`Clients::number`] was for was not queued, so the next call repeats the
    /// description.
    pub fn describe_again(&mut self, who: &EventClient<'_>) {
        let Some(before) = self.before.take() else { return };
        if let Some(known) = self.at_mut(who, before.slot) {
            (known.sent, known.about) = (before.sent, before.about);
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
        writer: &mut QueueWriter<'_>,
        who: &EventClient<'_>,
        (place, point): (ClientRef, HookPoint),
        call: impl FnOnce(&mut QueueWriter<'_>, NamedClient),
    ) {
        let login_key = self.login_key(who);
        let slot = match self.pending_logins.get(login_key) {
            Some(_) => Some(ClientSlot::Pending(login_key)),
            None => self.is_client(who).then_some(ClientSlot::Client),
        };
        // If the call is not queued, a process that was notified before must forget the client all
        // the same. This includes a process that got the description with a call for an earlier
        // process.
        let epoch_notified = slot.and_then(|slot| self.at(who, slot)).map_or(0, |known| known.sent.epoch);
        let named = match slot {
            Some(slot) => self.number_at(writer, who, None, slot),
            None => self.describe_once(writer, who),
        };
        let number = named.number;
        call(writer, named);
        let taken = writer.is_taken(point);
        // No call of a pending login waits in the client's queue.
        let queue = place.is_connected.then_some(who.client_id);
        writer.forget(queue, number, if taken { writer.epoch() } else { epoch_notified });
        for removed in
            self.remove_connection(who).into_iter().flatten().filter(|removed| removed.number != number)
        {
            writer.forget(Some(who.client_id), removed.number, removed.sent.epoch);
        }
    }

    /// Describes a connection that is named only once.
    fn describe_once(&mut self, writer: &mut QueueWriter<'_>, who: &EventClient<'_>) -> NamedClient {
        self.next += 1;
        let given = StoredData { login: self.login(who), stored: None };
        let about = Description::new(described_as(who, ExtraFields::None, &StoredData::default()));
        let named = NamedClient { number: self.next - 1, about: Some(about), session: who.session };
        writer.describe(named.clone(), &described_as(who, ExtraFields::None, &given));
        named
    }

    /// A connection has ended without a notification to the worker: the worker has not requested
    /// it, or, without `writer`, the process with this client has ended.
    pub fn connection_ended(
        &mut self,
        writer: Option<(&mut QueueWriter<'_>, ClientRef)>,
        who: &EventClient<'_>,
    ) {
        let [login, client] = self.remove_connection(who);
        let Some((writer, place)) = writer else { return };
        if let Some(removed) = login {
            writer.forget(place.is_connected.then_some(who.client_id), removed.number, removed.sent.epoch);
        }
        if let Some(removed) = client {
            writer.forget(Some(who.client_id), removed.number, removed.sent.epoch);
        }
    }

    /// Numbers of connected clients and of pending logins.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.described.len(), self.pending_logins.len())
    }

    /// Whether this connection is recorded as the client of its identifier.
    fn is_client(&self, who: &EventClient<'_>) -> bool {
        self.described.get(who.client_id).is_some_and(|known| known.sent.origin == self.origin(who))
    }

    /// Removes a connection, as a pending login and as the client. It is both if an earlier client
    /// had the same address and port and its end was missed.
    fn remove_connection(&mut self, who: &EventClient<'_>) -> [Option<DescribedClient>; 2] {
        let login = self.pending_logins.remove(self.login_key(who)).map(|login| login.described);
        let client = if self.is_client(who) { self.described.remove(who.client_id) } else { None };
        [login, client]
    }
}

#[cfg(test)]
mod tests;
