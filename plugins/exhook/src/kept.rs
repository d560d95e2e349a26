//! What logins gave to the hooks of one worker: bytes of the worker's own that are kept here for the process after it, and for the
//! version of the plugin after this one, as long as the session lasts. Shards look here when they describe a client; the worker's
//! thread brings what the worker says. Nothing here knows what the bytes mean.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::{Writer, get, text_ref};

/// What an entry costs besides its bytes.
const ENTRY: usize = 128;

/// A login.
#[derive(Debug)]
struct Login {
    /// The connection that it was, or is.
    host: Box<str>,
    port: u16,
    shard: u32,
    bytes: Box<[u8]>,
    /// The process that has it itself.
    epoch: u64,
}

#[derive(Debug, Default)]
struct State {
    logins: HashMap<Box<str>, Login>,
    bytes: usize,
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

    /// Keeps what a login gave, in the place of what there was of that client. Process `epoch` knows it itself.
    ///
    /// # Errors
    /// A sentence where there is no room, at the first, second, fourth, eighth … such login; what there was is gone then, too, since
    /// it is no longer true.
    pub fn keep(&self, whose: Connection<'_>, shard: u32, bytes: &[u8], epoch: u64) -> Result<(), String> {
        let mut state = self.lock();
        state.remove(whose.client_id);
        let size = ENTRY + whose.client_id.len() + whose.host.len() + bytes.len();
        let fits = bytes.len() <= self.one_max && state.bytes + size <= self.all_max;
        if fits {
            state.bytes += size;
            let login =
                Login { host: whose.host.into(), port: whose.port, shard, bytes: bytes.into(), epoch };
            state.logins.insert(whose.client_id.into(), login);
        }
        self.count.store(state.logins.len(), Ordering::Relaxed);
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
    pub fn forget(&self, whose: Connection<'_>) {
        if self.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.logins.get(whose.client_id).is_some_and(|login| login.is_of(whose)) {
            state.remove(whose.client_id);
            self.count.store(state.logins.len(), Ordering::Relaxed);
        }
    }

    /// What the login of that connection gave.
    pub fn of(&self, whose: Connection<'_>) -> Option<Box<[u8]>> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        state.logins.get(whose.client_id).filter(|login| login.is_of(whose)).map(|login| login.bytes.clone())
    }

    /// What the login gave that the session of this client is from, unless process `epoch` has that itself.
    pub fn stored(&self, client_id: &str, epoch: u64) -> Option<Box<[u8]>> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        state.logins.get(client_id).filter(|login| login.epoch != epoch).map(|login| login.bytes.clone())
    }

    /// Of a client that is described so: a description that says what its login gave besides.
    pub fn described(&self, about: &[u8]) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let value = rmpv::decode::read_value_ref(&mut { about }).ok()?;
        let (client_id, host) = (get(&value, "client_id")?, get(&value, "peer_host")?);
        let port = get(&value, "peer_port")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        let of = Connection { client_id: text_ref(client_id)?, host: text_ref(host)?, port };
        let login = self.of(of)?;
        let mut bytes = Vec::new();
        let mut out = Writer(&mut bytes);
        out.map(4).text("client_id").text(of.client_id).text("peer_host").text(of.host);
        out.text("peer_port").number(of.port).text("login").bytes(&login);
        Some(bytes)
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Calls with each login of a shard.
    pub fn each(&self, shard: u32, mut call: impl FnMut(Connection<'_>, &[u8])) {
        for (client_id, login) in self.lock().logins.iter().filter(|(_, login)| login.shard == shard) {
            call(Connection { client_id, host: &login.host, port: login.port }, &login.bytes);
        }
    }

    /// Forgets those of a shard.
    pub fn clear(&self, shard: u32) {
        let mut state = self.lock();
        let gone: Vec<_> = state
            .logins
            .iter()
            .filter(|(_, login)| login.shard == shard)
            .map(|(client_id, _)| client_id.clone())
            .collect();
        for client_id in gone {
            state.remove(&client_id);
        }
        self.count.store(state.logins.len(), Ordering::Relaxed);
    }
}

impl State {
    fn remove(&mut self, client_id: &str) {
        if let Some((client_id, gone)) = self.logins.remove_entry(client_id) {
            self.bytes -= ENTRY + client_id.len() + gone.host.len() + gone.bytes.len();
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
        assert_eq!(kept.of(ANN).as_deref(), Some(&b"ann"[..]));
        assert_eq!(kept.of(EVE), None, "another connection under the same identifier");
        assert_eq!(kept.stored("c", 1), None, "that process has it itself");
        assert_eq!(kept.stored("c", 2).as_deref(), Some(&b"ann"[..]));
        kept.forget(EVE);
        assert!(kept.of(ANN).is_some());
        kept.forget(ANN);
        assert!(kept.of(ANN).is_none() && kept.is_empty());
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
            kept.described(&about)
        };
        assert_eq!(described(1), None);
        kept.keep(ANN, 0, b"ann", 1).unwrap();
        let bytes = described(1).unwrap();
        let value = rmpv::decode::read_value_ref(&mut bytes.as_slice()).unwrap();
        assert_eq!(get(&value, "login").and_then(crate::wire::bytes_ref), Some(&b"ann"[..]));
        assert_eq!(described(2), None);
        assert_eq!(kept.described(b"nonsense"), None);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let kept = Kept::new(10, 2 * (ENTRY + 1 + 8 + 10));
        let of = |client_id| Connection { client_id, ..ANN };
        kept.keep(of("a"), 0, &[0; 10], 1).unwrap();
        let said = kept.keep(of("a"), 0, &[0; 11], 1).unwrap_err();
        assert!(said.contains("11 bytes, is not kept") && said.ends_with("(1 so far)"), "{said}");
        assert_eq!(kept.of(of("a")), None, "what there was is no longer true");
        for client_id in ["a", "b"] {
            kept.keep(of(client_id), 0, &[0; 10], 1).unwrap();
        }
        assert!(kept.keep(of("c"), 0, b"", 1).unwrap_err().ends_with("(2 so far)"));
        kept.keep(of("c"), 0, b"", 1).unwrap();
        assert_eq!(kept.of(of("c")), None, "the third is not logged");
        kept.forget(of("b"));
        kept.keep(of("c"), 0, &[0; 10], 1).unwrap();
        assert_eq!(kept.of(of("c")).as_deref(), Some(&[0; 10][..]));
    }

    #[test]
    fn those_of_a_shard_are_told_apart() {
        let kept = Kept::new(10, 1000);
        kept.keep(ANN, 0, b"0", 1).unwrap();
        kept.keep(Connection { client_id: "d", ..ANN }, 1, b"1", 1).unwrap();
        let mut seen = Vec::new();
        kept.each(1, |whose, bytes| seen.push((whose.client_id.to_owned(), bytes.to_vec())));
        assert_eq!(seen, [("d".to_owned(), b"1".to_vec())]);
        kept.clear(1);
        assert!(kept.of(ANN).is_some());
        assert_eq!(kept.lock().logins.len(), 1);
    }
}
