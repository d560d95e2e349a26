package io.grapnel.exhook;

import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What the broker has said of clients. The records are made from it; the worker's main thread alone uses it.
 *
 * <p>A connection that wants to come in has a number of its own, whichever client identifier it names; when it has come
 * in, that is the client's number. What comes late of a connection before it may go under that number, too, and must not
 * be taken for what is said of the one that is in, so the table tells them apart by where they come from. Where the
 * broker forgets a number, what was said under it of another connection while that came in is found again under its next
 * one.
 */
final class Clients {
    /** Connections of one client identifier that are told apart; the one described first is forgotten for one more. */
    private static final int PEERS_MAX = 8;
    /** Connections that wait for another number; the oldest is forgotten for one more. */
    private static final int WAITING_MAX = 1024;

    private final Map<Long, Map<String, Object>> now = new HashMap<>();
    private final Map<Long, LinkedHashMap<List<Object>, Map<String, Object>>> peers = new HashMap<>();
    private final LinkedHashMap<List<Object>, Map<String, Object>> waiting = new LinkedHashMap<>();

    /** A client is described. What is not repeated still holds of the same connection, but for the password. */
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

    /** What was said of the connection that was described last; nothing of one that is not known. */
    Map<String, Object> get(long number) {
        return now.getOrDefault(number, Map.of());
    }

    /** It will not be named again. */
    void forget(long number) {
        Map<String, Object> gone = now.remove(number);
        Map<List<Object>, Map<String, Object>> known = peers.remove(number);
        if (known == null) {
            return;
        }
        known.forEach((peer, said) -> {
            if (said != gone) {
                // Not needed any more, and nobody's to find.
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
