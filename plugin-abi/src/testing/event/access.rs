//! How the host's functions read and change a fake event.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::channel;

use super::super::open_ticket;
use super::{FakeEvent, Stored};
use crate::host::{ClientIdentity, EventAccess, FieldChange, FieldValue, PluginMessage};
use crate::point::{HookPoint, Kind};
use crate::raw::{APPEND, Field, Status, Ticket};
use crate::topic;

impl FakeEvent {
    fn set_user_property(&mut self, change: &FieldChange<'_>) -> Result<(), Status> {
        let count = self.count(Field::USER_PROPERTY);
        if change.index != APPEND && change.index >= count {
            return Err(Status::ABSENT);
        }
        if change.number == 1 {
            if change.index == APPEND {
                return Err(Status::INVALID);
            }
            for index in change.index + 1..count {
                if let Some(next) = self.fields.remove(&(Field::USER_PROPERTY.0, index)) {
                    self.put(Field::USER_PROPERTY, index - 1, next);
                }
            }
            self.replaced.extend(self.fields.remove(&(Field::USER_PROPERTY.0, count - 1)));
            return Ok(());
        }
        let index = if change.index == APPEND { count } else { change.index };
        let pair = Stored::Pair(change.key.to_vec(), change.bytes.to_vec());
        self.put(Field::USER_PROPERTY, index, pair);
        Ok(())
    }

    /// Applies one change, or nothing of it.
    fn take_change(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        let FieldChange { field, index, number, bytes, .. } = change;
        let value = match field {
            _ if self.point.kind() == Kind::Run => return Err(Status::UNSUPPORTED),
            Field::REASON_CODE if self.point == HookPoint::ClientConnack => return Err(Status::UNSUPPORTED),
            Field::USER_PROPERTY => return self.set_user_property(&change),
            Field::TOPIC if !std::str::from_utf8(bytes).is_ok_and(|name| topic::check_name(name).is_ok()) => {
                return Err(Status::INVALID);
            }
            Field::FILTER if index >= self.count(Field::FILTER) => return Err(Status::ABSENT),
            Field::FILTER if bytes.is_empty() => return Err(Status::INVALID),
            Field::QOS if number > 2 => return Err(Status::INVALID),
            Field::RETAIN if self.point != HookPoint::MessagePublish => return Err(Status::UNSUPPORTED),
            Field::REASON_CODE if !(0x80..=0xff).contains(&number) => return Err(Status::INVALID),
            Field::TOPIC
            | Field::PAYLOAD
            | Field::FILTER
            | Field::REASON_STRING
            | Field::RESPONSE_INFO
            | Field::SERVER_REFERENCE
            | Field::CONTENT_TYPE
            | Field::RESPONSE_TOPIC
            | Field::CORRELATION_DATA
            | Field::AUTH_DATA => Stored::Bytes(bytes.to_vec()),
            Field::SESSION_PRESENT
            | Field::SESSION_OWNER
            | Field::SESSION
            | Field::TRANSPORT
            | Field::TLS_VERSION
            | Field::TLS_CIPHER
            | Field::TLS_SERVER_NAME
            | Field::TLS_SUBJECT
            | Field::TLS_COMMON_NAME
            | Field::TLS_ALTERNATIVE_NAME
            | Field::TLS_ALTERNATIVE_NAMES
            | Field::TLS_ISSUER
            | Field::TLS_SERIAL
            | Field::TLS_FINGERPRINT
            | Field::USERNAME_CERTIFIED
            | Field::CONNECT_USERNAME
            | Field::ASSIGNED_CLIENT_ID
            | Field::MESSAGE_ID => return Err(Status::UNSUPPORTED),
            Field::CLIENT_ID | Field::USERNAME | Field::PASSWORD | Field::DUP | Field::FROM => {
                return Err(Status::UNSUPPORTED);
            }
            _ => Stored::Number(number),
        };
        self.put(field, index, value);
        Ok(())
    }
}

impl EventAccess for FakeEvent {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        match self.fields.get(&(field.0, index)) {
            Some(Stored::Number(number)) => Ok(FieldValue::Number(*number)),
            Some(Stored::Bytes(bytes)) => Ok(FieldValue::Bytes(bytes)),
            Some(Stored::Pair(key, value)) => Ok(FieldValue::Pair(key, value)),
            None if field == Field::FILTERS => Ok(FieldValue::Number(self.count(Field::FILTER).into())),
            None if field == Field::USER_PROPERTIES => {
                Ok(FieldValue::Number(self.count(Field::USER_PROPERTY).into()))
            }
            None => Err(Status::ABSENT),
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        let taken = self.take_change(change);
        match taken {
            Ok(()) => self.refused.retain(|field| *field != change.field),
            Err(Status::INVALID) if change.field == Field::TOPIC => self.refused.push(Field::TOPIC),
            Err(_) => {}
        }
        taken
    }

    fn add_message(&mut self, message: &PluginMessage<'_>) -> Result<(), Status> {
        if self.point != HookPoint::MessagePublish {
            return Err(Status::UNSUPPORTED);
        }
        let name = std::str::from_utf8(message.topic).ok().filter(|name| topic::check_name(name).is_ok());
        let Some(name) = name else {
            // No later setter clears this error.
            self.refused.push(Field::MESSAGE_ID);
            return Err(Status::INVALID);
        };
        self.added.push((name.to_owned(), message.payload.to_vec()));
        Ok(())
    }

    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        if matches!(self.point, HookPoint::ClientConnect | HookPoint::ClientAuthenticate) {
            return Err(Status::UNSUPPORTED);
        }
        let text = |field: Field| match self.fields.get(&(field.0, 0)) {
            Some(Stored::Bytes(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        Ok(ClientIdentity {
            client_id: text(Field::CLIENT_ID).ok_or(Status::UNSUPPORTED)?,
            username: text(Field::USERNAME),
            is_certified: self.number(Field::USERNAME_CERTIFIED, 0) == Some(1),
            superuser: self.number(Field::IS_SUPERUSER, 0) == Some(1),
            anonymous: self.number(Field::ANONYMOUS, 0) == Some(1),
            clean_start: true,
            proto_ver: self.proto_ver,
            keep_alive_s: 0,
            expiry_s: 0,
            receive_maximum: u16::MAX,
            connected_at_ms: 0,
            connection: 1,
            session: self.number(Field::SESSION, 0).unwrap_or(0),
            peer: text(Field::PEER_HOST).and_then(|host| host.parse().ok()).map(|ip: IpAddr| {
                let port = self.number(Field::PEER_PORT, 0).unwrap_or(0);
                SocketAddr::new(ip, u16::try_from(port).unwrap_or(0))
            }),
            local: None,
            listener: text(Field::LISTENER).unwrap_or(""),
            transport: text(Field::TRANSPORT).unwrap_or(""),
            // An identity shows nothing of it to the plugin.
            tls: None,
            properties: &[],
        })
    }

    fn defer(&mut self, _deadline_ms: u32) -> Result<Ticket, Status> {
        if !self.point.may_defer() {
            return Err(Status::UNSUPPORTED);
        }
        if self.waiting.is_some() {
            return Err(Status::WRONG_MOMENT);
        }
        let (sender, receiver) = channel();
        self.waiting = Some(receiver);
        Ok(open_ticket(sender))
    }
}
