/* mkcpio.c - writes an initramfs (a cpio archive of the "newc" kind) from a description.
 *
 * A tool of the build, run on the host. Device nodes need root to create but not to describe, so
 * the archive is made from a list, not from a directory:
 *
 *     # comment
 *     dir   NAME MODE
 *     nod   NAME MODE c|b MAJOR MINOR
 *     slink NAME TARGET
 *     file  NAME MODE HOST-PATH
 *     tree  HOST-PATH
 *
 * Names have no leading slash and no spaces; modes are octal; everybody is root and every time is
 * the epoch, so equal input gives equal bytes. A tree is a directory whose contents become the
 * archive's root, in the order of their names, with the modes, owners and times that they have on
 * the host; hard links become copies, sockets and pipes are left out. The list is read from stdin,
 * the archive goes to stdout. Exits 1 with a message that names the line on any error.
 *
 * Format: Documentation/driver-api/early-userspace/buffer-format.rst of Linux: a header of "070701"
 * and 13 fields of 8 hexadecimal digits, the name, the data, each padded to 4 bytes. */
#include <fts.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct entry {
    const char *name;
    unsigned mode; /* type and permissions, as in struct stat */
    unsigned major, minor;
    unsigned uid, gid;
    unsigned mtime; /* seconds since the epoch */
    const void *data;
    size_t size; /* bytes of data */
};

static unsigned line_number;
static unsigned next_inode = 1;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "mkcpio: line %u: ", line_number);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void put_padding(size_t written)
{
    static const char zeros[4];
    fwrite(zeros, 1, -written & 3, stdout);
}

static void put_entry(const struct entry *e)
{
    size_t name_size = strlen(e->name) + 1;
    int header = printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", next_inode++,
                        e->mode, e->uid, e->gid, S_ISDIR(e->mode) ? 2 : 1, e->mtime,
                        (unsigned)e->size, 0, 0, e->major, e->minor, (unsigned)name_size, 0);
    fwrite(e->name, 1, name_size, stdout);
    put_padding((size_t)header + name_size);
    fwrite(e->data, 1, e->size, stdout);
    put_padding(e->size);
}

/* A regular file; the entry lacks its contents, which are the host's file at that path. */
static void put_contents(struct entry *e, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail("cannot open %s: %m", path);
    struct stat st;
    if (fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > UINT32_MAX)
        fail("%s is not a regular file below 4 GiB", path);
    size_t size = (size_t)st.st_size;
    char *data = malloc(size + 1);
    if (!data || fread(data, 1, size, f) != size)
        fail("cannot read %s", path);
    fclose(f);
    e->data = data;
    e->size = size;
    put_entry(e);
    free(data);
}

static void put_file(const char *name, unsigned mode, const char *path)
{
    put_contents(&(struct entry){.name = name, .mode = S_IFREG | mode}, path);
}

static void put_link(struct entry *e, const char *path)
{
    char target[4096];
    ssize_t size = readlink(path, target, sizeof target);
    if (size < 0)
        fail("cannot read the link %s: %m", path);
    e->data = target;
    e->size = (size_t)size;
    put_entry(e);
}

static void put_member(const FTSENT *f, size_t root)
{
    const struct stat *st = f->fts_statp;
    struct entry e = {.name = f->fts_path + root + 1,
                      .mode = st->st_mode,
                      .uid = st->st_uid,
                      .gid = st->st_gid,
                      .mtime = (unsigned)st->st_mtime};
    if (S_ISREG(st->st_mode))
        put_contents(&e, f->fts_accpath);
    else if (S_ISLNK(st->st_mode))
        put_link(&e, f->fts_accpath);
    else if (S_ISDIR(st->st_mode))
        put_entry(&e);
    else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
        e.major = major(st->st_rdev);
        e.minor = minor(st->st_rdev);
        put_entry(&e);
    }
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void put_tree(char *path)
{
    char *const roots[] = {path, NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    if (!fts)
        fail("cannot read %s: %m", path);
    for (FTSENT *f; (f = fts_read(fts));) {
        if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR || f->fts_info == FTS_NS)
            fail("cannot read %s: %s", f->fts_path, strerror(f->fts_errno));
        if (f->fts_info != FTS_DP && f->fts_level > FTS_ROOTLEVEL)
            put_member(f, strlen(path));
    }
    fts_close(fts);
}

static void put_line(const char *line)
{
    char kind[8], name[256], text[4096], type;
    unsigned mode, major, minor;
    if (sscanf(line, "%7s", kind) != 1 || kind[0] == '#')
        return;
    if (sscanf(line, "dir %255s %o", name, &mode) == 2)
        put_entry(&(struct entry){.name = name, .mode = S_IFDIR | mode});
    else if (sscanf(line, "nod %255s %o %c %u %u", name, &mode, &type, &major, &minor) == 5)
        put_entry(&(struct entry){.name = name,
                                  .mode = (type == 'b' ? S_IFBLK : S_IFCHR) | mode,
                                  .major = major,
                                  .minor = minor});
    else if (sscanf(line, "slink %255s %4095s", name, text) == 2)
        put_entry(&(struct entry){
            .name = name, .mode = S_IFLNK | 0777, .data = text, .size = strlen(text)});
    else if (sscanf(line, "file %255s %o %4095[^\n]", name, &mode, text) == 3)
        put_file(name, mode, text);
    else if (sscanf(line, "tree %4095[^\n]", text) == 1)
        put_tree(text);
    else
        fail("cannot understand: %s", line);
}

int main(void)
{
    char line[8192];
    while (fgets(line, sizeof line, stdin)) {
        line_number++;
        put_line(line);
    }
    next_inode = 0;
    put_entry(&(struct entry){.name = "TRAILER!!!"});
    if (ferror(stdin) || fflush(stdout) != 0 || ferror(stdout))
        fail("input or output failed");
    return 0;
}
