import com.erlport.erlang.term.Atom;
import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** A user name, or the last level of a topic, selects the answer. */
public class Verdicts {
    public static Object init() {
        List<Object> actions = new ArrayList<>();
        for (String hook : new String[] {"client_authenticate", "client_check_acl", "message_publish"}) {
            actions.add(Tuple.three(hook, "Verdicts", "on_" + hook));
        }
        return Tuple.two(0, Tuple.two(actions, null));
    }

    public static void deinit() {
        CallPrinter.printed("deinit");
    }

    private static Object of(Object record, String key) {
        for (Object pair : (List<?>) record) {
            Tuple tuple = (Tuple) pair;
            if (((Atom) tuple.elements[0]).value.equals(key)) {
                return tuple.elements[1];
            }
        }
        throw new IllegalArgumentException(key);
    }

    private static String text(Object binary) {
        return new String(((Binary) binary).raw, StandardCharsets.UTF_8);
    }

    private static Object answer(String what) throws InterruptedException {
        switch (what) {
            case "raise":
                throw new IllegalStateException("on purpose");
            case "slow":
                Thread.sleep(3_600_000);
                return null;
            case "true":
                return Tuple.two(0, true);
            case "false":
                return Tuple.two(0, new Atom("false"));
            case "error":
                return Tuple.two(1, "the database is away");
            case "text":
                return "yes";
            case "wrong":
                return Tuple.two(0, "yes");
            case "number":
                return 7;
            case "list":
                return new ArrayList<>();
            default:
                return null;
        }
    }

    public static Object on_client_authenticate(Object clientinfo, Object authresult, Object state)
            throws InterruptedException {
        return answer(text(of(clientinfo, "username")));
    }

    public static Object on_client_check_acl(
            Object clientinfo, Object action, Object topic, Object result, Object state) throws InterruptedException {
        String name = text(topic);
        return name.startsWith("acl/") ? answer(name.substring(4)) : null;
    }

    private static Object changed(Object... pairs) {
        return Tuple.two(0, Arrays.asList(pairs));
    }

    public static Object on_message_publish(Object message, Object state) throws InterruptedException {
        String topic = text(of(message, "topic"));
        if (!topic.startsWith("message/")) {
            return null;
        }
        String what = topic.substring("message/".length());
        switch (what) {
            case "topic":
                return changed(Tuple.two("topic", "changed/topic"));
            case "bytes":
                return changed(Tuple.two(new Binary("topic"), new Binary("changed/topic")));
            case "payload":
                return changed(Tuple.two(new Atom("payload"), new Binary(new byte[] {(byte) 0xFF, 0})));
            case "surrogates":
                ByteArrayOutputStream longer = new ByteArrayOutputStream();
                longer.writeBytes(((Binary) of(message, "payload")).raw);
                longer.write(0xFF);
                return changed(Tuple.two("payload", new Binary(longer.toByteArray())));
            case "text payload":
                return changed(Tuple.two("payload", "\u00e4"));
            case "qos":
                return changed(Tuple.two("qos", 0));
            case "all":
                return changed(
                        Tuple.two("topic", new Binary("changed/all")), Tuple.two("payload", "p"), Tuple.two("qos", 2));
            case "nothing":
                return changed();
            case "wrong qos":
                return changed(Tuple.two("qos", 3));
            case "wrong pairs":
                return changed(1);
            default:
                return answer(what);
        }
    }
}
