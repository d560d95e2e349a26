/* The file of a journal: records that are whole or not there at all. One that was cut short, by a full disk, a limit of the process
 * or a crash, is cut off again before anything is written behind it. Used by c_journal.c alone; knows nothing of the broker. */
#ifndef FILE_H
#define FILE_H

#include <dirent.h>
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
    /** Shows that this plugin of this broker writes the file, and nobody else does; -1 for none. */
    int owner;
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

/* The byte that whoever writes the file has locked for as long as it does: far behind all that there can be. Apart from `flock`,
 * which is held for one write. Locks of an open file description, which keep two of one process apart too. */
#define OWNER_BYTE ((off_t)1 << 62)
/* The byte that says which plugin of its broker that is: all its versions have the same. */
#define PLUGIN_BYTE(plugin) (OWNER_BYTE + 1 + (off_t)(plugin))

static bool lock_byte(int descriptor, off_t at) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(descriptor, F_OFD_SETLK, &lock) == 0;
}

static bool owner_lock(int descriptor) { return lock_byte(descriptor, OWNER_BYTE); }

/* Whether whoever writes the file is this plugin. The descriptor has no lock itself. */
static bool owner_is(int descriptor, uint32_t plugin) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = PLUGIN_BYTE(plugin), .l_len = 1};
    return fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* The lock that somebody has in this process. Where that is the version before, this one shares it, so that it is held without a gap:
 * it belongs to what was opened, and a copy of that descriptor has it too. */
static int owner_in_process(const struct stat *status) {
    int owner = -1;
    DIR *const folder = opendir("/proc/self/fd");
    if (!folder) return -1;
    for (const struct dirent *entry; owner < 0 && (entry = readdir(folder));) {
        struct stat other;
        const int number = atoi(entry->d_name);
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || fstat(number, &other) != 0) continue;
        if (other.st_dev != status->st_dev || other.st_ino != status->st_ino) continue;
        owner = fcntl(number, F_DUPFD_CLOEXEC, 0);
        /* Another one of this file has no lock, and gets none. */
        if (owner >= 0 && !owner_lock(owner)) close(owner), owner = -1;
    }
    closedir(folder);
    return owner;
}

static void file_close(journal_file *file) {
    if (file->owner >= 0) close(file->owner);
    if (file->descriptor >= 0) close(file->descriptor);
}

/** Why a file was not opened. */
typedef enum {
    /** See `errno`. */
    FILE_FAILED,
    /** It is no journal from the byte `whole` on. Nothing of it has been changed. */
    FILE_FOREIGN,
    /** Another broker writes it. */
    FILE_TAKEN,
    /** Another plugin of this broker writes it. */
    FILE_SHARED,
} file_problem;

/* Takes the file for this plugin. Two seconds are time enough for one that is about to end. */
static bool owner_take(journal_file *file, const struct stat *status, uint32_t plugin, file_problem *problem) {
    for (int tries = 0; tries <= 400; tries++) {
        if (tries > 0) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        const bool is_free = owner_lock(file->descriptor);
        const int owner = is_free ? fcntl(file->descriptor, F_DUPFD_CLOEXEC, 0) : owner_in_process(status);
        *problem = owner >= 0 ? FILE_SHARED : FILE_TAKEN;
        if (owner < 0) continue;
        if (is_free ? lock_byte(file->descriptor, PLUGIN_BYTE(plugin)) : owner_is(file->descriptor, plugin)) {
            file->owner = owner;
            return true;
        }
        close(owner);
    }
    return false;
}

/** Opens or makes the file, cuts off what is not whole, and says on which number each shard goes on. `plugin` is a number that only
 * the versions of one plugin have. False with `*problem`; then `file_close` is owed all the same. */
static bool file_open(journal_file *file, const char *path, uint32_t plugin, file_problem *problem) {
    struct stat status;
    *problem = FILE_FAILED;
    *file = (journal_file){.owner = -1, .descriptor = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640)};
    /* A pipe, or a device that cannot be read. */
    if (file->descriptor < 0) file->descriptor = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file->descriptor < 0 || fstat(file->descriptor, &status) != 0) return false;
    file->regular = S_ISREG(status.st_mode);
    if (!file->regular) return true;
    if (!owner_take(file, &status, plugin, problem)) return false;
    *problem = FILE_FAILED;
    file_window window = {.bytes = malloc(WINDOW_BYTES)};
    if (!window.bytes) return false;
    /* Most of it without the lock, which another version may need to write meanwhile. */
    errno = 0;
    bool opened = file_scan(file, &window);
    if (!opened && errno == 0) *problem = FILE_FOREIGN;
    opened = opened && file_lock(file);
    if (opened) {
        window.len = 0;
        errno = 0;
        opened = file_scan(file, &window);
        if (!opened && errno == 0) *problem = FILE_FOREIGN;
        opened = opened && fstat(file->descriptor, &status) == 0 && (status.st_size == file->whole || file_cut(file)) &&
                 fsync(file->descriptor) == 0 && sync_folder(path);
        file_unlock(file);
    }
    free(window.bytes);
    return opened;
}

#endif
