import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.util.Arrays;
import java.util.List;

/** Reverses payloads, and allows a login with all byte values as password. */
public class Mirror {
    public static Object init() {
        Object mirror = Arrays.asList(Tuple.two("topics", Arrays.asList(new Binary("mirror/#"))));
        return Tuple.two(0, Tuple.two(
                Arrays.asList(
                        Tuple.four("message_publish", "Mirror", "turn", mirror),
                        Tuple.three("client_authenticate", "Mirror", "knows")),
                "no state"));
    }

    public static Object turn(Object message, Object state) {
        byte[] payload = ((Binary) value(message, 5)).raw;
        byte[] turned = new byte[payload.length];
        for (int i = 0; i < payload.length; i++) {
            turned[i] = payload[payload.length - 1 - i];
        }
        if (turned.length == 4 && new String(payload).equals("halt")) {
            Runtime.getRuntime().halt(3);
        }
        return Tuple.two(0, Arrays.asList(Tuple.two("payload", new Binary(turned))));
    }

    public static Object knows(Object clientinfo, Object authresult, Object state) {
        byte[] password = ((Binary) value(clientinfo, 3)).raw;
        boolean all = password.length == 256;
        for (int i = 0; all && i < 256; i++) {
            all = password[i] == (byte) i;
        }
        return Tuple.two(0, all);
    }

    private static Object value(Object record, int place) {
        return ((Tuple) ((List<?>) record).get(place)).elements[1];
    }
}
