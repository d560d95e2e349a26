/** The plugin interface of the Grapnel MQTT broker, for C and C++.
 *
 *  A plugin is a shared library that exports one function:
 *
 *      GRAPNEL_EXPORT const grapnel_plugin_module *grapnel_plugin_v1(void);
 *
 *  It returns a table of functions, which stays as it is. Begin with grapnel_module() and set what the plugin has of its own;
 *  grapnel_plugin_module says what each function is for and which thread calls it.
 *
 *  What everything else follows from:
 *
 *  * A plugin has one shared part (`load`) and an instance for each shard (`init_shard`). An instance is only ever called on
 *    its shard's thread, so that its state needs no lock. A hook must not block: the shard's clients wait for it.
 *  * A slice is a borrowed view, valid during the call it was given in, and not ended by a zero byte. What a hook was shown
 *    stays as it was until the hook returns, also after a setter. What a plugin hands to the host is copied.
 *  * Nothing may unwind into the broker: no C++ exception and no longjmp.
 *  * A status other than GRAPNEL_STATUS_OK that a setter answers leaves the event as it was.
 *  * Times are in the unit that ends their name, wall clocks in milliseconds since 1970.
 *
 *  Generated from the Rust source by the test `header` of grapnel-plugin-abi; `just abi` writes it anew. */
#ifndef GRAPNEL_PLUGIN_H
#define GRAPNEL_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#define GRAPNEL_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define GRAPNEL_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/** Before the definition of grapnel_plugin_v1: exported also where the compiler hides what it can. */
#define GRAPNEL_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/** Hash over every table, field and number; part of grapnel_plugin_module, and compared by the loader. */
#define GRAPNEL_ABI_HASH UINT64_C(0xd192a8a04aaa17e9)

typedef struct grapnel_slice grapnel_slice;
typedef struct grapnel_event grapnel_event;
typedef struct grapnel_value grapnel_value;
typedef struct grapnel_change grapnel_change;
typedef struct grapnel_pair grapnel_pair;
typedef struct grapnel_new_message grapnel_new_message;
typedef struct grapnel_on_behalf grapnel_on_behalf;
typedef struct grapnel_new_metric grapnel_new_metric;
typedef struct grapnel_new_thread grapnel_new_thread;
typedef struct grapnel_state_sink grapnel_state_sink;
typedef struct grapnel_host_api grapnel_host_api;
typedef struct grapnel_error_text grapnel_error_text;
typedef struct grapnel_manifest grapnel_manifest;
typedef struct grapnel_mount grapnel_mount;
typedef struct grapnel_plugin_module grapnel_plugin_module;

/** Major version of the ABI: another one is another ABI. */
#define GRAPNEL_ABI_MAJOR 1

/** Minor version: what was added since. */
#define GRAPNEL_ABI_MINOR 0

/** Borrowed bytes; valid during the call they were given in. `ptr` may be null where `len` is 0. */
struct grapnel_slice {
    /** First byte. */
    const uint8_t *ptr;
    /** Number of bytes. */
    size_t len;
};

/** What a hook returns. Any other value is a fault. */
typedef uint32_t grapnel_flow;
/** Go on with the next link; changes are kept. */
#define GRAPNEL_FLOW_CONTINUE UINT32_C(0)
/** End the chain; changes are kept. */
#define GRAPNEL_FLOW_STOP UINT32_C(1)
/** The answer comes later through the ticket that was taken in this call; changes are kept, unless it ends by a
 *  fault. */
#define GRAPNEL_FLOW_DEFER UINT32_C(2)
/** The hook failed; its changes are thrown away and the fault policy holds. */
#define GRAPNEL_FLOW_FAULT UINT32_C(3)
/** Nobody has answered, as where a process or a database that the plugin asks is away: as with FAULT, but it does
 *  not count towards the breaker, since the plugin itself works. */
#define GRAPNEL_FLOW_UNANSWERED UINT32_C(4)

/** How a host function ended. */
typedef uint32_t grapnel_status;
/** Done. */
#define GRAPNEL_STATUS_OK UINT32_C(0)
/** This host, or this hook point, does not know the field or function. */
#define GRAPNEL_STATUS_UNSUPPORTED UINT32_C(1)
/** The field is known, and absent here. */
#define GRAPNEL_STATUS_ABSENT UINT32_C(2)
/** The value cannot be taken: too large, not UTF-8, an unknown reason code, a topic name with a wildcard. */
#define GRAPNEL_STATUS_INVALID UINT32_C(3)
/** The handle or ticket names something that is gone. */
#define GRAPNEL_STATUS_STALE UINT32_C(4)
/** A limit is reached. */
#define GRAPNEL_STATUS_FULL UINT32_C(5)
/** Called from a thread or at a moment where it may not be called. */
#define GRAPNEL_STATUS_WRONG_MOMENT UINT32_C(6)
/** The plugin's own function failed; its grapnel_error_text says why. */
#define GRAPNEL_STATUS_FAILED UINT32_C(7)

/** What is read and changed through the host, by number. Which exist at which point stands in the author's guide. */
typedef uint32_t grapnel_field;
/** Client identifier (text, read only). */
#define GRAPNEL_FIELD_CLIENT_ID UINT32_C(1)
/** User name (text, read only). */
#define GRAPNEL_FIELD_USERNAME UINT32_C(2)
/** Password (bytes, read only, at authenticate alone). */
#define GRAPNEL_FIELD_PASSWORD UINT32_C(3)
/** Address the client comes from (text, without the port). */
#define GRAPNEL_FIELD_PEER_HOST UINT32_C(4)
/** Port the client comes from. */
#define GRAPNEL_FIELD_PEER_PORT UINT32_C(5)
/** Port the client came to. */
#define GRAPNEL_FIELD_SOCK_PORT UINT32_C(6)
/** Name of the listener. */
#define GRAPNEL_FIELD_LISTENER UINT32_C(7)
/** Protocol level: 3, 4 or 5. */
#define GRAPNEL_FIELD_PROTO_VER UINT32_C(8)
/** Clean start (0, 1). */
#define GRAPNEL_FIELD_CLEAN_START UINT32_C(9)
/** Keep alive, seconds. May be changed at connect and connack. */
#define GRAPNEL_FIELD_KEEP_ALIVE_S UINT32_C(10)
/** Session expiry interval, seconds. May be changed at connect and connack. */
#define GRAPNEL_FIELD_SESSION_EXPIRY_S UINT32_C(11)
/** Receive Maximum of CONNECT, which may be changed; at connack the broker's, which may be lowered. */
#define GRAPNEL_FIELD_RECEIVE_MAXIMUM UINT32_C(12)
/** When the connection was made, milliseconds since 1970. */
#define GRAPNEL_FIELD_CONNECTED_AT_MS UINT32_C(13)
/** Authentication method of MQTT 5 (text). */
#define GRAPNEL_FIELD_AUTH_METHOD UINT32_C(14)
/** Authentication data of MQTT 5 (bytes). */
#define GRAPNEL_FIELD_AUTH_DATA UINT32_C(15)
/** Whether the client is a superuser; settable at authenticate. */
#define GRAPNEL_FIELD_IS_SUPERUSER UINT32_C(16)
/** Verdict: 0 unanswered, 1 allow, 2 deny, and at authenticate 3: another round, with AUTH_DATA for the client. At
 *  connect, authenticate, authorize, and per filter (by index) at subscribe and unsubscribe. */
#define GRAPNEL_FIELD_VERDICT UINT32_C(17)
/** Reason code that goes with a refusal, and the reason of client.disconnected. */
#define GRAPNEL_FIELD_REASON_CODE UINT32_C(18)
/** Reason string that goes with a refusal (text). */
#define GRAPNEL_FIELD_REASON_STRING UINT32_C(19)
/** What is authorised: 1 publish, 2 subscribe, 3 deliver, 4 will. */
#define GRAPNEL_FIELD_ACTION UINT32_C(20)
/** Topic name or, at authorize for subscribe, topic filter (text). */
#define GRAPNEL_FIELD_TOPIC UINT32_C(21)
/** Payload (bytes). */
#define GRAPNEL_FIELD_PAYLOAD UINT32_C(22)
/** Quality of service, 0 to 2. */
#define GRAPNEL_FIELD_QOS UINT32_C(23)
/** Retain flag (0, 1). */
#define GRAPNEL_FIELD_RETAIN UINT32_C(24)
/** DUP flag (0, 1; read only). */
#define GRAPNEL_FIELD_DUP UINT32_C(25)
/** Content type (text). */
#define GRAPNEL_FIELD_CONTENT_TYPE UINT32_C(26)
/** Response topic (text). */
#define GRAPNEL_FIELD_RESPONSE_TOPIC UINT32_C(27)
/** Correlation data (bytes). */
#define GRAPNEL_FIELD_CORRELATION_DATA UINT32_C(28)
/** Message expiry interval, seconds. */
#define GRAPNEL_FIELD_MESSAGE_EXPIRY_S UINT32_C(29)
/** Payload format indicator (0, 1). */
#define GRAPNEL_FIELD_PAYLOAD_FORMAT UINT32_C(30)
/** User property by index (key and value). A set with index GRAPNEL_APPEND adds one, GRAPNEL_STATUS_FULL beyond
 *  `user_properties_max`; a set of `number` 1 removes it. */
#define GRAPNEL_FIELD_USER_PROPERTY UINT32_C(31)
/** Topic filter by index at subscribe and unsubscribe, the $share prefix included (text); the one of
 *  session.subscribed and session.unsubscribed. */
#define GRAPNEL_FIELD_FILTER UINT32_C(32)
/** Options byte of the topic filter by index, as section 3.8.3.1 has it. */
#define GRAPNEL_FIELD_FILTER_OPTIONS UINT32_C(33)
/** What happens to the message: 0 route it, 1 drop it and acknowledge, 2 reject it with REASON_CODE, 3 disconnect
 *  with REASON_CODE. At delivered: 1 vetoes the delivery. */
#define GRAPNEL_FIELD_DISPOSITION UINT32_C(34)
/** Client identifier of the publisher, where there is a message (text, read only). */
#define GRAPNEL_FIELD_FROM UINT32_C(35)
/** Name of the plugin's own instance as the operator wrote it (text, read only). */
#define GRAPNEL_FIELD_PLUGIN_NAME UINT32_C(36)
/** When the message came in, milliseconds since 1970. */
#define GRAPNEL_FIELD_TIMESTAMP_MS UINT32_C(37)
/** Protocol name as CONNECT has it (text). */
#define GRAPNEL_FIELD_PROTO_NAME UINT32_C(38)
/** Address the client came to (text, without the port). */
#define GRAPNEL_FIELD_SOCK_HOST UINT32_C(39)
/** Subject of the client's TLS certificate, as RFC 4514 writes it (text, read only). Fields of a certificate are
 *  there if the client has shown one that was verified. */
#define GRAPNEL_FIELD_TLS_SUBJECT UINT32_C(40)
/** What the listener puts in front of the client's topics (text). */
#define GRAPNEL_FIELD_MOUNTPOINT UINT32_C(41)
/** Whether nobody vouched for the client: neither a plugin nor its certificate (0, 1). */
#define GRAPNEL_FIELD_ANONYMOUS UINT32_C(42)
/** When the session was made, milliseconds since 1970. */
#define GRAPNEL_FIELD_SESSION_CREATED_AT_MS UINT32_C(43)
/** Whether the session outlives its connection (0, 1). */
#define GRAPNEL_FIELD_SESSION_PERSISTENT UINT32_C(44)
/** Subscriptions of the session. */
#define GRAPNEL_FIELD_SESSION_SUBSCRIPTIONS UINT32_C(45)
/** QoS 1 and 2 messages that were sent to the client and not acknowledged. */
#define GRAPNEL_FIELD_SESSION_INFLIGHT UINT32_C(46)
/** Messages that wait for the client. */
#define GRAPNEL_FIELD_SESSION_QUEUED UINT32_C(47)
/** QoS 2 messages of the client that wait for PUBREL. */
#define GRAPNEL_FIELD_SESSION_AWAITING_REL UINT32_C(48)
/** Subscription identifier, at subscribe and the session's subscription points. */
#define GRAPNEL_FIELD_SUBSCRIPTION_ID UINT32_C(49)
/** Name of the share group of a filter by index (text; absent where it is not shared). */
#define GRAPNEL_FIELD_SHARE_GROUP UINT32_C(50)
/** Whether the subscription was not there before (0, 1). */
#define GRAPNEL_FIELD_IS_NEW UINT32_C(51)
/** Why a message was dropped, or a session or subscription ended: one word, such as `queue_full` or `expired`
 *  (text). */
#define GRAPNEL_FIELD_CAUSE UINT32_C(52)
/** At message.dropped: `node`, or the client identifier of whom it was dropped for (text). */
#define GRAPNEL_FIELD_DROPPED_BY UINT32_C(53)
/** At message.retained: 1 set, 2 cleared, 3 expired. */
#define GRAPNEL_FIELD_RETAINED_CHANGE UINT32_C(54)
/** Type of the packet, 1 (CONNECT) to 15 (AUTH). */
#define GRAPNEL_FIELD_PACKET_TYPE UINT32_C(55)
/** Bytes of the whole packet. PAYLOAD has those of them that lie together: a shared payload of a packet that is sent
 *  is not among them. */
#define GRAPNEL_FIELD_PACKET_BYTES UINT32_C(56)
/** Whether the broker may remember the verdict for this session and topic (0, 1). Settable at authorize; 1 at first. */
#define GRAPNEL_FIELD_CACHEABLE UINT32_C(57)
/** Whether the message is the broker's own (0, 1). */
#define GRAPNEL_FIELD_SYS UINT32_C(58)
/** Maximum Packet Size of CONNECT, which may be changed; at connack the broker's, which may be lowered. */
#define GRAPNEL_FIELD_MAXIMUM_PACKET_SIZE UINT32_C(59)
/** Topic Alias Maximum of CONNECT, which may be changed; at connack the broker's, which may be lowered. */
#define GRAPNEL_FIELD_TOPIC_ALIAS_MAXIMUM UINT32_C(60)
/** Request Response Information of CONNECT (0, 1). */
#define GRAPNEL_FIELD_REQUEST_RESPONSE_INFO UINT32_C(61)
/** Request Problem Information of CONNECT (0, 1). */
#define GRAPNEL_FIELD_REQUEST_PROBLEM_INFO UINT32_C(62)
/** Response Information of CONNACK (text). */
#define GRAPNEL_FIELD_RESPONSE_INFO UINT32_C(63)
/** Server Reference of CONNACK (text). */
#define GRAPNEL_FIELD_SERVER_REFERENCE UINT32_C(64)
/** Session Present of CONNACK; at authenticate, whether there is a session under the client identifier (0, 1; read
 *  only). It is not there where the client is in already and authenticates anew. */
#define GRAPNEL_FIELD_SESSION_PRESENT UINT32_C(65)
/** Topic name of the will in CONNECT (text, read only). */
#define GRAPNEL_FIELD_WILL_TOPIC UINT32_C(66)
/** Payload of the will in CONNECT (bytes, read only). */
#define GRAPNEL_FIELD_WILL_PAYLOAD UINT32_C(67)
/** QoS of the will in CONNECT. */
#define GRAPNEL_FIELD_WILL_QOS UINT32_C(68)
/** Retain flag of the will in CONNECT (0, 1). */
#define GRAPNEL_FIELD_WILL_RETAIN UINT32_C(69)
/** Number of the message: no other one of this run of the broker has it. */
#define GRAPNEL_FIELD_MESSAGE_ID UINT32_C(70)
/** Client identifier that the broker gave, at connack (text, read only). */
#define GRAPNEL_FIELD_ASSIGNED_CLIENT_ID UINT32_C(71)
/** Version of the broker (text), at the broker's points. */
#define GRAPNEL_FIELD_BROKER_VERSION UINT32_C(72)
/** Milliseconds since the broker started, at the broker's points. */
#define GRAPNEL_FIELD_BROKER_UPTIME_MS UINT32_C(73)
/** Address of a listener by index (text), at the broker's points. */
#define GRAPNEL_FIELD_BROKER_LISTENER UINT32_C(74)
/** Number of filters at subscribe and unsubscribe. */
#define GRAPNEL_FIELD_FILTERS UINT32_C(75)
/** Number of user properties. */
#define GRAPNEL_FIELD_USER_PROPERTIES UINT32_C(76)
/** Number of the network connection: no other one of this run has it. The rounds of an authentication have it in
 *  common. */
#define GRAPNEL_FIELD_CONNECTION UINT32_C(77)
/** At authenticate, user name of whom the session under the client identifier belongs to (text, read only; absent
 *  where there is no session, or it is of a client without a user name). */
#define GRAPNEL_FIELD_SESSION_OWNER UINT32_C(78)
/** Number of the session: no other one of this run has it, and of two under one client identifier the later has the
 *  greater one. A session keeps it when another connection takes it over or resumes it. It is not there where the
 *  client has no session: in client.authorize before it is let in, and where it is refused. At client.connect and
 *  client.authenticate, for a client that is not in yet, it is that of the session under the client identifier,
 *  which may belong to somebody else and may end before the client is let in. */
#define GRAPNEL_FIELD_SESSION UINT32_C(79)
/** How the client has reached the broker: `tcp`, `tls`, `ws`, `wss` or `unix` (text, read only). It is not there for
 *  what is no client, such as a plugin that publishes. */
#define GRAPNEL_FIELD_TRANSPORT UINT32_C(80)
/** Version of the client's TLS connection, to the broker or to a proxy in front of it, such as `TLSv1.3` (text, read
 *  only). */
#define GRAPNEL_FIELD_TLS_VERSION UINT32_C(81)
/** Cipher suite of that connection, by its IANA name (text, read only). */
#define GRAPNEL_FIELD_TLS_CIPHER UINT32_C(82)
/** Server name that the client asked for in TLS (SNI; text, read only). */
#define GRAPNEL_FIELD_TLS_SERVER_NAME UINT32_C(83)
/** Last common name in the subject of the client's certificate (text, read only). */
#define GRAPNEL_FIELD_TLS_COMMON_NAME UINT32_C(84)
/** Subject alternative name of the client's certificate by index: `DNS:…`, `URI:…`, `email:…`, `IP:…` (text, read
 *  only). */
#define GRAPNEL_FIELD_TLS_ALTERNATIVE_NAME UINT32_C(85)
/** Number of subject alternative names (read only). It is not there without a certificate. */
#define GRAPNEL_FIELD_TLS_ALTERNATIVE_NAMES UINT32_C(86)
/** Issuer of the client's certificate, as RFC 4514 writes it (text, read only). */
#define GRAPNEL_FIELD_TLS_ISSUER UINT32_C(87)
/** Serial number of the client's certificate, hexadecimal in lower case (text, read only). */
#define GRAPNEL_FIELD_TLS_SERIAL UINT32_C(88)
/** SHA-256 of the client's certificate (DER), hexadecimal in lower case (text, read only). */
#define GRAPNEL_FIELD_TLS_FINGERPRINT UINT32_C(89)
/** Whether the listener took the user name from the client's certificate, which has authenticated the client (0, 1;
 *  read only). */
#define GRAPNEL_FIELD_USERNAME_CERTIFIED UINT32_C(90)
/** User name in CONNECT, at connect and authenticate (text, read only). It is another one than USERNAME where the
 *  listener takes the user name from the client's certificate. */
#define GRAPNEL_FIELD_CONNECT_USERNAME UINT32_C(91)

/** Whose authorisation is asked again. */
typedef uint32_t grapnel_scope;
/** Everybody's. */
#define GRAPNEL_SCOPE_ALL UINT32_C(0)
/** That of one client identifier. */
#define GRAPNEL_SCOPE_CLIENT UINT32_C(1)
/** That of one user name. */
#define GRAPNEL_SCOPE_USER UINT32_C(2)
/** That of topics which match a topic filter. */
#define GRAPNEL_SCOPE_TOPIC_FILTER UINT32_C(3)

/** What a metric of a plugin is. */
typedef uint32_t grapnel_metric_kind;
/** Only grows; `measure` adds. */
#define GRAPNEL_METRIC_KIND_COUNTER UINT32_C(0)
/** Goes up and down; `measure` sets. */
#define GRAPNEL_METRIC_KIND_GAUGE UINT32_C(1)
/** Counts values by size; `measure` counts one. */
#define GRAPNEL_METRIC_KIND_HISTOGRAM UINT32_C(2)

/** What a chain has answered, as GRAPNEL_FIELD_VERDICT has it. */
typedef uint32_t grapnel_verdict;
/** Nobody has answered. */
#define GRAPNEL_VERDICT_UNANSWERED UINT32_C(0)
/** Let in, allowed. */
#define GRAPNEL_VERDICT_ALLOW UINT32_C(1)
/** Refused, with GRAPNEL_FIELD_REASON_CODE. */
#define GRAPNEL_VERDICT_DENY UINT32_C(2)
/** At authenticate: another round, with GRAPNEL_FIELD_AUTH_DATA for the client. */
#define GRAPNEL_VERDICT_CHALLENGE UINT32_C(3)

/** What happens to a message, as GRAPNEL_FIELD_DISPOSITION has it. */
typedef uint32_t grapnel_disposition;
/** It goes on. */
#define GRAPNEL_DISPOSITION_ROUTE UINT32_C(0)
/** At publish: it is dropped, and acknowledged as if it had been routed. At delivered: this subscriber does not get
 *  it. */
#define GRAPNEL_DISPOSITION_DROP UINT32_C(1)
/** At publish: it is refused with GRAPNEL_FIELD_REASON_CODE. */
#define GRAPNEL_DISPOSITION_REJECT UINT32_C(2)
/** At publish: it is refused, and the connection is closed with GRAPNEL_FIELD_REASON_CODE. */
#define GRAPNEL_DISPOSITION_DISCONNECT UINT32_C(3)

/** What is authorised, as grapnel_event.action and GRAPNEL_FIELD_ACTION have it. */
typedef uint32_t grapnel_action;
/** Publishing to a topic name. */
#define GRAPNEL_ACTION_PUBLISH UINT32_C(1)
/** Subscribing to a topic filter. */
#define GRAPNEL_ACTION_SUBSCRIBE UINT32_C(2)
/** Receiving a message of a topic name. */
#define GRAPNEL_ACTION_DELIVER UINT32_C(3)
/** Leaving a will for a topic name. */
#define GRAPNEL_ACTION_WILL UINT32_C(4)

/** How important a line of the log is. */
typedef uint32_t grapnel_log_level;
/** Something failed. */
#define GRAPNEL_LOG_LEVEL_ERROR UINT32_C(1)
/** Something is wrong, and work goes on. */
#define GRAPNEL_LOG_LEVEL_WARN UINT32_C(2)
/** Something worth knowing happened. */
#define GRAPNEL_LOG_LEVEL_INFO UINT32_C(3)
/** For the plugin's developers. */
#define GRAPNEL_LOG_LEVEL_DEBUG UINT32_C(4)
/** For the plugin's developers, in full. */
#define GRAPNEL_LOG_LEVEL_TRACE UINT32_C(5)

/** What a fault or a missed deadline of a hook means, as grapnel_mount.policy has it. */
typedef uint32_t grapnel_policy;
/** What the hook point says. */
#define GRAPNEL_POLICY_DEFAULT UINT32_C(0)
/** Stop with a refusal: nobody after it can allow. */
#define GRAPNEL_POLICY_DENY UINT32_C(1)
/** As if the hook had not been there. */
#define GRAPNEL_POLICY_IGNORE UINT32_C(2)

/** What an instance is asked to do about the pieces of its state. */
typedef uint32_t grapnel_export_step;
/** Write the first piece of all that there is, and note from now on what changes behind what has been written. What
 *  was noted before is forgotten. */
#define GRAPNEL_EXPORT_STEP_BEGIN UINT32_C(1)
/** Write the next piece: what comes after the last one, or what has changed since it was written. */
#define GRAPNEL_EXPORT_STEP_NEXT UINT32_C(2)
/** Write nothing: who takes over holds the same at this moment. Note from now on what changes; NEXT asks for it. */
#define GRAPNEL_EXPORT_STEP_FOLLOW UINT32_C(3)
/** Write nothing: no piece is asked for any more. Forget what was noted. */
#define GRAPNEL_EXPORT_STEP_END UINT32_C(4)

/** Index that appends in a set of an indexed field. */
#define GRAPNEL_APPEND UINT32_MAX

/** Bit of grapnel_host_api.flags: the plugin was loaded by the start of the broker, which has not started yet;
 *  broker.started is still to come. */
#define GRAPNEL_HOST_STARTING UINT32_C(1)

/** Bit that grapnel_host_api.hook_calls gives: the shard calls the hook from now on. */
#define GRAPNEL_HOOK_CALLED UINT32_C(1)

/** Bit that grapnel_host_api.hook_calls gives: the shard called the hook before the change. */
#define GRAPNEL_HOOK_WAS_CALLED UINT32_C(2)

/** Bit of grapnel_event.flags: the message is retained, or the client asks for retain. */
#define GRAPNEL_FLAG_RETAIN UINT32_C(1)

/** Bit of grapnel_event.flags: DUP of the packet. */
#define GRAPNEL_FLAG_DUP UINT32_C(2)

/** Bit of grapnel_event.flags: the client is a superuser. */
#define GRAPNEL_FLAG_SUPERUSER UINT32_C(4)

/** Bit of grapnel_event.flags: the client gave a user name. */
#define GRAPNEL_FLAG_HAS_USERNAME UINT32_C(8)

/** Bit of grapnel_event.flags: the client gave a password. */
#define GRAPNEL_FLAG_HAS_PASSWORD UINT32_C(16)

/** Bit of grapnel_event.flags: the event tells of what was there before the plugin; it asked for it with `replay`. */
#define GRAPNEL_FLAG_REPLAY UINT32_C(32)

/** Bit of grapnel_event.flags: the message is the broker's own. */
#define GRAPNEL_FLAG_SYS UINT32_C(64)

/** Bit of grapnel_event.flags: at message.publish, the message is a client's will. */
#define GRAPNEL_FLAG_WILL UINT32_C(128)

/** Bit of grapnel_mount.flags: at client.authorize, asks for action `deliver` too. */
#define GRAPNEL_MOUNT_DELIVER UINT32_C(1)

/** Bit of grapnel_manifest.flags: the library may be unmapped once it is proven quiet. */
#define GRAPNEL_MANIFEST_CLOSABLE UINT32_C(1)

/** Bit of grapnel_manifest.flags: the plugin may be loaded again over the code that is mapped, also while an older
 *  load of it still runs. Nothing that belongs to one load is in a static or in a thread-local of the library: its
 *  host table, its configuration and its threads are reached from what `load` and `init_shard` gave. */
#define GRAPNEL_MANIFEST_IN_PLACE UINT32_C(2)

/** Every shard, as the addressee of instance messages. */
#define GRAPNEL_ALL_SHARDS UINT32_MAX

/** The broker, as the sender of instance messages: what became of a request on behalf of a client. The message's
 *  number is the request's, its one byte a reason code; a page of retained messages has more bytes, of which the
 *  first is 0. */
#define GRAPNEL_FROM_BROKER UINT32_C(4294967294)

/** Bytes that a client's identity has at most. */
#define GRAPNEL_IDENTITY_BYTES_MAX UINT32_C(65536)

/** Bit of grapnel_on_behalf.flags: the plugin is notified by an instance message what became of it. */
#define GRAPNEL_BEHALF_ANSWER UINT32_C(1)

/** In grapnel_new_message.flags: the message has a content type, though it is empty. */
#define GRAPNEL_MESSAGE_HAS_CONTENT_TYPE UINT32_C(1)

/** In grapnel_new_message.flags: the message has correlation data, though they are empty. */
#define GRAPNEL_MESSAGE_HAS_CORRELATION_DATA UINT32_C(2)

/** What every hook reads, at hand without a call; the rest is asked of the host by grapnel_field. */
struct grapnel_event {
    /** Bytes of this struct as the host built it; a field beyond is absent. */
    uint32_t size;
    /** Number of the hook point. */
    uint16_t point;
    /** Protocol level of the client: 3, 4, 5, or 0 where there is none. */
    uint8_t proto_ver;
    /** Quality of service of message or request. */
    uint8_t qos;
    /** GRAPNEL_FLAG_… bits. */
    uint32_t flags;
    /** The shard this runs on. */
    uint32_t shard;
    /** What is authorised, as GRAPNEL_FIELD_ACTION; at packet.received and packet.sent the packet's type. */
    uint8_t action;
    /** Reason code of client.disconnected. */
    uint8_t reason_code;
    /** Zero. */
    uint16_t reserved;
    /** Zero. */
    uint32_t reserved2;
    /** Wall clock of the event, milliseconds since 1970. */
    uint64_t wall_ms;
    /** Client the event is about. */
    grapnel_slice client_id;
    /** Its user name. */
    grapnel_slice username;
    /** Topic name, or topic filter at authorize for subscribe. */
    grapnel_slice topic;
    /** Payload of the message; at packet.received and packet.sent the packet. */
    grapnel_slice payload;
    /** The host's own; handed back to it in `get`, `set`, `defer` and `add_message`. */
    void *ctx;
    /** What the hook was mounted with. */
    void *args;
};

/** A field's value as the host gives it: a number, or one or two views. */
struct grapnel_value {
    /** The number, or 0. */
    uint64_t number;
    /** The text or bytes, or the value of a pair. */
    grapnel_slice bytes;
    /** The key of a pair. */
    grapnel_slice key;
};

/** One change of an accumulator. Copied by the host during the call. */
struct grapnel_change {
    /** Which field. */
    grapnel_field field;
    /** Which of several; 0 where there is one; GRAPNEL_APPEND adds. */
    uint32_t index;
    /** The new number. */
    uint64_t number;
    /** The new text or bytes, or the value of a pair. */
    grapnel_slice bytes;
    /** The key of a pair. */
    grapnel_slice key;
};

/** Handle of a deferred verdict. Never 0. */
typedef uint64_t grapnel_ticket;

/** Key and value of a user property, or of an argument of a verb. Text. */
struct grapnel_pair {
    /** The key. */
    grapnel_slice key;
    /** The value. */
    grapnel_slice value;
};

/** A message that a plugin publishes. Copied by the host during the call. */
struct grapnel_new_message {
    /** Bytes of this struct as the plugin was built with it. */
    uint32_t size;
    /** Quality of service, 0 to 2. */
    uint8_t qos;
    /** Retain flag (0, 1). */
    uint8_t retain;
    /** Payload format indicator: 0, 1, or 255 for none. */
    uint8_t payload_format;
    /** Whether it is only stored, with `retain`, and goes to no subscriber (0, 1). */
    uint8_t store_only;
    /** Message expiry interval, seconds; 0 for none. */
    uint32_t message_expiry_s;
    /** The flow that the message is counted in, a number of the plugin's choice; 0 for none. See
     *  grapnel_host_api.in_flight. */
    uint32_t flow;
    /** Topic name. */
    grapnel_slice topic;
    /** Payload. */
    grapnel_slice payload;
    /** Content type; empty for none, unless `flags` says otherwise. */
    grapnel_slice content_type;
    /** Response topic; empty for none. */
    grapnel_slice response_topic;
    /** Correlation data; empty for none, unless `flags` says otherwise. */
    grapnel_slice correlation_data;
    /** Client identifier it is said to come from; empty for the plugin's name. */
    grapnel_slice from;
    /** User properties. */
    const grapnel_pair *user_properties;
    /** How many. */
    size_t user_properties_len;
    /** GRAPNEL_MESSAGE_HAS_… bits, for properties that are there and empty. What is not empty is there without its
     *  bit. */
    uint32_t flags;
    /** Zero. */
    uint32_t reserved;
};

/** For whom a plugin asks for something, and whether it is told what became of it. Copied by the host during the
 *  call.
 *
 *  Whoever it is, client.authorize is asked as for the client's own packet: with the client as its session knows it,
 *  where one of the same user name is there, otherwise with what `identity` says. */
struct grapnel_on_behalf {
    /** Bytes of this struct as the plugin was built with it. */
    uint32_t size;
    /** GRAPNEL_BEHALF_… bits. */
    uint32_t flags;
    /** What `identity` of the host wrote. Empty stands for whoever has `client_id` when it is done. */
    grapnel_slice identity;
    /** Client identifier, where there is no identity; refused with 0x85 where no session has it. */
    grapnel_slice client_id;
    /** Comes back as the number of the message that tells what became of it. */
    uint64_t number;
};

/** A metric that a plugin wants to have in `/metrics`. Copied by the host during the call. */
struct grapnel_new_metric {
    /** Bytes of this struct as the plugin was built with it. */
    uint32_t size;
    /** What it is. */
    grapnel_metric_kind kind;
    /** Its name within the plugin, with its unit: lower case letters, digits and `_`. */
    grapnel_slice name;
    /** One line on what it counts. */
    grapnel_slice help;
    /** Upper bounds of a histogram's buckets, growing; null for 1, 2, 5, 10 … 1,000,000,000. */
    const int64_t *bounds;
    /** How many, at most 64. */
    size_t bounds_len;
};

/** A thread that the broker starts for a plugin and joins at its end. */
struct grapnel_new_thread {
    /** Bytes of this struct as the plugin was built with it. */
    uint32_t size;
    /** Zero. */
    uint32_t reserved;
    /** Its name, for tools that show threads; the first 15 bytes are seen. */
    grapnel_slice name;
    /** Its body. */
    void (*run)(void *arg);
    /** Handed to the body. */
    void *arg;
    /** How long it may take to end once `wait_stop` has answered 1, milliseconds, where it has something to bring to
     *  its end; 0 is the operator's `plugin_thread_join_ms`, and `plugin_retire_ms_max` is the most. Until then all
     *  host functions answer it as before, but for those that begin something: another thread, a hook. */
    uint64_t join_ms;
};

/** Where an instance writes its state, or a verb its answer, lent by the host for the call. */
struct grapnel_state_sink {
    /** The host's own. */
    void *ctx;
    /** Takes the next bytes; GRAPNEL_STATUS_FULL beyond what the call may write. */
    grapnel_status (*write)(void *ctx, grapnel_slice bytes);
};

/** A hook. Runs on the shard's thread with that shard's instance; must not block. */
typedef grapnel_flow (*grapnel_hook_fn)(void *instance, const grapnel_event *event);

/** What the broker offers a plugin. One for each loaded plugin; never freed. A field beyond `size` does not exist.
 *
 *  `get`, `set`, `defer`, `add_message` and `identity` are for the running hook, on its thread, with its `ctx`. All
 *  others may be called from any thread from `load` on until the plugin's end and later, when they answer
 *  GRAPNEL_STATUS_STALE; those that act (`publish`, `kick`, `subscribe`, `unsubscribe`, `invalidate`,
 *  `instance_message`, and those whose names end in `_as`) are copied and run after the current event has ended. */
struct grapnel_host_api {
    /** Bytes of this struct as the host built it. */
    uint32_t size;
    /** GRAPNEL_ABI_MAJOR of the host. */
    uint16_t abi_major;
    /** GRAPNEL_ABI_MINOR of the host. */
    uint16_t abi_minor;
    /** The plugin's handle. The lower half is the same for all loads under one name, and another one for each name;
     *  the upper half counts the loads. The first argument of what is not for the running hook. */
    uint64_t plugin;
    /** How many shards there are. */
    uint32_t shards;
    /** Bits: GRAPNEL_HOST_STARTING; as it was when the plugin was loaded. */
    uint32_t flags;
    /** Writes a line to the broker's log under the plugin's name. `level` is a grapnel_log_level. Any thread. */
    void (*log)(uint64_t plugin, uint32_t level, grapnel_slice message);
    /** Reads a field of the event. In the hook alone, with its `ctx`. */
    grapnel_status (*get)(void *ctx, grapnel_field field, uint32_t index, grapnel_value *out);
    /** Changes the accumulator; copied at once, kept on Continue and Stop, thrown away on Fault. In the hook alone. */
    grapnel_status (*set)(void *ctx, const grapnel_change *change);
    /** Takes a ticket; the hook then returns GRAPNEL_FLOW_DEFER. `deadline_ms` 0 means the operator's default. In
     *  the hook alone. */
    grapnel_status (*defer)(void *ctx, uint32_t deadline_ms, grapnel_ticket *out);
    /** Ends a deferred verdict with CONTINUE, STOP, FAULT or UNANSWERED and the changes. GRAPNEL_STATUS_FULL, and
     *  the ticket stays open, for more or longer changes than any packet can need: none of them is taken. Any
     *  thread, once. */
    grapnel_status (*complete)(grapnel_ticket ticket, grapnel_flow flow, const grapnel_change *changes, size_t count);
    /** At message.publish: another message, published after this one if this one is, and before its acknowledgement.
     *  In the hook alone; GRAPNEL_STATUS_FULL beyond `extra_messages_max`. */
    grapnel_status (*add_message)(void *ctx, const grapnel_new_message *message);
    /** Mounts a function at run time; every shard calls it from its next turn on. GRAPNEL_STATUS_INVALID where the
     *  function is mounted there already, or the mount is wrong. Any thread. */
    grapnel_status (*hook)(uint64_t plugin, const grapnel_mount *mount, uint64_t *out);
    /** Takes what `hook` gave out of the chains. Any thread. */
    grapnel_status (*unhook)(uint64_t plugin, uint64_t hook);
    /** Publishes a message of the plugin's own: nobody authorises it. It runs through the chains of all plugins but
     *  those that led to it. What a client asked for is published with `publish_as`. Any thread; GRAPNEL_STATUS_FULL
     *  beyond `plugin_publishes_per_second_max`. */
    grapnel_status (*publish)(uint64_t plugin, const grapnel_new_message *message);
    /** Disconnects a client with a reason code; `discard` 1 ends its session too. Any thread. */
    grapnel_status (*kick)(uint64_t plugin, grapnel_slice client_id, uint32_t reason, uint32_t discard);
    /** Subscribes a client to a topic filter, with an options byte (section 3.8.3.1) and a subscription identifier
     *  or 0. Neither client.subscribe nor client.authorize is asked. Any thread. */
    grapnel_status (*subscribe)(uint64_t plugin, grapnel_slice client_id, grapnel_slice filter, uint32_t options, uint32_t subscription_id);
    /** Takes a subscription from a client. Any thread. */
    grapnel_status (*unsubscribe)(uint64_t plugin, grapnel_slice client_id, grapnel_slice filter);
    /** Forgets remembered verdicts of client.authorize and asks again for the subscriptions in force. Any thread. */
    grapnel_status (*invalidate)(uint64_t plugin, grapnel_scope scope, grapnel_slice what);
    /** Sends bytes to the plugin's instance on a shard, or with GRAPNEL_ALL_SHARDS to all: its
     *  `on_instance_message`. Any thread; GRAPNEL_STATUS_FULL beyond `mail_bytes_max`. */
    grapnel_status (*instance_message)(uint64_t plugin, uint32_t to_shard, uint64_t number, grapnel_slice bytes);
    /** Calls `on_timer` of the shard's instance once, after at least this time. On a shard's thread alone. */
    grapnel_status (*timer)(uint64_t plugin, uint64_t after_ms, uint64_t number, uint64_t *out);
    /** Cancels a timer of this shard. On a shard's thread alone. */
    grapnel_status (*cancel_timer)(uint64_t plugin, uint64_t timer);
    /** Starts a thread that the broker joins when the plugin ends. It must end soon after `wait_stop` has answered
     *  1, or within grapnel_new_thread.join_ms. Any thread. */
    grapnel_status (*spawn)(uint64_t plugin, const grapnel_new_thread *thread);
    /** Waits until the plugin is to end, for at most this time; 1 if it is. Not on a shard's thread, unless the time
     *  is 0. */
    uint32_t (*wait_stop)(uint64_t plugin, uint32_t timeout_ms);
    /** Makes a metric, or finds the one that an earlier version of the plugin made. Any thread. */
    grapnel_status (*metric)(uint64_t plugin, const grapnel_new_metric *metric, uint64_t *out);
    /** A counter grows by the value, a gauge becomes it, a histogram counts it. Any thread. */
    grapnel_status (*measure)(uint64_t metric, int64_t value);
    /** A gauge grows by the value, which may be negative. Any thread. */
    grapnel_status (*adjust)(uint64_t metric, int64_t by);
    /** Tells this plugin alone of the sessions and subscriptions that are there, once per shard: client.connected,
     *  session.created and session.subscribed with GRAPNEL_FLAG_REPLAY. Any thread, once. */
    grapnel_status (*replay)(uint64_t plugin);
    /** The file that the plugin was loaded from: its absolute path, any bytes but zero, for what lies beside it.
     *  Empty where there is none. It stays for ever. */
    grapnel_slice file;
    /** How many messages the broker still holds of those that were published with this number in
     *  grapnel_new_message.flow: they wait for their turn, or for a client to acknowledge them or to come back. One
     *  that was delivered with QoS 0, dropped, or that nobody subscribes to is held no more; a retained one is as
     *  long as it is retained. Those of `add_message` are not counted. Each generation of a plugin counts its own.
     *  Any thread. */
    grapnel_status (*in_flight)(uint64_t plugin, uint32_t flow, uint64_t *out);
    /** Writes who the event's client is into `buffer`, which has `capacity` bytes, and their number into `len`: at
     *  most GRAPNEL_IDENTITY_BYTES_MAX. The bytes mean nothing to the plugin, and may be kept and handed to its next
     *  version. In the hook alone; GRAPNEL_STATUS_FULL where there is too little room, with the number of bytes that
     *  it takes, or 0 where no identity may be so long; GRAPNEL_STATUS_UNSUPPORTED at points before the client is
     *  in, and where there is no client. */
    grapnel_status (*identity)(void *ctx, uint8_t *buffer, size_t capacity, size_t *len);
    /** Publishes a message on behalf of a client, whose identifier it bears. client.authorize is asked, and what the
     *  client's own PUBLISH must obey holds: a refused one has no effect and is counted. It keeps its place among
     *  what the plugin publishes, on the client's shard. Any thread; GRAPNEL_STATUS_INVALID for bytes that are no
     *  identity, GRAPNEL_STATUS_FULL beyond `plugin_publishes_per_second_max`. */
    grapnel_status (*publish_as)(uint64_t plugin, const grapnel_on_behalf *behalf, const grapnel_new_message *message);
    /** Subscribes a client as `subscribe` does, if client.authorize allows it, and if the session under its
     *  identifier is still of the same user name. Any thread. */
    grapnel_status (*subscribe_as)(uint64_t plugin, const grapnel_on_behalf *behalf, grapnel_slice filter, uint32_t options, uint32_t subscription_id);
    /** Takes a subscription from a client, if the session under its identifier is still of the same user name. Any
     *  thread. */
    grapnel_status (*unsubscribe_as)(uint64_t plugin, const grapnel_on_behalf *behalf, grapnel_slice filter);
    /** Asks client.authorize whether a client may publish to a topic, subscribe to a filter or get a message of a
     *  topic, for what the plugin keeps itself; the answer comes as an instance message from GRAPNEL_FROM_BROKER,
     *  whatever the flags say. `qos` is 0 to 2. Any thread. */
    grapnel_status (*authorize_as)(uint64_t plugin, const grapnel_on_behalf *behalf, grapnel_action action, grapnel_slice topic, uint32_t qos, uint32_t retain);
    /** Reads a page of the retained messages that a client would get with a subscription to a filter with this
     *  `qos`, 0 to 2, if client.authorize lets it subscribe; where hooks are mounted for deliveries, each message is
     *  authorized too, and left out where the client may not have it. Hooks at client.subscribe and
     *  message.delivered are not called. `place` is empty for the first page, and else what the page before has
     *  said. The page has at most `messages_max` messages and `bytes_max` bytes of them, both from 1 and no more
     *  than the broker's `behalf_page_messages_max` and `behalf_page_bytes_max`; its first message may have more
     *  where nothing else waits for the client. It comes as an instance message from GRAPNEL_FROM_BROKER, whatever
     *  the flags say; its bytes are described in ABI.md, and a refusal is the one byte of its code. Any thread;
     *  GRAPNEL_STATUS_INVALID for a filter that cannot be or is a shared subscription's, for numbers out of their
     *  range, and for bytes that are no place. */
    grapnel_status (*fetch_as)(uint64_t plugin, const grapnel_on_behalf *behalf, grapnel_slice filter, uint32_t qos, grapnel_slice place, uint32_t messages_max, uint32_t bytes_max);
    /** What a metric has now: the value of a counter or gauge, with `bucket` 0; of a histogram how many values are
     *  in the bucket of this number, of which the last one has those above all bounds. GRAPNEL_STATUS_ABSENT beyond
     *  the last bucket. Any thread. */
    grapnel_status (*reading)(uint64_t metric, uint32_t bucket, int64_t *out);
    /** Which calls of the plugin's hook of this name at this hook point the shard makes, as bits:
     *  GRAPNEL_HOOK_CALLED if it calls the hook from now on, GRAPNEL_HOOK_WAS_CALLED if it did before the change
     *  that `configured` is about. Without such a change both are the same. A hook is not called if the operator has
     *  unmounted it, if the plugin is disabled or tripped, or if there is none of that name. In an instance that has
     *  taken a state over, the second bit is about the version before. In `configured` alone;
     *  GRAPNEL_STATUS_WRONG_MOMENT elsewhere. */
    grapnel_status (*hook_calls)(uint64_t plugin, uint32_t point, grapnel_slice name, uint32_t *out);
};

/** Number of a hook point. */
typedef uint16_t grapnel_point;
/** client.connect: A CONNECT was read; nothing is decided yet. Links may change its event; a fault is ignored. */
#define GRAPNEL_POINT_CLIENT_CONNECT 0
/** client.authenticate: Decides whether a client may connect. Links may change its event; a fault denies. */
#define GRAPNEL_POINT_CLIENT_AUTHENTICATE 1
/** client.authorize: Decides whether a client may publish, subscribe, leave a will, or receive a message. Links may
 *  change its event; a fault denies. */
#define GRAPNEL_POINT_CLIENT_AUTHORIZE 2
/** client.connack: A CONNACK is about to be sent, with success or with a refusal. Links may change its event; a
 *  fault is ignored. */
#define GRAPNEL_POINT_CLIENT_CONNACK 3
/** client.connected: A CONNACK with success has been queued for sending. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_CLIENT_CONNECTED 4
/** client.disconnected: The connection of a client that was connected is about to close. Links observe only; a fault
 *  is ignored. */
#define GRAPNEL_POINT_CLIENT_DISCONNECTED 5
/** client.subscribe: A SUBSCRIBE was read; its filters may be changed or refused. Links may change its event; a
 *  fault denies. */
#define GRAPNEL_POINT_CLIENT_SUBSCRIBE 6
/** client.unsubscribe: An UNSUBSCRIBE was read; its filters may be changed or refused. Links may change its event; a
 *  fault is ignored. */
#define GRAPNEL_POINT_CLIENT_UNSUBSCRIBE 7
/** session.created: A session was created. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_SESSION_CREATED 8
/** session.resumed: A client resumed its stored session. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_SESSION_RESUMED 9
/** session.discarded: A CONNECT with clean start, or of another user, discarded a session. Links observe only; a
 *  fault is ignored. */
#define GRAPNEL_POINT_SESSION_DISCARDED 10
/** session.takenover: A new connection took over a session from an open connection. Links observe only; a fault is
 *  ignored. */
#define GRAPNEL_POINT_SESSION_TAKENOVER 11
/** session.terminated: A session ended, other than by being discarded. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_SESSION_TERMINATED 12
/** session.subscribed: A subscription has taken effect. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_SESSION_SUBSCRIBED 13
/** session.unsubscribed: A subscription was removed. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_SESSION_UNSUBSCRIBED 14
/** message.publish: A message was received and is not routed yet. Links may change its event; a fault is ignored. */
#define GRAPNEL_POINT_MESSAGE_PUBLISH 15
/** message.delivered: A message is about to be encoded for one subscriber. Links may change its event; a fault is
 *  ignored. */
#define GRAPNEL_POINT_MESSAGE_DELIVERED 16
/** message.acked: A subscriber acknowledged a message. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_MESSAGE_ACKED 17
/** message.dropped: A message was dropped, for one subscriber or for all. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_MESSAGE_DROPPED 18
/** message.retained: A retained message was set, was cleared, or has expired. Links observe only; a fault is
 *  ignored. */
#define GRAPNEL_POINT_MESSAGE_RETAINED 19
/** packet.received: A packet of a client was read. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_PACKET_RECEIVED 20
/** packet.sent: A packet was queued for sending to a client. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_PACKET_SENT 21
/** broker.starting: The plugins are loaded, and no listener is open yet. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_BROKER_STARTING 22
/** broker.started: The broker accepts connections. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_BROKER_STARTED 23
/** broker.stopping: The broker has begun to stop. Links observe only; a fault is ignored. */
#define GRAPNEL_POINT_BROKER_STOPPING 24
/** broker.stopped: The connections are closed, and the plugins are not unloaded yet. Links observe only; a fault is
 *  ignored. */
#define GRAPNEL_POINT_BROKER_STOPPED 25

/** Calls X(number, name, may_change, may_defer) for each hook point, in the order of the numbers: its
 *  GRAPNEL_POINT_…, its name as text, whether links may change its event, and whether they may answer later. */
#define GRAPNEL_FOR_EACH_POINT(X) \
    X(GRAPNEL_POINT_CLIENT_CONNECT, "client.connect", true, true) \
    X(GRAPNEL_POINT_CLIENT_AUTHENTICATE, "client.authenticate", true, true) \
    X(GRAPNEL_POINT_CLIENT_AUTHORIZE, "client.authorize", true, true) \
    X(GRAPNEL_POINT_CLIENT_CONNACK, "client.connack", true, false) \
    X(GRAPNEL_POINT_CLIENT_CONNECTED, "client.connected", false, false) \
    X(GRAPNEL_POINT_CLIENT_DISCONNECTED, "client.disconnected", false, false) \
    X(GRAPNEL_POINT_CLIENT_SUBSCRIBE, "client.subscribe", true, true) \
    X(GRAPNEL_POINT_CLIENT_UNSUBSCRIBE, "client.unsubscribe", true, true) \
    X(GRAPNEL_POINT_SESSION_CREATED, "session.created", false, false) \
    X(GRAPNEL_POINT_SESSION_RESUMED, "session.resumed", false, false) \
    X(GRAPNEL_POINT_SESSION_DISCARDED, "session.discarded", false, false) \
    X(GRAPNEL_POINT_SESSION_TAKENOVER, "session.takenover", false, false) \
    X(GRAPNEL_POINT_SESSION_TERMINATED, "session.terminated", false, false) \
    X(GRAPNEL_POINT_SESSION_SUBSCRIBED, "session.subscribed", false, false) \
    X(GRAPNEL_POINT_SESSION_UNSUBSCRIBED, "session.unsubscribed", false, false) \
    X(GRAPNEL_POINT_MESSAGE_PUBLISH, "message.publish", true, true) \
    X(GRAPNEL_POINT_MESSAGE_DELIVERED, "message.delivered", true, false) \
    X(GRAPNEL_POINT_MESSAGE_ACKED, "message.acked", false, false) \
    X(GRAPNEL_POINT_MESSAGE_DROPPED, "message.dropped", false, false) \
    X(GRAPNEL_POINT_MESSAGE_RETAINED, "message.retained", false, false) \
    X(GRAPNEL_POINT_PACKET_RECEIVED, "packet.received", false, false) \
    X(GRAPNEL_POINT_PACKET_SENT, "packet.sent", false, false) \
    X(GRAPNEL_POINT_BROKER_STARTING, "broker.starting", false, false) \
    X(GRAPNEL_POINT_BROKER_STARTED, "broker.started", false, false) \
    X(GRAPNEL_POINT_BROKER_STOPPING, "broker.stopping", false, false) \
    X(GRAPNEL_POINT_BROKER_STOPPED, "broker.stopped", false, false)

/** Room for one sentence that says why a function failed, lent by the host for the call. */
struct grapnel_error_text {
    /** Where the text goes. */
    uint8_t *ptr;
    /** Bytes there are at `ptr`. */
    size_t capacity;
    /** Bytes that were written; UTF-8. */
    size_t len;
};

/** Who a plugin is. The views are valid while its code is mapped. */
struct grapnel_manifest {
    /** Bytes of this struct; set by the host to what it has room for, by the plugin to what it wrote. */
    uint32_t size;
    /** Zero. */
    uint32_t reserved;
    /** Name the plugin goes by where the operator gives none: letters, digits, `-` and `_`. */
    grapnel_slice name;
    /** Its version, for people. */
    grapnel_slice version;
    /** One line on what it does. */
    grapnel_slice description;
    /** What it was built with, for people, such as `grapnel-plugin-abi 1.0.0`. */
    grapnel_slice sdk;
    /** GRAPNEL_MANIFEST_… bits. */
    uint32_t flags;
    /** Zero. */
    uint32_t reserved2;
    /** JSON Schema of the configuration; empty for none. */
    grapnel_slice config_schema;
    /** Names of plugins that must be loaded before this one. */
    const grapnel_slice *depends;
    /** How many. */
    size_t depends_len;
    /** The verbs that the plugin adds to `grapnel-ctl`, a JSON array as ABI.md describes it; empty for none. */
    grapnel_slice verbs;
};

/** One function of a plugin and where it wants to be called. */
struct grapnel_mount {
    /** Bytes of this struct; set by the host to what it has room for, by the plugin to what it wrote. */
    uint32_t size;
    /** Number of the hook point. */
    uint16_t point;
    /** Zero. */
    uint16_t reserved;
    /** Higher runs earlier, equal ones in order of mounting; the operator may override it. */
    int32_t priority;
    /** How long a deferred verdict may take, milliseconds; 0 for the operator's default. */
    uint32_t deadline_ms;
    /** The function, a grapnel_hook_fn; a null pointer is refused. */
    grapnel_flow (*hook)(void *instance, const grapnel_event *event);
    /** Name of the hook within the plugin; it stays the same through versions. */
    grapnel_slice name;
    /** GRAPNEL_MOUNT_… bits. */
    uint32_t flags;
    /** What a fault or a missed deadline means: a grapnel_policy. The operator may override it. */
    uint32_t policy;
    /** At the points about a message: only topics that match one of these filters. None for all. */
    const grapnel_slice *topics;
    /** How many. */
    size_t topics_len;
    /** Comes back in grapnel_event.args. */
    void *args;
};

/** The functions of a plugin. None of them may unwind; `error` is written where the answer is not GRAPNEL_STATUS_OK.
 *  On a shard's thread are called: the hooks and all that take an `instance` or a `shard`. Of the others one at a
 *  time, never on a shard; only `verb` is called beside them. */
struct grapnel_plugin_module {
    /** Bytes of this struct as the plugin was built with it. */
    uint32_t size;
    /** GRAPNEL_ABI_MAJOR the plugin was built with. */
    uint16_t abi_major;
    /** GRAPNEL_ABI_MINOR the plugin was built with. */
    uint16_t abi_minor;
    /** GRAPNEL_ABI_HASH the plugin was built with: two builds of one ABI version have the same. */
    uint64_t abi_hash;
    /** Says who the plugin is. */
    grapnel_status (*manifest)(grapnel_manifest *out);
    /** Lists the hooks: index 0, 1, … until GRAPNEL_STATUS_ABSENT. */
    grapnel_status (*mount)(uint32_t index, grapnel_mount *out);
    /** Reads a configuration (a JSON object) and says what is wrong with it, without starting anything. */
    grapnel_status (*check_config)(grapnel_slice config, grapnel_error_text *error);
    /** Makes the shared part. Must tolerate an older version of itself that still runs. `host` is never freed. */
    grapnel_status (*load)(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error);
    /** Makes the instance of one shard, on its thread. No I/O. */
    grapnel_status (*init_shard)(void *plugin, uint32_t shard, void **out, grapnel_error_text *error);
    /** Destroys an instance, on its shard's thread, after it has left every chain. */
    void (*drop_shard)(void *instance);
    /** Every shard calls the hooks now: exclusive resources are taken here. */
    grapnel_status (*activate)(void *plugin, grapnel_error_text *error);
    /** No shard calls the hooks any more: exclusive resources are given back here. */
    void (*deactivate)(void *plugin);
    /** Destroys the shared part, after the last instance. */
    void (*unload)(void *plugin);
    /** A timer that the instance armed is due. */
    void (*on_timer)(void *instance, uint64_t timer, uint64_t number);
    /** An instance message from a shard of the plugin, from one of its threads (GRAPNEL_ALL_SHARDS), or from the
     *  broker (GRAPNEL_FROM_BROKER): what became of a request on behalf of a client. */
    void (*on_instance_message)(void *instance, uint32_t from_shard, uint64_t number, grapnel_slice bytes);
    /** Writes the instance's state for the version that replaces it, and goes on as before.
     *  GRAPNEL_STATUS_UNSUPPORTED where there is none. */
    grapnel_status (*export_state)(void *instance, const grapnel_state_sink *out, grapnel_error_text *error);
    /** Takes over what the version before wrote; may be called again with newer bytes, which replace what came
     *  before. GRAPNEL_STATUS_UNSUPPORTED where none is wanted. */
    grapnel_status (*import_state)(void *instance, grapnel_slice state, grapnel_error_text *error);
    /** Takes a new configuration into the running plugin; GRAPNEL_STATUS_UNSUPPORTED asks for a reload instead. */
    grapnel_status (*configure)(void *plugin, grapnel_slice config, grapnel_error_text *error);
    /** After `configure`, and where other hooks about the life of connections and sessions are called than before,
     *  so that events were or will be missed: the instance looks at the shared part again. */
    void (*configured)(void *instance);
    /** Writes a piece of the instance's state, at most `bytes_max` bytes, while the instance goes on serving between
     *  two pieces. GRAPNEL_STATUS_OK where more is to come, GRAPNEL_STATUS_ABSENT where what was written (nothing,
     *  it may be) was the rest for now, GRAPNEL_STATUS_UNSUPPORTED at GRAPNEL_EXPORT_STEP_BEGIN where `export_state`
     *  is to be asked instead. A null pointer means the same. */
    grapnel_status (*export_piece)(void *instance, grapnel_export_step step, uint64_t bytes_max, const grapnel_state_sink *out, grapnel_error_text *error);
    /** Takes over a piece, in the order in which they were written; the first one is empty and asks whether pieces
     *  are taken at all. GRAPNEL_STATUS_UNSUPPORTED where they are not, as a null pointer. With `last` 1 the state
     *  is whole, and the hooks of the instance are called next: timers are armed here, since those that an instance
     *  armed before it was replaced are gone. More pieces may follow a last one, where a reload is taken back. */
    grapnel_status (*import_piece)(void *instance, uint32_t last, grapnel_slice piece, grapnel_error_text *error);
    /** Answers a verb of the manifest. On a thread of its own, any number of them at a time and beside all other
     *  functions; the broker waits for the verb's deadline, and the thread must return soon after `wait_stop` has
     *  answered 1. `arguments` are the declared ones that were given or have a default, checked and in the order of
     *  their declaration: an integer as digits, a duration as its milliseconds, a flag that was given as `1`, a
     *  repeated one once for each value. The answer goes to `out`, as ABI.md describes it; a write of no bytes
     *  answers GRAPNEL_STATUS_STALE once nobody waits for it any more. `plugin` is null for a verb that is declared
     *  `local`: it runs in a process of `grapnel-ctl`, where `load` has not been called. GRAPNEL_STATUS_INVALID for
     *  arguments that cannot be, GRAPNEL_STATUS_ABSENT where what they name is not there, GRAPNEL_STATUS_FAILED for
     *  anything else that keeps it from being done. A null pointer where the plugin has no verbs. */
    grapnel_status (*verb)(void *plugin, grapnel_slice name, const grapnel_pair *arguments, size_t arguments_len, const grapnel_state_sink *out, grapnel_error_text *error);
};

/** The plugin's entry: a table that stays, or a null pointer, which is refused. Called once for each mapping. */
GRAPNEL_EXPORT const grapnel_plugin_module *grapnel_plugin_v1(void);

/* ---- Every table as the broker has it: where a compiler lays one out otherwise, it says so here. ---- */

#define GRAPNEL_CHECK_FIELD(table, field, offset, bytes) \
    GRAPNEL_STATIC_ASSERT(offsetof(table, field) == (offset) && sizeof(((table *)0)->field) == (bytes), \
                          #table "." #field " lies elsewhere than in the broker")

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_slice) == 16, "grapnel_slice has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_slice, ptr, 0, 8);
GRAPNEL_CHECK_FIELD(grapnel_slice, len, 8, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_event) == 112, "grapnel_event has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_event, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_event, point, 4, 2);
GRAPNEL_CHECK_FIELD(grapnel_event, proto_ver, 6, 1);
GRAPNEL_CHECK_FIELD(grapnel_event, qos, 7, 1);
GRAPNEL_CHECK_FIELD(grapnel_event, flags, 8, 4);
GRAPNEL_CHECK_FIELD(grapnel_event, shard, 12, 4);
GRAPNEL_CHECK_FIELD(grapnel_event, action, 16, 1);
GRAPNEL_CHECK_FIELD(grapnel_event, reason_code, 17, 1);
GRAPNEL_CHECK_FIELD(grapnel_event, reserved, 18, 2);
GRAPNEL_CHECK_FIELD(grapnel_event, reserved2, 20, 4);
GRAPNEL_CHECK_FIELD(grapnel_event, wall_ms, 24, 8);
GRAPNEL_CHECK_FIELD(grapnel_event, client_id, 32, 16);
GRAPNEL_CHECK_FIELD(grapnel_event, username, 48, 16);
GRAPNEL_CHECK_FIELD(grapnel_event, topic, 64, 16);
GRAPNEL_CHECK_FIELD(grapnel_event, payload, 80, 16);
GRAPNEL_CHECK_FIELD(grapnel_event, ctx, 96, 8);
GRAPNEL_CHECK_FIELD(grapnel_event, args, 104, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_value) == 40, "grapnel_value has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_value, number, 0, 8);
GRAPNEL_CHECK_FIELD(grapnel_value, bytes, 8, 16);
GRAPNEL_CHECK_FIELD(grapnel_value, key, 24, 16);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_change) == 48, "grapnel_change has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_change, field, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_change, index, 4, 4);
GRAPNEL_CHECK_FIELD(grapnel_change, number, 8, 8);
GRAPNEL_CHECK_FIELD(grapnel_change, bytes, 16, 16);
GRAPNEL_CHECK_FIELD(grapnel_change, key, 32, 16);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_pair) == 32, "grapnel_pair has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_pair, key, 0, 16);
GRAPNEL_CHECK_FIELD(grapnel_pair, value, 16, 16);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_new_message) == 136, "grapnel_new_message has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_new_message, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_message, qos, 4, 1);
GRAPNEL_CHECK_FIELD(grapnel_new_message, retain, 5, 1);
GRAPNEL_CHECK_FIELD(grapnel_new_message, payload_format, 6, 1);
GRAPNEL_CHECK_FIELD(grapnel_new_message, store_only, 7, 1);
GRAPNEL_CHECK_FIELD(grapnel_new_message, message_expiry_s, 8, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_message, flow, 12, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_message, topic, 16, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_message, payload, 32, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_message, content_type, 48, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_message, response_topic, 64, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_message, correlation_data, 80, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_message, from, 96, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_message, user_properties, 112, 8);
GRAPNEL_CHECK_FIELD(grapnel_new_message, user_properties_len, 120, 8);
GRAPNEL_CHECK_FIELD(grapnel_new_message, flags, 128, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_message, reserved, 132, 4);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_on_behalf) == 48, "grapnel_on_behalf has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_on_behalf, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_on_behalf, flags, 4, 4);
GRAPNEL_CHECK_FIELD(grapnel_on_behalf, identity, 8, 16);
GRAPNEL_CHECK_FIELD(grapnel_on_behalf, client_id, 24, 16);
GRAPNEL_CHECK_FIELD(grapnel_on_behalf, number, 40, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_new_metric) == 56, "grapnel_new_metric has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_new_metric, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_metric, kind, 4, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_metric, name, 8, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_metric, help, 24, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_metric, bounds, 40, 8);
GRAPNEL_CHECK_FIELD(grapnel_new_metric, bounds_len, 48, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_new_thread) == 48, "grapnel_new_thread has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_new_thread, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_thread, reserved, 4, 4);
GRAPNEL_CHECK_FIELD(grapnel_new_thread, name, 8, 16);
GRAPNEL_CHECK_FIELD(grapnel_new_thread, run, 24, 8);
GRAPNEL_CHECK_FIELD(grapnel_new_thread, arg, 32, 8);
GRAPNEL_CHECK_FIELD(grapnel_new_thread, join_ms, 40, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_state_sink) == 16, "grapnel_state_sink has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_state_sink, ctx, 0, 8);
GRAPNEL_CHECK_FIELD(grapnel_state_sink, write, 8, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_host_api) == 288, "grapnel_host_api has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_host_api, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_host_api, abi_major, 4, 2);
GRAPNEL_CHECK_FIELD(grapnel_host_api, abi_minor, 6, 2);
GRAPNEL_CHECK_FIELD(grapnel_host_api, plugin, 8, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, shards, 16, 4);
GRAPNEL_CHECK_FIELD(grapnel_host_api, flags, 20, 4);
GRAPNEL_CHECK_FIELD(grapnel_host_api, log, 24, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, get, 32, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, set, 40, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, defer, 48, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, complete, 56, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, add_message, 64, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, hook, 72, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, unhook, 80, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, publish, 88, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, kick, 96, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, subscribe, 104, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, unsubscribe, 112, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, invalidate, 120, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, instance_message, 128, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, timer, 136, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, cancel_timer, 144, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, spawn, 152, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, wait_stop, 160, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, metric, 168, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, measure, 176, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, adjust, 184, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, replay, 192, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, file, 200, 16);
GRAPNEL_CHECK_FIELD(grapnel_host_api, in_flight, 216, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, identity, 224, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, publish_as, 232, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, subscribe_as, 240, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, unsubscribe_as, 248, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, authorize_as, 256, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, fetch_as, 264, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, reading, 272, 8);
GRAPNEL_CHECK_FIELD(grapnel_host_api, hook_calls, 280, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_error_text) == 24, "grapnel_error_text has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_error_text, ptr, 0, 8);
GRAPNEL_CHECK_FIELD(grapnel_error_text, capacity, 8, 8);
GRAPNEL_CHECK_FIELD(grapnel_error_text, len, 16, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_manifest) == 128, "grapnel_manifest has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_manifest, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_manifest, reserved, 4, 4);
GRAPNEL_CHECK_FIELD(grapnel_manifest, name, 8, 16);
GRAPNEL_CHECK_FIELD(grapnel_manifest, version, 24, 16);
GRAPNEL_CHECK_FIELD(grapnel_manifest, description, 40, 16);
GRAPNEL_CHECK_FIELD(grapnel_manifest, sdk, 56, 16);
GRAPNEL_CHECK_FIELD(grapnel_manifest, flags, 72, 4);
GRAPNEL_CHECK_FIELD(grapnel_manifest, reserved2, 76, 4);
GRAPNEL_CHECK_FIELD(grapnel_manifest, config_schema, 80, 16);
GRAPNEL_CHECK_FIELD(grapnel_manifest, depends, 96, 8);
GRAPNEL_CHECK_FIELD(grapnel_manifest, depends_len, 104, 8);
GRAPNEL_CHECK_FIELD(grapnel_manifest, verbs, 112, 16);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_mount) == 72, "grapnel_mount has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_mount, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_mount, point, 4, 2);
GRAPNEL_CHECK_FIELD(grapnel_mount, reserved, 6, 2);
GRAPNEL_CHECK_FIELD(grapnel_mount, priority, 8, 4);
GRAPNEL_CHECK_FIELD(grapnel_mount, deadline_ms, 12, 4);
GRAPNEL_CHECK_FIELD(grapnel_mount, hook, 16, 8);
GRAPNEL_CHECK_FIELD(grapnel_mount, name, 24, 16);
GRAPNEL_CHECK_FIELD(grapnel_mount, flags, 40, 4);
GRAPNEL_CHECK_FIELD(grapnel_mount, policy, 44, 4);
GRAPNEL_CHECK_FIELD(grapnel_mount, topics, 48, 8);
GRAPNEL_CHECK_FIELD(grapnel_mount, topics_len, 56, 8);
GRAPNEL_CHECK_FIELD(grapnel_mount, args, 64, 8);

GRAPNEL_STATIC_ASSERT(sizeof(grapnel_plugin_module) == 160, "grapnel_plugin_module has another size than in the broker");
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, size, 0, 4);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, abi_major, 4, 2);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, abi_minor, 6, 2);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, abi_hash, 8, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, manifest, 16, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, mount, 24, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, check_config, 32, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, load, 40, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, init_shard, 48, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, drop_shard, 56, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, activate, 64, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, deactivate, 72, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, unload, 80, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, on_timer, 88, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, on_instance_message, 96, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, export_state, 104, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, import_state, 112, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, configure, 120, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, configured, 128, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, export_piece, 136, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, import_piece, 144, 8);
GRAPNEL_CHECK_FIELD(grapnel_plugin_module, verb, 152, 8);

/* ---- Helpers. All of them are inline: nothing has to be linked. ---- */

/** A view of a string literal, for initialisers: `static const grapnel_slice NAME = GRAPNEL_LITERAL("gate");` */
#define GRAPNEL_LITERAL(text) {(const uint8_t *)("" text), sizeof("" text) - 1}

/** Whether the host of this run has a function or field of grapnel_host_api: one of a later minor version may be missing. */
#define GRAPNEL_HOST_HAS(host, member) \
    ((host)->size >= offsetof(grapnel_host_api, member) + sizeof(((grapnel_host_api *)0)->member))

/** A view of bytes, which stay alive for as long as the view is used. */
static inline grapnel_slice grapnel_bytes(const void *ptr, size_t len) {
    grapnel_slice slice;
    slice.ptr = (const uint8_t *)ptr;
    slice.len = len;
    return slice;
}

/** A view of a text that ends with a zero byte, without it; empty for a null pointer. */
static inline grapnel_slice grapnel_text(const char *text) {
    return grapnel_bytes(text, text ? strlen(text) : 0);
}

/** Whether two views show the same bytes. */
static inline bool grapnel_equal(grapnel_slice left, grapnel_slice right) {
    return left.len == right.len && (left.len == 0 || memcmp(left.ptr, right.ptr, left.len) == 0);
}

/** Whether a view begins with these bytes. */
static inline bool grapnel_starts_with(grapnel_slice slice, grapnel_slice prefix) {
    return slice.len >= prefix.len && grapnel_equal(grapnel_bytes(slice.ptr, prefix.len), prefix);
}

/** An argument of a verb: its text, or a null pointer where it was not given. `place` 0 for the first value of a repeated one. */
static inline grapnel_slice grapnel_argument(const grapnel_pair *arguments, size_t len, const char *name, size_t place) {
    size_t at;
    for (at = 0; at < len; at++) {
        if (grapnel_equal(arguments[at].key, grapnel_text(name)) && place-- == 0) return arguments[at].value;
    }
    return grapnel_bytes(NULL, 0);
}

/** Writes a text to a sink: an answer of a verb, or a part of one. */
static inline grapnel_status grapnel_write(const grapnel_state_sink *out, const char *text) {
    return out->write(out->ctx, grapnel_text(text));
}

/** A field's text or bytes; a null pointer and no bytes where it is absent. In a hook alone. */
static inline grapnel_slice grapnel_get_bytes(const grapnel_host_api *host, const grapnel_event *event,
                                              grapnel_field field, uint32_t index) {
    grapnel_value value;
    if (host->get(event->ctx, field, index, &value) != GRAPNEL_STATUS_OK) return grapnel_bytes(NULL, 0);
    return value.bytes;
}

/** A field's number, or `otherwise` where it is absent. In a hook alone. */
static inline uint64_t grapnel_get_number(const grapnel_host_api *host, const grapnel_event *event,
                                          grapnel_field field, uint32_t index, uint64_t otherwise) {
    grapnel_value value;
    return host->get(event->ctx, field, index, &value) == GRAPNEL_STATUS_OK ? value.number : otherwise;
}

/** A change of a number, for `set` and `complete`. */
static inline grapnel_change grapnel_number_change(grapnel_field field, uint64_t number) {
    grapnel_change change;
    change.field = field;
    change.index = 0;
    change.number = number;
    change.bytes = grapnel_bytes(NULL, 0);
    change.key = grapnel_bytes(NULL, 0);
    return change;
}

/** A change of a text or of bytes, for `set` and `complete`. */
static inline grapnel_change grapnel_bytes_change(grapnel_field field, grapnel_slice bytes) {
    grapnel_change change = grapnel_number_change(field, 0);
    change.bytes = bytes;
    return change;
}

/** A change that adds a user property, for `set` and `complete`. */
static inline grapnel_change grapnel_user_property_change(grapnel_slice key, grapnel_slice value) {
    grapnel_change change = grapnel_bytes_change(GRAPNEL_FIELD_USER_PROPERTY, value);
    change.index = GRAPNEL_APPEND;
    change.key = key;
    return change;
}

/** Sets a number. In a hook alone. */
static inline grapnel_status grapnel_set_number(const grapnel_host_api *host, const grapnel_event *event,
                                                grapnel_field field, uint64_t number) {
    const grapnel_change change = grapnel_number_change(field, number);
    return host->set(event->ctx, &change);
}

/** Sets a text or bytes. In a hook alone. */
static inline grapnel_status grapnel_set_bytes(const grapnel_host_api *host, const grapnel_event *event,
                                               grapnel_field field, grapnel_slice bytes) {
    const grapnel_change change = grapnel_bytes_change(field, bytes);
    return host->set(event->ctx, &change);
}

/** Adds a user property to the message. In a hook alone. */
static inline grapnel_status grapnel_add_user_property(const grapnel_host_api *host, const grapnel_event *event,
                                                       grapnel_slice key, grapnel_slice value) {
    const grapnel_change change = grapnel_user_property_change(key, value);
    return host->set(event->ctx, &change);
}

/** Refuses a message at message.publish with a reason code and, unless it is empty, a text. In a hook alone. */
static inline grapnel_status grapnel_reject(const grapnel_host_api *host, const grapnel_event *event, uint8_t reason,
                                            grapnel_slice text) {
    grapnel_status status = grapnel_set_number(host, event, GRAPNEL_FIELD_REASON_CODE, reason);
    if (status == GRAPNEL_STATUS_OK && text.len != 0) {
        status = grapnel_set_bytes(host, event, GRAPNEL_FIELD_REASON_STRING, text);
    }
    if (status != GRAPNEL_STATUS_OK) return status;
    return grapnel_set_number(host, event, GRAPNEL_FIELD_DISPOSITION, GRAPNEL_DISPOSITION_REJECT);
}

/** Writes a line to the broker's log. Any thread. */
static inline void grapnel_log(const grapnel_host_api *host, grapnel_log_level level, const char *text) {
    host->log(host->plugin, level, grapnel_text(text));
}

/** Writes why a function failed, cut where there is no more room, and gives the status to return. */
static inline grapnel_status grapnel_fail(grapnel_error_text *error, const char *text) {
    if (error && error->ptr) {
        const size_t len = strlen(text);
        error->len = len < error->capacity ? len : error->capacity;
        memcpy(error->ptr, text, error->len);
    }
    return GRAPNEL_STATUS_FAILED;
}

static inline grapnel_status grapnel_default_check_config(grapnel_slice config, grapnel_error_text *error) {
    (void)config, (void)error;
    return GRAPNEL_STATUS_OK;
}

static inline grapnel_status grapnel_default_activate(void *plugin, grapnel_error_text *error) {
    (void)plugin, (void)error;
    return GRAPNEL_STATUS_OK;
}

static inline void grapnel_default_nothing(void *plugin_or_instance) { (void)plugin_or_instance; }

static inline void grapnel_default_on_timer(void *instance, uint64_t timer, uint64_t number) {
    (void)instance, (void)timer, (void)number;
}

static inline void grapnel_default_on_instance_message(void *instance, uint32_t from_shard, uint64_t number, grapnel_slice bytes) {
    (void)instance, (void)from_shard, (void)number, (void)bytes;
}

static inline grapnel_status grapnel_default_export_state(void *instance, const grapnel_state_sink *out,
                                                          grapnel_error_text *error) {
    (void)instance, (void)out, (void)error;
    return GRAPNEL_STATUS_UNSUPPORTED;
}

static inline grapnel_status grapnel_default_import_state(void *instance, grapnel_slice state,
                                                          grapnel_error_text *error) {
    (void)instance, (void)state, (void)error;
    return GRAPNEL_STATUS_UNSUPPORTED;
}

static inline grapnel_status grapnel_default_configure(void *plugin, grapnel_slice config, grapnel_error_text *error) {
    (void)plugin, (void)config, (void)error;
    return GRAPNEL_STATUS_UNSUPPORTED;
}

/** A table to begin with: its head is filled in, `manifest`, `mount`, `load` and `init_shard` are missing, and the others do
 *  what stands in their place where a plugin has no use for them: any configuration is taken, a new one asks for a reload,
 *  there is no state to hand over, and nothing has to be freed. What may be a null pointer is one. */
static inline grapnel_plugin_module grapnel_module(void) {
    grapnel_plugin_module module;
    memset(&module, 0, sizeof(module));
    module.size = (uint32_t)sizeof(module);
    module.abi_major = GRAPNEL_ABI_MAJOR;
    module.abi_minor = GRAPNEL_ABI_MINOR;
    module.abi_hash = GRAPNEL_ABI_HASH;
    module.check_config = grapnel_default_check_config;
    module.drop_shard = grapnel_default_nothing;
    module.activate = grapnel_default_activate;
    module.deactivate = grapnel_default_nothing;
    module.unload = grapnel_default_nothing;
    module.on_timer = grapnel_default_on_timer;
    module.on_instance_message = grapnel_default_on_instance_message;
    module.export_state = grapnel_default_export_state;
    module.import_state = grapnel_default_import_state;
    module.configure = grapnel_default_configure;
    module.configured = grapnel_default_nothing;
    return module;
}

#ifdef __cplusplus
}
#endif

#endif
