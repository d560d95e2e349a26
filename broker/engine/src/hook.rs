//! Hook chains: links sorted once and called in one loop. A flow runs a chain and turns its result
//! into a verdict. This module has no access to sessions and routes.

use std::sync::Arc;

use grapnel_plugin_abi::raw::Status;

pub mod breaker;
mod call;
pub mod chain;
pub mod client;
pub mod connack;
pub mod draft;
pub mod filter;
pub mod latency;
pub mod message;
pub mod notification;
pub mod outgoing;
pub mod requested;
pub mod section;
pub mod subscribe;
pub mod suspended;
pub mod tickets;
pub mod verdict;
pub mod view;

pub use call::{CallCell, Callback, Called};
pub use grapnel_plugin_abi::host::{Entry, InstanceEntry};
pub use grapnel_plugin_abi::point::{FaultPolicy, HookPoint, Kind, POINTS};

/// A loaded plugin, as index and generation: each load or reload gets another handle. It is the
/// value of [`grapnel_plugin_abi::raw::HostApi::plugin`], and logs and statistics show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PluginHandle(pub u64);

impl PluginHandle {
    /// The number of the plugin's name, the same for every version.
    pub fn number(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// Plugin name and hook name as one number, the same for every version of the plugin. After a
/// reload, an event that waited skips the links whose identity it has visited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkIdentity(pub u32);

/// A function of a plugin with its instance on this shard, as mounted by the loader.
#[derive(Clone, Debug)]
pub struct Link {
    /// The function to call.
    pub entry: Entry,
    /// The plugin of the link.
    pub plugin: PluginHandle,
    /// The identity, which stays the same through reloads.
    pub identity: LinkIdentity,
    /// Name of plugin and hook, for logs.
    pub name: Arc<str>,
    /// Links with a higher priority run earlier; equal ones run in order of mounting.
    pub priority: i32,
    /// How long a deferred verdict may take, milliseconds.
    pub deadline_ms: u32,
    /// What happens after a fault or a missed deadline.
    pub policy: FaultPolicy,
    /// Valid topic filters: the link is called only for topics that match one; `None` for all
    /// topics.
    pub topics: Option<Arc<[Box<str>]>>,
    /// Whether client.authorize calls it for deliveries too.
    pub deliver: bool,
    /// Bit of its plugin in the ancestry of a message, 0 to 63; the same for every version of the
    /// plugin.
    pub bit: u8,
}

impl Link {
    /// The bit of its plugin in the ancestry of a message.
    #[inline]
    pub fn ancestry_bit(&self) -> u64 {
        1 << (self.bit & 63)
    }
}

/// An invalid change of a message by a hook. All changes of that call are undone, and the fault
/// policy of the link applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The plugin of the hook.
    pub plugin: PluginHandle,
    /// The link.
    pub link: LinkIdentity,
    /// Name of plugin and hook, for logs.
    pub name: Arc<str>,
    /// Why the change is invalid.
    pub reason: &'static str,
}

/// Why an accumulator rejects a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CannotTake {
    /// The status that the hook gets.
    pub status: Status,
    /// The reason as text, if no message may have this value.
    pub reason: Option<&'static str>,
}

impl CannotTake {
    /// INVALID, with this reason.
    fn because(reason: &'static str) -> CannotTake {
        CannotTake { status: Status::INVALID, reason: Some(reason) }
    }
}

impl From<Status> for CannotTake {
    fn from(status: Status) -> CannotTake {
        CannotTake { status, reason: None }
    }
}

/// Counts of one link since its chain was compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Number of calls.
    pub calls: u64,
    /// How often it ended the chain.
    pub stops: u64,
    /// How often it deferred.
    pub deferrals: u64,
    /// Panics, invalid answers and missed deadlines.
    pub faults: u64,
    /// Durations of the calls that were timed, which is a sample.
    pub latency: latency::Latency,
}

impl LinkStats {
    /// Adds the counts of the same link on another shard or in an earlier chain.
    pub fn merge(&mut self, other: &LinkStats) {
        self.calls += other.calls;
        self.stops += other.stops;
        self.deferrals += other.deferrals;
        self.faults += other.faults;
        self.latency.merge(&other.latency);
    }
}

/// Counts of one link in its chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkCounts {
    /// All counts, without the calls of straight walks.
    stats: LinkStats,
    /// Straight walks that this link ended.
    straight_ends: u64,
    /// Calls that only applied the fault policy of a tripped plugin.
    tripped: u64,
}

/// The links of one hook point in the order in which they run.
#[derive(Debug, Default)]
pub struct Chain {
    pub(crate) links: Box<[Link]>,
    counts: Box<[LinkCounts]>,
    filters: Option<Box<filter::Filters>>,
    /// Number of runs, for the choice of the runs that are timed.
    runs: u64,
    /// Straight walks: runs that do not check each link. A straight walk calls all links up to the
    /// one that ends it.
    straight_runs: u64,
    /// Whether straight walks are possible: no link has filters or arguments.
    straight: bool,
    /// Whether a link is called for deliveries.
    delivers: bool,
}

impl Chain {
    /// The links with their counts, in order.
    pub fn links(&self) -> impl Iterator<Item = (&Link, LinkStats)> {
        let mut straight_calls = self.straight_runs;
        self.links.iter().zip(&self.counts).map(move |(link, count)| {
            let calls = count.stats.calls + straight_calls - count.tripped;
            straight_calls -= count.straight_ends;
            (link, LinkStats { calls, ..count.stats })
        })
    }

    /// The counts of the link at this index, to change.
    pub(crate) fn stats_mut(&mut self, place: usize) -> Option<&mut LinkStats> {
        self.counts.get_mut(place).map(|count| &mut count.stats)
    }

    /// Whether it has no link.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether client.authorize calls a link of this chain for deliveries.
    #[inline]
    pub fn delivers(&self) -> bool {
        self.delivers
    }
}

/// All chains of a shard. It is replaced as a whole between two steps of the shard, never within
/// one.
#[derive(Debug)]
pub struct ChainTable {
    generation: u64,
    chains: [Chain; POINTS],
    /// The plugins in the table, for calls outside of events.
    instances: Vec<(PluginHandle, InstanceEntry)>,
    /// The plugins that are disabled or tripped: their calls outside of events wait.
    suspended_plugins: Vec<PluginHandle>,
}

impl ChainTable {
    /// A table without a link.
    pub fn empty() -> ChainTable {
        ChainTable {
            generation: 0,
            chains: std::array::from_fn(|_| Chain::default()),
            instances: Vec::new(),
            suspended_plugins: Vec::new(),
        }
    }

    /// Compiles links, given in order of mounting, into chains: higher priority first, equal
    /// priority in order of mounting. A chain takes at most [`filter::LINKS_MAX`] links; the loader
    /// ensures that there are no more.
    pub fn compile(generation: u64, links: impl IntoIterator<Item = (HookPoint, Link)>) -> ChainTable {
        let mut lists: [Vec<Link>; POINTS] = std::array::from_fn(|_| Vec::new());
        for (point, link) in links {
            lists[point as usize].push(link);
        }
        let chains = lists.map(|mut list| {
            list.sort_by_key(|link| std::cmp::Reverse(link.priority));
            list.truncate(filter::LINKS_MAX);
            let counts = vec![LinkCounts::default(); list.len()].into_boxed_slice();
            let filters = filter::Filters::of(list.iter().map(|link| link.topics.as_deref()));
            let delivers = list.iter().any(|link| link.deliver);
            let straight = filters.is_none() && !list.iter().any(|link| link.entry.has_args());
            let links = list.into_boxed_slice();
            Chain { links, counts, filters, runs: 0, straight_runs: 0, straight, delivers }
        });
        ChainTable { generation, chains, instances: Vec::new(), suspended_plugins: Vec::new() }
    }

    /// Adds the instances of the plugins, for timers and instance messages.
    #[must_use]
    pub fn with_instances(self, instances: Vec<(PluginHandle, InstanceEntry)>) -> ChainTable {
        ChainTable { instances, ..self }
    }

    /// Sets which plugins of [`ChainTable::with_instances`] are disabled or tripped.
    #[must_use]
    pub fn with_suspended_plugins(self, suspended: Vec<PluginHandle>) -> ChainTable {
        ChainTable { suspended_plugins: suspended, ..self }
    }

    /// Whether a plugin is disabled or tripped: its timers and instance messages wait.
    pub fn is_plugin_suspended(&self, plugin: PluginHandle) -> bool {
        self.suspended_plugins.contains(&plugin)
    }

    /// The instance of a plugin, if it is in the table and not suspended.
    pub fn instance_awake(&self, plugin: PluginHandle) -> Option<InstanceEntry> {
        self.instance(plugin).filter(|_| !self.is_plugin_suspended(plugin))
    }

    /// The instance of a plugin, if it is in the table.
    pub fn instance(&self, plugin: PluginHandle) -> Option<InstanceEntry> {
        self.instances.iter().find(|(handle, _)| *handle == plugin).map(|(_, instance)| *instance)
    }

    /// The name of a plugin that has a link in the table.
    pub fn plugin_name(&self, plugin: PluginHandle) -> Option<&str> {
        let mut links = self.chains.iter().flat_map(|chain| chain.links.iter());
        let link = links.find(|link| link.plugin == plugin)?;
        link.name.split('/').next()
    }

    /// Whether client.authorize gives the same answers with both tables, so that cached verdicts
    /// stay valid: the same links in the same order, with the same topics and policies.
    pub fn authorizes_like(&self, other: &ChainTable) -> bool {
        let (mine, theirs) =
            (self.chain(HookPoint::ClientAuthorize), other.chain(HookPoint::ClientAuthorize));
        mine.links.len() == theirs.links.len()
            && mine.links.iter().zip(&theirs.links).all(|(a, b)| verdict::answers_alike(a, b))
    }

    /// The plugins that have an instance in this table and none in the other one.
    pub fn plugins_removed(&self, after: &ChainTable) -> Vec<PluginHandle> {
        let gone = self.instances.iter().filter(|(handle, _)| after.instance(*handle).is_none());
        gone.map(|(handle, _)| *handle).collect()
    }

    /// Whether a link is in some chain.
    pub(crate) fn has_link(&self, link: LinkIdentity) -> bool {
        self.chains.iter().flat_map(|chain| &chain.links).any(|one| one.identity == link)
    }

    /// Number of calls of all its links.
    pub fn calls(&self) -> u64 {
        self.chains.iter().flat_map(Chain::links).map(|(_, stats)| stats.calls).sum()
    }

    /// The generation of the table, counted by the loader.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The chain of a hook point.
    #[inline]
    pub fn chain(&self, point: HookPoint) -> &Chain {
        &self.chains[point as usize]
    }

    /// The chain of a hook point, to run it.
    #[inline]
    pub fn chain_mut(&mut self, point: HookPoint) -> &mut Chain {
        &mut self.chains[point as usize]
    }
}

/// Text from a plugin.
fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(Status::INVALID)
}

/// Text that fits an MQTT string (section 1.5.4).
fn short_text(bytes: &[u8]) -> Result<&str, Status> {
    if bytes.len() > usize::from(u16::MAX) {
        return Err(Status::INVALID);
    }
    text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_link_are_summed() {
        let mut latency = latency::Latency::default();
        latency.record(100);
        let one = LinkStats { calls: 2, stops: 3, deferrals: 5, faults: 7, latency };
        let mut all = one;
        all.merge(&one);
        all.merge(&LinkStats { calls: 1, ..LinkStats::default() });
        assert_eq!((all.calls, all.stops, all.deferrals, all.faults), (5, 6, 10, 14));
        assert_eq!(all.latency.samples, 2);
    }
}
