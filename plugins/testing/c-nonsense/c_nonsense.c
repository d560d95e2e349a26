/* A plugin for the tests of a broker with bad plugins: it returns invalid values, which only C
 * allows. With "how": "twice" it completes every ticket twice, and again after the chain has
 * ended; otherwise its commands are invalid. */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grapnel_plugin.h"

typedef struct {
    const grapnel_host_api *host;
    bool twice;
    uint64_t seen;
    grapnel_ticket last;
} shard;

typedef struct {
    const grapnel_host_api *host;
    bool twice;
} nonsense;

/* Tests declare other verbs, omit the function, and mount the hook elsewhere. */
#ifndef VERBS
#define VERBS                                                                                       \
    "[{\"name\": \"add\", \"help\": \"Adds two numbers\", \"arguments\": ["                         \
    "{\"name\": \"one\", \"type\": \"integer\", \"positional\": true, \"required\": true},"         \
    "{\"name\": \"two\", \"type\": \"integer\", \"positional\": true, \"required\": true},"         \
    "{\"name\": \"loud\", \"type\": \"flag\"}]},"                                                   \
    "{\"name\": \"babble\", \"help\": \"Answers nonsense\", \"arguments\": ["                       \
    "{\"name\": \"what\", \"positional\": true, \"required\": true}]}]"
#endif
#ifndef VERB
#define VERB verb
#endif
#ifndef POINT
#define POINT GRAPNEL_POINT_MESSAGE_PUBLISH
#endif

static const char verbs[] = VERBS;

static grapnel_status manifest(grapnel_manifest *out) {
    out->size = (uint32_t)sizeof(*out);
    out->name = grapnel_text("c-nonsense");
    out->version = grapnel_text("1.0.0");
    out->verbs = grapnel_text(verbs);
    return GRAPNEL_STATUS_OK;
}

static grapnel_flow twice(shard *shard, const grapnel_event *event) {
    if (shard->seen > 1) shard->host->complete(shard->last, GRAPNEL_FLOW_STOP, NULL, 0);
    if (shard->host->defer(event->ctx, 0, &shard->last) != GRAPNEL_STATUS_OK) return GRAPNEL_FLOW_FAULT;
    shard->host->complete(shard->last, GRAPNEL_FLOW_CONTINUE, NULL, 0);
    shard->host->complete(shard->last, GRAPNEL_FLOW_FAULT, NULL, 0);
    return GRAPNEL_FLOW_DEFER;
}

static bool refused(shard *shard, const grapnel_event *event, grapnel_field field, uint64_t number, grapnel_slice bytes) {
    grapnel_change change;
    memset(&change, 0, sizeof(change));
    change.field = field;
    change.number = number;
    change.bytes = bytes;
    return shard->host->set(event->ctx, &change) != GRAPNEL_STATUS_OK;
}

/* Each of these must be refused; an accepted one causes a dropped message. */
static grapnel_flow absurd(shard *shard, const grapnel_event *event) {
    const size_t huge = (size_t)200 << 20;
    uint8_t *zeros = calloc(1, huge);
    if (!zeros) return GRAPNEL_FLOW_CONTINUE;
    bool all = refused(shard, event, GRAPNEL_FIELD_TOPIC, 0, grapnel_bytes(zeros, huge));
    all = refused(shard, event, GRAPNEL_FIELD_PAYLOAD, 0, grapnel_bytes(zeros, huge)) && all;
    all = refused(shard, event, GRAPNEL_FIELD_TOPIC, 0, grapnel_text("not/a/name/#")) && all;
    all = refused(shard, event, GRAPNEL_FIELD_TOPIC, 0, grapnel_bytes("\xff\xfe", 2)) && all;
    all = refused(shard, event, GRAPNEL_FIELD_REASON_CODE, 7, grapnel_text("")) && all;
    all = refused(shard, event, GRAPNEL_FIELD_DISPOSITION, 77, grapnel_text("")) && all;
    all = refused(shard, event, GRAPNEL_FIELD_QOS, 3, grapnel_text("")) && all;
    all = refused(shard, event, (grapnel_field)9999, 1, grapnel_text("")) && all;
    free(zeros);
    if (!all && !refused(shard, event, GRAPNEL_FIELD_DISPOSITION, 1, grapnel_text(""))) return GRAPNEL_FLOW_STOP;
    /* This is not a valid flow either. */
    return (grapnel_flow)42;
}

static grapnel_flow publish(void *instance, const grapnel_event *event) {
    shard *shard = instance;
    shard->seen++;
    return shard->twice ? twice(shard, event) : absurd(shard, event);
}

static int number(const grapnel_pair *arguments, size_t len, const char *name) {
    char text[32] = "";
    grapnel_slice value = grapnel_argument(arguments, len, name, 0);
    if (value.len < sizeof(text)) memcpy(text, value.ptr, value.len);
    return atoi(text);
}

static grapnel_status babble(grapnel_slice what, const grapnel_state_sink *out) {
    if (grapnel_equal(what, grapnel_text("silent"))) return GRAPNEL_STATUS_FAILED;
    if (grapnel_equal(what, grapnel_text("bytes"))) return grapnel_write(out, "\xff\xfe");
    if (grapnel_equal(what, grapnel_text("json"))) return grapnel_write(out, "{\"tables\": [");
    if (grapnel_equal(what, grapnel_text("disable"))) {
        return grapnel_write(out, "{\"then\": [{\"do\": \"disable\", \"force\": true}]}");
    }
    if (grapnel_equal(what, grapnel_text("unmount"))) {
        return grapnel_write(out, "{\"then\": [{\"do\": \"unmount\", \"hooks\": [\"client.authorize/publish\"], "
                                  "\"force\": true}]}");
    }
    /* It continues although nothing more is accepted, and does not report that. */
    for (int at = 0; grapnel_equal(what, grapnel_text("much")) && at < 10000; at++) grapnel_write(out, "bla ");
    return GRAPNEL_STATUS_OK;
}

static grapnel_status verb(void *plugin, grapnel_slice name, const grapnel_pair *arguments, size_t len,
                           const grapnel_state_sink *out, grapnel_error_text *error) {
    char text[32];
    (void)plugin;
    if (grapnel_equal(name, grapnel_text("babble"))) {
        return babble(grapnel_argument(arguments, len, "what", 0), out);
    }
    int one = number(arguments, len, "one"), two = number(arguments, len, "two");
    if (one < 0 || two < 0) {
        grapnel_fail(error, "it adds no negative numbers");
        return GRAPNEL_STATUS_INVALID;
    }
    snprintf(text, sizeof(text), "%d%s", one + two, grapnel_argument(arguments, len, "loud", 0).ptr ? "!" : "");
    return grapnel_write(out, text);
}

static grapnel_status mount(uint32_t index, grapnel_mount *out) {
    if (index != 0) return GRAPNEL_STATUS_ABSENT;
    out->size = (uint32_t)sizeof(*out);
    out->point = POINT;
    out->hook = publish;
    out->name = grapnel_text("publish");
    return GRAPNEL_STATUS_OK;
}

static grapnel_status load(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error) {
    nonsense *plugin = malloc(sizeof(*plugin));
    if (!plugin) return grapnel_fail(error, "there is no memory left");
    plugin->host = host;
    plugin->twice = false;
    for (size_t at = 0; at + 7 <= config.len; at++) plugin->twice |= memcmp(config.ptr + at, "\"twice\"", 7) == 0;
    *out = plugin;
    return GRAPNEL_STATUS_OK;
}

static void unload(void *plugin) { free(plugin); }

static grapnel_status init_shard(void *plugin, uint32_t number, void **out, grapnel_error_text *error) {
    const nonsense *shared = plugin;
    shard *shard = calloc(1, sizeof(*shard));
    (void)number;
    if (!shard) return grapnel_fail(error, "there is no memory left");
    shard->host = shared->host;
    shard->twice = shared->twice;
    *out = shard;
    return GRAPNEL_STATUS_OK;
}

static void drop_shard(void *instance) { free(instance); }

const grapnel_plugin_module *grapnel_plugin_v1(void) {
    static grapnel_plugin_module module;
    module = grapnel_module();
    module.manifest = manifest;
    module.mount = mount;
    module.load = load;
    module.unload = unload;
    module.init_shard = init_shard;
    module.drop_shard = drop_shard;
    module.verb = VERB;
    return &module;
}
