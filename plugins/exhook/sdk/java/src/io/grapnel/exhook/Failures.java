package io.grapnel.exhook;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Failures of user code, as the operator reads them: log lines at a limited rate, and stack traces
 * without the worker's own frames.
 */
final class Failures {
    /** Writes a line to the log. */
    interface Log {
        void error(String text);
    }

    private static final int TRACE_CHARS_MAX = 6000;
    private static final int HEAD_CHARS_MAX = 1500;
    private static final int CAUSES_MAX = 16;
    private static final long PAUSE_NS = 1_000_000_000L;

    private static final class Seen {
        long last;
        long more;
    }

    private final Log log;
    private final Map<String, Seen> seen = new HashMap<>();

    Failures(Log log) {
        this.log = log;
    }

    /** Logs a failure at a place, with its stack trace, at most once a second for each place. */
    void failed(String place, String text, Throwable error) {
        long now = System.nanoTime();
        Seen known = seen.get(place);
        if (known != null && now - known.last < PAUSE_NS) {
            known.more++;
            return;
        }
        String more = "";
        if (known == null) {
            known = new Seen();
            seen.put(place, known);
        } else if (known.more > 0) {
            more = " (" + known.more + " more like it since the last line)";
        }
        known.last = now;
        known.more = 0;
        log.error(text + more + (error == null ? "" : "\n" + trace(error)));
    }

    /** One line: the class of an error and its text. */
    static String line(Throwable error) {
        String text;
        try {
            text = String.valueOf(error);
        } catch (Throwable another) {
            text = error.getClass().getName();
        }
        return text.replace('\n', ' ');
    }

    /**
     * The text of a {@link LoadError}, also if it is the cause; otherwise the stack trace. Of a
     * long one the beginning and the end.
     */
    static String tail(Throwable error) {
        Throwable each = error;
        for (int depth = 0; each != null && depth < CAUSES_MAX; depth++) {
            if (each instanceof LoadError) {
                return each.getMessage();
            }
            each = each.getCause();
        }
        return trace(error);
    }

    private static String trace(Throwable error) {
        List<String> lines = new ArrayList<>();
        Throwable each = error;
        for (int depth = 0; each != null && depth < CAUSES_MAX; depth++) {
            lines.add((depth == 0 ? "" : "Caused by: ") + line(each));
            for (StackTraceElement frame : each.getStackTrace()) {
                if (!isOurs(frame)) {
                    lines.add("\tat " + frame);
                }
            }
            each = each.getCause();
        }
        String text = String.join("\n", lines);
        if (text.length() <= TRACE_CHARS_MAX) {
            return text;
        }
        int tail = text.length() - (TRACE_CHARS_MAX - HEAD_CHARS_MAX);
        return text.substring(0, HEAD_CHARS_MAX) + "\n…" + text.substring(tail);
    }

    private static boolean isOurs(StackTraceElement frame) {
        String name = frame.getClassName();
        return name.startsWith("io.grapnel.exhook.")
                || name.startsWith("jdk.internal.reflect.")
                || name.startsWith("java.lang.invoke.")
                || name.startsWith("java.lang.reflect.");
    }
}
