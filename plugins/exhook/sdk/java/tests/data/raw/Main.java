// Hooks for the raw Java driver of EMQX 4.1, as in its users' files. It does not depend on Grapnel.
import com.erlport.erlang.term.*;
import java.io.*;
import java.util.*;

class Counter implements Serializable {
    Integer times = 0;

    public Integer next() {
        times += 1;
        return times;
    }

    @Override
    public String toString() {
        return String.format("Counter(%d)", times);
    }
}

public class Main {
    public static Object init() {
        System.err.printf("init\n");
        List<Object> topics = new ArrayList<Object>();
        topics.add(new Binary("t/#"));
        topics.add(new Binary("test/+"));
        List<Object> opts = new ArrayList<Object>();
        opts.add(Tuple.two(new Atom("topics"), topics));

        Object[] actions = new Object[] {
            Tuple.three("client_connect", "Main", "on_client_connect"),
            Tuple.three("client_connack", "Main", "on_client_connack"),
            Tuple.three("client_connected", "Main", "on_client_connected"),
            Tuple.three("client_disconnected", "Main", "on_client_disconnected"),
            Tuple.three("client_authenticate", "Main", "on_client_authenticate"),
            Tuple.three("client_check_acl", "Main", "on_client_check_acl"),
            Tuple.three("client_subscribe", "Main", "on_client_subscribe"),
            Tuple.three("client_unsubscribe", "Main", "on_client_unsubscribe"),
            Tuple.three("session_created", "Main", "on_session_created"),
            Tuple.three("session_subscribed", "Main", "on_session_subscribed"),
            Tuple.three("session_unsubscribed", "Main", "on_session_unsubscribed"),
            Tuple.three("session_resumed", "Main", "on_session_resumed"),
            Tuple.three("session_discarded", "Main", "on_session_discarded"),
            Tuple.three("session_takeovered", "Main", "on_session_takeovered"),
            Tuple.three("session_terminated", "Main", "on_session_terminated"),
            Tuple.four("message_publish", "Main", "on_message_publish", opts),
            Tuple.four("message_delivered", "Main", "on_message_delivered", opts),
            Tuple.four("message_acked", "Main", "on_message_acked", opts),
            Tuple.four("message_dropped", "Main", "on_message_dropped", opts)
        };
        List<Object> list = new ArrayList<Object>(Arrays.asList(actions));
        return Tuple.two(0, Tuple.two(list, new Counter()));
    }

    public static void deinit() {
        System.err.printf("deinit\n");
    }

    private static void said(String hook, Object state, Object... arguments) {
        System.err.printf("%s %d %s\n", hook, ((Counter) state).next(), Arrays.toString(arguments));
    }

    public static void on_client_connect(Object connInfo, Object props, Object state) {
        said("client_connect", state, connInfo, props);
    }

    public static void on_client_connack(Object connInfo, Object rc, Object props, Object state) {
        said("client_connack", state, connInfo, rc, props);
    }

    public static void on_client_connected(Object clientInfo, Object state) {
        said("client_connected", state, clientInfo);
    }

    public static void on_client_disconnected(Object clientInfo, Object reason, Object state) {
        said("client_disconnected", state, clientInfo, reason);
    }

    public static Object on_client_authenticate(Object clientInfo, Object authresult, Object state) {
        said("client_authenticate", state, clientInfo, authresult);
        return Tuple.two(0, true);
    }

    public static Object on_client_check_acl(Object clientInfo, Object pubsub, Object topic, Object result, Object state) {
        said("client_check_acl", state, clientInfo, pubsub, topic, result);
        String name = new String(((Binary) topic).raw);
        return Tuple.two(0, name.startsWith("t/"));
    }

    public static void on_client_subscribe(Object clientInfo, Object props, Object topics, Object state) {
        said("client_subscribe", state, clientInfo, props, topics);
    }

    public static void on_client_unsubscribe(Object clientInfo, Object props, Object topics, Object state) {
        said("client_unsubscribe", state, clientInfo, props, topics);
    }

    public static void on_session_created(Object clientInfo, Object state) {
        said("session_created", state, clientInfo);
    }

    public static void on_session_subscribed(Object clientInfo, Object topic, Object opts, Object state) {
        said("session_subscribed", state, clientInfo, topic, opts);
    }

    public static void on_session_unsubscribed(Object clientInfo, Object topic, Object state) {
        said("session_unsubscribed", state, clientInfo, topic);
    }

    public static void on_session_resumed(Object clientInfo, Object state) {
        said("session_resumed", state, clientInfo);
    }

    public static void on_session_discarded(Object clientInfo, Object state) {
        said("session_discarded", state, clientInfo);
    }

    public static void on_session_takeovered(Object clientInfo, Object state) {
        said("session_takeovered", state, clientInfo);
    }

    public static void on_session_terminated(Object clientInfo, Object reason, Object state) {
        said("session_terminated", state, clientInfo, reason);
    }

    public static Object on_message_publish(Object message, Object state) {
        said("message_publish", state, message);
        List<Object> changed = new ArrayList<Object>();
        for (Object each : (List<?>) message) {
            Tuple pair = (Tuple) each;
            if (((Atom) pair.get(0)).value.equals("payload")) {
                byte[] raw = ((Binary) pair.get(1)).raw;
                byte[] twice = Arrays.copyOf(raw, raw.length * 2);
                System.arraycopy(raw, 0, twice, raw.length, raw.length);
                changed.add(Tuple.two(new Atom("payload"), new Binary(twice)));
            }
        }
        return Tuple.two(0, changed);
    }

    public static void on_message_dropped(Object message, Object reason, Object state) {
        said("message_dropped", state, message, reason);
    }

    public static void on_message_delivered(Object clientInfo, Object message, Object state) {
        said("message_delivered", state, clientInfo, message);
    }

    public static void on_message_acked(Object clientInfo, Object message, Object state) {
        said("message_acked", state, clientInfo, message);
    }
}
