//! The mapped libraries and the number of loads that use each. A load of the same file maps nothing
//! new if the manifest says that the code can be loaded again (`MANIFEST_IN_PLACE`). A mapping is
//! retired with its last load. Used by transactions.

use super::layout_cache::Content;
use super::library::{Library, Source};
use super::read_only::ReadOnlyPages;

struct Mapping {
    library: Library,
    source: Source,
    /// The name of the plugin that may be loaded again from this mapping.
    again: Option<String>,
    users: u32,
}

/// The mappings that are in use; each stays in the list until its last load has ended.
#[derive(Default)]
pub(in crate::plugin) struct Mapped {
    all: Vec<Mapping>,
}

impl Mapped {
    /// Adds a library that was mapped for a load.
    pub(in crate::plugin) fn add(&mut self, library: Library, source: Source) {
        self.all.push(Mapping { library, source, again: None, users: 1 });
    }

    /// Notes that a plugin of this name may be loaded again from this mapping.
    pub(in crate::plugin) fn allow_again(&mut self, library: Library, name: &str) {
        if let Some(mapping) = self.of(library) {
            mapping.again = Some(name.to_owned());
        }
    }

    /// Returns a mapped library with this content for one more load of a plugin of this name, if
    /// that is allowed. Without `name`, the name of the earlier load is used.
    pub(in crate::plugin) fn again(&mut self, name: Option<&str>, content: Content) -> Option<Library> {
        let may = |mapping: &&mut Mapping| {
            let again = mapping.again.as_deref();
            mapping.source.content == content
                && again.is_some_and(|again| name.is_none_or(|name| name == again))
        };
        let mapping = self.all.iter_mut().find(may)?;
        mapping.users += 1;
        Some(mapping.library)
    }

    /// Ends a load. If it was the last one of the library, returns the pages that can be given
    /// back.
    pub(in crate::plugin) fn leave(&mut self, library: Library) -> Option<ReadOnlyPages> {
        let at = self.all.iter().position(|mapping| mapping.library.is_same(&library))?;
        self.all[at].users -= 1;
        (self.all[at].users == 0).then(|| self.all.swap_remove(at).source.read_only)
    }

    fn of(&mut self, library: Library) -> Option<&mut Mapping> {
        self.all.iter_mut().find(|mapping| mapping.library.is_same(&library))
    }
}
