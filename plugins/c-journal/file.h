/* The file of a journal: records that are whole or not there at all. One that was cut short, by a full disk, a limit of the process
 * or a crash, is cut off again before anything is written behind it. Used by c_journal.c alone; knows nothing of the broker. */
#ifndef FILE_H
#define FILE_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/** Bytes of a record's first line at most: four numbers of 20 digits and two of 10, with what is between them. */
#define HEAD_BYTES_MAX 128
/** Shards there can be. */
#define SHARDS_MAX 64

typedef struct {
    int descriptor;
    /** Whether it can be read and cut; a device or a pipe cannot. */
    bool regular;
    /** Up to where it is whole; known while it is locked. */
    off_t whole;
    /** Whether bytes behind `whole` are still to be cut off: it stays locked until they are. */
    bool owes_cut;
    /** The last number of each shard. */
    uint64_t last[SHARDS_MAX];
} journal_file;

/* During a reload two versions have the file open: whoever writes, cuts or looks for the end has the lock of its own descriptor. Who
 * does not get it within two seconds gives up: it may be held by some other program. */
static bool file_lock(const journal_file *file) {
    for (int tries = 0; flock(file->descriptor, LOCK_EX | LOCK_NB) != 0; tries++) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || tries == 400) return false;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return true;
}

static void file_unlock(const journal_file *file) { (void)flock(file->descriptor, LOCK_UN); }

static bool file_cut(journal_file *file) {
    file->owes_cut = ftruncate(file->descriptor, file->whole) != 0 || fdatasync(file->descriptor) != 0;
    return !file->owes_cut;
}

static bool file_write_all(int descriptor, const char *bytes, size_t len) {
    while (len > 0) {
        const ssize_t written = write(descriptor, bytes, len);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        bytes += written;
        len -= (size_t)written;
    }
    return fdatasync(descriptor) == 0;
}

/** Appends records as a whole and syncs them; where that fails nothing of them stays. */
static bool file_append(journal_file *file, const char *bytes, size_t len) {
    if (file->owes_cut ? !file_cut(file) : !file_lock(file)) return false;
    if (file->regular) file->whole = lseek(file->descriptor, 0, SEEK_END);
    const bool written = file->whole >= 0 && file_write_all(file->descriptor, bytes, len);
    if (!written && file->regular && file->whole >= 0 && !file_cut(file)) return false;
    file_unlock(file);
    return written;
}

/** A part of the file in memory. */
typedef struct {
    uint8_t *bytes;
    off_t from;
    size_t len;
} file_window;

#define WINDOW_BYTES ((size_t)1 << 20)

/* The bytes from a place on, at most as many as asked for; fewer at the end of the file. False where it cannot be read. */
static bool file_look(const journal_file *file, file_window *window, off_t at, size_t want, const uint8_t **bytes, size_t *len) {
    if (at < window->from || at + (off_t)want > window->from + (off_t)window->len) {
        window->from = at;
        window->len = 0;
        while (window->len < WINDOW_BYTES) {
            const ssize_t got = pread(file->descriptor, window->bytes + window->len, WINDOW_BYTES - window->len, at + (off_t)window->len);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return false;
            if (got == 0) break;
            window->len += (size_t)got;
        }
    }
    const size_t there = window->len - (size_t)(at - window->from);
    *bytes = window->bytes + (at - window->from);
    *len = there < want ? there : want;
    return true;
}

/* A number and the letter behind it. */
static bool head_number(const uint8_t **at, const uint8_t *end, char behind, uint64_t *out) {
    const uint8_t *start = *at;
    for (*out = 0; *at < end && **at >= '0' && **at <= '9'; ++*at) {
        if (*out > (UINT64_MAX - 9) / 10) return false;
        *out = *out * 10 + (uint64_t)(**at - '0');
    }
    return *at > start && *at < end && *(*at)++ == (uint8_t)behind;
}

/* Whether what is left of the file could be the beginning of a record's first line, or is nothing but zeros: what a crash leaves. */
static bool is_remnant(const journal_file *file, file_window *window, off_t at, off_t size) {
    const uint8_t *bytes;
    size_t len;
    if (size - at < HEAD_BYTES_MAX && file_look(file, window, at, (size_t)(size - at), &bytes, &len)) {
        while (len > 0 && ((*bytes >= '0' && *bytes <= '9') || *bytes == ' ' || *bytes == '-')) bytes++, len--;
        if (len == 0) return true;
    }
    for (; at < size; at += (off_t)len) {
        if (!file_look(file, window, at, 4096, &bytes, &len) || len == 0) return false;
        for (size_t index = 0; index < len; index++) {
            if (bytes[index] != 0) return false;
        }
    }
    return true;
}

/* Goes on from `whole` as far as there are whole records, and notes their numbers. False where something else comes that was never
 * a record, or it cannot be read. */
static bool file_scan(journal_file *file, file_window *window) {
    struct stat status;
    if (fstat(file->descriptor, &status) != 0) return false;
    while (file->whole < status.st_size) {
        const uint8_t *at;
        size_t len;
        uint64_t shard, number, wall_ms, topic, payload;
        if (!file_look(file, window, file->whole, HEAD_BYTES_MAX, &at, &len)) return false;
        const uint8_t *const start = at, *const end = at + len;
        if (!head_number(&at, end, '-', &shard) || !head_number(&at, end, ' ', &number) || !head_number(&at, end, ' ', &wall_ms) ||
            !head_number(&at, end, ' ', &topic) || !head_number(&at, end, '\n', &payload)) {
            return is_remnant(file, window, file->whole, status.st_size);
        }
        const uint64_t left = (uint64_t)(status.st_size - file->whole) - (uint64_t)(at - start);
        if (topic > left || payload > left - topic || left - topic - payload == 0) return true;
        const off_t last = file->whole + (at - start) + (off_t)(topic + payload);
        if (!file_look(file, window, last, 1, &at, &len) || len == 0) return false;
        if (*at != '\n') return is_remnant(file, window, last, status.st_size);
        if (shard < SHARDS_MAX && number > file->last[shard]) file->last[shard] = number;
        file->whole = last + 1;
    }
    return true;
}

/* A name in a folder is on disk when the folder is. */
static bool sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    const size_t len = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (len >= sizeof(folder)) return false;
    memcpy(folder, path, len);
    folder[len] = '\0';
    const int descriptor = open(len > 0 ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return false;
    /* Some file systems have no folders to sync. */
    const bool synced = fsync(descriptor) == 0 || errno == EINVAL || errno == EROFS;
    close(descriptor);
    return synced;
}

/** Opens or makes the file, cuts off what is not whole, and says on which number each shard goes on. False with `errno`, or with
 * `*foreign` where it is no journal from the byte `whole` on: then nothing of it has been changed. */
static bool file_open(journal_file *file, const char *path, bool *foreign) {
    struct stat status;
    *foreign = false;
    *file = (journal_file){.descriptor = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640)};
    /* A pipe, or a device that cannot be read. */
    if (file->descriptor < 0) file->descriptor = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file->descriptor < 0 || fstat(file->descriptor, &status) != 0) return false;
    file->regular = S_ISREG(status.st_mode);
    if (!file->regular) return true;
    file_window window = {.bytes = malloc(WINDOW_BYTES)};
    if (!window.bytes) return false;
    /* Most of it without the lock, which another version may need to write meanwhile. */
    errno = 0;
    bool opened = file_scan(file, &window);
    *foreign = !opened && errno == 0;
    opened = opened && file_lock(file);
    if (opened) {
        window.len = 0;
        errno = 0;
        opened = file_scan(file, &window);
        *foreign = !opened && errno == 0;
        opened = opened && fstat(file->descriptor, &status) == 0 && (status.st_size == file->whole || file_cut(file)) &&
                 fsync(file->descriptor) == 0 && sync_folder(path);
        file_unlock(file);
    }
    free(window.bytes);
    return opened;
}

#endif
