package io.grapnel.exhook;

import java.util.List;

/**
 * Topic filters of MQTT (5.0, 4.7), for where several hooks of a worker share a point and each has filters of its
 * own.
 */
final class Topics {
    private final List<String[]> filters;

    /** Filters that {@link #check} has let pass. */
    Topics(List<String> filters) {
        this.filters = filters.stream().map(Topics::levels).toList();
    }

    /** Whether a topic matches one of them; every topic does where there is none. */
    boolean match(String topic) {
        if (filters.isEmpty()) {
            return true;
        }
        String[] levels = levels(topic);
        for (String[] filter : filters) {
            if (matches(filter, levels)) {
                return true;
            }
        }
        return false;
    }

    /** The filter, if it is one. Throws {@link LoadError}. */
    static String check(String filter) throws LoadError {
        String[] levels = levels(filter);
        boolean wrong = filter.isEmpty() || filter.indexOf('\0') >= 0;
        for (int i = 0; i < levels.length; i++) {
            wrong |= levels[i].contains("+") && levels[i].length() > 1;
            wrong |= levels[i].contains("#") && (levels[i].length() > 1 || i < levels.length - 1);
        }
        if (wrong) {
            throw new LoadError("'" + filter
                    + "' is no topic filter: + stands for a whole level, # for all that follow, at the end");
        }
        return filter;
    }

    private static String[] levels(String text) {
        return text.split("/", -1);
    }

    private static boolean matches(String[] filter, String[] topic) {
        // [MQTT-4.7.2-1]: a wildcard at the beginning does not stand for a level that begins with $.
        if (topic[0].startsWith("$") && (filter[0].equals("+") || filter[0].equals("#"))) {
            return false;
        }
        for (int i = 0; i < filter.length; i++) {
            if (filter[i].equals("#")) {
                // a/# is also a itself.
                return true;
            }
            if (i >= topic.length || !(filter[i].equals("+") || filter[i].equals(topic[i]))) {
                return false;
            }
        }
        return filter.length == topic.length;
    }
}
