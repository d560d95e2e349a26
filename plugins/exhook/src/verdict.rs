//! Puts the answers of workers into the tickets that wait for them.

use grapnel_plugin_abi::{
    AuthenticateTicket, AuthorizeTicket, ConnectTicket, FiltersTicket, PublishTicket, Reason,
};
use rmpv::ValueRef;

use crate::wire::{bytes_ref, flag_of, get, number_of, or_nil, pairs_of, text_ref};

/// A ticket, by hook point.
#[derive(Debug)]
pub enum Ticket {
    /// client.connect.
    Connect(ConnectTicket),
    /// client.authenticate.
    Authenticate(AuthenticateTicket),
    /// client.authorize.
    Authorize(AuthorizeTicket),
    /// client.subscribe or client.unsubscribe, with the number of filters.
    Filters(FiltersTicket, u32),
    /// message.publish.
    Publish(PublishTicket),
}

impl Ticket {
    /// Fails the call: no answer came, or it reports a failure or is invalid. No part of the answer
    /// is used. The hook's fault policy decides the present request; earlier decisions stay.
    pub fn fail(self) {
        match self {
            Ticket::Connect(ticket) => ticket.unanswered(),
            Ticket::Authenticate(ticket) => ticket.unanswered(),
            Ticket::Authorize(ticket) => ticket.unanswered(),
            Ticket::Filters(ticket, _) => ticket.unanswered(),
            Ticket::Publish(ticket) => ticket.unanswered(),
        }
    }

    /// Continues without a change.
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

    /// Applies an answer with code 0 or 1.
    ///
    /// # Errors
    /// What is wrong with it, and the ticket, which is still open.
    pub fn answer(self, value: &ValueRef<'_>, stop: bool) -> Result<(), (Ticket, String)> {
        if matches!(value, ValueRef::Nil) {
            self.go_on(stop);
            return Ok(());
        }
        if !matches!(value, ValueRef::Map(_)) {
            return Err((self, "answered with something that is no map".to_owned()));
        }
        // All of it is decoded before the ticket is changed, so that an invalid answer has no
        // effect.
        let set = match self {
            Ticket::Connect(ticket) => match ConnectAnswer::of(value) {
                Ok(says) => Ok(says.put_into(ticket)),
                Err(wrong) => Err((Ticket::Connect(ticket), wrong)),
            },
            Ticket::Authenticate(ticket) => match LoginAnswer::of(value) {
                Ok(says) => Ok(says.put_into(ticket)),
                Err(wrong) => Err((Ticket::Authenticate(ticket), wrong)),
            },
            Ticket::Authorize(ticket) => match allowed(value) {
                Ok(allowed) => Ok(authorize(ticket, allowed)),
                Err(wrong) => Err((Ticket::Authorize(ticket), wrong)),
            },
            Ticket::Filters(ticket, count) => match rows_of(value, count) {
                Ok(rows) => Ok(filters(ticket, count, &rows)),
                Err(wrong) => Err((Ticket::Filters(ticket, count), wrong)),
            },
            Ticket::Publish(ticket) => match PublishAnswer::of(value) {
                Ok(says) => Ok(says.put_into(ticket)),
                Err(wrong) => Err((Ticket::Publish(ticket), wrong)),
            },
        };
        set.map(|ticket| ticket.go_on(stop))
            .map_err(|(ticket, wrong)| (ticket, format!("answered with {wrong}")))
    }
}

/// The value of a key in an answer; `None` for nil.
///
/// # Errors
/// The value has the wrong type.
fn read<'a, T>(
    map: &ValueRef<'a>,
    key: &str,
    what: &str,
    of: impl FnOnce(&ValueRef<'a>) -> Option<T>,
) -> Result<Option<T>, String> {
    or_nil(get(map, key), of).map_err(|_| format!("a `{key}` that is {what}"))
}

fn reason(map: &ValueRef<'_>, key: &str) -> Result<Option<Reason>, String> {
    read(map, key, "no reason code", |value| number_of(value).map(Reason))
}

/// The text of a refusal; a refusal is valid without one.
fn text<'a>(map: &ValueRef<'a>) -> &'a str {
    get(map, "text").and_then(text_ref).unwrap_or("")
}

/// An answer at client.connect.
#[derive(Debug, Default, PartialEq, Eq)]
struct ConnectAnswer<'a> {
    refuse: Option<(Reason, &'a str)>,
    keep_alive_s: Option<u16>,
    session_expiry_s: Option<u32>,
}

impl<'a> ConnectAnswer<'a> {
    fn of(value: &ValueRef<'a>) -> Result<ConnectAnswer<'a>, String> {
        let refuse = reason(value, "refuse")?.map(|reason| (reason, text(value)));
        let keep_alive_s = read(value, "keep_alive_s", "no number of seconds below 65,536", number_of);
        let session_expiry_s = read(value, "session_expiry_s", "no number of seconds of 32 bits", number_of);
        if refuse.is_some() {
            // A refusal is valid even if other keys are not.
            return Ok(ConnectAnswer { refuse, ..ConnectAnswer::default() });
        }
        Ok(ConnectAnswer { refuse, keep_alive_s: keep_alive_s?, session_expiry_s: session_expiry_s? })
    }

    fn put_into(self, mut ticket: ConnectTicket) -> Ticket {
        if let Some((reason, text)) = self.refuse {
            ticket.set_refused(reason, text);
        }
        if let Some(seconds) = self.keep_alive_s {
            ticket.set_keep_alive_s(seconds);
        }
        if let Some(seconds) = self.session_expiry_s {
            ticket.set_session_expiry_s(seconds);
        }
        Ticket::Connect(ticket)
    }
}

/// An answer at client.authenticate.
#[derive(Debug, Default, PartialEq, Eq)]
struct LoginAnswer<'a> {
    allowed: Option<Result<(), Reason>>,
    superuser: Option<bool>,
    another_round: Option<&'a [u8]>,
    auth_data: Option<&'a [u8]>,
}

impl<'a> LoginAnswer<'a> {
    fn of(value: &ValueRef<'a>) -> Result<LoginAnswer<'a>, String> {
        let allowed = allowed(value)?;
        let rest = || {
            Ok(LoginAnswer {
                allowed,
                superuser: read(value, "superuser", "no boolean", flag_of)?,
                another_round: read(value, "another_round", "no bytes", bytes_ref)?,
                auth_data: read(value, "auth_data", "no bytes", bytes_ref)?,
            })
        };
        match rest() {
            // A denial is valid even if other keys are not.
            Err(_) if matches!(allowed, Some(Err(_))) => {
                Ok(LoginAnswer { allowed, ..LoginAnswer::default() })
            }
            read => read,
        }
    }

    fn put_into(self, mut ticket: AuthenticateTicket) -> Ticket {
        if let Some(superuser) = self.superuser {
            ticket.set_superuser(superuser);
        }
        if let Some(data) = self.another_round {
            ticket.set_another_round(data);
        }
        if let Some(data) = self.auth_data {
            ticket.set_auth_data(data);
        }
        match self.allowed {
            None => {}
            Some(Ok(())) => ticket.set_allowed(),
            Some(Err(reason)) => ticket.set_denied(reason),
        }
        Ticket::Authenticate(ticket)
    }
}

/// The decision in an answer, if it has one. A denial is valid even if its reason is not.
fn allowed(value: &ValueRef<'_>) -> Result<Option<Result<(), Reason>>, String> {
    match get(value, "allow") {
        None => Ok(None),
        Some(ValueRef::Boolean(true)) => Ok(Some(Ok(()))),
        Some(ValueRef::Boolean(false)) => {
            Ok(Some(Err(reason(value, "reason").ok().flatten().unwrap_or(Reason::NOT_AUTHORIZED))))
        }
        Some(_) => Err("an `allow` that is no boolean".to_owned()),
    }
}

fn authorize(mut ticket: AuthorizeTicket, allowed: Option<Result<(), Reason>>) -> Ticket {
    match allowed {
        None => {}
        Some(Ok(())) => ticket.set_allowed(),
        Some(Err(reason)) => ticket.set_denied(reason),
    }
    Ticket::Authorize(ticket)
}

/// The part of an answer about one filter.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    index: u32,
    filter: Option<&'a str>,
    options: Option<u8>,
    refuse: Option<Reason>,
}

fn rows_of<'a>(value: &ValueRef<'a>, count: u32) -> Result<Vec<Row<'a>>, String> {
    let rows = match get(value, "filters") {
        None => return Err("a map without `filters`".to_owned()),
        Some(ValueRef::Array(rows)) => rows,
        Some(_) => return Err("`filters` that are no list".to_owned()),
    };
    rows.iter().map(|row| row_of(row, count).map_err(str::to_owned)).collect()
}

fn row_of<'a>(row: &ValueRef<'a>, count: u32) -> Result<Row<'a>, &'static str> {
    let ValueRef::Array(row) = row else { return Err("a filter that is no list") };
    let [index, filter, options, refuse] = row.as_slice() else {
        return Err("a filter that is not [index, filter, options, refuse]");
    };
    Ok(Row {
        index: number_of(index).filter(|at| *at < count).ok_or("the index of no filter")?,
        filter: or_nil(Some(filter), text_ref).map_err(|_| "a filter that is no text")?,
        options: or_nil(Some(options), number_of).map_err(|_| "options of a filter that are no byte")?,
        refuse: or_nil(Some(refuse), number_of)
            .map_err(|_| "a refusal of a filter that is no reason code")?
            .map(Reason),
    })
}

fn filters(mut ticket: FiltersTicket, count: u32, rows: &[Row<'_>]) -> Ticket {
    for row in rows {
        if let Some(filter) = row.filter {
            ticket.rewrite(row.index, filter);
        }
        if let Some(options) = row.options {
            ticket.set_options(row.index, options);
        }
        if let Some(reason) = row.refuse {
            ticket.refuse(row.index, reason);
        }
    }
    Ticket::Filters(ticket, count)
}

/// A change of a message.
#[derive(Debug, PartialEq, Eq)]
enum Set<'a> {
    Topic(&'a str),
    Payload(&'a [u8]),
    Qos(u8),
    Retain(bool),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    MessageExpiry(u32),
    Users(Vec<(&'a str, &'a str)>),
}

/// An answer at message.publish.
#[derive(Debug, Default, PartialEq, Eq)]
struct PublishAnswer<'a> {
    reject: Option<Reason>,
    disconnect: Option<Reason>,
    drop: bool,
    text: &'a str,
    sets: Vec<Set<'a>>,
}

impl<'a> PublishAnswer<'a> {
    fn of(value: &ValueRef<'a>) -> Result<PublishAnswer<'a>, String> {
        let reject = reason(value, "reject")?;
        let disconnect = reason(value, "disconnect")?;
        let drop = read(value, "drop", "no boolean", flag_of)?.unwrap_or(false);
        let ValueRef::Map(pairs) = value else { return Err("something that is no map".to_owned()) };
        let mut sets = Vec::new();
        for (key, value) in pairs {
            let Some(key) = text_ref(key) else { continue };
            match set_of(key, value) {
                Some(set) => sets.extend(set),
                None => return Err(format!("a `{key}` that no message may have")),
            }
        }
        Ok(PublishAnswer { reject, disconnect, drop, text: text(value), sets })
    }

    fn put_into(self, mut ticket: PublishTicket) -> Ticket {
        if let Some(reason) = self.reject {
            ticket.set_rejected(reason, self.text);
        }
        if let Some(reason) = self.disconnect {
            ticket.set_disconnected(reason, self.text);
        }
        if self.drop {
            ticket.set_dropped();
        }
        for set in self.sets {
            match set {
                Set::Topic(topic) => ticket.set_topic(topic),
                Set::Payload(payload) => ticket.set_payload(payload),
                Set::Qos(qos) => ticket.set_qos(qos),
                Set::Retain(retain) => ticket.set_retain(retain),
                Set::ContentType(text) => ticket.set_content_type(text),
                Set::ResponseTopic(topic) => ticket.set_response_topic(topic),
                Set::CorrelationData(data) => ticket.set_correlation_data(data),
                Set::MessageExpiry(seconds) => ticket.set_message_expiry_s(seconds),
                Set::Users(users) => {
                    for (key, value) in users {
                        ticket.add_user_property(key, value);
                    }
                }
            }
        }
        Ticket::Publish(ticket)
    }
}

/// The change that a key stands for; `Some(None)` for no change. `None` if a message cannot have
/// such a value.
fn set_of<'a>(key: &str, value: &ValueRef<'a>) -> Option<Option<Set<'a>>> {
    let set = match key {
        "topic" => Set::Topic(text_ref(value)?),
        "payload" => Set::Payload(bytes_ref(value)?),
        "qos" => Set::Qos(number_of(value).filter(|qos| *qos <= 2)?),
        "retain" => Set::Retain(flag_of(value)?),
        "content_type" => Set::ContentType(text_ref(value)?),
        "response_topic" => Set::ResponseTopic(text_ref(value)?),
        "correlation_data" => Set::CorrelationData(bytes_ref(value)?),
        "message_expiry_s" => Set::MessageExpiry(number_of(value)?),
        "user" => Set::Users(pairs_of(value)?),
        _ => return Some(None),
    };
    Some(Some(set))
}

#[cfg(test)]
mod tests;
