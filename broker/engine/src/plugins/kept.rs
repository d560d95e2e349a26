//! Instance messages that is kept for a plugin, and what it takes.

use std::sync::Arc;

use bytes::Bytes;

use crate::hook::PluginHandle;
use crate::interface::FROM_THE_BROKER;

/// An instance message for a plugin that is not in the chains yet, or is not to be called for now.
#[derive(Debug)]
pub(crate) struct StoredInstanceMessage {
    pub(crate) plugin: PluginHandle,
    pub(crate) from: u32,
    pub(crate) number: u64,
    pub(crate) bytes: Bytes,
    /// What is read, where it is a page of retained messages: any other answer is a code.
    pub(crate) page: Option<Box<PageAbout>>,
    /// Until then one that is in no chain table is waited for.
    pub(crate) until_ms: u64,
}

/// What a page of retained messages is about, for the log.
#[derive(Debug)]
pub(crate) struct PageAbout {
    /// For whom it is read.
    pub(crate) client_id: Arc<str>,
    /// Of which topics.
    pub(crate) filter: Arc<str>,
}

impl StoredInstanceMessage {
    /// Bytes that are kept for it.
    pub(super) fn charge(&self) -> usize {
        let about = |page: &PageAbout| size_of::<PageAbout>() + page.client_id.len() + page.filter.len();
        self.bytes.len() + self.page.as_deref().map_or(0, about)
    }

    /// Bytes that a page has more than a code.
    pub(super) fn page_bytes(&self) -> usize {
        if self.from == FROM_THE_BROKER { self.charge() - 1 } else { 0 }
    }
}
