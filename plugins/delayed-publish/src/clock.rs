//! The clock of the delays. It is monotonic, and two generations of the plugin in one process read
//! the same time.

/// Milliseconds since the machine was started.
#[cfg(not(test))]
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

#[cfg(test)]
pub use fake::{now_ms, pass};

/// The clock of a test, which advances it together with the timers of the test bed.
#[cfg(test)]
mod fake {
    use std::cell::Cell;

    thread_local! {
        static NOW_MS: Cell<u64> = const { Cell::new(1_000_000) };
    }

    pub fn now_ms() -> u64 {
        NOW_MS.get()
    }

    pub fn pass(ms: u64) {
        NOW_MS.set(NOW_MS.get() + ms);
    }
}
