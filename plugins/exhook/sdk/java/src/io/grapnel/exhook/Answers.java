package io.grapnel.exhook;

import java.io.ByteArrayOutputStream;
import java.util.Map;

/**
 * Collects answers and sends them in frames. Used by the worker's main thread only. No frame is
 * longer than the broker accepts.
 */
final class Answers {
    /** The result of a handler. */
    static final class Answer {
        static final int GO_ON = 0;
        static final int STOP = 1;
        static final int FAILED = 2;

        final int code;
        /** Nothing, a map of changes, or the text of a failure. */
        final Object value;

        private Answer(int code, Object value) {
            this.code = code;
            this.value = value;
        }

        static Answer goOn(Map<String, Object> changes) {
            return new Answer(GO_ON, changes.isEmpty() ? null : changes);
        }

        static Answer stop(Map<String, Object> changes) {
            return new Answer(STOP, changes);
        }

        static Answer failed(String text) {
            return new Answer(FAILED, text);
        }
    }

    private static final int TEXT_CHARS_MAX = 2000;
    /** Most bytes of `[2, […], done]` around the answers. */
    private static final int AROUND_BYTES = 16;
    /** Answers are sent when they reach this size, even if the frame has more calls. */
    private static final int GATHERED_BYTES_MAX = 1 << 20;

    private final Channel channel;
    private final int frameBytesMax;
    private final int textCharsMax;
    private final ByteArrayOutputStream gathered = new ByteArrayOutputStream();
    private int count;
    private long done;

    Answers(Channel channel, int frameBytesMax) {
        this.channel = channel;
        this.frameBytesMax = frameBytesMax;
        // A character has at most four bytes.
        this.textCharsMax = Math.min(TEXT_CHARS_MAX, frameBytesMax / 4 - AROUND_BYTES);
    }

    /** Counts a finished call; its answer is added before. */
    void done() {
        done++;
    }

    /**
     * Adds an answer; null means no change. If the answer is longer than the broker accepts, it
     * becomes a failure, and its text is returned; otherwise null.
     */
    String add(Object id, Answer answer) throws Channel.Closed {
        byte[] packed = packed(id, answer);
        String tooLong = null;
        if (packed.length + AROUND_BYTES > frameBytesMax) {
            tooLong = "the answer has " + packed.length + " bytes, the broker takes " + frameBytesMax
                    + " (frame_bytes_max)";
            packed = packed(id, Answer.failed(tooLong));
        }
        if (gathered.size() + packed.length + AROUND_BYTES > Math.min(frameBytesMax, GATHERED_BYTES_MAX) && count > 0) {
            // Calls before this one are finished; this one is not.
            flush();
        }
        gathered.write(packed, 0, packed.length);
        count++;
        return tooLong;
    }

    private byte[] packed(Object id, Answer answer) {
        return Wire.pack(to -> {
            to.packArrayHeader(3);
            Wire.write(to, id);
            to.packInt(answer == null ? Answer.GO_ON : answer.code);
            Object value = answer == null ? null : answer.value;
            if (value instanceof Map) {
                Map<?, ?> map = (Map<?, ?>) value;
                to.packMapHeader(map.size());
                for (Map.Entry<?, ?> entry : map.entrySet()) {
                    Wire.writeText(to, (String) entry.getKey());
                    Wire.write(to, entry.getValue());
                }
            } else if (value != null) {
                String text = value.toString();
                Wire.writeText(to, text.length() > textCharsMax ? text.substring(0, textCharsMax) + "…" : text);
            } else {
                to.packNil();
            }
        });
    }

    /** Sends the collected answers in one frame. */
    void flush() throws Channel.Closed {
        if (count == 0 && done == 0) {
            return;
        }
        channel.send(Wire.pack(to -> {
            to.packArrayHeader(3);
            to.packInt(2);
            to.packArrayHeader(count);
            to.writePayload(gathered.toByteArray());
            to.packLong(done);
        }));
        gathered.reset();
        count = 0;
        done = 0;
    }
}
