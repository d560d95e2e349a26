package io.grapnel.exhook;

import com.erlport.erlang.term.Binary;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.msgpack.core.MessageBufferPacker;
import org.msgpack.core.MessageFormat;
import org.msgpack.core.MessagePack;
import org.msgpack.core.MessagePacker;
import org.msgpack.core.MessageUnpacker;

/**
 * Converts between MessagePack and Java values. The channel reads frames with it, and the worker
 * writes them. It does not depend on the content of frames.
 *
 * <p>Text stays as bytes in a {@link Binary}, because hooks get those and no byte may change. Only
 * the keys of maps become strings. Integers are {@code Long}, or {@code BigInteger} if they do not
 * fit.
 */
final class Wire {
    /** Most frames are short; a large buffer for each would cost more than the writing. */
    private static final MessagePack.PackerConfig SMALL = new MessagePack.PackerConfig().withBufferSize(512);

    private Wire() {}

    /**
     * Decodes the value of a frame. Throws {@link IOException} or a MessagePackException for
     * invalid data.
     */
    static Object unpack(byte[] frame) throws IOException {
        try (MessageUnpacker unpacker = MessagePack.newDefaultUnpacker(frame)) {
            return value(unpacker);
        }
    }

    private static Object value(MessageUnpacker from) throws IOException {
        MessageFormat format = from.getNextFormat();
        switch (format.getValueType()) {
            case NIL:
                from.unpackNil();
                return null;
            case BOOLEAN:
                return from.unpackBoolean();
            case INTEGER:
                return format == MessageFormat.UINT64 ? narrowed(from) : (Object) from.unpackLong();
            case FLOAT:
                return from.unpackDouble();
            case STRING:
                return new Binary(from.readPayload(from.unpackRawStringHeader()));
            case BINARY:
                return new Binary(from.readPayload(from.unpackBinaryHeader()));
            case ARRAY:
                int length = from.unpackArrayHeader();
                List<Object> list = new ArrayList<>(Math.min(length, 4096));
                for (int i = 0; i < length; i++) {
                    list.add(value(from));
                }
                return list;
            case MAP:
                int pairs = from.unpackMapHeader();
                Map<String, Object> map = new HashMap<>();
                for (int i = 0; i < pairs; i++) {
                    map.put(text(value(from)), value(from));
                }
                return map;
            default:
                throw new IOException("a value of MessagePack of type " + format + ", which the protocol has not");
        }
    }

    private static Object narrowed(MessageUnpacker from) throws IOException {
        BigInteger number = from.unpackBigInteger();
        return number.bitLength() < Long.SIZE ? (Object) number.longValue() : number;
    }

    /** The text of a decoded value; the empty string for nil. */
    static String text(Object value) {
        if (value instanceof Binary) {
            return new String(((Binary) value).raw, StandardCharsets.UTF_8);
        }
        return value == null ? "" : value.toString();
    }

    /** The number of a decoded value; {@code otherwise} if it is not a number. */
    static long number(Object value, long otherwise) {
        return value instanceof Number ? ((Number) value).longValue() : otherwise;
    }

    /** Whether a decoded value is true. */
    static boolean flag(Object value) {
        return Boolean.TRUE.equals(value);
    }

    /** The list of a decoded value; empty if it is not a list. */
    @SuppressWarnings("unchecked")
    static List<Object> list(Object value) {
        return value instanceof List ? (List<Object>) value : List.of();
    }

    /** The map of a decoded value; empty if it is not a map. */
    @SuppressWarnings("unchecked")
    static Map<String, Object> map(Object value) {
        return value instanceof Map ? (Map<String, Object>) value : Map.of();
    }

    /** Writes the content of a frame. */
    interface Body {
        void write(MessagePacker to) throws IOException;
    }

    /** Encodes a frame, without its length. */
    static byte[] pack(Body body) {
        try (MessageBufferPacker packer = SMALL.newBufferPacker()) {
            body.write(packer);
            return packer.toByteArray();
        } catch (IOException error) {
            throw new IllegalStateException("a buffer in memory cannot be written", error);
        }
    }

    /**
     * Writes text in UTF-8. Half a surrogate pair becomes a question mark, because UTF-8 cannot
     * encode it.
     */
    static void writeText(MessagePacker to, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        to.packRawStringHeader(bytes.length);
        to.writePayload(bytes);
    }

    /** Writes a text, bytes, a number, a boolean, or nil. */
    static void write(MessagePacker to, Object value) throws IOException {
        if (value == null) {
            to.packNil();
        } else if (value instanceof byte[]) {
            to.packBinaryHeader(((byte[]) value).length);
            to.writePayload((byte[]) value);
        } else if (value instanceof Boolean) {
            to.packBoolean((Boolean) value);
        } else if (value instanceof BigInteger) {
            to.packBigInteger((BigInteger) value);
        } else if (value instanceof Number) {
            to.packLong(((Number) value).longValue());
        } else {
            writeText(to, value.toString());
        }
    }
}
