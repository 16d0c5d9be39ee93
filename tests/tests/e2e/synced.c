/* Preloaded into the store: notes which files have been synced, and how long they were then, so that the test
 * can take away the rest. Lines of $KODIAK_SYNCED: "F length path", and for a rename "R old path" and "N new path". The volumes are synced by system calls of their own and do not come past here. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void note(const char *line, int length) {
    static int out = -1;
    const char *path = getenv("KODIAK_SYNCED");
    if (out < 0 && path)
        out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (out >= 0 && write(out, line, length) != length)
        abort();
}

/* What was written before the call is on stable storage after it; what comes meanwhile may not be. */
static int sync_with(long call, int fd) {
    char link[64], path[4096], line[4200];
    struct stat before;
    int known = fstat(fd, &before) == 0;
    int result = syscall(call, fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (result != 0 || !known || length < 0 || !S_ISREG(before.st_mode))
        return result;
    path[length] = 0;
    note(line, snprintf(line, sizeof line, "F %lld %s\n", (long long)before.st_size, path));
    return result;
}

int fsync(int fd) { return sync_with(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_with(SYS_fdatasync, fd); }

int rename(const char *from, const char *to) {
    int result = syscall(SYS_rename, from, to);
    char line[8500];
    if (result == 0)
        note(line, snprintf(line, sizeof line, "R %s\nN %s\n", from, to));
    return result;
}
