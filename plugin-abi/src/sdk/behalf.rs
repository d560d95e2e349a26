//! What a plugin requests on behalf of a client: the identity that it stores of the client, for
//! whom it requests, and the result. The functions themselves are in [`Host`].

use super::account::account_of;
use super::error::{Error, Refused};
use super::event::Context;
use super::host::Host;
use super::outgoing::Outgoing;
use super::reason::Reason;
use crate::host::ClientIdentity;
use crate::raw::{self, BEHALF_ANSWER, Slice, Status};

/// A client's identity at an event, with everything that `client.authorize` reads of the client.
/// Use it for requests on behalf of the client later, even after the client has disconnected. Made
/// by the broker. At most 65,536 bytes; count them as memory that the client uses in the plugin.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity(Box<[u8]>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.client_id())
    }
}

impl Identity {
    /// The identity of the client of a running event.
    pub(crate) fn of(context: &Context<'_>) -> Result<Identity, Refused> {
        // Enough for most identities.
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

    /// The identity as bytes, for the version that replaces the plugin. The format is private to
    /// the broker; do not show the bytes to anybody.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An identity from the bytes of [`Identity::as_bytes`].
    ///
    /// # Errors
    /// For any other bytes.
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

    /// The account of the client, as [`crate::Publish::account`] returns it.
    pub fn account(&self) -> Option<String> {
        let identity = ClientIdentity::decode(&self.0).ok()?;
        let host = identity.peer.map(|peer| peer.ip().to_string());
        let is_client = !identity.transport.is_empty();
        account_of(identity.username, !identity.anonymous, host.as_deref(), is_client)
    }
}

/// The client of a request, and whether the plugin gets the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnBehalf<'a> {
    client: BehalfClient<'a>,
    number: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BehalfClient<'a> {
    Identity(&'a Identity),
    Client(&'a str),
}

impl<'a> OnBehalf<'a> {
    /// The client of an identity. If its session still exists with the same user name, the
    /// session's current values are used.
    pub fn of(identity: &'a Identity) -> OnBehalf<'a> {
        OnBehalf { client: BehalfClient::Identity(identity), number: None }
    }

    /// The client that has this client identifier when the broker executes the request. Refused
    /// with [`Reason::CLIENT_ID_NOT_VALID`] if there is none.
    pub fn client(client_id: &'a str) -> OnBehalf<'a> {
        OnBehalf { client: BehalfClient::Client(client_id), number: None }
    }

    /// Requests the result: [`super::Plugin::on_answer`] is called with this number, on the shard
    /// of the client.
    #[must_use]
    pub fn answered(self, number: u64) -> OnBehalf<'a> {
        OnBehalf { number: Some(number), ..self }
    }

    pub(super) fn with_table<R>(&self, call: impl FnOnce(*const raw::OnBehalf) -> R) -> R {
        let (identity, client_id) = match self.client {
            BehalfClient::Identity(identity) => (identity.as_bytes(), ""),
            BehalfClient::Client(client_id) => (&[][..], client_id),
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

/// An action to authorize for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAction<'a> {
    /// Publishing to a topic name, with a QoS and the retain flag.
    Publish(&'a str, u8, bool),
    /// Subscribing to a topic filter with a QoS.
    Subscribe(&'a str, u8),
    /// Receiving a message of a topic name with a QoS. Calls only hooks that are mounted for
    /// deliveries.
    Deliver(&'a str, u8),
}

/// The result of a request on behalf of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The number that [`OnBehalf::answered`] or [`Host::authorize_as`] was given.
    pub number: u64,
    /// Below 0x80 for success: the code that would acknowledge the client's own packet.
    /// [`Reason::NOT_AUTHORIZED`] if `client.authorize` refused. [`Reason::SERVER_UNAVAILABLE`] if
    /// a hook gave no verdict or missed its deadline. [`Reason::QUOTA_EXCEEDED`] if too many
    /// requests wait. In the last two cases the request had no effect and may be repeated.
    pub reason: Reason,
}

impl Answer {
    /// Whether the request was executed, or is allowed.
    pub fn is_success(&self) -> bool {
        self.reason.0 < 0x80
    }
}

impl Host {
    /// Publishes a message on behalf of a client. `client.authorize` is called as for the client's
    /// own PUBLISH, with the values of the client's session, or with the identity if the session
    /// has ended or has another user name. The other rules for a client's PUBLISH apply too; a QoS
    /// above `maximum_qos` is lowered. A refused message has no effect: it is counted
    /// (`behalf_refused`) and logged. With [`Outgoing::from_client`], the message comes from that
    /// client. Any thread.
    ///
    /// The request waits for earlier requests of the plugin on behalf of the same client. If too
    /// many wait for the client or the plugin (`behalf_client_requests_max`, `behalf_requests_max`
    /// and their byte limits), it is refused at once with [`Reason::QUOTA_EXCEEDED`]. If the
    /// message must not be lost, request the result ([`OnBehalf::answered`]), store the message
    /// until the result arrives, and repeat the request after a refusal.
    ///
    /// If the message was to be retained and the retained store is full, it is delivered but not
    /// stored; this is no refusal.
    ///
    /// # Errors
    /// [`Refused`] for an invalid topic or property, and above `plugin_publishes_per_second_max`.
    pub fn publish_as<'a>(self, client: impl Into<OnBehalf<'a>>, message: &Outgoing) -> Result<(), Refused> {
        client.into().with_table(|behalf| {
            message.with_table(|table| {
                // SAFETY: may be called from any thread, and the tables and what they point to are
                // alive during the call.
                Host::done(unsafe { (self.api().publish_as)(self.handle(), behalf, table) })
            })
        })
    }

    /// Subscribes a client as [`Host::subscribe`] does, if `client.authorize` allows it and the
    /// session still has the same user name. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for an invalid filter or invalid options.
    pub fn subscribe_as<'a>(
        self,
        client: impl Into<OnBehalf<'a>>,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Refused> {
        let filter = Slice::of(filter.as_bytes());
        client.into().with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table and the text are alive during
            // the call.
            Host::done(unsafe {
                (self.api().subscribe_as)(self.handle(), behalf, filter, u32::from(options), subscription_id)
            })
        })
    }

    /// Removes a subscription of a client, if the session still has the same user name. The request
    /// waits for earlier requests of the plugin on behalf of the same client. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for an invalid filter.
    pub fn unsubscribe_as<'a>(self, client: impl Into<OnBehalf<'a>>, filter: &str) -> Result<(), Refused> {
        let filter = Slice::of(filter.as_bytes());
        client.into().with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table and the text are alive during
            // the call.
            Host::done(unsafe { (self.api().unsubscribe_as)(self.handle(), behalf, filter) })
        })
    }

    /// Requests authorization of a client's action, for data that the plugin itself stores, such as
    /// messages that it delivers. The result arrives at [`super::Plugin::on_answer`] with this
    /// number. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for an invalid topic name or filter, and if too many requests wait already.
    pub fn authorize_as<'a>(
        self,
        client: impl Into<OnBehalf<'a>>,
        wish: ClientAction<'_>,
        number: u64,
    ) -> Result<(), Refused> {
        let (action, topic, qos, retain) = match wish {
            ClientAction::Publish(topic, qos, retain) => (raw::Action::PUBLISH, topic, qos, retain),
            ClientAction::Subscribe(filter, qos) => (raw::Action::SUBSCRIBE, filter, qos, false),
            ClientAction::Deliver(topic, qos) => (raw::Action::DELIVER, topic, qos, false),
        };
        let (topic, qos, retain) = (Slice::of(topic.as_bytes()), u32::from(qos), u32::from(retain));
        client.into().answered(number).with_table(|behalf| {
            // SAFETY: may be called from any thread, and the table and the text are alive during
            // the call.
            Host::done(unsafe {
                (self.api().authorize_as)(self.handle(), behalf, action, topic, qos, retain)
            })
        })
    }
}
