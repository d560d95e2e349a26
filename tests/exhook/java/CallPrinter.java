import com.erlport.erlang.term.Atom;
import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.StringJoiner;

/** Prints a call of a hook as one line of JSON for a test. */
final class CallPrinter {
    private CallPrinter() {}

    static void printed(String hook, Object... arguments) {
        StringJoiner all = new StringJoiner(", ", "[", "]");
        for (Object argument : arguments) {
            all.add(show(argument));
        }
        System.out.println("CALL [" + quoted(hook) + ", " + all + "]");
    }

    private static String show(Object value) {
        if (value == null || value instanceof Boolean || value instanceof Number) {
            return String.valueOf(value);
        }
        if (value instanceof Atom) {
            return quoted(((Atom) value).value);
        }
        if (value instanceof Binary) {
            return bytes(((Binary) value).raw);
        }
        if (value instanceof Tuple) {
            StringJoiner items = new StringJoiner(", ", "{\"tuple\": [", "]}");
            for (Object item : ((Tuple) value).elements) {
                items.add(show(item));
            }
            return items.toString();
        }
        if (value instanceof List) {
            List<?> list = (List<?>) value;
            boolean record = !list.isEmpty();
            for (Object item : list) {
                record &= item instanceof Tuple && ((Tuple) item).elements.length == 2;
            }
            StringJoiner items = record ? new StringJoiner(", ", "{\"record\": [", "]}") : new StringJoiner(", ", "[", "]");
            for (Object item : list) {
                Object[] pair = record ? ((Tuple) item).elements : null;
                items.add(record ? "[" + show(pair[0]) + ", " + show(pair[1]) + "]" : show(item));
            }
            return items.toString();
        }
        return "{" + quoted(value.getClass().getSimpleName()) + ": " + quoted(value.toString()) + "}";
    }

    private static String bytes(byte[] bytes) {
        try {
            return quoted(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString());
        } catch (CharacterCodingException notText) {
            StringBuilder hex = new StringBuilder();
            for (byte each : bytes) {
                hex.append(String.format("%02x", each));
            }
            return "{\"bytes\": \"" + hex + "\"}";
        }
    }

    private static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }
}
