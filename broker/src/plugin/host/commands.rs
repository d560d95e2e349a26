//! Commands of plugins (publish, kick, subscribe, timers, instance messages and more): checked
//! here, on the plugin's thread, and passed to the shard, which runs them between two events.
//! Called by `services` alone.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use grapnel_engine::hook::view::Action;
use grapnel_engine::hook::{PluginHandle, outgoing};
use grapnel_engine::limits::Limits;
use grapnel_engine::message::FlowPart;
use grapnel_engine::packet::{QoS, SubscriptionOptions};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::session::Identity;
use grapnel_engine::session::fetch::{Fetch, FetchPlace};
use grapnel_engine::shard::{
    Command, FROM_A_THREAD, OnBehalf, Outcome, Scope, Search, Whom, Wish, home_among,
};
use grapnel_engine::topic;
use grapnel_plugin_abi::host::{self, Behalf, PageWanted, PluginMessage};
use grapnel_plugin_abi::raw::{ALL_SHARDS, Action as RawAction, Status};

use super::HostSettings;
use super::flows::Flows;
use super::suspended::SuspendedRequests;
use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

/// The state of a generation that may send commands.
struct Account {
    name: Arc<str>,
    /// Its bit in the ancestry of messages.
    bit: u64,
    /// Whether a message may carry the bit.
    led: AtomicBool,
    /// High half: the current second since the start. Low half: publishes in that second.
    published: AtomicU64,
    replayed: AtomicBool,
    flows: Mutex<Flows>,
    /// Number of commands about clients that had no effect.
    missed: AtomicU64,
    /// Shared with the previous version if this one has taken over its state: the answers to both
    /// wait for the same plugin.
    suspended: RwLock<Arc<SuspendedRequests>>,
}

struct Bounds {
    limits: Arc<Limits>,
    shell: ShellLimits,
}

/// Checks and passes the commands of all plugins; one per process.
pub(in crate::plugin) struct CommandQueue {
    accounts: RwLock<HashMap<u64, Arc<Account>>>,
    shards: RwLock<Vec<ShardHandle>>,
    bounds: RwLock<Arc<Bounds>>,
    /// The keys by which clients are assigned to shards.
    home_keys: RwLock<[u64; 4]>,
    timers: AtomicU64,
    begin: Instant,
}

impl Default for CommandQueue {
    fn default() -> CommandQueue {
        let bounds = Bounds { limits: Arc::default(), shell: ShellLimits::default() };
        CommandQueue {
            accounts: RwLock::default(),
            shards: RwLock::default(),
            bounds: RwLock::new(Arc::new(bounds)),
            home_keys: RwLock::default(),
            timers: AtomicU64::new(1),
            begin: Instant::now(),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl CommandQueue {
    /// Sets the shards and the limits.
    pub(in crate::plugin) fn attach(&self, settings: &HostSettings) {
        (*write(&self.shards)).clone_from(&settings.shards);
        let (limits, shell) = (Arc::clone(&settings.message_limits), settings.limits.clone());
        *write(&self.bounds) = Arc::new(Bounds { limits, shell });
        *write(&self.home_keys) = settings.home_keys;
    }

    /// Admits a generation: it may send commands from now on. Its messages carry this bit in their
    /// ancestry. `leads` if its hooks can add messages without a command.
    pub(in crate::plugin) fn admit(&self, plugin: PluginHandle, name: &Arc<str>, bit: u8, leads: bool) {
        let account = Account {
            name: Arc::clone(name),
            bit: 1 << (bit & 63),
            led: AtomicBool::new(leads),
            published: AtomicU64::new(0),
            replayed: AtomicBool::new(false),
            flows: Mutex::default(),
            missed: AtomicU64::new(0),
            suspended: RwLock::default(),
        };
        write(&self.accounts).insert(plugin.0, Arc::new(account));
    }

    /// Ends a generation: it gets STALE from now on. Returns whether messages may carry its bit.
    pub(in crate::plugin) fn dismiss(&self, plugin: PluginHandle) -> bool {
        let account = write(&self.accounts).remove(&plugin.0);
        account.is_some_and(|account| account.led.load(Ordering::Relaxed))
    }

    /// Sets whether a generation is suspended, that is, disabled or tripped.
    pub(in crate::plugin) fn set_suspended(&self, plugin: PluginHandle, is_suspended: bool) {
        if let Ok(account) = self.account(plugin.0) {
            read(&account.suspended).set(is_suspended);
        }
    }

    /// Shares the count of waiting requests between a generation and the one that takes over its
    /// state.
    pub(in crate::plugin) fn share_resting(&self, from: PluginHandle, to: PluginHandle) {
        if let (Ok(from), Ok(to)) = (self.account(from.0), self.account(to.0)) {
            let shared = Arc::clone(&read(&from.suspended));
            *write(&to.suspended) = shared;
        }
    }

    /// Notes that messages may carry the bit of this generation.
    pub(in crate::plugin) fn will_lead(&self, plugin: u64) -> Result<(), Status> {
        self.leading_account(plugin).map(drop)
    }

    fn account(&self, plugin: u64) -> Result<Arc<Account>, Status> {
        read(&self.accounts).get(&plugin).cloned().ok_or(Status::STALE)
    }

    /// The account of a generation, marked as one whose bit messages may carry. The mark is set
    /// under the lock, so that `dismiss` sees it.
    fn leading_account(&self, plugin: u64) -> Result<Arc<Account>, Status> {
        let accounts = read(&self.accounts);
        let account = accounts.get(&plugin).ok_or(Status::STALE)?;
        account.led.store(true, Ordering::Relaxed);
        Ok(Arc::clone(account))
    }

    fn bounds(&self) -> Arc<Bounds> {
        Arc::clone(&read(&self.bounds))
    }

    fn hand(&self, shard: &ShardHandle, command: Command) -> Result<(), Status> {
        let size = |max: u64| usize::try_from(max).unwrap_or(usize::MAX);
        let bounds = self.bounds();
        let (max, bytes_max) =
            (size(bounds.shell.plugin_commands_max), size(bounds.shell.plugin_commands_bytes_max));
        if shard.push_plugin_command(command, max, bytes_max) { Ok(()) } else { Err(Status::FULL) }
    }

    /// Passes a command to every shard, because only the client's shard can execute it.
    fn hand_to_all(&self, command: impl Fn() -> Command) -> Result<(), Status> {
        // A full queue of one shard must not keep the command from the other shards.
        let each = |done: Result<(), Status>, shard| done.and(self.hand(shard, command()));
        read(&self.shards).iter().fold(Ok(()), each)
    }

    /// As `hand_to_all`, for a command about a client. If it has no effect, that is logged with the
    /// command, the client id and the filter.
    fn seek(
        &self,
        account: &Arc<Account>,
        (asked, client_id, filter): (&'static str, &str, &str),
        command: impl Fn() -> Command,
    ) -> Result<(), Status> {
        let (whose, client_id, filter) = (Arc::clone(account), client_id.to_owned(), filter.to_owned());
        let search = Arc::new(Search::new(move |outcome| whose.missed(asked, &client_id, &filter, outcome)));
        let handed = self
            .hand_to_all(|| Command::Sought { search: Arc::clone(&search), command: Box::new(command()) });
        if handed.is_err() {
            // The plugin gets the error, so that nothing is logged.
            search.note(Outcome::Done);
        }
        handed
    }

    pub(in crate::plugin) fn publish(&self, plugin: u64, message: &PluginMessage<'_>) -> Result<(), Status> {
        let account = self.leading_account(plugin)?;
        let bounds = self.bounds();
        let (here, ancestry) = account.led_here();
        let (flow, store_only) = (message.flow, message.store_only);
        let mut message = outgoing::message_of(message, &account.name, ancestry, &bounds.limits)?;
        message.flow = (flow > 0).then(|| FlowPart::of(account.flows().count(flow)));
        if !account.may_publish(self.begin.elapsed().as_secs(), bounds.shell.plugin_publishes_per_second_max)
        {
            return Err(Status::FULL);
        }
        let shards = read(&self.shards);
        let shard = match &here {
            Some(here) => here,
            // Chosen by topic, so that each topic keeps its order.
            None => shards.get(shard_of(&message.topic, shards.len())).ok_or(Status::WRONG_MOMENT)?,
        };
        let plugin = PluginHandle(plugin);
        self.hand(
            shard,
            match store_only {
                true => Command::Store { plugin, message },
                false => Command::Publish { plugin, message },
            },
        )
    }

    pub(in crate::plugin) fn in_flight(&self, plugin: u64, flow: u32) -> Result<u64, Status> {
        Ok(self.account(plugin)?.flows().in_flight(flow))
    }

    pub(in crate::plugin) fn publish_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        message: &PluginMessage<'_>,
    ) -> Result<(), Status> {
        let account = self.leading_account(plugin)?;
        if message.store_only {
            // Not possible on behalf of a client.
            return Err(Status::INVALID);
        }
        let bounds = self.bounds();
        let (_, ancestry) = account.led_here();
        let flow = message.flow;
        let mut message = outgoing::message_of(message, behalf.whom.client_id(), ancestry, &bounds.limits)?;
        message.flow = (flow > 0).then(|| FlowPart::of(account.flows().count(flow)));
        let whom = whom_of(behalf)?;
        if !account.may_publish(self.begin.elapsed().as_secs(), bounds.shell.plugin_publishes_per_second_max)
        {
            return Err(Status::FULL);
        }
        self.hand_as(plugin, behalf, whom, Wish::Publish(message))
    }

    pub(in crate::plugin) fn subscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        options: u8,
        id: u32,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        let options = self.options_of(filter, options, id)?;
        let wish = Wish::Subscribe { filter: filter.into(), options, id };
        self.hand_as(plugin, behalf, whom_of(behalf)?, wish)
    }

    pub(in crate::plugin) fn unsubscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        topic::parse_filter(filter).map_err(|_| Status::INVALID)?;
        self.hand_as(plugin, behalf, whom_of(behalf)?, Wish::Unsubscribe { filter: filter.into() })
    }

    pub(in crate::plugin) fn authorize_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        action: RawAction,
        topic: &str,
        (qos, retain): (u8, bool),
    ) -> Result<(), Status> {
        self.account(plugin)?;
        let action = match action {
            RawAction::PUBLISH => Action::Publish,
            RawAction::SUBSCRIBE => Action::Subscribe,
            RawAction::DELIVER => Action::Deliver,
            _ => return Err(Status::INVALID),
        };
        match action {
            Action::Subscribe => drop(self.filter_of(topic)?),
            _ => {
                topic::validate_name(topic).map_err(|_| Status::INVALID)?;
                self.check_topic(topic, topic)?;
            }
        }
        let qos = QoS::from_u8(qos).ok_or(Status::INVALID)?;
        self.hand_as(
            plugin,
            behalf,
            whom_of(behalf)?,
            Wish::Authorize { action, topic: topic.into(), qos, retain },
        )
    }

    pub(in crate::plugin) fn fetch_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        page: PageWanted<'_>,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        // A shared subscription gets no retained messages [MQTT 5.0 section 4.8.2].
        let fits = self.filter_of(filter)? == filter && page.messages_max > 0 && page.bytes_max > 0;
        let place = FetchPlace::decode(page.place)
            .filter(|place| fits && place.is_within(read(&self.shards).len()))
            .ok_or(Status::INVALID)?;
        let qos = QoS::from_u8(page.qos).ok_or(Status::INVALID)?;
        let PageWanted { messages_max, bytes_max, .. } = page;
        let fetch = Fetch { filter: filter.into(), qos, place, messages_max, bytes_max };
        self.hand_as(plugin, behalf, whom_of(behalf)?, Wish::Fetch(fetch))
    }

    /// Passes a request to the shard of the client's session.
    fn hand_as(&self, plugin: u64, behalf: &Behalf<'_>, whom: Whom, wish: Wish) -> Result<(), Status> {
        let shards = read(&self.shards);
        let home = home_among(shards.len(), *read(&self.home_keys), behalf.whom.client_id());
        let shard = shards.get(home.index()).ok_or(Status::WRONG_MOMENT)?;
        let (account, asked_max) = (self.account(plugin)?, self.bounds().limits.behalf_requests_max);
        let suspended = behalf.answer.map(|_| Arc::clone(&read(&account.suspended)));
        if let Some(suspended) = &suspended
            && !suspended.may_request(&account.name, behalf.whom.client_id(), asked_max)
        {
            shard.refuse_question();
            return Err(Status::FULL);
        }
        let (plugin, answer) = (PluginHandle(plugin), behalf.answer);
        let handed = self.hand(shard, Command::As(Box::new(OnBehalf { plugin, whom, answer, wish })));
        handed.inspect_err(|_| suspended.iter().for_each(|suspended| suspended.give_back()))
    }

    /// Checks and parses the options of a subscription.
    fn options_of(&self, filter: &str, options: u8, id: u32) -> Result<SubscriptionOptions, Status> {
        let options = SubscriptionOptions::from_byte(options).map_err(|_| Status::INVALID)?;
        self.filter_of(filter)?;
        if id > 268_435_455 { Err(Status::INVALID) } else { Ok(options) }
    }

    /// The part of a valid filter that is matched: without the prefix of a shared subscription.
    fn filter_of<'a>(&self, filter: &'a str) -> Result<&'a str, Status> {
        let parsed = topic::parse_filter(filter).map_err(|_| Status::INVALID)?;
        self.check_topic(filter, parsed.filter)?;
        Ok(parsed.filter)
    }

    /// Checks that a topic or filter is within the limits of length and levels that apply to
    /// clients.
    fn check_topic(&self, whole: &str, levels: &str) -> Result<(), Status> {
        let limits = &self.bounds().limits;
        let is_short = whole.len() as u64 <= limits.topic_bytes_max
            && topic::check_levels(levels, limits.topic_levels_max as u16).is_ok();
        if is_short { Ok(()) } else { Err(Status::INVALID) }
    }

    pub(in crate::plugin) fn kick(
        &self,
        plugin: u64,
        client_id: &str,
        reason: u8,
        discard: bool,
    ) -> Result<(), Status> {
        let account = self.account(plugin)?;
        let reason = ReasonCode(reason);
        if !reason.is_defined() || client_id.is_empty() {
            return Err(Status::INVALID);
        }
        self.seek(&account, ("kick", client_id, ""), || Command::Kick {
            client_id: client_id.into(),
            reason,
            discard,
        })
    }

    pub(in crate::plugin) fn subscribe(
        &self,
        plugin: u64,
        client_id: &str,
        filter: &str,
        options: u8,
        id: u32,
    ) -> Result<(), Status> {
        let account = self.account(plugin)?;
        let options = self.options_of(filter, options, id)?;
        self.seek(&account, ("subscribe", client_id, filter), || Command::Subscribe {
            client_id: client_id.into(),
            filter: filter.into(),
            options,
            id,
        })
    }

    pub(in crate::plugin) fn unsubscribe(
        &self,
        plugin: u64,
        client_id: &str,
        filter: &str,
    ) -> Result<(), Status> {
        let account = self.account(plugin)?;
        topic::parse_filter(filter).map_err(|_| Status::INVALID)?;
        self.seek(&account, ("unsubscribe", client_id, filter), || Command::Unsubscribe {
            client_id: client_id.into(),
            filter: filter.into(),
        })
    }

    pub(in crate::plugin) fn instance_message(
        &self,
        plugin: u64,
        to_shard: u32,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), Status> {
        self.account(plugin)?;
        if bytes.len() as u64 > self.bounds().shell.plugin_mail_bytes_max {
            return Err(Status::FULL);
        }
        let from = ShardHandle::here().map_or(FROM_A_THREAD, |here| u32::from(here.id().0));
        let bytes = Bytes::copy_from_slice(bytes);
        let message =
            || Command::InstanceMessage { plugin: PluginHandle(plugin), from, number, bytes: bytes.clone() };
        if to_shard == ALL_SHARDS {
            return self.hand_to_all(message);
        }
        let shards = read(&self.shards);
        self.hand(shards.get(to_shard as usize).ok_or(Status::INVALID)?, message())
    }

    pub(in crate::plugin) fn timer(&self, plugin: u64, after_ms: u64, number: u64) -> Result<u64, Status> {
        self.account(plugin)?;
        let here = ShardHandle::here().ok_or(Status::WRONG_MOMENT)?;
        if here.heartbeat().call().timers() >= self.bounds().shell.plugin_timers_max {
            return Err(Status::FULL);
        }
        let timer = self.timers.fetch_add(1, Ordering::Relaxed);
        let plugin = PluginHandle(plugin);
        self.hand(&here, Command::Timer { plugin, timer, after_ms, number })?;
        Ok(timer)
    }

    pub(in crate::plugin) fn cancel_timer(&self, plugin: u64, timer: u64) -> Result<(), Status> {
        self.account(plugin)?;
        let here = ShardHandle::here().ok_or(Status::WRONG_MOMENT)?;
        self.hand(&here, Command::CancelTimer { plugin: PluginHandle(plugin), timer })
    }

    pub(in crate::plugin) fn invalidate(
        &self,
        plugin: u64,
        scope: grapnel_plugin_abi::raw::Scope,
        what: &str,
    ) -> Result<(), Status> {
        use grapnel_plugin_abi::raw::Scope as Raw;
        self.account(plugin)?;
        let scope = match scope {
            Raw::ALL => Scope::All,
            Raw::CLIENT if !what.is_empty() => Scope::Client(what.into()),
            Raw::USER => Scope::User(what.into()),
            Raw::TOPIC_FILTER if topic::validate_filter(what).is_ok() => Scope::Topics(what.into()),
            _ => return Err(Status::INVALID),
        };
        let shards = read(&self.shards);
        // Never refused by a full queue: rights that are not checked again would stay granted.
        match &scope {
            // The state of a client and requests on its behalf are on the shard of its session.
            Scope::Client(client_id) => {
                let home = home_among(shards.len(), *read(&self.home_keys), client_id);
                shards.get(home.index()).into_iter().for_each(|shard| shard.invalidate(&scope));
            }
            _ => shards.iter().for_each(|shard| shard.invalidate(&scope)),
        }
        Ok(())
    }

    pub(in crate::plugin) fn replay(&self, plugin: u64) -> Result<(), Status> {
        if self.account(plugin)?.replayed.swap(true, Ordering::Relaxed) {
            return Err(Status::WRONG_MOMENT);
        }
        self.hand_to_all(|| Command::Replay { plugin: PluginHandle(plugin) })
    }
}

/// Converts the identity to the engine's form.
fn whom_of(behalf: &Behalf<'_>) -> Result<Whom, Status> {
    Ok(match behalf.whom {
        host::Whom::Client(client_id) => Whom::Client(client_id.into()),
        host::Whom::Identity(kept) => {
            Whom::Identity(Box::new(Identity::from_stored(&kept).ok_or(Status::INVALID)?))
        }
    })
}

impl Account {
    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called when a command about a client had no effect. Logs the first, second, fourth, eighth …
    /// time.
    fn missed(&self, asked: &str, client_id: &str, filter: &str, outcome: Outcome) {
        let times = self.missed.fetch_add(1, Ordering::Relaxed) + 1;
        if !times.is_power_of_two() {
            return;
        }
        let why = match (asked, outcome) {
            (_, Outcome::Done) => return,
            (_, Outcome::Absent) => "no client of that name has a session here",
            ("kick", _) => "it is not connected; its session stays",
            ("unsubscribe", _) => "it has no such subscription",
            _ => "it may have no more subscriptions, or none of that kind",
        };
        let plugin = &*self.name;
        let about = if filter.is_empty() { String::new() } else { format!(" {filter:?}") };
        tracing::warn!(
            plugin,
            "{plugin}: {asked}{about} of client {client_id:?} is not done: {why} ({times} so far)"
        );
    }

    /// The shard whose hook sends the command, if a hook does, and the ancestry of the resulting
    /// message: the ancestry of the event and the plugin's own bit.
    fn led_here(&self) -> (Option<ShardHandle>, u64) {
        let here = ShardHandle::here().filter(|here| here.heartbeat().call().is_calling());
        let ancestry = here.as_ref().map_or(0, |here| here.heartbeat().call().ancestry()) | self.bit;
        (here, ancestry)
    }

    /// Counts a publish in this second; false beyond the limit.
    fn may_publish(&self, second: u64, max: u64) -> bool {
        let counted = self.published.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            let (then, count) = (before >> 32, before & u64::from(u32::MAX));
            let count = if then == second & u64::from(u32::MAX) { count } else { 0 };
            (count < max).then_some((second & u64::from(u32::MAX)) << 32 | (count + 1))
        });
        counted.is_ok()
    }
}

fn shard_of(topic: &str, shards: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(topic.as_bytes());
    (hasher.finish() % shards.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_engine::id::ShardId;
    use grapnel_plugin_abi::host::ClientIdentity;

    use super::*;

    fn command_queue() -> (CommandQueue, [ShardHandle; 2]) {
        let shards = [ShardHandle::new(ShardId(0)), ShardHandle::new(ShardId(1))];
        let commands = CommandQueue::default();
        *write(&commands.shards) = shards.to_vec();
        commands.admit(PluginHandle(5), &"five".into(), 9, false);
        (commands, shards)
    }

    fn message(topic: &[u8]) -> PluginMessage<'_> {
        PluginMessage {
            topic,
            payload: b"x",
            qos: 1,
            retain: false,
            store_only: false,
            payload_format: None,
            message_expiry_s: 0,
            flow: 0,
            content_type: None,
            response_topic: b"",
            correlation_data: None,
            from: b"",
            user_properties: Vec::new(),
        }
    }

    #[test]
    fn a_publish_of_a_thread_enters_the_shard_of_its_topic_and_names_its_maker() {
        let (commands, shards) = command_queue();
        commands.publish(5, &message(b"a/b")).unwrap();
        commands.publish(5, &message(b"a/b")).unwrap();
        let home = &shards[shard_of("a/b", 2)];
        for _ in 0..2 {
            let Some(Command::Publish { message, .. }) = home.next_plugin_command() else {
                panic!("it went to the other shard")
            };
            assert_eq!((&*message.from, message.ancestry), ("five", 1 << 9));
        }
        assert_eq!(commands.publish(5, &message(b"a/+")), Err(Status::INVALID));
        assert!(commands.dismiss(PluginHandle(5)), "it has led to messages");
        assert_eq!(commands.publish(5, &message(b"a/b")), Err(Status::STALE));
    }

    fn somebody(client_id: &str) -> ClientIdentity<'_> {
        ClientIdentity {
            client_id,
            username: Some("ann"),
            superuser: false,
            anonymous: false,
            clean_start: true,
            proto_ver: 5,
            keep_alive_s: 0,
            expiry_s: 0,
            receive_maximum: 1,
            connected_at_ms: 0,
            connection: 1,
            session: 1,
            peer: None,
            local: None,
            listener: "default",
            properties: b"",
        }
    }

    #[test]
    fn what_is_asked_on_behalf_of_a_client_goes_to_its_shard_and_in_its_name() {
        let (commands, shards) = command_queue();
        for number in 0..20 {
            let name = format!("c{number}");
            let home = home_among(2, [0; 4], &name).index();
            let identity = host::Whom::Identity(somebody(&name));
            for whom in [identity, host::Whom::Client(&name)] {
                let behalf = Behalf { whom, answer: Some(number) };
                commands.publish_as(5, &behalf, &message(b"a/b")).unwrap();
                let Some(Command::As(request)) = shards[home].next_plugin_command() else {
                    panic!("{name} went to the other shard")
                };
                let OnBehalf { plugin, answer, wish: Wish::Publish(message), .. } = *request else {
                    panic!()
                };
                assert_eq!((plugin, answer), (PluginHandle(5), Some(number)));
                assert_eq!((&*message.from, message.ancestry), (&*name, 1 << 9));
            }
        }
        assert!(commands.dismiss(PluginHandle(5)), "it has led to messages");
    }

    #[test]
    fn a_plugin_that_is_not_called_asks_so_much_and_is_refused_then() {
        let (commands, shards) = command_queue();
        let limits = Arc::new(Limits { behalf_requests_max: 3, ..Limits::default() });
        *write(&commands.bounds) = Arc::new(Bounds { limits, shell: ShellLimits::default() });
        let home = &shards[home_among(2, [0; 4], "c").index()];
        let asks = |answer| {
            let behalf = Behalf { whom: host::Whom::Client("c"), answer };
            (0..5).map(|_| commands.unsubscribe_as(5, &behalf, "a").is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(asks(Some(1)), [true; 5]);
        commands.set_suspended(PluginHandle(5), true);
        assert_eq!(asks(None), [true; 5], "it is told nothing");
        assert_eq!(asks(Some(1)), [true, true, true, false, false]);
        assert_eq!((home.take_refused_questions(), home.take_refused_questions()), (2, 0));
        assert_eq!(
            std::iter::from_fn(|| home.next_plugin_command()).count(),
            13,
            "nothing is done of the others"
        );
        // A version that has taken over the state shares the count with the old one.
        let next = PluginHandle(1 << 32 | 5);
        commands.admit(next, &"five".into(), 9, false);
        commands.share_resting(PluginHandle(5), next);
        commands.set_suspended(next, true);
        let behalf = Behalf { whom: host::Whom::Client("c"), answer: Some(1) };
        assert_eq!(commands.unsubscribe_as(next.0, &behalf, "a"), Err(Status::FULL));
        commands.set_suspended(next, false);
        assert_eq!(asks(Some(1)), [true; 5]);
        while home.next_plugin_command().is_some() {}
        // A command that the shard refuses is not counted.
        commands.set_suspended(PluginHandle(5), true);
        let limits = Arc::new(Limits { behalf_requests_max: 3, ..Limits::default() });
        let shell = ShellLimits { plugin_commands_max: 0, ..ShellLimits::default() };
        *write(&commands.bounds) = Arc::new(Bounds { limits: Arc::clone(&limits), shell });
        assert_eq!(asks(Some(1)), [false; 5]);
        *write(&commands.bounds) = Arc::new(Bounds { limits, shell: ShellLimits::default() });
        assert_eq!(asks(Some(1)), [true, true, true, false, false]);
    }

    #[test]
    fn what_cannot_be_asked_on_behalf_of_a_client_is_refused() {
        let (commands, shards) = command_queue();
        let good = Behalf { whom: host::Whom::Client("c"), answer: None };
        // Properties that no CONNECT may have.
        let wrong = ClientIdentity { properties: b"\x01\x00", ..somebody("c") };
        let wrong = Behalf { whom: host::Whom::Identity(wrong), answer: None };
        let publish = |behalf, topic| commands.publish_as(5, behalf, &message(topic));
        assert_eq!(publish(&wrong, b"a/b"), Err(Status::INVALID));
        assert_eq!(publish(&good, b"a/+"), Err(Status::INVALID));
        assert_eq!(commands.subscribe_as(5, &good, "a/#/b", 0, 0), Err(Status::INVALID));
        assert_eq!(commands.subscribe_as(5, &good, "a", 3, 0), Err(Status::INVALID));
        assert_eq!(commands.subscribe_as(5, &good, "a", 0, 268_435_456), Err(Status::INVALID));
        assert_eq!(commands.unsubscribe_as(5, &good, ""), Err(Status::INVALID));
        for (action, topic) in [
            (RawAction::WILL, "a"),
            (RawAction(9), "a"),
            (RawAction::PUBLISH, "a/#"),
            (RawAction::SUBSCRIBE, "a#"),
        ] {
            assert_eq!(
                commands.authorize_as(5, &good, action, topic, (0, false)),
                Err(Status::INVALID),
                "{topic}"
            );
        }
        assert_eq!(
            commands.authorize_as(5, &good, RawAction::PUBLISH, "a", (3, false)),
            Err(Status::INVALID)
        );
        let page = PageWanted { qos: 1, place: &[], messages_max: 256, bytes_max: 1 << 20 };
        for (filter, wrong) in [
            ("a/#/b", page),
            // A shared subscription gets no retained messages.
            ("$share/g/a", page),
            ("a", PageWanted { qos: 3, ..page }),
            ("a", PageWanted { messages_max: 0, ..page }),
            ("a", PageWanted { bytes_max: 0, ..page }),
            // Places: invalid, of another layout, of a shard that does not exist, and not UTF-8.
            ("a", PageWanted { place: b"x", ..page }),
            ("a", PageWanted { place: b"\x02\x00", ..page }),
            ("a", PageWanted { place: b"\x01\x02a", ..page }),
            ("a", PageWanted { place: b"\x01\x00\xff", ..page }),
        ] {
            assert_eq!(
                commands.fetch_as(5, &good, filter, wrong),
                Err(Status::INVALID),
                "{filter} {wrong:?}"
            );
        }
        assert!(shards.iter().all(|shard| shard.next_plugin_command().is_none()));
        commands.fetch_as(5, &good, "a/#", PageWanted { place: b"\x01\x01a", ..page }).unwrap();
        commands.fetch_as(5, &good, "a/#", PageWanted { messages_max: 1, bytes_max: 1, ..page }).unwrap();
        // The limits of the settings apply to a page.
        let all = PageWanted { messages_max: u32::MAX, bytes_max: u32::MAX, ..page };
        commands.fetch_as(5, &good, "a/#", all).unwrap();
        assert_eq!(commands.publish_as(6, &good, &message(b"a/b")), Err(Status::STALE));
        commands.subscribe_as(5, &good, "$share/g/a/#", 1, 7).unwrap();
        commands.authorize_as(5, &good, RawAction::SUBSCRIBE, "$share/g/a/#", (0, false)).unwrap();
    }

    #[test]
    fn publishes_are_bounded_in_each_second() {
        let (commands, _shards) = command_queue();
        let account = commands.account(5).unwrap();
        assert!((0..3).all(|_| account.may_publish(7, 3)));
        assert!(!account.may_publish(7, 3));
        assert!(account.may_publish(8, 3));
    }

    #[test]
    fn messages_of_a_flow_are_counted_until_nobody_holds_them() {
        let (commands, shards) = command_queue();
        let home = &shards[shard_of("a/b", 2)];
        let of = |flow| PluginMessage { flow, ..message(b"a/b") };
        assert_eq!(commands.in_flight(5, 1), Ok(0), "not known");
        for flow in [1, 1, 2, 0] {
            commands.publish(5, &of(flow)).unwrap();
        }
        assert_eq!(commands.publish(5, &PluginMessage { topic: b"a/+", ..of(1) }), Err(Status::INVALID));
        assert_eq!([0, 1, 2].map(|flow| commands.in_flight(5, flow)), [Ok(0), Ok(2), Ok(1)]);
        let Some(Command::Publish { message, .. }) = home.next_plugin_command() else {
            panic!("it is there")
        };
        let copy = message.view().to_message();
        drop(message);
        assert_eq!(commands.in_flight(5, 1), Ok(2), "a copy is held");
        drop(copy);
        assert_eq!(commands.in_flight(5, 1), Ok(1));
        while home.next_plugin_command().is_some() {}
        assert_eq!([1, 2].map(|flow| commands.in_flight(5, flow)), [Ok(0); 2]);
        // Flows without messages in flight are removed.
        for flow in 1..10_000 {
            commands.publish(5, &of(flow)).unwrap();
            home.next_plugin_command().unwrap();
        }
        let account = commands.account(5).unwrap();
        assert!(account.flows().counts.len() <= 64);
        commands.dismiss(PluginHandle(5));
        assert_eq!(commands.in_flight(5, 1), Err(Status::STALE));
    }

    #[test]
    fn what_waits_for_a_shard_is_bounded() {
        let shard = ShardHandle::new(ShardId(0));
        let message =
            || Command::InstanceMessage { plugin: PluginHandle(1), from: 0, number: 0, bytes: Bytes::new() };
        assert!(shard.push_plugin_command(message(), 1, usize::MAX));
        assert!(!shard.push_plugin_command(message(), 1, usize::MAX));
        shard.next_plugin_command().unwrap();
        assert!(shard.push_plugin_command(message(), 1, usize::MAX));
        assert_eq!([shard.take_refused_plugin_commands(), shard.take_refused_plugin_commands()], [1, 0]);
    }

    #[test]
    fn an_invalidation_is_never_refused_and_waits_once() {
        use grapnel_plugin_abi::raw::Scope as Raw;
        let (commands, shards) = command_queue();
        for _ in 0..10 {
            commands.invalidate(5, Raw::CLIENT, "c").unwrap();
            commands.invalidate(5, Raw::USER, "ann").unwrap();
        }
        let (client, user) = (Scope::Client("c".into()), Scope::User("ann".into()));
        let home = home_among(2, [0; 4], "c").index();
        assert!(shards[home].take_invalidations().into_iter().eq([client, user.clone()]));
        assert!(shards[1 - home].take_invalidations().into_iter().eq([user]), "nobody called c is there");
        assert!(shards.iter().all(|shard| shard.take_invalidations().is_empty()));
        commands.invalidate(5, Raw::CLIENT, "c").unwrap();
        commands.invalidate(5, Raw::ALL, "").unwrap();
        commands.invalidate(5, Raw::CLIENT, "c").unwrap();
        assert!(shards.iter().all(|shard| shard.take_invalidations().into_iter().eq([Scope::All])));
    }

    #[test]
    fn more_invalidations_than_may_wait_are_one_of_everything() {
        let shard = ShardHandle::new(ShardId(0));
        let client = |number: usize| Scope::Client(format!("{number:0128}").into());
        let long = |bytes: usize| Scope::User("u".repeat(bytes).into());
        (0..1_024).for_each(|number| shard.invalidate(&client(number)));
        assert_eq!(shard.take_invalidations().len(), 1_024);
        (0..1_025).for_each(|number| shard.invalidate(&client(number)));
        assert!(shard.take_invalidations().into_iter().eq([Scope::All]));
        for (bytes, waits) in [(256 << 10, long(256 << 10)), ((256 << 10) + 1, Scope::All)] {
            shard.invalidate(&long(bytes));
            assert!(shard.take_invalidations().into_iter().eq([waits]));
        }
    }

    #[test]
    fn a_shard_without_room_keeps_messages_from_no_other() {
        let (commands, shards) = command_queue();
        let message =
            || Command::InstanceMessage { plugin: PluginHandle(1), from: 0, number: 0, bytes: Bytes::new() };
        while shards[0].push_plugin_command(message(), 65_536, usize::MAX) {}
        assert_eq!(commands.instance_message(5, ALL_SHARDS, 1, b"x"), Err(Status::FULL));
        assert!(shards[1].next_plugin_command().is_some());
    }

    #[test]
    fn bytes_that_wait_for_a_shard_are_bounded() {
        let shard = ShardHandle::new(ShardId(0));
        let message = |len: usize| {
            let bytes = Bytes::from(vec![0; len]);
            Command::InstanceMessage { plugin: PluginHandle(1), from: 0, number: 0, bytes }
        };
        let one = message(1_000).bytes();
        assert!(one >= 1_000);
        assert!(shard.push_plugin_command(message(1_000), 10, 2 * one));
        assert!(!shard.push_plugin_command(message(1_001), 10, 2 * one), "one byte beyond");
        assert!(shard.push_plugin_command(message(1_000), 10, 2 * one));
        assert!(!shard.push_plugin_command(message(0), 10, 2 * one));
        while shard.next_plugin_command().is_some() {}
        // Alone, a larger one passes too; further commands are refused.
        assert!(shard.push_plugin_command(message(10_000), 10, 2 * one));
        assert!(!shard.push_plugin_command(message(0), 10, 2 * one));
        shard.next_plugin_command().unwrap();
        assert!(shard.push_plugin_command(message(0), 10, 2 * one));
    }

    #[test]
    fn timers_belong_to_the_threads_of_shards() {
        let (commands, shards) = command_queue();
        assert_eq!(commands.timer(5, 10, 1), Err(Status::WRONG_MOMENT));
        shards[1].enter();
        let timer = commands.timer(5, 10, 1).unwrap();
        assert!(
            matches!(shards[1].next_plugin_command(), Some(Command::Timer { timer: t, .. }) if t == timer)
        );
    }
}
