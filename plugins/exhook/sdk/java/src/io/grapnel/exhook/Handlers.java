package io.grapnel.exhook;

import com.erlport.erlang.term.Binary;
import erlport.terms.Atom;
import io.grapnel.exhook.Answers.Answer;
import io.grapnel.exhook.Hooks.Handler;
import io.grapnel.exhook.Hooks.Kind;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The handlers of the hook points: build the arguments, call the hooks in order, and convert their
 * results into the answer. Used by the worker's main thread only.
 */
final class Handlers {
    private static final byte[] SYS = "$SYS/".getBytes(StandardCharsets.UTF_8);
    private static final long DENIED = 2;
    private static final long SUBSCRIBE = 2;

    private final Records records;
    private final Object state;
    private final Map<String, Handler> handlers = new HashMap<>();
    private String called = "";

    Handlers(Records records, Map<Kind, List<Hook>> hooks, Object state) {
        this.records = records;
        this.state = state;
        hooks.forEach((kind, list) -> handlers.put(kind.point, handler(kind, List.copyOf(list))));
    }

    /** The handler of a point; null if no hook is there. */
    Handler at(String point) {
        return handlers.get(point);
    }

    /** The hook that was called last, or has failed: class and method. */
    String called() {
        return called;
    }

    private Handler handler(Kind kind, List<Hook> hooks) {
        switch (kind.name) {
            case "client_connect":
                return notification(hooks, (hook, client, data) ->
                        arguments(records.conninfo(client), records.connectProps(client)));
            case "client_connack":
                return notification(hooks, this::connack);
            case "client_disconnected":
                return notification(hooks, (hook, client, data) -> arguments(
                        records.clientinfo(client),
                        Records.binary(isEmpty(data.get(1)) ? Reasons.name(data.get(0)) : data.get(1))));
            case "client_authenticate":
                return verdict(hooks, (hook, client, data) ->
                        arguments(records.clientinfo(client), Wire.number(data.get(0), 0) == 1));
            case "client_check_acl":
                return verdict(hooks, (hook, client, data) -> arguments(
                        records.clientinfo(client),
                        new Atom(Wire.number(data.get(0), 0) == SUBSCRIBE ? "subscribe" : "publish"),
                        Records.binary(data.get(1)),
                        Wire.number(data.get(4), 0) != DENIED));
            case "client_subscribe":
                return notification(hooks, (hook, client, data) -> arguments(
                        records.clientinfo(client), records.props(data.get(2), data.get(1)), filters(data.get(0))));
            case "client_unsubscribe":
                return notification(hooks, (hook, client, data) -> arguments(
                        records.clientinfo(client), records.props(data.get(1), null), filters(data.get(0))));
            case "session_subscribed":
                return notification(hooks, (hook, client, data) -> arguments(
                        records.clientinfo(client),
                        Records.binary(data.get(0)),
                        records.options(data.get(1), data.get(2))));
            case "session_unsubscribed":
                return notification(hooks, (hook, client, data) ->
                        arguments(records.clientinfo(client), Records.binary(data.get(0))));
            case "session_terminated":
                return notification(hooks, (hook, client, data) ->
                        arguments(records.clientinfo(client), Records.binary(whyTerminated(data))));
            case "message_publish":
                return (client, data) -> change(hooks, data);
            case "message_delivered":
            case "message_acked":
                return aboutMessage(hooks, false, (hook, client, data) ->
                        arguments(records.clientinfo(client), records.message(data)));
            case "message_dropped":
                return aboutMessage(hooks, true, (hook, client, data) -> arguments(
                        records.message(Wire.list(data.get(0))),
                        Records.binary(isEmpty(data.get(2)) ? data.get(1) : data.get(2))));
            default:
                // client_connected, session_created, _resumed, _discarded, _takeovered.
                return notification(hooks, (hook, client, data) -> arguments(records.clientinfo(client)));
        }
    }

    private Object[] connack(Hook hook, long client, List<Object> data) {
        List<Object> conninfo = records.conninfo(client);
        List<Object> props = new ArrayList<>();
        return hook.parameters == 3
                ? arguments(conninfo, props)
                : arguments(conninfo, new Atom(Reasons.name(data.get(0))), props);
    }

    private List<Object> filters(Object said) {
        List<Object> filters = new ArrayList<>();
        for (Object each : Wire.list(said)) {
            List<Object> filterAndOptions = Wire.list(each);
            filters.add(
                    filterAndOptions.isEmpty()
                            ? records.filter(each, 0L)
                            : records.filter(filterAndOptions.get(0), filterAndOptions.get(1)));
        }
        return filters;
    }

    private static Object whyTerminated(List<Object> data) {
        if (!isEmpty(data.get(2))) {
            return data.get(2);
        }
        return data.get(3) == null ? "normal" : Reasons.name(data.get(3));
    }

    private static boolean isEmpty(Object text) {
        return text == null || Wire.text(text).isEmpty();
    }

    // Notifications

    /** The arguments of one call, including the state. */
    private interface Arguments {
        Object[] of(Hook hook, long client, List<Object> data);
    }

    private Object[] arguments(Object... before) {
        Object[] all = new Object[before.length + 1];
        System.arraycopy(before, 0, all, 0, before.length);
        all[before.length] = state;
        return all;
    }

    private Handler notification(List<Hook> hooks, Arguments arguments) {
        return (client, data) -> {
            Round round = new Round();
            for (Hook hook : hooks) {
                round.run(hook, arguments.of(hook, client, data));
            }
            return round.over();
        };
    }

    private Handler aboutMessage(List<Hook> hooks, boolean inList, Arguments arguments) {
        return (client, data) -> {
            Binary topic = (Binary) (inList ? Wire.list(data.get(0)) : data).get(1);
            if (isSys(topic)) {
                return null;
            }
            Round round = new Round();
            for (Hook hook : hooks) {
                if (isFor(hooks, hook, topic)) {
                    round.run(hook, arguments.of(hook, client, data));
                }
            }
            return round.over();
        };
    }

    /** Calls all hooks, even after a failure, and reports the first failure. */
    private final class Round {
        private Throwable first;
        private String where;

        void run(Hook hook, Object[] arguments) {
            called = hook.label;
            try {
                hook.call(arguments);
            } catch (OutOfMemoryError error) {
                throw error;
            } catch (Throwable error) {
                if (first == null) {
                    first = error;
                    where = hook.label;
                }
            }
        }

        Answer over() throws Throwable {
            if (first != null) {
                called = where;
                throw first;
            }
            return null;
        }
    }

    private static boolean isSys(Binary topic) {
        byte[] bytes = topic.raw;
        for (int i = 0; i < SYS.length; i++) {
            if (i >= bytes.length || bytes[i] != SYS[i]) {
                return false;
            }
        }
        return true;
    }

    /**
     * Whether a hook gets a message of this topic. The broker filters for the point. A single hook
     * gets all of it, because the operator may have configured other topics.
     */
    private static boolean isFor(List<Hook> hooks, Hook hook, Binary topic) {
        return hooks.size() == 1 || hook.isForEveryTopic() || hook.matches(Wire.text(topic));
    }

    // Verdicts

    private Handler verdict(List<Hook> hooks, Arguments arguments) {
        return (client, data) -> {
            for (Hook hook : hooks) {
                called = hook.label;
                Object answer = hook.call(arguments.of(hook, client, data));
                if (Terms.isNothing(answer)) {
                    continue;
                }
                Object[] pair = Terms.tuple(answer, 2);
                int code = pair == null ? -1 : Terms.number(pair[0]);
                if (code == 0 && Terms.flag(pair[1]) != null) {
                    return Answer.stop(Map.of("allow", Terms.flag(pair[1])));
                }
                if (code == 0 && Terms.isNothing(pair[1])) {
                    continue;
                }
                if (code == 1) {
                    return Answer.failed(hook.label + ": " + Terms.shown(pair[1]));
                }
                return Answer.failed(hook.label + " answered " + Terms.shown(answer)
                        + ", not Tuple.two(0, true) or Tuple.two(0, false)");
            }
            return null;
        };
    }

    private Answer change(List<Hook> hooks, List<Object> data) throws Throwable {
        List<Object> message = data;
        if (isSys((Binary) message.get(1))) {
            return null;
        }
        Map<String, Object> changes = new LinkedHashMap<>();
        for (Hook hook : hooks) {
            if (!isFor(hooks, hook, (Binary) message.get(1))) {
                continue;
            }
            called = hook.label;
            Object answer = hook.call(arguments(records.message(message)));
            if (Terms.isNothing(answer)) {
                continue;
            }
            Object[] pair = Terms.tuple(answer, 2);
            int code = pair == null ? -1 : Terms.number(pair[0]);
            if (code == 1) {
                return Answer.failed(hook.label + ": " + Terms.shown(pair[1]));
            }
            if (code == 0 && Terms.isNothing(pair[1])) {
                continue;
            }
            Map<String, Object> changed = new LinkedHashMap<>();
            String wrong = code == 0 ? read(Terms.list(pair[1]), changed) : "not Tuple.two(0, list of pairs)";
            if (wrong != null) {
                return Answer.failed(hook.label + " answered " + Terms.shown(answer) + ": " + wrong);
            }
            changes.putAll(changed);
            // The next hook gets the message with this change.
            message = with(message, changed);
        }
        return changes.isEmpty() ? null : Answer.goOn(changes);
    }

    /** Reads (key, value) pairs into {@code changes}. Returns what is wrong with them, or null. */
    private static String read(List<?> pairs, Map<String, Object> changes) {
        if (pairs == null) {
            return "not Tuple.two(0, list of pairs)";
        }
        for (Object item : pairs) {
            Object[] pair = Terms.tuple(item, 2);
            String key = pair == null ? null : Terms.text(pair[0]);
            if (key == null) {
                return Terms.shown(item) + " is not Tuple.two(key, value)";
            }
            Object value = pair[1];
            switch (key) {
                case "topic":
                    if (Terms.text(value) == null) {
                        return "topic " + Terms.shown(value) + " is neither a String nor a Binary of UTF-8";
                    }
                    changes.put("topic", Terms.text(value));
                    break;
                case "payload":
                    if (Terms.bytes(value) == null) {
                        return "payload " + Terms.shown(value) + " is neither a Binary nor a String";
                    }
                    changes.put("payload", Terms.bytes(value));
                    break;
                case "qos":
                    if (Terms.number(value) < 0 || Terms.number(value) > 2) {
                        return "qos " + Terms.shown(value) + " is not 0, 1 or 2";
                    }
                    changes.put("qos", Terms.number(value));
                    break;
                default:
                    // EMQX's SDK returns the whole message; its other fields cannot be changed.
                    break;
            }
        }
        return null;
    }

    private static List<Object> with(List<Object> message, Map<String, Object> changes) {
        List<Object> changed = new ArrayList<>(message);
        if (changes.containsKey("topic")) {
            changed.set(1, Records.binary(changes.get("topic")));
        }
        if (changes.containsKey("payload")) {
            changed.set(2, new Binary((byte[]) changes.get("payload")));
        }
        if (changes.containsKey("qos")) {
            changed.set(3, changes.get("qos"));
        }
        return changed;
    }
}
