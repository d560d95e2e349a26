//! The author's guide: what a plugin is called for, by whom, and what it may do. Each chapter is a page; every example in it is
//! compiled by the tests, and those that can, run.
//!
//! 1. [Life of a PUBLISH](publish): what is called when, in which order
//! 2. [Threads and ownership](threads): whose memory, which thread, what needs a lock
//! 3. [Flows and faults](flows): what a hook returns, and what becomes of its changes
//! 4. [Answering later](deferring): tickets
//! 5. [Acting on the broker](commands): publish, kick, subscribe, invalidate
//! 6. [Timers and mail](timers)
//! 7. [Reload and state](reload): a new version without losing a client or a count
//! 8. [Configuration and metrics](operation): what the operator sees
//! 9. [What is held for clients](shares): a share for each, counted in bytes
//! 10. [Testing](mod@testing): with and without a broker
//! 11. [Shipping](shipping): versions of the ABI, names, files
//! 12. [In C and C++](c)

#[doc = include_str!("guide/publish.md")]
pub mod publish {}

#[doc = include_str!("guide/threads.md")]
pub mod threads {}

#[doc = include_str!("guide/flows.md")]
pub mod flows {}

#[doc = include_str!("guide/deferring.md")]
pub mod deferring {}

#[doc = include_str!("guide/commands.md")]
pub mod commands {}

#[doc = include_str!("guide/timers.md")]
pub mod timers {}

#[doc = include_str!("guide/reload.md")]
pub mod reload {}

#[doc = include_str!("guide/operation.md")]
pub mod operation {}

#[doc = include_str!("guide/shares.md")]
pub mod shares {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/shipping.md")]
pub mod shipping {}

#[doc = include_str!("guide/c.md")]
pub mod c {}
