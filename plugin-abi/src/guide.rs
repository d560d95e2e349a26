//! The author's guide: where a plugin is called, on which thread, and what it may do. Each chapter
//! is a page. The tests compile every example and run those that can run. The same chapters are
//! part of the book (`docs/src/plugins`).
//!
//! 1. [Hook points](points): every place where a plugin is called
//! 2. [Life of a PUBLISH](publish): what is called when, in which order
//! 3. [Threads and ownership](threads): whose memory, which thread, what needs a lock
//! 4. [Flows and faults](flows): what a hook returns, and what happens to its changes
//! 5. [Deferring a verdict](deferring): tickets
//! 6. [Acting on the broker](commands): publish, kick, subscribe, invalidate
//! 7. [On behalf of a client](behalf): what is authorized as the client's own packet
//! 8. [Timers and instance messages](timers)
//! 9. [State over a reload](reload): a new version without losing a client or a count
//! 10. [Configuration, metrics and the log](operation): what the operator sees
//! 11. [Verbs for grapnel-ctl](verbs): commands that the plugin adds
//! 12. [Bounded shares](shares): memory that clients make a plugin hold, counted in bytes
//! 13. [Testing a plugin](mod@testing): with and without a broker
//! 14. [Shipping a plugin](shipping): versions of the ABI, names, files
//! 15. [First plugin in C](c)

// The chapters are plain Markdown, which the book includes too. Links to items of this crate work
// only in rustdoc, so they are in this file. Links between chapters are written as
// `[text][chapter]`: each place that includes a chapter defines their targets.

#[doc = include_str!("guide/points.md")]
///
/// In this crate: [`HookPoint`](crate::HookPoint), [`Field`](crate::raw::Field),
/// [`Verdict`](crate::Verdict), [`Disposition`](crate::Disposition).
///
/// [flows]: crate::guide::flows
/// [publish]: crate::guide::publish
pub mod points {}

#[doc = include_str!("guide/publish.md")]
///
/// In this crate: [`Publish`](crate::Publish), [`Delivered`](crate::Delivered),
/// [`Authorize`](crate::Authorize), [`Host::publish`](crate::Host::publish),
/// [`Host::publish_as`](crate::Host::publish_as).
pub mod publish {}

#[doc = include_str!("guide/threads.md")]
///
/// In this crate: [`Plugin`](crate::Plugin), [`Host::spawn`](crate::Host::spawn),
/// [`Host::spawn_for`](crate::Host::spawn_for), [`Host::wait_stop`](crate::Host::wait_stop).
///
/// [deferring]: crate::guide::deferring
pub mod threads {}

#[doc = include_str!("guide/flows.md")]
///
/// In this crate: [`Flow`](crate::Flow), [`FaultPolicy`](crate::FaultPolicy),
/// [`Refused`](crate::Refused).
pub mod flows {}

#[doc = include_str!("guide/deferring.md")]
///
/// In this crate: [`AuthenticateTicket`](crate::AuthenticateTicket),
/// [`AuthorizeTicket`](crate::AuthorizeTicket), [`ConnectTicket`](crate::ConnectTicket),
/// [`FiltersTicket`](crate::FiltersTicket), [`PublishTicket`](crate::PublishTicket).
pub mod deferring {}

#[doc = include_str!("guide/commands.md")]
///
/// In this crate: [`Host`](crate::Host), [`Outgoing`](crate::Outgoing),
/// [`RecheckScope`](crate::RecheckScope), [`Mounting`](crate::Mounting),
/// [`Publish::add_message`](crate::Publish::add_message).
///
/// [behalf]: crate::guide::behalf
/// [operation]: crate::guide::operation
/// [threads]: crate::guide::threads
/// [timers]: crate::guide::timers
pub mod commands {}

#[doc = include_str!("guide/behalf.md")]
///
/// In this crate: [`Identity`](crate::Identity), [`OnBehalf`](crate::OnBehalf),
/// [`Answer`](crate::Answer), [`Host::publish_as`](crate::Host::publish_as),
/// [`Host::subscribe_as`](crate::Host::subscribe_as),
/// [`Host::authorize_as`](crate::Host::authorize_as), [`Host::fetch_as`](crate::Host::fetch_as),
/// [`Fetch`](crate::Fetch), [`Fetched`](crate::Fetched).
pub mod behalf {}

#[doc = include_str!("guide/timers.md")]
///
/// In this crate: [`Host::timer`](crate::Host::timer), [`Timer`](crate::Timer),
/// [`Host::instance_message`](crate::Host::instance_message),
/// [`InstanceMessage`](crate::InstanceMessage).
pub mod timers {}

#[doc = include_str!("guide/reload.md")]
///
/// In this crate: [`Plugin::export_state`](crate::Plugin::export_state),
/// [`Plugin::import_state`](crate::Plugin::import_state),
/// [`Plugin::pieces`](crate::Plugin::pieces), [`Entries`](crate::Entries),
/// [`Journal`](crate::Journal).
///
/// [threads]: crate::guide::threads
pub mod reload {}

#[doc = include_str!("guide/operation.md")]
///
/// In this crate: [`Plugin::Config`](crate::Plugin::Config),
/// [`Plugin::configure`](crate::Plugin::configure), [`Configured`](crate::Configured),
/// [`Counter`](crate::Counter), [`Gauge`](crate::Gauge), [`Histogram`](crate::Histogram),
/// [`Host::log`](crate::Host::log).
pub mod operation {}

#[doc = include_str!("guide/verbs.md")]
///
/// In this crate: [`Plugin::verbs`](crate::Plugin::verbs), [`Verbs`](crate::Verbs),
/// [`arguments!`](crate::arguments), [`VerbCall`](crate::VerbCall),
/// [`verb::Answer`](crate::verb::Answer).
pub mod verbs {}

#[doc = include_str!("guide/shares.md")]
///
/// In this crate: [`Shares`](crate::Shares), [`ShareLimits`](crate::ShareLimits),
/// [`Weigh`](crate::Weigh), [`DropQueue`](crate::DropQueue),
/// [`address_share`](crate::address_share).
pub mod shares {}

#[doc = include_str!("guide/testing.md")]
///
/// In this crate: [`testing`](crate::testing), [`FakeEvent`](crate::testing::FakeEvent),
/// [`TestPlugin`](crate::testing::TestPlugin).
///
/// [flows]: crate::guide::flows
pub mod testing {}

#[doc = include_str!("guide/shipping.md")]
///
/// In this crate: [`plugin!`](crate::plugin).
///
/// [reload]: crate::guide::reload
pub mod shipping {}

#[doc = include_str!("guide/c.md")]
///
/// In this crate: [`raw`](crate::raw), [`module`](crate::module).
pub mod c {}

/// The first plugin of README.md, which is built as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
