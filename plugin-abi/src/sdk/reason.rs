//! The reason codes of MQTT 5.0 (section 2.4) that a plugin may answer with.

/// A reason code. For clients of MQTT 3.1.1 the broker translates it if that version has an
/// equivalent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reason(pub u8);

impl Reason {
    /// 0x00: success, or a normal disconnection.
    pub const SUCCESS: Reason = Reason(0x00);
    /// 0x80: failed for an unspecified reason.
    pub const UNSPECIFIED: Reason = Reason(0x80);
    /// 0x83: valid, but not accepted by this broker.
    pub const IMPLEMENTATION_SPECIFIC: Reason = Reason(0x83);
    /// 0x85: the client identifier is not allowed.
    pub const CLIENT_ID_NOT_VALID: Reason = Reason(0x85);
    /// 0x86: user name or password is wrong.
    pub const BAD_USERNAME_OR_PASSWORD: Reason = Reason(0x86);
    /// 0x87: the client may not do this.
    pub const NOT_AUTHORIZED: Reason = Reason(0x87);
    /// 0x88: a required service cannot be reached.
    pub const SERVER_UNAVAILABLE: Reason = Reason(0x88);
    /// 0x89: try again later.
    pub const SERVER_BUSY: Reason = Reason(0x89);
    /// 0x8A: the client is banned.
    pub const BANNED: Reason = Reason(0x8A);
    /// 0x8C: the authentication method is not supported.
    pub const BAD_AUTHENTICATION_METHOD: Reason = Reason(0x8C);
    /// 0x8F: the topic filter is not allowed here.
    pub const TOPIC_FILTER_INVALID: Reason = Reason(0x8F);
    /// 0x90: the topic name is not allowed here.
    pub const TOPIC_NAME_INVALID: Reason = Reason(0x90);
    /// 0x95: the packet is too large.
    pub const PACKET_TOO_LARGE: Reason = Reason(0x95);
    /// 0x96: too many messages in a period of time.
    pub const MESSAGE_RATE_TOO_HIGH: Reason = Reason(0x96);
    /// 0x97: a limit that the operator has set is reached.
    pub const QUOTA_EXCEEDED: Reason = Reason(0x97);
    /// 0x98: an administrator ended it.
    pub const ADMINISTRATIVE_ACTION: Reason = Reason(0x98);
    /// 0x99: the payload does not have the declared format.
    pub const PAYLOAD_FORMAT_INVALID: Reason = Reason(0x99);
}
