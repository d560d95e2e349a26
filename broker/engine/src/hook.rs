//! Hook chains: links sorted once, called in one loop. A flow runs a chain and turns what it ends with into a verdict;
//! nothing here knows what a session or a route is.

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

/// A plugin on this broker, as index and generation: each load or reload has another one. It is what
/// [`grapnel_plugin_abi::raw::HostApi::plugin`] holds, and it names the plugin in logs and statistics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PluginHandle(pub u64);

impl PluginHandle {
    /// The number of the plugin's name: the same for every version of it.
    pub fn number(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// Plugin name and hook name as one number, the same for every version of the plugin: an event that waited through a reload
/// skips the links it has visited by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkIdentity(pub u32);

/// A function of a plugin with its instance on this shard, as the loader mounts it.
#[derive(Clone, Debug)]
pub struct Link {
    /// What is called.
    pub entry: Entry,
    /// Whose it is.
    pub plugin: PluginHandle,
    /// Stays through reloads.
    pub identity: LinkIdentity,
    /// Name of plugin and hook, for people.
    pub name: Arc<str>,
    /// Higher runs earlier; equal ones in order of mounting.
    pub priority: i32,
    /// How long a deferred verdict may take, milliseconds.
    pub deadline_ms: u32,
    /// What a fault or a missed deadline means.
    pub policy: FaultPolicy,
    /// Only topics that match one of these filters, which are valid; `None` for all.
    pub topics: Option<Arc<[Box<str>]>>,
    /// Whether it is asked for deliveries at client.authorize.
    pub deliver: bool,
    /// Which bit of a message's ancestry stands for its plugin, 0 to 63; the same for every version of the plugin.
    pub bit: u8,
}

impl Link {
    /// Its plugin in the ancestry of a message.
    #[inline]
    pub fn ancestry_bit(&self) -> u64 {
        1 << (self.bit & 63)
    }
}

/// Something that a hook wanted to make of a message and that no message may be. What the hook did in that call is undone, and
/// its fault policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose hook.
    pub plugin: PluginHandle,
    /// Which.
    pub link: LinkIdentity,
    /// Name of plugin and hook, for people.
    pub name: Arc<str>,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Why an accumulator cannot take a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CannotTake {
    /// What the hook is answered.
    pub status: Status,
    /// The reason in words, where it is something that no message may be.
    pub reason: Option<&'static str>,
}

impl CannotTake {
    /// INVALID, for this reason.
    fn because(reason: &'static str) -> CannotTake {
        CannotTake { status: Status::INVALID, reason: Some(reason) }
    }
}

impl From<Status> for CannotTake {
    fn from(status: Status) -> CannotTake {
        CannotTake { status, reason: None }
    }
}

/// What one link did since its chain was compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Times it was called.
    pub calls: u64,
    /// Times it ended the chain.
    pub stops: u64,
    /// Times it answered later.
    pub deferrals: u64,
    /// Panics, nonsense and missed deadlines.
    pub faults: u64,
    /// How long its calls took, of which some are timed.
    pub latency: latency::Latency,
}

impl LinkStats {
    /// Adds what the same link has counted elsewhere.
    pub fn merge(&mut self, other: &LinkStats) {
        self.calls += other.calls;
        self.stops += other.stops;
        self.deferrals += other.deferrals;
        self.faults += other.faults;
        self.latency.merge(&other.latency);
    }
}

/// What a chain counts of one link.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkCounts {
    /// All but the calls of straight walks.
    stats: LinkStats,
    /// Straight walks that it ended.
    straight_ends: u64,
    /// Of its calls, those that acted for a tripped plugin.
    tripped: u64,
}

/// The links of one hook point in the order in which they run.
#[derive(Debug, Default)]
pub struct Chain {
    pub(crate) links: Box<[Link]>,
    counts: Box<[LinkCounts]>,
    filters: Option<Box<filter::Filters>>,
    /// Times it was run, for the sample of what is timed.
    runs: u64,
    /// Times it was run without a look at each link. Each was a call of the first link, and of each further one where no link
    /// before had ended it.
    straight_runs: u64,
    /// Whether that can be done: no link has filters or arguments.
    straight: bool,
    /// Whether a link asks for deliveries.
    delivers: bool,
}

impl Chain {
    /// The links with what they did, in order.
    pub fn links(&self) -> impl Iterator<Item = (&Link, LinkStats)> {
        let mut straight_calls = self.straight_runs;
        self.links.iter().zip(&self.counts).map(move |(link, count)| {
            let calls = count.stats.calls + straight_calls - count.tripped;
            straight_calls -= count.straight_ends;
            (link, LinkStats { calls, ..count.stats })
        })
    }

    /// What a link at this place has done, to be counted further.
    pub(crate) fn stats_mut(&mut self, place: usize) -> Option<&mut LinkStats> {
        self.counts.get_mut(place).map(|count| &mut count.stats)
    }

    /// Whether nobody is mounted.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether a link asks for deliveries at client.authorize.
    #[inline]
    pub fn delivers(&self) -> bool {
        self.delivers
    }
}

/// All chains of a shard. Swapped whole between two steps of the shard, never inside one.
#[derive(Debug)]
pub struct ChainTable {
    generation: u64,
    chains: [Chain; POINTS],
    /// The plugins that are in it, for what is called outside of events.
    instances: Vec<(PluginHandle, InstanceEntry)>,
    /// Those of them that are disabled or tripped: what is called outside of events waits for them.
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

    /// Compiles links, given in order of mounting, into chains: higher priority first, equal priority as mounted. A chain has at
    /// most [`filter::LINKS_MAX`] links, which the loader sees to; more are left out.
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

    /// With the plugins' instances, for timers and instance messages.
    #[must_use]
    pub fn with_instances(self, instances: Vec<(PluginHandle, InstanceEntry)>) -> ChainTable {
        ChainTable { instances, ..self }
    }

    /// With those plugins of [`ChainTable::with_instances`] that are disabled or tripped.
    #[must_use]
    pub fn with_suspended_plugins(self, suspended: Vec<PluginHandle>) -> ChainTable {
        ChainTable { suspended_plugins: suspended, ..self }
    }

    /// Whether a plugin is disabled or tripped: its timers and instance messages wait.
    pub fn is_plugin_suspended(&self, plugin: PluginHandle) -> bool {
        self.suspended_plugins.contains(&plugin)
    }

    /// The instance of a plugin, if it is in the table and may be called.
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

    /// Whether client.authorize would say the same in both tables, so that what was said under one counts
    /// under the other: the same links in the same order, for the same topics, with the same policies.
    pub fn authorizes_like(&self, other: &ChainTable) -> bool {
        let (mine, theirs) =
            (self.chain(HookPoint::ClientAuthorize), other.chain(HookPoint::ClientAuthorize));
        mine.links.len() == theirs.links.len()
            && mine.links.iter().zip(&theirs.links).all(|(a, b)| verdict::answers_alike(a, b))
    }

    /// The plugins that have an instance here and none in the other table.
    pub fn plugins_removed(&self, after: &ChainTable) -> Vec<PluginHandle> {
        let gone = self.instances.iter().filter(|(handle, _)| after.instance(*handle).is_none());
        gone.map(|(handle, _)| *handle).collect()
    }

    /// Whether a link is in some chain.
    pub(crate) fn has_link(&self, link: LinkIdentity) -> bool {
        self.chains.iter().flat_map(|chain| &chain.links).any(|one| one.identity == link)
    }

    /// How many calls its links have had.
    pub fn calls(&self) -> u64 {
        self.chains.iter().flat_map(Chain::links).map(|(_, stats)| stats.calls).sum()
    }

    /// The version of the table, as the loader counted it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The chain of a point.
    #[inline]
    pub fn chain(&self, point: HookPoint) -> &Chain {
        &self.chains[point as usize]
    }

    /// The chain of a point, to be run.
    #[inline]
    pub fn chain_mut(&mut self, point: HookPoint) -> &mut Chain {
        &mut self.chains[point as usize]
    }
}

/// Text that a plugin gave.
fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(Status::INVALID)
}

/// Text that fits a string of MQTT (section 1.5.4).
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
    fn what_a_link_has_counted_in_several_places_adds_up() {
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
