//! Requests of a plugin on behalf of a client: the client, and the functions of
//! [`HostApi`](crate::raw::HostApi) that pass the request to the broker's [`BehalfServices`].

use super::requests::text;
use super::services::serve;
use super::table::copied;
use super::{ClientIdentity, PluginMessage};
use crate::raw::{Action, BEHALF_ANSWER, NewMessage, OnBehalf, Slice, Status};

/// The client of a request and the number of the answer, borrowed for the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behalf<'a> {
    /// The client.
    pub client: BehalfClient<'a>,
    /// The number of the answer, if the plugin requested one.
    pub answer: Option<u64>,
}

/// The client of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BehalfClient<'a> {
    /// A client with its identity at an event.
    Identity(ClientIdentity<'a>),
    /// The client that has this client identifier when the request is executed.
    Client(&'a str),
}

impl<'a> BehalfClient<'a> {
    /// The client identifier.
    pub fn client_id(&self) -> &'a str {
        match self {
            BehalfClient::Identity(identity) => identity.client_id,
            BehalfClient::Client(client_id) => client_id,
        }
    }
}

impl<'a> Behalf<'a> {
    /// Reads a table, which may have the size of an older or newer header.
    ///
    /// # Errors
    /// [`Status::INVALID`] for null, a table that ends within a field, unknown flags, bytes that
    /// are not an identity, or no client.
    ///
    /// # Safety
    /// The table must be null, or readable for the number of bytes in its size field during the
    /// call. Everything that it points to must be valid and unchanged during `'a`.
    pub unsafe fn of(behalf: *const OnBehalf) -> Result<Behalf<'a>, Status> {
        // SAFETY: the caller guarantees it.
        let behalf = unsafe { copied(behalf) }?;
        // SAFETY: the caller guarantees what it points to.
        unsafe { Behalf::read(&behalf) }
    }

    /// As [`Behalf::of`], for a request that always has an answer, whatever the table's flags are.
    ///
    /// # Errors
    /// As [`Behalf::of`].
    ///
    /// # Safety
    /// As for [`Behalf::of`].
    pub unsafe fn of_answered(behalf: *const OnBehalf) -> Result<Behalf<'a>, Status> {
        // SAFETY: the caller guarantees it.
        let behalf = unsafe { copied(behalf) }?;
        // SAFETY: the caller guarantees what it points to.
        unsafe { Ok(Behalf { answer: Some(behalf.number), ..Behalf::read(&behalf)? }) }
    }

    /// # Safety
    /// Everything that the table points to must be valid and unchanged during `'a`.
    unsafe fn read(behalf: &OnBehalf) -> Result<Behalf<'a>, Status> {
        if behalf.flags & !BEHALF_ANSWER != 0 {
            return Err(Status::INVALID);
        }
        // SAFETY: the caller guarantees both views.
        let (identity, client_id) = unsafe { (behalf.identity.bytes(), text(behalf.client_id)?) };
        let client = match (identity, client_id) {
            ([], "") => return Err(Status::INVALID),
            ([], client_id) => BehalfClient::Client(client_id),
            (identity, _) => BehalfClient::Identity(ClientIdentity::decode(identity)?),
        };
        Ok(Behalf { client, answer: (behalf.flags & BEHALF_ANSWER != 0).then_some(behalf.number) })
    }
}

/// The broker's services for requests on behalf of a client, outside of an event: a part of
/// [`HostServices`](super::HostServices) with the same rules.
#[expect(clippy::missing_errors_doc, reason = "each answers with the status that `HostApi` documents")]
pub trait BehalfServices: Sync + Send {
    /// As [`HostApi::publish_as`](crate::raw::HostApi::publish_as).
    fn publish_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        message: &PluginMessage<'_>,
    ) -> Result<(), Status> {
        let _ = (plugin, behalf, message);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::subscribe_as`](crate::raw::HostApi::subscribe_as).
    fn subscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Status> {
        let _ = (plugin, behalf, filter, options, subscription_id);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::unsubscribe_as`](crate::raw::HostApi::unsubscribe_as).
    fn unsubscribe_as(&self, plugin: u64, behalf: &Behalf<'_>, filter: &str) -> Result<(), Status> {
        let _ = (plugin, behalf, filter);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::authorize_as`](crate::raw::HostApi::authorize_as).
    fn authorize_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        action: Action,
        topic: &str,
        qos: u8,
        retain: bool,
    ) -> Result<(), Status> {
        let _ = (plugin, behalf, action, topic, qos, retain);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::fetch_as`](crate::raw::HostApi::fetch_as).
    fn fetch_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        page: PageRequest<'_>,
    ) -> Result<(), Status> {
        let _ = (plugin, behalf, filter, page);
        Err(Status::UNSUPPORTED)
    }
}

pub(super) unsafe extern "C" fn host_publish_as(
    plugin: u64,
    behalf: *const OnBehalf,
    message: *const NewMessage,
) -> Status {
    if message.is_null() {
        return Status::INVALID;
    }
    // SAFETY: the plugin lends both tables and what they point to for the call.
    serve(|services| unsafe {
        services.publish_as(plugin, &Behalf::of(behalf)?, &PluginMessage::of(message)?)
    })
}

pub(super) unsafe extern "C" fn host_subscribe_as(
    plugin: u64,
    behalf: *const OnBehalf,
    filter: Slice,
    options: u32,
    subscription_id: u32,
) -> Status {
    let Ok(options) = u8::try_from(options) else { return Status::INVALID };
    // SAFETY: the plugin lends the table, what it points to and the text for the call.
    serve(|services| unsafe {
        services.subscribe_as(plugin, &Behalf::of(behalf)?, text(filter)?, options, subscription_id)
    })
}

pub(super) unsafe extern "C" fn host_unsubscribe_as(
    plugin: u64,
    behalf: *const OnBehalf,
    filter: Slice,
) -> Status {
    // SAFETY: the plugin lends the table, what it points to and the text for the call.
    serve(|services| unsafe { services.unsubscribe_as(plugin, &Behalf::of(behalf)?, text(filter)?) })
}

pub(super) unsafe extern "C" fn host_authorize_as(
    plugin: u64,
    behalf: *const OnBehalf,
    action: Action,
    topic: Slice,
    qos: u32,
    retain: u32,
) -> Status {
    let Some(qos) = u8::try_from(qos).ok().filter(|qos| *qos <= 2) else { return Status::INVALID };
    // SAFETY: the plugin lends the table, what it points to and the text for the call.
    serve(|services| unsafe {
        services.authorize_as(plugin, &Behalf::of_answered(behalf)?, action, text(topic)?, qos, retain != 0)
    })
}

/// A page of retained messages to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest<'a> {
    /// The QoS of the corresponding subscription, 0 to 2.
    pub qos: u8,
    /// The start of the page; empty for the first page.
    pub place: &'a [u8],
    /// Maximum number of messages.
    pub messages_max: u32,
    /// Maximum bytes of the messages.
    pub bytes_max: u32,
}

pub(super) unsafe extern "C" fn host_fetch_as(
    plugin: u64,
    behalf: *const OnBehalf,
    filter: Slice,
    qos: u32,
    place: Slice,
    messages_max: u32,
    bytes_max: u32,
) -> Status {
    let Some(qos) = u8::try_from(qos).ok().filter(|qos| *qos <= 2) else { return Status::INVALID };
    // SAFETY: the plugin lends the table, what it points to, the text and the bytes for the call.
    serve(|services| unsafe {
        let page = PageRequest { qos, place: place.bytes(), messages_max, bytes_max };
        services.fetch_as(plugin, &Behalf::of_answered(behalf)?, text(filter)?, page)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(identity: &[u8], client_id: &str) -> OnBehalf {
        OnBehalf {
            size: size_of::<OnBehalf>() as u32,
            flags: 0,
            identity: Slice::of(identity),
            client_id: Slice::of(client_id.as_bytes()),
            number: 7,
        }
    }

    fn read(table: &OnBehalf) -> Result<Behalf<'_>, Status> {
        // SAFETY: the table and what it points to are alive during the call and its answer.
        unsafe { Behalf::of(table) }
    }

    #[test]
    fn a_table_names_a_client_and_whether_it_is_answered() {
        let named = table(b"", "c");
        assert_eq!(read(&named), Ok(Behalf { client: BehalfClient::Client("c"), answer: None }));
        let answered = OnBehalf { flags: BEHALF_ANSWER, ..table(b"", "c") };
        assert_eq!(read(&answered), Ok(Behalf { client: BehalfClient::Client("c"), answer: Some(7) }));
    }

    /// An older header may end before the number, and a newer one may have more fields after it.
    #[test]
    fn a_table_of_another_header_names_a_client_too() {
        let older = OnBehalf { size: std::mem::offset_of!(OnBehalf, number) as u32, ..table(b"", "c") };
        assert_eq!(read(&older), Ok(Behalf { client: BehalfClient::Client("c"), answer: None }));
        // SAFETY: the table and what it points to are alive during the call and its answer.
        let answered = unsafe { Behalf::of_answered(&raw const older) };
        assert_eq!(answered.map(|behalf| behalf.answer), Ok(Some(0)));
        let newer = OnBehalf { size: size_of::<OnBehalf>() as u32 + 8, ..table(b"", "c") };
        let memory = [newer, table(b"", "what is behind it")];
        assert_eq!(read(&memory[0]), Ok(Behalf { client: BehalfClient::Client("c"), answer: None }));
    }

    #[test]
    fn a_request_that_names_no_client_is_refused() {
        for wrong in [
            table(b"", ""),
            table(b"anything", ""),
            // An unreadable identity is an error, even with a client identifier beside it.
            table(b"anything", "c"),
            OnBehalf { flags: 2, ..table(b"", "c") },
            OnBehalf { size: 8, ..table(b"", "c") },
        ] {
            assert_eq!(read(&wrong), Err(Status::INVALID));
        }
        // SAFETY: null is what is tested.
        assert_eq!(unsafe { Behalf::of(std::ptr::null()) }, Err(Status::INVALID));
    }
}
