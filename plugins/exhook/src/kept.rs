//! What logins gave to the hooks of one worker: bytes of the worker's own that are kept here for the process after it, and for the
//! version of the plugin after this one, as long as the session lasts. Shards look here when they describe a client; the worker's
//! thread brings what the worker says. Nothing here knows what the bytes mean.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rmpv::ValueRef;

use crate::wire::{Writer, get, text_ref};

/// What an entry costs besides its bytes.
const ENTRY: usize = 128;

/// A login.
#[derive(Debug)]
struct Login {
    /// The connection that it was, or is.
    host: Box<str>,
    port: u16,
    bytes: Box<[u8]>,
    /// The process that has it itself.
    epoch: u64,
}

/// Those of a shard's clients, one for each at most.
#[derive(Debug, Default)]
struct Logins {
    by_client: BTreeMap<Box<str>, Login>,
    /// While somebody wants to know: whose have changed.
    changed: Option<BTreeSet<Box<str>>>,
}

#[derive(Debug, Default)]
struct State {
    shards: BTreeMap<u32, Logins>,
    bytes: usize,
    count: usize,
    refused: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Kept {
    state: Mutex<State>,
    /// How many there are, so that who looks for none takes no lock.
    count: AtomicUsize,
    one_max: usize,
    all_max: usize,
}

/// A client, by its identifier and the connection that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Its identifier.
    pub client_id: &'a str,
    /// Where it comes from.
    pub host: &'a str,
    /// Its port there.
    pub port: u16,
}

impl Kept {
    /// None yet: at most so many bytes of one login, and of all.
    pub fn new(one_max: usize, all_max: usize) -> Kept {
        Kept { state: Mutex::default(), count: AtomicUsize::new(0), one_max, all_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a login gave, in the place of what there was of that client, so that no client has more than one. Process `epoch`
    /// knows it itself.
    ///
    /// # Errors
    /// A sentence where there is no room, at the first, second, fourth, eighth … such login; what there was is gone then, too, since
    /// it is no longer true.
    pub fn keep(&self, whose: Connection<'_>, shard: u32, bytes: &[u8], epoch: u64) -> Result<(), String> {
        let mut state = self.lock();
        state.remove(shard, whose.client_id);
        let size = cost(whose.client_id, whose.host, bytes);
        let fits = bytes.len() <= self.one_max && state.bytes + size <= self.all_max;
        if fits {
            state.bytes += size;
            state.count += 1;
            let login = Login { host: whose.host.into(), port: whose.port, bytes: bytes.into(), epoch };
            state.of(shard).by_client.insert(whose.client_id.into(), login);
        }
        state.changed(shard, whose.client_id);
        self.count.store(state.count, Ordering::Relaxed);
        if fits {
            return Ok(());
        }
        state.refused += 1;
        if !state.refused.is_power_of_two() {
            return Ok(());
        }
        Err(format!(
            "what the login of client {:?} gave, {} bytes, is not kept for the next worker: login_bytes_max is {}, and {} of \
             logins_bytes_max ({}) are taken ({} so far)",
            whose.client_id,
            bytes.len(),
            self.one_max,
            state.bytes,
            self.all_max,
            state.refused
        ))
    }

    /// The session of that connection is over.
    pub fn forget(&self, whose: Connection<'_>, shard: u32) {
        if self.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.get(shard, whose.client_id).is_some_and(|login| login.is_of(whose)) {
            state.remove(shard, whose.client_id);
            self.count.store(state.count, Ordering::Relaxed);
        }
    }

    /// The session of this client is over, whichever connection it was of.
    pub fn forget_client(&self, client_id: &str, shard: u32) {
        if self.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.remove(shard, client_id);
        self.count.store(state.count, Ordering::Relaxed);
    }

    /// What the login of that connection gave.
    pub fn of(&self, whose: Connection<'_>, shard: u32) -> Option<Box<[u8]>> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        state.get(shard, whose.client_id).filter(|login| login.is_of(whose)).map(|login| login.bytes.clone())
    }

    /// What the login gave that the session of this client is from, unless process `epoch` has that itself.
    pub fn stored(&self, client_id: &str, shard: u32, epoch: u64) -> Option<Box<[u8]>> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        state.get(shard, client_id).filter(|login| login.epoch != epoch).map(|login| login.bytes.clone())
    }

    /// Of a client of a shard that is described so: a description that says what its login gave besides.
    pub fn described(&self, about: &[u8], shard: u32) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        let (client_id, host) = (get(&value, "client_id")?, get(&value, "peer_host")?);
        let port = get(&value, "peer_port")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        let of = Connection { client_id: text_ref(client_id)?, host: text_ref(host)?, port };
        let login = self.of(of, shard)?;
        let mut bytes = Vec::new();
        let mut out = Writer(&mut bytes);
        out.map(4).text("client_id").text(of.client_id).text("peer_host").text(of.host);
        out.text("peer_port").number(of.port).text("login").bytes(&login);
        Some(bytes)
    }

    /// Of a client of a shard that is coming in and was described so to another process than `epoch`: the description with what the
    /// login gave that the session is from. `None` where nothing is to be added.
    pub fn entering(&self, about: &[u8], shard: u32, epoch: u64) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        // Who is in already is not judged by what others have left.
        if get(&value, "will").is_none() || get(&value, "earlier").is_some() {
            return None;
        }
        let stored = self.stored(text_ref(get(&value, "client_id")?)?, shard, epoch)?;
        let ValueRef::Map(mut pairs) = value else { return None };
        pairs.retain(|(key, _)| text_ref(key) != Some("stored"));
        pairs.push((ValueRef::from("stored"), ValueRef::Binary(&stored)));
        let mut bytes = Vec::new();
        rmpv::encode::write_value_ref(&mut bytes, &ValueRef::Map(pairs)).ok()?;
        Some(bytes)
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The client of a shard behind this one, in order of their names, that something is kept of.
    pub fn next(&self, shard: u32, after: Option<&str>) -> Option<String> {
        let state = self.lock();
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut logins = state.shards.get(&shard)?.by_client.range::<str, _>((behind, Bound::Unbounded));
        logins.next().map(|(client_id, _)| client_id.to_string())
    }

    /// Calls with what is kept of a client of a shard; `None` where nothing is.
    pub fn with<R>(
        &self,
        shard: u32,
        client_id: &str,
        call: impl FnOnce(Connection<'_>, &[u8]) -> R,
    ) -> Option<R> {
        let state = self.lock();
        let login = state.get(shard, client_id)?;
        Some(call(Connection { client_id, host: &login.host, port: login.port }, &login.bytes))
    }

    /// Forgets those of a shard.
    pub fn clear(&self, shard: u32) {
        let mut state = self.lock();
        let names: Vec<_> = state
            .shards
            .get(&shard)
            .into_iter()
            .flat_map(|logins| logins.by_client.keys().cloned())
            .collect();
        names.iter().for_each(|client_id| state.remove(shard, client_id));
        self.count.store(state.count, Ordering::Relaxed);
    }

    /// From now on, or no longer, [`Kept::take_changes`] is asked for whose of a shard have changed.
    pub fn note_changes(&self, shard: u32, noted: bool) {
        let mut state = self.lock();
        let changed = &mut state.of(shard).changed;
        if !noted {
            *changed = None;
        } else if changed.is_none() {
            *changed = Some(BTreeSet::new());
        }
    }

    /// Whose of a shard have changed since this was asked last.
    pub fn take_changes(&self, shard: u32) -> BTreeSet<Box<str>> {
        self.lock().of(shard).changed.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// What an entry takes.
fn cost(client_id: &str, host: &str, bytes: &[u8]) -> usize {
    ENTRY + client_id.len() + host.len() + bytes.len()
}

impl State {
    fn of(&mut self, shard: u32) -> &mut Logins {
        self.shards.entry(shard).or_default()
    }

    fn get(&self, shard: u32, client_id: &str) -> Option<&Login> {
        self.shards.get(&shard)?.by_client.get(client_id)
    }

    fn changed(&mut self, shard: u32, client_id: &str) {
        if let Some(changed) = &mut self.of(shard).changed {
            changed.insert(client_id.into());
        }
    }

    fn remove(&mut self, shard: u32, client_id: &str) {
        if let Some(gone) = self.of(shard).by_client.remove(client_id) {
            self.bytes -= cost(client_id, &gone.host, &gone.bytes);
            self.count -= 1;
            self.changed(shard, client_id);
        }
    }
}

impl Login {
    fn is_of(&self, whose: Connection<'_>) -> bool {
        (&*self.host, self.port) == (whose.host, whose.port)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ANN: Connection<'_> = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
    const EVE: Connection<'_> = Connection { port: 2, ..ANN };

    #[test]
    fn a_login_is_its_connections_and_its_sessions() {
        let kept = Kept::new(100, 1000);
        kept.keep(ANN, 0, b"ann", 1).unwrap();
        assert_eq!(kept.of(ANN, 0).as_deref(), Some(&b"ann"[..]));
        assert_eq!(kept.of(EVE, 0), None, "another connection under the same identifier");
        assert_eq!(kept.stored("c", 0, 1), None, "that process has it itself");
        assert_eq!(kept.stored("c", 0, 2).as_deref(), Some(&b"ann"[..]));
        kept.forget(EVE, 0);
        assert!(kept.of(ANN, 0).is_some());
        kept.forget(ANN, 0);
        assert!(kept.of(ANN, 0).is_none() && kept.is_empty());
        assert_eq!(kept.lock().bytes, 0);
    }

    #[test]
    fn a_description_is_told_with_its_login() {
        let kept = Kept::new(100, 1000);
        let described = |port: u16| {
            let mut about = Vec::new();
            let mut out = Writer(&mut about);
            out.map(3)
                .text("client_id")
                .text("c")
                .text("peer_host")
                .text("10.0.0.1")
                .text("peer_port")
                .number(port);
            kept.described(&about, 0)
        };
        assert_eq!(described(1), None);
        kept.keep(ANN, 0, b"ann", 1).unwrap();
        let bytes = described(1).unwrap();
        let value = rmpv::decode::read_value_ref(&mut bytes.as_slice()).unwrap();
        assert_eq!(get(&value, "login").and_then(crate::wire::bytes_ref), Some(&b"ann"[..]));
        assert_eq!(described(2), None);
        assert_eq!(kept.described(b"nonsense", 0), None);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let kept = Kept::new(10, 2 * (ENTRY + 1 + 8 + 10));
        let of = |client_id| Connection { client_id, ..ANN };
        kept.keep(of("a"), 0, &[0; 10], 1).unwrap();
        let said = kept.keep(of("a"), 0, &[0; 11], 1).unwrap_err();
        assert!(said.contains("11 bytes, is not kept") && said.ends_with("(1 so far)"), "{said}");
        assert_eq!(kept.of(of("a"), 0), None, "what there was is no longer true");
        for client_id in ["a", "b"] {
            kept.keep(of(client_id), 0, &[0; 10], 1).unwrap();
        }
        assert!(kept.keep(of("c"), 0, b"", 1).unwrap_err().ends_with("(2 so far)"));
        kept.keep(of("c"), 0, b"", 1).unwrap();
        assert_eq!(kept.of(of("c"), 0), None, "the third is not logged");
        kept.forget(of("b"), 0);
        kept.keep(of("c"), 0, &[0; 10], 1).unwrap();
        assert_eq!(kept.of(of("c"), 0).as_deref(), Some(&[0; 10][..]));
    }

    /// However often a client comes, and from wherever, it has one entry, and no more than one may have.
    #[test]
    fn a_client_has_one_entry() {
        let kept = Kept::new(10, 1000);
        for port in 0..1000 {
            kept.keep(Connection { port, ..ANN }, 0, &[0; 10], 1).unwrap();
        }
        let state = kept.lock();
        assert_eq!((state.count, state.bytes), (1, cost("c", "10.0.0.1", &[0; 10])));
    }

    #[test]
    fn those_of_a_shard_are_told_apart() {
        let kept = Kept::new(10, 1000);
        kept.keep(ANN, 0, b"0", 1).unwrap();
        for client_id in ["e", "d"] {
            kept.keep(Connection { client_id, ..ANN }, 1, b"1", 1).unwrap();
        }
        assert_eq!(
            [None, Some("c"), Some("d"), Some("e")].map(|after| kept.next(1, after)),
            [Some("d".to_owned()), Some("d".to_owned()), Some("e".to_owned()), None]
        );
        assert_eq!(kept.with(1, "d", |whose, bytes| (whose.port, bytes.to_vec())), Some((1, b"1".to_vec())));
        assert_eq!(kept.with(0, "d", |_, _| ()), None);
        kept.clear(1);
        assert!(kept.of(ANN, 0).is_some());
        assert_eq!(kept.lock().count, 1);
    }

    #[test]
    fn changes_are_noted_while_somebody_wants_to_know() {
        let kept = Kept::new(10, 1000);
        let of = |client_id| Connection { client_id, ..ANN };
        kept.keep(of("a"), 0, b"1", 1).unwrap();
        kept.note_changes(0, true);
        kept.keep(of("b"), 0, b"1", 1).unwrap();
        kept.keep(of("c"), 1, b"1", 1).unwrap();
        kept.note_changes(0, true);
        kept.forget(of("a"), 0);
        kept.keep(of("d"), 0, &[0; 11], 1).unwrap_err();
        assert_eq!(kept.take_changes(0).iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "d"]);
        assert!(kept.take_changes(0).is_empty());
        kept.note_changes(0, false);
        kept.keep(of("e"), 0, b"1", 1).unwrap();
        assert!(kept.take_changes(0).is_empty());
    }
}
