//! The broker's services for a plugin outside of events: the log, and commands. The broker copies a
//! command that acts on clients and runs it after the current event has ended.

use std::any::TypeId;
use std::ffi::{OsStr, c_void};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::Timer;
use super::error::Refused;
use super::outgoing::Outgoing;
use super::reason::Reason;
use crate::raw::{ALL_SHARDS, HOST_STARTING, HostApi, NewThread, Scope, Slice, Status};

/// Severity of a log line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is wrong, but work continues.
    Warn = 2,
    /// Information for the operator.
    Info = 3,
    /// For the plugin's developers.
    Debug = 4,
    /// For the plugin's developers, in full detail.
    Trace = 5,
}

/// The broker. Cheap to copy, valid for as long as the process runs, and usable from any thread.
#[derive(Clone, Copy)]
pub struct Host {
    api: &'static HostApi,
    /// The type of the plugin that it was made for. The broker calls hooks with instances of this
    /// plugin.
    plugin: TypeId,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.api.plugin)
    }
}

impl Host {
    pub(crate) const fn new<P: 'static>(api: &'static HostApi) -> Host {
        Host { api, plugin: TypeId::of::<P>() }
    }

    pub(crate) fn is_of<P: 'static>(self) -> bool {
        self.plugin == TypeId::of::<P>()
    }

    pub(crate) const fn api(self) -> &'static HostApi {
        self.api
    }

    /// Number of this load of the plugin. It is unique among all plugins; a reload gets a new one.
    pub const fn handle(self) -> u64 {
        self.api.plugin
    }

    /// Number of shards, 1 to 64.
    pub const fn shards(self) -> u32 {
        self.api.shards
    }

    /// Writes a line to the broker's log, under the plugin's name.
    pub fn log(self, level: Level, message: impl Display) {
        let message = message.to_string();
        // SAFETY: the table is the broker's own, `log` may be called from any thread, and the text
        // is alive during the call.
        unsafe { (self.api.log)(self.api.plugin, level as u32, Slice::of(message.as_bytes())) }
    }

    /// Logs an error.
    pub fn error(self, message: impl Display) {
        self.log(Level::Error, message);
    }

    /// Logs a warning.
    pub fn warn(self, message: impl Display) {
        self.log(Level::Warn, message);
    }

    /// Logs information for the operator.
    pub fn info(self, message: impl Display) {
        self.log(Level::Info, message);
    }

    /// Logs for developers.
    pub fn debug(self, message: impl Display) {
        self.log(Level::Debug, message);
    }

    pub(super) fn done(status: Status) -> Result<(), Refused> {
        if status == Status::OK { Ok(()) } else { Err(Refused { field: None, status }) }
    }

    /// Publishes a message of the plugin itself, without authorization. It passes the hooks of all
    /// plugins except those whose hooks led to it, so not those of this plugin. Publish a client's
    /// message with [`Host::publish_as`]. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for an invalid topic or property, and above `plugin_publishes_per_second_max`.
    pub fn publish(self, message: &Outgoing) -> Result<(), Refused> {
        message.with_table(|table| {
            // SAFETY: `publish` may be called from any thread, and the table and what it points to
            // are alive during the call.
            Host::done(unsafe { (self.api.publish)(self.api.plugin, table) })
        })
    }

    /// How many messages of a flow ([`Outgoing::flow`]) the broker still stores: those that wait to
    /// be sent, for an acknowledgement, or for a client that is offline. Publish more when the
    /// number has fallen, so that no subscriber gets more than it can process. A message no longer
    /// counts when it was delivered with QoS 0, was dropped, or has no subscriber. Any thread.
    pub fn in_flight(self, flow: u32) -> u64 {
        let mut count = 0;
        // SAFETY: `in_flight` may be called from any thread, and `count` is writable.
        let status = unsafe { (self.api.in_flight)(self.api.plugin, flow, &raw mut count) };
        if status == Status::OK { count } else { 0 }
    }

    /// Disconnects a client. Any thread. No error if there is no such client.
    ///
    /// # Errors
    /// [`Refused`] if too many commands wait already.
    pub fn kick(self, client_id: &str, reason: Reason) -> Result<(), Refused> {
        self.kick_as(client_id, reason, false)
    }

    /// Disconnects a client and ends its session. Any thread. No error if there is no such client.
    ///
    /// # Errors
    /// [`Refused`] if too many commands wait already.
    pub fn discard(self, client_id: &str, reason: Reason) -> Result<(), Refused> {
        self.kick_as(client_id, reason, true)
    }

    fn kick_as(self, client_id: &str, reason: Reason, discard: bool) -> Result<(), Refused> {
        let client_id = Slice::of(client_id.as_bytes());
        // SAFETY: `kick` may be called from any thread, and the text is alive during the call.
        Host::done(unsafe {
            (self.api.kick)(self.api.plugin, client_id, u32::from(reason.0), u32::from(discard))
        })
    }

    /// Subscribes a client to a topic filter, without authorization. `options` is the options byte
    /// of section 3.8.3.1 (its lowest two bits are the QoS); subscription identifier 0 means none.
    /// For a subscription that a client requested use [`Host::subscribe_as`]. Any thread. No error
    /// if there is no such client.
    ///
    /// # Errors
    /// [`Refused`] for an invalid filter or invalid options.
    pub fn subscribe(
        self,
        client_id: &str,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Refused> {
        let (client_id, filter) = (Slice::of(client_id.as_bytes()), Slice::of(filter.as_bytes()));
        // SAFETY: `subscribe` may be called from any thread, and the texts are alive during the
        // call.
        Host::done(unsafe {
            (self.api.subscribe)(self.api.plugin, client_id, filter, u32::from(options), subscription_id)
        })
    }

    /// Removes a subscription of a client. Any thread. No error if there is no such subscription.
    ///
    /// # Errors
    /// [`Refused`] for an invalid filter.
    pub fn unsubscribe(self, client_id: &str, filter: &str) -> Result<(), Refused> {
        let (client_id, filter) = (Slice::of(client_id.as_bytes()), Slice::of(filter.as_bytes()));
        // SAFETY: `unsubscribe` may be called from any thread, and the texts are alive during the
        // call.
        Host::done(unsafe { (self.api.unsubscribe)(self.api.plugin, client_id, filter) })
    }

    /// Requires new authorization: removes cached verdicts of `client.authorize`, and authorizes
    /// existing subscriptions again. Subscriptions that are no longer allowed are revoked. Any
    /// thread.
    ///
    /// # Errors
    /// [`Refused`] for an invalid topic filter.
    pub fn invalidate(self, whose: RecheckScope<'_>) -> Result<(), Refused> {
        let (scope, what) = match whose {
            RecheckScope::Everybody => (Scope::ALL, ""),
            RecheckScope::Client(client_id) => (Scope::CLIENT, client_id),
            RecheckScope::User(username) => (Scope::USER, username),
            RecheckScope::Topics(filter) => (Scope::TOPIC_FILTER, filter),
        };
        // SAFETY: `invalidate` may be called from any thread, and the text is alive during the
        // call.
        Host::done(unsafe { (self.api.invalidate)(self.api.plugin, scope, Slice::of(what.as_bytes())) })
    }

    /// Sends bytes to this plugin's instance on a shard, or to all its instances if `to_shard` is
    /// `None`. They arrive at [`super::Plugin::on_instance_message`]. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for a shard that does not exist, and above `plugin_mail_bytes_max`.
    pub fn instance_message(self, to_shard: Option<u32>, number: u64, bytes: &[u8]) -> Result<(), Refused> {
        let to = to_shard.unwrap_or(ALL_SHARDS);
        // SAFETY: `instance_message` may be called from any thread, and the bytes are alive during
        // the call.
        Host::done(unsafe { (self.api.instance_message)(self.api.plugin, to, number, Slice::of(bytes)) })
    }

    /// Calls [`super::Plugin::on_timer`] of this shard's instance once with `number`, after at
    /// least `after`, rounded to 10 ms. Only in `init_shard`, a hook, `on_timer`,
    /// `on_instance_message`, `import_state` or `configured`.
    ///
    /// # Errors
    /// [`Refused`] on any other thread, and above `plugin_timers_max`.
    pub fn timer(self, after: Duration, number: u64) -> Result<Timer, Refused> {
        let after_ms = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let mut timer = 0;
        // SAFETY: the host checks the thread itself, and `timer` is writable.
        Host::done(unsafe { (self.api.timer)(self.api.plugin, after_ms, number, &raw mut timer) })?;
        Ok(Timer::new(timer))
    }

    /// Cancels a timer of this shard. Only where [`Host::timer`] may be called.
    ///
    /// # Errors
    /// [`Refused`] for a timer that has fired or belongs to another shard.
    pub fn cancel_timer(self, timer: Timer) -> Result<(), Refused> {
        // SAFETY: the host checks the thread itself.
        Host::done(unsafe { (self.api.cancel_timer)(self.api.plugin, timer.number()) })
    }

    /// Starts a thread that the broker joins when the plugin ends. The thread must end soon after
    /// [`Host::wait_stop`] has returned true. A panic in it is logged. Any thread.
    ///
    /// # Errors
    /// [`Refused`] if the system cannot start a thread, and above `plugin_threads_max`.
    pub fn spawn(self, name: &str, body: impl FnOnce(Host) + Send + 'static) -> Result<(), Refused> {
        self.spawn_for(name, Duration::ZERO, body)
    }

    /// As [`Host::spawn`], for a thread that must finish work first. It may take `join` after
    /// [`Host::wait_stop`] has returned true, at most `plugin_retire_ms_max`; zero means the
    /// operator's `plugin_thread_join_ms`. A reload does not wait for the thread; a stop of the
    /// broker does. Meanwhile the broker still executes its commands, except those that start a
    /// thread or mount a hook.
    ///
    /// # Errors
    /// As [`Host::spawn`].
    pub fn spawn_for(
        self,
        name: &str,
        join: Duration,
        body: impl FnOnce(Host) + Send + 'static,
    ) -> Result<(), Refused> {
        struct Body {
            run: Box<dyn FnOnce(Host) + Send>,
            host: Host,
        }
        unsafe extern "C" fn run(arg: *mut c_void) {
            // SAFETY: `spawn` made it of a box, and the host calls this once.
            let body = unsafe { Box::from_raw(arg.cast::<Body>()) };
            let Body { run, host } = *body;
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| run(host))) {
                host.error(format_args!(
                    "a thread of the plugin panicked: {}",
                    super::export::panic_text(payload)
                ));
            }
        }
        let arg = Box::into_raw(Box::new(Body { run: Box::new(body), host: self }));
        let thread = NewThread {
            size: size_of::<NewThread>() as u32,
            reserved: 0,
            name: Slice::of(name.as_bytes()),
            run,
            arg: arg.cast(),
            join_ms: u64::try_from(join.as_millis()).unwrap_or(u64::MAX),
        };
        // SAFETY: `spawn` may be called from any thread, and the table is alive during the call.
        let started = Host::done(unsafe { (self.api.spawn)(self.api.plugin, &raw const thread) });
        if started.is_err() {
            // SAFETY: the host refused it and will not call `run`.
            drop(unsafe { Box::from_raw(arg) });
        }
        started
    }

    /// Waits at most `timeout` for the plugin's end; returns whether the plugin must end. Not on a
    /// shard's thread.
    pub fn wait_stop(self, timeout: Duration) -> bool {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: `wait_stop` may be called from any thread.
        unsafe { (self.api.wait_stop)(self.api.plugin, timeout_ms) != 0 }
    }

    /// Replays the sessions and subscriptions that exist already: calls `client.connected`,
    /// `session.created` and `session.subscribed` of this plugin once for each, on its shard,
    /// marked as a replay. Any thread, once; best in [`super::Plugin::activate`].
    ///
    /// # Errors
    /// [`Refused`] the second time.
    pub fn replay(self) -> Result<(), Refused> {
        // SAFETY: `replay` may be called from any thread.
        Host::done(unsafe { (self.api.replay)(self.api.plugin) })
    }

    /// Whether the broker had started when the plugin was loaded. If not, `broker.started` will
    /// still be called.
    pub fn has_started(self) -> bool {
        self.api.flags & HOST_STARTING == 0
    }

    /// Absolute path of the file that the plugin was loaded from, to find files beside it; `None`
    /// in tests without a broker. The broker runs a private copy of the library from another path.
    pub fn file(self) -> Option<&'static Path> {
        // SAFETY: the path stays for ever.
        let path = unsafe { self.api.file.bytes() };
        (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)))
    }
}

/// For whom or what [`Host::invalidate`] requires new authorization.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecheckScope<'a> {
    /// All clients.
    Everybody,
    /// The client with this identifier.
    Client(&'a str),
    /// All clients with this user name.
    User(&'a str),
    /// Topics that match this topic filter, and subscriptions that can match such topics.
    Topics(&'a str),
}
