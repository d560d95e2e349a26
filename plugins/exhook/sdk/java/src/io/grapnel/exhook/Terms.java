package io.grapnel.exhook;

import com.erlport.erlang.term.Atom;
import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;

/**
 * Reads values of user code: names as text, atom or binary, numbers, lists. Used for hookspecs and
 * answers.
 */
final class Terms {
    private static final int SHORT_CHARS = 200;

    private Terms() {}

    /** The text of a String, an atom, or a UTF-8 binary; null for anything else. */
    static String text(Object value) {
        if (value instanceof String) {
            return (String) value;
        }
        if (value instanceof Atom) {
            return ((Atom) value).value;
        }
        byte[] bytes = value instanceof Binary ? ((Binary) value).raw : value instanceof byte[] ? (byte[]) value : null;
        try {
            return bytes == null
                    ? null
                    : StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException error) {
            return null;
        }
    }

    /** The bytes of a binary, of bytes, or of text in UTF-8; null for anything else. */
    static byte[] bytes(Object value) {
        if (value instanceof Binary) {
            return ((Binary) value).raw;
        }
        if (value instanceof byte[]) {
            return (byte[]) value;
        }
        return value instanceof String ? ((String) value).getBytes(StandardCharsets.UTF_8) : null;
    }

    /** A list, or an array, which EMQX's drivers also accepted; null for anything else. */
    static List<?> list(Object value) {
        if (value instanceof List) {
            return (List<?>) value;
        }
        return value instanceof Object[] ? Arrays.asList((Object[]) value) : null;
    }

    /** The values of a tuple of this length; null for anything else. */
    static Object[] tuple(Object value, int length) {
        Object[] elements = value instanceof Tuple ? ((Tuple) value).elements : null;
        return elements != null && elements.length == length ? elements : null;
    }

    /** An integer; -1 for anything else, for negative numbers, and for more than 32 bits. */
    static int number(Object value) {
        boolean whole = value instanceof Integer || value instanceof Long || value instanceof Short
                || value instanceof Byte || value instanceof BigInteger;
        if (!whole) {
            return -1;
        }
        BigInteger number = new BigInteger(value.toString());
        return number.signum() >= 0 && number.bitLength() < Integer.SIZE ? number.intValue() : -1;
    }

    /** A boolean: a Boolean, or an atom true or false; null for anything else. */
    static Boolean flag(Object value) {
        if (value instanceof Boolean) {
            return (Boolean) value;
        }
        String name = value instanceof Atom ? ((Atom) value).value : null;
        return "true".equals(name) ? Boolean.TRUE : "false".equals(name) ? Boolean.FALSE : null;
    }

    /** Whether a value means no change: null, or an atom ok or undefined. */
    static boolean isNothing(Object value) {
        String name = value instanceof Atom ? ((Atom) value).value : null;
        return value == null || "ok".equals(name) || "undefined".equals(name);
    }

    /** A value for a message, shortened if it is long. Texts are readable in it. */
    static String shown(Object value) {
        String text;
        try {
            String readable = value instanceof Binary ? text(value) : null;
            text = readable == null ? String.valueOf(value) : readable;
        } catch (RuntimeException error) {
            text = "something whose toString() fails with " + error.getClass().getName();
        }
        return text.length() <= SHORT_CHARS ? text : text.substring(0, SHORT_CHARS) + "…";
    }
}
