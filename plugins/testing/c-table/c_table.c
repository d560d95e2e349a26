/* c-table: the plugin `table` in C, for the tests. It has a hook at every point, executes the
 * script in the client identifier or the topic, and writes each call and what it saw to a file.
 * Scripts are defined in ../table/src/script.rs; tests/tests/table computes the expected result. */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../c-journal/config.h"

/** Deadline of a verdict that never comes, and of one that comes; the latter is never reached. */
#define DEADLINE_MS 20
#define PATIENCE_MS 60000

/** The reason of a refusal in general; of a refused CONNECT, for which MQTT 3.1.1 has a code; of
 * a refused filter. */
#define QUOTA 0x97
#define UNAVAILABLE 0x88
#define SPECIFIC 0x83

typedef enum { DIRECT, DEFER, DEADLINE } manner;

/** An act: how it is executed, how it ends, and whether the change is made in the hook and with
 * the ticket. */
typedef struct {
    const char *name;
    manner manner;
    grapnel_flow flow;
    bool in_hook, with_ticket;
} act;

static const act ACTS[] = {
    {"continue", DIRECT, GRAPNEL_FLOW_CONTINUE, false, false},
    {"continue-changed", DIRECT, GRAPNEL_FLOW_CONTINUE, true, false},
    {"stop", DIRECT, GRAPNEL_FLOW_STOP, false, false},
    {"stop-changed", DIRECT, GRAPNEL_FLOW_STOP, true, false},
    {"fault", DIRECT, GRAPNEL_FLOW_FAULT, true, false},
    /* An invalid flow. */
    {"break", DIRECT, 77, true, false},
    {"defer-continue", DEFER, GRAPNEL_FLOW_CONTINUE, false, false},
    {"defer-continue-changed", DEFER, GRAPNEL_FLOW_CONTINUE, false, true},
    {"defer-stop", DEFER, GRAPNEL_FLOW_STOP, false, false},
    {"defer-stop-changed", DEFER, GRAPNEL_FLOW_STOP, false, true},
    {"defer-fault", DEFER, GRAPNEL_FLOW_FAULT, false, true},
    {"deadline", DEADLINE, GRAPNEL_FLOW_FAULT, false, false},
    {"changed-defer-continue", DEFER, GRAPNEL_FLOW_CONTINUE, true, false},
    {"changed-defer-stop", DEFER, GRAPNEL_FLOW_STOP, true, false},
    {"changed-defer-fault", DEFER, GRAPNEL_FLOW_FAULT, true, false},
    {"changed-deadline", DEADLINE, GRAPNEL_FLOW_FAULT, true, false},
};

/** One case. */
typedef struct {
    char text[256];
    const char *point, *change, *number;
    const act *act;
    uint64_t place;
} script;

/** Changes, with the memory that they point to. */
typedef struct {
    grapnel_change list[3];
    size_t count;
    char text[256];
} changes;

/** A deferred verdict. */
typedef struct later {
    struct later *next;
    grapnel_ticket ticket;
    grapnel_flow flow;
    changes changes;
} later;

typedef struct {
    const grapnel_host_api *host;
    char record[4096], scripts[1024];
    uint64_t place;
    int file;
    pthread_t completer;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    later *first;
    bool stopping;
} table;

static const char *const POINTS[] = {
#define NAME(number, name, may_change, may_defer) [number] = name,
    GRAPNEL_FOR_EACH_POINT(NAME)
};
#define POINTS_LEN (sizeof(POINTS) / sizeof(*POINTS))

/* ---- Scripts ---- */

/* The next word of a script, terminated by a zero byte. */
static char *word(char **rest) {
    char *const begin = *rest;
    if (!begin) return NULL;
    char *const end = strpbrk(begin, ",/;");
    *rest = end ? end + 1 : NULL;
    if (end) *end = '\0';
    return begin;
}

static bool read_script(grapnel_slice text, script *out) {
    if (!grapnel_starts_with(text, grapnel_text("table,")) || text.len >= sizeof(out->text)) return false;
    memcpy(out->text, text.ptr, text.len);
    out->text[text.len] = '\0';
    char *rest = out->text;
    word(&rest);
    out->point = word(&rest);
    out->change = word(&rest);
    const char *name = word(&rest), *place = word(&rest);
    out->number = word(&rest);
    if (!out->number) return false;
    out->place = strtoull(place, NULL, 10);
    out->act = NULL;
    for (size_t at = 0; at < sizeof(ACTS) / sizeof(*ACTS); at++) {
        if (strcmp(ACTS[at].name, name) == 0) out->act = &ACTS[at];
    }
    return out->act != NULL;
}

/* The script of a client or topic, or the configured one for a point of the broker itself. */
static bool script_of(const table *table, const grapnel_event *event, script *out) {
    if (read_script(event->client_id, out) || read_script(event->topic, out)) return true;
    for (const char *at = table->scripts; *at;) {
        const char *end = strchr(at, ';');
        const size_t len = end ? (size_t)(end - at) : strlen(at);
        if (read_script(grapnel_bytes(at, len), out) && strcmp(out->point, POINTS[event->point]) == 0) return true;
        at += end ? len + 1 : len;
    }
    return false;
}

static bool is(const char *left, const char *right) { return strcmp(left, right) == 0; }

static bool ends_with(grapnel_slice text, const char *end) {
    const size_t len = strlen(end);
    return text.len >= len && memcmp(text.ptr + text.len - len, end, len) == 0;
}

/* Whether the script is for this event of the point, and not for other events of the same
 * client. */
static bool is_meant(const script *script, const grapnel_event *event) {
    static const char *const actions[] = {"", "publish", "subscribe", "deliver", "will"};
    switch (event->point) {
        case GRAPNEL_POINT_CLIENT_AUTHORIZE:
            return event->action < 5 && is(script->change, actions[event->action]) && ends_with(event->topic, "/own");
        case GRAPNEL_POINT_MESSAGE_PUBLISH:
        case GRAPNEL_POINT_MESSAGE_DELIVERED:
            return ends_with(event->topic, "/own") || (is(script->change, "topic") && ends_with(event->topic, "/new"));
        case GRAPNEL_POINT_PACKET_RECEIVED:
        case GRAPNEL_POINT_PACKET_SENT:
            /* PINGREQ and PINGRESP. */
            return event->action == 12 || event->action == 13;
        default: return true;
    }
}

/* ---- What is seen, and what is changed ---- */

/* `new` if the change of an earlier copy is visible, `own` if not; `-` if nothing can be
 * changed. */
static const char *saw(const table *table, const script *script, const grapnel_event *event) {
    const grapnel_host_api *host = table->host;
    const uint64_t verdict = grapnel_get_number(host, event, GRAPNEL_FIELD_VERDICT, 0, GRAPNEL_VERDICT_UNANSWERED);
    const bool denied = verdict == GRAPNEL_VERDICT_DENY;
    bool new;
    switch (event->point) {
        case GRAPNEL_POINT_CLIENT_CONNECT:
            new = is(script->change, "refuse") ? denied
                                              : grapnel_get_number(host, event, GRAPNEL_FIELD_KEEP_ALIVE_S, 0, 0) == 77;
            break;
        case GRAPNEL_POINT_CLIENT_AUTHENTICATE:
            new = is(script->change, "promote") ? (event->flags & GRAPNEL_FLAG_SUPERUSER) != 0
                  : is(script->change, "vouch") ? verdict == GRAPNEL_VERDICT_ALLOW
                                                : denied;
            break;
        case GRAPNEL_POINT_CLIENT_AUTHORIZE: new = denied; break;
        case GRAPNEL_POINT_CLIENT_CONNACK: {
            grapnel_value value;
            new = host->get(event->ctx, GRAPNEL_FIELD_USER_PROPERTY, 0, &value) == GRAPNEL_STATUS_OK &&
                  grapnel_equal(value.key, grapnel_text("table")) && grapnel_equal(value.bytes, grapnel_text("new"));
            break;
        }
        case GRAPNEL_POINT_CLIENT_SUBSCRIBE:
        case GRAPNEL_POINT_CLIENT_UNSUBSCRIBE:
            new = is(script->change, "refuse") ? denied
                                              : ends_with(grapnel_get_bytes(host, event, GRAPNEL_FIELD_FILTER, 0), "/new");
            break;
        case GRAPNEL_POINT_MESSAGE_PUBLISH:
        case GRAPNEL_POINT_MESSAGE_DELIVERED:
            if (is(script->change, "extra")) return "-";
            new = is(script->change, "payload") ? grapnel_equal(event->payload, grapnel_text("new"))
                  : is(script->change, "topic")
                      ? ends_with(event->topic, "/new")
                      : grapnel_get_number(host, event, GRAPNEL_FIELD_DISPOSITION, 0, 0) != GRAPNEL_DISPOSITION_ROUTE;
            break;
        default: return "-";
    }
    return new ? "new" : "own";
}

static void add(changes *changes, grapnel_change change) { changes->list[changes->count++] = change; }

static void refuse(changes *changes, uint64_t reason, grapnel_field decision, uint64_t how) {
    add(changes, grapnel_number_change(GRAPNEL_FIELD_REASON_CODE, reason));
    add(changes, grapnel_number_change(decision, how));
}

/* Sets the field to the client's other topic. */
static void rewrite(changes *changes, grapnel_field field, const grapnel_event *event) {
    const int len = snprintf(changes->text, sizeof(changes->text), "%.*s/new", (int)event->client_id.len,
                             (const char *)event->client_id.ptr);
    add(changes, grapnel_bytes_change(field, grapnel_bytes(changes->text, (size_t)len)));
}

/* The changes of a script, made in the hook or with a ticket. They must not be moved, because
 * they contain pointers into themselves. */
static void changes_of(const script *script, const grapnel_event *event, changes *out) {
    const grapnel_slice new = grapnel_text("new");
    out->count = 0;
    /* An added message is not a change of a field, and a ticket cannot add one. */
    if (is(script->change, "extra")) return;
    switch (event->point) {
        case GRAPNEL_POINT_CLIENT_CONNECT:
            if (is(script->change, "keep-alive")) {
                add(out, grapnel_number_change(GRAPNEL_FIELD_KEEP_ALIVE_S, 77));
                break;
            }
            add(out, grapnel_bytes_change(GRAPNEL_FIELD_REASON_STRING, grapnel_text("why")));
            refuse(out, UNAVAILABLE, GRAPNEL_FIELD_VERDICT, GRAPNEL_VERDICT_DENY);
            break;
        case GRAPNEL_POINT_CLIENT_AUTHENTICATE:
            if (is(script->change, "promote")) {
                add(out, grapnel_number_change(GRAPNEL_FIELD_IS_SUPERUSER, 1));
            } else if (is(script->change, "vouch")) {
                add(out, grapnel_number_change(GRAPNEL_FIELD_VERDICT, GRAPNEL_VERDICT_ALLOW));
            } else {
                refuse(out, UNAVAILABLE, GRAPNEL_FIELD_VERDICT, GRAPNEL_VERDICT_DENY);
            }
            break;
        case GRAPNEL_POINT_CLIENT_AUTHORIZE: refuse(out, QUOTA, GRAPNEL_FIELD_VERDICT, GRAPNEL_VERDICT_DENY); break;
        case GRAPNEL_POINT_CLIENT_CONNACK: add(out, grapnel_user_property_change(grapnel_text("table"), new)); break;
        case GRAPNEL_POINT_CLIENT_SUBSCRIBE:
        case GRAPNEL_POINT_CLIENT_UNSUBSCRIBE:
            if (is(script->change, "rewrite")) {
                rewrite(out, GRAPNEL_FIELD_FILTER, event);
            } else {
                refuse(out, SPECIFIC, GRAPNEL_FIELD_VERDICT, GRAPNEL_VERDICT_DENY);
            }
            break;
        case GRAPNEL_POINT_MESSAGE_PUBLISH:
            if (is(script->change, "payload")) {
                add(out, grapnel_bytes_change(GRAPNEL_FIELD_PAYLOAD, new));
            } else if (is(script->change, "topic")) {
                rewrite(out, GRAPNEL_FIELD_TOPIC, event);
            } else if (is(script->change, "drop")) {
                add(out, grapnel_number_change(GRAPNEL_FIELD_DISPOSITION, GRAPNEL_DISPOSITION_DROP));
            } else {
                const bool rejects = is(script->change, "reject");
                add(out, grapnel_bytes_change(GRAPNEL_FIELD_REASON_STRING, grapnel_text("why")));
                refuse(out, QUOTA, GRAPNEL_FIELD_DISPOSITION,
                       rejects ? GRAPNEL_DISPOSITION_REJECT : GRAPNEL_DISPOSITION_DISCONNECT);
            }
            break;
        case GRAPNEL_POINT_MESSAGE_DELIVERED:
            if (is(script->change, "payload")) {
                add(out, grapnel_bytes_change(GRAPNEL_FIELD_PAYLOAD, new));
            } else if (is(script->change, "topic")) {
                rewrite(out, GRAPNEL_FIELD_TOPIC, event);
            } else {
                add(out, grapnel_number_change(GRAPNEL_FIELD_DISPOSITION, GRAPNEL_DISPOSITION_DROP));
            }
            break;
        default:
            /* Nothing can be changed here; the host must report that. */
            add(out, grapnel_bytes_change(GRAPNEL_FIELD_PAYLOAD, new));
    }
}

/* ---- The hook ---- */

/* One write for each line, so that the lines of all copies stay complete and in order. */
static void write_record(const table *table, const script *script, const grapnel_event *event, const char *saw) {
    char line[256];
    const int len = snprintf(line, sizeof(line), "%s %llu %s %s\n", script->number, (unsigned long long)table->place,
                             POINTS[event->point], saw);
    if (write(table->file, line, (size_t)len) != len) {
        grapnel_log(table->host, GRAPNEL_LOG_LEVEL_ERROR, "the record cannot be written");
    }
}

static bool may_change(const grapnel_event *event) {
    static const bool MAY_CHANGE[] = {
#define MAY(number, name, may_change, may_defer) [number] = may_change,
        GRAPNEL_FOR_EACH_POINT(MAY)
    };
    return MAY_CHANGE[event->point];
}

static bool may_defer(const grapnel_event *event) {
    static const bool MAY_DEFER[] = {
#define DEFERS(number, name, may_change, may_defer) [number] = may_defer,
        GRAPNEL_FOR_EACH_POINT(DEFERS)
    };
    return MAY_DEFER[event->point];
}

static grapnel_status add_message(const table *table, const grapnel_event *event) {
    char topic[256];
    const int len =
        snprintf(topic, sizeof(topic), "%.*s/extra", (int)event->client_id.len, (const char *)event->client_id.ptr);
    grapnel_new_message message;
    memset(&message, 0, sizeof(message));
    message.size = (uint32_t)sizeof(message);
    message.payload_format = 255;
    message.topic = grapnel_bytes(topic, (size_t)len);
    message.payload = grapnel_text("extra");
    return table->host->add_message(event->ctx, &message);
}

static void make_changes(const table *table, const script *script, const grapnel_event *event) {
    changes changes;
    changes_of(script, event, &changes);
    if (is(script->change, "extra") && add_message(table, event) != GRAPNEL_STATUS_OK) {
        write_record(table, script, event, "a message that could not be added");
    }
    for (size_t at = 0; at < changes.count; at++) {
        const grapnel_status status = table->host->set(event->ctx, &changes.list[at]);
        const grapnel_status due = may_change(event) ? GRAPNEL_STATUS_OK : GRAPNEL_STATUS_UNSUPPORTED;
        /* The test does not expect this line. */
        if (status != due) write_record(table, script, event, "a setter with another answer than it should have");
    }
}

static grapnel_flow wait_for_verdict(table *table, const script *script, const grapnel_event *event) {
    const bool never = script->act->manner == DEADLINE;
    grapnel_ticket ticket;
    const grapnel_status status = table->host->defer(event->ctx, never ? DEADLINE_MS : PATIENCE_MS, &ticket);
    if ((status == GRAPNEL_STATUS_OK) != may_defer(event)) {
        write_record(table, script, event, "a ticket where there is none, or none where there should be one");
    }
    if (never || status != GRAPNEL_STATUS_OK) return GRAPNEL_FLOW_DEFER;
    later *later = calloc(1, sizeof(*later));
    if (!later) abort();
    later->ticket = ticket;
    later->flow = script->act->flow;
    if (script->act->with_ticket) changes_of(script, event, &later->changes);
    pthread_mutex_lock(&table->lock);
    later->next = table->first;
    table->first = later;
    pthread_cond_signal(&table->wake);
    pthread_mutex_unlock(&table->lock);
    return GRAPNEL_FLOW_DEFER;
}

static grapnel_flow play(void *instance, const grapnel_event *event) {
    table *table = instance;
    script script;
    if (!script_of(table, event, &script)) return GRAPNEL_FLOW_CONTINUE;
    if (!is(script.point, POINTS[event->point])) {
        if (event->point == GRAPNEL_POINT_CLIENT_CONNECTED && table->place == 0) {
            char told[32];
            snprintf(told, sizeof(told), "%llu,%d",
                     (unsigned long long)grapnel_get_number(table->host, event, GRAPNEL_FIELD_KEEP_ALIVE_S, 0, 0),
                     (event->flags & GRAPNEL_FLAG_SUPERUSER) != 0);
            write_record(table, &script, event, told);
        }
        return GRAPNEL_FLOW_CONTINUE;
    }
    if (!is_meant(&script, event)) return GRAPNEL_FLOW_CONTINUE;
    write_record(table, &script, event, saw(table, &script, event));
    if (script.place != table->place) return GRAPNEL_FLOW_CONTINUE;
    if (script.act->in_hook) make_changes(table, &script, event);
    return script.act->manner == DIRECT ? script.act->flow : wait_for_verdict(table, &script, event);
}

/* ---- The module ---- */

/* The thread that completes deferred verdicts. */
static void *complete_on(void *arg) {
    table *table = arg;
    for (;;) {
        pthread_mutex_lock(&table->lock);
        while (!table->first && !table->stopping) pthread_cond_wait(&table->wake, &table->lock);
        later *later = table->first;
        if (later) table->first = later->next;
        pthread_mutex_unlock(&table->lock);
        if (!later) return NULL;
        table->host->complete(later->ticket, later->flow, later->changes.list, later->changes.count);
        free(later);
    }
}

static bool read_config(grapnel_slice config, table *out, grapnel_error_text *error) {
    char problem[256] = "";
    const config_key keys[] = {
        {"place", NULL, 0, &out->place},
        {"record", out->record, sizeof(out->record), NULL},
        {"scripts", out->scripts, sizeof(out->scripts), NULL},
    };
    if (config_read(config, keys, sizeof(keys) / sizeof(*keys), problem, sizeof(problem))) return true;
    return grapnel_fail(error, problem), false;
}

static grapnel_status load(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error) {
    table *table = calloc(1, sizeof(*table));
    if (!table) return grapnel_fail(error, "there is no memory left");
    if (!read_config(config, table, error)) return free(table), GRAPNEL_STATUS_FAILED;
    table->host = host;
    table->file = open(table->record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (table->file < 0) return free(table), grapnel_fail(error, "record: it cannot be opened for appending");
    pthread_mutex_init(&table->lock, NULL);
    pthread_cond_init(&table->wake, NULL);
    if (pthread_create(&table->completer, NULL, complete_on, table) != 0) {
        close(table->file);
        return free(table), grapnel_fail(error, "the thread that completes tickets cannot be started");
    }
    *out = table;
    return GRAPNEL_STATUS_OK;
}

static void unload(void *plugin) {
    table *table = plugin;
    pthread_mutex_lock(&table->lock);
    table->stopping = true;
    pthread_cond_signal(&table->wake);
    pthread_mutex_unlock(&table->lock);
    pthread_join(table->completer, NULL);
    pthread_cond_destroy(&table->wake);
    pthread_mutex_destroy(&table->lock);
    close(table->file);
    free(table);
}

/* The instances have no state. */
static grapnel_status init_shard(void *plugin, uint32_t number, void **out, grapnel_error_text *error) {
    (void)number, (void)error;
    *out = plugin;
    return GRAPNEL_STATUS_OK;
}

static grapnel_status manifest(grapnel_manifest *out) {
    out->size = (uint32_t)sizeof(*out);
    out->name = grapnel_text("c-table");
    out->version = grapnel_text("0.1.0");
    out->description = grapnel_text("A hook at every point, which does there what the client's identifier says");
    out->sdk = grapnel_text("grapnel_plugin.h 1.0");
    return GRAPNEL_STATUS_OK;
}

static grapnel_status mount(uint32_t index, grapnel_mount *out) {
    if (index >= POINTS_LEN) return GRAPNEL_STATUS_ABSENT;
    out->size = (uint32_t)sizeof(*out);
    out->point = (uint16_t)index;
    out->hook = play;
    out->name = grapnel_text("play");
    if (index == GRAPNEL_POINT_CLIENT_AUTHORIZE) out->flags = GRAPNEL_MOUNT_DELIVER;
    return GRAPNEL_STATUS_OK;
}

const grapnel_plugin_module *grapnel_plugin_v1(void) {
    static grapnel_plugin_module module;
    module = grapnel_module();
    module.manifest = manifest;
    module.mount = mount;
    module.load = load;
    module.unload = unload;
    module.init_shard = init_shard;
    return &module;
}
