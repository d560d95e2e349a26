package io.grapnel.exhook;

import java.util.Map;

/** EMQX's names of the reason codes of MQTT 5, which hooks get in place of the numbers. */
final class Reasons {
    private static final Map<Integer, String> NAMES = Map.ofEntries(
            Map.entry(0, "success"),
            Map.entry(1, "qos1"),
            Map.entry(2, "qos2"),
            Map.entry(4, "disconnect_with_will_message"),
            Map.entry(16, "no_matching_subscribers"),
            Map.entry(17, "no_subscription_existed"),
            Map.entry(24, "continue_authentication"),
            Map.entry(25, "re_authenticate"),
            Map.entry(128, "unspecified_error"),
            Map.entry(129, "malformed_Packet"),
            Map.entry(130, "protocol_error"),
            Map.entry(131, "implementation_specific_error"),
            Map.entry(132, "unsupported_protocol_version"),
            Map.entry(133, "client_identifier_not_valid"),
            Map.entry(134, "bad_username_or_password"),
            Map.entry(135, "not_authorized"),
            Map.entry(136, "server_unavailable"),
            Map.entry(137, "server_busy"),
            Map.entry(138, "banned"),
            Map.entry(139, "server_shutting_down"),
            Map.entry(140, "bad_authentication_method"),
            Map.entry(141, "keepalive_timeout"),
            Map.entry(142, "session_taken_over"),
            Map.entry(143, "topic_filter_invalid"),
            Map.entry(144, "topic_name_invalid"),
            Map.entry(145, "packet_identifier_inuse"),
            Map.entry(146, "packet_identifier_not_found"),
            Map.entry(147, "receive_maximum_exceeded"),
            Map.entry(148, "topic_alias_invalid"),
            Map.entry(149, "packet_too_large"),
            Map.entry(150, "message_rate_too_high"),
            Map.entry(151, "quota_exceeded"),
            Map.entry(152, "administrative_action"),
            Map.entry(153, "payload_format_invalid"),
            Map.entry(154, "retain_not_supported"),
            Map.entry(155, "qos_not_supported"),
            Map.entry(156, "use_another_server"),
            Map.entry(157, "server_moved"),
            Map.entry(158, "shared_subscriptions_not_supported"),
            Map.entry(159, "connection_rate_exceeded"),
            Map.entry(160, "maximum_connect_time"),
            Map.entry(161, "subscription_identifiers_not_supported"),
            Map.entry(162, "wildcard_subscriptions_not_supported"));

    private Reasons() {}

    /** The name of a code; a text is returned unchanged. */
    static String name(Object code) {
        return code instanceof Number
                ? NAMES.getOrDefault(((Number) code).intValue(), "unknown_error")
                : Wire.text(code);
    }
}
