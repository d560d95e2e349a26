import com.erlport.erlang.term.Atom;
import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Hooks every point of EMQX in the form of its Java driver, and prints its calls. */
public class Spy {
    private static final String[] HOOKS = {
        "client_connect", "client_connack", "client_connected", "client_disconnected", "client_authenticate",
        "client_check_acl", "client_subscribe", "client_unsubscribe", "session_created", "session_subscribed",
        "session_unsubscribed", "session_resumed", "session_discarded", "session_takeovered", "session_terminated",
        "message_publish", "message_delivered", "message_acked", "message_dropped",
    };

    public static Object init() {
        List<Object> actions = new ArrayList<>();
        for (String hook : HOOKS) {
            actions.add(Tuple.three(hook, "Spy", "on_" + hook));
        }
        return Tuple.two(0, Tuple.two(actions, Arrays.asList("of", 7)));
    }

    public static void deinit() {
        CallPrinter.printed("deinit");
    }

    /** A client with this name is allowed; for others the broker decides. */
    public static Object on_client_authenticate(Object clientinfo, Object authresult, Object state) {
        CallPrinter.printed("client_authenticate", clientinfo, authresult, state);
        Tuple username = (Tuple) ((List<?>) clientinfo).get(2);
        assert ((Atom) username.elements[0]).value.equals("username");
        return Arrays.equals(((Binary) username.elements[1]).raw, "alice".getBytes()) ? Tuple.two(0, true) : null;
    }

    public static void on_client_connect(Object conninfo, Object props, Object state) {
        CallPrinter.printed("client_connect", conninfo, props, state);
    }

    public static void on_client_connack(Object conninfo, Object props, Object state) {
        CallPrinter.printed("client_connack", conninfo, props, state);
    }

    public static void on_client_connected(Object clientinfo, Object state) {
        CallPrinter.printed("client_connected", clientinfo, state);
    }

    public static void on_client_disconnected(Object clientinfo, Object reason, Object state) {
        CallPrinter.printed("client_disconnected", clientinfo, reason, state);
    }

    public static void on_client_check_acl(Object clientinfo, Object action, Object topic, Object result, Object state) {
        CallPrinter.printed("client_check_acl", clientinfo, action, topic, result, state);
    }

    public static void on_client_subscribe(Object clientinfo, Object props, Object filters, Object state) {
        CallPrinter.printed("client_subscribe", clientinfo, props, filters, state);
    }

    public static void on_client_unsubscribe(Object clientinfo, Object props, Object filters, Object state) {
        CallPrinter.printed("client_unsubscribe", clientinfo, props, filters, state);
    }

    public static void on_session_created(Object clientinfo, Object state) {
        CallPrinter.printed("session_created", clientinfo, state);
    }

    public static void on_session_subscribed(Object clientinfo, Object topic, Object options, Object state) {
        CallPrinter.printed("session_subscribed", clientinfo, topic, options, state);
    }

    public static void on_session_unsubscribed(Object clientinfo, Object topic, Object state) {
        CallPrinter.printed("session_unsubscribed", clientinfo, topic, state);
    }

    public static void on_session_resumed(Object clientinfo, Object state) {
        CallPrinter.printed("session_resumed", clientinfo, state);
    }

    public static void on_session_discarded(Object clientinfo, Object state) {
        CallPrinter.printed("session_discarded", clientinfo, state);
    }

    public static void on_session_takeovered(Object clientinfo, Object state) {
        CallPrinter.printed("session_takeovered", clientinfo, state);
    }

    public static void on_session_terminated(Object clientinfo, Object reason, Object state) {
        CallPrinter.printed("session_terminated", clientinfo, reason, state);
    }

    public static void on_message_publish(Object message, Object state) {
        CallPrinter.printed("message_publish", message, state);
    }

    public static void on_message_delivered(Object clientinfo, Object message, Object state) {
        CallPrinter.printed("message_delivered", clientinfo, message, state);
    }

    public static void on_message_acked(Object clientinfo, Object message, Object state) {
        CallPrinter.printed("message_acked", clientinfo, message, state);
    }

    public static void on_message_dropped(Object message, Object reason, Object state) {
        CallPrinter.printed("message_dropped", message, reason, state);
    }
}
