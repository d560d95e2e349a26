package com.erlport.erlang.term;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * Bytes: texts of MQTT in UTF-8, payloads and passwords. Users' hooks read {@link #raw}. Hooks for
 * EMQX 4.1 are compiled against this name and these members.
 */
public class Binary {
    /** The bytes. */
    public byte[] raw;

    /** These bytes, without a copy. */
    public Binary(byte[] bytes) {
        this.raw = bytes;
    }

    /**
     * The bytes of a text in UTF-8, independent of the machine's character set. Empty for null, because
     * hooks convert an empty text to null and back.
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
