//! Handover of login data to the next version of the plugin in a reload. Each shard hands over its
//! own clients' data in pieces. The threads of workers change the data too, and record which
//! clients have changed.

use std::sync::Arc;
use std::time::Instant;

use grapnel_plugin_abi::{Entries, Error, Host, Journal};
use rmpv::ValueRef;

use crate::clients::shard_of;
use crate::logins::{Connection, HandedOver, LoginData, LoginStore, NO_CLIENT_ID};
use crate::wire::{Writer, bytes_ref, flag_of, number_of, or_nil, text_ref};
use crate::{ExhookShard, LOOK, Pool, PoolShard};

/// Most nesting levels of an entry.
const DEPTH_MAX: usize = 16;

/// The driver's name, and a client's identifier.
type Key = (String, String);

impl ExhookShard {
    fn all(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().flatten().map(|shard| &shard.pool)
    }

    fn pool(&self, driver: &str) -> Option<&Arc<Pool>> {
        self.all().find(|pool| pool.config.driver.name() == driver)
    }

    /// The stores for a key: that of the client's worker; for entries without a client, those of
    /// all the driver's workers.
    fn login_store(&self, (driver, client_id): &Key) -> impl Iterator<Item = &LoginStore> {
        let pool = self.pool(driver).filter(|pool| !pool.logins.is_empty());
        let which = pool.map_or(0..0, |pool| match (client_id.as_str(), pool.worker_of(client_id)) {
            (NO_CLIENT_ID, _) => 0..pool.logins.len(),
            (_, worker) => worker..worker + 1,
        });
        pool.into_iter().flat_map(move |pool| pool.logins[which.clone()].iter().map(|logins| &**logins))
    }

    /// Stops recording changes once a reload has ended or was cancelled.
    pub(crate) fn end_of_handover(&mut self) {
        if self.hands_over && !self.journal.is_under_way() {
            self.hands_over = false;
            self.all()
                .flat_map(|pool| &pool.logins)
                .for_each(|logins| logins.note_changes(self.shard, false));
        }
    }
}

impl Entries for ExhookShard {
    type Key = Key;

    const VERSION: u32 = 5;

    fn journal(&mut self) -> &mut Journal<Key> {
        self.hands_over = true;
        let mut changed = Vec::new();
        for pool in self.all() {
            for logins in &pool.logins {
                logins.note_changes(self.shard, true);
                // Otherwise this call begins or ends the handover.
                if self.journal.is_under_way() {
                    let driver = pool.config.driver.name();
                    let names = logins.take_changes(self.shard).into_iter();
                    changed.extend(names.map(|name| (driver.to_owned(), name.into_string())));
                }
            }
        }
        changed.iter().for_each(|key| self.journal.note(key));
        &mut self.journal
    }

    fn next_key(&self, after: Option<&Key>) -> Option<Key> {
        let mut pools: Vec<_> = self.all().map(|pool| (pool.config.driver.name(), pool)).collect();
        pools.sort_unstable_by_key(|(driver, _)| *driver);
        let behind =
            pools.into_iter().filter(|(driver, _)| after.is_none_or(|after| *driver >= after.0.as_str()));
        behind.into_iter().find_map(|(driver, pool)| {
            let from = after.filter(|after| after.0 == driver).map(|after| after.1.as_str());
            let next = pool.logins.iter().filter_map(|logins| logins.next(self.shard, from)).min()?;
            Some((driver.to_owned(), next))
        })
    }

    fn write(&self, key: &Key, out: &mut Vec<u8>) -> bool {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for logins in self.login_store(key) {
            logins.each_of(self.shard, &key.1, |over| {
                count += 1;
                write_one(&mut Writer(&mut bytes), &over);
            });
        }
        Writer(out).list(count);
        out.extend_from_slice(&bytes);
        count > 0
    }

    /// The client's worker may have another index here. A key of another driver is ignored, and so
    /// is one where the present workers do not store login data: session ends are not seen then, so
    /// the data would never be removed.
    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        let wrong = || Error::new(format!("what the login of client {:?} gave cannot be read", key.1));
        let mut rest = value;
        let read = rmpv::decode::read_value_ref_with_max_depth(&mut rest, DEPTH_MAX).map_err(|_| wrong())?;
        let ValueRef::Array(parts) = &read else { return Err(wrong()) };
        let all: Option<Vec<HandedOver<'_>>> = parts.iter().map(|part| read_one(part, &key.1)).collect();
        let all = all.filter(|all| !all.is_empty()).ok_or_else(wrong)?;
        let now = Instant::now();
        let Some(pool) = self.pool(&key.0).filter(|pool| pool.stores_logins) else { return Ok(()) };
        self.login_store(&key).for_each(|logins| logins.forget_client(&key.1, self.shard));
        for over in all {
            let worker = over.client().map(|client| pool.worker_of_hash(client));
            let which = worker.map_or(0..pool.logins.len(), |worker| worker..worker + 1);
            // What has no room is counted, and hooks fail that need it.
            pool.logins[which].iter().for_each(|logins| logins.take_over(self.shard, over, now));
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        self.login_store(key).for_each(|logins| logins.forget_client(&key.1, self.shard));
    }

    fn clear(&mut self) {
        self.all().flat_map(|pool| &pool.logins).for_each(|logins| logins.clear(self.shard));
    }

    fn takes(version: u32) -> bool {
        version == Self::VERSION
    }

    fn completed(&mut self) -> Result<(), Error> {
        self.arm_expiry(LOOK);
        Ok(())
    }
}

/// `[host, port, bytes or nil, owner, is_pending, is_uncertain, new_session or nil, number, session]`.
fn write_one(out: &mut Writer<'_>, over: &HandedOver<'_>) {
    out.list(9).text(over.connection.host).number(over.connection.port).bytes_or_nil(over.bytes);
    out.number(over.owner).flag(over.is_pending).flag(over.is_uncertain).bytes_or_nil(over.new_session);
    out.number(over.number).number(over.session);
}

fn read_one<'a>(value: &'a ValueRef<'a>, client_id: &'a str) -> Option<HandedOver<'a>> {
    let ValueRef::Array(parts) = value else { return None };
    let [host, port, bytes, owner, is_pending, is_uncertain, new_session, number, session] = parts.as_slice()
    else {
        return None;
    };
    Some(HandedOver {
        connection: Connection { client_id, host: text_ref(host)?, port: number_of(port)? },
        bytes: or_nil(Some(bytes), bytes_ref).ok()?,
        new_session: or_nil(Some(new_session), bytes_ref).ok()?,
        owner: owner.as_u64()?,
        is_pending: flag_of(is_pending)?,
        is_uncertain: flag_of(is_uncertain)?,
        number: number.as_u64()?,
        session: session.as_u64()?,
    })
}

/// Stores the login data that a process of a driver reports.
#[derive(Clone, Copy)]
pub(crate) struct LoginRecorder<'a> {
    pub logins: &'a LoginStore,
    /// Number of the process.
    pub epoch: u64,
    pub driver: &'static str,
    /// Whether that process has a pending request about this client number.
    pub has_request: &'a dyn Fn(u64) -> bool,
    /// Number of the broker's shards.
    pub shards: u32,
}

/// A worker's report about a login: its data, or `None` if earlier data is no longer valid; and
/// whether the login is still pending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoginReport<'a> {
    /// Number of the client.
    pub client: u64,
    pub bytes: Option<&'a [u8]>,
    /// The data to use if the broker starts a new session.
    pub new_session: Option<&'a [u8]>,
    pub is_pending: bool,
}

impl LoginRecorder<'_> {
    /// Stores or removes login data. While this version is being replaced, and afterwards, the
    /// report is sent to the next version too.
    pub(crate) fn record(self, host: Host, connection: Connection<'_>, report: LoginReport<'_>) {
        if let Some(message) = self.note(host.handle(), connection, report)
            && host.instance_message(Some(shard_of(report.client)), 0, &message).is_err()
        {
            self.logins.note_handover_loss();
        }
    }

    /// As `keep`, without a broker: returns the message to send.
    fn note(
        self,
        load: u64,
        connection: Connection<'_>,
        LoginReport { client, bytes, new_session, is_pending }: LoginReport<'_>,
    ) -> Option<Vec<u8>> {
        if is_pending && !(self.has_request)(client) {
            // The answer to the login came too late: the end of that connection would not be
            // reported.
            return None;
        }
        let (shard, now) = (shard_of(client), Instant::now());
        if shard >= self.shards || connection.client_id == NO_CLIENT_ID {
            // No such client exists; a worker may send any number.
            return None;
        }
        let data = bytes.map(|bytes| LoginData {
            connection,
            bytes,
            new_session,
            epoch: self.epoch,
            number: client,
        });
        let noted = match data {
            Some(data) if is_pending => self.logins.store_of_login(data, shard, now),
            Some(data) => self.logins.store(data, shard),
            None if is_pending => self.logins.pending_without_data(connection, shard, now),
            None => self.logins.forget(connection, shard),
        };
        let (owner, session) = noted?;
        let mut message = Vec::new();
        let mut out = Writer(&mut message);
        out.list(4).number(load).text(self.driver).text(connection.client_id);
        let (is_uncertain, number) = (false, client);
        write_one(
            &mut out,
            &HandedOver { connection, bytes, new_session, owner, is_pending, is_uncertain, number, session },
        );
        Some(message)
    }
}

impl ExhookShard {
    /// A late report of a worker of the version before. A report of this load is ignored.
    pub(crate) fn late(&mut self, message: &[u8]) {
        let mut rest = message;
        let Ok(read) = rmpv::decode::read_value_ref_with_max_depth(&mut rest, DEPTH_MAX) else { return };
        let ValueRef::Array(parts) = &read else { return };
        let [load, driver, client_id, over] = parts.as_slice() else { return };
        let (Some(load), Some(driver), Some(client_id)) =
            (load.as_u64(), text_ref(driver), text_ref(client_id))
        else {
            return;
        };
        let Some(over) = read_one(over, client_id) else { return };
        if load == self.load {
            return;
        }
        let shard = self.shard;
        let of_driver = |of: &&mut PoolShard| of.pool.config.driver.name() == driver && of.pool.stores_logins;
        let Some(of) = self.pools.iter_mut().flatten().find(of_driver) else { return };
        let worker = of.pool.worker_of(client_id);
        let (logins, clients) = (&of.pool.logins[worker], &mut of.clients[worker]);
        if !logins.take_late(shard, over, Instant::now()) || over.bytes.is_none() && !over.is_pending {
            return;
        }
        if clients.login_came(over.connection) && over.is_pending {
            // Its client connected before this report came.
            logins.enter_again(over.connection, shard);
        }
    }
}

#[cfg(test)]
mod tests;
