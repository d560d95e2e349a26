/* c-journal: writes the messages of some topics to a file before they are acknowledged, and
 * numbers them. A plugin in plain C: an instance per shard with a state that survives a reload,
 * and deferred verdicts from a thread of the plugin.
 *
 *     cc -std=c11 -O2 -shared -fPIC -pthread -I ../../plugin-abi/include -o libgrapnel_c_journal.so c_journal.c */
#define _GNU_SOURCE

#include <pthread.h>
#include <search.h>
#include <signal.h>

#include "config.h"
#include "file.h"

/** The configuration. */
typedef struct {
    char file[4096], topic_prefix[1024], property[256];
    uint64_t pending_bytes_max, client_pending_bytes_max;
} settings;

/** A client with waiting messages. Stored in a balanced tree, so that look-ups stay fast
 * whatever names clients choose. */
typedef struct {
    uint64_t bytes, messages;
    size_t len;
    uint8_t name[];
} client;

/** A message that waits to be written. */
typedef struct pending {
    struct pending *next;
    client *client;
    grapnel_ticket ticket;
    uint64_t sequence, wall_ms;
    uint32_t shard;
    size_t topic_len, payload_len;
    uint8_t bytes[];
} pending;

/** Why a message is refused. */
enum { REFUSED_OWNER, REFUSED_TOTAL, REFUSED_UNWRITTEN, REFUSED_COUNT };

/** No memory could be allocated, which is a fault. */
#define NO_MEMORY (-1)

/** The shared part. The lock is held to link or take a list, and to charge a client; never while
 * writing to the file. */
typedef struct {
    const grapnel_host_api *host;
    settings settings;
    /** The counter in `/metrics` of each reason for a refusal; 0 for none. */
    uint64_t refused[REFUSED_COUNT];
    /** Used only by the thread once it runs. */
    journal_file file;
    pthread_t writer;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pending *first, **end;
    uint64_t pending_bytes;
    /** The tree of clients. */
    void *clients;
    bool stopping;
} journal;

/** The instance of a shard: no other thread uses it. */
typedef struct {
    journal *journal;
    uint32_t number;
    uint64_t sequence;
    /** Refused messages, by the limit that was reached. */
    uint64_t refused[REFUSED_UNWRITTEN];
} shard;

static bool read_settings(grapnel_slice config, settings *out, grapnel_error_text *error) {
    char problem[256] = "";
    *out = (settings){
        .property = "journal",
        .pending_bytes_max = UINT64_C(16) << 20,
        /* More memory than the largest message uses that a client may send by default. */
        .client_pending_bytes_max = UINT64_C(4) << 20,
    };
    const config_key keys[] = {
        {"file", out->file, sizeof(out->file), NULL},
        {"topic_prefix", out->topic_prefix, sizeof(out->topic_prefix), NULL},
        {"property", out->property, sizeof(out->property), NULL},
        {"pending_bytes_max", NULL, 0, &out->pending_bytes_max},
        {"client_pending_bytes_max", NULL, 0, &out->client_pending_bytes_max},
    };
    if (!config_read(config, keys, sizeof(keys) / sizeof(*keys), problem, sizeof(problem))) {
        return grapnel_fail(error, problem), false;
    }
    if (out->file[0] == '\0') return grapnel_fail(error, "the key file is missing: a path to append to"), false;
    return true;
}

static grapnel_status manifest(grapnel_manifest *out) {
    out->size = (uint32_t)sizeof(*out);
    out->name = grapnel_text("c-journal");
    out->version = grapnel_text("1.0.0");
    out->description = grapnel_text("Writes messages to a file before they are acknowledged");
    out->sdk = grapnel_text("grapnel_plugin.h 1.0");
    out->flags = GRAPNEL_MANIFEST_IN_PLACE;
    return GRAPNEL_STATUS_OK;
}

static grapnel_status check_config(grapnel_slice config, grapnel_error_text *error) {
    settings settings;
    return read_settings(config, &settings, error) ? GRAPNEL_STATUS_OK : GRAPNEL_STATUS_FAILED;
}

/* The records of a list as one text, or a null pointer if there is no memory for it. */
static char *records_of(const pending *list, size_t *len) {
    size_t capacity = 0;
    for (const pending *message = list; message; message = message->next) {
        capacity += HEAD_BYTES_MAX + message->topic_len + message->payload_len + 1;
    }
    char *text = malloc(capacity);
    *len = 0;
    for (const pending *message = list; text && message; message = message->next) {
        *len += (size_t)snprintf(text + *len, HEAD_BYTES_MAX, "%" PRIu32 "-%" PRIu64 " %" PRIu64 " %zu %zu\n", message->shard,
                                 message->sequence, message->wall_ms, message->topic_len, message->payload_len);
        memcpy(text + *len, message->bytes, message->topic_len + message->payload_len);
        *len += message->topic_len + message->payload_len;
        text[(*len)++] = '\n';
    }
    return text;
}

/* Memory of a message until its verdict: its copy with the allocator's overhead, and its part of
 * the text to write. */
static uint64_t bytes_of(uint64_t topic_len, uint64_t payload_len) {
    return sizeof(pending) + 2 * sizeof(size_t) + HEAD_BYTES_MAX + 1 + 2 * (topic_len + payload_len);
}

/* Memory of a client while it has waiting messages: its entry in the tree, with the allocator's
 * overhead of both. */
static uint64_t bytes_of_client(uint64_t name_len) { return sizeof(client) + name_len + 4 * sizeof(void *) + 4 * sizeof(size_t); }

static int compare_clients(const void *one, const void *other) {
    const client *a = one, *b = other;
    const int order = memcmp(a->name, b->name, a->len < b->len ? a->len : b->len);
    return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

/* The client with this name; the lock must be held. Makes a new one if it has no waiting
 * messages. Returns a null pointer if there is no memory for it. */
static client *find_client(journal *journal, grapnel_slice name) {
    client *made = malloc(sizeof(*made) + name.len);
    if (!made) return NULL;
    *made = (client){.len = name.len};
    if (name.len) memcpy(made->name, name.ptr, name.len);
    client **const found = tsearch(made, &journal->clients, compare_clients);
    if (!found || *found != made) free(made);
    return found ? *found : NULL;
}

static void forget_if_idle(journal *journal, client *client) {
    if (client->messages > 0) return;
    tdelete(client, &journal->clients, compare_clients);
    free(client);
}

/* Charges a waiting message to its client, in the hook, until the verdict. Returns the charged
 * client, or a null pointer and the reason. */
static client *take_room(journal *journal, grapnel_slice name, uint64_t bytes, int *refused) {
    pthread_mutex_lock(&journal->lock);
    client *client = find_client(journal, name);
    *refused = client ? REFUSED_TOTAL : NO_MEMORY;
    if (client) {
        const uint64_t more = bytes + (client->messages > 0 ? 0 : bytes_of_client(name.len));
        const bool of_owner = more > journal->settings.client_pending_bytes_max - client->bytes;
        if (of_owner) *refused = REFUSED_OWNER;
        if (of_owner || more > journal->settings.pending_bytes_max - journal->pending_bytes) {
            forget_if_idle(journal, client);
            client = NULL;
        } else {
            client->bytes += more;
            client->messages++;
            journal->pending_bytes += more;
        }
    }
    pthread_mutex_unlock(&journal->lock);
    return client;
}

static void give_back(journal *journal, client *client, uint64_t bytes) {
    pthread_mutex_lock(&journal->lock);
    client->messages--;
    client->bytes -= bytes;
    journal->pending_bytes -= bytes + (client->messages > 0 ? 0 : bytes_of_client(client->len));
    forget_if_idle(journal, client);
    pthread_mutex_unlock(&journal->lock);
}

static void count_refusal(const journal *journal, int reason) {
    if (journal->refused[reason] != 0) journal->host->measure(journal->refused[reason], 1);
}

static void answer(const journal *journal, const pending *message, bool written) {
    if (!written) {
        count_refusal(journal, REFUSED_UNWRITTEN);
        const grapnel_change refused[] = {
            grapnel_number_change(GRAPNEL_FIELD_REASON_CODE, 0x97),
            grapnel_bytes_change(GRAPNEL_FIELD_REASON_STRING, grapnel_text("the journal cannot be written")),
            grapnel_number_change(GRAPNEL_FIELD_DISPOSITION, GRAPNEL_DISPOSITION_REJECT),
        };
        journal->host->complete(message->ticket, GRAPNEL_FLOW_STOP, refused, sizeof(refused) / sizeof(*refused));
        return;
    }
    char place[48];
    snprintf(place, sizeof(place), "%" PRIu32 "-%" PRIu64, message->shard, message->sequence);
    const grapnel_change mark = grapnel_user_property_change(grapnel_text(journal->settings.property), grapnel_text(place));
    /* If the client has disconnected meanwhile, the ticket is stale, which is no error. */
    journal->host->complete(message->ticket, GRAPNEL_FLOW_CONTINUE, &mark, journal->settings.property[0] ? 1 : 0);
}

/* The thread: takes all waiting messages, writes them at once, and completes their tickets. */
static void *write_on(void *arg) {
    journal *journal = arg;
    bool failing = false;
    /* A write beyond a limit of the process must be an error here, and not end the broker. */
    sigset_t too_large;
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, NULL);
    for (;;) {
        pthread_mutex_lock(&journal->lock);
        while (!journal->first && !journal->stopping) pthread_cond_wait(&journal->wake, &journal->lock);
        pending *list = journal->first;
        journal->first = NULL;
        journal->end = &journal->first;
        pthread_mutex_unlock(&journal->lock);
        if (!list) return NULL;
        size_t len;
        char *text = records_of(list, &len);
        const bool written = text && file_append(&journal->file, text, len);
        if (!written && !failing) grapnel_log(journal->host, GRAPNEL_LOG_LEVEL_ERROR, "the journal cannot be written");
        if (written && failing) grapnel_log(journal->host, GRAPNEL_LOG_LEVEL_INFO, "the journal can be written again");
        failing = !written;
        free(text);
        while (list) {
            /* Its memory is released before the client gets the acknowledgement, because the
             * client may send the next message at once. */
            const pending message = *list;
            free(list);
            list = message.next;
            give_back(journal, message.client, bytes_of(message.topic_len, message.payload_len));
            answer(journal, &message, written);
        }
    }
}

static void make_counters(journal *journal) {
    static const char *const names[REFUSED_COUNT][2] = {
        {"pending_refused_owner", "Messages refused because too many of their client's waited"},
        {"pending_refused_total", "Messages refused because too many of all clients waited"},
        {"pending_refused_unwritten", "Messages refused because the file could not be written"},
    };
    for (int reason = 0; reason < REFUSED_COUNT; reason++) {
        const grapnel_new_metric metric = {
            .size = (uint32_t)sizeof(metric),
            .kind = GRAPNEL_METRIC_KIND_COUNTER,
            .name = grapnel_text(names[reason][0]),
            .help = grapnel_text(names[reason][1]),
        };
        const grapnel_status made = journal->host->metric(journal->host->plugin, &metric, &journal->refused[reason]);
        if (made != GRAPNEL_STATUS_OK) {
            journal->refused[reason] = 0;
            grapnel_log(journal->host, GRAPNEL_LOG_LEVEL_WARN, "refusals are not counted in the metrics: the broker takes no counter");
        }
    }
}

static grapnel_status load(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error) {
    journal *journal = calloc(1, sizeof(*journal));
    if (!journal) return grapnel_fail(error, "there is no memory left");
    if (!read_settings(config, &journal->settings, error)) return free(journal), GRAPNEL_STATUS_FAILED;
    journal->host = host;
    journal->end = &journal->first;
    file_problem why;
    /* The lower half of the handle is the same for all versions of one plugin. */
    if (!file_open(&journal->file, journal->settings.file, (uint32_t)host->plugin, &why)) {
        char problem[256], sentence[512];
        const int code = errno;
        switch (why) {
        case FILE_FOREIGN:
            snprintf(sentence, sizeof(sentence), "file: from byte %jd on it holds no records; name another file, or cut it there",
                     (intmax_t)journal->file.whole);
            break;
        case FILE_TAKEN:
            snprintf(sentence, sizeof(sentence), "file: another broker writes it; name another file, or stop that broker first");
            break;
        case FILE_SHARED:
            snprintf(sentence, sizeof(sentence), "file: another plugin of this broker writes it; name another file, or unload that plugin first");
            break;
        default:
            snprintf(sentence, sizeof(sentence), "file: it cannot be opened for appending: %s", strerror_r(code, problem, sizeof(problem)));
        }
        file_close(&journal->file);
        return free(journal), grapnel_fail(error, sentence);
    }
    make_counters(journal);
    pthread_mutex_init(&journal->lock, NULL);
    pthread_cond_init(&journal->wake, NULL);
    if (pthread_create(&journal->writer, NULL, write_on, journal) != 0) {
        file_close(&journal->file);
        return free(journal), grapnel_fail(error, "the thread that writes cannot be started");
    }
    *out = journal;
    return GRAPNEL_STATUS_OK;
}

/* All instances are destroyed: the waiting messages are written and acknowledged before the
 * thread ends. */
static void unload(void *plugin) {
    journal *journal = plugin;
    pthread_mutex_lock(&journal->lock);
    journal->stopping = true;
    pthread_cond_signal(&journal->wake);
    pthread_mutex_unlock(&journal->lock);
    pthread_join(journal->writer, NULL);
    pthread_cond_destroy(&journal->wake);
    pthread_mutex_destroy(&journal->lock);
    file_close(&journal->file);
    free(journal);
}

static grapnel_status init_shard(void *plugin, uint32_t number, void **out, grapnel_error_text *error) {
    shard *shard = calloc(1, sizeof(*shard));
    if (!shard) return grapnel_fail(error, "there is no memory left");
    shard->journal = plugin;
    shard->number = number;
    /* Continues the numbers of the file. In a reload, `import_state` sets the numbers of the old
     * version. */
    shard->sequence = number < SHARDS_MAX ? shard->journal->file.last[number] : 0;
    *out = shard;
    return GRAPNEL_STATUS_OK;
}

static void drop_shard(void *instance) { free(instance); }

/* Refuses a message because of a limit, and logs the first, second, fourth, eighth … one. */
static grapnel_flow refuse(shard *shard, const grapnel_event *event, int reason) {
    const journal *journal = shard->journal;
    const bool of_owner = reason == REFUSED_OWNER;
    const uint64_t count = ++shard->refused[reason];
    count_refusal(journal, reason);
    if ((count & (count - 1)) == 0) {
        char line[128];
        snprintf(line, sizeof(line), "%" PRIu64 " message%s refused on shard %" PRIu32 " so far: %s is reached", count,
                 count == 1 ? "" : "s", shard->number, of_owner ? "client_pending_bytes_max" : "pending_bytes_max");
        grapnel_log(journal->host, GRAPNEL_LOG_LEVEL_WARN, line);
    }
    const grapnel_slice why =
        grapnel_text(of_owner ? "too many messages of this client wait for the journal" : "the journal does not keep up");
    return grapnel_reject(journal->host, event, 0x97, why) == GRAPNEL_STATUS_OK ? GRAPNEL_FLOW_STOP : GRAPNEL_FLOW_FAULT;
}

static grapnel_flow publish(void *instance, const grapnel_event *event) {
    shard *shard = instance;
    journal *journal = shard->journal;
    if (!grapnel_starts_with(event->topic, grapnel_text(journal->settings.topic_prefix))) return GRAPNEL_FLOW_CONTINUE;
    const uint64_t bytes = bytes_of(event->topic.len, event->payload.len);
    int refused;
    client *client = take_room(journal, event->client_id, bytes, &refused);
    if (!client) return refused == NO_MEMORY ? GRAPNEL_FLOW_FAULT : refuse(shard, event, refused);
    pending *message = malloc(sizeof(*message) + event->topic.len + event->payload.len);
    if (!message || journal->host->defer(event->ctx, 0, &message->ticket) != GRAPNEL_STATUS_OK) {
        free(message);
        give_back(journal, client, bytes);
        return GRAPNEL_FLOW_FAULT;
    }
    message->next = NULL;
    message->client = client;
    message->sequence = ++shard->sequence;
    message->wall_ms = event->wall_ms;
    message->shard = shard->number;
    message->topic_len = event->topic.len;
    message->payload_len = event->payload.len;
    if (event->topic.len) memcpy(message->bytes, event->topic.ptr, event->topic.len);
    if (event->payload.len) memcpy(message->bytes + event->topic.len, event->payload.ptr, event->payload.len);
    pthread_mutex_lock(&journal->lock);
    *journal->end = message;
    journal->end = &message->next;
    pthread_cond_signal(&journal->wake);
    pthread_mutex_unlock(&journal->lock);
    return GRAPNEL_FLOW_DEFER;
}

static grapnel_status mount(uint32_t index, grapnel_mount *out) {
    if (index != 0) return GRAPNEL_STATUS_ABSENT;
    out->size = (uint32_t)sizeof(*out);
    out->point = GRAPNEL_POINT_MESSAGE_PUBLISH;
    /* After plugins that rewrite and refuse: the journal contains what is routed. */
    out->priority = -100;
    out->hook = publish;
    out->name = grapnel_text("publish");
    /* A message that is not in the journal must not be acknowledged. */
    out->policy = GRAPNEL_POLICY_DENY;
    return GRAPNEL_STATUS_OK;
}

/* The next version continues with the next number. */
static grapnel_status export_state(void *instance, const grapnel_state_sink *out, grapnel_error_text *error) {
    char text[32];
    const int len = snprintf(text, sizeof(text), "%" PRIu64, ((shard *)instance)->sequence);
    (void)error;
    return out->write(out->ctx, grapnel_bytes(text, (size_t)len));
}

static grapnel_status import_state(void *instance, grapnel_slice state, grapnel_error_text *error) {
    config_reader reader = {state.ptr, state.ptr + state.len};
    uint64_t sequence;
    if (!config_number(&reader, &sequence) || reader.at != reader.end) {
        return grapnel_fail(error, "what the version before left is no number");
    }
    shard *shard = instance;
    if (sequence > shard->sequence) shard->sequence = sequence;
    return GRAPNEL_STATUS_OK;
}

const grapnel_plugin_module *grapnel_plugin_v1(void) {
    static grapnel_plugin_module module;
    module = grapnel_module();
    module.manifest = manifest;
    module.mount = mount;
    module.check_config = check_config;
    module.load = load;
    module.unload = unload;
    module.init_shard = init_shard;
    module.drop_shard = drop_shard;
    module.export_state = export_state;
    module.import_state = import_state;
    return &module;
}
