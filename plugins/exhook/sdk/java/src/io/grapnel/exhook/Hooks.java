package io.grapnel.exhook;

import io.grapnel.exhook.Answers.Answer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Runs unchanged hooks of EMQX 4.1's Java driver: {@code init()} returns a hookspec; hooks get
 * positional arguments, the last one is the state. The worker calls it on its main thread. {@link
 * Handlers} converts the results.
 */
final class Hooks {
    /** A kind of hook in EMQX. */
    static final class Kind {
        final String name;
        /** Name of the hook point. */
        final String point;
        /** Number of arguments before the state. */
        final int arguments;
        /** Whether the broker waits for the result. */
        final boolean answers;

        private Kind(String name, String point, int arguments, boolean answers) {
            this.name = name;
            this.point = point;
            this.arguments = arguments;
            this.answers = answers;
        }

        boolean isAboutMessage() {
            return name.startsWith("message_");
        }
    }

    private static final Map<String, Kind> KINDS = new LinkedHashMap<>();

    static {
        kind("client_connect", "client.connect", 2, false);
        kind("client_connack", "client.connack", 3, false);
        kind("client_connected", "client.connected", 1, false);
        kind("client_disconnected", "client.disconnected", 2, false);
        kind("client_authenticate", "client.authenticate", 2, true);
        kind("client_check_acl", "client.authorize", 4, true);
        kind("client_subscribe", "client.subscribe", 3, false);
        kind("client_unsubscribe", "client.unsubscribe", 3, false);
        kind("session_created", "session.created", 1, false);
        kind("session_subscribed", "session.subscribed", 3, false);
        kind("session_unsubscribed", "session.unsubscribed", 2, false);
        kind("session_resumed", "session.resumed", 1, false);
        kind("session_discarded", "session.discarded", 1, false);
        kind("session_takeovered", "session.takenover", 1, false);
        kind("session_terminated", "session.terminated", 2, false);
        kind("message_publish", "message.publish", 1, true);
        kind("message_delivered", "message.delivered", 2, false);
        kind("message_acked", "message.acked", 2, false);
        kind("message_dropped", "message.dropped", 2, false);
    }

    private static void kind(String name, String point, int arguments, boolean answers) {
        KINDS.put(name, new Kind(name, point, arguments, answers));
    }

    /** The handler of one hook point. */
    interface Handler {
        /** Calls the hooks; null means no change. Throws what a hook throws. */
        Answer call(long client, List<Object> data) throws Throwable;
    }

    private final String module;
    private final Hook.Classes classes;
    private final Records records;
    private final Map<Kind, List<Hook>> hooks = new LinkedHashMap<>();
    private Object state;
    private Hook shutdown;

    Hooks(String module, UserLoader loader, String node) {
        this.module = module;
        this.classes = new Hook.Classes(loader);
        this.records = new Records(node);
    }

    Records records() {
        return records;
    }

    /**
     * Loads the class and runs its {@code init()}. Throws {@link LoadError}, or what user code
     * throws.
     */
    void load() throws Throwable {
        Class<?> type = classes.named(module, "init_module");
        Hook init = classes.find(type, "init", 0);
        if (init == null) {
            throw new LoadError("class " + module + " has no init() without parameters");
        }
        shutdown = classes.find(type, "deinit", 0);
        Object returned = init.call();
        Object[] pair = Terms.tuple(returned, 2);
        int code = pair == null ? -1 : Terms.number(pair[0]);
        if (code == 1) {
            throw new LoadError("init() of " + module + " refused: " + Terms.shown(pair[1]));
        }
        Object[] found = code == 0 ? Terms.tuple(pair[1], 2) : null;
        List<?> actions = found == null ? null : Terms.list(found[0]);
        if (actions == null) {
            throw new LoadError("init() of " + module + " returned " + Terms.shown(returned)
                    + ", not Tuple.two(0, Tuple.two(list of actions, state))");
        }
        state = found[1];
        for (Object action : actions) {
            add(action);
        }
        if (hooks.isEmpty()) {
            throw new LoadError("the hookspec of " + module + " is empty");
        }
    }

    private void add(Object action) throws Throwable {
        Object[] parts = Terms.tuple(action, 3) != null ? Terms.tuple(action, 3) : Terms.tuple(action, 4);
        String name = parts == null ? null : Terms.text(parts[0]);
        String className = parts == null ? null : Terms.text(parts[1]);
        String method = parts == null ? null : Terms.text(parts[2]);
        if (name == null || className == null || method == null) {
            throw new LoadError(Terms.shown(action)
                    + " in the hookspec is not Tuple.three(hook, class, method)"
                    + " or Tuple.four(hook, class, method, opts)");
        }
        Kind kind = KINDS.get(name);
        if (kind == null) {
            throw new LoadError("the hookspec names hook '" + name + "', which EMQX has not; it has "
                    + String.join(", ", KINDS.keySet()));
        }
        Class<?> type = classes.named(className, "the hookspec of " + name);
        Hook hook = classes.find(type, method, kind.arguments + 1);
        if (hook == null && name.equals("client_connack")) {
            // EMQX's SDK for Python passes conninfo, props, state; EMQX's driver also passed rc.
            hook = classes.find(type, method, kind.arguments);
        }
        if (hook == null) {
            String others = Hook.Classes.counts(type, method);
            throw new LoadError("the hookspec of " + name + " names " + className + "." + method + ", but " + className
                    + " has no method " + method + " with " + (kind.arguments + 1) + " parameters"
                    + (others.isEmpty() ? "" : "; there it takes " + others));
        }
        hook.onlyFor(parts.length == 4 ? topics(name, parts[3]) : List.of());
        hooks.computeIfAbsent(kind, k -> new ArrayList<>()).add(hook);
    }

    /** The filters in opts: pairs of {@code topics} and a list, or a plain list. */
    private static List<String> topics(String name, Object opts) throws LoadError {
        if (opts == null) {
            return List.of();
        }
        List<?> items = Terms.list(opts);
        if (items == null) {
            throw new LoadError("the opts of " + name + " in the hookspec are " + Terms.shown(opts) + ", not a list");
        }
        List<String> topics = new ArrayList<>();
        for (Object item : items) {
            Object[] pair = Terms.tuple(item, 2);
            if (Terms.text(item) != null) {
                topics.add(filter(name, item));
            } else if (pair != null && "topics".equals(Terms.text(pair[0]))) {
                List<?> filters = Terms.list(pair[1]);
                if (filters == null) {
                    throw new LoadError(
                            "the topics of " + name + " in the hookspec are " + Terms.shown(pair[1]) + ", not a list");
                }
                for (Object each : filters) {
                    topics.add(filter(name, each));
                }
            }
        }
        return topics;
    }

    private static String filter(String name, Object filter) throws LoadError {
        String text = Terms.text(filter);
        try {
            if (text != null) {
                return Topics.check(text);
            }
            throw new LoadError(Terms.shown(filter) + " is neither a String nor a Binary of UTF-8");
        } catch (LoadError error) {
            throw new LoadError("the topics of " + name + " in the hookspec: " + error.getMessage());
        }
    }

    /** One entry of {@code ready} for each point. */
    List<Entry> entries() {
        List<Entry> entries = new ArrayList<>();
        hooks.forEach((kind, list) -> {
            Set<String> topics = new LinkedHashSet<>();
            list.forEach(hook -> topics.addAll(hook.topics()));
            boolean all = !kind.isAboutMessage() || list.stream().anyMatch(Hook::isForEveryTopic);
            entries.add(new Entry(kind, all ? List.of() : List.copyOf(topics)));
        });
        return entries;
    }

    /** The entry of a point in {@code ready}. */
    static final class Entry {
        final Kind kind;
        final List<String> topics;

        private Entry(Kind kind, List<String> topics) {
            this.kind = kind;
            this.topics = topics;
        }
    }

    /** The handlers of all points. */
    Handlers handlers() {
        return new Handlers(records, hooks, state);
    }

    /** Runs the hooks' own shutdown. Throws what it throws. */
    void stop() throws Throwable {
        if (shutdown != null) {
            shutdown.call();
        }
    }
}
