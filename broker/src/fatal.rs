//! The handler of fatal signals. It writes one line on standard error that names the plugin and
//! hook. Then the process ends as it would without the handler. Installed once at the start. The
//! loader registers the address ranges of plugins and the names of their hooks; shards and threads
//! of plugins register themselves. The handler reads only atomics and thread-locals, and writes
//! with `write`.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use grapnel_engine::hook::{CallCell, Called, LinkIdentity, PluginHandle};
use grapnel_engine::id::ShardId;

/// The handled signals and their names.
const SIGNALS: [(i32, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
];

/// Bytes of a handler's stack: the kernel's frame with all vector registers, and ours.
const STACK_BYTES: usize = 64 * 1024;

/// Longest wait for a full pipe before the line is dropped, milliseconds.
const LINE_WAIT_MS: i32 = 1000;

/// Generations of plugins whose address range is stored. The code of further generations is not
/// recognized.
const PLACES: usize = 8192;

/// Hooks whose names are stored, for all plugins; a hook that several versions share counts once.
/// Further hooks are not named.
const HOOKS_MAX: usize = 8192;

/// `PLUGIN/HOOK` by the identity of the link. A read is one atomic load, so a signal handler may do
/// it.
static HOOKS: [OnceLock<Arc<str>>; HOOKS_MAX] = [const { OnceLock::new() }; HOOKS_MAX];

/// Address range and plugin name of the code of a generation.
struct CodeRange {
    handle: AtomicU64,
    name: AtomicPtr<u8>,
    name_bytes: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
}

static CODE_RANGES: AtomicUsize = AtomicUsize::new(0);
static CODE: [CodeRange; PLACES] = [const {
    CodeRange {
        handle: AtomicU64::new(0),
        name: AtomicPtr::new(ptr::null_mut()),
        name_bytes: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
    }
}; PLACES];

/// The action of each signal before `install`.
struct PreviousActions(UnsafeCell<[MaybeUninit<libc::sigaction>; SIGNALS.len()]>);

// SAFETY: written only by `install`, before it sets the handler that reads it.
unsafe impl Sync for PreviousActions {}

static BEFORE: PreviousActions = PreviousActions(UnsafeCell::new([MaybeUninit::uninit(); SIGNALS.len()]));

/// What a thread belongs to.
#[derive(Clone, Copy)]
enum ThreadOwner {
    Nobody,
    Shard(ShardId, *const CallCell),
    PluginThread(PluginHandle),
}

thread_local! {
    // Const and without a destructor, so the first use runs no code: it is safe in a signal
    // handler.
    static WHO: Cell<ThreadOwner> = const { Cell::new(ThreadOwner::Nobody) };
}

/// The alternate signal stack of the current thread. It is in use until this is dropped.
pub struct SignalStack {
    memory: Box<[MaybeUninit<u8>]>,
    before: libc::stack_t,
    /// Neither `Send` nor `Sync`: the stack belongs to one thread.
    _thread: PhantomData<*const ()>,
}

impl std::fmt::Debug for SignalStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignalStack({} bytes)", self.memory.len())
    }
}

impl SignalStack {
    fn new() -> SignalStack {
        let mut memory = Box::new_uninit_slice(STACK_BYTES);
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_BYTES };
        let mut before = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: both pointers are to valid local tables, and the stack is not freed before `drop`
        // has removed it from the kernel. The call fails only for a stack that is too small; then
        // the previous stack stays in use.
        unsafe { libc::sigaltstack(&raw const stack, &raw mut before) };
        SignalStack { memory, before, _thread: PhantomData }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        WHO.set(ThreadOwner::Nobody);
        // SAFETY: this restores the previous stack of this thread; its owner outlives this value.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}

/// Registers the current thread as a shard. The shard writes into the cell which plugin it is
/// calling.
pub fn enter_shard(shard: ShardId, calls: Arc<CallCell>) -> SignalStack {
    // Leaked on purpose: the handler may read the cell at any time.
    WHO.set(ThreadOwner::Shard(shard, Arc::into_raw(calls)));
    SignalStack::new()
}

/// Registers the current thread as a thread of a plugin.
pub fn enter_plugin_thread(plugin: PluginHandle) -> SignalStack {
    WHO.set(ThreadOwner::PluginThread(plugin));
    SignalStack::new()
}

/// Stores the address range of a generation's code for the rest of the process, because the code
/// stays mapped. `inside` is any address in it.
pub fn remember_code(plugin: PluginHandle, name: Arc<str>, inside: usize) {
    let (start, end) = code_around(inside).unwrap_or((0, 0));
    let place = CODE_RANGES.fetch_add(1, Ordering::Relaxed);
    let Some(place) = CODE.get(place) else { return };
    place.name_bytes.store(name.len(), Ordering::Relaxed);
    // Leaked on purpose: the handler may read the text at any time.
    place.name.store(Arc::into_raw(name).cast::<u8>().cast_mut(), Ordering::Relaxed);
    place.start.store(start, Ordering::Relaxed);
    place.end.store(end, Ordering::Relaxed);
    // Stored last: a handler that reads the handle also reads the other fields.
    place.handle.store(plugin.0, Ordering::Release);
}

/// Stores the name of a hook, `PLUGIN/HOOK`, for the rest of the process.
pub fn remember_hook(link: LinkIdentity, name: &Arc<str>) {
    if let Some(place) = HOOKS.get(link.0 as usize) {
        // If it is set already, it has the same name.
        let _ = place.set(Arc::clone(name));
    }
}

/// The name of a hook, `PLUGIN/HOOK`. Any thread, also in a signal handler.
pub fn hook_name(link: LinkIdentity) -> Option<&'static str> {
    HOOKS.get(link.0 as usize)?.get().map(|name| &**name)
}

/// Start and end of the executable mappings of the file that is mapped at an address.
fn code_around(inside: usize) -> Option<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let parsed: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    let own = parsed.iter().find(|mapping| (mapping.start..mapping.end).contains(&inside))?;
    let code = parsed.iter().filter(|mapping| mapping.file == own.file && mapping.executable);
    let (start, end) =
        code.fold((usize::MAX, 0), |(start, end), mapping| (start.min(mapping.start), end.max(mapping.end)));
    (start < end).then_some((start, end))
}

struct Mapping<'a> {
    start: usize,
    end: usize,
    executable: bool,
    /// Device and inode.
    file: (&'a str, &'a str),
}

impl Mapping<'_> {
    fn parse(line: &str) -> Option<Mapping<'_>> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let executable = words.next()?.contains('x');
        let file = (words.nth(1)?, words.next()?);
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Mapping { start: address(start)?, end: address(end)?, executable, file })
    }
}

/// Installs the handler for the whole process. To be called once, before the first plugin is
/// loaded.
///
/// # Errors
/// If the system refuses a handler.
pub fn install() -> io::Result<()> {
    for (index, (signal, _)) in SIGNALS.iter().enumerate() {
        // SAFETY: the struct has only numbers and pointers, for which zeros are valid; the fields
        // that matter are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = handle;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: this is the only writer, and the handler that reads the entry is not installed
        // for this signal yet.
        let before = unsafe { (*BEFORE.0.get())[index].as_mut_ptr() };
        // SAFETY: the handler is async-signal-safe, and both pointers are to valid tables.
        let failed = unsafe {
            libc::sigaction(*signal, ptr::null(), before) != 0
                || libc::sigaction(*signal, &raw const action, ptr::null_mut()) != 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let known = SIGNALS.iter().position(|(number, _)| *number == signal);
    let Some(index) = known else { return };
    let mut line = Line { bytes: [0; 512], len: 0 };
    describe(&mut line, SIGNALS[index].1, program_counter(context));
    let mut stderr = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: `install` filled the entry before it set this handler, the line and the table are
    // alive, and all four functions are async-signal-safe. `info` comes from the kernel.
    unsafe {
        // A full pipe without a reader must not keep the process from ending.
        if libc::poll(&raw mut stderr, 1, LINE_WAIT_MS) > 0 {
            libc::write(2, line.bytes.as_ptr().cast(), line.len);
        }
        libc::sigaction(signal, (*BEFORE.0.get())[index].as_ptr(), ptr::null_mut());
        // A faulting instruction runs again when this returns, and its signal then has its previous
        // action. A signal that a process sent does not come again, so it is raised here.
        if info.is_null() || (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

/// A text buffer of fixed size, because a signal handler must not allocate. Longer text is cut.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn add(&mut self, text: &str) {
        let room = &mut self.bytes[self.len..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
    }

    fn add_number(&mut self, number: u64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut left = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.add(std::str::from_utf8(&digits[at..]).unwrap_or("?"));
    }
}

/// Writes the line. It names the plugin that the thread is calling or belongs to, or the plugin
/// whose code contains the instruction.
fn describe(line: &mut Line, signal: &str, counter: usize) {
    line.add("grapnel: ");
    line.add(signal);
    let owner = WHO.try_with(Cell::get).unwrap_or(ThreadOwner::Nobody);
    let mut named = false;
    match owner {
        ThreadOwner::Shard(shard, calls) => {
            // SAFETY: `enter_shard` has leaked the cell, so it is alive for the rest of the
            // process.
            if let Some((called, what)) = unsafe { &*calls }.current_name() {
                line.add(" in plugin ");
                add_called(line, called);
                line.add(" at ");
                line.add(what);
                named = true;
            }
            if !named {
                named = add_owner(line, counter);
            }
            line.add(if named { ", on shard " } else { " in no plugin, on shard " });
            line.add_number(u64::from(shard.0));
        }
        ThreadOwner::PluginThread(plugin) => {
            line.add(" in a thread of plugin ");
            add_name(line, plugin);
        }
        ThreadOwner::Nobody => {
            if !add_owner(line, counter) {
                line.add(" in no plugin");
            }
        }
    }
    line.add("; the process ends\n");
}

fn add_called(line: &mut Line, called: Called) {
    match called {
        Called::Plugin(plugin) => add_name(line, plugin),
        Called::Hook(link) => {
            let (plugin, hook) = hook_name(link).and_then(|name| name.split_once('/')).unwrap_or(("?", "?"));
            line.add(plugin);
            line.add(", hook ");
            line.add(hook);
        }
    }
}

fn add_name(line: &mut Line, plugin: PluginHandle) {
    match code_ranges().find(|place| place.handle.load(Ordering::Acquire) == plugin.0) {
        Some(place) => line.add(name_of(place)),
        None => line.add_number(plugin.0),
    }
}

/// Adds the name of the plugin whose code contains the instruction. Returns whether there is one.
fn add_owner(line: &mut Line, counter: usize) -> bool {
    let owner = code_ranges().find(|place| {
        place.handle.load(Ordering::Acquire) != 0
            && (place.start.load(Ordering::Relaxed)..place.end.load(Ordering::Relaxed)).contains(&counter)
    });
    if let Some(place) = owner {
        line.add(" in code of plugin ");
        line.add(name_of(place));
    }
    owner.is_some()
}

fn code_ranges() -> impl Iterator<Item = &'static CodeRange> {
    CODE.iter().take(CODE_RANGES.load(Ordering::Relaxed))
}

fn name_of(place: &CodeRange) -> &'static str {
    let (start, bytes) = (place.name.load(Ordering::Relaxed), place.name_bytes.load(Ordering::Relaxed));
    if start.is_null() {
        return "";
    }
    // SAFETY: `remember_code` stored pointer and length of one leaked `str`. It stored the handle
    // last, and the caller has read the handle.
    unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(start, bytes)) }
}

/// The address of the interrupted instruction; 0 on other architectures.
fn program_counter(context: *mut c_void) -> usize {
    // SAFETY: the kernel passes null or the context of the interrupted thread.
    let Some(context) = (unsafe { context.cast::<libc::ucontext_t>().as_ref() }) else { return 0 };
    #[cfg(target_arch = "x86_64")]
    return context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return context.uc_mcontext.pc as usize;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_mapping_found_for_a_function_is_executable_and_contains_it() {
        let inside = install as *const () as usize;
        let (start, end) = code_around(inside).unwrap();
        assert!((start..end).contains(&inside));
        assert_eq!(code_around(1), None);
    }

    #[test]
    fn a_line_is_cut_at_the_end_of_its_buffer() {
        let mut line = Line { bytes: [0; 512], len: 0 };
        line.add_number(0);
        line.add_number(u64::MAX);
        assert_eq!(&line.bytes[..line.len], b"018446744073709551615");
        (0..100).for_each(|_| line.add("sixteen letters."));
        assert_eq!(line.len, 512);
    }

    #[test]
    fn the_plugin_at_fault_is_found_by_call_thread_or_code_address() {
        let line_for = |counter| {
            let mut line = Line { bytes: [0; 512], len: 0 };
            describe(&mut line, "SIGSEGV", counter);
            String::from_utf8_lossy(&line.bytes[..line.len]).into_owned()
        };
        let inside = install as *const () as usize;
        remember_code(PluginHandle(7), "crasher".into(), inside);
        assert_eq!(line_for(inside), "grapnel: SIGSEGV in code of plugin crasher; the process ends\n");
        assert_eq!(line_for(1), "grapnel: SIGSEGV in no plugin; the process ends\n");
        {
            let _stack = enter_plugin_thread(PluginHandle(7));
            assert_eq!(line_for(1), "grapnel: SIGSEGV in a thread of plugin crasher; the process ends\n");
        }
        let calls = Arc::new(CallCell::default());
        let _stack = enter_shard(ShardId(3), Arc::clone(&calls));
        assert_eq!(line_for(1), "grapnel: SIGSEGV in no plugin, on shard 3; the process ends\n");
        calls.enter(grapnel_engine::hook::HookPoint::MessagePublish, 0);
        remember_hook(LinkIdentity(7), &"crasher/second".into());
        calls.turn_of(LinkIdentity(7));
        assert_eq!(
            line_for(1),
            "grapnel: SIGSEGV in plugin crasher, hook second at message.publish, on shard 3; the process ends\n"
        );
    }
}
