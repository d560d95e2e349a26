//! Commands of plugins (publish, kick, subscribe, timers, instance messages and more): checked
//! here, on the plugin's thread, and passed to the shard, which runs them between two events.
//! Called by `services` alone.

mod on_behalf;

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use grapnel_engine::hook::{PluginHandle, outgoing};
use grapnel_engine::limits::Limits;
use grapnel_engine::message::FlowPart;
use grapnel_engine::packet::SubscriptionOptions;
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Command, FROM_A_THREAD, Outcome, Scope, Search, home_of_keys};
use grapnel_engine::topic;
use grapnel_plugin_abi::host::PluginMessage;
use grapnel_plugin_abi::raw::{ALL_SHARDS, Status};

use super::HostSettings;
use super::account::Account;
use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

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
        let account = Account::new(Arc::clone(name), bit, leads);
        write(&self.accounts).insert(plugin.0, Arc::new(account));
    }

    /// Ends a generation: it gets STALE from now on. Returns whether messages may carry its bit.
    pub(in crate::plugin) fn end_generation(&self, plugin: PluginHandle) -> bool {
        let account = write(&self.accounts).remove(&plugin.0);
        account.is_some_and(|account| account.has_led())
    }

    /// Sets whether a generation is suspended, that is, disabled or tripped.
    pub(in crate::plugin) fn set_suspended(&self, plugin: PluginHandle, is_suspended: bool) {
        if let Ok(account) = self.account(plugin.0) {
            account.suspended().set(is_suspended);
        }
    }

    /// Shares the count of waiting requests between a generation and the one that takes over its
    /// state.
    pub(in crate::plugin) fn share_waiting_requests(&self, from: PluginHandle, to: PluginHandle) {
        if let (Ok(from), Ok(to)) = (self.account(from.0), self.account(to.0)) {
            to.share_suspended(from.suspended());
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
        account.note_led();
        Ok(Arc::clone(account))
    }

    fn bounds(&self) -> Arc<Bounds> {
        Arc::clone(&read(&self.bounds))
    }

    fn submit(&self, shard: &ShardHandle, command: Command) -> Result<(), Status> {
        let size = |max: u64| usize::try_from(max).unwrap_or(usize::MAX);
        let bounds = self.bounds();
        let (max, bytes_max) =
            (size(bounds.shell.plugin_commands_max), size(bounds.shell.plugin_commands_bytes_max));
        if shard.push_plugin_command(command, max, bytes_max) { Ok(()) } else { Err(Status::FULL) }
    }

    /// Passes a command to every shard, because only the client's shard can execute it.
    fn submit_to_all(&self, command: impl Fn() -> Command) -> Result<(), Status> {
        // A full queue of one shard must not keep the command from the other shards.
        let each = |done: Result<(), Status>, shard| done.and(self.submit(shard, command()));
        read(&self.shards).iter().fold(Ok(()), each)
    }

    /// As `hand_to_all`, for a command about a client. If it has no effect, that is logged with the
    /// command, the client id and the filter.
    fn search_client(
        &self,
        account: &Arc<Account>,
        (asked, client_id, filter): (&'static str, &str, &str),
        command: impl Fn() -> Command,
    ) -> Result<(), Status> {
        let (whose, client_id, filter) = (Arc::clone(account), client_id.to_owned(), filter.to_owned());
        let search = Arc::new(Search::new(move |outcome| whose.missed(asked, &client_id, &filter, outcome)));
        let handed = self
            .submit_to_all(|| Command::Sought { search: Arc::clone(&search), command: Box::new(command()) });
        if handed.is_err() {
            // The plugin gets the error, so that nothing is logged.
            search.note(Outcome::Done);
        }
        handed
    }

    pub(in crate::plugin) fn publish(&self, plugin: u64, message: &PluginMessage<'_>) -> Result<(), Status> {
        let account = self.leading_account(plugin)?;
        let bounds = self.bounds();
        let (here, ancestry) = account.origin_of_command();
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
        self.submit(
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
        self.search_client(&account, ("kick", client_id, ""), || Command::Kick {
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
        self.search_client(&account, ("subscribe", client_id, filter), || Command::Subscribe {
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
        self.search_client(&account, ("unsubscribe", client_id, filter), || Command::Unsubscribe {
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
            return self.submit_to_all(message);
        }
        let shards = read(&self.shards);
        self.submit(shards.get(to_shard as usize).ok_or(Status::INVALID)?, message())
    }

    pub(in crate::plugin) fn timer(&self, plugin: u64, after_ms: u64, number: u64) -> Result<u64, Status> {
        self.account(plugin)?;
        let here = ShardHandle::here().ok_or(Status::WRONG_MOMENT)?;
        if here.heartbeat().call().timers() >= self.bounds().shell.plugin_timers_max {
            return Err(Status::FULL);
        }
        let timer = self.timers.fetch_add(1, Ordering::Relaxed);
        let plugin = PluginHandle(plugin);
        self.submit(&here, Command::Timer { plugin, timer, after_ms, number })?;
        Ok(timer)
    }

    pub(in crate::plugin) fn cancel_timer(&self, plugin: u64, timer: u64) -> Result<(), Status> {
        self.account(plugin)?;
        let here = ShardHandle::here().ok_or(Status::WRONG_MOMENT)?;
        self.submit(&here, Command::CancelTimer { plugin: PluginHandle(plugin), timer })
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
                let home = home_of_keys(shards.len(), *read(&self.home_keys), client_id);
                shards.get(home.index()).into_iter().for_each(|shard| shard.invalidate(&scope));
            }
            _ => shards.iter().for_each(|shard| shard.invalidate(&scope)),
        }
        Ok(())
    }

    pub(in crate::plugin) fn replay(&self, plugin: u64) -> Result<(), Status> {
        if !self.account(plugin)?.begins_replay() {
            return Err(Status::WRONG_MOMENT);
        }
        self.submit_to_all(|| Command::Replay { plugin: PluginHandle(plugin) })
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

    use super::*;

    pub(super) fn command_queue() -> (CommandQueue, [ShardHandle; 2]) {
        let shards = [ShardHandle::new(ShardId(0)), ShardHandle::new(ShardId(1))];
        let commands = CommandQueue::default();
        *write(&commands.shards) = shards.to_vec();
        commands.admit(PluginHandle(5), &"five".into(), 9, false);
        (commands, shards)
    }

    pub(super) fn message(topic: &[u8]) -> PluginMessage<'_> {
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
    fn a_publish_of_a_thread_goes_to_the_shard_of_its_topic_with_its_plugin() {
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
        assert!(commands.end_generation(PluginHandle(5)), "it has led to messages");
        assert_eq!(commands.publish(5, &message(b"a/b")), Err(Status::STALE));
    }

    #[test]
    fn publishes_for_each_second_are_limited() {
        let (commands, _shards) = command_queue();
        let account = commands.account(5).unwrap();
        assert!((0..3).all(|_| account.may_publish(7, 3)));
        assert!(!account.may_publish(7, 3));
        assert!(account.may_publish(8, 3));
    }

    #[test]
    fn messages_of_a_flow_are_counted_until_they_are_freed() {
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
        commands.end_generation(PluginHandle(5));
        assert_eq!(commands.in_flight(5, 1), Err(Status::STALE));
    }

    #[test]
    fn commands_that_wait_for_a_shard_are_limited() {
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
    fn an_invalidation_is_never_refused_and_queued_once() {
        use grapnel_plugin_abi::raw::Scope as Raw;
        let (commands, shards) = command_queue();
        for _ in 0..10 {
            commands.invalidate(5, Raw::CLIENT, "c").unwrap();
            commands.invalidate(5, Raw::USER, "ann").unwrap();
        }
        let (client, user) = (Scope::Client("c".into()), Scope::User("ann".into()));
        let home = home_of_keys(2, [0; 4], "c").index();
        assert!(shards[home].take_invalidations().into_iter().eq([client, user.clone()]));
        assert!(shards[1 - home].take_invalidations().into_iter().eq([user]), "nobody called c is there");
        assert!(shards.iter().all(|shard| shard.take_invalidations().is_empty()));
        commands.invalidate(5, Raw::CLIENT, "c").unwrap();
        commands.invalidate(5, Raw::ALL, "").unwrap();
        commands.invalidate(5, Raw::CLIENT, "c").unwrap();
        assert!(shards.iter().all(|shard| shard.take_invalidations().into_iter().eq([Scope::All])));
    }

    #[test]
    fn too_many_waiting_invalidations_become_one_for_all() {
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
    fn a_full_shard_does_not_block_messages_to_others() {
        let (commands, shards) = command_queue();
        let message =
            || Command::InstanceMessage { plugin: PluginHandle(1), from: 0, number: 0, bytes: Bytes::new() };
        while shards[0].push_plugin_command(message(), 65_536, usize::MAX) {}
        assert_eq!(commands.instance_message(5, ALL_SHARDS, 1, b"x"), Err(Status::FULL));
        assert!(shards[1].next_plugin_command().is_some());
    }

    #[test]
    fn bytes_that_wait_for_a_shard_are_limited() {
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
    fn timers_can_only_be_set_on_threads_of_shards() {
        let (commands, shards) = command_queue();
        assert_eq!(commands.timer(5, 10, 1), Err(Status::WRONG_MOMENT));
        shards[1].enter();
        let timer = commands.timer(5, 10, 1).unwrap();
        assert!(
            matches!(shards[1].next_plugin_command(), Some(Command::Timer { timer: t, .. }) if t == timer)
        );
    }
}
