//! Raises the limit of open files for the connections of the process. Called once, before the first
//! connection; the limit stays raised for this process and those that it starts.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not connections: standard streams, epoll, and those that libraries open.
const OTHER_DESCRIPTORS: u64 = 32;

/// Raises the soft limit of open files to the hard one, for this process and those it starts.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || (limit.maximum.is_none() && limit.current.is_some()) {
        // If it is refused, `reserve` reports how many are missing.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Raises the limit of open files as far as possible, and fails if `count` connections do not fit
/// even then.
pub fn reserve(count: u32) -> Result<()> {
    raise_limit();
    let needed = u64::from(count) + OTHER_DESCRIPTORS;
    let held = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        needed <= held,
        "{count} clients need {needed} open files, and the limit is {held}: raise it (ulimit -Hn), or run fewer"
    );
    Ok(())
}
