//! exhook: runs hooks in separate processes. Each worker has a thread here. Shards put events into
//! its queue and continue. An event that needs an answer is suspended with a ticket (PROTOCOL.md
//! describes the frames).

mod call_queue;
mod calls;
mod clients;
mod command;
mod config;
mod frame;
mod handover;
mod hooks;
mod logins;
mod notices;
mod pending_calls;
mod printed;
mod process;
mod queue;
mod serving;
mod shrink;
mod shutdown;
mod stats;
mod verbs;
mod verdict;
mod wire;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use grapnel_plugin_abi::{
    Error, FaultPolicy, HookCalls, HookPoint, Host, InstanceMessage, Journal, Mounting, Pieces, Plugin,
    Timer, Verbs,
};

use call_queue::CallQueue;
use clients::{ClientLimits, Clients};
use config::{Config, PLACES, RawConfig};
use logins::{LoginStore, PENDING_TIME_MAX, hash_of};
use stats::{Kinds, WorkerStats};
use wire::{Ready, RequestedHook};
use worker::Worker;

/// How much longer the broker waits than the worker's thread, which fails calls by policy at its
/// own timeout.
const GRACE: Duration = Duration::from_millis(500);

/// The state that all shards share.
pub(crate) struct Exhook {
    host: Host,
    pools: Vec<Arc<Pool>>,
}

/// The workers of one driver.
pub(crate) struct Pool {
    config: Arc<Config>,
    queues: Vec<Arc<CallQueue>>,
    /// The login data of each worker.
    logins: Vec<Arc<LoginStore>>,
    /// Whether the broker has started.
    started: Arc<AtomicBool>,
    /// The hooks that the workers request, by hook point.
    wanted: BTreeMap<HookPoint, RequestedHook>,
    /// Whether the workers store login data.
    stores_logins: bool,
}

/// The instance of a shard.
pub(crate) struct ExhookShard {
    shard: u32,
    /// Number of this load of the plugin.
    load: u64,
    /// By [`Driver::place`].
    pools: [Option<PoolShard>; PLACES],
    /// The broker, and the timer that is armed. `None` in tests without a broker.
    host: Option<Host>,
    timer: Option<Timer>,
    /// Changes during a handover to another version, and whether one was begun.
    journal: Journal<(String, String)>,
    hands_over: bool,
}

/// A pool's state on one shard.
pub(crate) struct PoolShard {
    pool: Arc<Pool>,
    /// The clients that each worker knows.
    clients: Vec<Clients>,
    /// The client whose CONNACK came last, until its client.connected, and the number of the session
    /// that it begins; 0 if it resumes one.
    let_in: Option<(Box<str>, u64)>,
}

/// Pending logins that a shard records for one worker: this fraction of `clients_max`, but at least
/// the broker's default of `limits.connects_pending_max`.
const PENDING_LOGINS_SHARE: usize = 8;
/// See [`PENDING_LOGINS_SHARE`].
const PENDING_LOGINS_MIN: usize = 16_384;

/// The hook points that say how connections and sessions begin and end.
const LIFE: [HookPoint; 8] = [
    HookPoint::ClientConnack,
    HookPoint::ClientConnected,
    HookPoint::ClientDisconnected,
    HookPoint::SessionCreated,
    HookPoint::SessionResumed,
    HookPoint::SessionDiscarded,
    HookPoint::SessionTakenover,
    HookPoint::SessionTerminated,
];

/// How often a shard checks for expired pending logins, and how soon again if there were many.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Plugin for Exhook {
    type Config = RawConfig;
    type Shard = ExhookShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: RawConfig, host: &Host) -> Result<Exhook, Error> {
        let configs = config.read(host.file().and_then(Path::parent))?;
        let started: Vec<_> =
            configs.into_iter().map(|config| Starting::new(config, *host)).collect::<Result<_, _>>()?;
        let pools = started.into_iter().map(Starting::ready).collect::<Result<Vec<_>, _>>()?;
        // In `load` and not in `activate`: a version that replaces another is called from its first
        // moment on. After all drivers are ready: if one of them cannot run, no hook is mounted.
        pools.iter().try_for_each(|pool| pool.mount(*host))?;
        Ok(Exhook { host: *host, pools })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<ExhookShard, Error> {
        let mut pools = [const { None }; PLACES];
        for pool in &self.pools {
            let clients_max = pool.config.clients_max as usize;
            let places = ClientLimits {
                clients_max,
                pending_max: PENDING_LOGINS_MIN.max(clients_max / PENDING_LOGINS_SHARE),
                pending_bytes_max: usize::try_from(pool.config.queue.bytes_max).unwrap_or(usize::MAX),
                pending_time_max: pool.config.call_timeout + PENDING_TIME_MAX,
                stores_logins: pool.stores_logins,
            };
            let clients =
                pool.logins.iter().map(|logins| Clients::new(shard, places, Arc::clone(logins))).collect();
            pools[pool.config.driver.place()] =
                Some(PoolShard { pool: Arc::clone(pool), clients, let_in: None });
        }
        let load = self.host.handle();
        let (host, journal) = (Some(self.host), Journal::default());
        let mut shard = ExhookShard { shard, load, pools, host, timer: None, journal, hands_over: false };
        shard.arm_expiry(LOOK);
        Ok(shard)
    }

    fn on_timer(shard: &mut ExhookShard, timer: Timer, _number: u64) {
        if shard.timer == Some(timer) {
            shard.expire_pending();
        }
    }

    /// From now on no hook here reports which sessions end, so workers with state of sessions are
    /// renewed before this is enabled again. In a reload no hook is called after this.
    fn deactivate(self: &Arc<Self>) {
        for pool in self.pools.iter().filter(|pool| pool.stores_logins) {
            pool.queues.iter().for_each(|queue| queue.outdate());
        }
    }

    fn verbs() -> Verbs<Exhook> {
        verbs::verbs()
    }

    /// Called when hooks that report sessions are removed from this shard, or before the first of
    /// them is called again: the operator removed them, or the plugin was disabled or tripped, or
    /// the version before was at the handover. Session ends in between are reported neither here
    /// nor to the workers.
    ///
    /// A driver whose own hooks are called as before has missed nothing.
    fn configured(self: &Arc<Self>, shard: &mut ExhookShard) {
        let calls = |point, name: &str| self.host.hook_calls(point, name).ok();
        let missed = |of: &&mut PoolShard| of.pool.stores_logins && of.pool.hooks_have_changed(calls);
        for PoolShard { pool, let_in, .. } in shard.pools.iter_mut().flatten().filter(missed) {
            *let_in = None;
            pool.logins.iter().for_each(|logins| logins.mark_uncertain(shard.shard));
            pool.queues.iter().for_each(|queue| queue.outdate());
        }
    }

    /// A late report of login data from a worker of the version before.
    fn on_instance_message(shard: &mut ExhookShard, message: &InstanceMessage<'_>) {
        shard.late(message.bytes);
    }

    /// Login data is handed over: clients do not log in again for a reload.
    fn pieces(shard: &mut ExhookShard) -> Option<&mut dyn Pieces> {
        Some(shard)
    }
}

/// A pool whose workers are being started.
struct Starting {
    config: Arc<Config>,
    queues: Vec<Arc<CallQueue>>,
    logins: Vec<Arc<LoginStore>>,
    started: Arc<AtomicBool>,
    ready: Vec<Receiver<Result<Ready, String>>>,
}

impl Starting {
    /// Starts all workers of a driver.
    fn new(config: Config, host: Host) -> Result<Starting, Error> {
        let config = Arc::new(config);
        for path in &config.missing {
            host.warn(format_args!(
                "path: there is no {}; the others are searched, as in EMQX",
                path.display()
            ));
        }
        let started = Arc::new(AtomicBool::new(host.has_started()));
        let kinds = Arc::new(Kinds::new(host, config.driver.name()));
        let (mut lines, mut ready, mut all_kept) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.pool_size {
            let stats = WorkerStats::new(host, config.driver.name(), index, Arc::clone(&kinds));
            let queue = Arc::new(CallQueue::new(config.queue, stats)?);
            let name = format!("worker_{}_{index}_logins_lost", config.driver.name());
            let lost =
                host.counter(&name, "Logins that hooks have kept something of, for which there was no room");
            let bytes_max = (config.login_bytes_max, config.logins_bytes_max);
            let logins = Arc::new(LoginStore::new(bytes_max, config.clients_max as usize, lost.ok()));
            let (first, answer) = sync_channel(1);
            let worker = Worker {
                config: Arc::clone(&config),
                queue: Arc::clone(&queue),
                logins: Arc::clone(&logins),
                host,
                index,
                first: Some(first),
                started: Arc::clone(&started),
                stores_logins: None,
                wrong: 0,
                late: 0,
                lost: Default::default(),
                not_stored: Default::default(),
                not_done: Default::default(),
            };
            host.spawn_for(&worker.name(), Worker::patience(&config), move |_host| worker.run())?;
            lines.push(queue);
            all_kept.push(logins);
            ready.push(answer);
        }
        Ok(Starting { config, queues: lines, logins: all_kept, started, ready })
    }

    /// Waits until the workers are ready, and collects the hooks that they request.
    fn ready(self) -> Result<Arc<Pool>, Error> {
        let Starting { config, queues: lines, logins: kept, started, ready } = self;
        let (mut wanted, mut stores_logins) = (BTreeMap::new(), false);
        for answer in ready {
            let ready = answer.recv().map_err(|_| Error::new("a worker's thread has ended"))?;
            let Ready { hooks, stores_logins: this_keeps, .. } = ready.map_err(Error::new)?;
            stores_logins |= this_keeps;
            for hook in hooks {
                add(&mut wanted, hook)?;
            }
        }
        apply_topics(&config, &mut wanted)?;
        Ok(Arc::new(Pool { config, queues: lines, logins: kept, started, wanted, stores_logins }))
    }
}

/// Adds one hook that a worker requests to those of the others.
fn add(wanted: &mut BTreeMap<HookPoint, RequestedHook>, hook: RequestedHook) -> Result<(), Error> {
    let Some(point) = HookPoint::ALL.iter().copied().find(|point| point.name() == hook.point) else {
        return Err(Error::new(format!(
            "a worker requests the hook point {:?}, which does not exist",
            hook.point
        )));
    };
    let answers = hook.answers && point.may_defer();
    match wanted.get_mut(&point) {
        None => {
            wanted.insert(point, RequestedHook { answers, ..hook });
        }
        Some(before) => {
            before.answers |= answers;
            before.deliver |= hook.deliver;
            // An empty list means all topics.
            if hook.topics.is_empty() {
                before.topics.clear();
            } else if !before.topics.is_empty() {
                let more = hook.topics.into_iter().filter(|topic| !before.topics.contains(topic));
                before.topics.extend(more.collect::<Vec<_>>());
            }
        }
    }
    Ok(())
}

/// Replaces the workers' topic filters by the operator's.
fn apply_topics(config: &Config, wanted: &mut BTreeMap<HookPoint, RequestedHook>) -> Result<(), Error> {
    for (name, topics) in &config.topics {
        // EMQX writes message_publish, we write message.publish.
        let point = HookPoint::ALL
            .iter()
            .copied()
            .find(|point| point.name().replace('.', "_") == name.replace('.', "_"));
        let Some(point) = point.filter(|point| point.has_topics()) else {
            return Err(Error::new(format!(
                "topics.{name}: there is no hook point about messages of that name"
            )));
        };
        if let Some(hook) = wanted.get_mut(&point) {
            hook.topics.clone_from(topics);
        }
    }
    Ok(())
}

impl Pool {
    /// Mounts the hooks that the workers request.
    fn mount(&self, host: Host) -> Result<(), Error> {
        for (point, wanted) in &self.wanted {
            let mut mounting = Mounting::new()
                .point(*point)
                .deadline(self.deadline())
                .fault(self.policy(*point))
                .deliver(wanted.deliver);
            if !wanted.topics.is_empty() && point.has_topics() {
                mounting = mounting.topics(wanted.topics.iter().map(String::as_str));
            }
            let mounted = host.mount::<Exhook>(hooks::name(*point, self.config.driver.place()), &mounting);
            mounted.map_err(|refused| Error::new(format!("{}: {refused}", point.name())))?;
        }
        for point in self.own_points() {
            let mounting = Mounting::new().point(point).deadline(self.deadline()).fault(FaultPolicy::Ignore);
            let mounted = host.mount::<Exhook>(hooks::name(point, self.config.driver.place()), &mounting);
            mounted.map_err(|refused| Error::new(format!("{}: {refused}", point.name())))?;
        }
        Ok(())
    }

    /// Hook points that no worker requests and exhook needs itself. They show which pending logins
    /// are refused or succeed, if hooks are called before a client is in; and which session stored
    /// login data belongs to, and when it ends.
    fn own_points(&self) -> impl Iterator<Item = HookPoint> {
        let is_wanted = |point| self.wanted.contains_key(&point);
        let before_it_is_in =
            [HookPoint::ClientConnect, HookPoint::ClientAuthenticate, HookPoint::ClientAuthorize];
        let logins = self.stores_logins || before_it_is_in.into_iter().any(is_wanted);
        let keeping = [HookPoint::ClientConnected, HookPoint::SessionDiscarded, HookPoint::SessionTerminated];
        let all = logins.then_some(HookPoint::ClientConnack).into_iter();
        let all = all.chain(keeping.into_iter().filter(|_| self.stores_logins));
        all.filter(|point| !self.wanted.contains_key(point))
    }

    /// Whether other hooks of this driver about connections and sessions are called than before.
    /// `calls` is what the broker says of a hook; `None` counts as a change.
    fn hooks_have_changed(&self, calls: impl Fn(HookPoint, &str) -> Option<HookCalls>) -> bool {
        let place = self.config.driver.place();
        let mut calls = LIFE.iter().map(|point| calls(*point, hooks::name(*point, place)));
        calls.any(|calls| calls.is_none_or(HookCalls::has_changed))
    }

    /// The result of a failed call at a point.
    pub(crate) fn policy(&self, point: HookPoint) -> FaultPolicy {
        self.config.policy(point)
    }

    /// How long the broker waits for an answer.
    pub(crate) fn deadline(&self) -> Duration {
        self.config.call_timeout + GRACE
    }

    /// Whether the broker waits for an answer there.
    pub(crate) fn answers(&self, point: HookPoint) -> bool {
        self.wanted.get(&point).is_some_and(|wanted| wanted.answers)
    }

    /// The worker of a client: always the same one, even after a restart of the broker.
    pub(crate) fn worker_of(&self, client_id: &str) -> usize {
        self.worker_of_hash(hash_of(client_id))
    }

    /// The same, by the hash of the client identifier.
    pub(crate) fn worker_of_hash(&self, hash: u64) -> usize {
        usize::try_from(hash % self.queues.len().max(1) as u64).unwrap_or(0)
    }
}
