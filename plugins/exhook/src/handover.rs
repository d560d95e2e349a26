//! What goes from one version of the plugin to the next in a reload: what logins gave, which each shard hands over of its own clients,
//! in pieces. It changes by the threads of workers, too, which note whose has.

use std::sync::Arc;
use std::time::Instant;

use grapnel_plugin_abi::{Entries, Error, Host, Journal};
use rmpv::ValueRef;

use crate::kept::{Connection, Gave, HandedOver, Kept, owner_of};
use crate::wire::{Writer, bytes_ref, flag_of, text_ref};
use crate::worker::Worker;
use crate::{ExhookShard, Pool};

/// How deep an entry is nested.
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

    fn kept(&self, (driver, client_id): &Key) -> Option<&Kept> {
        let pool = self.pool(driver)?;
        pool.kept.get(pool.worker_of(client_id)).map(|kept| &**kept)
    }

    /// Nobody wants to know any more what changes: a reload has come to its end, or was called off.
    pub(crate) fn end_of_handover(&mut self) {
        if self.hands_over && !self.journal.is_under_way() {
            self.hands_over = false;
            self.all().flat_map(|pool| &pool.kept).for_each(|kept| kept.note_changes(self.shard, false));
        }
    }
}

impl Entries for ExhookShard {
    type Key = Key;

    const VERSION: u32 = 2;

    fn journal(&mut self) -> &mut Journal<Key> {
        self.hands_over = true;
        let mut changed = Vec::new();
        for pool in self.all() {
            for kept in &pool.kept {
                kept.note_changes(self.shard, true);
                // Otherwise this is asked for to begin, or to end.
                if self.journal.is_under_way() {
                    let driver = pool.config.driver.name();
                    let names = kept.take_changes(self.shard).into_iter();
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
            let next = pool.kept.iter().filter_map(|kept| kept.next(self.shard, from)).min()?;
            Some((driver.to_owned(), next))
        })
    }

    fn write(&self, key: &Key, out: &mut Vec<u8>) -> bool {
        let Some(kept) = self.kept(key) else { return false };
        let (mut bytes, mut count) = (Vec::new(), 0);
        kept.each_of(self.shard, &key.1, |over| {
            count += 1;
            write_one(&mut Writer(&mut bytes), &over);
        });
        Writer(out).list(count);
        out.extend_from_slice(&bytes);
        count > 0
    }

    /// The client's worker may be another one now, and drivers that are not the same have nothing to say to each other.
    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        let wrong = || Error::new(format!("what the login of client {:?} gave cannot be read", key.1));
        let mut rest = value;
        let read = rmpv::decode::read_value_ref_with_max_depth(&mut rest, DEPTH_MAX).map_err(|_| wrong())?;
        let ValueRef::Array(parts) = &read else { return Err(wrong()) };
        let all: Option<Vec<HandedOver<'_>>> = if let Some(ValueRef::Array(_)) = parts.first() {
            parts.iter().map(|part| read_one(part, &key.1)).collect()
        } else {
            read_one(&read, &key.1).map(|one| vec![one])
        };
        let all = all.filter(|all| !all.is_empty()).ok_or_else(wrong)?;
        if let Some(kept) = self.kept(&key) {
            kept.forget_client(&key.1, self.shard);
            // What finds no room is counted, and hooks fail where they look for it.
            all.into_iter().for_each(|over| kept.take_over(self.shard, over));
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept(key) {
            kept.forget_client(&key.1, self.shard);
        }
    }

    fn clear(&mut self) {
        self.all().flat_map(|pool| &pool.kept).for_each(|kept| kept.clear(self.shard));
    }

    fn takes(version: u32) -> bool {
        (1..=Self::VERSION).contains(&version)
    }

    /// The workers of the version before have begun something, and say what comes of it until they end.
    fn completed(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        for pool in self.all() {
            let until = now + Worker::patience(&pool.config);
            pool.kept.iter().for_each(|kept| kept.expect_more(self.shard, until));
        }
        Ok(())
    }
}

/// `[host, port, bytes or nil, owner, is_coming]`.
fn write_one(out: &mut Writer<'_>, over: &HandedOver<'_>) {
    out.list(5).text(over.whose.host).number(over.whose.port).bytes_or_nil(over.bytes);
    out.number(over.owner).flag(over.is_coming);
}

/// The same of a client, or as it was before there were owners.
fn read_one<'a>(value: &'a ValueRef<'a>, client_id: &'a str) -> Option<HandedOver<'a>> {
    let ValueRef::Array(parts) = value else { return None };
    let (host, port, bytes) = (parts.first()?, parts.get(1)?, parts.get(2)?);
    let (host, port) = (text_ref(host)?, u16::try_from(port.as_u64()?).ok()?);
    let bytes = match bytes {
        ValueRef::Nil => None,
        bytes => Some(bytes_ref(bytes)?),
    };
    let whose = Connection { client_id, host, port };
    match parts.get(3..)? {
        [] if bytes.is_some() => {
            Some(HandedOver { whose, bytes, owner: owner_of(None, host), is_coming: false })
        }
        [owner, is_coming] => {
            Some(HandedOver { whose, bytes, owner: owner.as_u64()?, is_coming: flag_of(is_coming)? })
        }
        _ => None,
    }
}

/// Where what the workers of a driver say of logins is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping<'a> {
    pub kept: &'a Kept,
    /// The process that says it.
    pub epoch: u64,
    pub driver: &'static str,
}

/// What a worker says of a login: what it gave, nothing where that is no longer true; and whether its client is yet to come in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub bytes: Option<&'a [u8]>,
    pub is_coming: bool,
}

impl Keeping<'_> {
    /// Keeps what a login gave, or forgets it; and while this version is being replaced, and afterwards, the one that replaces it hears of
    /// it, too.
    pub(crate) fn keep(self, host: Host, (whose, shard): (Connection<'_>, u32), said: Said<'_>) {
        if let Some(mail) = self.note(host.handle(), (whose, shard), said)
            && host.mail(Some(shard), 0, &mail).is_err()
        {
            self.kept.lost_on_the_way();
        }
    }

    /// The same without a broker: what is to be sent.
    fn note(
        self,
        load: u64,
        (whose, shard): (Connection<'_>, u32),
        Said { bytes, is_coming }: Said<'_>,
    ) -> Option<Vec<u8>> {
        let gave = bytes.map(|bytes| Gave { whose, bytes, epoch: self.epoch });
        let noted = match gave {
            Some(gave) if is_coming => self.kept.keep_coming(gave, shard),
            Some(gave) => self.kept.keep(gave, shard),
            None if is_coming => self.kept.none_coming(whose, shard),
            None => self.kept.forget(whose, shard),
        };
        let owner = noted?;
        let mut mail = Vec::new();
        let mut out = Writer(&mut mail);
        out.list(4).number(load).text(self.driver).text(whose.client_id);
        write_one(&mut out, &HandedOver { whose, bytes, owner, is_coming });
        Some(mail)
    }
}

impl ExhookShard {
    /// What a worker of the version before has said after all has gone over. What is ours is known.
    pub(crate) fn late(&mut self, mail: &[u8]) {
        let mut rest = mail;
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
        let Some(of) = self.pools.iter_mut().flatten().find(|of| of.pool.config.driver.name() == driver)
        else {
            return;
        };
        let worker = of.pool.worker_of(client_id);
        let (kept, clients) = (&of.pool.kept[worker], &mut of.clients[worker]);
        if kept.take_late(shard, over, Instant::now())
            && over.bytes.is_some()
            && clients.login_came(over.whose)
            && over.is_coming
        {
            // It was let in before this came.
            kept.enter_again(over.whose, shard);
        }
    }
}

#[cfg(test)]
mod tests;
