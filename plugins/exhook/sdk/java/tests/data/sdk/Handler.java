// Uses its arguments like EMQX's SDK for Java: methods of an instance, class names by reflection,
// casts to exactly the types of EMQX's driver, and the whole message as the answer.
package shop;

import com.erlport.erlang.term.Atom;
import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.List;

public class Handler {
    private final List<String> seen = new ArrayList<>();

    public Object init() {
        List<Tuple> specs = new ArrayList<>();
        String module = getClass().getCanonicalName();
        for (String[] each : new String[][] {
            {"client_connect", "connect"}, {"client_connack", "connack"}, {"client_disconnected", "gone"},
            {"client_authenticate", "login"}, {"client_check_acl", "acl"}, {"client_subscribe", "subscribe"},
            {"client_unsubscribe", "subscribe"}, {"session_subscribed", "subscribed"}, {"session_terminated", "gone"},
        }) {
            specs.add(Tuple.three(each[0], module, each[1]));
        }
        List<Binary> topics = new ArrayList<>();
        topics.add(new Binary("#"));
        List<Tuple> opts = new ArrayList<>();
        opts.add(Tuple.two(new Atom("topics"), topics));
        specs.add(Tuple.four("message_publish", module, "publish", opts));
        return Tuple.two(0, Tuple.two(specs, new StringBuilder()));
    }

    public void deinit() {
        System.out.println("seen " + seen);
    }

    static String atom(Object value) {
        return ((Atom) value).value;
    }

    static String binary(Object value) {
        byte[] raw = ((Binary) value).raw;
        return raw.length == 0 ? null : new String(raw);
    }

    @SuppressWarnings("unchecked")
    static List<Tuple> record(Object value, int length) {
        List<Tuple> record = (List<Tuple>) value;
        if (record.size() != length) {
            throw new IllegalArgumentException("a record of " + record.size() + ", not " + length);
        }
        for (Tuple each : record) {
            atom(each.get(0));
        }
        return record;
    }

    void client(Object value) {
        List<Tuple> record = record(value, 10);
        seen.add(atom(record.get(0).get(1)) + " " + binary(record.get(1).get(1)) + " " + binary(record.get(2).get(1)) + " "
                + binary(record.get(3).get(1)) + " " + binary(record.get(4).get(1)) + " " + (Integer) record.get(5).get(1) + " "
                + atom(record.get(6).get(1)) + " " + binary(record.get(7).get(1)) + " " + (Boolean) record.get(8).get(1) + " "
                + (Boolean) record.get(9).get(1));
    }

    void connection(Object value) {
        List<Tuple> record = record(value, 8);
        seen.add(atom(record.get(0).get(1)) + " " + binary(record.get(1).get(1)) + " " + binary(record.get(2).get(1)) + " "
                + binary(record.get(3).get(1)) + " " + (Integer) record.get(4).get(1) + " " + binary(record.get(5).get(1)) + " "
                + (Integer) record.get(6).get(1) + " " + (Integer) record.get(7).get(1));
    }

    public void connect(Object conninfo, Object props, Object state) {
        connection(conninfo);
        seen.add(((List<?>) props).size() + " props");
    }

    public void connack(Object conninfo, Object rc, Object props, Object state) {
        connection(conninfo);
        seen.add(atom(rc) + ((List<?>) props).size());
    }

    public void gone(Object clientinfo, Object reason, Object state) {
        client(clientinfo);
        seen.add(binary(reason));
    }

    public Object login(Object clientinfo, Object result, Object state) {
        client(clientinfo);
        boolean so_far = (Boolean) result;
        return Tuple.two(0, !so_far);
    }

    public Object acl(Object clientinfo, Object action, Object topic, Object result, Object state) {
        client(clientinfo);
        return Tuple.two(0, (Boolean) result && atom(action).equals("subscribe") && binary(topic).equals("t"));
    }

    public void subscribe(Object clientinfo, Object props, Object filters, Object state) {
        for (Object each : (List<?>) filters) {
            Tuple filter = (Tuple) each;
            if (filter.length() == 2) {
                seen.add(binary(filter.get(0)) + (Integer) filter.get(1));
            }
        }
    }

    public void subscribed(Object clientinfo, Object topic, Object opts, Object state) {
        List<Tuple> record = record(opts, 5);
        seen.add(binary(topic) + (Boolean) record.get(0).get(1) + (Integer) record.get(1).get(1)
                + (Integer) record.get(2).get(1) + (Integer) record.get(3).get(1) + (Integer) record.get(4).get(1));
    }

    public Object publish(Object message, Object state) {
        List<Tuple> record = record(message, 7);
        List<Tuple> changed = new ArrayList<>();
        changed.add(Tuple.two(new Atom("node"), new Atom(atom(record.get(0).get(1)))));
        changed.add(Tuple.two(new Atom("id"), new Binary(binary(record.get(1).get(1)))));
        changed.add(Tuple.two(new Atom("qos"), (Integer) record.get(2).get(1)));
        changed.add(Tuple.two(new Atom("from"), new Binary(binary(record.get(3).get(1)))));
        changed.add(Tuple.two(new Atom("topic"), new Binary(binary(record.get(4).get(1)))));
        changed.add(Tuple.two(new Atom("payload"), new Binary(((Binary) record.get(5).get(1)).raw)));
        long timestamp = ((BigInteger) record.get(6).get(1)).longValue();
        changed.add(Tuple.two(new Atom("timestamp"), BigInteger.valueOf(timestamp)));
        return Tuple.two(0, changed);
    }
}
