//! What is stored of logins, for which client, and how much.

#![allow(clippy::unwrap_used)]

mod gap;
mod handover;
mod no_room;
mod room;
mod session;

use std::time::Duration;

use super::state::ENTRY;
use super::*;

const ANN: Connection<'_> = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
const EVE: Connection<'_> = Connection { port: 2, ..ANN };
/// Who is charged.
const OWNER: u64 = 7;
/// The session of all clients, unless a test says otherwise.
const S: u64 = 1 << 56 | 3;

fn kept() -> LoginStore {
    kept_of(100, 100_000)
}

fn kept_of(one_max: usize, all_max: usize) -> LoginStore {
    LoginStore::new((one_max, all_max), 4, None)
}

fn data<'a>(connection: Connection<'a>, bytes: &'a [u8], epoch: u64) -> LoginData<'a> {
    LoginData { connection, bytes, new_session: None, epoch, number: 0 }
}

/// Connects a client and stores data of its login. Returns whether there was room.
fn keep(logins: &LoginStore, connection: Connection<'_>, bytes: &[u8], owner: u64) -> bool {
    logins.enter(connection, 0, (S, owner), false);
    logins.store(data(connection, bytes, 1), 0);
    logins.of(connection, 0, (S, owner)).is_some()
}

/// The same in another session.
fn keep_in(logins: &LoginStore, session: u64, connection: Connection<'_>, bytes: &[u8]) -> bool {
    logins.enter(connection, 0, (session, OWNER), false);
    logins.store(data(connection, bytes, 1), 0);
    logins.of(connection, 0, (session, OWNER)).is_some()
}

fn bytes(logins: &LoginStore) -> usize {
    logins.lock().bytes()
}

fn count(logins: &LoginStore) -> usize {
    let state = logins.lock();
    state.count + state.lost.len()
}

fn uncertain(logins: &LoginStore) -> usize {
    logins.lock().uncertain()
}

fn of(client_id: &str) -> Connection<'_> {
    Connection { client_id, ..ANN }
}
