//! How much of the answers of a shard may be in flight. Each answer may have one message, plus at
//! most half of what the other answers leave of the rest. So an answer with a blocked subscriber
//! does not delay other answers, and the total stays within the limit.

use crate::in_flight::Room;

/// The messages in flight of all answers of a shard.
#[derive(Debug)]
pub struct Pool {
    answers_max: u64,
    messages_max: u64,
    bytes_max: u64,
    /// Messages in addition to the first one of each answer.
    messages: u64,
    bytes: u64,
}

/// Messages and bytes of an answer.
pub type Share = (u64, u64);

impl Pool {
    /// A pool for this many answers at a time, with this many messages and bytes in total; at least
    /// one message for each answer.
    pub fn new(answers_max: u64, messages_max: u64, bytes_max: u64) -> Pool {
        Pool { answers_max: answers_max.min(messages_max), messages_max, bytes_max, messages: 0, bytes: 0 }
    }

    /// Maximum number of answers in progress.
    pub fn answers_max(&self) -> u64 {
        self.answers_max
    }

    /// How much an answer may have in flight, given what it has now.
    pub fn room(&self, own: Share) -> Room {
        let others = self.messages - beyond_first_message(own);
        let free = (self.messages_max - self.answers_max).saturating_sub(others);
        let free_bytes = self.bytes_max.saturating_sub(self.bytes - own.1);
        Room { messages: 1 + free.div_ceil(2), bytes: free_bytes.div_ceil(2) }
    }

    /// Updates the usage of an answer.
    pub fn moved(&mut self, before: Share, now: Share) {
        self.messages = self.messages + beyond_first_message(now) - beyond_first_message(before);
        self.bytes = self.bytes + now.1 - before.1;
    }
}

fn beyond_first_message(share: Share) -> u64 {
    share.0.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer takes all that is allowed, one after the other: the limit is kept, and each
    /// answer gets at least one message.
    #[test]
    fn the_common_limit_leaves_one_message_for_each_answer() {
        for (answers_max, messages_max) in [(8, 100), (1, 1), (8, 1), (8, 8), (3, 4), (100, 7)] {
            let mut pool = Pool::new(answers_max, messages_max, 1000);
            let answers = pool.answers_max();
            assert!((1..=messages_max).contains(&answers));
            let mut taken = 0;
            for _ in 0..answers {
                let room = pool.room((0, 0));
                pool.moved((0, 0), (room.messages, room.bytes));
                assert!(room.messages >= 1);
                taken += room.messages;
            }
            assert!(taken <= messages_max, "{taken} of {messages_max}");
            assert!(pool.bytes <= 1000);
        }
    }

    #[test]
    fn released_shares_are_available_to_others() {
        let mut pool = Pool::new(2, 102, 1000);
        let room = pool.room((0, 0));
        assert_eq!((room.messages, room.bytes), (51, 500));
        pool.moved((0, 0), (51, 500));
        let (own, other) = (pool.room((51, 500)), pool.room((0, 0)));
        assert_eq!((own.messages, own.bytes, other.messages, other.bytes), (51, 500, 26, 250));
        pool.moved((51, 500), (0, 0));
        assert_eq!(pool.room((0, 0)).messages, 51);
    }
}
