/* diff.c - the host CPU is the oracle: random instruction sequences, natively and in novt.
 *
 *   diff [--mode 16|32|64] [--count N] [--systematic] [--seed S] [--batch B] [--max N] [--kicks HZ]
 *        [--cache KIB] [--interpret] [--no-chain] [--flush] [--short-blocks] [--single-step]
 *        [--cover] [--only MNEMONIC] [--strict] [--verbose]
 *
 * A batch is BATCH_MAX sequences in one piece of code, run ROUNDS times with new inputs, so that
 * the later rounds run linked blocks; after each round compare.c has its say. --systematic: a
 * sequence is one instruction, and all forms (forms.c) get their turn. --single-step: with TF set,
 * and the trap behind each instruction (the first STEPS_MAX of a sequence) is noted and compared.
 *
 * --cover: a row of the policy table that is a copy and no sequence had an instruction of is a
 * failure.
 *
 * --only: of all forms those with that mnemonic; --strict: nothing is excused.
 *
 * A batch that differs is run again one sequence at a time; the first one that differs is shrunk by
 * dropping instructions and printed with the command that reruns it. */
#include "tests/diff/diff.h"
#include "include/novt.h"
#include "runtime/vcpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS       3
#define FAILURES_MAX 10 /* then stop, but for --max */

struct options {
    uint64_t count, seed, batch, max;
    int mode; /* 16, 32 or 64 */
    bool one_batch, verbose, systematic, single_step, cover;
    const char *only; /* a mnemonic; NULL: all */
    struct guest_options guest;
};

static struct options options = {
    .count = 20000, .seed = 1, .max = FAILURES_MAX, .mode = 32, .guest = {.code_cache = 16 << 20}};
static int memfd;
static struct side native, guest;
static uint8_t *code;      /* CODE's bytes, shared with both sides */
static uint64_t code_base; /* where the batch runs */
static uint64_t passed, failed, faults, steps, gaps, broken;
static unsigned fault_counts[256], form_count;
enum tr_mode diff_mode;

/* ---- running ---- */

static void restart_native(void)
{
    native_stop();
    if (native_start(memfd, &native)) {
        printf("cannot start the native child again\n");
        exit(2);
    }
}

static void restart_guest(void)
{
    guest_stop();
    if (guest_start(memfd, &options.guest, &guest))
        exit(2);
}

/* Vector state only where it is used: it is most of an image. */
static void copy_input(struct image *to, const struct image *from, bool vector)
{
    memcpy(to, from, vector ? sizeof(*to) : offsetof(struct image, fx));
}

static void prepare(const struct sequence *s, const struct record *records, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct record *sides[] = {&native.records[i], &guest.records[i]};
        for (unsigned k = 0; k < 2; k++) {
            copy_input(&sides[k]->in, &records[i].in, s[i].vector);
            sides[k]->epilogue = records[i].epilogue;
            sides[k]->vector = NO_VECTOR;
            sides[k]->steps = STEPS_MAX;
        }
    }
    *next_step(&native) = *next_step(&guest) = options.single_step ? STEPS : 0;
}

static struct comparison comparison(void)
{
    return (struct comparison){.native = &native,
                               .guest = &guest,
                               .code = code,
                               .base = code_base,
                               .interpret = options.guest.flags & NOVT_F_INTERPRET,
                               .steps = options.single_step};
}

/* One round on both sides. */
static enum outcome run_round(const struct sequence *s, unsigned n, bool say)
{
    const char *why = "";
    struct comparison c = comparison();

    native_begin(code_base);
    bool guest_done = guest_run(code_base, &why);
    if (!native_end()) {
        restart_native();
        restart_guest();
        return BROKEN;
    }
    if (!guest_done) {
        if (say)
            printf("  novt: %s\n", why);
        restart_guest();
        return DIFFERENT;
    }
    return compare(&c, s, n, say);
}

/* ---- one sequence alone ---- */

struct state {
    uint8_t arena[ARENA_SIZE];
    struct record record;
};

/* Several times from the same state, so that blocks get linked. */
static enum outcome run_alone(const struct sequence *s, const struct state *start, bool say)
{
    struct record record = start->record;
    enum outcome outcome = EQUAL;
    uint64_t pc;
    size_t len = blob_emit(s, 1, code, code_base, &record, &pc);

    guest_code_written(0, len);
    for (unsigned i = 0; i < ROUNDS && outcome == EQUAL; i++) {
        memcpy(native.arena, start->arena, ARENA_SIZE);
        memcpy(guest.arena, start->arena, ARENA_SIZE);
        prepare(s, &record, 1);
        outcome = run_round(s, 1, say);
    }
    return outcome;
}

static void sequence_drop(struct sequence *s, unsigned i)
{
    memmove(&s->item[i], &s->item[i + 1], (s->n - i - 1) * sizeof(s->item[0]));
    s->n--;
}

static void shrink(struct sequence *s, const struct state *start)
{
    bool progress = true;

    while (progress) {
        progress = false;
        for (unsigned i = s->n; i-- > 0;) {
            struct sequence less = *s;
            sequence_drop(&less, i);
            if (run_alone(&less, start, false) == DIFFERENT) {
                *s = less;
                progress = true;
            }
        }
    }
}

static void print_start(const struct state *start)
{
    static const char names[][4] = {"ax", "cx", "dx",  "bx",  "sp",  "bp",  "si",  "di",
                                    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    const struct image *in = &start->record.in;

    printf("  with");
    for (unsigned i = 0; i < gpr_count(); i++)
        printf(" %s %llx", names[i], (unsigned long long)in->gpr[i]);
    printf(" flags %llx\n", (unsigned long long)in->rflags);
}

static void print_rerun(uint64_t number)
{
    const struct guest_options *g = &options.guest;

    printf("  rerun: diff --mode %d --seed %llu --batch %llu%s%s%s%s%s%s", options.mode,
           (unsigned long long)options.seed, (unsigned long long)number,
           options.systematic ? " --systematic" : "", options.single_step ? " --single-step" : "",
           g->flags & NOVT_F_INTERPRET ? " --interpret" : "",
           g->flags & NOVT_F_NO_CHAIN ? " --no-chain" : "",
           g->flags & NOVT_F_FLUSH ? " --flush" : "",
           g->flags & NOVT_F_SHORT_BLOCKS ? " --short-blocks" : "");
    if (g->code_cache)
        printf(" --cache %llu", (unsigned long long)g->code_cache >> 10);
    if (g->kicks)
        printf(" --kicks %u", g->kicks);
    printf("\n");
}

static void report(const struct sequence *s, const struct state *start, uint64_t batch,
                   unsigned index)
{
    struct sequence small = *s;
    struct record record = start->record;
    uint64_t pc;

    shrink(&small, start);
    printf("FAIL seed %llu, batch %llu, sequence %u:\n", (unsigned long long)options.seed,
           (unsigned long long)batch, index);
    blob_emit(&small, 1, code, code_base, &record, &pc);
    sequence_print(&small, pc);
    print_start(start);
    run_alone(&small, start, true);
    print_rerun(batch);
    fflush(stdout);
}

/* ---- batches ---- */

struct batch {
    struct sequence sequence[BATCH_MAX];
    struct record record[BATCH_MAX];
    uint8_t arena[ARENA_SIZE];
    unsigned n;
};

static struct batch batch, again;
static struct state state;

static struct random batch_random(uint64_t number)
{
    struct random r;
    random_seed(&r, options.seed, number);
    return r;
}

/* 64-bit code runs above 4 GiB every other time. */
static uint64_t base_of_batch(uint64_t number)
{
    if (diff_mode == TR_MODE_16)
        return 0;
    return CODE + (long_mode() && number & 1 ? (uint64_t)HIGH : 0);
}

static void make_batch(struct random *r, uint64_t number, unsigned n)
{
    batch.n = n;
    code_base = base_of_batch(number);
    for (unsigned i = 0; i < n; i++) {
        if (options.systematic)
            generate_form(r, (unsigned)((number * BATCH_MAX + i) % form_count), &batch.sequence[i]);
        else
            generate_sequence(r, &batch.sequence[i]);
    }
    generate_arena(r, batch.arena);
}

static void make_inputs(struct random *r)
{
    for (unsigned i = 0; i < batch.n; i++)
        generate_input(r, &batch.record[i].in, batch.sequence[i].vector, options.single_step);
}

/* The arena before the round is in again.arena. */
static void find_culprit(uint64_t number)
{
    memcpy(state.arena, again.arena, ARENA_SIZE);
    for (unsigned i = 0; i < batch.n; i++) {
        state.record = batch.record[i];
        enum outcome outcome = run_alone(&batch.sequence[i], &state, false);
        if (outcome == DIFFERENT) {
            report(&batch.sequence[i], &state, number, i);
            return;
        }
        memcpy(state.arena, native.arena, ARENA_SIZE);
    }
    printf("FAIL seed %llu, batch %llu: differs, but no sequence does alone\n",
           (unsigned long long)options.seed, (unsigned long long)number);
    print_rerun(number);
}

static void say_differences(void)
{
    struct comparison c = comparison();

    for (unsigned i = 0; i < batch.n; i++) {
        if (!records_equal(&c, i, batch.sequence[i].vector, false)) {
            printf("sequence %u of the batch differs first:\n", i);
            sequence_print(&batch.sequence[i], code_base);
            records_equal(&c, i, batch.sequence[i].vector, true);
            break;
        }
    }
    arenas_equal(&c, true);
    if (options.single_step)
        steps_equal(&c, true);
}

static void count_faults(void)
{
    for (unsigned i = 0; i < batch.n; i++) {
        if (native.records[i].vector == NO_VECTOR)
            continue;
        faults++;
        fault_counts[native.records[i].vector & 0xff]++;
    }
}

static void run_batch(uint64_t number, unsigned n)
{
    struct random r = batch_random(number);
    uint64_t pc[BATCH_MAX];
    size_t len;

    if (options.guest.kicks && number % 4 == 0)
        restart_guest(); /* the first kick in a VM's life, too, has its chances */
    make_batch(&r, number, n);
    len = blob_emit(batch.sequence, n, code, code_base, batch.record, pc);
    if (!len) {
        printf("batch %llu does not fit\n", (unsigned long long)number);
        exit(2);
    }
    guest_code_written(0, len);
    memcpy(native.arena, batch.arena, ARENA_SIZE);
    memcpy(guest.arena, batch.arena, ARENA_SIZE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        make_inputs(&r);
        memcpy(again.arena, native.arena, ARENA_SIZE);
        prepare(batch.sequence, batch.record, n);
        enum outcome outcome = run_round(batch.sequence, n, false);
        if (outcome == EQUAL) {
            count_faults();
            steps += options.single_step ? steps_noted(&native) : 0;
            continue;
        }
        if (outcome == GAP || outcome == BROKEN) {
            if (options.verbose)
                printf("batch %llu: %s\n", (unsigned long long)number,
                       outcome == GAP ? "a known gap" : "the native child died or hung");
            gaps += outcome == GAP;
            broken += outcome == BROKEN;
            break;
        }
        say_differences();
        find_culprit(number);
        failed++;
        passed += n - 1;
        return;
    }
    passed += n;
}

/* ---- which forms this CPU has ---- */

/* #UD may also come of what else chance puts into an instruction, as EVEX scatters without a mask:
 * several tries. */
#define PROBES 4

static void probe_once(unsigned try, unsigned count, bool *has)
{
    struct random r;
    uint64_t pc[BATCH_MAX];

    random_seed(&r, 12345 + try, 1);
    for (unsigned first = 0; first < count; first += BATCH_MAX) {
        unsigned n = count - first < BATCH_MAX ? count - first : BATCH_MAX;
        for (unsigned i = 0; i < n; i++) {
            generate_form(&r, first + i, &batch.sequence[i]);
            generate_input(&r, &batch.record[i].in, true, false);
        }
        blob_emit(batch.sequence, n, code, code_base, batch.record, pc);
        prepare(batch.sequence, batch.record, n);
        native_begin(code_base);
        if (!native_end()) {
            printf("the native child died while probing forms from %u\n", first);
            restart_native();
            memset(has + first, true, n);
            continue;
        }
        for (unsigned i = 0; i < n; i++)
            has[first + i] |= native.records[i].vector != 6;
    }
}

static void probe_forms(unsigned count)
{
    bool *has = calloc(count, sizeof(*has));
    unsigned ud = 0;

    if (!has) {
        perror("diff");
        exit(2);
    }
    code_base = base_of_batch(0);
    for (unsigned try = 0; try < PROBES; try++)
        probe_once(try, count, has);
    for (unsigned i = 0; i < count; i++) {
        if (!has[i]) {
            form_set_ud(i);
            ud++;
        }
    }
    free(has);
    printf("%u forms, of which this CPU does not have %u\n", count, ud);
}

/* ---- the command ---- */

static uint64_t number_after(int *i, int argc, char **argv)
{
    if (++*i >= argc) {
        fprintf(stderr, "diff: %s needs a number\n", argv[*i - 1]);
        exit(2);
    }
    return strtoull(argv[*i], NULL, 0);
}

static void take_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!strcmp(arg, "--count")) {
            options.count = number_after(&i, argc, argv);
        } else if (!strcmp(arg, "--mode")) {
            options.mode = (int)number_after(&i, argc, argv);
        } else if (!strcmp(arg, "--seed")) {
            options.seed = number_after(&i, argc, argv);
        } else if (!strcmp(arg, "--batch")) {
            options.batch = number_after(&i, argc, argv);
            options.one_batch = true;
        } else if (!strcmp(arg, "--max")) {
            options.max = number_after(&i, argc, argv);
        } else if (!strcmp(arg, "--kicks")) {
            options.guest.kicks = (uint32_t)number_after(&i, argc, argv);
        } else if (!strcmp(arg, "--cache")) {
            options.guest.code_cache = number_after(&i, argc, argv) << 10;
        } else if (!strcmp(arg, "--interpret")) {
            options.guest.flags |= NOVT_F_INTERPRET;
        } else if (!strcmp(arg, "--no-chain")) {
            options.guest.flags |= NOVT_F_NO_CHAIN;
        } else if (!strcmp(arg, "--systematic")) {
            options.systematic = true;
        } else if (!strcmp(arg, "--flush")) {
            options.guest.flags |= NOVT_F_FLUSH;
        } else if (!strcmp(arg, "--short-blocks")) {
            options.guest.flags |= NOVT_F_SHORT_BLOCKS;
        } else if (!strcmp(arg, "--single-step")) {
            options.single_step = true;
        } else if (!strcmp(arg, "--cover")) {
            options.cover = true;
        } else if (!strcmp(arg, "--only") && i + 1 < argc) {
            options.only = argv[++i];
        } else if (!strcmp(arg, "--strict")) {
            compare_strictly = true;
        } else if (!strcmp(arg, "--verbose")) {
            options.verbose = true;
        } else {
            fprintf(stderr, "usage: diff [--mode 16|32|64] [--count N] [--systematic] [--seed S] "
                            "[--batch B] [--max N] [--kicks HZ] [--cache KIB] [--interpret] "
                            "[--no-chain] [--flush] [--short-blocks] [--single-step] [--cover] "
                            "[--only MNEMONIC] [--strict] [--verbose]\n");
            exit(2);
        }
    }
}

static void check_rows(void)
{
    unsigned rows, missing = forms_missing(&rows);

    printf("%u of %u mnemonics that are copied\n", rows - missing, rows);
    failed += missing != 0;
}

static void summary(double seconds)
{
    printf("%.1f s, %llu runs ended in a fault:", seconds, (unsigned long long)faults);
    for (unsigned i = 0; i < 256; i++) {
        if (fault_counts[i])
            printf(" #%u %u", i, fault_counts[i]);
    }
    if (options.single_step)
        printf("\n%llu single steps, %llu without a cause from the host", (unsigned long long)steps,
               (unsigned long long)steps_without_cause());
    if (options.guest.kicks)
        printf("\n%llu interrupts", (unsigned long long)guest_interrupts());
    printf("\n%llu batches cut short by a known gap, %llu by a wild store\n",
           (unsigned long long)gaps, (unsigned long long)broken);
    if (options.cover)
        check_rows();
    if (broken > 2 + passed / BATCH_MAX / 200) {
        printf("too many wild stores\n");
        failed++;
    }
    if (steps_without_cause() > 2 + steps / 10000) {
        printf("too many steps without a cause\n");
        failed++;
    }
    printf("%llu passed, %llu failed\n", (unsigned long long)passed, (unsigned long long)failed);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    double started = now();

    take_options(argc, argv);
    diff_mode = options.mode == 64 ? TR_MODE_64 : options.mode == 32 ? TR_MODE_32 : TR_MODE_16;
    setvbuf(stdout, NULL, _IOLBF, 0);
    memfd = memfd_create("diff", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, PHYS_SIZE)) {
        perror("memfd_create");
        return 2;
    }
    code = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, PHYS_CODE);
    if (code == MAP_FAILED || native_start(memfd, &native) ||
        guest_start(memfd, &options.guest, &guest))
        return 2;
    blob_routines(code);
    form_count = forms_list(options.only);
    if (!form_count) {
        fprintf(stderr, "diff: no instruction is called %s\n", options.only);
        return 2;
    }
    probe_forms(form_count);
    if (options.one_batch)
        run_batch(options.batch, BATCH_MAX);
    for (uint64_t b = 0; !options.one_batch && b * BATCH_MAX < options.count; b++) {
        run_batch(b, BATCH_MAX);
        if (failed >= options.max) {
            printf("stopping after %llu failures\n", (unsigned long long)failed);
            break;
        }
    }
    summary(now() - started);
    native_stop();
    guest_stop();
    return failed || !passed;
}
