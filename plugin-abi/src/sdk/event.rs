//! An event as the typed wrappers see it: fields that are read without a call, and the host's
//! accessors for the rest. The wrappers in `client`, `message` and `filter` are built on it.

use std::cell::Cell;

use super::error::Refused;
use super::host::Host;
use super::outgoing::Outgoing;
use crate::raw::{Change, Event, Field, Slice, Status, Ticket, Value};

/// An event while its hook runs. Every view that it returns is valid until the hook returns, even
/// if the field is changed meanwhile: the host never frees a value during an event.
#[derive(Debug)]
pub struct Context<'a> {
    event: &'a Event,
    host: Host,
    /// Bit `n` is set once this hook has changed field `n`: the copy in the event is then out of
    /// date.
    changed: Cell<u128>,
}

impl<'a> Context<'a> {
    /// # Safety
    /// `event` must be that of a hook which runs on this thread and does not return during `'a`,
    /// and `host` the table of the plugin it belongs to.
    pub(super) unsafe fn new(event: *const Event, host: Host) -> Option<Context<'a>> {
        // SAFETY: the caller guarantees that it is null or alive during 'a.
        let event = unsafe { event.as_ref() }?;
        // Every field of this struct exists since ABI 1.0; no broker passes a shorter struct.
        (event.size as usize >= size_of::<Event>()).then_some(Context { event, host, changed: Cell::new(0) })
    }

    pub(super) fn event(&self) -> &'a Event {
        self.event
    }

    pub(super) fn host(&self) -> Host {
        self.host
    }

    fn value(&self, field: Field, index: u32) -> Option<Value> {
        let mut value = Value::EMPTY;
        // SAFETY: this context lives only while its hook runs, on that thread, and `value` is
        // writable.
        let status = unsafe { (self.host.api().get)(self.event.ctx, field, index, &raw mut value) };
        (status == Status::OK).then_some(value)
    }

    pub(super) fn number(&self, field: Field, index: u32) -> Option<u64> {
        self.value(field, index).map(|value| value.number)
    }

    pub(super) fn bytes(&self, field: Field, index: u32) -> Option<&'a [u8]> {
        // SAFETY: the host keeps every returned value alive and unchanged until the hook returns,
        // and 'a ends before that.
        self.value(field, index).map(|value| unsafe { value.bytes.bytes() })
    }

    pub(super) fn text(&self, field: Field, index: u32) -> Option<&'a str> {
        // SAFETY: as in `bytes`.
        self.value(field, index).map(|value| unsafe { value.bytes.text() })
    }

    pub(super) fn pair(&self, field: Field, index: u32) -> Option<(&'a str, &'a str)> {
        // SAFETY: as in `bytes`.
        self.value(field, index).map(|value| unsafe { (value.key.text(), value.bytes.text()) })
    }

    fn is_changed(&self, field: Field) -> bool {
        self.changed.get() & (1 << field.0) != 0
    }

    /// A number in the event, or the newer one that this hook has set.
    pub(super) fn number_at_hand(&self, field: Field, at_hand: u64) -> u64 {
        if self.is_changed(field) { self.number(field, 0).unwrap_or(at_hand) } else { at_hand }
    }

    /// A view in the event, or the newer one that this hook has set.
    pub(super) fn bytes_at_hand(&self, field: Field, at_hand: Slice) -> &'a [u8] {
        let newer = if self.is_changed(field) { self.bytes(field, 0) } else { None };
        // SAFETY: as in `bytes`; what is at hand lives as long as the event.
        newer.unwrap_or_else(|| unsafe { at_hand.bytes() })
    }

    /// As `bytes_at_hand`, for text.
    pub(super) fn text_at_hand(&self, field: Field, at_hand: Slice) -> &'a str {
        let newer = if self.is_changed(field) { self.text(field, 0) } else { None };
        // SAFETY: as in `bytes_at_hand`.
        newer.unwrap_or_else(|| unsafe { at_hand.text() })
    }

    pub(super) fn change(&mut self, change: &Change) -> Result<(), Refused> {
        // SAFETY: this context lives only while its hook runs, on that thread, and the host copies
        // during the call.
        let status = unsafe { (self.host.api().set)(self.event.ctx, change) };
        if status != Status::OK {
            return Err(Refused { field: Some(change.field), status });
        }
        self.changed.set(self.changed.get() | 1 << (change.field.0 & 127));
        Ok(())
    }

    pub(super) fn add_message(&mut self, message: &Outgoing) -> Result<(), Refused> {
        let status = message.with_table(|table| {
            // SAFETY: this context lives only while its hook runs, on that thread, and the host
            // copies during the call.
            unsafe { (self.host.api().add_message)(self.event.ctx, table) }
        });
        if status == Status::OK { Ok(()) } else { Err(Refused { field: None, status }) }
    }

    /// Writes the client's identity into `room`. Returns its length, or the status and the length
    /// that is needed.
    pub(super) fn identity(&self, room: &mut [u8]) -> Result<usize, (Status, usize)> {
        let mut len = 0;
        // SAFETY: this context lives only while its hook runs, on that thread, and room and length
        // are writable.
        let status = unsafe {
            (self.host.api().identity)(self.event.ctx, room.as_mut_ptr(), room.len(), &raw mut len)
        };
        if status == Status::OK && len <= room.len() { Ok(len) } else { Err((status, len)) }
    }

    pub(super) fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Refused> {
        let mut ticket = Ticket(0);
        // SAFETY: this context lives only while its hook runs, on that thread, and `ticket` is
        // writable.
        let status = unsafe { (self.host.api().defer)(self.event.ctx, deadline_ms, &raw mut ticket) };
        if status == Status::OK { Ok(ticket) } else { Err(Refused { field: None, status }) }
    }
}

/// A change of a number.
pub(super) const fn number(field: Field, number: u64) -> Change {
    Change { field, index: 0, number, bytes: Slice::EMPTY, key: Slice::EMPTY }
}

/// A change of text or bytes.
pub(super) const fn bytes(field: Field, bytes: &[u8]) -> Change {
    Change { field, index: 0, number: 0, bytes: Slice::of(bytes), key: Slice::EMPTY }
}

/// A change of a pair.
pub(super) const fn pair(field: Field, index: u32, key: &str, value: &str) -> Change {
    Change { field, index, number: 0, bytes: Slice::of(value.as_bytes()), key: Slice::of(key.as_bytes()) }
}

/// The same change for the `index`-th of several values.
pub(super) const fn at(index: u32, change: Change) -> Change {
    Change { index, ..change }
}

/// Getters of the client that an event is about.
macro_rules! client_getters {
    () => {
        /// Identifier of the client.
        pub fn client_id(&self) -> &'a str {
            // SAFETY: what is at hand lives as long as the event.
            unsafe { self.context.event().client_id.text() }
        }

        /// User name of the client, if it gave one.
        pub fn username(&self) -> Option<&'a str> {
            let event = self.context.event();
            // SAFETY: what is at hand lives as long as the event.
            (event.flags & crate::raw::FLAG_HAS_USERNAME != 0).then(|| unsafe { event.username.text() })
        }

        /// Whether an authenticator has made the client a superuser.
        pub fn is_superuser(&self) -> bool {
            self.context.event().flags & crate::raw::FLAG_SUPERUSER != 0
        }

        /// Protocol level of the client: 3 (MQTT 3.1), 4 (3.1.1) or 5; 0 if the event has no
        /// client.
        pub fn proto_ver(&self) -> u8 {
            self.context.event().proto_ver
        }

        /// IP address of the client, without the port; the one that a trusted proxy tells, if there
        /// is one. `None` for a client of a Unix socket.
        pub fn peer_host(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::PEER_HOST, 0)
        }

        /// Port of the client.
        pub fn peer_port(&self) -> Option<u16> {
            self.context.number(crate::raw::Field::PEER_PORT, 0).map(|port| port as u16)
        }

        /// Address and port of the client, as `ADDRESS:PORT`.
        pub fn peer(&self) -> Option<String> {
            let host = self.peer_host()?;
            let port = self.peer_port()?;
            Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
        }

        /// Local address of the connection, without the port.
        pub fn sock_host(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::SOCK_HOST, 0)
        }

        /// Local port of the connection.
        pub fn sock_port(&self) -> Option<u16> {
            self.context.number(crate::raw::Field::SOCK_PORT, 0).map(|port| port as u16)
        }

        /// Whether nobody has authenticated the client: neither a plugin nor, where the listener
        /// takes the user name from it, the client's certificate.
        pub fn is_anonymous(&self) -> bool {
            self.context.number(crate::raw::Field::ANONYMOUS, 0) == Some(1)
        }

        /// The account of the client, to charge it for what its clients make a plugin hold
        /// ([`Shares::insert_for`](crate::Shares::insert_for)): the user name if it is verified,
        /// otherwise the address ([`address_share`](crate::address_share)), or one account for all
        /// clients of Unix sockets. It is the same for all client identifiers of a user. `None` if
        /// the event has no client. Do not take it apart.
        pub fn account(&self) -> Option<String> {
            let host = self.peer_host();
            let is_client = host.is_some() || self.transport().is_some();
            crate::sdk::account_of(self.username(), !self.is_anonymous(), host, is_client)
        }

        /// Number of the session, unique while this broker process runs; of two sessions under one
        /// client identifier, the later has the greater one. A session keeps it when another
        /// connection takes it over or resumes it. `None` if the client has no session:
        /// at `client.authorize` before it is let in, and if it is refused. At `client.connect` and
        /// `client.authenticate`, for a client that is not in yet, it is the number of the session
        /// under the client identifier, which may belong to somebody else.
        pub fn session_number(&self) -> Option<u64> {
            self.context.number(crate::raw::Field::SESSION, 0)
        }

        /// How the client has reached the broker: `tcp`, `tls`, `ws`, `wss` or `unix`. `None` for
        /// what is no client, such as a plugin that publishes.
        pub fn transport(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TRANSPORT, 0)
        }

        /// Version of the client's TLS connection, to the broker or to a proxy in front of it, such
        /// as `TLSv1.3`.
        pub fn tls_version(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_VERSION, 0)
        }

        /// Cipher suite of the TLS connection, by its IANA name.
        pub fn tls_cipher(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_CIPHER, 0)
        }

        /// The server name that the client asked for in TLS (SNI).
        pub fn tls_server_name(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_SERVER_NAME, 0)
        }

        /// Subject of the client's TLS certificate, as RFC 4514 writes it. This and the other facts
        /// of the certificate are there if the client has shown one that was verified.
        pub fn tls_subject(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_SUBJECT, 0)
        }

        /// The last common name in the subject of the certificate.
        pub fn tls_common_name(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_COMMON_NAME, 0)
        }

        /// The subject alternative names of the certificate, in order: `DNS:…`, `URI:…`, `email:…`
        /// or `IP:…`. Empty without a certificate.
        pub fn tls_alternative_names(&self) -> impl Iterator<Item = &'a str> {
            (0..).map_while(|index| self.context.text(crate::raw::Field::TLS_ALTERNATIVE_NAME, index))
        }

        /// Issuer of the certificate, as RFC 4514 writes it.
        pub fn tls_issuer(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_ISSUER, 0)
        }

        /// Serial number of the certificate, hexadecimal in lower case.
        pub fn tls_serial(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_SERIAL, 0)
        }

        /// SHA-256 of the certificate (DER), hexadecimal in lower case.
        pub fn tls_fingerprint(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::TLS_FINGERPRINT, 0)
        }

        /// Whether the listener took the user name from the client's certificate. Then the
        /// certificate has authenticated the client: at `client.authenticate` it is accepted unless
        /// a plugin refuses it.
        pub fn username_is_certified(&self) -> bool {
            self.context.number(crate::raw::Field::USERNAME_CERTIFIED, 0) == Some(1)
        }

        /// The prefix that the listener puts in front of the client's topics.
        pub fn mountpoint(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::MOUNTPOINT, 0)
        }

        /// Name of the listener that the client connected to.
        pub fn listener(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::LISTENER, 0)
        }

        /// The client's identity, to be stored for later requests on behalf of the client.
        ///
        /// # Errors
        /// [`Refused`](crate::Refused) if the client is not accepted yet, or if its texts and
        /// CONNECT properties have more than 65,536 bytes.
        pub fn identity(&self) -> Result<crate::Identity, crate::Refused> {
            crate::Identity::of(&self.context)
        }

        /// The shard that runs this hook.
        pub fn shard(&self) -> u32 {
            self.context.event().shard
        }

        /// Wall clock of the event, milliseconds since 1970.
        pub fn wall_ms(&self) -> u64 {
            self.context.event().wall_ms
        }

        /// The broker.
        pub fn host(&self) -> crate::Host {
            self.context.host()
        }
    };
}

/// Getters of what is known before and while the client is authenticated.
macro_rules! login_getters {
    () => {
        /// User name in CONNECT, if there is one. It is another one than the client's user name
        /// where the listener takes that from the certificate.
        pub fn connect_username(&self) -> Option<&'a str> {
            self.context.text(crate::raw::Field::CONNECT_USERNAME, 0)
        }
    };
}

/// Getters of the user properties of a packet.
macro_rules! user_property_getters {
    () => {
        /// The user properties, as key and value, in order.
        pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
            (0..).map_while(|index| self.context.pair(crate::raw::Field::USER_PROPERTY, index))
        }

        /// The first user property with this key.
        pub fn user_property(&self, key: &str) -> Option<&'a str> {
            self.user_properties().find(|(found, _)| *found == key).map(|(_, value)| value)
        }
    };
}

/// The wrapper of a hook point: a struct around a [`Context`].
macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'a> {
            context: crate::sdk::event::Context<'a>,
        }

        impl crate::sdk::export::HookEvent for $name<'static> {
            type Over<'a> = $name<'a>;

            fn over(context: crate::sdk::event::Context<'_>) -> $name<'_> {
                $name { context }
            }
        }

        impl $name<'_> {
            /// The argument that the hook was mounted with at run time ([`crate::Mounting::args`]);
            /// 0 otherwise.
            pub fn args(&self) -> usize {
                self.context.event().args as usize
            }
        }

        impl<'a> $name<'a> {
            /// Client identifier and topic, empty if the event has none. For tests of all hook
            /// points.
            #[doc(hidden)]
            pub fn __at_hand(&self) -> (&'a str, &'a str) {
                let event = self.context.event();
                // SAFETY: what is at hand lives as long as the event.
                unsafe { (event.client_id.text(), event.topic.text()) }
            }
        }
    };
}

pub(super) use {client_getters, login_getters, user_property_getters, wrapper};
