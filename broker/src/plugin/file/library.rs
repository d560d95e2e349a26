//! From a file to the functions of a plugin: private copy, dynamic linker, and the checks of the
//! ABI before any function of the plugin's table is called. A library that was mapped and checked
//! stays mapped: abi_stable has references to its layouts in a process-wide map, and threads or
//! thread-local destructors of the plugin may still be running.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use abi_stable::library::{AbiHeaderRef, LibHeader, LibraryError, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::sabi_types::VersionNumber;
use grapnel_plugin_abi::host::{ForeignTable, Module};
use grapnel_plugin_abi::layout::{self, Mismatch};
use grapnel_plugin_abi::module::{C_ENTRY, PluginModule, PluginModuleRef};
use grapnel_plugin_abi::raw::{ABI_MAJOR, ABI_MINOR};
use libloading::os::unix::{self, RTLD_LOCAL, RTLD_NOW};
use object::read::ReadCache;

use super::copies::{Copies, Copy};
use super::elf;
use super::layout_cache::{Content, LayoutCache};
use super::read_only::ReadOnlyPages;
use crate::plugin::error::LoadError;

/// One per process, as the map of abi_stable.
static LAYOUTS: LazyLock<Mutex<LayoutCache>> = LazyLock::new(Mutex::default);

/// The number of the next mapping.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Mapped code of a plugin with a compatible ABI.
#[derive(Clone, Copy)]
pub(in crate::plugin) struct Library {
    /// Its functions.
    pub module: Module,
    /// Bytes of memory that its code and data take.
    pub bytes: u64,
    /// The number of its mapping.
    number: u64,
}

impl Library {
    /// Whether both are the same mapping.
    pub(in crate::plugin) fn is_same(&self, other: &Library) -> bool {
        self.number == other.number
    }
}

/// What a library was mapped from.
pub(in crate::plugin) struct Source {
    pub content: Content,
    pub read_only: ReadOnlyPages,
}

/// An opened plugin file.
pub(in crate::plugin) enum Open {
    /// Mapped for this load.
    Mapped(Library, Source),
    /// Mapped for an earlier load.
    Again(Library),
}

/// Why a library was refused, and how much of it stays mapped.
#[derive(Debug)]
pub(in crate::plugin) struct RefusedLibrary {
    /// Why.
    pub error: LoadError,
    /// Bytes of memory that stay mapped; 0 if nothing does.
    pub bytes: u64,
}

impl From<LoadError> for RefusedLibrary {
    fn from(error: LoadError) -> RefusedLibrary {
        RefusedLibrary { error, bytes: 0 }
    }
}

/// Maps a plugin's file. `again` is called before anything is mapped: it returns a mapped library
/// with the same content that may be used again, or an error if no further library may be mapped.
/// The private copy is made in `copies` and is removed before this returns.
pub(in crate::plugin) fn open(
    file: &Path,
    copies: &Copies,
    again: impl FnOnce(Content) -> Result<Option<Library>, LoadError>,
) -> Result<Open, RefusedLibrary> {
    let (mapped, image) = read(file)?;
    let content = LAYOUTS.lock().unwrap_or_else(PoisonError::into_inner).content(&mapped);
    if let Some(library) = again(content)? {
        return Ok(Open::Again(library));
    }
    let copy = private_copy(file, &mapped, copies)?;
    drop(mapped);
    // Checked here, because the linker would report that the plugin's file is missing.
    std::fs::metadata(copy.path())
        .map_err(failed(file, "cannot reach the private copy of it through /proc"))?;
    // SAFETY: the file's headers have been checked against its size, and no other user can change
    // this copy. Static constructors of the library run here, as the operator expects of loading.
    // The library is closed again only if it exports no plugin, before another thread can use it.
    let library = unsafe { unix::Library::open(Some(copy.path()), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| linker(file, &copy.path(), &error))?;
    let header = header_of(&library);
    let c_entry = c_entry_of(&library);
    let inside = match (header, c_entry) {
        (Some(header), _) => std::ptr::from_ref(&*header).cast(),
        (None, Some(entry)) => entry as *const c_void,
        (None, None) => std::ptr::null(),
    };
    let read_only = ReadOnlyPages::of(&copy.path(), inside, &image);
    drop(copy);
    if header.is_none() && c_entry.is_none() {
        return Err(LoadError::NotAPlugin { file: file.to_owned() }.into());
    }
    // From here on the library stays mapped: functions of it are called, and its header gets our
    // globals.
    let library = std::mem::ManuallyDrop::new(library);
    let refused = |error| RefusedLibrary { error, bytes: image.memory_bytes };
    let module = match (header, c_entry) {
        (Some(header), _) => checked_module(file, header, content).map_err(refused)?,
        (None, Some(entry)) => {
            // SAFETY: the symbol is named after this version of the contract. By the contract, the
            // function takes no arguments, and its table begins with its own size and stays; the
            // code of both stays mapped.
            unsafe { Module::from_c(entry()) }.map_err(|table| refused(foreign_table(file, table)))?
        }
        (None, None) => return Err(LoadError::NotAPlugin { file: file.to_owned() }.into()),
    };
    tracing::debug!(file = %file.display(), library = ?*library, "mapped a plugin");
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    Ok(Open::Mapped(Library { module, bytes: image.memory_bytes, number }, Source { content, read_only }))
}

fn failed(file: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> LoadError {
    let file: PathBuf = file.to_owned();
    move |source| LoadError::File { file, what, source }
}

/// Reads the part of the file that will be mapped, and what the linker will do with it. The rest,
/// for debuggers, may be much larger and is not read.
fn read(file: &Path) -> Result<(Vec<u8>, elf::Image), LoadError> {
    let unreadable = || failed(file, "cannot read it");
    let metadata = std::fs::metadata(file).map_err(unreadable())?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "it is a folder" } else { "it is not a file" };
        return Err(LoadError::NotALibrary { file: file.to_owned(), what: what.to_owned() });
    }
    let mut open = File::open(file).map_err(unreadable())?;
    let before = as_written(&open).map_err(unreadable())?;
    let whole = elf::check(file, &ReadCache::new(&open), page_bytes())?;
    let mut mapped = Vec::new();
    // A sparse file can claim to be larger than all memory.
    let room = mapped.try_reserve_exact(whole.loaded_file_bytes).map_err(io::Error::other);
    room.map_err(unreadable())?;
    open.rewind().map_err(unreadable())?;
    let take = (&mut open).take(whole.loaded_file_bytes as u64).read_to_end(&mut mapped);
    take.map_err(unreadable())?;
    if as_written(&open).map_err(unreadable())? != before {
        let error = io::Error::other("it was written while it was read; try again when it is whole");
        return Err(unreadable()(error));
    }
    let image = elf::check_loaded(file, &mapped, page_bytes())?;
    Ok((mapped, image))
}

/// Values that change when a file is written: its length and its modification time.
fn as_written(file: &File) -> io::Result<(u64, i64, i64)> {
    let of = file.metadata()?;
    Ok((of.len(), of.mtime(), of.mtime_nsec()))
}

/// Copies the part of the file that will be mapped. The copy is needed because the linker
/// identifies files by inode, so that the same path would give the code that is mapped already, and
/// because overwriting a mapped file ends the process.
fn private_copy<'a>(file: &Path, mapped: &[u8], copies: &'a Copies) -> Result<Copy<'a>, LoadError> {
    copies.add(mapped).map_err(|error| {
        let text = format!("{}: {error}", copies.folder().display());
        failed(file, "cannot write a private copy of it")(std::io::Error::new(error.kind(), text))
    })
}

/// The page size of this machine.
fn page_bytes() -> u64 {
    // SAFETY: it reads a number that the process was given at its start.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(4096)
}

/// The linker's message, with the operator's path instead of the private one.
fn linker(file: &Path, copy: &Path, error: &libloading::Error) -> LoadError {
    let mut reason = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        reason = source.to_string();
    }
    let reason = reason.replace(&copy.display().to_string(), &file.display().to_string());
    LoadError::Linker { file: file.to_owned(), reason }
}

fn header_of(library: &unix::Library) -> Option<AbiHeaderRef> {
    // SAFETY: abi_stable mangles the symbol's name, and uses it for its header only. The magic
    // string of 32 bytes is compared before anything else is read.
    let symbol = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
    symbol.ok().map(|symbol| *symbol).filter(|header| header.magic_string == ours().magic_string)
}

const fn ours() -> abi_stable::library::AbiHeader {
    abi_stable::library::AbiHeader::VALUE
}

/// The error for a plugin of another ABI version; `version` is that version, if it could be read.
fn foreign_abi(file: &Path, version: Option<(u32, u32)>, built: String) -> LoadError {
    let speaks = if ABI_MINOR == 0 {
        format!("{ABI_MAJOR}.0")
    } else {
        format!("{ABI_MAJOR}.0 to {ABI_MAJOR}.{ABI_MINOR}")
    };
    let remedy = match version {
        // This broker may lack functions of the later version, and only the plugin can say whether
        // it needs them.
        Some((major, minor)) if major == u32::from(ABI_MAJOR) && minor > u32::from(ABI_MINOR) => format!(
            "its minor version is later than the broker's, which is {ABI_MINOR}: rebuild it with grapnel-plugin-abi \
             ~{ABI_MAJOR}.{ABI_MINOR}, or load it into a broker that speaks {major}.{minor}"
        ),
        _ => format!("rebuild it with grapnel-plugin-abi {ABI_MAJOR}"),
    };
    LoadError::ForeignAbi { file: file.to_owned(), built, speaks, remedy }
}

/// The function by which a plugin in C returns its table.
type CEntry = unsafe extern "C" fn() -> *const PluginModule;

fn c_entry_of(library: &unix::Library) -> Option<CEntry> {
    // SAFETY: only a plugin exports a symbol of this name, and by our contract it is a function of
    // this type.
    let symbol = unsafe { library.get::<CEntry>(C_ENTRY.as_bytes()) };
    symbol.ok().map(|symbol| *symbol)
}

/// The error for a table in C that was refused.
fn foreign_table(file: &Path, table: ForeignTable) -> LoadError {
    let built = format!("{ABI_MAJOR}.{ABI_MINOR}");
    let owned = || file.to_owned();
    match table {
        ForeignTable::Version(major, minor) => {
            foreign_abi(file, Some((major.into(), minor.into())), format!("{major}.{minor}"))
        }
        ForeignTable::Missing => {
            LoadError::BrokenTable { file: owned(), what: format!("{C_ENTRY} returned no table") }
        }
        ForeignTable::Function(name) => {
            LoadError::BrokenTable { file: owned(), what: format!("its table has no function {name}") }
        }
        ForeignTable::Short(bytes) => LoadError::ForeignLayout {
            file: owned(),
            built,
            what: format!("its table says it has {bytes} bytes"),
        },
        ForeignTable::Hash { theirs, ours } => {
            LoadError::ForeignLayout { file: owned(), built, what: other_hash(theirs, ours) }
        }
    }
}

fn other_hash(theirs: u64, ours: u64) -> String {
    format!("hash {theirs:016x} instead of {ours:016x}")
}

/// Checks version, layout and hash, in this order, because each check needs the one before it.
fn checked_module(file: &Path, header: AbiHeaderRef, content: Content) -> Result<Module, LoadError> {
    let header: &'static LibHeader = header.upgrade().map_err(|_| {
        let built = format!("of another abi_stable ({}.{})", header.abi_major, header.abi_minor);
        foreign_abi(file, None, built)
    })?;
    let text = header.version_strings();
    let built = text.version.as_str().to_owned();
    let version = VersionNumber::new(text).ok();
    let taken = version
        .filter(|version| version.major == u32::from(ABI_MAJOR) && version.minor <= u32::from(ABI_MINOR));
    let Some(taken) = taken else {
        let version = version.map(|version| (version.major, version.minor));
        let built = version.map_or(built, |(major, minor)| format!("{major}.{minor}"));
        return Err(foreign_abi(file, version, built));
    };
    let otherwise =
        |what: String| LoadError::ForeignLayout { file: file.to_owned(), built: built.clone(), what };
    let has_passed = LAYOUTS.lock().unwrap_or_else(PoisonError::into_inner).has_passed(content);
    let module = if taken.minor == u32::from(ABI_MINOR) && !has_passed {
        header.init_root_module::<PluginModuleRef>()
    } else {
        // abi_stable accepts a table that is longer than ours, but none that is shorter. The
        // comparison of hashes below replaces its check: the hash is over the names, offsets and
        // types of everything that the plugin uses. It also avoids a second check of the same file,
        // which would add another entry to the map of abi_stable.
        // SAFETY: the head of the table, which has the hash, is the same in every version, and
        // nothing else of the table is used before the hash has been compared.
        unsafe { header.unchecked_layout::<PluginModuleRef>() }
            .map_err(abi_stable::library::RootModuleError::into_library_error::<PluginModuleRef>)
    };
    let module = module.map_err(|error| {
        tracing::debug!(file = %file.display(), %error, "the layout check refused a plugin");
        otherwise(match error {
            LibraryError::AbiInstability(_) => "abi_stable found the difference".to_owned(),
            LibraryError::RootModule { .. } => "its root module failed to initialise".to_owned(),
            _ => "its header cannot be read".to_owned(),
        })
    })?;
    match layout::check(module.abi_major(), module.abi_minor(), module.abi_hash()) {
        Ok(()) => {}
        Err(Mismatch::Hash(ours)) => return Err(otherwise(other_hash(module.abi_hash(), ours))),
        Err(Mismatch::Version) => {
            return Err(otherwise(format!("its table says {}.{}", module.abi_major(), module.abi_minor())));
        }
    }
    LAYOUTS.lock().unwrap_or_else(PoisonError::into_inner).passed(content);
    Ok(Module::of(module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_unusable_c_table_names_a_remedy() {
        let error_of = |table| foreign_table(Path::new("x.so"), table).to_string();
        assert_eq!(
            error_of(ForeignTable::Missing),
            "cannot load x.so: grapnel_plugin_v1 returned no table; this is an error of the plugin"
        );
        assert_eq!(
            error_of(ForeignTable::Function("drop_shard")),
            "cannot load x.so: its table has no function drop_shard; this is an error of the plugin"
        );
        assert_eq!(
            error_of(ForeignTable::Version(2, 1)),
            "cannot load x.so: built for ABI 2.1, this broker speaks 1.0; rebuild it with grapnel-plugin-abi 1"
        );
        assert_eq!(
            error_of(ForeignTable::Version(1, 7)),
            "cannot load x.so: built for ABI 1.7, this broker speaks 1.0; its minor version is later than the broker's, which is \
             0: rebuild it with grapnel-plugin-abi ~1.0, or load it into a broker that speaks 1.7"
        );
        assert!(
            error_of(ForeignTable::Short(7)).contains("laid out differently (its table says it has 7 bytes)")
        );
        let hash = ForeignTable::Hash { theirs: 7, ours: 8 };
        assert!(error_of(hash).contains("laid out differently (hash 0000000000000007 instead"));
    }
}

/// A broker whose tables have grown, with plugins that were built without the growth. The plugins
/// come from the build directory; this test must not build them, because they would then have grown
/// too.
#[cfg(all(test, feature = "abi-test-grown"))]
mod grown {
    use grapnel_engine::hook::Entry;
    use grapnel_plugin_abi::module::Mount;
    use grapnel_plugin_abi::raw::Status;
    use grapnel_plugin_abi::testing::FakeEvent;

    use super::*;

    fn opened(name: &str) -> Library {
        let test = std::env::current_exe().expect("the kernel knows our path");
        let built = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
        let parent = tempfile::tempdir().expect("a place for temporary files");
        let copies = Copies::make(parent.path()).expect("a folder for copies");
        let file = built.join(format!("libgrapnel_{name}.so"));
        match open(&file, &copies, |_| Ok(None)).map_err(|refused| refused.error.to_string()) {
            Ok(Open::Mapped(library, _)) => library,
            Ok(Open::Again(_)) => panic!("it was mapped before"),
            Err(reason) => panic!("{name}: {reason}"),
        }
    }

    #[test]
    fn a_newer_broker_loads_plugins_of_the_previous_version() {
        assert_eq!(ABI_MINOR, 1, "this is the broker that has grown");
        for name in ["noop", "c_entry"] {
            let library = opened(name);
            assert!(library.module.grown.is_none(), "{name} has not grown");
            let mut mount = Mount::EMPTY;
            // SAFETY: the table has passed the checks of its layout, and `mount` is ours.
            assert_eq!(unsafe { (library.module.mount)(0, &raw mut mount) }, Status::OK);
            let function = mount.hook.expect("the hook");
            let mut error = grapnel_plugin_abi::module::ErrorText::over(&mut []);
            let (mut shared, mut instance) = (std::ptr::null_mut(), std::ptr::null_mut());
            let api = Box::leak(Box::new(grapnel_plugin_abi::host::host_api(1, 1)));
            let none = grapnel_plugin_abi::raw::Slice::EMPTY;
            // SAFETY: the calls are in the order of the table's contract, and their arguments live
            // during the calls.
            let flow = unsafe {
                assert_eq!((library.module.load)(api, none, &raw mut shared, &raw mut error), Status::OK);
                let init = library.module.init_shard;
                assert_eq!(init(shared, 0, &raw mut instance, &raw mut error), Status::OK);
                FakeEvent::publish("a", b"").call(Entry::new(function, instance).with_args(mount.args), 0)
            };
            assert_ne!(flow, grapnel_plugin_abi::raw::Flow::FAULT, "{name}");
        }
    }
}
