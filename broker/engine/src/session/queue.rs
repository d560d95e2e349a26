//! The messages of a session that wait for the window or the connection, with their bytes.

use std::collections::VecDeque;

use super::Delivery;
use crate::on_demand::{Empty, OnDemand};

/// Capacity that an empty queue keeps, in messages.
const SPARE: usize = 1024;

/// Messages that wait, in order.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: OnDemand<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    /// Bytes of the messages.
    bytes: usize,
}

impl Empty for Waiting {
    const EMPTY: &'static Waiting = &Waiting { deliveries: VecDeque::new(), bytes: 0 };
}

impl Queue {
    /// Bytes that it has allocated, without its entries.
    #[inline]
    pub(crate) fn part_bytes(&self) -> usize {
        self.waiting.memory()
    }

    /// Number of messages.
    #[inline]
    pub fn len(&self) -> usize {
        self.waiting.deliveries.len()
    }

    /// Whether no message waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.deliveries.is_empty()
    }

    /// Bytes of the messages.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.waiting.bytes
    }

    /// The messages in order.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.deliveries.iter()
    }

    /// Appends a message.
    pub fn push(&mut self, delivery: Delivery) {
        let waiting = self.waiting.make();
        waiting.bytes += delivery.message.bytes();
        waiting.deliveries.push_back(delivery);
    }

    /// Takes the first message.
    pub fn pop(&mut self) -> Option<Delivery> {
        let waiting = self.waiting.get_mut()?;
        let delivery = waiting.deliveries.pop_front()?;
        waiting.bytes -= delivery.message.bytes();
        if waiting.deliveries.is_empty() && waiting.deliveries.capacity() > SPARE {
            self.waiting.release();
        }
        Some(delivery)
    }

    /// Takes all messages, in order.
    pub fn take(&mut self) -> VecDeque<Delivery> {
        self.waiting.take().deliveries
    }
}
