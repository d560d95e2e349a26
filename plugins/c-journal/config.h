/* Reads a plugin's configuration from one JSON object of texts and whole numbers, without a
 * library. Copy it into your own plugin. Unknown keys are refused. Errors never show a value,
 * because it may be a secret. */
#ifndef CONFIG_H
#define CONFIG_H

#include <stdio.h>

#include "grapnel_plugin.h"

/** One key of the configuration, with the target of its text or number. */
typedef struct {
    const char *name;
    /** Target of a text, terminated by a zero byte; null for a number. */
    char *text;
    /** Size of `text`, including the zero byte. */
    size_t capacity;
    /** Target of a number; null for a text. */
    uint64_t *number;
} config_key;

typedef struct {
    const uint8_t *at, *end;
} config_reader;

static void config_skip_space(config_reader *reader) {
    while (reader->at < reader->end && (*reader->at == ' ' || (*reader->at >= '\t' && *reader->at <= '\r'))) reader->at++;
}

static bool config_take(config_reader *reader, char letter) {
    config_skip_space(reader);
    if (reader->at == reader->end || *reader->at != (uint8_t)letter) return false;
    reader->at++;
    return true;
}

static bool config_hex(config_reader *reader, unsigned *out) {
    *out = 0;
    for (int digit = 0; digit < 4; digit++) {
        if (reader->at == reader->end) return false;
        const uint8_t letter = *reader->at++;
        unsigned value;
        if (letter >= '0' && letter <= '9') value = letter - '0';
        else if ((letter | 32) >= 'a' && (letter | 32) <= 'f') value = (letter | 32) - 'a' + 10u;
        else return false;
        *out = *out * 16 + value;
    }
    return true;
}

/** Writes a character in UTF-8; returns the number of bytes. */
static size_t config_utf8(unsigned character, char out[4]) {
    if (character < 0x80) return out[0] = (char)character, 1;
    const size_t more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(first[more] | (character >> (6 * more)));
    for (size_t at = 1; at <= more; at++) out[at] = (char)(0x80 | ((character >> (6 * (more - at))) & 0x3f));
    return more + 1;
}

/** Reads a JSON text into `out`, terminated by a zero byte. Returns false if there is none, if
 * it is too long, or if it contains a zero byte. */
static bool config_string(config_reader *reader, char *out, size_t capacity) {
    size_t len = 0;
    if (!config_take(reader, '"')) return false;
    while (reader->at < reader->end && *reader->at != '"') {
        char bytes[4] = {(char)*reader->at};
        size_t count = 1;
        if (*reader->at < 0x20) return false;
        if (*reader->at++ == '\\') {
            if (reader->at == reader->end) return false;
            const uint8_t escape = *reader->at++;
            unsigned character, low;
            static const char names[] = "\"\\/bfnrt", letters[] = "\"\\/\b\f\n\r\t";
            const char *name = escape ? strchr(names, escape) : NULL;
            if (name) {
                bytes[0] = letters[name - names];
            } else {
                if (escape != 'u' || !config_hex(reader, &character) || character == 0) return false;
                if (character >= 0xd800 && character < 0xe000) {
                    /* A surrogate pair is one character; a single surrogate is invalid. */
                    if (character >= 0xdc00 || reader->end - reader->at < 6 || reader->at[0] != '\\' || reader->at[1] != 'u')
                        return false;
                    reader->at += 2;
                    if (!config_hex(reader, &low) || low < 0xdc00 || low >= 0xe000) return false;
                    character = 0x10000 + ((character - 0xd800) << 10) + (low - 0xdc00);
                }
                count = config_utf8(character, bytes);
            }
        }
        if (len + count >= capacity) return false;
        memcpy(out + len, bytes, count);
        len += count;
    }
    out[len] = '\0';
    return config_take(reader, '"');
}

static bool config_number(config_reader *reader, uint64_t *out) {
    bool any = false;
    config_skip_space(reader);
    for (*out = 0; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++, any = true) {
        if (*out > (UINT64_MAX - 9) / 10) return false;
        *out = *out * 10 + (uint64_t)(*reader->at - '0');
    }
    return any;
}

/** Reads a configuration into its keys. The targets of missing keys stay unchanged. Otherwise
 * returns false, with a sentence in `problem`. */
static bool config_read(grapnel_slice json, const config_key *keys, size_t count, char *problem, size_t capacity) {
    config_reader reader = {json.ptr, json.ptr + json.len};
    char name[64];
    if (json.len == 0) return true;
    if (!config_take(&reader, '{')) return snprintf(problem, capacity, "the configuration is not a JSON object"), false;
    if (config_take(&reader, '}')) return true;
    do {
        if (!config_string(&reader, name, sizeof(name)) || !config_take(&reader, ':'))
            return snprintf(problem, capacity, "the configuration has something that is no key"), false;
        const config_key *key = keys;
        while (key < keys + count && strcmp(key->name, name) != 0) key++;
        if (key == keys + count) return snprintf(problem, capacity, "the key %s is not known", name), false;
        if (key->text && !config_string(&reader, key->text, key->capacity))
            return snprintf(problem, capacity, "%s: it must be a text of at most %zu bytes", name, key->capacity - 1), false;
        if (key->number && !config_number(&reader, key->number))
            return snprintf(problem, capacity, "%s: it must be a whole number, not negative", name), false;
    } while (config_take(&reader, ','));
    if (!config_take(&reader, '}')) return snprintf(problem, capacity, "%s: there is more than its value", name), false;
    return true;
}

#endif
