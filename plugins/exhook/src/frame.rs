//! Builds the frame of calls for a process. A call that was encoded for an earlier process is
//! preceded by the description that this one needs. Runs on the worker's thread.

use std::collections::HashSet;

use crate::call_queue::{CallQueue, DESCRIBED, FORGOTTEN, PendingCalls, write_call};
use crate::clients::shard_of;
use crate::logins::LoginStore;
use crate::queue::Call;

/// Most calls of one frame.
const CALLS_MAX: usize = 512;
/// Most bytes of one frame, except for a single call that is longer.
const BYTES_MAX: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub struct Frame {
    /// Its calls, until all of it has been sent: if the process ends before, the next one gets
    /// them.
    pub calls: Vec<Call>,
    /// Number of the process that it is for.
    epoch: u64,
    /// Clients that were described to this process with calls for an earlier one.
    carried: HashSet<u64>,
    /// The calls in encoded form.
    bytes: Vec<u8>,
}

impl Frame {
    /// An empty frame for this process.
    pub fn new(epoch: u64) -> Frame {
        Frame { calls: Vec::new(), epoch, carried: HashSet::new(), bytes: Vec::new() }
    }

    /// Takes calls from the queue, and their tickets into `pending`. Returns the number of calls to
    /// send, and their bytes.
    pub fn fill(
        &mut self,
        queue: &CallQueue,
        logins: &LoginStore,
        pending: &mut PendingCalls,
    ) -> (usize, &[u8]) {
        queue.take(CALLS_MAX, BYTES_MAX, &mut self.calls, pending);
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_MAX);
        let mut count = 0;
        for call in &self.calls {
            let (bytes, notified) = (&mut self.bytes, &mut self.carried);
            if call.epoch == self.epoch || carry(call, (logins, self.epoch), notified, (bytes, &mut count)) {
                bytes.extend_from_slice(&call.bytes);
                count += 1;
            }
            if call.point == FORGOTTEN {
                notified.remove(&call.client.number);
            }
        }
        if count == 0 {
            queue.release(&mut self.calls);
        }
        (count, &self.bytes)
    }
}

/// Describes the client of a call that was encoded for another process, with its login data, unless
/// this process has the description. Returns whether the call is still to be sent.
fn carry(
    call: &Call,
    logins: (&LoginStore, u64),
    notified: &mut HashSet<u64>,
    (bytes, count): (&mut Vec<u8>, &mut usize),
) -> bool {
    let (number, session) = (call.client.number, call.client.session);
    match (call.point, &call.client.about) {
        (FORGOTTEN, _) => notified.contains(&number),
        (point, Some(about)) if notified.insert(number) => {
            *count += describe((number, session), about.bytes(), logins, bytes);
            point != DESCRIBED
        }
        (DESCRIBED, None) => {
            notified.insert(number);
            let Some(about) = described(&call.bytes) else { return true };
            *count += describe((number, session), about, logins, bytes);
            false
        }
        _ => true,
    }
}

/// Writes a description that was encoded for another process, with the login data that this one
/// (`logins.1`) needs. Returns the number of calls written.
fn describe(
    (number, session): (u64, u64),
    about: &[u8],
    (logins, epoch): (&LoginStore, u64),
    bytes: &mut Vec<u8>,
) -> usize {
    let shard = shard_of(number);
    let entering = logins.describe_connecting(about, shard, session, epoch);
    let login = logins.described(about, shard, session).filter(|_| entering.is_none());
    let first = entering.as_deref().unwrap_or(about);
    for about in [Some(first), login.as_deref()].into_iter().flatten() {
        write_call(bytes, 0, DESCRIBED, number, |data| data.0.extend_from_slice(about));
    }
    1 + usize::from(login.is_some())
}

/// The map in a call that describes a client.
fn described(call: &[u8]) -> Option<&[u8]> {
    let mut rest = call;
    rmp::decode::read_array_len(&mut rest).ok()?;
    for _ in 0..3 {
        rmpv::decode::read_value_ref(&mut rest).ok()?;
    }
    Some(rest)
}
