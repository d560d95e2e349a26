package io.grapnel.exhook;

import erlport.terms.Atom;
import erlport.terms.Binary;
import erlport.terms.Tuple;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;

/**
 * The records that hooks get: lists of pairs of an atom and a value, in the types of EMQX's driver.
 * Names are {@link Atom}, texts and bytes {@link Binary}, numbers {@code Integer}, times in
 * milliseconds {@code BigInteger}, booleans {@code Boolean}. An absent value is the empty binary.
 *
 * <p>They use the classes of {@code erlport.terms}, which derive from those of {@code
 * com.erlport.erlang.term}, because hooks may have been compiled with either jar.
 *
 * <p>Each call creates new records, including the bytes, so that changes by a hook have no effect
 * elsewhere.
 */
final class Records {
    private final Clients clients = new Clients();
    private final String node;

    Records(String node) {
        this.node = node;
    }

    /** The clients that the records are about. */
    Clients clients() {
        return clients;
    }

    /** The client, for most hooks. */
    List<Object> clientinfo(long number) {
        Map<String, Object> said = clients.get(number);
        List<Object> record = new ArrayList<>(10);
        record.add(pair("node", new Atom(node)));
        record.add(pair("clientid", binary(said.get("client_id"))));
        record.add(pair("username", binary(said.get("username"))));
        record.add(pair("password", binary(said.get("password"))));
        record.add(pair("peerhost", binary(said.get("peer_host"))));
        record.add(pair("sockport", integer(said.get("local_port"), 0)));
        record.add(pair("protocol", new Atom("mqtt")));
        record.add(pair("mountpoint", binary(null)));
        record.add(pair("is_superuser", Wire.flag(said.get("superuser"))));
        record.add(pair("anonymous", Wire.flag(said.get("anonymous"))));
        return record;
    }

    /** The connection, for client_connect and client_connack. */
    List<Object> conninfo(long number) {
        Map<String, Object> said = clients.get(number);
        Object version = said.get("version");
        List<Object> record = new ArrayList<>(8);
        record.add(pair("node", new Atom(node)));
        record.add(pair("clientid", binary(said.get("client_id"))));
        record.add(pair("username", binary(said.get("username"))));
        record.add(pair("peerhost", binary(said.get("peer_host"))));
        record.add(pair("sockport", integer(said.get("local_port"), 0)));
        record.add(pair("proto_name", new Binary(Wire.number(version, 4) == 3 ? "MQIsdp" : "MQTT")));
        record.add(pair("proto_ver", integer(version, 4)));
        record.add(pair("keepalive", integer(said.get("keep_alive_s"), 0)));
        return record;
    }

    /** The properties of CONNECT, by their names in EMQX; none before MQTT 5. */
    List<Object> connectProps(long number) {
        Map<String, Object> said = clients.get(number);
        if (Wire.number(said.get("version"), 0) != 5) {
            return new ArrayList<>();
        }
        List<Object> props = props(said.get("properties"), null);
        if (Wire.number(said.get("session_expiry_s"), 0) != 0) {
            props.add(pair("Session-Expiry-Interval", number(said.get("session_expiry_s"))));
        }
        // The broker sends the largest value if the client has not set one.
        long most = Wire.number(said.get("receive_maximum"), 0);
        if (most != 0 && most != 0xFFFF) {
            props.add(pair("Receive-Maximum", (int) most));
        }
        return props;
    }

    /** The properties of a packet: user properties as pairs, and the subscription identifier. */
    List<Object> props(Object userProperties, Object subscriptionId) {
        List<Object> props = new ArrayList<>();
        List<Object> pairs = new ArrayList<>();
        for (Object each : Wire.list(userProperties)) {
            List<Object> keyAndValue = Wire.list(each);
            pairs.add(Tuple.two(binary(keyAndValue.get(0)), binary(keyAndValue.get(1))));
        }
        if (!pairs.isEmpty()) {
            props.add(pair("User-Property", pairs));
        }
        if (subscriptionId != null) {
            props.add(pair("Subscription-Identifier", number(subscriptionId)));
        }
        return props;
    }

    /** Subscription options (MQTT 5, 3.8.3.1), for session_subscribed. */
    List<Object> options(Object bits, Object isNew) {
        int options = integer(bits, 0);
        List<Object> record = new ArrayList<>(5);
        record.add(pair("is_new", Wire.flag(isNew)));
        record.add(pair("nl", options >> 2 & 1));
        record.add(pair("qos", options & 3));
        record.add(pair("rap", options >> 3 & 1));
        record.add(pair("rh", options >> 4 & 3));
        return record;
    }

    /** A filter and the requested QoS, for client_subscribe and client_unsubscribe. */
    Tuple filter(Object filter, Object bits) {
        return Tuple.two(binary(filter), integer(bits, 0) & 3);
    }

    /** A message; {@code raw} is as in PROTOCOL.md. */
    List<Object> message(List<Object> raw) {
        List<Object> record = new ArrayList<>(7);
        record.add(pair("node", new Atom(node)));
        record.add(pair("id", new Binary(idOf(raw.get(0)))));
        record.add(pair("qos", integer(raw.get(3), 0)));
        record.add(pair("from", binary(raw.get(6))));
        record.add(pair("topic", binary(raw.get(1))));
        record.add(pair("payload", binary(raw.get(2))));
        record.add(pair("timestamp", BigInteger.valueOf(Wire.number(raw.get(7), 0))));
        return record;
    }

    private static String idOf(Object ident) {
        if (ident instanceof com.erlport.erlang.term.Binary) {
            return HexFormat.of().formatHex(((com.erlport.erlang.term.Binary) ident).raw);
        }
        return "0000000000000000" + HexFormat.of().withUpperCase().toHexDigits(Wire.number(ident, 0));
    }

    /** The bytes of a decoded text or of decoded bytes; empty for nil. */
    static Binary binary(Object value) {
        if (value == null) {
            return new Binary(new byte[0]);
        }
        return value instanceof com.erlport.erlang.term.Binary
                ? new Binary(((com.erlport.erlang.term.Binary) value).raw.clone())
                : new Binary(value.toString());
    }

    private static Tuple pair(String key, Object value) {
        return Tuple.two(new Atom(key), value);
    }

    private static int integer(Object value, int otherwise) {
        return (int) Wire.number(value, otherwise);
    }

    /**
     * A number in the type that Erlang's driver used: {@code BigInteger} if it does not fit into 32
     * bits.
     */
    private static Object number(Object value) {
        long number = Wire.number(value, 0);
        return number == (int) number ? (Object) (int) number : BigInteger.valueOf(number);
    }
}
