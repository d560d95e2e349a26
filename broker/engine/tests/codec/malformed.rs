//! Broken packets: bytes, the rule they break, and the reason code for the peer. The rule is a
//! statement number of MQTT 5.0, or of 3.1.1 where noted, or a section where the rule has no
//! number. The oracle tests read this table too.

use grapnel_engine::codec::{DecodeError, decode, frame};
use grapnel_engine::packet::{PacketType, Properties, PropertyId, PropertyOwner, Version};
use grapnel_engine::reason::ReasonCode;

use crate::notation::bytes;

const V31: Version = Version::V31;
const V311: Version = Version::V311;
const V5: Version = Version::V5;

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;
const NAME: ReasonCode = ReasonCode::TOPIC_NAME_INVALID;
const FILTER: ReasonCode = ReasonCode::TOPIC_FILTER_INVALID;
const ALIAS: ReasonCode = ReasonCode::TOPIC_ALIAS_INVALID;
const VERSION: ReasonCode = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;

/// Rule, version, bytes in the notation of the tables, reason code.
pub type Broken = (&'static str, Version, &'static str, ReasonCode);

/// Errors that the fixed header shows (section 2.1).
pub const HEADERS: &[Broken] = &[
    ("section 2.1.2", V5, "00 00", MALFORMED),
    ("section 2.1.2", V311, "0F 00", MALFORMED),
    ("section 1.5.5", V5, "30 FFFFFFFF", MALFORMED),
    ("section 1.5.5", V311, "30 80808080 01", MALFORMED),
    ("MQTT-1.5.5-1", V5, "C0 8000", MALFORMED),
    ("MQTT-1.5.5-1", V5, "C0 80808000", MALFORMED),
    ("MQTT-1.5.5-1", V5, "40 8200 0001", MALFORMED),
];

/// Flags of the first byte, lengths, strings (sections 1.5, 2.1, 2.2).
pub const COMMON: &[Broken] = &[
    ("MQTT-2.1.3-1", V5, "11 [0004 'MQTT' 05 02 003C 00 0000]", MALFORMED),
    ("MQTT-2.1.3-1", V311, "18 [0004 'MQTT' 04 02 003C 0000]", MALFORMED),
    ("MQTT-2.1.3-1", V5, "22 [00 00 00]", MALFORMED),
    ("MQTT-2.1.3-1", V5, "41 [0001]", MALFORMED),
    ("MQTT-2.1.3-1", V5, "52 [0001]", MALFORMED),
    ("MQTT-3.6.1-1", V5, "60 [0001]", MALFORMED),
    ("MQTT-3.6.1-1", V311, "6A [0001]", MALFORMED),
    ("MQTT-2.1.3-1", V5, "74 [0001]", MALFORMED),
    ("MQTT-3.8.1-1", V5, "80 [0001 00 0001 'a' 00]", MALFORMED),
    ("MQTT-3.8.1-1", V311, "8A [0001 0001 'a' 00]", MALFORMED),
    ("MQTT-2.1.3-1", V5, "92 [0001 00 00]", MALFORMED),
    ("MQTT-3.10.1-1", V5, "A0 [0001 00 0001 'a']", MALFORMED),
    ("MQTT-2.1.3-1", V5, "B2 [0001 00 00]", MALFORMED),
    ("MQTT-2.1.3-1", V5, "C1 00", MALFORMED),
    ("MQTT-2.1.3-1", V311, "D8 00", MALFORMED),
    ("MQTT-3.14.1-1", V5, "E1 00", MALFORMED),
    ("MQTT-3.14.1-1", V311, "E2 00", MALFORMED),
    ("MQTT-3.15.1-1", V5, "F1 00", MALFORMED),
    ("section 2.1.4", V5, "C0 01 00", MALFORMED),
    ("section 2.1.4", V311, "D0 01 00", MALFORMED),
    ("section 2.1.4", V311, "40 [0001 00]", MALFORMED),
    ("section 2.1.4", V31, "70 [0001 00]", MALFORMED),
    ("section 2.1.4", V311, "E0 [00]", MALFORMED),
    ("section 2.1.4", V311, "B0 [0001 00]", MALFORMED),
    ("section 2.1.4", V311, "20 [00 00 00]", MALFORMED),
    ("section 2.1.4", V5, "20 [00 00 00 00]", MALFORMED),
    ("section 2.1.4", V5, "40 [0001 00 00 00]", MALFORMED),
    ("section 2.1.4", V5, "E0 [00 00 00]", MALFORMED),
    ("section 2.1.4", V5, "F0 [18 [15 0000] 00]", MALFORMED),
    ("section 1.5", V5, "40 [00]", MALFORMED),
    ("section 1.5", V5, "40 []", MALFORMED),
    ("section 1.5", V5, "40 [0001 00 01]", MALFORMED),
    ("section 1.5", V5, "20 [00 00]", MALFORMED),
    ("section 1.5", V311, "20 [00]", MALFORMED),
    ("section 1.5", V5, "F0 [18]", MALFORMED),
    ("section 1.5", V311, "30 [0004 'abc']", MALFORMED),
    ("section 1.5", V5, "82 [0001]", MALFORMED),
    ("section 1.5", V5, "82 [0001 00 0001 'a']", MALFORMED),
    ("section 1.5", V311, "A2 [0001 00]", MALFORMED),
    ("MQTT-2.2.1-3", V5, "32 [0001 'a' 0000 00]", PROTOCOL),
    ("MQTT-2.2.1-3", V311, "34 [0001 'a' 0000]", PROTOCOL),
    ("MQTT-2.2.1-3", V5, "40 [0000]", PROTOCOL),
    ("MQTT-2.2.1-3", V311, "62 [0000]", PROTOCOL),
    ("MQTT-2.2.1-3", V5, "82 [0000 00 0001 'a' 00]", PROTOCOL),
    ("MQTT-2.2.1-3", V5, "90 [0000 00 00]", PROTOCOL),
    ("MQTT-2.2.1-3", V5, "A2 [0000 00 0001 'a']", PROTOCOL),
    ("MQTT-2.2.1-3", V5, "B0 [0000 00 00]", PROTOCOL),
    // U+D800, an over-long "/", above U+10FFFF, a lone continuation byte, a cut sequence.
    ("MQTT-1.5.4-1", V5, "30 [0003 EDA080 00]", MALFORMED),
    ("MQTT-1.5.4-1", V311, "30 [0002 C0AF]", MALFORMED),
    ("MQTT-1.5.4-1", V5, "30 [0004 F4908080 00]", MALFORMED),
    ("MQTT-1.5.4-1", V311, "30 [0001 80]", MALFORMED),
    ("MQTT-1.5.4-1", V5, "30 [0002 E282 00]", MALFORMED),
    ("MQTT-1.5.4-1", V5, "82 [0001 00 0001 FF 00]", MALFORMED),
    ("MQTT-1.5.4-1", V5, "10 [0004 'MQTT' 05 02 003C 00 0001 FF]", MALFORMED),
    ("MQTT-1.5.4-1", V5, "10 [0004 'MQTT' 05 82 003C 00 0000 0001 FF]", MALFORMED),
    ("MQTT-1.5.4-1", V5, "30 [0001 'a' [26 0001 FF 0000]]", MALFORMED),
    ("MQTT-1.5.4-2", V5, "30 [0003 'a' 00 'b' 00]", MALFORMED),
    ("MQTT-1.5.4-2", V311, "30 [0001 00]", MALFORMED),
    ("MQTT-1.5.4-2", V311, "10 [0004 'MQTT' 04 02 003C 0001 00]", MALFORMED),
    ("MQTT-1.5.4-2", V5, "A2 [0001 00 0001 00]", MALFORMED),
    ("MQTT-1.5.4-2", V5, "30 [0001 'a' [26 0001 'k' 0001 00]]", MALFORMED),
];

/// CONNECT and CONNACK (sections 3.1, 3.2). The version column does not matter to CONNECT.
pub const CONNECTIONS: &[Broken] = &[
    ("MQTT-3.1.2-1", V5, "10 [0004 'mqtt' 05 02 003C 00 0000]", VERSION),
    ("MQTT-3.1.2-1", V5, "10 [0000 05 02 003C 00 0000]", VERSION),
    ("MQTT-3.1.2-2", V5, "10 [0004 'MQTT' 06 02 003C 00 0000]", VERSION),
    ("MQTT-3.1.2-2", V5, "10 [0004 'MQTT' 03 02 003C 0000]", VERSION),
    ("MQTT-3.1.2-2", V31, "10 [0006 'MQIsdp' 04 02 003C 0000]", VERSION),
    ("MQTT-3.1.2-2", V5, "10 [0004 'MQTT' 84 02 003C 0000]", VERSION),
    ("MQTT-3.1.2-3", V5, "10 [0004 'MQTT' 05 03 003C 00 0000]", MALFORMED),
    ("MQTT-3.1.2-3", V311, "10 [0004 'MQTT' 04 03 003C 0000]", MALFORMED),
    ("MQTT-3.1.2-11", V5, "10 [0004 'MQTT' 05 0A 003C 00 0000]", MALFORMED),
    ("MQTT-3.1.2-11", V311, "10 [0004 'MQTT' 04 12 003C 0000]", MALFORMED),
    ("MQTT-3.1.2-13", V5, "10 [0004 'MQTT' 05 22 003C 00 0000]", MALFORMED),
    ("MQTT-3.1.2-12", V5, "10 [0004 'MQTT' 05 1E 003C 00 0000 00 0001 'w' 0000]", MALFORMED),
    ("MQTT-3.1.2-12", V31, "10 [0006 'MQIsdp' 03 1E 003C 0000 0001 'w' 0000]", MALFORMED),
    ("MQTT-3.1.2-22 of 3.1.1", V311, "10 [0004 'MQTT' 04 42 003C 0000 0001 'p']", MALFORMED),
    ("MQTT-3.1.2-22 of 3.1.1", V31, "10 [0006 'MQIsdp' 03 42 003C 0000 0001 'p']", MALFORMED),
    // Announced by a flag but absent [MQTT-3.1.2-9] [MQTT-3.1.2-17] [MQTT-3.1.2-19]; no client
    // identifier [MQTT-3.1.3-3].
    ("section 1.5", V5, "10 [0004 'MQTT' 05 06 003C 00 0000]", MALFORMED),
    ("section 1.5", V5, "10 [0004 'MQTT' 05 06 003C 00 0000 00 0001 'w']", MALFORMED),
    ("section 1.5", V5, "10 [0004 'MQTT' 05 82 003C 00 0000]", MALFORMED),
    ("section 1.5", V311, "10 [0004 'MQTT' 04 C2 003C 0000 0001 'u']", MALFORMED),
    ("section 1.5", V311, "10 [0004 'MQTT' 04 02 003C]", MALFORMED),
    ("section 1.5", V31, "10 [0006 'MQIsdp' 03 C2 003C 0000 0001 'u' 00]", MALFORMED),
    // Present but not announced [MQTT-3.1.2-16] [MQTT-3.1.2-18].
    ("section 2.1.4", V5, "10 [0004 'MQTT' 05 02 003C 00 0000 0001 'u']", MALFORMED),
    ("section 2.1.4", V311, "10 [0004 'MQTT' 04 02 003C 0000 0000]", MALFORMED),
    ("section 2.1.4", V31, "10 [0006 'MQIsdp' 03 02 003C 0000 00]", MALFORMED),
    ("MQTT-4.7.0-1", V5, "10 [0004 'MQTT' 05 06 003C 00 0000 00 0003 'w/#' 0000]", NAME),
    ("MQTT-4.7.0-1", V311, "10 [0004 'MQTT' 04 06 003C 0000 0001 '+' 0000]", NAME),
    ("MQTT-4.7.3-1", V5, "10 [0004 'MQTT' 05 06 003C 00 0000 00 0000 0000]", NAME),
    ("section 3.1.2.11.10", V5, "10 [0004 'MQTT' 05 02 003C [16 0001 00] 0000]", PROTOCOL),
    ("section 3.1.2.11.3", V5, "10 [0004 'MQTT' 05 02 003C [21 0000] 0000]", PROTOCOL),
    ("section 3.1.2.11.4", V5, "10 [0004 'MQTT' 05 02 003C [27 00000000] 0000]", PROTOCOL),
    ("sections 3.1.2.11, 3.2.2.3", V5, "10 [0004 'MQTT' 05 02 003C [17 02] 0000]", PROTOCOL),
    ("sections 3.1.2.11, 3.2.2.3", V5, "10 [0004 'MQTT' 05 02 003C [19 FF] 0000]", PROTOCOL),
    ("section 3.3.2.3.2", V5, "10 [0004 'MQTT' 05 06 003C 00 0000 [01 02] 0001 'w' 0000]", PROTOCOL),
    ("MQTT-3.2.2-1", V5, "20 [02 00 00]", MALFORMED),
    ("MQTT-3.2.2-1", V311, "20 [80 00]", MALFORMED),
    ("MQTT-3.2.2-6", V5, "20 [01 80 00]", PROTOCOL),
    ("MQTT-3.2.2-6", V311, "20 [01 05]", PROTOCOL),
    ("MQTT-3.2.2-8", V5, "20 [00 01 00]", PROTOCOL),
    ("MQTT-3.2.2-8", V5, "20 [00 8B 00]", PROTOCOL),
    ("MQTT-3.2.2-8", V311, "20 [00 06]", PROTOCOL),
    ("MQTT-3.2.2-8", V31, "20 [00 80]", PROTOCOL),
    ("section 3.2.2.3.4", V5, "20 [00 00 [24 02]]", PROTOCOL),
    ("sections 3.1.2.11, 3.2.2.3", V5, "20 [00 00 [25 02]]", PROTOCOL),
    ("sections 3.1.2.11, 3.2.2.3", V5, "20 [00 00 [28 02]]", PROTOCOL),
    ("sections 3.1.2.11, 3.2.2.3", V5, "20 [00 00 [29 03]]", PROTOCOL),
    ("sections 3.1.2.11, 3.2.2.3", V5, "20 [00 00 [2A 80]]", PROTOCOL),
];

/// PUBLISH and its acknowledgements (sections 3.3 to 3.7).
pub const MESSAGES: &[Broken] = &[
    ("MQTT-3.3.1-4", V5, "36 [0001 'a' 0001 00]", MALFORMED),
    ("MQTT-3.3.1-4", V311, "3E [0001 'a' 0001]", MALFORMED),
    ("MQTT-3.3.1-2", V5, "38 [0001 'a' 00]", MALFORMED),
    ("MQTT-3.3.1-2", V311, "39 [0001 'a']", MALFORMED),
    ("MQTT-3.3.2-2", V5, "30 [0003 'a/#' 00]", NAME),
    ("MQTT-3.3.2-2", V311, "30 [0003 'a+b']", NAME),
    ("MQTT-3.3.2-2", V31, "30 [0001 '#']", NAME),
    ("section 3.3.2.1", V5, "30 [0000 00]", PROTOCOL),
    ("section 3.3.2.1", V5, "30 [0000 [02 00000001]]", PROTOCOL),
    ("MQTT-4.7.3-1", V311, "30 [0000]", NAME),
    ("section 1.5", V5, "30 [0001 'a']", MALFORMED),
    ("section 1.5", V5, "30 [0001 'a' 05 01 00]", MALFORMED),
    ("section 1.5", V5, "32 [0001 'a' 00]", MALFORMED),
    ("MQTT-3.3.2-8", V5, "30 [0001 'a' [23 0000]]", ALIAS),
    ("MQTT-3.3.2-14", V5, "30 [0001 'a' [08 0001 '#']]", PROTOCOL),
    ("MQTT-4.7.3-1", V5, "30 [0001 'a' [08 0000]]", PROTOCOL),
    ("section 3.3.2.3.2", V5, "30 [0001 'a' [01 02]]", PROTOCOL),
    ("section 3.8.2.1.2", V5, "30 [0001 'a' [0B 00]]", PROTOCOL),
    ("MQTT-1.5.5-1", V5, "30 [0001 'a' [0B 8100]]", MALFORMED),
    ("section 1.5.5", V5, "30 [0001 'a' [0B FFFFFFFF01]]", MALFORMED),
    ("MQTT-1.5.5-1", V5, "30 [0001 'a' 8000]", MALFORMED),
    ("section 1.5.5", V5, "30 [0001 'a' 80808080 01]", MALFORMED),
    ("section 1.5", V5, "30 [0001 'a' [0B 81]]", MALFORMED),
    ("section 1.5", V5, "30 [0001 'a' [02 000000]]", MALFORMED),
    ("section 1.5", V5, "30 [0001 'a' [03 0002 'x']]", MALFORMED),
    ("section 1.5", V5, "30 [0001 'a' [26 0001 'x']]", MALFORMED),
    ("section 2.2.2.2", V5, "30 [0001 'a' [04 00]]", MALFORMED),
    ("section 2.2.2.2", V5, "30 [0001 'a' [11 00000000]]", MALFORMED),
    ("section 2.2.2.2", V5, "30 [0001 'a' [00]]", MALFORMED),
    ("section 2.2.2.2", V5, "30 [0001 'a' [8100 00]]", MALFORMED),
    ("section 2.2.2.2", V5, "30 [0001 'a' [7F]]", MALFORMED),
    ("MQTT-3.4.2-1", V5, "40 [0001 92]", PROTOCOL),
    ("MQTT-3.4.2-1", V5, "40 [0001 01 00]", PROTOCOL),
    ("MQTT-3.5.2-1", V5, "50 [0001 92]", PROTOCOL),
    ("MQTT-3.6.2-1", V5, "62 [0001 80]", PROTOCOL),
    ("MQTT-3.7.2-1", V5, "70 [0001 10]", PROTOCOL),
];

/// Subscriptions (sections 3.8 to 3.11, 4.7.1, 4.8.2).
pub const SUBSCRIPTIONS: &[Broken] = &[
    ("MQTT-3.8.3-2", V5, "82 [0001 00]", PROTOCOL),
    ("MQTT-3.8.3-2", V311, "82 [0001]", PROTOCOL),
    ("MQTT-3.8.3-5", V5, "82 [0001 00 0001 'a' 40]", MALFORMED),
    ("MQTT-3.8.3-5", V5, "82 [0001 00 0001 'a' 00 0001 'b' 80]", MALFORMED),
    ("section 3.8.3.1", V5, "82 [0001 00 0001 'a' 03]", PROTOCOL),
    ("section 3.8.3.1", V5, "82 [0001 00 0001 'a' 30]", PROTOCOL),
    ("MQTT-3-8.3-4 of 3.1.1", V311, "82 [0001 0001 'a' 03]", MALFORMED),
    ("MQTT-3-8.3-4 of 3.1.1", V311, "82 [0001 0001 'a' 04]", MALFORMED),
    ("MQTT-3-8.3-4 of 3.1.1", V31, "82 [0001 0001 'a' 80]", MALFORMED),
    ("MQTT-3.8.3-4", V5, "82 [0001 00 000A '$share/g/a' 04]", PROTOCOL),
    ("MQTT-4.7.3-1", V5, "82 [0001 00 0000 00]", FILTER),
    ("MQTT-4.7.3-1", V311, "82 [0001 0000 00]", FILTER),
    ("MQTT-4.7.1-1", V5, "82 [0001 00 0002 'a#' 00]", FILTER),
    ("MQTT-4.7.1-1", V311, "82 [0001 0003 '#/a' 00]", FILTER),
    ("MQTT-4.7.1-2", V5, "82 [0001 00 0002 'a+' 00]", FILTER),
    ("MQTT-4.7.1-2", V31, "82 [0001 0003 '+a/' 00]", FILTER),
    ("MQTT-4.7.1-2", V311, "A2 [0001 0003 '+' C5B4]", FILTER),
    ("MQTT-4.8.2-1", V5, "82 [0001 00 0009 '$share//a' 00]", FILTER),
    ("MQTT-4.8.2-2", V5, "82 [0001 00 000A '$share/+/a' 00]", FILTER),
    ("MQTT-4.8.2-2", V5, "82 [0001 00 0008 '$share/g' 00]", FILTER),
    ("MQTT-4.8.2-2", V5, "82 [0001 00 0009 '$share/g/' 00]", FILTER),
    ("MQTT-4.7.1-1", V5, "82 [0001 00 000B '$share/g/a#' 00]", FILTER),
    ("section 3.8.2.1.2", V5, "82 [0001 [0B 00] 0001 'a' 00]", PROTOCOL),
    ("section 2.2.2.2", V5, "82 [0001 [0B 01 0B 02] 0001 'a' 00]", PROTOCOL),
    ("MQTT-3.8.4-6", V5, "90 [0001 00]", PROTOCOL),
    ("MQTT-3.8.4-6", V311, "90 [0001]", PROTOCOL),
    ("MQTT-3.9.3-2", V5, "90 [0001 00 03]", PROTOCOL),
    ("MQTT-3.9.3-2", V5, "90 [0001 00 00 11]", PROTOCOL),
    ("MQTT-3.9.3-2", V311, "90 [0001 87]", PROTOCOL),
    ("MQTT-3.11.3-2", V5, "B0 [0001 00]", PROTOCOL),
    ("MQTT-3.11.3-2", V5, "B0 [0001 00 10]", PROTOCOL),
    ("MQTT-3.10.3-2", V5, "A2 [0001 00]", PROTOCOL),
    ("MQTT-3.10.3-2", V311, "A2 [0001]", PROTOCOL),
    ("MQTT-4.7.1-1", V5, "A2 [0001 00 0004 'a/#/']", FILTER),
    ("MQTT-4.7.3-1", V311, "A2 [0001 0000]", FILTER),
];

/// DISCONNECT and AUTH (sections 3.14, 3.15).
pub const ENDS: &[Broken] = &[
    ("MQTT-3.14.2-1", V5, "E0 [01]", PROTOCOL),
    ("MQTT-3.14.2-1", V5, "E0 [86 00]", PROTOCOL),
    ("MQTT-3.14.2-1", V5, "E0 [FF]", PROTOCOL),
    ("section 1.5", V5, "E0 [00 01]", MALFORMED),
    ("section 2.2.1 of 3.1.1", V311, "F0 00", MALFORMED),
    ("section 2.2.1 of 3.1.1", V31, "F0 00", MALFORMED),
    ("MQTT-3.15.2-1", V5, "F0 [01 [15 0001 'm']]", PROTOCOL),
    ("MQTT-3.15.2-1", V5, "F0 [80 [15 0001 'm']]", PROTOCOL),
    ("section 3.15.2.2.2", V5, "F0 [18 []]", PROTOCOL),
    ("section 3.15.2.2.2", V5, "F0 [00 [16 0001 00]]", PROTOCOL),
];

/// Whether the error names exactly this rule.
pub fn cites(error: &DecodeError, rule: &str) -> bool {
    error.detail.contains(&format!("[{rule}]"))
}

pub fn all() -> impl Iterator<Item = &'static Broken> {
    [HEADERS, COMMON, CONNECTIONS, MESSAGES, SUBSCRIPTIONS, ENDS].into_iter().flatten()
}

#[test]
fn each_malformed_packet_is_refused_with_its_error() {
    for &(rule, version, notation, reason) in all() {
        let bytes = bytes(notation);
        let result = match frame(&bytes, u32::MAX) {
            Ok(Some(frame)) => {
                assert_eq!(frame.len, bytes.len(), "{notation}: the row itself is not one frame");
                decode(&frame, version)
            }
            Ok(None) => panic!("{notation}: the row itself is not complete"),
            Err(error) => Err(error),
        };
        let error = result.expect_err(notation);
        assert_eq!(error.reason, reason, "{notation}: {error}");
        assert!(cites(&error, rule), "{notation}: {error}, not for {rule}");
    }
}

#[test]
fn a_bad_header_is_refused_before_the_body_arrives() {
    for &(rule, _, notation, reason) in HEADERS {
        let bytes = bytes(notation);
        let header = bytes.len().min(5);
        assert_eq!(frame(&bytes[..header], u32::MAX).expect_err(rule).reason, reason, "{notation}");
    }
}

/// Table 2-4 of the specification, packet by packet: which properties each may carry.
const MATRIX: &[(PropertyOwner, &str)] = {
    use PropertyOwner::{Packet, Will};
    &[
        (Packet(PacketType::Connect), "11 15 16 17 19 21 22 26 27"),
        (Will, "01 02 03 08 09 18 26"),
        (Packet(PacketType::ConnAck), "11 12 13 15 16 1A 1C 1F 21 22 24 25 26 27 28 29 2A"),
        (Packet(PacketType::Publish), "01 02 03 08 09 0B 23 26"),
        (Packet(PacketType::PubAck), "1F 26"),
        (Packet(PacketType::PubRec), "1F 26"),
        (Packet(PacketType::PubRel), "1F 26"),
        (Packet(PacketType::PubComp), "1F 26"),
        (Packet(PacketType::Subscribe), "0B 26"),
        (Packet(PacketType::SubAck), "1F 26"),
        (Packet(PacketType::Unsubscribe), "26"),
        (Packet(PacketType::UnsubAck), "1F 26"),
        (Packet(PacketType::Disconnect), "11 1C 1F 26"),
        (Packet(PacketType::Auth), "15 16 1F 26"),
    ]
};

/// A valid value for each identifier, by the types of table 2-4.
fn valid(id: u8) -> Vec<u8> {
    bytes(&match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => format!("{id:02X} 01"),
        0x13 | 0x21 | 0x22 | 0x23 => format!("{id:02X} 0001"),
        0x02 | 0x11 | 0x18 | 0x27 => format!("{id:02X} 00000001"),
        0x0B => format!("{id:02X} 01"),
        0x26 => format!("{id:02X} 0001 'k' 0001 'v'"),
        _ => format!("{id:02X} 0001 'x'"),
    })
}

#[test]
fn each_packet_may_have_its_properties_once_and_no_others() {
    for &(owner, allowed) in MATRIX {
        let allowed = bytes(allowed);
        for id in 0..=u8::MAX {
            let once = valid(id);
            let twice = once.repeat(2);
            if !allowed.contains(&id) {
                let error = Properties::check(&once, owner).expect_err("a property out of place");
                assert_eq!(error.reason, MALFORMED, "{id:02X} in {owner:?}");
                continue;
            }
            assert!(Properties::check(&once, owner).is_ok(), "{id:02X} in {owner:?}");
            let repeats = id == 0x26 || (id == 0x0B && owner == PropertyOwner::Packet(PacketType::Publish));
            match Properties::check(&twice, owner) {
                Ok(section) => assert!(repeats && section.iter().count() == 2, "{id:02X} twice in {owner:?}"),
                Err(error) => {
                    assert!(!repeats && error.reason == PROTOCOL, "{id:02X} twice in {owner:?}: {error}")
                }
            }
            for end in 1..once.len() {
                let error = Properties::check(&once[..end], owner).expect_err("a property cut short");
                assert_eq!(error.reason, MALFORMED, "{id:02X} cut in {owner:?}");
            }
        }
    }
    assert_eq!(PropertyId::ALL.len(), 27);
}

/// The reason codes of table 2-6, packet by packet.
#[test]
fn each_packet_may_have_its_reason_codes_and_no_others() {
    for (packet, allowed) in [
        ("20 [00 CC 00]", "00 80 81 82 83 84 85 86 87 88 89 8A 8C 90 95 97 99 9A 9B 9C 9D 9F"),
        ("40 [0001 CC]", "00 10 80 83 87 90 91 97 99"),
        ("50 [0001 CC]", "00 10 80 83 87 90 91 97 99"),
        ("62 [0001 CC]", "00 92"),
        ("70 [0001 CC]", "00 92"),
        ("90 [0001 00 CC]", "00 01 02 80 83 87 8F 91 97 9E A1 A2"),
        ("B0 [0001 00 CC]", "00 11 80 83 87 8F 91"),
        (
            "E0 [CC]",
            "00 04 80 81 82 83 87 89 8B 8C 8D 8E 8F 90 93 94 95 96 97 98 99 9A 9B 9C 9D 9E 9F A0 A1 A2",
        ),
        ("F0 [CC [15 0000]]", "00 18 19"),
    ] {
        let allowed = bytes(allowed);
        for code in 0..=u8::MAX {
            let bytes = bytes(&packet.replace("CC", &format!("{code:02X}")));
            let frame = frame(&bytes, u32::MAX).unwrap().unwrap();
            let result = decode(&frame, V5);
            assert_eq!(result.is_ok(), allowed.contains(&code), "{code:02X} in {packet}: {result:?}");
        }
    }
}

/// The errors of the codec, read from its source.
fn complaints() -> Vec<&'static str> {
    const SOURCES: &[&str] = &[
        include_str!("../../src/codec.rs"),
        include_str!("../../src/codec/ack.rs"),
        include_str!("../../src/codec/connect.rs"),
        include_str!("../../src/codec/publish.rs"),
        include_str!("../../src/codec/subscribe.rs"),
        include_str!("../../src/packet/property.rs"),
        include_str!("../../src/packet/properties.rs"),
        include_str!("../../src/packet/subscribe.rs"),
        include_str!("../../src/packet/wire.rs"),
    ];
    let code =
        SOURCES.iter().flat_map(|source| source.lines()).filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(|text| text.ends_with(']')).collect()
}

/// Every check of the codec has a row, and so a test.
#[test]
fn every_error_of_the_codec_has_a_row_in_the_table() {
    let seen: Vec<&str> = all()
        .filter_map(|&(_, version, notation, _)| {
            let bytes = bytes(notation);
            let framed = frame(&bytes, u32::MAX);
            framed.and_then(|framed| framed.map(|frame| decode(&frame, version)).transpose()).err()
        })
        .map(|error| error.detail)
        .collect();
    // Tested elsewhere: the limit is an argument of `frame`, and no bytes of a packet can cause the
    // others.
    let elsewhere = [
        "the packet is larger than the limit [section 3.1.2.11.4]",
        "a topic filter is not valid [section 4.7]",
    ];
    let complaints = complaints();
    assert!(complaints.len() > 60, "{complaints:#?}");
    for complaint in complaints {
        assert!(seen.contains(&complaint) || elsewhere.contains(&complaint), "no row for: {complaint}");
    }
}
