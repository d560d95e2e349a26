//! Instance messages that are stored for a plugin, in a queue that knows their size and their
//! largest page.

use std::collections::{BTreeSet, VecDeque};
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
    pub(crate) page: Option<Box<PageSubject>>,
    /// How long to wait for a plugin that is in no chain table.
    pub(crate) until_ms: u64,
}

/// What a page of retained messages is about, for the log.
#[derive(Debug)]
pub(crate) struct PageSubject {
    /// The client for which it is read.
    pub(crate) client_id: Arc<str>,
    /// The topic filter.
    pub(crate) filter: Arc<str>,
}

impl StoredInstanceMessage {
    /// Bytes that it is charged for.
    pub(super) fn charge(&self) -> usize {
        let about = |page: &PageSubject| size_of::<PageSubject>() + page.client_id.len() + page.filter.len();
        self.bytes.len() + self.page.as_deref().map_or(0, about)
    }

    /// Bytes of a page beyond those of a code.
    pub(super) fn page_bytes(&self) -> usize {
        if self.from == FROM_THE_BROKER { self.charge() - 1 } else { 0 }
    }
}

/// Stored instance messages, in order.
#[derive(Debug, Default)]
pub(crate) struct StoredMessages {
    messages: VecDeque<StoredInstanceMessage>,
    /// The number of the first message. Numbers do not change when messages in front leave.
    first: u64,
    bytes: usize,
    pages_bytes: usize,
    /// Bytes of each page, with its number.
    pages: BTreeSet<(usize, u64)>,
}

impl StoredMessages {
    /// Adds a message behind the others.
    pub(crate) fn push_back(&mut self, message: StoredInstanceMessage) {
        self.bytes += message.charge();
        self.pages_bytes += message.page_bytes();
        if message.page.is_some() {
            self.pages.insert((message.charge(), self.first + self.messages.len() as u64));
        }
        self.messages.push_back(message);
    }

    /// Removes the first message.
    pub(crate) fn pop_front(&mut self) -> Option<StoredInstanceMessage> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.charge();
        self.pages_bytes -= message.page_bytes();
        if message.page.is_some() {
            self.pages.remove(&(message.charge(), self.first));
        }
        self.first += 1;
        if self.messages.is_empty() {
            // What many messages needed is freed.
            self.messages = VecDeque::new();
        }
        Some(message)
    }

    /// Adds the messages of another queue behind the others.
    pub(super) fn append(&mut self, behind: StoredMessages) {
        behind.messages.into_iter().for_each(|message| self.push_back(message));
    }

    /// Replaces a page by this code. Returns its plugin and its description.
    pub(super) fn replace_page(
        &mut self,
        number: u64,
        code: Bytes,
    ) -> Option<(PluginHandle, Box<PageSubject>)> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let message = self.messages.get_mut(index)?;
        let before = message.charge();
        let page = message.page.take()?;
        message.bytes = code;
        let less = before - message.charge();
        self.pages.remove(&(before, number));
        self.bytes -= less;
        self.pages_bytes -= less;
        Some((message.plugin, page))
    }

    /// The page with the most bytes, with its number.
    pub(super) fn largest_page(&self) -> Option<(usize, u64)> {
        self.pages.last().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &StoredInstanceMessage> {
        self.messages.iter()
    }

    /// Bytes that the messages are charged for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of their pages beyond those of codes.
    pub(super) fn pages_bytes(&self) -> usize {
        self.pages_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64, bytes: usize, is_page: bool) -> StoredInstanceMessage {
        let about = PageSubject { client_id: "c".into(), filter: "f".into() };
        StoredInstanceMessage {
            plugin: PluginHandle(1),
            from: FROM_THE_BROKER,
            number,
            bytes: vec![0; bytes].into(),
            page: is_page.then(|| Box::new(about)),
            until_ms: 0,
        }
    }

    #[test]
    fn a_page_is_found_by_its_number_whatever_has_left_before_it() {
        let mut queue = StoredMessages::default();
        for (number, bytes, is_page) in [(0, 1, false), (1, 500, true), (2, 900, true), (3, 1, false)] {
            queue.push_back(message(number, bytes, is_page));
        }
        let about = size_of::<PageSubject>() + 2;
        let (bytes, number) = queue.largest_page().expect("there are two");
        assert_eq!((bytes, queue.bytes()), (900 + about, 1_402 + 2 * about));
        assert_eq!(queue.pages_bytes(), queue.bytes() - 4);
        assert_eq!(queue.pop_front().map(|message| message.number), Some(0));
        let code = || Bytes::from_static(&[0x97]);
        assert!(queue.replace_page(number, code()).is_some() && queue.replace_page(number, code()).is_none());
        assert_eq!((queue.bytes(), queue.pages_bytes()), (502 + about, 499 + about));
        let (_, number) = queue.largest_page().expect("there is one");
        let mut other = StoredMessages::default();
        other.push_back(message(4, 700, true));
        queue.append(other);
        assert!(queue.replace_page(number, code()).is_some(), "its number is the same");
        let numbers: Vec<u64> = std::iter::from_fn(|| queue.pop_front()).map(|one| one.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!((queue.bytes(), queue.pages_bytes(), queue.largest_page()), (0, 0, None));
        assert!(queue.replace_page(number, code()).is_none(), "it has left");
    }
}
