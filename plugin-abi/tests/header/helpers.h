/* ---- Helpers. All of them are inline: nothing has to be linked. ---- */

/** A view of a string literal, for initialisers: `static const grapnel_slice NAME = GRAPNEL_LITERAL("gate");` */
#define GRAPNEL_LITERAL(text) {(const uint8_t *)("" text), sizeof("" text) - 1}

/** Whether the host of this run has a function or field of grapnel_host_api: one of a later minor version may be missing. */
#define GRAPNEL_HOST_HAS(host, member) \
    ((host)->size >= offsetof(grapnel_host_api, member) + sizeof(((grapnel_host_api *)0)->member))

/** A view of bytes, which stay alive for as long as the view is used. */
static inline grapnel_slice grapnel_bytes(const void *ptr, size_t len) {
    grapnel_slice slice;
    slice.ptr = (const uint8_t *)ptr;
    slice.len = len;
    return slice;
}

/** A view of a text that ends with a zero byte, without it; empty for a null pointer. */
static inline grapnel_slice grapnel_text(const char *text) {
    return grapnel_bytes(text, text ? strlen(text) : 0);
}

/** Whether two views show the same bytes. */
static inline bool grapnel_equal(grapnel_slice left, grapnel_slice right) {
    return left.len == right.len && (left.len == 0 || memcmp(left.ptr, right.ptr, left.len) == 0);
}

/** Whether a view begins with these bytes. */
static inline bool grapnel_starts_with(grapnel_slice slice, grapnel_slice prefix) {
    return slice.len >= prefix.len && grapnel_equal(grapnel_bytes(slice.ptr, prefix.len), prefix);
}

/** An argument of a verb: its text, or a null pointer where it was not given. `place` 0 for the first value of a repeated one. */
static inline grapnel_slice grapnel_argument(const grapnel_pair *arguments, size_t len, const char *name, size_t place) {
    size_t at;
    for (at = 0; at < len; at++) {
        if (grapnel_equal(arguments[at].key, grapnel_text(name)) && place-- == 0) return arguments[at].value;
    }
    return grapnel_bytes(NULL, 0);
}

/** Writes a text to a sink: an answer of a verb, or a part of one. */
static inline grapnel_status grapnel_write(const grapnel_state_sink *out, const char *text) {
    return out->write(out->ctx, grapnel_text(text));
}

/** A field's text or bytes; a null pointer and no bytes where it is absent. In a hook alone. */
static inline grapnel_slice grapnel_get_bytes(const grapnel_host_api *host, const grapnel_event *event,
                                              grapnel_field field, uint32_t index) {
    grapnel_value value;
    if (host->get(event->ctx, field, index, &value) != GRAPNEL_STATUS_OK) return grapnel_bytes(NULL, 0);
    return value.bytes;
}

/** A field's number, or `otherwise` where it is absent. In a hook alone. */
static inline uint64_t grapnel_get_number(const grapnel_host_api *host, const grapnel_event *event,
                                          grapnel_field field, uint32_t index, uint64_t otherwise) {
    grapnel_value value;
    return host->get(event->ctx, field, index, &value) == GRAPNEL_STATUS_OK ? value.number : otherwise;
}

/** A change of a number, for `set` and `complete`. */
static inline grapnel_change grapnel_number_change(grapnel_field field, uint64_t number) {
    grapnel_change change;
    change.field = field;
    change.index = 0;
    change.number = number;
    change.bytes = grapnel_bytes(NULL, 0);
    change.key = grapnel_bytes(NULL, 0);
    return change;
}

/** A change of a text or of bytes, for `set` and `complete`. */
static inline grapnel_change grapnel_bytes_change(grapnel_field field, grapnel_slice bytes) {
    grapnel_change change = grapnel_number_change(field, 0);
    change.bytes = bytes;
    return change;
}

/** A change that adds a user property, for `set` and `complete`. */
static inline grapnel_change grapnel_user_property_change(grapnel_slice key, grapnel_slice value) {
    grapnel_change change = grapnel_bytes_change(GRAPNEL_FIELD_USER_PROPERTY, value);
    change.index = GRAPNEL_APPEND;
    change.key = key;
    return change;
}

/** Sets a number. In a hook alone. */
static inline grapnel_status grapnel_set_number(const grapnel_host_api *host, const grapnel_event *event,
                                                grapnel_field field, uint64_t number) {
    const grapnel_change change = grapnel_number_change(field, number);
    return host->set(event->ctx, &change);
}

/** Sets a text or bytes. In a hook alone. */
static inline grapnel_status grapnel_set_bytes(const grapnel_host_api *host, const grapnel_event *event,
                                               grapnel_field field, grapnel_slice bytes) {
    const grapnel_change change = grapnel_bytes_change(field, bytes);
    return host->set(event->ctx, &change);
}

/** Adds a user property to the message. In a hook alone. */
static inline grapnel_status grapnel_add_user_property(const grapnel_host_api *host, const grapnel_event *event,
                                                       grapnel_slice key, grapnel_slice value) {
    const grapnel_change change = grapnel_user_property_change(key, value);
    return host->set(event->ctx, &change);
}

/** Refuses a message at message.publish with a reason code and, unless it is empty, a text. In a hook alone. */
static inline grapnel_status grapnel_reject(const grapnel_host_api *host, const grapnel_event *event, uint8_t reason,
                                            grapnel_slice text) {
    grapnel_status status = grapnel_set_number(host, event, GRAPNEL_FIELD_REASON_CODE, reason);
    if (status == GRAPNEL_STATUS_OK && text.len != 0) {
        status = grapnel_set_bytes(host, event, GRAPNEL_FIELD_REASON_STRING, text);
    }
    if (status != GRAPNEL_STATUS_OK) return status;
    return grapnel_set_number(host, event, GRAPNEL_FIELD_DISPOSITION, GRAPNEL_DISPOSITION_REJECT);
}

/** Writes a line to the broker's log. Any thread. */
static inline void grapnel_log(const grapnel_host_api *host, grapnel_log_level level, const char *text) {
    host->log(host->plugin, level, grapnel_text(text));
}

/** Writes why a function failed, cut where there is no more room, and gives the status to return. */
static inline grapnel_status grapnel_fail(grapnel_error_text *error, const char *text) {
    if (error && error->ptr) {
        const size_t len = strlen(text);
        error->len = len < error->capacity ? len : error->capacity;
        memcpy(error->ptr, text, error->len);
    }
    return GRAPNEL_STATUS_FAILED;
}

static inline grapnel_status grapnel_default_check_config(grapnel_slice config, grapnel_error_text *error) {
    (void)config, (void)error;
    return GRAPNEL_STATUS_OK;
}

static inline grapnel_status grapnel_default_activate(void *plugin, grapnel_error_text *error) {
    (void)plugin, (void)error;
    return GRAPNEL_STATUS_OK;
}

static inline void grapnel_default_nothing(void *plugin_or_instance) { (void)plugin_or_instance; }

static inline void grapnel_default_on_timer(void *instance, uint64_t timer, uint64_t number) {
    (void)instance, (void)timer, (void)number;
}

static inline void grapnel_default_on_instance_message(void *instance, uint32_t from_shard, uint64_t number, grapnel_slice bytes) {
    (void)instance, (void)from_shard, (void)number, (void)bytes;
}

static inline grapnel_status grapnel_default_export_state(void *instance, const grapnel_state_sink *out,
                                                          grapnel_error_text *error) {
    (void)instance, (void)out, (void)error;
    return GRAPNEL_STATUS_UNSUPPORTED;
}

static inline grapnel_status grapnel_default_import_state(void *instance, grapnel_slice state,
                                                          grapnel_error_text *error) {
    (void)instance, (void)state, (void)error;
    return GRAPNEL_STATUS_UNSUPPORTED;
}

static inline grapnel_status grapnel_default_configure(void *plugin, grapnel_slice config, grapnel_error_text *error) {
    (void)plugin, (void)config, (void)error;
    return GRAPNEL_STATUS_UNSUPPORTED;
}

/** A table to begin with: its head is filled in, `manifest`, `mount`, `load` and `init_shard` are missing, and the others do
 *  what stands in their place where a plugin has no use for them: any configuration is taken, a new one asks for a reload,
 *  there is no state to hand over, and nothing has to be freed. What may be a null pointer is one. */
static inline grapnel_plugin_module grapnel_module(void) {
    grapnel_plugin_module module;
    memset(&module, 0, sizeof(module));
    module.size = (uint32_t)sizeof(module);
    module.abi_major = GRAPNEL_ABI_MAJOR;
    module.abi_minor = GRAPNEL_ABI_MINOR;
    module.abi_hash = GRAPNEL_ABI_HASH;
    module.check_config = grapnel_default_check_config;
    module.drop_shard = grapnel_default_nothing;
    module.activate = grapnel_default_activate;
    module.deactivate = grapnel_default_nothing;
    module.unload = grapnel_default_nothing;
    module.on_timer = grapnel_default_on_timer;
    module.on_instance_message = grapnel_default_on_instance_message;
    module.export_state = grapnel_default_export_state;
    module.import_state = grapnel_default_import_state;
    module.configure = grapnel_default_configure;
    module.configured = grapnel_default_nothing;
    return module;
}
