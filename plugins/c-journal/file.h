/* The file of a journal. Each record is complete or absent: a record that was truncated by a
 * full disk, a limit of the process or a crash is removed before anything is written after it.
 * Used only by c_journal.c; independent of the broker. */
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

/** Maximum bytes of a record's first line: four numbers of 20 digits, two of 10, and the
 * separators. */
#define HEAD_BYTES_MAX 128
/** Maximum number of shards. */
#define SHARDS_MAX 64

typedef struct {
    int descriptor;
    /** Descriptor with the owner's lock: only this plugin of this broker writes the file; -1 for
     * none. */
    int owner;
    /** Whether it can be read and truncated; a device or a pipe cannot. */
    bool regular;
    /** End of the last complete record; valid while the file is locked. */
    off_t whole;
    /** Whether bytes after `whole` must still be removed: the file stays locked until they are. */
    bool owes_cut;
    /** The last number of each shard. */
    uint64_t last[SHARDS_MAX];
} journal_file;

/* During a reload two versions have the file open. A version locks its own descriptor to write,
 * truncate or find the end. If the lock is not free within two seconds, another program may hold
 * it, and the call fails. */
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

/** Appends records as a whole and syncs them. After an error, nothing of them remains. */
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

/* The bytes from `at` on: at most `want`, fewer at the end of the file. Returns false after a
 * read error. */
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

/* Reads a number and the character after it. */
static bool head_number(const uint8_t **at, const uint8_t *end, char behind, uint64_t *out) {
    const uint8_t *start = *at;
    for (*out = 0; *at < end && **at >= '0' && **at <= '9'; ++*at) {
        if (*out > (UINT64_MAX - 9) / 10) return false;
        *out = *out * 10 + (uint64_t)(**at - '0');
    }
    return *at > start && *at < end && *(*at)++ == (uint8_t)behind;
}

/* Whether the rest of the file could be the result of a crash: the beginning of a record's first
 * line, or only zeros. */
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

/* Continues from `whole` through all complete records, and stores their numbers. Returns false
 * if the rest is neither a record nor the result of a crash, or after a read error. */
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

/* A new file name is on disk only after its folder is synced. */
static bool sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    const size_t len = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (len >= sizeof(folder)) return false;
    memcpy(folder, path, len);
    folder[len] = '\0';
    const int descriptor = open(len > 0 ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return false;
    /* Some file systems cannot sync folders. */
    const bool synced = fsync(descriptor) == 0 || errno == EINVAL || errno == EROFS;
    close(descriptor);
    return synced;
}

/* The owner locks this byte while it uses the file; it is far beyond the end of any file. This
 * lock is separate from `flock`, which is held for one write. It is a lock of an open file
 * description, so that it also works between two owners in one process. */
#define OWNER_BYTE ((off_t)1 << 62)
/* The byte that identifies the owner's plugin within its broker. All versions of a plugin use
 * the same byte. */
#define PLUGIN_BYTE(plugin) (OWNER_BYTE + 1 + (off_t)(plugin))

static bool lock_byte(int descriptor, off_t at) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(descriptor, F_OFD_SETLK, &lock) == 0;
}

static bool owner_lock(int descriptor) { return lock_byte(descriptor, OWNER_BYTE); }

/* Whether the owner of the file is this plugin. The descriptor itself has no lock. */
static bool owner_is(int descriptor, uint32_t plugin) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = PLUGIN_BYTE(plugin), .l_len = 1};
    return fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* A copy of the descriptor with the owner's lock, if this process has one. During a reload the
 * new version shares the lock of the old one, so that it is held without a gap: the lock belongs
 * to the open file description, which both descriptors share. */
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
        /* Another descriptor of this file has no lock, and does not get one. */
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
    /** From the byte `whole` on it is not a journal. The file is unchanged. */
    FILE_FOREIGN,
    /** Another broker writes it. */
    FILE_TAKEN,
    /** Another plugin of this broker writes it. */
    FILE_SHARED,
} file_problem;

/* Takes the ownership of the file for this plugin. Waits two seconds for an owner that is about
 * to end. */
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

/** Opens or creates the file, removes an incomplete record, and sets the last number of each
 * shard. `plugin` is a number that only the versions of one plugin share. After an error it
 * returns false with `*problem`; call `file_close` in any case. */
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
    /* The largest part without the lock, which another version may need for writing. */
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
