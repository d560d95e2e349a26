//! Requests of a plugin on behalf of a client, while they wait in the request queue of the client.
//! `flow/on_behalf.rs` carries them out.

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
    /// The plugin that made the request.
    pub plugin: PluginHandle,
    /// The client: from its session, or from the identity that the plugin stored if the session is
    /// gone.
    pub identity: Rc<Identity>,
    /// What is requested.
    pub kind: BehalfKind,
    /// The number under which the plugin gets the result; `None` if it gets none.
    pub answer: Option<u64>,
    /// Version of the rules under which the request was authorized.
    pub epoch: u64,
    /// How often it was authorized again because the rules changed.
    pub rounds: u8,
    /// The authorization request, once it was allowed. It is repeated if the rules change before
    /// the request's turn.
    pub authorization: Option<(Action, Arc<Message>)>,
}

/// What a plugin requests.
#[derive(Debug)]
pub enum BehalfKind {
    /// Publish a message.
    Publish,
    /// Only check whether the client is authorized.
    Authorize,
    /// Read retained messages.
    Fetch {
        /// What to read.
        fetch: Fetch,
        /// Whether the plugin named the client by its id, and not by a stored identity.
        by_id: bool,
    },
    /// Subscribe the client.
    Subscribe {
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
        /// Subscription options.
        options: SubscriptionOptions,
        /// Subscription identifier, 0 for none.
        id: u32,
    },
    /// Remove a subscription of the client.
    Unsubscribe {
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
    },
}

impl BehalfKind {
    /// The filter of a subscription or a fetch; empty for all else.
    pub fn filter(&self) -> &str {
        match self {
            BehalfKind::Subscribe { filter, .. } | BehalfKind::Unsubscribe { filter } => filter,
            BehalfKind::Fetch { fetch, .. } => &fetch.filter,
            BehalfKind::Publish | BehalfKind::Authorize => "",
        }
    }

    /// What the request is, for the log; the topic or filter follows.
    pub fn words(&self) -> &'static str {
        match self {
            BehalfKind::Publish => "a publish to",
            BehalfKind::Authorize => "a question about",
            BehalfKind::Fetch { .. } => "a page of",
            BehalfKind::Subscribe { .. } => "a subscription to",
            BehalfKind::Unsubscribe { .. } => "an unsubscription from",
        }
    }
}

impl Behalf {
    /// Bytes that it is charged for. Its identity counts in full even if it is shared.
    pub fn bytes(&self) -> usize {
        let authorization = self.authorization.as_ref().map_or(0, |(_, message)| message.bytes());
        size_of::<Behalf>() + self.identity.bytes() + self.kind.filter().len() + authorization
    }
}
