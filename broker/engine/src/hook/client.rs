//! Events about a client: connect, authenticate, authorize, connected, disconnected. Contains what
//! hooks read of the client, and the accumulator of the hook points that decide on its requests.

use bytes::Bytes;
use grapnel_plugin_abi::host::{ClientIdentity, EventAccess, FieldChange, FieldValue, PluginMessage};
use grapnel_plugin_abi::raw::{Event, FLAG_DUP, FLAG_RETAIN, FLAG_SUPERUSER, Field, Slice, Status, Ticket};

use super::chain::Fold;
use super::section::change_over;
use super::tickets::{SavedAccumulator, TicketIssuer};
use super::verdict::ClientVerdict;
use super::verdict::NoAnswer;
use super::view::{ClientView, Request};
use super::{FaultPolicy, HookPoint, Link};
use crate::id::ShardId;
use crate::packet::Properties;

/// An event about a client in its chain.
#[derive(Debug)]
pub struct ClientFold<'a> {
    point: HookPoint,
    client: ClientView<'a>,
    request: Option<Request<'a>>,
    /// The verdict of the links so far; at the end the result of the chain.
    verdict: &'a mut ClientVerdict,
    overlay: Option<ClientVerdict>,
    /// Reason strings that were replaced during the event: a view that a hook holds stays valid.
    replaced: Vec<Bytes>,
    issuer: Option<TicketIssuer<'a>>,
    /// The running link.
    running: Option<&'a Link>,
    user_properties_max: usize,
}

impl<'a> ClientFold<'a> {
    /// An event at `point`; links may defer only with a ticket issuer.
    pub fn new(
        point: HookPoint,
        client: ClientView<'a>,
        request: Option<Request<'a>>,
        verdict: &'a mut ClientVerdict,
        issuer: Option<TicketIssuer<'a>>,
        user_properties_max: u64,
    ) -> ClientFold<'a> {
        ClientFold {
            point,
            client,
            request,
            verdict,
            overlay: None,
            replaced: Vec::new(),
            issuer,
            running: None,
            user_properties_max: user_properties_max as usize,
        }
    }

    /// The event for this fold.
    pub fn event(&self, shard: ShardId, wall_ms: u64) -> Event {
        let mut event = self.client.event(self.point, shard, wall_ms);
        event.reason_code = self.verdict.reason.0;
        if let Some(request) = &self.request {
            event.topic = Slice::of(request.topic.as_bytes());
            event.qos = request.qos.as_u8();
            event.action = request.action as u8;
            if request.retain {
                event.flags |= FLAG_RETAIN;
            }
            event.flags &= !FLAG_DUP;
        }
        event
    }

    /// Whether a link was called with the event.
    pub fn was_called(&self) -> bool {
        self.running.is_some()
    }

    /// The client, as a field shows it; at client.connect with its changed properties.
    fn client(&self, field: Field, index: u32) -> (ClientView<'_>, u32) {
        if self.point != HookPoint::ClientConnect {
            return (self.client, index);
        }
        let (properties, index) = self.current().properties.shown(field, index);
        let receive_maximum = Properties::from_encoded(properties).receive_maximum().unwrap_or(u16::MAX);
        (ClientView { properties, receive_maximum, ..self.client }, index)
    }

    fn current(&self) -> &ClientVerdict {
        self.overlay.as_ref().unwrap_or(self.verdict)
    }
}

impl EventAccess for ClientFold<'_> {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        let verdict = self.current();
        match (field, &self.request) {
            (Field::VERDICT, _) => Ok(FieldValue::Number(u64::from(verdict.verdict))),
            (Field::REASON_CODE, _) => Ok(FieldValue::Number(u64::from(verdict.reason.0))),
            (Field::REASON_STRING, _) => {
                verdict.reason_string.as_ref().map(|text| FieldValue::Bytes(text)).ok_or(Status::ABSENT)
            }
            (Field::IS_SUPERUSER, _) => Ok(FieldValue::Number(u64::from(verdict.superuser))),
            (Field::KEEP_ALIVE_S, _) => Ok(FieldValue::Number(u64::from(verdict.keep_alive_s))),
            (Field::SESSION_EXPIRY_S, _) => Ok(FieldValue::Number(u64::from(verdict.expiry_s))),
            (Field::CACHEABLE, Some(_)) => Ok(FieldValue::Number(u64::from(verdict.cacheable))),
            (Field::ACTION, Some(request)) => Ok(FieldValue::Number(request.action as u64)),
            (Field::TOPIC, Some(request)) => Ok(FieldValue::Bytes(request.topic.as_bytes())),
            (Field::QOS, Some(request)) => Ok(FieldValue::Number(u64::from(request.qos.as_u8()))),
            (Field::RETAIN, Some(request)) => Ok(FieldValue::Number(u64::from(request.retain))),
            _ => {
                let at_connect = self.point == HookPoint::ClientConnect;
                if let Some(count) = verdict.properties.user_count(field).filter(|_| at_connect) {
                    return Ok(count);
                }
                let (client, index) = self.client(field, index);
                client.get(field, index)
            }
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        let (point, most) = (self.point, self.user_properties_max);
        change_over(&mut self.overlay, &*self.verdict, &mut self.replaced, |next| {
            next.set(point, &change, most)
        })
    }

    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        match self.point {
            // The client is not authenticated yet.
            HookPoint::ClientConnect | HookPoint::ClientAuthenticate => Err(Status::UNSUPPORTED),
            _ => Ok(self.client.identity()),
        }
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        let issuer = self.issuer.as_mut().ok_or(Status::UNSUPPORTED)?;
        issuer.take(self.running.ok_or(Status::WRONG_MOMENT)?, deadline_ms)
    }
}

impl<'a> Fold<'a> for ClientFold<'a> {
    #[inline]
    fn begin(&mut self, link: &'a Link) {
        self.running = Some(link);
    }

    fn topic(&self) -> &str {
        self.request.map_or("", |request| request.topic)
    }

    fn commit(&mut self, event: &mut Event) -> bool {
        if let Some(mut next) = self.overlay.take() {
            next.sign(self.verdict, self.running.map(|link| link.plugin));
            if next.superuser {
                event.flags |= FLAG_SUPERUSER;
            } else {
                event.flags &= !FLAG_SUPERUSER;
            }
            event.reason_code = next.reason.0;
            *self.verdict = next;
        }
        if let Some(issuer) = &mut self.issuer {
            issuer.answered();
        }
        false
    }

    fn on_defer(&mut self) {
        if let (Some(mut next), Some(issuer)) = (self.overlay.take(), &mut self.issuer) {
            next.sign(self.verdict, self.running.map(|link| link.plugin));
            issuer.keep(SavedAccumulator::Client(std::mem::replace(self.verdict, next)));
        }
    }

    fn rollback(&mut self) {
        self.overlay = None;
        if let Some(issuer) = &mut self.issuer {
            issuer.rollback();
        }
    }

    fn ticket(&self) -> Option<Ticket> {
        self.issuer.as_ref().and_then(|issuer| issuer.taken)
    }

    fn has_no_free_ticket(&self) -> bool {
        self.issuer.as_ref().is_some_and(TicketIssuer::is_full)
    }

    fn fail(&mut self, policy: FaultPolicy) {
        let why = self.issuer.as_mut().map_or(NoAnswer::Fault, TicketIssuer::why);
        self.verdict.fail(why, policy);
    }
}
