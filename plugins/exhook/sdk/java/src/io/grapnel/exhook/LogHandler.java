package io.grapnel.exhook;

import java.util.Map;
import java.util.logging.Formatter;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/**
 * Sends records of {@code java.util.logging} to the broker's log. Set up by the worker; lines may
 * come from any thread.
 */
final class LogHandler extends Handler {
    /** Writes a line with its level: 1 error, 2 warn, 3 info, 4 debug. */
    interface Lines {
        void line(int level, String text);
    }

    private static final Map<String, Level> LEVELS = Map.of(
            "error", Level.SEVERE, "warn", Level.WARNING, "warning", Level.WARNING, "info", Level.INFO,
            "debug", Level.FINEST);

    private final Lines lines;

    private LogHandler(Lines lines) {
        this.lines = lines;
    }

    /**
     * Replaces the JDK's default handlers, which print. {@code least}: error, warn, info (default),
     * debug.
     */
    static void install(Lines lines, String least) {
        Logger root = Logger.getLogger("");
        root.setLevel(LEVELS.getOrDefault(least, Level.INFO));
        for (Handler other : root.getHandlers()) {
            root.removeHandler(other);
        }
        root.addHandler(new LogHandler(lines));
    }

    @Override
    public void publish(LogRecord record) {
        if (!isLoggable(record)) {
            return;
        }
        StringBuilder text = new StringBuilder();
        if (record.getLoggerName() != null && !record.getLoggerName().isEmpty()) {
            text.append(record.getLoggerName()).append(": ");
        }
        text.append(TEXTS.formatMessage(record));
        if (record.getThrown() != null) {
            text.append('\n').append(Failures.tail(record.getThrown()));
        }
        lines.line(levelOf(record.getLevel()), text.toString());
    }

    private static final Formatter TEXTS = new Formatter() {
        @Override
        public String format(LogRecord record) {
            return formatMessage(record);
        }
    };

    private static int levelOf(Level level) {
        if (level.intValue() >= Level.SEVERE.intValue()) {
            return 1;
        }
        if (level.intValue() >= Level.WARNING.intValue()) {
            return 2;
        }
        return level.intValue() >= Level.CONFIG.intValue() ? 3 : 4;
    }

    @Override
    public void flush() {}

    @Override
    public void close() {}
}
