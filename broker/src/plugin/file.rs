//! From a plugin's file to checked functions: finding it, a private copy, the checks of ELF and
//! ABI, the dynamic linker, and the manifest. Independent of chains and shards.

mod call;
pub(super) mod copies;
mod elf;
pub(super) mod layout_cache;
pub(super) mod library;
pub(super) mod lookup;
pub(super) mod manifest;
pub(super) mod mapped;
pub(super) mod read_only;
mod schema;

pub(super) use call::with_error;
