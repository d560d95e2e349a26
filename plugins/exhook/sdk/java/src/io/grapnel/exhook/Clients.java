package io.grapnel.exhook;

import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The clients that the broker has described; the records for hooks are made from them. Used by the
 * worker's main thread only.
 *
 * <p>A pending login has its own number, whatever client identifier it claims. When it has
 * connected, its number becomes the client's. Late calls about an earlier connection may use the
 * same number and must not be applied to the new one. So the table distinguishes connections by
 * address and port. When the broker forgets a number, what was described under it of a connecting
 * client is found again under its next number.
 */
final class Clients {
    /** Most connections that are recorded for one client; the one described first is evicted. */
    private static final int PEERS_MAX = 8;
    /** Most connections that wait for another number; the oldest is evicted. */
    private static final int WAITING_MAX = 1024;

    private final Map<Long, Map<String, Object>> now = new HashMap<>();
    private final Map<Long, LinkedHashMap<List<Object>, Map<String, Object>>> peers = new HashMap<>();
    private final LinkedHashMap<List<Object>, Map<String, Object>> waiting = new LinkedHashMap<>();

    /**
     * Records a description. For the same connection, values that are not repeated remain, except
     * the password.
     */
    void describe(long number, Map<String, Object> said) {
        LinkedHashMap<List<Object>, Map<String, Object>> known =
                peers.computeIfAbsent(number, n -> new LinkedHashMap<>());
        List<Object> peer = peerOf(said);
        if (!said.containsKey("peer_host") && !known.isEmpty()) {
            for (List<Object> last : known.keySet()) {
                peer = last;
            }
        }
        Map<String, Object> before = known.remove(peer);
        if (before == null && !waiting.isEmpty()) {
            before = waiting.remove(waitingKey(said, peer));
        }
        Map<String, Object> merged = said;
        if (before != null) {
            merged = new HashMap<>(before);
            merged.remove("password");
            merged.putAll(said);
        } else if (known.size() >= PEERS_MAX) {
            removeFirst(known);
        }
        known.put(peer, merged);
        now.put(number, merged);
    }

    /** The description of the connection that was described last; empty for an unknown client. */
    Map<String, Object> get(long number) {
        return now.getOrDefault(number, Map.of());
    }

    /** The number will not be used again. */
    void forget(long number) {
        Map<String, Object> gone = now.remove(number);
        Map<List<Object>, Map<String, Object>> known = peers.remove(number);
        if (known == null) {
            return;
        }
        known.forEach((peer, said) -> {
            if (said != gone) {
                // It is no longer needed, and must not be found again.
                said.remove("password");
                waiting.put(waitingKey(said, peer), said);
                if (waiting.size() > WAITING_MAX) {
                    removeFirst(waiting);
                }
            }
        });
    }

    private static List<Object> peerOf(Map<String, Object> said) {
        return List.of(Wire.text(said.get("peer_host")), Wire.number(said.get("peer_port"), -1));
    }

    private static List<Object> waitingKey(Map<String, Object> said, List<Object> peer) {
        return List.of(Wire.text(said.get("client_id")), peer);
    }

    private static void removeFirst(Map<?, ?> map) {
        Iterator<?> first = map.keySet().iterator();
        first.next();
        first.remove();
    }
}
