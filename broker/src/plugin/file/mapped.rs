//! The mapped libraries and how many loads use each. A load of the same file maps nothing new if
//! the manifest says that the code can be loaded again (`MANIFEST_IN_PLACE`). A mapping is retired
//! with its last load. Used by transactions.

use super::layout_cache::Content;
use super::library::{Library, Source};
use super::read_only::ReadOnlyPages;

struct Mapping {
    library: Library,
    source: Source,
    /// Who may be loaded over it again: a plugin of this name.
    again: Option<String>,
    users: u32,
}

/// Those that are in use; each has a row until its last load has ended.
#[derive(Default)]
pub(in crate::plugin) struct Mapped {
    all: Vec<Mapping>,
}

impl Mapped {
    /// A library was mapped for a load.
    pub(in crate::plugin) fn add(&mut self, library: Library, source: Source) {
        self.all.push(Mapping { library, source, again: None, users: 1 });
    }

    /// A load of this name has found that its code can be loaded again.
    pub(in crate::plugin) fn allow_again(&mut self, library: Library, name: &str) {
        if let Some(mapping) = self.of(library) {
            mapping.again = Some(name.to_owned());
        }
    }

    /// A library that is mapped already and may be used for one load more, of a plugin of this name; where there is no name yet, it
    /// is the one that the plugin had before.
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

    /// A load has ended. The pages that can be given back, if it was the last one that used the library.
    pub(in crate::plugin) fn leave(&mut self, library: Library) -> Option<ReadOnlyPages> {
        let at = self.all.iter().position(|mapping| mapping.library.is_same(&library))?;
        self.all[at].users -= 1;
        (self.all[at].users == 0).then(|| self.all.swap_remove(at).source.read_only)
    }

    fn of(&mut self, library: Library) -> Option<&mut Mapping> {
        // What is mapped lies at addresses of its own.
        self.all.iter_mut().find(|mapping| mapping.library.is_same(&library))
    }
}
