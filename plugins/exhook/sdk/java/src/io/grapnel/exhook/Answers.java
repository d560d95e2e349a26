package io.grapnel.exhook;

import java.io.ByteArrayOutputStream;
import java.util.Map;

/**
 * Answers that gather until they are sent, and the frames they go in. The worker's main thread alone uses it. No frame
 * that comes out of it is longer than the broker takes.
 */
final class Answers {
    /** What a handler came to. */
    static final class Answer {
        static final int GO_ON = 0;
        static final int STOP = 1;
        static final int FAILED = 2;

        final int code;
        /** Nothing, a map of what changes, or the text of a failure. */
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
    /** What `[2, […], done]` needs around the answers, at most. */
    private static final int AROUND_BYTES = 16;
    /** Gathered answers are sent when they have come to so much, though more calls wait in the frame. */
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
        // A character has four bytes at most.
        this.textCharsMax = Math.min(TEXT_CHARS_MAX, frameBytesMax / 4 - AROUND_BYTES);
    }

    /** A call is done; what it was answered comes before this. */
    void done() {
        done++;
    }

    /**
     * Takes an answer; null goes on unchanged. Returns the text of the failure it became, where it is longer than the
     * broker takes, else null.
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
            // What was done before this call is done; this one is not yet.
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

    /** Sends what has gathered, in one frame. */
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
