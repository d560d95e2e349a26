package io.grapnel.exhook;

import java.util.List;

/**
 * Topic filters of MQTT (5.0, 4.7), used when several hooks of a worker share a point with
 * different filters.
 */
final class Topics {
    private final List<String[]> filters;

    /** Takes filters that {@link #check} has accepted. */
    Topics(List<String> filters) {
        this.filters = filters.stream().map(Topics::levels).toList();
    }

    /** Whether a topic matches one of the filters; true if there are none. */
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

    /** The filter itself, if it is valid. Throws {@link LoadError}. */
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
        // [MQTT-4.7.2-1]: a leading wildcard does not match a level that begins with $.
        if (topic[0].startsWith("$") && (filter[0].equals("+") || filter[0].equals("#"))) {
            return false;
        }
        for (int i = 0; i < filter.length; i++) {
            if (filter[i].equals("#")) {
                // a/# also matches a.
                return true;
            }
            if (i >= topic.length || !(filter[i].equals("+") || filter[i].equals(topic[i]))) {
                return false;
            }
        }
        return filter.length == topic.length;
    }
}
