package com.erlport.erlang.term;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * Bytes: texts of MQTT in UTF-8, and payloads and passwords whatever stands in them. Users' hooks read {@link #raw};
 * the class has the name and the members that hooks for EMQX 4.1 are compiled against.
 */
public class Binary {
    /** The bytes. */
    public byte[] raw;

    /** These bytes, without a copy. */
    public Binary(byte[] bytes) {
        this.raw = bytes;
    }

    /**
     * The bytes of a text in UTF-8, whatever the machine's character set is; none for null, because hooks turn an empty
     * text into null and back.
     */
    public Binary(String text) {
        this.raw = text == null ? new byte[0] : text.getBytes(StandardCharsets.UTF_8);
    }

    /** Whether the other is a binary of the same bytes. */
    @Override
    public boolean equals(Object other) {
        return other instanceof Binary && Arrays.equals(raw, ((Binary) other).raw);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(raw);
    }

    @Override
    public String toString() {
        return "Binary{raw=" + Arrays.toString(raw) + "}";
    }
}
