//! The resources of an idle broker: allocations, their bytes, open files. The leak tests compare
//! them before and after work that must leave nothing behind. Needs the broker of
//! [`Builder::counted`](crate::broker::Builder).

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Broker, PATIENCE, pause};

/// Values read from a broker.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Allocations that have not been freed.
    pub live: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Allocations since the start.
    pub total: u64,
    /// Open file descriptors.
    pub files: usize,
}

impl Reading {
    fn is_back_to(&self, before: &Reading) -> bool {
        self.live < before.live + LIVE_MAX
            && self.live_bytes < before.live_bytes + LIVE_BYTES_MAX
            && self.files <= before.files
    }
}

/// Live allocations that any amount of work may add: tables that grow once and stay, and those of
/// the reading itself.
const LIVE_MAX: u64 = 100;

/// Bytes that any amount of work may add. A map or list that gains an entry for each piece of work
/// grows in place, so that its number of allocations stays the same. With 8 bytes a key it exceeds
/// this limit in each of these tests with 20,000 pieces or more. The limit allows for a few tables
/// that reached their largest size only after the warm-up.
const LIVE_BYTES_MAX: u64 = 128 * 1024;

/// How long readings must agree before a broker counts as idle. Longer than any timer that outlives
/// its connection, since the list of that timer holds memory until then.
const QUIET: Duration = Duration::from_millis(7000);
const AGREEMENT: u64 = 16;

/// Configuration of the broker: timers end soon after their connection, and a cache is full soon.
pub const CONFIG: &str =
    "[limits]\nconnect_timeout_ms = 6000\nsubscribe_barrier_ms = 6000\ntopic_cache_entries_max = 256\n";

/// A keep alive in seconds whose timer also ends within that time.
pub const KEEP_ALIVE_S: u16 = 4;

/// Compares the resources of a broker before and after work.
pub struct Ledger<'a> {
    broker: &'a Broker,
    /// Open files without any connection.
    idle_files: usize,
}

impl<'a> Ledger<'a> {
    /// To be called before any other request to the broker.
    ///
    /// # Panics
    /// If the broker does not count.
    #[track_caller]
    pub fn open(broker: &'a Broker) -> Ledger<'a> {
        // The first request allocates what all others use.
        let (status, _) = look(broker);
        assert!(status["allocations"].is_object(), "this broker does not count its allocations: {status}");
        let idle_files = (0..5).map(|_| {
            pause(Duration::from_millis(20));
            files(broker)
        });
        let idle_files = idle_files.min().expect("five readings");
        Ledger { broker, idle_files }
    }

    /// Runs `warm_up`, in which everything grows that grows once, then `work`, and checks that
    /// `work` leaves nothing behind. Returns the resources before and after.
    ///
    /// # Panics
    /// If something is left, or if the broker does not become idle.
    #[track_caller]
    pub fn check(&self, what: &str, warm_up: impl FnOnce(), work: impl FnOnce()) -> (Reading, Reading) {
        warm_up();
        let before = self.quiet();
        let began = Instant::now();
        work();
        let worked = began.elapsed();
        let after = self.back_to(&before);
        eprintln!(
            "{what}: {:+} live allocations, {:+} bytes, {:+} files; {} allocations in {:.1} s; before: {before:?}",
            difference(after.live, before.live),
            difference(after.live_bytes, before.live_bytes),
            difference(after.files as u64, before.files as u64),
            after.total - before.total,
            worked.as_secs_f64(),
        );
        assert!(
            after.is_back_to(&before),
            "{what} leaves something behind: {before:?} before, {after:?} after"
        );
        (before, after)
    }

    /// Waits until no client is connected, nothing is stored, and several readings agree.
    #[track_caller]
    fn quiet(&self) -> Reading {
        let deadline = Instant::now() + PATIENCE + QUIET;
        let mut since: Option<(Instant, u64)> = None;
        loop {
            let (status, reading) = look(self.broker);
            let agrees = |live: u64| live.abs_diff(reading.live) <= AGREEMENT;
            since = since.filter(|(_, live)| is_idle(&status) && agrees(*live));
            let (from, _) = *since.get_or_insert_with(|| (Instant::now(), reading.live));
            // The broker may not have closed the connection of the request yet.
            if from.elapsed() >= QUIET && reading.files <= self.idle_files {
                return reading;
            }
            assert!(
                Instant::now() < deadline,
                "the broker does not come to rest: {reading:?}, {} files when it was idle; {status}",
                self.idle_files
            );
            pause(Duration::from_millis(100));
        }
    }

    /// Waits until the broker is idle again and uses no more than before. Returns the last reading
    /// in any case.
    #[track_caller]
    fn back_to(&self, before: &Reading) -> Reading {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reading = self.quiet();
            if reading.is_back_to(before) || Instant::now() >= deadline {
                return reading;
            }
        }
    }
}

fn difference(after: u64, before: u64) -> i64 {
    after as i64 - before as i64
}

fn is_idle(status: &Value) -> bool {
    ["connections", "sessions", "subscriptions", "retained_messages"].iter().all(|gauge| status[gauge] == 0)
}

#[track_caller]
fn look(broker: &Broker) -> (Value, Reading) {
    let status = broker.ctl_json(&["status"]);
    let count = |name: &str| status["allocations"][name].as_u64().unwrap_or(0);
    let reading = Reading {
        live: count("live"),
        live_bytes: count("live_bytes"),
        total: count("total"),
        files: files(broker),
    };
    (status, reading)
}

fn files(broker: &Broker) -> usize {
    let path = format!("/proc/{}/fd", broker.process().id());
    std::fs::read_dir(path).expect("the broker is our child").count()
}
