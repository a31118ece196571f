/* What a disk would have kept: loaded into an engine by LD_PRELOAD (Linux, glibc).

   SHIM_ROOT     folder of the engine's files; everything else is left alone
   SHIM_MIRROR   what of it is on the disk: `inodes/N` has the content of the file with
                 inode N as it was last synced, `tree` has the names that are on the disk,
                 as hard links to those
   SHIM_LOG      a line for each sync: "BEGAN_NS ENDED_NS ERRNO LENGTH PATH", or for what
                 this shim can't follow: "blind WHAT PATH"
   SHIM_CONTROL  two 64-bit numbers that others may change at any time (struct control)

   A sync copies what was written since the last one into the mirror, before it returns.
   The rules are those that a careful program relies on, and no kinder:

   - content and length of a file are on the disk once it was synced (fsync, fdatasync, or
     a write to a file opened with O_DSYNC), and not before;
   - a file's name is there once the file, new and never renamed, or its folder was synced;
   - a rename and an unlink are there once the folder was synced.

   Files written by stdio are seen at their sync by what they have grown. Writing through
   a shared mapping, or by copy_file_range, can't be seen, and is reported as blind. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 65536
#define FILES_MAX 4096
#define RANGES_MAX 1024
#define COPY_BYTES (1 << 20)
#define EXPORT __attribute__((visibility("default")))

struct control {
    volatile int64_t sync_us;    /* a sync takes so much longer */
    volatile int64_t sync_errno; /* unless 0, a sync fails with this, and nothing is kept */
};

/* Bytes written since the last sync, as [from, to). */
struct range {
    off_t from, to;
};

struct file {
    ino_t inode;
    off_t cut; /* the least length since the last sync */
    int ranges;
    struct range range[RANGES_MAX];
};

static struct control quiet, *control = &quiet;
static char root[PATH_MAX], mirror[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static pthread_mutex_t sync_lock = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files[FILES_MAX];
static int file_count;
static unsigned char is_ours[FDS_MAX]; /* 1: below the root; 2: and each write is a sync */
static char copied[COPY_BYTES];

#define REAL(result, name, ...)                                     \
    static result (*real_##name)(__VA_ARGS__);                      \
    if (!real_##name)                                               \
        real_##name = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void note(const char *format, ...) {
    REAL(ssize_t, write, int, const void *, size_t);
    char line[PATH_MAX + 128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (log_fd >= 0 && length > 0)
        (void)!real_write(log_fd, line, (size_t)length);
}

/* ---- which files are ours ---- */

static int below_root(const char *path) {
    return root_length && !strncmp(path, root, root_length) &&
           (path[root_length] == '/' || !path[root_length]);
}

/* The path of an open file as it is named now; 0 if it has none, or is not below the root. */
static int path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return below_root(path);
}

static struct file *file_of(ino_t inode) {
    for (int at = 0; at < file_count; at++)
        if (files[at]->inode == inode)
            return files[at];
    if (file_count == FILES_MAX)
        abort();
    struct file *made = calloc(1, sizeof *made);
    made->inode = inode;
    made->cut = INT64_MAX;
    return files[file_count++] = made;
}

static void synced(struct file *file) {
    file->ranges = 0;
    file->cut = INT64_MAX;
}

static void add_range(struct file *file, off_t from, off_t to) {
    struct range *last = file->range + file->ranges - 1;
    if (file->ranges && from <= last->to && to >= last->from) {
        last->from = from < last->from ? from : last->from;
        last->to = to > last->to ? to : last->to;
        return;
    }
    if (file->ranges == RANGES_MAX) { /* As one: what lies between is the same in both. */
        for (int at = 1; at < RANGES_MAX; at++) {
            struct range *one = file->range + at;
            file->range->from = one->from < file->range->from ? one->from : file->range->from;
            file->range->to = one->to > file->range->to ? one->to : file->range->to;
        }
        file->ranges = 1;
    }
    file->range[file->ranges++] = (struct range){from, to};
}

/* Note what a sync has to do; from now on the file counts as synced. */
static void take_due(ino_t inode, struct file *due) {
    struct file *file = file_of(inode);
    memcpy(due, file, offsetof(struct file, range) + sizeof(struct range) * file->ranges);
    synced(file);
}

static void put_back(const struct file *due) {
    struct file *file = file_of(due->inode);
    file->cut = due->cut < file->cut ? due->cut : file->cut;
    for (int at = 0; at < due->ranges; at++)
        add_range(file, due->range[at].from, due->range[at].to);
}

static int ours(int fd) { return fd >= 0 && fd < FDS_MAX && is_ours[fd]; }

static void shortened(ino_t inode, off_t length) {
    struct file *file = file_of(inode);
    file->cut = length < file->cut ? length : file->cut;
}

/* ---- the mirror ---- */

static void inode_path(ino_t inode, char path[PATH_MAX]) {
    snprintf(path, PATH_MAX, "%s/inodes/%llu", mirror, (unsigned long long)inode);
}

static void tree_path(const char *path, char in_tree[PATH_MAX + 8]) {
    snprintf(in_tree, PATH_MAX + 8, "%s/tree%s", mirror, path + root_length);
}

static void make_parents(char *path) {
    for (char *slash = path + strlen(mirror) + 1; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
    }
}

/* Let a name in the mirror be that of an inode. */
static void name_in_mirror(const char *path, ino_t inode) {
    REAL(int, open64, const char *, int, ...);
    REAL(int, close, int);
    char kept[PATH_MAX], named[PATH_MAX + 8], fresh[PATH_MAX + 32];
    struct stat there, is;
    inode_path(inode, kept);
    tree_path(path, named);
    if (stat(kept, &is)) { /* Its content was never synced. */
        real_close(real_open64(kept, O_WRONLY | O_CREAT, 0666));
        stat(kept, &is);
    }
    if (!stat(named, &there) && there.st_ino == is.st_ino)
        return;
    make_parents(named);
    snprintf(fresh, sizeof fresh, "%s/fresh.%d", mirror, (int)getpid());
    if (!link(kept, fresh))
        rename(fresh, named);
}

static void copy_range(int from_fd, int to_fd, off_t from, off_t to) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    while (from < to) {
        off_t data = lseek(from_fd, from, SEEK_DATA);
        if (data < 0 || data >= to)
            data = to; /* A hole: there the mirror was cut, and reads as zeros as well. */
        off_t hole = data < to ? lseek(from_fd, data, SEEK_HOLE) : to;
        for (from = data; from < to && from < hole;) {
            off_t end = hole < to ? hole : to;
            size_t wanted = end - from > COPY_BYTES ? COPY_BYTES : (size_t)(end - from);
            ssize_t got = pread(from_fd, copied, wanted, from);
            if (got <= 0)
                return;
            (void)!real_pwrite64(to_fd, copied, (size_t)got, from);
            from += got;
        }
    }
}

/* Bring a file's content in the mirror to what it was when `due` was noted. */
static void sync_file(int fd, const char *path, const struct stat *state, const struct file *due) {
    REAL(int, open64, const char *, int, ...);
    REAL(int, close, int);
    REAL(int, ftruncate64, int, off_t);
    char kept[PATH_MAX], itself[64];
    struct stat before;
    inode_path(state->st_ino, kept);
    snprintf(itself, sizeof itself, "/proc/self/fd/%d", fd);
    int from_fd = real_open64(itself, O_RDONLY | O_CLOEXEC);
    int to_fd = real_open64(kept, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (from_fd < 0 || to_fd < 0 || fstat(to_fd, &before))
        note("blind sync %s\n", path);
    off_t known = before.st_size < due->cut ? before.st_size : due->cut;
    known = known < state->st_size ? known : state->st_size; /* Cut by a process that is gone. */
    (void)!real_ftruncate64(to_fd, known);
    for (int at = 0; at < due->ranges; at++) {
        const struct range *one = due->range + at;
        copy_range(from_fd, to_fd, one->from, one->to < known ? one->to : known);
    }
    copy_range(from_fd, to_fd, known, state->st_size);
    (void)!real_ftruncate64(to_fd, state->st_size);
    real_close(from_fd);
    real_close(to_fd);
    /* With a name in the mirror already, it was renamed since, or is well known there. */
    if (state->st_nlink && !stat(kept, &before) && before.st_nlink == 1)
        name_in_mirror(path, state->st_ino);
}

/* Let a folder of the mirror have the names that the folder has. */
static void sync_folder(const char *path) {
    char one[PATH_MAX + 300], in_tree[PATH_MAX + 8];
    struct stat state;
    struct dirent *entry;
    tree_path(path, in_tree);
    strcat(in_tree, "/");
    make_parents(in_tree);
    DIR *folder = opendir(path);
    while (folder && (entry = readdir(folder))) {
        snprintf(one, sizeof one, "%s/%s", path, entry->d_name);
        if (!lstat(one, &state) && S_ISREG(state.st_mode))
            name_in_mirror(one, state.st_ino);
    }
    if (folder)
        closedir(folder);
    folder = opendir(in_tree);
    while (folder && (entry = readdir(folder))) {
        snprintf(one, sizeof one, "%s/%s", path, entry->d_name);
        if (lstat(one, &state) && errno == ENOENT) {
            snprintf(one, sizeof one, "%s%s", in_tree, entry->d_name);
            unlink(one);
        }
    }
    if (folder)
        closedir(folder);
}

static int sync_with(int fd, int (*really)(int)) {
    static struct file due;
    char path[PATH_MAX];
    struct stat state;
    if (!path_of(fd, path) || fstat(fd, &state))
        return really(fd);
    int64_t began_ns = now_ns();
    if (control->sync_us)
        usleep((useconds_t)control->sync_us);
    pthread_mutex_lock(&sync_lock); /* One that finds nothing to do waits for one that does it. */
    pthread_mutex_lock(&lock);
    fstat(fd, &state); /* What comes after this moment is for the next sync. */
    take_due(state.st_ino, &due);
    if (!S_ISDIR(state.st_mode) && !ours(fd))
        add_range(&due, 0, state.st_size); /* Written by ways that are not seen. */
    pthread_mutex_unlock(&lock);
    int failure = (int)control->sync_errno;
    int result = failure ? -1 : really(fd), error = failure ? failure : errno;
    pthread_mutex_lock(&lock);
    if (result)
        put_back(&due);
    else if (S_ISDIR(state.st_mode))
        sync_folder(path);
    else
        sync_file(fd, path, &state, &due);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&sync_lock);
    note("%lld %lld %d %lld %s\n", (long long)began_ns, (long long)now_ns(), result ? error : 0,
         (long long)state.st_size, path + root_length);
    errno = error;
    return result;
}

EXPORT int fsync(int fd) {
    REAL(int, fsync, int);
    return sync_with(fd, real_fsync);
}

EXPORT int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return sync_with(fd, real_fdatasync);
}

/* ---- opening and closing ---- */

/* Keep in mind what is opened below the root. `was_there` tells a new file from an old one. */
static void opened(int fd, int flags, int was_there) {
    char path[PATH_MAX], kept[PATH_MAX];
    struct stat state;
    if (fd < 0 || fd >= FDS_MAX || !root_length)
        return;
    is_ours[fd] = 0;
    if (!path_of(fd, path) || fstat(fd, &state) || !S_ISREG(state.st_mode))
        return;
    is_ours[fd] = flags & O_DSYNC ? 2 : 1;
    pthread_mutex_lock(&lock);
    if (!was_there) { /* The number may have been that of a file that is no more. */
        inode_path(state.st_ino, kept);
        unlink(kept);
        synced(file_of(state.st_ino));
    } else if (flags & O_TRUNC) {
        shortened(state.st_ino, 0);
    }
    pthread_mutex_unlock(&lock);
}

static int is_there(int at, const char *path) {
    struct stat state;
    return !root_length || !fstatat(at, path, &state, 0);
}

#define OPEN(name, AT, DECLARED, ...)                               \
    EXPORT int name DECLARED {                                      \
        REAL(int, name, __VA_ARGS__);                               \
        mode_t mode = 0;                                            \
        if (flags & (O_CREAT | O_TMPFILE)) {                        \
            va_list rest;                                           \
            va_start(rest, flags);                                  \
            mode = va_arg(rest, mode_t);                            \
            va_end(rest);                                           \
        }                                                           \
        int was_there = !(flags & O_CREAT) || is_there(AT, path);   \
        int fd = CALL(name);                                        \
        int error = errno;                                          \
        opened(fd, flags, was_there);                               \
        errno = error;                                              \
        return fd;                                                  \
    }

#define CALL(name) real_##name(path, flags, mode)
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), const char *, int, ...)
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), const char *, int, ...)
#undef CALL
#define CALL(name) real_##name(at, path, flags, mode)
OPEN(openat, at, (int at, const char *path, int flags, ...), int, const char *, int, ...)
OPEN(openat64, at, (int at, const char *path, int flags, ...), int, const char *, int, ...)

#define FOPEN(name)                                                             \
    EXPORT FILE *name(const char *path, const char *mode) {                     \
        REAL(FILE *, name, const char *, const char *);                         \
        int was_there = is_there(AT_FDCWD, path);                               \
        FILE *file = real_##name(path, mode);                                   \
        if (file)                                                               \
            opened(fileno(file), mode[0] == 'w' ? O_TRUNC : 0, was_there);      \
        return file;                                                            \
    }
FOPEN(fopen)
FOPEN(fopen64)

static void closed(int fd) {
    if (fd >= 0 && fd < FDS_MAX)
        is_ours[fd] = 0;
}

EXPORT int fclose(FILE *file) {
    REAL(int, fclose, FILE *);
    closed(fileno(file));
    return real_fclose(file);
}

EXPORT int close(int fd) {
    REAL(int, close, int);
    closed(fd);
    return real_close(fd);
}

EXPORT int dup2(int from, int to) {
    REAL(int, dup2, int, int);
    int fd = real_dup2(from, to);
    if (fd >= 0 && fd < FDS_MAX)
        is_ours[fd] = from < FDS_MAX ? is_ours[from] : 0;
    return fd;
}

/* ---- writing ---- */

static int succeed(int fd) { return fd < 0; }

static void has_written(int fd, off_t at, ssize_t length) {
    int error = errno;
    struct stat state;
    if (length > 0 && !fstat(fd, &state)) {
        off_t from = at < 0 ? lseek(fd, 0, SEEK_CUR) - length : at;
        pthread_mutex_lock(&lock);
        add_range(file_of(state.st_ino), from, from + length);
        pthread_mutex_unlock(&lock);
        if (is_ours[fd] == 2)
            sync_with(fd, succeed);
    }
    errno = error;
}

#define WRITE(name, AT, DECLARED, GIVEN, ...)                       \
    EXPORT ssize_t name DECLARED {                                  \
        REAL(ssize_t, name, __VA_ARGS__);                           \
        ssize_t length = real_##name GIVEN;                         \
        if (ours(fd))                                               \
            has_written(fd, AT, length);                            \
        return length;                                              \
    }

WRITE(write, -1, (int fd, const void *from, size_t size), (fd, from, size), int, const void *, size_t)
WRITE(writev, -1, (int fd, const struct iovec *from, int size), (fd, from, size), int,
      const struct iovec *, int)
WRITE(pwrite, at, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), int,
      const void *, size_t, off_t)
WRITE(pwrite64, at, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), int,
      const void *, size_t, off_t)
WRITE(pwritev, at, (int fd, const struct iovec *from, int size, off_t at), (fd, from, size, at),
      int, const struct iovec *, int, off_t)
WRITE(pwritev64, at, (int fd, const struct iovec *from, int size, off_t at), (fd, from, size, at),
      int, const struct iovec *, int, off_t)

EXPORT ssize_t copy_file_range(int from, off_t *from_at, int fd, off_t *at, size_t size,
                               unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
    char path[PATH_MAX];
    if (ours(fd) && path_of(fd, path))
        note("blind copying %s\n", path);
    return real_copy_file_range(from, from_at, fd, at, size, flags);
}

#define FTRUNCATE(name)                                             \
    EXPORT int name(int fd, off_t length) {                         \
        REAL(int, name, int, off_t);                                \
        struct stat state;                                          \
        int result = real_##name(fd, length);                       \
        if (!result && ours(fd) && !fstat(fd, &state)) {            \
            pthread_mutex_lock(&lock);                              \
            shortened(state.st_ino, length);                        \
            pthread_mutex_unlock(&lock);                            \
        }                                                           \
        return result;                                              \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define TRUNCATE(name)                                              \
    EXPORT int name(const char *path, off_t length) {               \
        REAL(int, name, const char *, off_t);                       \
        char whole[PATH_MAX];                                       \
        struct stat state;                                          \
        int result = real_##name(path, length);                     \
        if (!result && root_length && realpath(path, whole) &&      \
            below_root(whole) && !stat(path, &state)) {             \
            pthread_mutex_lock(&lock);                              \
            shortened(state.st_ino, length);                        \
            pthread_mutex_unlock(&lock);                            \
        }                                                           \
        return result;                                              \
    }
TRUNCATE(truncate)
TRUNCATE(truncate64)

#define MMAP(name)                                                                          \
    EXPORT void *name(void *to, size_t size, int how, int flags, int fd, off_t at) {        \
        REAL(void *, name, void *, size_t, int, int, int, off_t);                           \
        char path[PATH_MAX];                                                                \
        if (flags & MAP_SHARED && how & PROT_WRITE && ours(fd) && path_of(fd, path))        \
            note("blind mapping %s\n", path);                                               \
        return real_##name(to, size, how, flags, fd, at);                                   \
    }
MMAP(mmap)
MMAP(mmap64)

/* ---- start and fork ---- */

static void before_fork(void) {
    pthread_mutex_lock(&sync_lock);
    pthread_mutex_lock(&lock);
}

static void after_fork(void) {
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&sync_lock);
}

__attribute__((constructor)) static void begin(void) {
    REAL(int, open64, const char *, int, ...);
    REAL(void *, mmap64, void *, size_t, int, int, int, off_t);
    const char *folder = getenv("SHIM_ROOT"), *kept = getenv("SHIM_MIRROR");
    const char *lines = getenv("SHIM_LOG"), *steered = getenv("SHIM_CONTROL");
    if (steered) {
        int fd = real_open64(steered, O_RDONLY | O_CLOEXEC);
        void *shared = real_mmap64(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
        if (fd < 0 || shared == MAP_FAILED)
            abort();
        control = shared;
    }
    if (lines)
        log_fd = real_open64(lines, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (folder && kept && realpath(folder, root)) {
        snprintf(mirror, sizeof mirror, "%s", kept);
        root_length = strlen(root);
        pthread_atfork(before_fork, after_fork, after_fork);
    }
}
