//! What a script can do with the event of each point: its visible fields, its changes, and its
//! ticket.

use std::time::Duration;

use grapnel_plugin_abi::{
    Action, Authenticate, Authorize, Connack, Connect, Connected, Delivered, Disposition, Outgoing, Packet,
    Publish, Reason, Refused, Subscribe, Unsubscribe, Verdict,
};

use crate::script::Ending;

/// Completes a ticket, with or without the change.
pub type Answer = Box<dyn FnOnce(Ending, bool) + Send>;

/// The reason of refusals in general; nothing else in these tests refuses with it.
const QUOTA: Reason = Reason(0x97);
/// The reason of a refused CONNECT: MQTT 3.1.1 has a code for it, which differs from that of a
/// fault.
const UNAVAILABLE: Reason = Reason(0x88);
/// The reason of a refused filter, valid in SUBACK and UNSUBACK.
const SPECIFIC: Reason = Reason(0x83);

/// An event as the scripts need it.
pub trait ScriptedEvent<'a> {
    /// Texts that may contain the script.
    fn texts(&self) -> Vec<&'a str>;

    /// Whether the script is for this event of the point, and not for other events of the same
    /// client.
    fn is_meant(&self, _change: &str) -> bool {
        true
    }

    /// `new` if the change of an earlier copy is visible, `own` if not; `-` if it cannot be
    /// visible.
    fn saw(&self, _change: &str) -> &'static str {
        "-"
    }

    /// Earlier decisions that the event reports.
    fn notified(&self) -> Option<String> {
        None
    }

    /// Makes the change, if there is one.
    fn change(&mut self, _change: &str) -> Result<(), Refused> {
        Ok(())
    }

    /// Takes a ticket, if the point has one.
    fn defer(&mut self, _change: &str, _deadline: Duration) -> Result<Option<Answer>, Refused> {
        Ok(None)
    }
}

fn seen(new: bool) -> &'static str {
    if new { "new" } else { "own" }
}

/// Completes a ticket without a further change.
macro_rules! end {
    ($ticket:ident, $ending:ident) => {
        match $ending {
            Ending::Continue => $ticket.proceed(),
            Ending::Stop => $ticket.stop(),
            Ending::Fault => drop($ticket),
        }
    };
}

impl<'a> ScriptedEvent<'a> for Connect<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn saw(&self, change: &str) -> &'static str {
        seen(match change {
            "keep-alive" => self.keep_alive_s() == 77,
            _ => self.verdict() == Verdict::Deny,
        })
    }

    fn change(&mut self, change: &str) -> Result<(), Refused> {
        if change == "keep-alive" { self.set_keep_alive_s(77) } else { self.refuse(UNAVAILABLE, "why") }
    }

    fn defer(&mut self, change: &str, deadline: Duration) -> Result<Option<Answer>, Refused> {
        let (mut ticket, keep_alive) = (self.defer(deadline)?, change == "keep-alive");
        Ok(Some(Box::new(move |ending, changed| {
            match ending {
                Ending::Stop if changed && !keep_alive => return ticket.refuse(UNAVAILABLE, "why"),
                _ if changed && keep_alive => ticket.set_keep_alive_s(77),
                _ if changed => ticket.set_refused(UNAVAILABLE, "why"),
                _ => {}
            }
            end!(ticket, ending);
        })))
    }
}

impl<'a> ScriptedEvent<'a> for Authenticate<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn saw(&self, change: &str) -> &'static str {
        seen(match change {
            "promote" => self.is_superuser(),
            "vouch" => self.verdict() == Verdict::Allow,
            _ => self.verdict() == Verdict::Deny,
        })
    }

    fn change(&mut self, change: &str) -> Result<(), Refused> {
        match change {
            "promote" => self.set_superuser(true),
            "vouch" => self.allow(),
            _ => self.deny(UNAVAILABLE),
        }
    }

    fn defer(&mut self, change: &str, deadline: Duration) -> Result<Option<Answer>, Refused> {
        let (mut ticket, change) = (self.defer(deadline)?, change.to_owned());
        Ok(Some(Box::new(move |ending, changed| {
            match (change.as_str(), ending) {
                _ if !changed => {}
                ("promote", _) => ticket.set_superuser(true),
                ("vouch", Ending::Stop) => return ticket.allow(),
                ("vouch", _) => ticket.set_allowed(),
                (_, Ending::Stop) => return ticket.deny(UNAVAILABLE),
                _ => ticket.set_denied(UNAVAILABLE),
            }
            end!(ticket, ending);
        })))
    }
}

impl<'a> ScriptedEvent<'a> for Authorize<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn is_meant(&self, change: &str) -> bool {
        let action = match self.action() {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
            Action::Deliver => "deliver",
            Action::Will => "will",
        };
        change == action && self.topic().ends_with("/own")
    }

    fn saw(&self, _change: &str) -> &'static str {
        seen(self.verdict() == Verdict::Deny)
    }

    fn change(&mut self, _change: &str) -> Result<(), Refused> {
        self.deny(QUOTA)
    }

    fn defer(&mut self, _change: &str, deadline: Duration) -> Result<Option<Answer>, Refused> {
        let mut ticket = self.defer(deadline)?;
        Ok(Some(Box::new(move |ending, changed| {
            match ending {
                Ending::Stop if changed => return ticket.deny(QUOTA),
                _ if changed => ticket.set_denied(QUOTA),
                _ => {}
            }
            end!(ticket, ending);
        })))
    }
}

impl<'a> ScriptedEvent<'a> for Connack<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn saw(&self, _change: &str) -> &'static str {
        seen(self.user_property("table") == Some("new"))
    }

    fn change(&mut self, _change: &str) -> Result<(), Refused> {
        self.add_user_property("table", "new")
    }
}

impl<'a> ScriptedEvent<'a> for Connected<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn notified(&self) -> Option<String> {
        Some(format!("{},{}", self.keep_alive_s(), u8::from(self.is_superuser())))
    }
}

/// The script is for one filter, which ends with `/own` and is changed to end with `/new`.
macro_rules! filters {
    ($type:ident) => {
        impl<'a> ScriptedEvent<'a> for $type<'a> {
            fn texts(&self) -> Vec<&'a str> {
                vec![self.client_id()]
            }

            fn saw(&self, change: &str) -> &'static str {
                let new = |change: &str| {
                    self.filter(0).is_some_and(|first| {
                        if change == "rewrite" { first.filter.ends_with("/new") } else { first.refused }
                    })
                };
                seen(new(change))
            }

            fn change(&mut self, change: &str) -> Result<(), Refused> {
                if change == "refuse" {
                    return self.refuse(0, SPECIFIC);
                }
                let filter = format!("{}/new", self.client_id());
                self.rewrite(0, &filter)
            }

            fn defer(&mut self, change: &str, deadline: Duration) -> Result<Option<Answer>, Refused> {
                let filter = (change == "rewrite").then(|| format!("{}/new", self.client_id()));
                let mut ticket = self.defer(deadline)?;
                Ok(Some(Box::new(move |ending, changed| {
                    match &filter {
                        Some(filter) if changed => ticket.rewrite(0, filter),
                        None if changed => ticket.refuse(0, SPECIFIC),
                        _ => {}
                    }
                    end!(ticket, ending);
                })))
            }
        }
    };
}

filters!(Subscribe);
filters!(Unsubscribe);

/// Whether the script is for this message: its topic ends with `/own`, or has been changed to end
/// with `/new`.
fn is_message_meant(change: &str, topic: &str) -> bool {
    topic.ends_with("/own") || (change == "topic" && topic.ends_with("/new"))
}

fn saw_message(change: &str, topic: &str, payload: &[u8], refused: bool) -> &'static str {
    match change {
        "payload" => seen(payload == b"new"),
        "topic" => seen(topic.ends_with("/new")),
        "extra" => "-",
        _ => seen(refused),
    }
}

impl<'a> ScriptedEvent<'a> for Publish<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn is_meant(&self, change: &str) -> bool {
        is_message_meant(change, self.topic())
    }

    fn saw(&self, change: &str) -> &'static str {
        saw_message(change, self.topic(), self.payload(), self.disposition() != Disposition::Route)
    }

    fn change(&mut self, change: &str) -> Result<(), Refused> {
        match change {
            "payload" => self.set_payload(b"new"),
            "topic" => self.set_topic(&format!("{}/new", self.client_id())),
            "extra" => self.add_message(&Outgoing::new(format!("{}/extra", self.client_id()), "extra")),
            "drop" => self.drop_message(),
            "reject" => self.reject(QUOTA, "why"),
            _ => self.disconnect(QUOTA, "why"),
        }
    }

    fn defer(&mut self, change: &str, deadline: Duration) -> Result<Option<Answer>, Refused> {
        let (change, topic) = (change.to_owned(), format!("{}/new", self.client_id()));
        let mut ticket = self.defer(deadline)?;
        Ok(Some(Box::new(move |ending, changed| {
            match (change.as_str(), ending) {
                _ if !changed => {}
                ("payload", _) => ticket.set_payload(b"new"),
                ("topic", _) => ticket.set_topic(&topic),
                ("drop", Ending::Stop) => return ticket.drop_message(),
                ("drop", _) => ticket.set_dropped(),
                ("reject", Ending::Stop) => return ticket.reject(QUOTA, "why"),
                ("reject", _) => ticket.set_rejected(QUOTA, "why"),
                ("disconnect", Ending::Stop) => return ticket.disconnect(QUOTA, "why"),
                ("disconnect", _) => ticket.set_disconnected(QUOTA, "why"),
                _ => {}
            }
            end!(ticket, ending);
        })))
    }
}

impl<'a> ScriptedEvent<'a> for Delivered<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn is_meant(&self, change: &str) -> bool {
        is_message_meant(change, self.topic())
    }

    fn saw(&self, change: &str) -> &'static str {
        saw_message(change, self.topic(), self.payload(), self.is_vetoed())
    }

    fn change(&mut self, change: &str) -> Result<(), Refused> {
        match change {
            "payload" => self.set_payload(b"new"),
            "topic" => self.set_topic(&format!("{}/new", self.client_id())),
            _ => self.veto(),
        }
    }
}

impl<'a> ScriptedEvent<'a> for Packet<'a> {
    fn texts(&self) -> Vec<&'a str> {
        vec![self.client_id()]
    }

    fn is_meant(&self, _change: &str) -> bool {
        // PINGREQ and PINGRESP.
        matches!(self.packet_type(), 12 | 13)
    }
}

/// An event of a point that only notifies, with its client and topic; either may be empty.
pub struct Told<'a>(pub (&'a str, &'a str));

impl<'a> ScriptedEvent<'a> for Told<'a> {
    fn texts(&self) -> Vec<&'a str> {
        let (client_id, topic) = self.0;
        vec![client_id, topic]
    }
}
