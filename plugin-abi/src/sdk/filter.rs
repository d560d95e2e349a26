//! SUBSCRIBE and UNSUBSCRIBE as a plugin sees them: lists of topic filters that it may rewrite or
//! refuse one by one.

use std::time::Duration;

use super::client::Verdict;
use super::error::Refused;
use super::event::{at, bytes, client_getters, number, user_property_getters, wrapper};
use super::reason::Reason;
use super::ticket::{FiltersTicket, deadline_ms};
use crate::raw::{Change, Field};

wrapper! {
    /// SUBSCRIBE was read (`client.subscribe`). What the filters are rewritten to is what is authorised and subscribed; SUBACK
    /// answers in the order of the packet.
    Subscribe
}

wrapper! {
    /// UNSUBSCRIBE was read (`client.unsubscribe`). What the filters are rewritten to is what the session loses; one that is refused
    /// stays subscribed. UNSUBACK answers in the order of the packet.
    Unsubscribe
}

/// One topic filter with its options (section 3.8.3.1), of a SUBSCRIBE, an UNSUBSCRIBE, which has no options, or a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter<'a> {
    /// Its place in the packet, for [`Subscribe::rewrite`] and [`Subscribe::refuse`].
    pub index: u32,
    /// The topic filter, a `$share/NAME/` in front included.
    pub filter: &'a str,
    /// Name of the share group, where it is a shared subscription.
    pub share_group: Option<&'a str>,
    /// The options byte.
    pub options: u8,
    /// Whether a plugin before has refused it.
    pub refused: bool,
}

impl Filter<'_> {
    /// Maximum quality of service, 0 to 2.
    pub const fn qos(&self) -> u8 {
        self.options & 0b11
    }

    /// Whether the client does not want its own messages.
    pub const fn no_local(&self) -> bool {
        self.options & 0b100 != 0
    }

    /// Whether the retain flag is kept as published.
    pub const fn retain_as_published(&self) -> bool {
        self.options & 0b1000 != 0
    }

    /// When retained messages are sent: 0 always, 1 for a new subscription, 2 never.
    pub const fn retain_handling(&self) -> u8 {
        (self.options >> 4) & 0b11
    }
}

/// What SUBSCRIBE and UNSUBSCRIBE have in common.
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

        /// Puts another topic filter in its place.
        ///
        /// # Errors
        /// [`Refused`] for an index that is not there, or text that is no topic filter.
        pub fn rewrite(&mut self, index: u32, filter: &str) -> Result<(), Refused> {
            self.change(at(index, bytes(Field::FILTER, filter.as_bytes())))
        }

        /// Takes a ticket to answer later, from any thread; return [`crate::Flow::Defer`] then. Changes made before it are
        /// kept, unless it ends by a fault. A zero `deadline` means the longest there is: the hook's `deadline_ms`, or the
        /// operator's default (`defer_deadline_ms`) where the hook names none. After it, it is a fault: at `client.subscribe`
        /// the filters are refused, at `client.unsubscribe` the next hook is called, unless the operator says otherwise.
        ///
        /// # Errors
        /// [`Refused`] where no ticket is left (`tickets_max`).
        pub fn defer(&mut self, deadline: Duration) -> Result<FiltersTicket, Refused> {
            let ticket = self.context.defer(deadline_ms(deadline))?;
            Ok(FiltersTicket::new(ticket, self.context.host()))
        }

        /// Refuses a topic filter; its place in the acknowledgement carries the reason.
        ///
        /// # Errors
        /// [`Refused`] for an index that is not there, or a reason code that the acknowledgement does not have.
        pub fn refuse(&mut self, index: u32, reason: Reason) -> Result<(), Refused> {
            self.change(at(index, number(Field::REASON_CODE, u64::from(reason.0))))?;
            self.change(at(index, number(Field::VERDICT, Verdict::DENY)))
        }
    };
}

impl<'a> Subscribe<'a> {
    filters! {}

    /// Subscription identifier, where the packet has one. It is that of all its filters.
    pub fn subscription_id(&self) -> Option<u32> {
        self.context.number(Field::SUBSCRIPTION_ID, 0).map(|id| id as u32)
    }

    /// Changes the options byte of a topic filter.
    ///
    /// # Errors
    /// [`Refused`] for an index that is not there, or an options byte that section 3.8.3.1 forbids.
    pub fn set_options(&mut self, index: u32, options: u8) -> Result<(), Refused> {
        self.change(at(index, number(Field::FILTER_OPTIONS, u64::from(options))))
    }
}

impl<'a> Unsubscribe<'a> {
    filters! {}
}
