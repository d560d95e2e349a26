//! Reason codes of MQTT 5.0 (section 2.4) and their 3.1.1 counterparts. Every layer uses it; it
//! depends on nothing.

/// A reason code on the wire. Values from 0x80 are failures.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ReasonCode(pub u8);

macro_rules! reasons {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl ReasonCode {
            $(#[doc = $text] pub const $name: ReasonCode = ReasonCode($value);)*

            /// The name in the specification, or "unknown reason code".
            pub const fn name(self) -> &'static str {
                match self.0 { $($value => $text,)* _ => "unknown reason code" }
            }

            /// Whether MQTT 5.0 defines this value.
            pub const fn is_defined(self) -> bool {
                matches!(self.0, $($value)|*)
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00, "success";
    GRANTED_QOS_1 = 0x01, "granted QoS 1";
    GRANTED_QOS_2 = 0x02, "granted QoS 2";
    DISCONNECT_WITH_WILL = 0x04, "disconnect with will message";
    NO_MATCHING_SUBSCRIBERS = 0x10, "no matching subscribers";
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    CONTINUE_AUTHENTICATION = 0x18, "continue authentication";
    REAUTHENTICATE = 0x19, "re-authenticate";
    UNSPECIFIED_ERROR = 0x80, "unspecified error";
    MALFORMED_PACKET = 0x81, "malformed packet";
    PROTOCOL_ERROR = 0x82, "protocol error";
    IMPLEMENTATION_SPECIFIC = 0x83, "implementation specific error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "unsupported protocol version";
    CLIENT_ID_NOT_VALID = 0x85, "client identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "bad user name or password";
    NOT_AUTHORIZED = 0x87, "not authorized";
    SERVER_UNAVAILABLE = 0x88, "server unavailable";
    SERVER_BUSY = 0x89, "server busy";
    BANNED = 0x8A, "banned";
    SERVER_SHUTTING_DOWN = 0x8B, "server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8C, "bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8D, "keep alive timeout";
    SESSION_TAKEN_OVER = 0x8E, "session taken over";
    TOPIC_FILTER_INVALID = 0x8F, "topic filter invalid";
    TOPIC_NAME_INVALID = 0x90, "topic name invalid";
    PACKET_ID_IN_USE = 0x91, "packet identifier in use";
    PACKET_ID_NOT_FOUND = 0x92, "packet identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "receive maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "topic alias invalid";
    PACKET_TOO_LARGE = 0x95, "packet too large";
    MESSAGE_RATE_TOO_HIGH = 0x96, "message rate too high";
    QUOTA_EXCEEDED = 0x97, "quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, "administrative action";
    PAYLOAD_FORMAT_INVALID = 0x99, "payload format invalid";
    RETAIN_NOT_SUPPORTED = 0x9A, "retain not supported";
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
    USE_ANOTHER_SERVER = 0x9C, "use another server";
    SERVER_MOVED = 0x9D, "server moved";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "shared subscriptions not supported";
    CONNECTION_RATE_EXCEEDED = 0x9F, "connection rate exceeded";
    MAXIMUM_CONNECT_TIME = 0xA0, "maximum connect time";
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1, "subscription identifiers not supported";
    WILDCARDS_NOT_SUPPORTED = 0xA2, "wildcard subscriptions not supported";
}

impl ReasonCode {
    /// Whether the code reports a failure (0x80 and above, section 2.4).
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The code itself if it is no failure or fits its packet; otherwise 0x80, which every
    /// acknowledgement may have.
    pub fn fitted(self, fits: impl FnOnce(ReasonCode) -> bool) -> ReasonCode {
        if !self.is_error() || fits(self) { self } else { ReasonCode::UNSPECIFIED_ERROR }
    }

    /// Whether PUBACK and PUBREC may refuse a message with it (sections 3.4.2.1 and 3.5.2.1).
    pub const fn refuses_publish(self) -> bool {
        matches!(self.0, 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
    }

    /// Whether CONNACK may refuse with it (section 3.2.2.2).
    pub const fn refuses_connect(self) -> bool {
        matches!(self.0, 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
    }

    /// Whether DISCONNECT may have it: table 3-10, and 0x8C, which table 2-6 gives to DISCONNECT
    /// too.
    pub const fn ends_connection(self) -> bool {
        matches!(self.0, 0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2)
    }

    /// Whether SUBACK may refuse a topic filter with it (section 3.9.3).
    pub const fn refuses_subscription(self) -> bool {
        matches!(self.0, 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
    }

    /// Whether UNSUBACK may refuse a topic filter with it (section 3.11.3).
    pub const fn refuses_unsubscription(self) -> bool {
        matches!(self.0, 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
    }

    /// The CONNACK return code of MQTT 3.1.1 (section 3.2.2.3) with the same meaning.
    pub const fn connack_v3(self) -> u8 {
        match self.0 {
            0x00 => 0,
            0x84 => 1,
            0x85 => 2,
            0x86 | 0x87 | 0x8A | 0x8C | 0x82 => 5,
            _ => 3,
        }
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:02X} {}", self.0, self.name())
    }
}

impl std::fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes from 0x80 on that a packet may have.
    fn refusals(of: fn(ReasonCode) -> bool) -> Vec<u8> {
        (0x80..=0xFF).filter(|code| of(ReasonCode(*code))).collect()
    }

    #[test]
    fn each_packet_has_the_codes_of_its_table() {
        // Tables 3-4, 3-1, 3-8 and 3-9 of MQTT 5.0, and 3-10 with 0x8C.
        assert_eq!(refusals(ReasonCode::refuses_publish), [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]);
        assert_eq!(
            refusals(ReasonCode::refuses_connect),
            [
                0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
                0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F
            ]
        );
        assert_eq!(
            refusals(ReasonCode::refuses_subscription),
            [0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]
        );
        assert_eq!(refusals(ReasonCode::refuses_unsubscription), [0x80, 0x83, 0x87, 0x8F, 0x91]);
        assert_eq!(
            refusals(ReasonCode::ends_connection),
            [
                0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
                0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2
            ]
        );
        let ends = (0..0x80).filter(|code| ReasonCode(*code).ends_connection());
        assert_eq!(ends.collect::<Vec<u8>>(), [0x00, 0x04]);
    }

    #[test]
    fn a_code_that_a_packet_does_not_have_becomes_unspecified() {
        let fitted = |code| ReasonCode(code).fitted(ReasonCode::refuses_publish).0;
        assert_eq!([0x00, 0x10, 0x7F, 0x87, 0x8F, 0xFF].map(fitted), [0x00, 0x10, 0x7F, 0x87, 0x80, 0x80]);
    }

    #[test]
    fn mqtt_3_has_five_refusals() {
        let v3 = |code: ReasonCode| code.connack_v3();
        assert_eq!(v3(ReasonCode::SUCCESS), 0);
        assert_eq!(v3(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION), 1);
        assert_eq!(v3(ReasonCode::CLIENT_ID_NOT_VALID), 2);
        for unavailable in
            [ReasonCode::SERVER_BUSY, ReasonCode::SERVER_UNAVAILABLE, ReasonCode::QUOTA_EXCEEDED]
        {
            assert_eq!(v3(unavailable), 3);
        }
        for not_authorized in
            [ReasonCode::NOT_AUTHORIZED, ReasonCode::BAD_USER_NAME_OR_PASSWORD, ReasonCode::BANNED]
        {
            assert_eq!(v3(not_authorized), 5);
        }
    }

    #[test]
    fn a_code_is_shown_as_the_specification_writes_it() {
        assert_eq!(ReasonCode::NOT_AUTHORIZED.to_string(), "0x87 not authorized");
        assert_eq!(ReasonCode(0xFE).to_string(), "0xFE unknown reason code");
        assert!(ReasonCode(0xA2).is_defined() && !ReasonCode(0xA3).is_defined());
    }
}
