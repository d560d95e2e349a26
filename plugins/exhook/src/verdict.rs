//! Answers of workers, put into the tickets that wait for them.

use grapnel_plugin_abi::{
    AuthenticateTicket, AuthorizeTicket, ConnectTicket, FiltersTicket, PublishTicket, Reason,
};
use rmpv::ValueRef;

use crate::wire::{bytes_ref, flag_of, get, text_ref};

/// Who waits, at which point.
#[derive(Debug)]
pub enum Ticket {
    /// client.connect.
    Connect(ConnectTicket),
    /// client.authenticate.
    Authenticate(AuthenticateTicket),
    /// client.authorize.
    Authorize(AuthorizeTicket),
    /// client.subscribe or client.unsubscribe, with how many filters there are.
    Filters(FiltersTicket, u32),
    /// message.publish.
    Publish(PublishTicket),
}

fn number(map: &ValueRef<'_>, key: &str) -> Option<u64> {
    get(map, key).and_then(ValueRef::as_u64)
}

fn reason(map: &ValueRef<'_>, key: &str) -> Option<Reason> {
    number(map, key).and_then(|code| u8::try_from(code).ok()).map(Reason)
}

impl Ticket {
    /// The answer did not come, says that it failed, or turned out to be wrong; then nothing of what is right in it counts. The broker
    /// knows that nobody has answered: the policy that the hook was mounted with decides what is asked now, and what was granted
    /// before stays.
    pub fn fail(self) {
        match self {
            Ticket::Connect(ticket) => ticket.unanswered(),
            Ticket::Authenticate(ticket) => ticket.unanswered(),
            Ticket::Authorize(ticket) => ticket.unanswered(),
            Ticket::Filters(ticket, _) => ticket.unanswered(),
            Ticket::Publish(ticket) => ticket.unanswered(),
        }
    }

    /// Nothing changes.
    fn go_on(self, stop: bool) {
        match (self, stop) {
            (Ticket::Connect(ticket), false) => ticket.proceed(),
            (Ticket::Connect(ticket), true) => ticket.stop(),
            (Ticket::Authenticate(ticket), false) => ticket.proceed(),
            (Ticket::Authenticate(ticket), true) => ticket.stop(),
            (Ticket::Authorize(ticket), false) => ticket.proceed(),
            (Ticket::Authorize(ticket), true) => ticket.stop(),
            (Ticket::Filters(ticket, _), false) => ticket.proceed(),
            (Ticket::Filters(ticket, _), true) => ticket.stop(),
            (Ticket::Publish(ticket), false) => ticket.proceed(),
            (Ticket::Publish(ticket), true) => ticket.stop(),
        }
    }

    /// What a worker has answered with code 0 or 1.
    ///
    /// # Errors
    /// What is wrong with it; the ticket is then still open.
    pub fn answer(self, value: &ValueRef<'_>, stop: bool) -> Result<(), (Ticket, String)> {
        if matches!(value, ValueRef::Nil) {
            self.go_on(stop);
            return Ok(());
        }
        if !matches!(value, ValueRef::Map(_)) {
            return Err((self, "answered with something that is no map".to_owned()));
        }
        match self {
            Ticket::Connect(ticket) => connect(ticket, value, stop),
            Ticket::Authenticate(ticket) => return authenticate(ticket, value, stop),
            Ticket::Authorize(ticket) => return authorize(ticket, value, stop),
            Ticket::Filters(ticket, count) => return filters(ticket, count, value, stop),
            Ticket::Publish(ticket) => return publish(ticket, value, stop),
        }
        Ok(())
    }
}

fn connect(mut ticket: ConnectTicket, value: &ValueRef<'_>, stop: bool) {
    if let Some(reason) = reason(value, "refuse") {
        ticket.set_refused(reason, get(value, "text").and_then(text_ref).unwrap_or(""));
    }
    if let Some(seconds) = number(value, "keep_alive_s") {
        ticket.set_keep_alive_s(u16::try_from(seconds).unwrap_or(u16::MAX));
    }
    if let Some(seconds) = number(value, "session_expiry_s") {
        ticket.set_session_expiry_s(u32::try_from(seconds).unwrap_or(u32::MAX));
    }
    Ticket::Connect(ticket).go_on(stop);
}

fn authenticate(
    mut ticket: AuthenticateTicket,
    value: &ValueRef<'_>,
    stop: bool,
) -> Result<(), (Ticket, String)> {
    // Before anything is put into the ticket: nothing of a wrong answer may stay in it.
    let allowed = match allowed(value) {
        Ok(allowed) => allowed,
        Err(wrong) => return Err((Ticket::Authenticate(ticket), wrong)),
    };
    if let Some(superuser) = get(value, "superuser").and_then(flag_of) {
        ticket.set_superuser(superuser);
    }
    if let Some(data) = get(value, "another_round").and_then(bytes_ref) {
        ticket.set_another_round(data);
    }
    if let Some(data) = get(value, "auth_data").and_then(bytes_ref) {
        ticket.set_auth_data(data);
    }
    match allowed {
        None => {}
        Some(Ok(())) => ticket.set_allowed(),
        Some(Err(reason)) => ticket.set_denied(reason),
    }
    Ticket::Authenticate(ticket).go_on(stop);
    Ok(())
}

/// What is answered to the question whether a client may, if that is.
fn allowed(value: &ValueRef<'_>) -> Result<Option<Result<(), Reason>>, String> {
    match get(value, "allow") {
        None => Ok(None),
        Some(ValueRef::Boolean(true)) => Ok(Some(Ok(()))),
        Some(ValueRef::Boolean(false)) => {
            Ok(Some(Err(reason(value, "reason").unwrap_or(Reason::NOT_AUTHORIZED))))
        }
        Some(_) => Err("answered with an `allow` that is no boolean".to_owned()),
    }
}

fn authorize(mut ticket: AuthorizeTicket, value: &ValueRef<'_>, stop: bool) -> Result<(), (Ticket, String)> {
    match allowed(value) {
        Ok(None) => {}
        Ok(Some(Ok(()))) => ticket.set_allowed(),
        Ok(Some(Err(reason))) => ticket.set_denied(reason),
        Err(wrong) => return Err((Ticket::Authorize(ticket), wrong)),
    }
    Ticket::Authorize(ticket).go_on(stop);
    Ok(())
}

fn filters(
    mut ticket: FiltersTicket,
    count: u32,
    value: &ValueRef<'_>,
    stop: bool,
) -> Result<(), (Ticket, String)> {
    let wrong = |ticket, what: &str| Err((Ticket::Filters(ticket, count), format!("answered with {what}")));
    let rows = match get(value, "filters") {
        None => return wrong(ticket, "a map without `filters`"),
        Some(ValueRef::Array(rows)) => rows,
        Some(_) => return wrong(ticket, "`filters` that are no list"),
    };
    for row in rows {
        let ValueRef::Array(row) = row else { return wrong(ticket, "a filter that is no list") };
        let [index, filter, options, refuse] = row.as_slice() else {
            return wrong(ticket, "a filter that is not [index, filter, options, refuse]");
        };
        let Some(index) = index.as_u64().and_then(|at| u32::try_from(at).ok()).filter(|at| *at < count)
        else {
            return wrong(ticket, "the index of no filter");
        };
        if let Some(filter) = text_ref(filter) {
            ticket.rewrite(index, filter);
        }
        if let Some(options) = options.as_u64().and_then(|options| u8::try_from(options).ok()) {
            ticket.set_options(index, options);
        }
        if let Some(code) = refuse.as_u64().and_then(|code| u8::try_from(code).ok()) {
            ticket.refuse(index, Reason(code));
        }
    }
    Ticket::Filters(ticket, count).go_on(stop);
    Ok(())
}

fn publish(mut ticket: PublishTicket, value: &ValueRef<'_>, stop: bool) -> Result<(), (Ticket, String)> {
    let text = || get(value, "text").and_then(text_ref).unwrap_or("");
    if let Some(reason) = reason(value, "reject") {
        ticket.set_rejected(reason, text());
    }
    if let Some(reason) = reason(value, "disconnect") {
        ticket.set_disconnected(reason, text());
    }
    if get(value, "drop").and_then(flag_of) == Some(true) {
        ticket.set_dropped();
    }
    let ValueRef::Map(pairs) = value else { return Ok(()) };
    for (key, value) in pairs {
        let set = match text_ref(key).unwrap_or("") {
            "topic" => text_ref(value).map(|topic| ticket.set_topic(topic)),
            "payload" => bytes_ref(value).map(|payload| ticket.set_payload(payload)),
            "qos" => value.as_u64().filter(|qos| *qos <= 2).map(|qos| ticket.set_qos(qos as u8)),
            "retain" => flag_of(value).map(|retain| ticket.set_retain(retain)),
            "content_type" => text_ref(value).map(|text| ticket.set_content_type(text)),
            "response_topic" => text_ref(value).map(|topic| ticket.set_response_topic(topic)),
            "correlation_data" => bytes_ref(value).map(|data| ticket.set_correlation_data(data)),
            "message_expiry_s" => value
                .as_u64()
                .and_then(|seconds| u32::try_from(seconds).ok())
                .map(|seconds| ticket.set_message_expiry_s(seconds)),
            "user" => users(&mut ticket, value),
            _ => Some(()),
        };
        if set.is_none() {
            let key = text_ref(key).unwrap_or("a key");
            return Err((
                Ticket::Publish(ticket),
                format!("answered with a `{key}` that no message may have"),
            ));
        }
    }
    Ticket::Publish(ticket).go_on(stop);
    Ok(())
}

fn users(ticket: &mut PublishTicket, value: &ValueRef<'_>) -> Option<()> {
    let ValueRef::Array(pairs) = value else { return None };
    for pair in pairs {
        let ValueRef::Array(pair) = pair else { return None };
        let [key, value] = pair.as_slice() else { return None };
        ticket.add_user_property(text_ref(key)?, text_ref(value)?);
    }
    Some(())
}
