package io.grapnel.exhook;

import io.grapnel.exhook.Answers.Answer;
import io.grapnel.exhook.Hooks.Handler;
import java.io.BufferedOutputStream;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;

/**
 * The worker: reads frames (PROTOCOL.md), calls the hooks one after the other on one thread, and
 * sends the results. The broker starts it with the socket as its standard input.
 */
public final class Worker {
    private static final String VERSION = version();
    private static final int PROTOCOL = 1;
    /** Most time that answers wait for other calls of the same frame, nanoseconds. */
    private static final long HOLD_NS = 20_000_000L;
    /** Default time for the shutdown, milliseconds. */
    private static final long SHUTDOWN_MS = 2000;
    /** Part of the shutdown time that is reserved for the log, milliseconds; at most an eighth. */
    private static final long SPARE_MS = 250;
    private static final int LINE_CHARS_MAX = 32 * 1024;
    private static final int DESCRIBED = -1;
    private static final int FORGOTTEN = -2;

    private final Channel channel;
    private final AtomicBoolean ending = new AtomicBoolean();
    private final Failures failures = new Failures(text -> log(1, text));
    private volatile int frameBytesMax = 16 << 20;
    private volatile long shutdownMs = SHUTDOWN_MS;
    /** What runs at the end, for the log line if the time is over. */
    private volatile String now = "what had begun";
    private Hooks hooks;
    private Handlers handlers;
    private Handler[] table = {};
    private Answers answers;

    private Worker(Channel channel) {
        this.channel = channel;
    }

    /** Runs on the broker's socket, then ends the process. */
    public static void main(String[] arguments) {
        if (!"0".equals(System.getenv("GRAPNEL_WORKER_FD"))) {
            System.err.println("io.grapnel.exhook.Worker is started by the broker's exhook plugin, with its socket as"
                    + " standard input (GRAPNEL_WORKER_FD is not 0)");
            System.exit(2);
        }
        // Printed lines go to the broker's log one by one, independent of the machine's character
        // set.
        System.setOut(printer(FileDescriptor.out));
        System.setErr(printer(FileDescriptor.err));
        System.setIn(InputStream.nullInputStream());
        leaveSignalsToTheBroker();
        FileDescriptor socket = FileDescriptor.in;
        Worker worker = new Worker(new Channel(new FileInputStream(socket), new FileOutputStream(socket)));
        int code;
        try {
            code = worker.run();
        } catch (Throwable error) {
            // A fault of the worker, not of a hook. Calls would stay unanswered if it continued.
            System.err.println("the worker has to end: " + Failures.tail(error));
            code = 1;
        }
        // Threads and shutdown hooks of user code must not keep the process alive.
        worker.now = "a shutdown hook";
        worker.endSoon();
        System.out.flush();
        System.err.flush();
        System.exit(code);
    }

    /** Flushes at the end of each line, not within a line. */
    private static final class Lines extends BufferedOutputStream {
        Lines(OutputStream out) {
            super(out);
        }

        @Override
        public synchronized void write(int each) throws IOException {
            super.write(each);
            if (each == '\n') {
                flush();
            }
        }

        @Override
        public synchronized void write(byte[] bytes, int from, int length) throws IOException {
            super.write(bytes, from, length);
            for (int i = from; i < from + length; i++) {
                if (bytes[i] == '\n') {
                    flush();
                    return;
                }
            }
        }
    }

    /**
     * Service managers signal all processes of a service, but the broker decides when a worker
     * ends. The handler does nothing: an ignored signal would stay ignored in processes that user
     * code starts.
     */
    private static void leaveSignalsToTheBroker() {
        for (String name : List.of("TERM", "INT", "HUP", "USR1", "USR2")) {
            try {
                Class<?> signal = Class.forName("sun.misc.Signal");
                Class<?> handler = Class.forName("sun.misc.SignalHandler");
                Object nothing = Proxy.newProxyInstance(
                        Worker.class.getClassLoader(), new Class<?>[] {handler}, (proxy, method, arguments) -> null);
                Object number = signal.getConstructor(String.class).newInstance(name);
                signal.getMethod("handle", signal, handler).invoke(null, number, nothing);
            } catch (ReflectiveOperationException | IllegalArgumentException error) {
                // This Java uses the signal itself, or was started with an option to leave signals
                // alone. Then the signal may end the worker, and the broker starts another.
            }
        }
    }

    private static PrintStream printer(FileDescriptor to) {
        PrintStream stream = new PrintStream(new Lines(new FileOutputStream(to)), false, StandardCharsets.UTF_8);
        // A hook may end the process; the last line may be unterminated.
        Runtime.getRuntime().addShutdownHook(new Thread(stream::flush, "grapnel-flush"));
        return stream;
    }

    /**
     * Serves until the broker sends stop or is gone. Returns 0 then, 1 if the worker could not
     * continue.
     */
    private int run() {
        int code = 0;
        channel.open(this::endSoon);
        try {
            List<Object> first = Wire.list(channel.next());
            if (first.size() != 2 || Wire.number(first.get(0), -1) != 0) {
                return cannot(new LoadError("the first frame of the broker is not its setup"));
            }
            Map<String, Object> setup = Wire.map(first.get(1));
            long most = Wire.number(setup.get("frame_bytes_max"), frameBytesMax);
            frameBytesMax = (int) Math.max(1024, Math.min(most, Integer.MAX_VALUE));
            shutdownMs = Math.max(1, Wire.number(setup.get("farewell_timeout_ms"), SHUTDOWN_MS));
            answers = new Answers(channel, frameBytesMax);
            LogHandler.install(this::log, Wire.text(Wire.map(setup.get("config")).get("log_level")));
            try {
                load(setup);
            } catch (OutOfMemoryError error) {
                throw error;
            } catch (Throwable error) {
                return cannot(error);
            }
            serve();
        } catch (Channel.Closed gone) {
            // The broker is gone and reads no more, but the hooks' own shutdown still runs.
            if (gone.getCause() != null && !(gone.getCause() instanceof IOException)) {
                System.err.println("the worker cannot read what the broker sends: " + gone.getCause());
                code = 1;
            }
        } catch (OutOfMemoryError error) {
            outOfMemory(error);
        }
        shutdown();
        return code;
    }

    // Loading

    private void load(Map<String, Object> setup) throws Throwable {
        if (Wire.number(setup.get("protocol"), -1) != PROTOCOL) {
            throw new LoadError("the broker speaks protocol " + setup.get("protocol") + ", grapnel-exhook.jar "
                    + VERSION + " speaks " + PROTOCOL + "; use the jar that came with the broker");
        }
        String driver = Wire.text(setup.get("driver"));
        if (!driver.equals("java")) {
            throw new LoadError("this worker runs driver java, not " + driver);
        }
        List<String> path = Wire.list(setup.get("path")).stream().map(Wire::text).collect(Collectors.toList());
        UserLoader loader = UserLoader.over(path);
        Thread.currentThread().setContextClassLoader(loader);
        String module = Wire.text(setup.get("init_module"));
        hooks = new Hooks(module.isEmpty() ? "Main" : module, loader, Wire.text(setup.get("node")));
        hooks.load();
        announce(Wire.map(setup.get("points")));
    }

    private void announce(Map<String, Object> points) throws LoadError, Channel.Closed {
        List<Hooks.Entry> entries = hooks.entries();
        handlers = hooks.handlers();
        long highest = points.values().stream().mapToLong(number -> Wire.number(number, 0)).max().orElse(0);
        table = new Handler[(int) highest + 1];
        for (Hooks.Entry entry : entries) {
            if (!points.containsKey(entry.kind.point)) {
                throw new LoadError("this broker has no hook point " + entry.kind.point + "; it has "
                        + String.join(", ", new TreeSet<>(points.keySet())));
            }
            table[(int) Wire.number(points.get(entry.kind.point), 0)] = handlers.at(entry.kind.point);
        }
        channel.send(Wire.pack(to -> {
            to.packArrayHeader(2);
            to.packInt(0);
            to.packMapHeader(4);
            Wire.writeText(to, "protocol");
            to.packInt(PROTOCOL);
            Wire.writeText(to, "sdk");
            Wire.writeText(to, "grapnel-exhook " + VERSION + " (Java " + System.getProperty("java.version") + ")");
            Wire.writeText(to, "pid");
            to.packLong(ProcessHandle.current().pid());
            Wire.writeText(to, "hooks");
            to.packArrayHeader(entries.size());
            for (Hooks.Entry entry : entries) {
                to.packMapHeader(3);
                Wire.writeText(to, "point");
                Wire.writeText(to, entry.kind.point);
                Wire.writeText(to, "topics");
                to.packArrayHeader(entry.topics.size());
                for (String topic : entry.topics) {
                    Wire.writeText(to, topic);
                }
                Wire.writeText(to, "answers");
                to.packBoolean(entry.kind.answers);
            }
        }));
    }

    private int cannot(Throwable error) {
        String text = Failures.tail(error);
        int most = Math.max(256, frameBytesMax / 4 - 64);
        String end = text.length() <= most ? text : text.substring(text.length() - most);
        try {
            channel.send(Wire.pack(to -> {
                to.packArrayHeader(2);
                to.packInt(1);
                Wire.writeText(to, end);
            }));
        } catch (Channel.Closed gone) {
            System.err.println(text);
        }
        return 1;
    }

    // Frames

    private void serve() throws Channel.Closed {
        while (true) {
            Object frame = channel.next();
            if (Channel.isStop(frame)) {
                return;
            }
            List<Object> parts = Wire.list(frame);
            if (parts.size() == 2 && Wire.number(parts.get(0), -1) == 1) {
                calls(Wire.list(parts.get(1)));
            } else {
                log(2, "a frame of the broker begins with " + (parts.isEmpty() ? frame : parts.get(0))
                        + ", which this version does not know");
            }
        }
    }

    private void calls(List<Object> calls) throws Channel.Closed {
        long until = System.nanoTime() + HOLD_NS;
        for (Object each : calls) {
            List<Object> call = Wire.list(each);
            int point = (int) Wire.number(call.get(1), 0);
            long client = Wire.number(call.get(2), 0);
            if (point == DESCRIBED) {
                hooks.records().clients().describe(client, Wire.map(call.get(3)));
            } else if (point == FORGOTTEN) {
                hooks.records().clients().forget(client);
            } else {
                Answer answer = call(point, client, Wire.list(call.get(3)));
                if (Wire.number(call.get(0), -1) != 0) {
                    String tooLong = answers.add(call.get(0), answer);
                    if (tooLong != null) {
                        failures.failed("answer", tooLong, null);
                    }
                }
            }
            answers.done();
            if (System.nanoTime() - until > 0) {
                answers.flush();
                until = System.nanoTime() + HOLD_NS;
            }
        }
        answers.flush();
    }

    private Answer call(int point, long client, List<Object> data) {
        Answer answer;
        try {
            Handler handler = point < table.length ? table[point] : null;
            if (handler == null) {
                throw new IllegalStateException("the broker calls point " + point + ", where this worker has no hook");
            }
            answer = handler.call(client, data);
            if (answer != null && answer.code == Answer.FAILED) {
                failures.failed(handlers.called(), answer.value.toString(), null);
            }
        } catch (OutOfMemoryError error) {
            throw error;
        } catch (Throwable error) {
            String text = handlers.called() + ": " + Failures.line(error);
            failures.failed(handlers.called(), text, error);
            answer = Answer.failed(text);
        }
        // A hook may have interrupted its own thread; this must not affect the next hook.
        Thread.interrupted();
        return answer;
    }

    private void log(int level, String text) {
        int most = Math.min(LINE_CHARS_MAX, Math.max(64, frameBytesMax / 4 - 64));
        String line = text.length() <= most ? text : text.substring(0, most) + "…";
        try {
            channel.send(Wire.pack(to -> {
                to.packArrayHeader(3);
                to.packInt(3);
                to.packInt(level);
                Wire.writeText(to, line);
            }));
        } catch (Channel.Closed gone) {
            // The broker is gone.
        }
    }

    // The end

    private void shutdown() {
        if (hooks == null) {
            return;
        }
        now = "deinit()";
        try {
            hooks.stop();
        } catch (Throwable error) {
            log(1, "the shutdown failed: " + Failures.tail(error));
        }
    }

    /** Ends the process at the deadline, whatever user code does. May be called from any thread. */
    private void endSoon() {
        if (ending.compareAndSet(false, true)) {
            Thread last = new Thread(this::endAtLast, "grapnel-last");
            last.setDaemon(true);
            last.start();
        }
    }

    private void endAtLast() {
        long last = shutdownMs - Math.min(SPARE_MS, shutdownMs / 8);
        long until = System.nanoTime() + last * 1_000_000;
        for (long left = last; left > 0; left = (until - System.nanoTime()) / 1_000_000) {
            try {
                Thread.sleep(left);
            } catch (InterruptedException notMeantForUs) {
                continue;
            }
        }
        // Logged on another thread, because the blocked code may hold the log's lock.
        Thread words = new Thread(
                () -> {
                    log(1, now + " did not come to an end within " + shutdownMs + " ms and is cut");
                    System.out.flush();
                    System.err.flush();
                },
                "grapnel-words");
        words.setDaemon(true);
        words.start();
        try {
            words.join(SPARE_MS / 2);
        } catch (InterruptedException notMeantForUs) {
            // The line is not logged then.
        }
        Runtime.getRuntime().halt(1);
    }

    private static void outOfMemory(OutOfMemoryError error) {
        // The state of the heap is unknown; the broker starts another process.
        System.err.println("the worker ends: " + error);
        System.err.flush();
        Runtime.getRuntime().halt(3);
    }

    private static String version() {
        String version = Worker.class.getPackage().getImplementationVersion();
        return version == null ? "unpackaged" : version;
    }
}
