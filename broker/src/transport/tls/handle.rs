//! The TLS configuration that a listener has in force, and its reload. Shards read it when they
//! accept a connection; the thread that reloads is another one.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::load::{TlsConfig, load, seconds_since_1970};
use super::settings::{TlsError, TlsSettings, TlsWarning};

/// The configuration in force of one listener. All threads may use it.
#[derive(Debug)]
pub(crate) struct TlsHandle {
    in_force: RwLock<Arc<TlsConfig>>,
    source: Mutex<Source>,
}

/// Where the configuration comes from.
#[derive(Debug)]
struct Source {
    settings: TlsSettings,
    /// The files as they were when they were last read, even if what they had was refused.
    stamps: Vec<Stamp>,
    /// Until when certificates that have expired were reported, seconds since 1970.
    looked_s: u64,
}

/// How one file looked; `None` if there was none.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl TlsHandle {
    /// Reads all files of the settings. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`TlsError`] if anything is wrong.
    pub fn new(settings: TlsSettings) -> Result<(TlsHandle, Vec<TlsWarning>), TlsError> {
        let (stamps, looked_s) = (stamps(&settings.files()), seconds_since_1970());
        let (config, warnings) = load(&settings)?;
        let source = Mutex::new(Source { settings, stamps, looked_s });
        Ok((TlsHandle { in_force: RwLock::new(config), source }, warnings))
    }

    /// The configuration for a new connection. A connection keeps the one that it began with.
    pub fn current(&self) -> Arc<TlsConfig> {
        // Only an assignment stands under the lock, so that what a panic leaves is whole.
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads all files again and puts the result in force for new connections. Sessions of before
    /// can then not be resumed. Blocks; not for the thread of a shard.
    ///
    /// # Errors
    /// [`TlsError::Kept`] if anything is wrong; the old configuration then stays in force.
    pub fn reload(&self) -> Result<Vec<TlsWarning>, TlsError> {
        let mut source = self.source();
        // Before the files are read: what changes meanwhile is seen by the next look.
        source.stamps = stamps(&source.settings.files());
        let looked_s = seconds_since_1970();
        let (config, warnings) = load(&source.settings).map_err(|error| TlsError::Kept(Box::new(error)))?;
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = config;
        // The load has reported what had expired by then.
        source.looked_s = looked_s;
        Ok(warnings)
    }

    /// The certificates in force that have expired since the load or the last call, each once.
    pub fn expired(&self) -> Vec<TlsWarning> {
        self.expired_at(seconds_since_1970())
    }

    /// As [`TlsHandle::expired`], at this time, seconds since 1970.
    pub(super) fn expired_at(&self, now_s: u64) -> Vec<TlsWarning> {
        let mut source = self.source();
        // A clock that was set back repeats nothing.
        let from_s = source.looked_s;
        source.looked_s = from_s.max(now_s);
        drop(source);
        self.current().expiries.iter().filter_map(|expiry| expiry.between(from_s, now_s)).collect()
    }

    /// Whether a file differs from when it was last read, by modification time, size and inode.
    /// After a reload that has failed this is false until a file changes once more, so that a
    /// periodic caller reports a fault once. One `stat` for each file; no file is read.
    pub fn files_changed(&self) -> bool {
        let source = self.source();
        stamps(&source.settings.files()) != source.stamps
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}
