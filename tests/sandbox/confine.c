/* confine.c - runs a command on a poorer host: as nobody, under limits and seccomp rules.
 *
 *   confine [-u] [-d FILE] [-e CALL=ERRNO]... [-v BYTES] [-f BYTES] COMMAND [ARG]...
 *
 *     -u             as user and group 65534 without capabilities, if started as root
 *     -d FILE        only the system calls listed in FILE, as Docker's default profile has them
 *     -e CALL=ERRNO  this call fails; prctl:N=ERRNO only for that first argument
 *     -v, -f BYTES   RLIMIT_AS, RLIMIT_FSIZE
 *
 * Ends with status 125 when it cannot set up what was asked for: a test must not pass because its
 * host was not poor. */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NAMESPACE_FLAGS 0x7e020000u /* CLONE_NEWNS ... CLONE_NEWNET */

static void fail(const char *what)
{
    fprintf(stderr, "confine: %s: %s\n", what, strerror(errno));
    exit(125);
}

static void check(int rc, const char *what)
{
    if (rc < 0) {
        errno = rc < -1 ? -rc : errno;
        fail(what);
    }
}

static void become_nobody(void)
{
    if (getuid() != 0)
        return;
    check(setgroups(0, NULL), "setgroups");
    check(setresgid(65534, 65534, 65534), "setresgid");
    check(setresuid(65534, 65534, 65534), "setresuid");
}

static void limit(int resource, const char *bytes)
{
    struct rlimit l = {strtoull(bytes, NULL, 0), strtoull(bytes, NULL, 0)};
    check(setrlimit((__rlimit_resource_t)resource, &l), "setrlimit");
}

static void allow_word(scmp_filter_ctx filter, const char *name)
{
    int call = seccomp_syscall_resolve_name(name);
    if (call != __NR_SCMP_ERROR) /* a libseccomp that does not know it allows nothing of it */
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 0), name);
}

static void allow_conditions(scmp_filter_ctx filter)
{
    static const uint64_t personalities[] = {0, 8, 0x20000, 0x20008, 0xffffffff};
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, NAMESPACE_FLAGS, 0)),
          "clone");
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_NE, 40)),
          "socket");
    check(seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0), "clone3");
    for (size_t i = 0; i < sizeof(personalities) / sizeof(personalities[0]); i++)
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1,
                               SCMP_A0(SCMP_CMP_EQ, personalities[i])),
              "personality");
}

static void load_docker(const char *path)
{
    char line[200];
    FILE *f = fopen(path, "re");
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!f || !filter)
        fail(path);
    while (fgets(line, sizeof(line), f)) {
        char *rest = line, *word;
        while (line[0] != '#' && (word = strsep(&rest, " \n")))
            if (*word)
                allow_word(filter, word);
    }
    fclose(f);
    allow_conditions(filter);
    check(seccomp_load(filter), "seccomp");
    seccomp_release(filter);
}

static void add_errno(scmp_filter_ctx filter, char *rule)
{
    char *error = strchr(rule, '='), *argument = strchr(rule, ':');
    if (!error)
        fail("-e CALL=ERRNO");
    *error++ = '\0';
    uint32_t action = SCMP_ACT_ERRNO((uint16_t)atoi(error));
    if (argument)
        *argument++ = '\0';
    int call = seccomp_syscall_resolve_name(rule);
    if (argument)
        check(seccomp_rule_add(filter, action, call, 1,
                               SCMP_A0(SCMP_CMP_EQ, strtoull(argument, NULL, 0))),
              rule);
    else
        check(seccomp_rule_add(filter, action, call, 0), rule);
}

int main(int argc, char **argv)
{
    scmp_filter_ctx errors = seccomp_init(SCMP_ACT_ALLOW);
    const char *docker = NULL;
    bool any = false;
    int option;

    while ((option = getopt(argc, argv, "+ud:e:v:f:")) >= 0) {
        if (option == 'u')
            become_nobody();
        else if (option == 'd')
            docker = optarg;
        else if (option == 'e')
            add_errno(errors, optarg), any = true;
        else if (option == 'v')
            limit(RLIMIT_AS, optarg);
        else if (option == 'f')
            limit(RLIMIT_FSIZE, optarg);
        else
            return 125;
    }
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges");
    if (docker)
        load_docker(docker);
    if (any)
        check(seccomp_load(errors), "seccomp");
    execvp(argv[optind], argv + optind);
    fail(argv[optind]);
}
