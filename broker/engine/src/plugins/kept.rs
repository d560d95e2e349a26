//! Instance messages that are stored for a plugin, and their size.

use std::sync::Arc;

use bytes::Bytes;

use crate::hook::PluginHandle;
use crate::interface::FROM_THE_BROKER;

/// An instance message for a plugin that is not in the chains yet or is suspended.
#[derive(Debug)]
pub(crate) struct StoredInstanceMessage {
    pub(crate) plugin: PluginHandle,
    pub(crate) from: u32,
    pub(crate) number: u64,
    pub(crate) bytes: Bytes,
    /// Description of the page, if it is a page of retained messages; any other answer is a code.
    pub(crate) page: Option<Box<PageAbout>>,
    /// How long to wait for a plugin that is in no chain table.
    pub(crate) until_ms: u64,
}

/// What a page of retained messages is about, for the log.
#[derive(Debug)]
pub(crate) struct PageAbout {
    /// The client for which it is read.
    pub(crate) client_id: Arc<str>,
    /// The topic filter.
    pub(crate) filter: Arc<str>,
}

impl StoredInstanceMessage {
    /// Bytes that it is charged for.
    pub(super) fn charge(&self) -> usize {
        let about = |page: &PageAbout| size_of::<PageAbout>() + page.client_id.len() + page.filter.len();
        self.bytes.len() + self.page.as_deref().map_or(0, about)
    }

    /// Bytes of a page beyond those of a code.
    pub(super) fn page_bytes(&self) -> usize {
        if self.from == FROM_THE_BROKER { self.charge() - 1 } else { 0 }
    }
}
