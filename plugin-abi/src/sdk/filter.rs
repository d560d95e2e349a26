//! SUBSCRIBE and UNSUBSCRIBE as a plugin sees them: lists of topic filters. A plugin may rewrite or
//! refuse each filter.

use std::time::Duration;

use super::client::Verdict;
use super::error::Refused;
use super::event::{at, bytes, client_getters, number, user_property_getters, wrapper};
use super::reason::Reason;
use super::ticket::{FiltersTicket, deadline_ms};
use crate::raw::{Change, Field};

wrapper! {
    /// SUBSCRIBE was read (`client.subscribe`). The rewritten filters are authorized and
    /// subscribed. SUBACK has the order of the packet.
    Subscribe
}

wrapper! {
    /// UNSUBSCRIBE was read (`client.unsubscribe`). The rewritten filters are unsubscribed; a
    /// refused filter stays subscribed. UNSUBACK has the order of the packet.
    Unsubscribe
}

/// One topic filter with its options (section 3.8.3.1), from a SUBSCRIBE, an UNSUBSCRIBE (without
/// options) or a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter<'a> {
    /// Its index in the packet, for [`Subscribe::rewrite`] and [`Subscribe::refuse`].
    pub index: u32,
    /// The topic filter, including `$share/NAME/`.
    pub filter: &'a str,
    /// Name of the share group of a shared subscription.
    pub share_group: Option<&'a str>,
    /// The options byte.
    pub options: u8,
    /// Whether an earlier plugin has refused it.
    pub refused: bool,
}

impl Filter<'_> {
    /// Maximum quality of service, 0 to 2.
    pub const fn qos(&self) -> u8 {
        self.options & 0b11
    }

    /// Whether the client does not receive its own messages.
    pub const fn no_local(&self) -> bool {
        self.options & 0b100 != 0
    }

    /// Whether messages keep the retain flag that they were published with.
    pub const fn retain_as_published(&self) -> bool {
        self.options & 0b1000 != 0
    }

    /// When retained messages are sent: 0 always, 1 for a new subscription, 2 never.
    pub const fn retain_handling(&self) -> u8 {
        (self.options >> 4) & 0b11
    }
}

/// The common methods of SUBSCRIBE and UNSUBSCRIBE.
macro_rules! filters {
    () => {
        client_getters! {}
        user_property_getters! {}

        fn change(&mut self, change: Change) -> Result<(), Refused> {
            self.context.change(&change)
        }

        /// The topic filters, in the order of the packet.
        pub fn filters(&self) -> impl Iterator<Item = Filter<'a>> {
            (0..).map_while(|index| self.filter(index))
        }

        /// The `index`-th topic filter.
        pub fn filter(&self, index: u32) -> Option<Filter<'a>> {
            let filter = self.context.text(Field::FILTER, index)?;
            let share_group = self.context.text(Field::SHARE_GROUP, index);
            let options = self.context.number(Field::FILTER_OPTIONS, index).unwrap_or(0) as u8;
            let verdict = Verdict::from_number(self.context.number(Field::VERDICT, index));
            Some(Filter { index, filter, share_group, options, refused: verdict == Verdict::Deny })
        }

        /// Replaces the `index`-th topic filter.
        ///
        /// # Errors
        /// [`Refused`] if there is no such filter, or if the text is not a topic filter.
        pub fn rewrite(&mut self, index: u32, filter: &str) -> Result<(), Refused> {
            self.change(at(index, bytes(Field::FILTER, filter.as_bytes())))
        }

        /// Takes a ticket to complete later, from any thread; then return [`crate::Flow::Defer`].
        /// Changes made before it apply, unless the ticket ends with a fault. A zero `deadline`
        /// means the maximum: the hook's `deadline_ms`, or the operator's `defer_deadline_ms` if
        /// the hook sets none. A missed deadline is a fault. Unless the operator configures
        /// otherwise, `client.subscribe` then refuses the filters, and `client.unsubscribe`
        /// continues with the next hook.
        ///
        /// # Errors
        /// [`Refused`] if no ticket is left (`tickets_max`).
        pub fn defer(&mut self, deadline: Duration) -> Result<FiltersTicket, Refused> {
            let ticket = self.context.defer(deadline_ms(deadline))?;
            Ok(FiltersTicket::new(ticket, self.context.host()))
        }

        /// Refuses the `index`-th topic filter; the acknowledgement has the reason at this index.
        ///
        /// # Errors
        /// [`Refused`] if there is no such filter, or if the acknowledgement does not have the
        /// reason code.
        pub fn refuse(&mut self, index: u32, reason: Reason) -> Result<(), Refused> {
            self.change(at(index, number(Field::REASON_CODE, u64::from(reason.0))))?;
            self.change(at(index, number(Field::VERDICT, Verdict::DENY)))
        }
    };
}

impl<'a> Subscribe<'a> {
    filters! {}

    /// Subscription identifier of all filters, if the packet has one.
    pub fn subscription_id(&self) -> Option<u32> {
        self.context.number(Field::SUBSCRIPTION_ID, 0).map(|id| id as u32)
    }

    /// Changes the options byte of a topic filter.
    ///
    /// # Errors
    /// [`Refused`] if there is no such filter, or if section 3.8.3.1 forbids the options byte.
    pub fn set_options(&mut self, index: u32, options: u8) -> Result<(), Refused> {
        self.change(at(index, number(Field::FILTER_OPTIONS, u64::from(options))))
    }
}

impl<'a> Unsubscribe<'a> {
    filters! {}
}
