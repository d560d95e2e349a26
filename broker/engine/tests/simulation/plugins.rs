//! Plugins of a simulated world. There are three, each with a hook at every fold point. They do
//! what operations have armed them for, and otherwise continue. The first one enforces the rules of
//! client.authorize, if the world has rules.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::rc::Rc;

use bytes::Bytes;
use grapnel_engine::hook::{Entry, FaultPolicy, HookPoint, InstanceEntry, Link, LinkIdentity, PluginHandle};
use grapnel_engine::shard::OwnedChange;
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{APPEND, Change, Event, Field, Flow, Slice, Status, Ticket};

use crate::op::{Act, Answer};
use crate::settings::Settings;
use crate::wire;

pub const PLUGINS: usize = 3;

/// Points where the plugins have hooks, in the numbering of operations.
pub const POINTS: [HookPoint; 8] = [
    HookPoint::ClientConnect,
    HookPoint::ClientAuthenticate,
    HookPoint::ClientAuthorize,
    HookPoint::ClientSubscribe,
    HookPoint::ClientUnsubscribe,
    HookPoint::MessagePublish,
    HookPoint::MessageDelivered,
    HookPoint::ClientConnack,
];

/// Number of topic classes that rules use: the first letter of a topic.
pub const CLASSES: usize = 5;

/// Class of a topic or filter; `None` for a filter that overlaps all classes.
pub fn class_of(topic: &str) -> Option<usize> {
    match topic.as_bytes().first() {
        Some(b'a') => Some(0),
        Some(b'b') => Some(1),
        Some(b'c') => Some(2),
        Some(b'p') => Some(3),
        Some(b'+' | b'#') => None,
        _ => Some(4),
    }
}

/// A ticket that a hook has taken.
#[derive(Clone, Debug)]
pub struct OpenTicket {
    pub ticket: u64,
    pub point: usize,
    pub client: String,
    pub user: usize,
    pub action: u8,
    pub class: Option<usize>,
    /// The message of the ticket, where the point shows it.
    pub number: Option<u32>,
}

/// What hooks have done that the model must take into account.
#[derive(Clone, Debug)]
pub enum Note {
    /// The message may be refused or dropped.
    Message(u32),
    /// The publisher of the message may be disconnected.
    Disconnect(u32),
    /// The client may be disconnected, for a message without a number.
    DisconnectClient(String),
    /// Any message that the client has just published may be refused.
    Publisher(String),
    /// An answer may refuse or remove subscriptions of the client.
    Subscriber(String),
    /// The client may still have a subscription that it tried to end.
    Keeper(String),
    /// Subscriptions of the client have no verdict yet, and may never get one.
    Unanswered(String),
}

/// State that all hooks share.
#[derive(Default)]
pub struct State {
    armed: Vec<VecDeque<Act>>,
    pub open: Vec<OpenTicket>,
    pub closed: Vec<OpenTicket>,
    pub notes: Vec<Note>,
    /// Whether a user may use a class: `rules[user][class]`.
    pub rules: [[bool; CLASSES]; 3],
    pub with_rules: bool,
    /// Requests of plugins on behalf of clients, by number.
    pub requests: Vec<BehalfAction>,
    /// Descriptions of answers that are errors.
    pub strange_answers: Vec<String>,
}

/// A request of a plugin on behalf of a client.
#[derive(Clone, Debug)]
pub struct BehalfAction {
    pub plugin: usize,
    /// The version that must get the answer; `None` if there may be none.
    pub owed: Option<u32>,
    pub answered: bool,
}

/// Receives the answers for a version of a plugin.
struct Mailbox {
    state: Rc<RefCell<State>>,
    plugin: usize,
    generation: u32,
}

unsafe extern "C" fn on_timer(_instance: *mut c_void, _timer: u64, _number: u64) {}

unsafe extern "C" fn on_instance_message(instance: *mut c_void, _from: u32, number: u64, _bytes: Slice) {
    // SAFETY: see `Plugins::instance`.
    let Mailbox { state, plugin, generation } = unsafe { &*instance.cast::<Mailbox>() };
    let state = &mut *state.borrow_mut();
    let Some(action) = state.requests.get_mut(number as usize) else { return };
    let answered = std::mem::replace(&mut action.answered, true);
    if answered || action.plugin != *plugin || action.owed.is_some_and(|owed| owed != *generation) {
        state
            .strange_answers
            .push(format!("{number} to version {generation} of plugin {plugin}: {action:?}"));
    }
}

impl State {
    fn may(&self, user: usize, class: Option<usize>) -> bool {
        match class {
            Some(class) => self.rules[user][class],
            None => self.rules[user].iter().all(|may| *may),
        }
    }
}

struct Hook {
    state: Rc<RefCell<State>>,
    plugin: usize,
    point: usize,
}

pub struct Plugins {
    pub state: Rc<RefCell<State>>,
    #[expect(clippy::vec_box, reason = "shards keep their addresses")]
    hooks: Vec<Box<Hook>>,
    /// Generation of each loaded plugin.
    pub loaded: [Option<u32>; PLUGINS],
    pub enabled: [bool; PLUGINS],
    pub tripped: [bool; PLUGINS],
    /// During a reload that may be taken back: the previous version, and whether its state was
    /// handed over.
    before: [Option<(u32, bool)>; PLUGINS],
    /// Set at the end of a run: no plugin is suspended.
    pub all_awake: bool,
    generations: u32,
    #[expect(clippy::vec_box, reason = "shards keep their addresses")]
    mailboxes: Vec<Box<Mailbox>>,
}

impl Plugins {
    pub fn new(settings: &Settings) -> Plugins {
        let state = State {
            armed: vec![VecDeque::new(); PLUGINS * POINTS.len()],
            rules: [[true; CLASSES]; 3],
            with_rules: settings.rules,
            ..State::default()
        };
        let state = Rc::new(RefCell::new(state));
        let places = (0..PLUGINS).flat_map(|plugin| (0..POINTS.len()).map(move |point| (plugin, point)));
        let hook = |(plugin, point)| Box::new(Hook { state: Rc::clone(&state), plugin, point });
        let hooks = places.map(hook).collect();
        let loaded = std::array::from_fn(|plugin| (settings.plugins >> plugin & 1 == 1).then_some(1));
        let mut plugins = Plugins {
            state,
            hooks,
            loaded,
            enabled: [true; PLUGINS],
            tripped: [false; PLUGINS],
            before: [None; PLUGINS],
            all_awake: false,
            generations: 1,
            mailboxes: Vec::new(),
        };
        (0..PLUGINS).for_each(|plugin| plugins.add_mailbox(plugin, 1));
        plugins
    }

    fn add_mailbox(&mut self, plugin: usize, generation: u32) {
        let mailbox = Mailbox { state: Rc::clone(&self.state), plugin, generation };
        self.mailboxes.push(Box::new(mailbox));
    }

    pub fn load(&mut self, plugin: usize) {
        self.unload(plugin);
        self.generations += 1;
        self.loaded[plugin] = Some(self.generations);
        self.enabled[plugin] = true;
        self.tripped[plugin] = false;
        self.add_mailbox(plugin, self.generations);
    }

    pub fn unload(&mut self, plugin: usize) {
        self.loaded[plugin] = None;
        self.before[plugin] = None;
        self.redirect_answers(plugin, |_| None);
    }

    /// The next version takes over. Returns both versions if the state is handed over.
    pub fn reload(&mut self, plugin: usize, hands_over: bool) -> Option<(PluginHandle, PluginHandle)> {
        let (from, old) = (self.handle(plugin)?, self.loaded[plugin]?);
        self.generations += 1;
        let new = self.generations;
        self.loaded[plugin] = Some(new);
        self.tripped[plugin] = false;
        self.before[plugin] = Some((old, hands_over));
        self.add_mailbox(plugin, new);
        self.redirect_answers(plugin, |owed| (hands_over && owed == old).then_some(new));
        self.handle(plugin).filter(|_| hands_over).map(|to| (from, to))
    }

    /// A reload is taken back. Returns both versions if the state comes back.
    pub fn take_back(&mut self, plugin: usize, comes_back: bool) -> Option<(PluginHandle, PluginHandle)> {
        let (old, handed) = self.before[plugin].take()?;
        let (from, new) = (self.handle(plugin)?, self.loaded[plugin]?);
        self.loaded[plugin] = Some(old);
        self.tripped[plugin] = false;
        let comes_back = comes_back && handed;
        self.redirect_answers(plugin, |owed| (comes_back && owed == new).then_some(old));
        self.handle(plugin).filter(|_| comes_back).map(|to| (from, to))
    }

    /// Answers for a plugin now go to another version of it, or to none.
    fn redirect_answers(&mut self, plugin: usize, to: impl Fn(u32) -> Option<u32>) {
        let mut state = self.state.borrow_mut();
        let open = state.requests.iter_mut().filter(|action| action.plugin == plugin && !action.answered);
        open.for_each(|action| action.owed = action.owed.and_then(&to));
    }

    /// A plugin that is not suspended makes a request. Returns its handle and the request number.
    /// Answers wait in bounded number while the plugin is suspended, so a plugin that continues to
    /// make requests may lose some.
    pub fn action(&mut self, plugin: usize) -> Option<(PluginHandle, u64)> {
        let (handle, owed) = (self.handle(plugin)?, self.loaded[plugin]);
        if self.suspended().contains(&handle) {
            return None;
        }
        let mut state = self.state.borrow_mut();
        state.requests.push(BehalfAction { plugin, owed, answered: false });
        Some((handle, state.requests.len() as u64 - 1))
    }

    /// The loaded plugins.
    pub fn instances(&self) -> Vec<(PluginHandle, InstanceEntry)> {
        let loaded = (0..PLUGINS).filter_map(|plugin| Some((plugin, self.handle(plugin)?)));
        loaded.filter_map(|(plugin, handle)| Some((handle, self.instance(plugin)?))).collect()
    }

    fn instance(&self, plugin: usize) -> Option<InstanceEntry> {
        let is_its =
            |mailbox: &&Mailbox| mailbox.plugin == plugin && Some(mailbox.generation) == self.loaded[plugin];
        let mailbox = self.mailboxes.iter().map(AsRef::as_ref).find(is_its)?;
        let instance = std::ptr::from_ref(mailbox).cast_mut().cast();
        // SAFETY: the functions take a `Mailbox`. It is boxed and lives as long as the world, whose
        // shards call it on one thread.
        Some(unsafe { InstanceEntry::new(on_timer, on_instance_message, instance) })
    }

    /// The loaded plugins that are disabled or tripped.
    pub fn suspended(&self) -> Vec<PluginHandle> {
        let is_suspended =
            |plugin: &usize| !self.all_awake && (!self.enabled[*plugin] || self.tripped[*plugin]);
        (0..PLUGINS).filter(is_suspended).filter_map(|plugin| self.handle(plugin)).collect()
    }

    pub fn arm(&mut self, plugin: usize, point: usize, act: Act, calls: u8) {
        let mut state = self.state.borrow_mut();
        state.armed[plugin * POINTS.len() + point].extend(std::iter::repeat_n(act, usize::from(calls)));
    }

    pub fn disarm(&mut self) {
        self.state.borrow_mut().armed.iter_mut().for_each(VecDeque::clear);
    }

    /// The plugin of a handle, if it still has that generation.
    pub fn of_handle(&self, handle: PluginHandle) -> Option<usize> {
        (0..PLUGINS).find(|plugin| self.handle(*plugin) == Some(handle))
    }

    fn handle(&self, plugin: usize) -> Option<PluginHandle> {
        let generation = self.loaded[plugin]?;
        Some(PluginHandle(u64::from(generation) << 32 | plugin as u64))
    }

    /// Whether the plugin that enforces the rules is called.
    pub fn enforces(&self) -> bool {
        self.loaded[0].is_some() && self.enabled[0] && !self.tripped[0]
    }

    /// Links to mount on every shard.
    pub fn links(&self) -> Vec<(HookPoint, Link)> {
        let mut links = Vec::new();
        for hook in &self.hooks {
            let Some(handle) = self.handle(hook.plugin).filter(|_| self.enabled[hook.plugin]) else {
                continue;
            };
            let deny = matches!(hook.point, 1 | 2);
            links.push((
                POINTS[hook.point],
                Link {
                    entry: if self.tripped[hook.plugin] { Entry::tripped() } else { entry(hook) },
                    plugin: handle,
                    identity: LinkIdentity((hook.plugin * POINTS.len() + hook.point) as u32),
                    name: format!("plugin{}/hook{}", hook.plugin, hook.point).into(),
                    priority: -(hook.plugin as i32),
                    deadline_ms: 1000,
                    policy: if deny { FaultPolicy::Deny } else { FaultPolicy::Ignore },
                    topics: None,
                    deliver: self.state.borrow().with_rules && hook.plugin == 0,
                    bit: hook.plugin as u8,
                },
            ));
        }
        links
    }
}

fn entry(hook: &Hook) -> Entry {
    let instance = std::ptr::from_ref(hook).cast_mut().cast::<c_void>();
    // SAFETY: the function takes a `Hook`. It is boxed and lives as long as the world, whose shards
    // call it on one thread.
    unsafe { Entry::new(called, instance) }
}

unsafe extern "C" fn called(instance: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: see `entry`; the event is alive during the call.
    let (hook, event) = unsafe { (&*instance.cast::<Hook>(), &*event) };
    hook.run(&Call { event })
}

/// A call of a hook.
struct Call<'a> {
    event: &'a Event,
}

impl Call<'_> {
    fn text(&self, slice: Slice) -> String {
        // SAFETY: the view is one of the running event.
        unsafe { slice.text().to_owned() }
    }

    fn number(&self) -> Option<u32> {
        // SAFETY: likewise.
        wire::number_of(unsafe { self.event.payload.bytes() })
    }

    fn set(&self, field: Field, number: u64, bytes: &[u8], index: u32) -> Status {
        let key = if field == Field::USER_PROPERTY { Slice::of(b"k") } else { Slice::of(b"") };
        let change = Change { field, index, number, bytes: Slice::of(bytes), key };
        // SAFETY: the context is that of the running event.
        unsafe { (host_api(1, 1).set)(self.event.ctx, &change) }
    }

    fn has(&self, field: Field) -> bool {
        let mut value = grapnel_plugin_abi::raw::Value::EMPTY;
        // SAFETY: the context is that of the running event.
        unsafe { (host_api(1, 1).get)(self.event.ctx, field, 0, &mut value) == Status::OK }
    }

    fn defer(&self) -> Option<Ticket> {
        let mut ticket = Ticket(0);
        // SAFETY: the context is that of the running event.
        let status = unsafe { (host_api(1, 1).defer)(self.event.ctx, 0, &mut ticket) };
        (status == Status::OK).then_some(ticket)
    }
}

impl Hook {
    fn run(&self, call: &Call<'_>) -> Flow {
        let mut state = self.state.borrow_mut();
        let act = state.armed[self.plugin * POINTS.len() + self.point].pop_front();
        let user = match call.text(call.event.username).as_str() {
            "ann" => 1,
            "bob" => 2,
            _ => 0,
        };
        let about = OpenTicket {
            ticket: 0,
            point: self.point,
            client: call.text(call.event.client_id),
            user,
            action: call.event.action,
            class: class_of(&call.text(call.event.topic)),
            number: if matches!(self.point, 5 | 6) { call.number() } else { None },
        };
        self.usual(call, &mut state, &about);
        match act {
            None => Flow::CONTINUE,
            Some(act) => self.act(call, &mut state, about, act),
        }
    }

    /// What a hook does whatever it is armed for: it answers authentication and enforces the rules.
    fn usual(&self, call: &Call<'_>, state: &mut State, about: &OpenTicket) {
        match POINTS[self.point] {
            HookPoint::ClientAuthenticate => {
                call.set(Field::VERDICT, 1, b"", APPEND);
            }
            HookPoint::ClientAuthorize if self.plugin == 0 && state.with_rules => {
                let may = state.may(about.user, about.class);
                call.set(Field::VERDICT, if may { 1 } else { 2 }, b"", APPEND);
                if !may {
                    state.notes.extend(refused(about));
                }
            }
            _ => {}
        }
    }

    fn act(&self, call: &Call<'_>, state: &mut State, mut about: OpenTicket, act: Act) -> Flow {
        match act {
            Act::Change => {
                self.change(call);
                Flow::CONTINUE
            }
            Act::Stop => Flow::STOP,
            Act::Drop | Act::Reject | Act::Disconnect => {
                self.refuse(call, state, &about, act);
                Flow::STOP
            }
            Act::Fault | Act::ChangeAndFault => {
                if act == Act::ChangeAndFault {
                    self.change(call);
                }
                state.notes.extend(self.unanswered(&about));
                Flow::FAULT
            }
            Act::Defer | Act::ChangeAndDefer => {
                if act == Act::ChangeAndDefer {
                    self.change(call);
                }
                let Some(ticket) = call.defer() else { return Flow::CONTINUE };
                about.ticket = ticket.0;
                state.notes.extend(self.unanswered(&about));
                state.open.push(about);
                Flow::DEFER
            }
            Act::Round => {
                if POINTS[self.point] == HookPoint::ClientAuthenticate && call.has(Field::AUTH_METHOD) {
                    call.set(Field::VERDICT, 3, b"", APPEND);
                    call.set(Field::AUTH_DATA, 0, b"more", APPEND);
                    return Flow::STOP;
                }
                Flow::CONTINUE
            }
        }
    }

    /// What the model must expect if client.authorize gets no answer.
    fn unanswered(&self, about: &OpenTicket) -> Option<Note> {
        match about.action {
            _ if POINTS[self.point] != HookPoint::ClientAuthorize => None,
            1 => Some(Note::Publisher(about.client.clone())),
            2 => Some(Note::Unanswered(about.client.clone())),
            _ => None,
        }
    }

    /// A change that the model can ignore.
    fn change(&self, call: &Call<'_>) {
        match POINTS[self.point] {
            HookPoint::ClientConnack | HookPoint::MessagePublish | HookPoint::MessageDelivered => {
                call.set(Field::USER_PROPERTY, 0, b"changed", APPEND);
            }
            _ => {}
        }
    }

    fn refuse(&self, call: &Call<'_>, state: &mut State, about: &OpenTicket, act: Act) {
        let (disposition, note) = match act {
            Act::Drop => (1, Some(message_note(about))),
            Act::Reject => (2, Some(message_note(about))),
            _ => {
                let client = || Note::DisconnectClient(about.client.clone());
                (3, Some(about.number.map_or_else(client, Note::Disconnect)))
            }
        };
        match POINTS[self.point] {
            HookPoint::MessagePublish => {
                call.set(Field::DISPOSITION, disposition, b"", APPEND);
                call.set(Field::REASON_STRING, 0, &[b'r'; 100], APPEND);
                state.notes.extend(note);
            }
            HookPoint::MessageDelivered => {
                call.set(Field::DISPOSITION, 1, b"", APPEND);
            }
            HookPoint::ClientSubscribe | HookPoint::ClientUnsubscribe => {
                call.set(Field::VERDICT, 2, b"", 0);
                if POINTS[self.point] == HookPoint::ClientUnsubscribe {
                    state.notes.push(Note::Keeper(about.client.clone()));
                }
            }
            HookPoint::ClientConnect | HookPoint::ClientAuthenticate => {
                call.set(Field::VERDICT, 2, b"", APPEND);
            }
            HookPoint::ClientAuthorize => {
                call.set(Field::VERDICT, 2, b"", APPEND);
                state.notes.extend(refused(about));
            }
            _ => {}
        }
    }
}

/// What the model must expect after a refusal of a message. A message without a payload has no
/// number.
fn message_note(about: &OpenTicket) -> Note {
    about.number.map_or_else(|| Note::Publisher(about.client.clone()), Note::Message)
}

/// What the model must expect after a refusal at client.authorize.
pub fn refused(about: &OpenTicket) -> Option<Note> {
    match about.action {
        1 => Some(Note::Publisher(about.client.clone())),
        2 => Some(Note::Subscriber(about.client.clone())),
        _ => None,
    }
}

/// The answer to a ticket: the flow, the changes, and what the model must take into account.
pub fn answer(taken: &OpenTicket, how: Answer, may: bool) -> (Flow, Vec<OwnedChange>, Option<Note>) {
    let number =
        |field, number| OwnedChange { field, index: 0, number, bytes: Bytes::new(), key: Bytes::new() };
    let mut changes = Vec::new();
    let mut note = None;
    let point = POINTS[taken.point];
    let refuses = how == Answer::Refuse;
    match point {
        HookPoint::ClientAuthenticate => {
            let verdict = match how {
                Answer::Refuse => 2,
                Answer::Round => 3,
                _ => 1,
            };
            changes.push(number(Field::VERDICT, verdict));
        }
        HookPoint::ClientAuthorize => {
            let denies = refuses || !may;
            changes.push(number(Field::VERDICT, if denies { 2 } else { 1 }));
            note = refused(taken).filter(|_| denies || taken.action == 1);
        }
        HookPoint::ClientConnect if refuses => changes.push(number(Field::VERDICT, 2)),
        HookPoint::ClientSubscribe | HookPoint::ClientUnsubscribe if refuses => {
            changes.push(number(Field::VERDICT, 2));
            note = (point == HookPoint::ClientUnsubscribe).then(|| Note::Keeper(taken.client.clone()));
        }
        HookPoint::MessagePublish if refuses => {
            changes.push(number(Field::DISPOSITION, 2));
            note = Some(message_note(taken));
        }
        _ => {}
    }
    let flow = match how {
        Answer::Stop | Answer::Refuse | Answer::Round => Flow::STOP,
        Answer::Fault => Flow::FAULT,
        Answer::Continue | Answer::Change => Flow::CONTINUE,
    };
    (flow, changes, note)
}
