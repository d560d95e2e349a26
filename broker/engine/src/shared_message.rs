//! Messages that several sessions of a shard hold, and their total bytes. Each session is charged
//! for all its messages; the shard is charged once for each message.

use std::cell::{Cell, OnceCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::message::{Message, MessageView};

/// Bytes of the messages that sessions of a shard hold, each counted once.
#[derive(Clone, Debug, Default)]
pub struct Pool(Rc<Cell<usize>>);

impl Pool {
    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.0.get()
    }

    /// Counts a message until its last holder drops it; once, however often it is queued.
    pub fn count(&self, message: &SharedMessageInner) {
        if message.pool.get().is_none() {
            self.0.set(self.0.get() + message.bytes());
            // Cannot fail: it was empty one line above.
            let _ = message.pool.set(self.clone());
        }
    }
}

/// A message that several sessions of a shard hold. The shard has one reference count without
/// atomics; all shards share another.
#[derive(Debug)]
pub struct SharedMessageInner {
    message: Arc<Message>,
    /// The pool that counts it; set when a session first queues it.
    pool: OnceCell<Pool>,
}

impl From<Arc<Message>> for SharedMessageInner {
    fn from(message: Arc<Message>) -> SharedMessageInner {
        SharedMessageInner { message, pool: OnceCell::new() }
    }
}

impl Deref for SharedMessageInner {
    type Target = Arc<Message>;

    fn deref(&self) -> &Arc<Message> {
        &self.message
    }
}

impl Drop for SharedMessageInner {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.get() {
            pool.0.set(pool.0.get() - self.message.bytes());
        }
    }
}

/// A message that several sessions of a shard hold.
pub type SharedMessage = Rc<SharedMessageInner>;

/// The shared message, made at the first call.
pub(crate) fn shared_message<'a>(
    view: &MessageView<'_>,
    shared: &'a mut Option<SharedMessage>,
) -> &'a SharedMessage {
    shared.get_or_insert_with(|| Rc::new(Arc::new(view.to_message()).into()))
}
