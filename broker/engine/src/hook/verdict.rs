//! The verdict of a hook point on a client's request, and the policy for a missing answer. Used
//! when a chain has ended. This module has no access to sessions, tickets and packets.

use bytes::Bytes;
use grapnel_plugin_abi::host::FieldChange;
use grapnel_plugin_abi::raw::{Field, Status};

use super::section::{Replaced, Section};
use super::view::ClientView;
use super::{FaultPolicy, HookPoint, Link, PluginHandle};
use crate::packet::Property;
use crate::reason::ReasonCode;

/// There is no answer.
pub const UNANSWERED: u8 = 0;

/// Allowed.
pub const ALLOW: u8 = 1;

/// Refused.
pub const DENY: u8 = 2;

/// At client.authenticate: the client must send another AUTH.
pub const ANOTHER_ROUND: u8 = 3;

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// No link was called for this request.
    NotCalled,
    /// A link failed, or its answer was invalid.
    Fault,
    /// A deferred answer missed its deadline.
    Deadline,
    /// A link tried to defer, and no ticket was free.
    NoRoom,
}

/// The verdict of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Allowed by a link, or by the operator if every link passed.
    Allow,
    /// Refused for this reason by a link, or by the operator if every link passed.
    Deny(ReasonCode),
    /// There is no answer, which is neither of the two.
    Unanswered(NoAnswer),
}

/// A link's missing answer, with the fault policy that applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissingAnswer {
    /// Why there is no answer.
    pub why: NoAnswer,
    /// Deny ends the chain; Ignore continues as if the link did not exist.
    pub policy: FaultPolicy,
}

/// The result of a recheck of something that was granted before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rechecked {
    /// It stays in force.
    Stays,
    /// It is revoked for this reason.
    Revoked(ReasonCode),
    /// It stays in force and is rechecked later, because there was no answer.
    Repeat,
}

/// The accumulator of the hook points that decide on a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientVerdict {
    /// [`UNANSWERED`], [`ALLOW`], [`DENY`] or [`ANOTHER_ROUND`].
    pub verdict: u8,
    /// Reason of a refusal.
    pub reason: ReasonCode,
    /// Text of a refusal.
    pub reason_string: Option<Bytes>,
    /// Whether the client is a superuser.
    pub superuser: bool,
    /// Keep alive, seconds (only at connect).
    pub keep_alive_s: u16,
    /// Session expiry, seconds (only at connect).
    pub expiry_s: u32,
    /// Properties of CONNECT (only at connect).
    pub properties: Section,
    /// Data for the client's next AUTH, or for CONNACK (only at authenticate).
    pub auth_data: Option<Bytes>,
    /// Whether the verdict may be cached (only at authorize).
    pub cacheable: bool,
    /// Whether a link was called.
    pub called: bool,
    /// A missing answer: that of the link that ended the chain by its policy, else the first.
    pub missing_answer: Option<MissingAnswer>,
    /// The plugin whose link refused, if one did.
    pub refused_by: Option<PluginHandle>,
}

impl ClientVerdict {
    /// Unanswered; `refusal` is the reason code for a refusal that names none.
    pub fn unanswered(client: &ClientView<'_>, refusal: ReasonCode) -> ClientVerdict {
        ClientVerdict {
            verdict: UNANSWERED,
            reason: refusal,
            reason_string: None,
            superuser: client.superuser,
            keep_alive_s: client.keep_alive_s,
            expiry_s: client.expiry_s,
            properties: Section::default(),
            auth_data: None,
            cacheable: true,
            called: false,
            missing_answer: None,
            refused_by: None,
        }
    }

    /// Records the plugin whose link changed `before` to this. For a refusal the first plugin that
    /// refused stays recorded.
    pub fn sign(&mut self, before: &ClientVerdict, plugin: Option<PluginHandle>) {
        self.refused_by = match (self.verdict, before.verdict) {
            (DENY, DENY) => before.refused_by,
            (DENY, _) => plugin,
            _ => None,
        };
    }

    /// Bytes of its texts and data.
    pub fn bytes(&self) -> usize {
        let text = self.reason_string.as_ref().map_or(0, Bytes::len);
        text + self.properties.len() + self.auth_data.as_ref().map_or(0, Bytes::len)
    }

    /// Drops the answer of client.authorize; `refusal` as in [`ClientVerdict::unanswered`].
    pub fn begin_anew(&mut self, refusal: ReasonCode) {
        self.verdict = UNANSWERED;
        self.reason = refusal;
        self.reason_string = None;
        self.cacheable = true;
        self.called = false;
        self.missing_answer = None;
        self.refused_by = None;
    }

    /// Applies one change, or nothing. Returns the replaced value, for views of it.
    ///
    /// # Errors
    /// UNSUPPORTED for a field that cannot be changed at this point, INVALID for a value out of its
    /// range.
    pub fn set(
        &mut self,
        point: HookPoint,
        change: &FieldChange<'_>,
        user_properties_max: usize,
    ) -> Result<Replaced, Status> {
        let decides = matches!(
            point,
            HookPoint::ClientConnect | HookPoint::ClientAuthenticate | HookPoint::ClientAuthorize
        );
        match (change.field, point) {
            (Field::VERDICT, _) if decides => {
                let most = if point == HookPoint::ClientAuthenticate { ANOTHER_ROUND } else { DENY };
                self.verdict =
                    u8::try_from(change.number).ok().filter(|v| *v <= most).ok_or(Status::INVALID)?;
            }
            (Field::REASON_CODE, _) if decides => {
                let code = ReasonCode(u8::try_from(change.number).map_err(|_| Status::INVALID)?);
                // Valid codes depend on the kind of the refused request, so the rest is checked
                // where that is known.
                let fits = match point {
                    HookPoint::ClientAuthorize => code.is_defined() && code.is_error(),
                    _ => code.refuses_connect(),
                };
                if !fits {
                    return Err(Status::INVALID);
                }
                self.reason = code;
            }
            (Field::REASON_STRING, _) if decides => {
                super::text(change.bytes)?;
                return Ok([self.reason_string.replace(Bytes::copy_from_slice(change.bytes)), None]);
            }
            (Field::AUTH_DATA, HookPoint::ClientAuthenticate) => {
                if change.bytes.len() > usize::from(u16::MAX) {
                    return Err(Status::INVALID);
                }
                return Ok([self.auth_data.replace(Bytes::copy_from_slice(change.bytes)), None]);
            }
            (Field::CACHEABLE, HookPoint::ClientAuthorize) => self.cacheable = change.number != 0,
            (Field::IS_SUPERUSER, HookPoint::ClientAuthenticate) => self.superuser = change.number != 0,
            (Field::KEEP_ALIVE_S, HookPoint::ClientConnect) => {
                self.keep_alive_s = u16::try_from(change.number).map_err(|_| Status::INVALID)?;
            }
            (Field::SESSION_EXPIRY_S, HookPoint::ClientConnect) => {
                self.expiry_s = u32::try_from(change.number).map_err(|_| Status::INVALID)?;
            }
            (_, HookPoint::ClientConnect) => return self.change_properties(change, user_properties_max),
            _ => return Err(Status::UNSUPPORTED),
        }
        Ok([None, None])
    }

    /// Changes, adds or removes a property of CONNECT.
    fn change_properties(
        &mut self,
        change: &FieldChange<'_>,
        user_properties_max: usize,
    ) -> Result<Replaced, Status> {
        let number = |min: u64, max: u64| {
            (min..=max).contains(&change.number).then_some(change.number).ok_or(Status::INVALID)
        };
        let property = match change.field {
            Field::USER_PROPERTY => return self.properties.put_user(change, user_properties_max),
            // 0 would be a protocol error in these two [sections 3.1.2.11.3 and 3.1.2.11.4].
            Field::RECEIVE_MAXIMUM => Property::ReceiveMaximum(number(1, u16::MAX.into())? as u16),
            Field::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(number(1, u32::MAX.into())? as u32),
            Field::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(number(0, u16::MAX.into())? as u16),
            Field::REQUEST_RESPONSE_INFO => Property::RequestResponseInfo(number(0, 1)? == 1),
            Field::REQUEST_PROBLEM_INFO => Property::RequestProblemInfo(number(0, 1)? == 1),
            _ => return Err(Status::UNSUPPORTED),
        };
        self.properties.put(property.id(), Some(property))
    }
}

impl ClientVerdict {
    /// A link gave no answer. If its policy is to deny, the chain ends with this.
    pub fn fail(&mut self, why: NoAnswer, policy: FaultPolicy) {
        match policy {
            FaultPolicy::Deny => {
                self.verdict = DENY;
                self.missing_answer = Some(MissingAnswer { why, policy });
            }
            FaultPolicy::Ignore => {
                self.missing_answer.get_or_insert(MissingAnswer { why, policy });
            }
        }
    }

    /// The verdict of client.authorize. If every link that was called has passed, the operator's
    /// setting `authorization.no_match` decides.
    pub fn authorize_verdict(&self, no_match_allow: bool) -> Verdict {
        match (self.missing_answer, self.verdict) {
            (Some(MissingAnswer { why, policy: FaultPolicy::Deny }), _) => Verdict::Unanswered(why),
            (_, ALLOW) => Verdict::Allow,
            (_, DENY) => Verdict::Deny(self.reason),
            (Some(missing_answer), _) => Verdict::Unanswered(missing_answer.why),
            (None, _) if !self.called => Verdict::Unanswered(NoAnswer::NotCalled),
            (None, _) if no_match_allow => Verdict::Allow,
            (None, _) => Verdict::Deny(ReasonCode::NOT_AUTHORIZED),
        }
    }

    /// The policy of client.authorize for new requests: it fails closed. If a failed link is to be
    /// ignored, `authorization.no_match` decides, as if the link did not exist.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn granted(&self, no_match_allow: bool) -> Result<(), ReasonCode> {
        let closed =
            self.missing_answer.is_some_and(|missing_answer| missing_answer.policy == FaultPolicy::Deny);
        match self.authorize_verdict(no_match_allow) {
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => Err(reason),
            Verdict::Unanswered(_) if !closed && no_match_allow => Ok(()),
            Verdict::Unanswered(_) => Err(ReasonCode::NOT_AUTHORIZED),
        }
    }

    /// Whether it is a refusal only because a link failed.
    pub fn is_unanswered_denial(&self) -> bool {
        self.missing_answer.is_some_and(|missing_answer| missing_answer.policy == FaultPolicy::Deny)
    }

    /// The policy of client.authenticate for a login that no link allowed. If a link that must not
    /// be ignored failed or was late, its answer is unknown. The client then gets a reason code
    /// other than that of a bad password.
    pub fn login_refusal(&self) -> (ReasonCode, Option<Bytes>) {
        match (self.missing_answer, self.verdict) {
            (Some(MissingAnswer { policy: FaultPolicy::Deny, .. }), _) => {
                (ReasonCode::SERVER_UNAVAILABLE, None)
            }
            (_, DENY) => (self.reason, self.reason_string.clone()),
            _ => (ReasonCode::BAD_USER_NAME_OR_PASSWORD, None),
        }
    }

    /// Whether the verdict may be cached for later requests. It may not if a link's answer is
    /// missing.
    pub fn may_be_remembered(&self) -> bool {
        self.cacheable && self.missing_answer.is_none()
    }

    /// The policy of client.authorize for what was granted before: only an answer can revoke it.
    pub fn rechecked(&self, no_match_allow: bool) -> Rechecked {
        match self.authorize_verdict(no_match_allow) {
            Verdict::Allow | Verdict::Unanswered(NoAnswer::NotCalled) => Rechecked::Stays,
            Verdict::Deny(reason) => Rechecked::Revoked(reason),
            Verdict::Unanswered(_) => Rechecked::Repeat,
        }
    }
}

/// Whether a link answers every request alike in both chains: everything in the chain that affects
/// its answers is the same.
pub(super) fn answers_alike(a: &Link, b: &Link) -> bool {
    // Tripping or re-arming a plugin does not change it, so its earlier answers stay valid.
    let same_call = a.entry.is_tripped() || b.entry.is_tripped() || a.entry.calls_like(&b.entry);
    same_call
        && (a.plugin, a.identity, a.policy, a.deliver) == (b.plugin, b.identity, b.policy, b.deliver)
        && a.topics == b.topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::HookPoint;
    use crate::hook::view::ClientView;
    use grapnel_plugin_abi::host::FieldChange;
    use grapnel_plugin_abi::raw::Field;

    const NOBODY: Result<(), ReasonCode> = Err(ReasonCode::NOT_AUTHORIZED);

    fn verdict(said: u8, called: bool) -> ClientVerdict {
        let mut verdict = ClientVerdict::unanswered(&ClientView::NOBODY, ReasonCode::NOT_AUTHORIZED);
        (verdict.verdict, verdict.called) = (said, called);
        verdict
    }

    #[test]
    fn an_answer_is_an_answer_for_what_is_new_and_for_what_was_granted() {
        for no_match_allow in [false, true] {
            let allow = verdict(ALLOW, true);
            assert_eq!(
                (allow.granted(no_match_allow), allow.rechecked(no_match_allow)),
                (Ok(()), Rechecked::Stays)
            );
            let deny = verdict(DENY, true);
            let revoked = Rechecked::Revoked(ReasonCode::NOT_AUTHORIZED);
            assert_eq!((deny.granted(no_match_allow), deny.rechecked(no_match_allow)), (NOBODY, revoked));
        }
        // Every link has passed: the operator's setting decides both.
        let passed = verdict(UNANSWERED, true);
        assert_eq!((passed.granted(true), passed.rechecked(true)), (Ok(()), Rechecked::Stays));
        let revoked = Rechecked::Revoked(ReasonCode::NOT_AUTHORIZED);
        assert_eq!((passed.granted(false), passed.rechecked(false)), (NOBODY, revoked));
    }

    #[test]
    fn a_missing_answer_grants_nothing_and_revokes_nothing() {
        for no_match_allow in [false, true] {
            let nobody = verdict(UNANSWERED, false);
            assert_eq!(nobody.authorize_verdict(no_match_allow), Verdict::Unanswered(NoAnswer::NotCalled));
            assert_eq!(nobody.granted(no_match_allow).is_ok(), no_match_allow);
            assert_eq!(nobody.rechecked(no_match_allow), Rechecked::Stays);
            for why in [NoAnswer::Fault, NoAnswer::Deadline, NoAnswer::NoRoom] {
                for before in [UNANSWERED, ALLOW, DENY] {
                    let mut failed = verdict(before, true);
                    failed.fail(why, FaultPolicy::Deny);
                    assert_eq!(failed.authorize_verdict(no_match_allow), Verdict::Unanswered(why));
                    assert_eq!(failed.granted(no_match_allow), NOBODY, "it fails closed");
                    assert_eq!(failed.rechecked(no_match_allow), Rechecked::Repeat);
                }
                let mut ignored = verdict(UNANSWERED, true);
                ignored.fail(why, FaultPolicy::Ignore);
                assert_eq!(
                    ignored.granted(no_match_allow).is_ok(),
                    no_match_allow,
                    "as if it had not been there"
                );
                assert_eq!(ignored.rechecked(no_match_allow), Rechecked::Repeat);
                ignored.verdict = ALLOW;
                assert_eq!(ignored.granted(false), Ok(()), "another link has answered");
            }
        }
    }

    #[test]
    fn a_restarted_verdict_has_no_earlier_state() {
        let mut failed = verdict(ALLOW, true);
        failed.fail(NoAnswer::Deadline, FaultPolicy::Deny);
        let text = FieldChange { field: Field::REASON_STRING, index: 0, number: 0, bytes: b"no", key: b"" };
        assert!(failed.set(HookPoint::ClientAuthorize, &text, 64).is_ok());
        failed.begin_anew(ReasonCode::NOT_AUTHORIZED);
        assert_eq!(failed, verdict(UNANSWERED, false));
    }
}
