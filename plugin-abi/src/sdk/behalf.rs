//! What a plugin requests on behalf of a client: the identity that it stores of the client, for
//! whom it requests, and the result. The functions themselves are in [`Host`].

use super::error::{Error, Refused};
use super::event::Context;
use super::host::Host;
use super::outgoing::Outgoing;
use super::reason::Reason;
use crate::host::ClientIdentity;
use crate::raw::{self, BEHALF_ANSWER, Slice, Status};

/// Who a client was at an event, with all that `client.authorize` reads of it: for what is done on its behalf later, when it may
/// have gone. Made by the broker; at most 65,536 bytes, which count as memory that the client makes the plugin hold.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity(Box<[u8]>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.client_id())
    }
}

impl Identity {
    /// Of the client of a running event.
    pub(crate) fn of(context: &Context<'_>) -> Result<Identity, Refused> {
        // Enough for most.
        let mut room = [0; 256];
        match context.identity(&mut room) {
            Ok(len) => return Ok(Identity(room[..len].into())),
            Err((Status::FULL, len)) if len > 0 => {
                let mut room = vec![0; len];
                if let Ok(len) = context.identity(&mut room) {
                    room.truncate(len);
                    return Ok(Identity(room.into()));
                }
            }
            Err((status, _)) => return Err(Refused { field: None, status }),
        }
        Err(Refused { field: None, status: Status::FULL })
    }

    /// Its bytes, for the version that replaces the plugin: opaque, and not to be shown to anybody.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An identity from the bytes of [`Identity::as_bytes`].
    ///
    /// # Errors
    /// For anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Identity, Error> {
        match ClientIdentity::decode(bytes) {
            Ok(_) => Ok(Identity(bytes.into())),
            Err(_) => Err(Error::new("these bytes are no identity of a client")),
        }
    }

    /// Identifier of the client.
    pub fn client_id(&self) -> &str {
        ClientIdentity::decode(&self.0).map_or("", |identity| identity.client_id)
    }

    /// User name of the client, if it gave one.
    pub fn username(&self) -> Option<&str> {
        ClientIdentity::decode(&self.0).ok().and_then(|identity| identity.username)
    }
}

/// For whom a plugin asks for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnBehalf<'a> {
    whom: Whom<'a>,
    number: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whom<'a> {
    Identity(&'a Identity),
    Client(&'a str),
}

impl<'a> OnBehalf<'a> {
    /// A client as it was at an event. Where its session is still there with the same user name, what the session knows counts.
    pub fn of(identity: &'a Identity) -> OnBehalf<'a> {
        OnBehalf { whom: Whom::Identity(identity), number: None }
    }

    /// Whoever has this client identifier when the broker does it; refused with [`Reason::CLIENT_ID_NOT_VALID`] where nobody has.
    pub fn client(client_id: &'a str) -> OnBehalf<'a> {
        OnBehalf { whom: Whom::Client(client_id), number: None }
    }

    /// Tells the plugin what became of it: [`super::Plugin::on_answer`] with this number, on the shard of the client.
    #[must_use]
    pub fn answered(self, number: u64) -> OnBehalf<'a> {
        OnBehalf { number: Some(number), ..self }
    }

    pub(super) fn with_table<R>(&self, call: impl FnOnce(*const raw::OnBehalf) -> R) -> R {
        let (identity, client_id) = match self.whom {
            Whom::Identity(identity) => (identity.as_bytes(), ""),
            Whom::Client(client_id) => (&[][..], client_id),
        };
        let table = raw::OnBehalf {
            size: size_of::<raw::OnBehalf>() as u32,
            flags: if self.number.is_some() { BEHALF_ANSWER } else { 0 },
            identity: Slice::of(identity),
            client_id: Slice::of(client_id.as_bytes()),
            number: self.number.unwrap_or(0),
        };
        call(&raw const table)
    }
}

impl<'a> From<&'a Identity> for OnBehalf<'a> {
    fn from(identity: &'a Identity) -> OnBehalf<'a> {
        OnBehalf::of(identity)
    }
}

/// What a client is asked to be allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish<'a> {
    /// Publishing to a topic name, with a QoS and the retain flag.
    Publish(&'a str, u8, bool),
    /// Subscribing to a topic filter with a QoS.
    Subscribe(&'a str, u8),
    /// Receiving a message of a topic name with a QoS: only hooks that were mounted for deliveries are asked.
    Deliver(&'a str, u8),
}

/// What became of something that was asked for on behalf of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The number that [`OnBehalf::answered`] or [`Host::authorize_as`] was given.
    pub number: u64,
    /// A code below 0x80 where it was done or is allowed: the one that the client's own packet would have been acknowledged with.
    /// [`Reason::NOT_AUTHORIZED`] where `client.authorize` refused it. [`Reason::SERVER_UNAVAILABLE`] where a hook was asked and gave
    /// no answer, in time or at all, and [`Reason::QUOTA_EXCEEDED`] where too much waits: nothing of it has happened, and it may be
    /// tried again.
    pub reason: Reason,
}

impl Answer {
    /// Whether it was done, or is allowed.
    pub fn is_success(&self) -> bool {
        self.reason.0 < 0x80
    }
}

impl Host {
    /// Publishes a message on behalf of a client: `client.authorize` is asked as for the client's own PUBLISH, with the client as its
    /// session knows it, or with the identity where that session has gone or is another user's. What the client's PUBLISH must obey
    /// holds too; a QoS above `maximum_qos` is lowered. A refused message has no effect: it is counted (`behalf_refused`) and
    /// logged. Of a message with [`Outgoing::from_client`], the client is the one it comes from. Any thread.
    ///
    /// It waits behind what the plugin has asked for before on behalf of the same client. Where too much waits for the client or the
    /// plugin (`behalf_client_requests_max`, `behalf_requests_max` and their bytes), it is refused with [`Reason::QUOTA_EXCEEDED`]
    /// at once: whoever must not lose the message asks for an answer ([`OnBehalf::answered`]), keeps it until the answer has come,
    /// and tries again later after that one. That it was delivered and not stored, where it was to be retained and the store is full,
    /// is no refusal.
    ///
    /// # Errors
    /// [`Refused`] for a topic or property that no message may have, and beyond `plugin_publishes_per_second_max`.
    pub fn publish_as<'a>(self, whom: impl Into<OnBehalf<'a>>, message: &Outgoing) -> Result<(), Refused> {
        whom.into().with_table(|behalf| {
            message.with_table(|table| {
                // SAFETY: may be called from any thread, and the tables and what they point to are alive during the call.
                Host::done(unsafe { (self.api().publish_as)(self.handle(), behalf, table) })
            })
        })
    }

    /// Subscribes a client as [`Host::subscribe`] does, if `client.authorize` allows it, and if the session is still of the same user
    /// name. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for a filter or options that cannot be.
    pub fn subscribe_as<'a>(
        self,
        whom: impl Into<OnBehalf<'a>>,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Refused> {
        let filter = Slice::of(filter.as_bytes());
        whom.into().with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table and the text are alive during the call.
            Host::done(unsafe {
                (self.api().subscribe_as)(self.handle(), behalf, filter, u32::from(options), subscription_id)
            })
        })
    }

    /// Takes a subscription from a client, if the session is still of the same user name, behind what the plugin has asked for before
    /// on behalf of the same client. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for a filter that cannot be.
    pub fn unsubscribe_as<'a>(self, whom: impl Into<OnBehalf<'a>>, filter: &str) -> Result<(), Refused> {
        let filter = Slice::of(filter.as_bytes());
        whom.into().with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table and the text are alive during the call.
            Host::done(unsafe { (self.api().unsubscribe_as)(self.handle(), behalf, filter) })
        })
    }

    /// Asks whether a client may do something, for what the plugin keeps itself, such as messages that it hands out. The answer
    /// comes to [`super::Plugin::on_answer`] with this number. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for a topic name or filter that cannot be, and where too much waits already.
    pub fn authorize_as<'a>(
        self,
        whom: impl Into<OnBehalf<'a>>,
        wish: Wish<'_>,
        number: u64,
    ) -> Result<(), Refused> {
        let (action, topic, qos, retain) = match wish {
            Wish::Publish(topic, qos, retain) => (raw::Action::PUBLISH, topic, qos, retain),
            Wish::Subscribe(filter, qos) => (raw::Action::SUBSCRIBE, filter, qos, false),
            Wish::Deliver(topic, qos) => (raw::Action::DELIVER, topic, qos, false),
        };
        let (topic, qos, retain) = (Slice::of(topic.as_bytes()), u32::from(qos), u32::from(retain));
        whom.into().answered(number).with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table and the text are alive during the call.
            Host::done(unsafe {
                (self.api().authorize_as)(self.handle(), behalf, action, topic, qos, retain)
            })
        })
    }
}
