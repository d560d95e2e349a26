//! What a plugin asks for on behalf of a client, while it waits in the line of the client: for whom, what, and who is told what
//! became of it. `flow/on_behalf.rs` does it.

use std::rc::Rc;
use std::sync::Arc;

use super::fetch::Fetch;
use super::identity::Identity;
use crate::hook::PluginHandle;
use crate::hook::view::Action;
use crate::message::Message;
use crate::packet::SubscriptionOptions;

/// A request on behalf of a client.
#[derive(Debug)]
pub struct Behalf {
    /// Who asks.
    pub plugin: PluginHandle,
    /// The client, as its session knows it, or as the plugin has kept it where that has gone.
    pub identity: Rc<Identity>,
    /// What.
    pub deed: Deed,
    /// The number under which the plugin is told what became of it, if it wants to know.
    pub answer: Option<u64>,
    /// Version of the rules under which it was authorized.
    pub epoch: u64,
    /// How often it has been asked about anew because they had changed.
    pub rounds: u8,
    /// What was asked, once it was allowed: it is asked again where the rules change before its turn.
    pub question: Option<(Action, Arc<Message>)>,
}

/// What is asked for.
#[derive(Debug)]
pub enum Deed {
    /// A message is published.
    Publish,
    /// Nothing but whether the client may.
    Authorize,
    /// Retained messages are read.
    Fetch {
        /// Which.
        fetch: Fetch,
        /// Whether the plugin has named whoever is there, and not a client that it has kept.
        by_id: bool,
    },
    /// The client is subscribed.
    Subscribe {
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
        /// Options.
        options: SubscriptionOptions,
        /// Subscription identifier, 0 for none.
        id: u32,
    },
    /// A subscription is taken from the client.
    Unsubscribe {
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
    },
}

impl Deed {
    /// The filter of what a client is subscribed to, or of what is read; empty for all else.
    pub fn filter(&self) -> &str {
        match self {
            Deed::Subscribe { filter, .. } | Deed::Unsubscribe { filter } => filter,
            Deed::Fetch { fetch, .. } => &fetch.filter,
            Deed::Publish | Deed::Authorize => "",
        }
    }

    /// What it is, for the log: topic or filter follows.
    pub fn words(&self) -> &'static str {
        match self {
            Deed::Publish => "a publish to",
            Deed::Authorize => "a question about",
            Deed::Fetch { .. } => "a page of",
            Deed::Subscribe { .. } => "a subscription to",
            Deed::Unsubscribe { .. } => "an unsubscription from",
        }
    }
}

impl Behalf {
    /// Bytes that it is charged for, its identity as if nobody shared it.
    pub fn bytes(&self) -> usize {
        let question = self.question.as_ref().map_or(0, |(_, message)| message.bytes());
        size_of::<Behalf>() + self.identity.bytes() + self.deed.filter().len() + question
    }
}
