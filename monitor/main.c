/* main.c - the novt command: arguments in, exit status out.
 *
 * The only file of the command that parses arguments, prints failures and exits. A failure is one
 * line on standard error, naming the thing and the remedy; boot/error.h has the statuses. */
#include "monitor/check.h"
#include "monitor/machine.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *argp_program_version = NULL; /* set in main(): the library knows it */

/* Beyond the characters: there are only long options. */
enum {
    KEY_KERNEL = 0x100,
    KEY_INITRD,
    KEY_APPEND,
    KEY_MEMORY,
    KEY_DEBUG_EXIT,
    KEY_STATS,
    KEY_VERIFY,
    KEY_LOG,
    KEY_CODE_CACHE,
    KEY_NO_REBOOT,
    KEY_CPU,
    KEY_INTERPRET,
    KEY_NO_CHAIN,
    KEY_FLUSH,
    KEY_SHORT_BLOCKS,
    KEY_PERF_MAP,
    KEY_MAP_BUDGET,
    KEY_SANDBOX,
};

#define DEFAULT_MEMORY (512ull << 20)

static const struct argp_option options[] = {
    {.doc = "The guest:", .group = 1},
    {"kernel", KEY_KERNEL, "FILE", 0,
     "Linux bzImage, ELF file with a PVH entry note, or ELF file with a Multiboot header", 1},
    {"initrd", KEY_INITRD, "FILE", 0, "Initial RAM disk, or Multiboot module", 1},
    {"append", KEY_APPEND, "STRING", 0, "Kernel command line", 1},
    {"memory", KEY_MEMORY, "SIZE", 0, "Guest memory, 512M unless given; suffixes K, M, G", 1},
    {"cpu", KEY_CPU, "MODEL", 0,
     "CPU to present: host (the default), base, or host,-FEATURE,+FEATURE", 1},
    {"debug-exit", KEY_DEBUG_EXIT, "PORT", OPTION_ARG_OPTIONAL,
     "Writing V to the port (0xf4 unless given) ends the run with status (V << 1) | 1", 1},
    {"no-reboot", KEY_NO_REBOOT, NULL, 0, "End the run where the guest would reset", 1},
    {"sandbox", KEY_SANDBOX, "on|off", 0,
     "Give up all system calls that a running guest does not need; on unless given", 1},
    {.doc = "Looking inside:", .group = 2},
    {"stats", KEY_STATS, "FILE", OPTION_ARG_OPTIONAL,
     "Print counters to FILE, or standard error, at the end and on SIGUSR1", 2},
    {"log", KEY_LOG, "CATEGORIES", 0,
     "Log to standard error: translate, event, exit, step, paging, smc, io; comma-separated", 2},
    {"perf-map", KEY_PERF_MAP, NULL, 0, "Write /tmp/perf-PID.map for perf", 2},
    {.doc = "The translator:", .group = 3},
    {"code-cache", KEY_CODE_CACHE, "SIZE", 0, "Size of the code cache, 32M unless given", 3},
    {"map-budget", KEY_MAP_BUDGET, "N", 0, "Host mappings that guest memory may use", 3},
    {"verify", KEY_VERIFY, NULL, 0, "Run every block through the slow path too and compare", 3},
    {"interpret", KEY_INTERPRET, NULL, 0, "Use the slow path only", 3},
    {"no-chain", KEY_NO_CHAIN, NULL, 0, "Never link translated blocks", 3},
    {"flush", KEY_FLUSH, "N", OPTION_ARG_OPTIONAL,
     "Empty the code cache before every translation, or every Nth", 3},
    {"short-blocks", KEY_SHORT_BLOCKS, NULL, 0, "Translate single instructions", 3},
    {.doc = "Help:", .group = -1},
    {0},
};

static const char run_doc[] =
    "Runs a guest; its serial console COM1 is the terminal."
    "\vAt a terminal, Ctrl-A is the escape key: Ctrl-A x ends the run, Ctrl-A h lists the others; "
    "Ctrl-C goes to the guest.\n\n"
    "Exit status:\n"
    "  0      the guest powered off or halted with interrupts off, or Ctrl-A x\n"
    "  2      bad arguments\n"
    "  4      kernel or initrd unreadable or malformed\n"
    "  6      too little memory, in the guest or on the host\n"
    "  8      the host lacks something that novt needs\n"
    "  10     internal error\n"
    "  12     reset or triple fault under --no-reboot\n"
    "  odd    (V << 1) | 1 after a write of V to the --debug-exit port\n"
    "  128+N  ended by signal N";

static const struct {
    const char *name;
    uint32_t bit;
} log_categories[] = {
    {"translate", NOVT_LOG_TRANSLATE}, {"event", NOVT_LOG_EVENT},   {"exit", NOVT_LOG_EXIT},
    {"step", NOVT_LOG_STEP},           {"paging", NOVT_LOG_PAGING}, {"smc", NOVT_LOG_SMC},
};

static void log_line(void *opaque, const char *line)
{
    (void)opaque;
    fprintf(stderr, "%s\n", line);
}

/* A number, decimal or 0x, up to limit, and where it ended. */
static bool parse_number(const char *text, uint64_t limit, uint64_t *value, char **end)
{
    if (*text < '0' || *text > '9')
        return false; /* strtoull would take signs and blanks */
    errno = 0;
    *value = strtoull(text, end, text[0] == '0' && (text[1] | 32) == 'x' ? 16 : 10);
    return errno == 0 && *value <= limit;
}

static bool parse_plain(const char *text, uint64_t limit, uint64_t *value)
{
    char *end;
    return parse_number(text, limit, value, &end) && *end == '\0';
}

static bool parse_size(const char *text, uint64_t *size)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (!parse_number(text, UINT64_MAX, size, &end))
        return false;
    if (*end == '\0')
        return true;
    const char *suffix = strchr(suffixes, *end & ~32);
    if (!suffix || (end[1] != '\0' && strcmp(end + 1, "iB") != 0))
        return false;
    unsigned shift = 10 * (unsigned)(suffix - suffixes + 1);
    if (*size > UINT64_MAX >> shift)
        return false;
    *size <<= shift;
    return true;
}

static uint64_t size_argument(struct argp_state *state, const char *option, const char *text)
{
    uint64_t size = 0;
    if (!parse_size(text, &size) || size == 0)
        argp_failure(state, MON_E_USAGE, 0, "--%s: '%s' is no size; write it like 512M", option,
                     text);
    return size;
}

static uint64_t number_argument(struct argp_state *state, const char *option, const char *text,
                                uint64_t limit)
{
    uint64_t value = 0;
    if (!parse_plain(text, limit, &value))
        argp_failure(state, MON_E_USAGE, 0, "--%s: '%s' is no number from 0 to %llu", option, text,
                     (unsigned long long)limit);
    return value;
}

static bool switch_argument(struct argp_state *state, const char *option, const char *text)
{
    if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
        argp_failure(state, MON_E_USAGE, 0, "--%s: '%s' is neither on nor off", option, text);
    return !strcmp(text, "on");
}

/* One name of the --log list; false when there is no such category. */
static bool add_log_category(struct mon_machine_config *config, const char *name, size_t length)
{
    if (length == 2 && !memcmp(name, "io", 2)) {
        config->log_io = true;
        return true;
    }
    for (size_t i = 0; i < sizeof(log_categories) / sizeof(log_categories[0]); i++)
        if (strlen(log_categories[i].name) == length &&
            !memcmp(log_categories[i].name, name, length)) {
            config->engine.log_mask |= log_categories[i].bit;
            return true;
        }
    return false;
}

static void log_argument(struct argp_state *state, struct mon_machine_config *config,
                         const char *list)
{
    while (*list) {
        size_t length = strcspn(list, ",");
        if (!add_log_category(config, list, length))
            argp_failure(state, MON_E_USAGE, 0,
                         "--log: no category '%.*s'; there are translate, event, exit, step, "
                         "paging, smc, io",
                         (int)length, list);
        list += length;
        list += *list == ',';
    }
}

static FILE *stats_argument(struct argp_state *state, const char *path)
{
    if (!path)
        return stderr;
    FILE *file = fopen(path, "we");
    if (!file)
        argp_failure(state, MON_E_USAGE, errno, "--stats: cannot write %s", path);
    return file;
}

static error_t parse_engine_option(int key, char *arg, struct argp_state *state)
{
    struct novt_config *engine = &((struct mon_machine_config *)state->input)->engine;
    switch (key) {
    case KEY_VERIFY:
        engine->flags |= NOVT_F_VERIFY;
        return 0;
    case KEY_INTERPRET:
        engine->flags |= NOVT_F_INTERPRET;
        return 0;
    case KEY_FLUSH:
        engine->flags |= NOVT_F_FLUSH;
        if (arg)
            engine->flush_interval = (uint32_t)number_argument(state, "flush", arg, UINT32_MAX);
        return 0;
    case KEY_SHORT_BLOCKS:
        engine->flags |= NOVT_F_SHORT_BLOCKS;
        return 0;
    case KEY_NO_CHAIN:
        engine->flags |= NOVT_F_NO_CHAIN;
        return 0;
    case KEY_PERF_MAP:
        engine->flags |= NOVT_F_PERF_MAP;
        return 0;
    case KEY_CODE_CACHE:
        engine->code_cache_size = size_argument(state, "code-cache", arg);
        return 0;
    case KEY_MAP_BUDGET:
        engine->map_budget = (uint32_t)number_argument(state, "map-budget", arg, UINT32_MAX);
        return 0;
    case KEY_CPU:
        engine->cpu = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct mon_machine_config *config = state->input;
    switch (key) {
    case KEY_KERNEL:
        config->kernel = arg;
        return 0;
    case KEY_INITRD:
        config->initrd = arg;
        return 0;
    case KEY_APPEND:
        config->append = arg;
        return 0;
    case KEY_MEMORY:
        config->memory = size_argument(state, "memory", arg);
        return 0;
    case KEY_DEBUG_EXIT:
        config->debug_exit_port =
            arg ? (int)number_argument(state, "debug-exit", arg, 0xffff) : MON_PORT_DEBUG_EXIT;
        return 0;
    case KEY_NO_REBOOT:
        config->no_reboot = true;
        return 0;
    case KEY_SANDBOX:
        config->no_sandbox = !switch_argument(state, "sandbox", arg);
        return 0;
    case KEY_STATS:
        config->stats = stats_argument(state, arg);
        config->engine.flags |= NOVT_F_STATS;
        return 0;
    case KEY_LOG:
        log_argument(state, config, arg);
        return 0;
    case ARGP_KEY_ARG:
        argp_failure(state, MON_E_USAGE, 0, "unexpected argument '%s'; see novt run --help", arg);
        return 0;
    case ARGP_KEY_END:
        if (!config->kernel)
            argp_failure(state, MON_E_USAGE, 0, "no kernel; give one with --kernel FILE");
        return 0;
    default:
        return parse_engine_option(key, arg, state);
    }
}

/* What is wrong with the arguments ends the program inside; what argp lacks itself does not. */
static void parse_arguments(const struct argp *argp, int argc, char **argv,
                            struct mon_machine_config *config)
{
    int error = argp_parse(argp, argc, argv, 0, NULL, config);
    if (!error)
        return;
    fprintf(stderr, "novt: cannot read the arguments: %s\n", strerror(error));
    exit(MON_E_MEMORY);
}

/* Also what failed at an earlier flush counts. */
static bool close_written(FILE *file)
{
    bool failed = ferror(file);
    return fclose(file) == 0 && !failed;
}

static int command_run(int argc, char **argv)
{
    static const struct argp argp = {.options = options, .parser = parse_option, .doc = run_doc};
    static char name[] = "novt run";
    struct mon_error err = {0};
    struct mon_machine_config config = {
        .memory = DEFAULT_MEMORY,
        .debug_exit_port = -1,
        .engine = {.size = sizeof(struct novt_config), .log = log_line},
    };

    argv[0] = name;
    parse_arguments(&argp, argc, argv, &config);
    int status = mon_machine_run(&config, &err);
    if (err.text[0])
        fprintf(stderr, "novt: %s\n", err.text);
    if (config.stats && config.stats != stderr && !close_written(config.stats)) {
        fputs("novt: cannot write all of the statistics: is the disk full?\n", stderr);
        status = status ? status : MON_E_HOST;
    }
    return status;
}

/* --- novt check --------------------------------------------------------------------------------*/

static error_t parse_check_option(int key, char *arg, struct argp_state *state)
{
    struct mon_machine_config *config = state->input;
    switch (key) {
    case KEY_MEMORY:
        config->memory = size_argument(state, "memory", arg);
        return 0;
    case KEY_CODE_CACHE:
        config->engine.code_cache_size = size_argument(state, "code-cache", arg);
        return 0;
    case ARGP_KEY_ARG:
        argp_failure(state, MON_E_USAGE, 0, "unexpected argument '%s'; see novt check --help", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int command_check(int argc, char **argv)
{
    static const struct argp_option check_options[] = {
        {"memory", KEY_MEMORY, "SIZE", 0, "The guest's memory, 512M unless given", 0},
        {"code-cache", KEY_CODE_CACHE, "SIZE", 0, "Size of the code cache, 32M unless given", 0},
        {0},
    };
    static const struct argp argp = {
        .options = check_options,
        .parser = parse_check_option,
        .doc = "Tries what novt needs of this host, and prints what there is and what is used "
               "instead."
               "\vExit status: 0 when a guest can run, 8 when something is missing.",
    };
    static char name[] = "novt check";
    struct mon_machine_config config = {
        .memory = DEFAULT_MEMORY,
        .engine = {.size = sizeof(struct novt_config)},
    };

    argv[0] = name;
    parse_arguments(&argp, argc, argv, &config);
    return mon_check_print(&config.engine, config.memory, stdout);
}

/* `novt COMMAND ...`: what is before and instead of the command. */
static error_t parse_command(int key, char *arg, struct argp_state *state)
{
    char **command = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        *command = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_failure(state, MON_E_USAGE, 0, "no command; try `novt run --help`");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static char version[64], name[] = "novt";
    static const struct argp argp = {
        .parser = parse_command,
        .args_doc = "run [OPTION...]\ncheck [OPTION...]",
        .doc = "Full virtualization of x86 on x86 by dynamic binary translation."
               "\vCommands:\n  run    run a guest; `novt run --help` lists its options\n"
               "  check  print what this host offers, and what falls back to what",
    };
    char *command = NULL;

    snprintf(version, sizeof(version), "novt %s", novt_version());
    argp_program_version = version;
    argp_err_exit_status = MON_E_USAGE;
    if (argc > 0)
        argv[0] = name;
    if (argc > 1 && !strcmp(argv[1], "run"))
        return command_run(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "check"))
        return command_check(argc - 1, argv + 1);

    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &command);
    if (command)
        fprintf(stderr, "novt: no command '%s'; try `novt --help`\n", command);
    return MON_E_USAGE;
}
