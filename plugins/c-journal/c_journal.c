/* c-journal: writes the messages of some topics to a file before they are acknowledged, and numbers them. A plugin in plain C:
 * an instance per shard with a state that survives a reload, verdicts that come later from a thread of its own.
 *
 *     cc -std=c11 -O2 -shared -fPIC -pthread -I ../../plugin-abi/include -o libgrapnel_c_journal.so c_journal.c */
#define _GNU_SOURCE

#include <pthread.h>
#include <signal.h>

#include "config.h"
#include "file.h"

/** What the operator configures. */
typedef struct {
    char file[4096], topic_prefix[1024], property[256];
    uint64_t pending_bytes_max;
} settings;

/** A message that waits to be written. */
typedef struct pending {
    struct pending *next;
    grapnel_ticket ticket;
    uint64_t sequence, wall_ms;
    uint32_t shard;
    size_t topic_len, payload_len;
    uint8_t bytes[];
} pending;

/** The shared part. The lock is held to link or take a list, never while anything is written. */
typedef struct {
    const grapnel_host_api *host;
    settings settings;
    /** The thread's own once it runs. */
    journal_file file;
    pthread_t writer;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pending *first, **end;
    uint64_t pending_bytes;
    bool stopping;
} journal;

/** The instance of a shard: no other thread touches it. */
typedef struct {
    journal *journal;
    uint32_t number;
    uint64_t sequence;
    /** Messages that found no room. */
    uint64_t refused;
} shard;

static bool read_settings(grapnel_slice config, settings *out, grapnel_error_text *error) {
    char problem[256] = "";
    *out = (settings){.property = "journal", .pending_bytes_max = UINT64_C(16) << 20};
    const config_key keys[] = {
        {"file", out->file, sizeof(out->file), NULL},
        {"topic_prefix", out->topic_prefix, sizeof(out->topic_prefix), NULL},
        {"property", out->property, sizeof(out->property), NULL},
        {"pending_bytes_max", NULL, 0, &out->pending_bytes_max},
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

/* The records of a list as one text, or a null pointer where there is no memory for it. */
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

/* What a message takes until it is answered for: its copy, with what the allocator adds, and its part of the text that is written. */
static uint64_t bytes_of(uint64_t topic_len, uint64_t payload_len) {
    return sizeof(pending) + 2 * sizeof(size_t) + HEAD_BYTES_MAX + 1 + 2 * (topic_len + payload_len);
}

/* Room for messages that wait, taken in the hook and given back when they have been answered for. */
static bool take_room(journal *journal, uint64_t bytes) {
    pthread_mutex_lock(&journal->lock);
    const bool room = bytes <= journal->settings.pending_bytes_max - journal->pending_bytes;
    journal->pending_bytes += room ? bytes : 0;
    pthread_mutex_unlock(&journal->lock);
    return room;
}

static void give_back(journal *journal, uint64_t bytes) {
    pthread_mutex_lock(&journal->lock);
    journal->pending_bytes -= bytes;
    pthread_mutex_unlock(&journal->lock);
}

static void answer(const journal *journal, const pending *message, bool written) {
    if (!written) {
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
    /* A client that has gone meanwhile makes the ticket stale, which is as it should be. */
    journal->host->complete(message->ticket, GRAPNEL_FLOW_CONTINUE, &mark, journal->settings.property[0] ? 1 : 0);
}

/* The thread: takes all that waits, writes it at once, and answers for all of it. */
static void *write_on(void *arg) {
    journal *journal = arg;
    bool failing = false;
    /* A write beyond a limit of the process is an error here, and not the end of the broker. */
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
        uint64_t bytes = 0;
        while (list) {
            pending *message = list;
            list = message->next;
            bytes += bytes_of(message->topic_len, message->payload_len);
            answer(journal, message, written);
            free(message);
        }
        give_back(journal, bytes);
    }
}

static grapnel_status load(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error) {
    journal *journal = calloc(1, sizeof(*journal));
    if (!journal) return grapnel_fail(error, "there is no memory left");
    if (!read_settings(config, &journal->settings, error)) return free(journal), GRAPNEL_STATUS_FAILED;
    journal->host = host;
    journal->end = &journal->first;
    file_problem why;
    if (!file_open(&journal->file, journal->settings.file, &why)) {
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
        default:
            snprintf(sentence, sizeof(sentence), "file: it cannot be opened for appending: %s", strerror_r(code, problem, sizeof(problem)));
        }
        file_close(&journal->file);
        return free(journal), grapnel_fail(error, sentence);
    }
    pthread_mutex_init(&journal->lock, NULL);
    pthread_cond_init(&journal->wake, NULL);
    if (pthread_create(&journal->writer, NULL, write_on, journal) != 0) {
        file_close(&journal->file);
        return free(journal), grapnel_fail(error, "the thread that writes cannot be started");
    }
    *out = journal;
    return GRAPNEL_STATUS_OK;
}

/* Every instance has gone: what still waits is written and answered for before the thread ends. */
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
    shard *shard = malloc(sizeof(*shard));
    if (!shard) return grapnel_fail(error, "there is no memory left");
    shard->journal = plugin;
    shard->number = number;
    shard->refused = 0;
    /* On from what the file has; where another version goes before this one, its numbers come in `import_state`. */
    shard->sequence = number < SHARDS_MAX ? shard->journal->file.last[number] : 0;
    *out = shard;
    return GRAPNEL_STATUS_OK;
}

static void drop_shard(void *instance) { free(instance); }

static grapnel_flow publish(void *instance, const grapnel_event *event) {
    shard *shard = instance;
    journal *journal = shard->journal;
    if (!grapnel_starts_with(event->topic, grapnel_text(journal->settings.topic_prefix))) return GRAPNEL_FLOW_CONTINUE;
    const uint64_t bytes = bytes_of(event->topic.len, event->payload.len);
    if (!take_room(journal, bytes)) {
        const grapnel_slice why = grapnel_text("the journal does not keep up");
        /* A line at the first, second, fourth, eighth … one. */
        shard->refused++;
        if ((shard->refused & (shard->refused - 1)) == 0) {
            char line[128];
            snprintf(line, sizeof(line), "%" PRIu64 " messages refused on shard %" PRIu32 " so far: pending_bytes_max is reached",
                     shard->refused, shard->number);
            grapnel_log(journal->host, GRAPNEL_LOG_LEVEL_WARN, line);
        }
        return grapnel_reject(journal->host, event, 0x97, why) == GRAPNEL_STATUS_OK ? GRAPNEL_FLOW_STOP : GRAPNEL_FLOW_FAULT;
    }
    pending *message = malloc(sizeof(*message) + event->topic.len + event->payload.len);
    if (!message || journal->host->defer(event->ctx, 0, &message->ticket) != GRAPNEL_STATUS_OK) {
        free(message);
        give_back(journal, bytes);
        return GRAPNEL_FLOW_FAULT;
    }
    message->next = NULL;
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
    /* After those that rewrite and refuse: the journal has what is routed. */
    out->priority = -100;
    out->hook = publish;
    out->name = grapnel_text("publish");
    /* What is not in the journal is not acknowledged. */
    out->policy = GRAPNEL_POLICY_DENY;
    return GRAPNEL_STATUS_OK;
}

/* The next version goes on counting where this one stopped. */
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
