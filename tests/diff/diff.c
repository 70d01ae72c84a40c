/* diff.c - the host CPU is the oracle: random instruction sequences, natively and in novt.
 *
 *   diff [--count N] [--seed S] [--batch B] [--max N] [--kicks HZ] [--cache KIB] [--interpret]
 *        [--no-chain] [--verbose]
 *
 * A batch is BATCH_MAX sequences in one piece of code, run ROUNDS times with new inputs, so that
 * the later rounds run linked blocks. After each round registers, flags, vector state, fault
 * records and the arena must be equal, bit for bit; only the x87 instruction and data pointers are
 * not compared, nor error codes and CR2 where the vector has none.
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
    bool one_batch, verbose;
    struct guest_options guest;
};

static struct options options = {
    .count = 20000, .seed = 1, .max = FAILURES_MAX, .guest = {.code_cache = 16 << 20}};
static int memfd;
static struct side native, guest;
static uint8_t *code; /* CODE's bytes, shared with both sides */
static uint64_t passed, failed, faults, gaps, broken;
static unsigned fault_counts[256];

/* ---- running ---- */

/* GAP: something that novt is known not to do happened; what follows is not comparable. BROKEN: a
 * wild store has hit the code around the sequences, and the native child died of it. */
enum outcome { EQUAL, DIFFERENT, BROKEN, GAP };

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

static void prepare(const struct record *records, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        native.records[i].in = records[i].in;
        native.records[i].epilogue = records[i].epilogue;
        native.records[i].vector = NO_VECTOR;
        guest.records[i] = native.records[i];
    }
}

static bool error_matters(uint32_t vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void print_number(const char *side, const uint8_t *bytes, unsigned n)
{
    printf(" %s ", side);
    while (n-- > 0)
        printf("%02x", bytes[n]);
}

static bool bytes_equal(const char *name, int index, const uint8_t *a, const uint8_t *b, unsigned n,
                        bool say)
{
    if (!memcmp(a, b, n))
        return true;
    if (say) {
        printf(index < 0 ? "  %s:" : "  %s%d:", name, index);
        print_number("native", a, n);
        print_number(n > 10 ? "\n      novt  " : "novt", b, n);
        printf("\n");
    }
    return false;
}

/* What is compared at a fault. The slow path, which runs what translated code cannot, is free where
 * the manual leaves the CPU free: how far a gather got (SDM 2 VGATHERDPS), whether MMX has emptied
 * the x87 stack, whether a conversion has set MXCSR's flags. */
struct scope {
    bool vectors, x87, mxcsr;
    uint32_t cr2_slack; /* which of an operand's absent bytes is found first */
    bool flags; /* of a REP that faults: single iterations do not know the flags from before */
    bool gap;   /* memory may differ from here on: see is_gap() */
};

static bool slow_path(const struct record *a, const struct tr_insn *insn)
{
    bool edge = a->vector == 14 && a->cr2 + 0x100000 < 0x200000; /* in a guard of the window */

    return (options.guest.flags & NOVT_F_INTERPRET) || (a->eflags & (RT_AC | RT_TF)) || edge ||
           insn->adsize != 32 || insn->seg == TR_CS || insn->seg == TR_FS || insn->seg == TR_GS ||
           insn->cls == TR_CALLOUT;
}

static bool wraps(const struct tr_insn *insn, const uint32_t *gpr)
{
    uint64_t ea = (uint32_t)insn->disp;

    if (insn->cls == TR_STRING)
        ea = gpr[RT_SI];
    if (insn->base >= 0)
        ea += gpr[insn->base];
    if (insn->index >= 0)
        ea += (uint64_t)gpr[insn->index] * insn->scale;
    return (uint32_t)ea > 0xffffffffu - 64;
}

/* An access beyond 4 GiB with a base "may or may not" fault (SDM 3-5.3). PUSHA and ENTER have
 * stored something, or nothing, when they fault. */
static bool is_gap(const struct record *a, const struct tr_insn *insn)
{
    if (insn->op == TR_OP_pusha || insn->op == TR_OP_enter)
        return true;
    return (a->vector == 13 || a->vector == 12) && (insn->seg == TR_FS || insn->seg == TR_GS) &&
           wraps(insn, a->out.gpr);
}

static struct scope scope_of(const struct record *a)
{
    struct scope scope = {true, true, true, 0, true, false};
    struct tr_insn insn;

    if (a->vector == NO_VECTOR || a->eip - CODE >= CODE_SIZE - 16 ||
        tr_decode(code + (a->eip - CODE), 15, TR_MODE_32, &insn) != TR_DECODE_OK)
        return scope;
    tr_decode_operands(&insn);
    bool slow = slow_path(a, &insn);
    scope.vectors = !(slow && insn.vsib);
    scope.mxcsr = !slow;
    scope.flags = !(slow && insn.cls == TR_STRING);
    scope.x87 = !(slow && insn.feature == TR_F_MMX);
    scope.cr2_slack = slow && (insn.touches_vector || insn.op == TR_OP_fxrstor) ? 511 : 0;
    scope.gap = is_gap(a, &insn);
    return scope;
}

/* Prints what differs when say is set. */
static bool gprs_equal(const struct image *a, const struct image *b, struct scope scope, bool say)
{
    static const char *const names[] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
    bool flags = a->eflags == b->eflags || !scope.flags, equal = flags;

    for (unsigned i = 0; i < 8; i++) {
        if (a->gpr[i] == b->gpr[i])
            continue;
        equal = false;
        if (say)
            printf("  %s: native %08x, novt %08x\n", names[i], a->gpr[i], b->gpr[i]);
    }
    if (!flags && say)
        printf("  eflags: native %08x, novt %08x\n", a->eflags, b->eflags);
    return equal;
}

/* FOP, FIP, FCS, FDP and FDS are not compared. */
static bool vectors_equal(const struct image *a, const struct image *b, struct scope scope,
                          bool say)
{
    int level = host_vector_level();
    bool equal = bytes_equal("control", -1, a->fx, b->fx, 2, say);

    if (scope.mxcsr)
        equal &= bytes_equal("mxcsr", -1, a->fx + 24, b->fx + 24, 4, say);
    if (scope.x87) {
        equal &= bytes_equal("status", -1, a->fx + 2, b->fx + 2, 2, say);
        equal &= bytes_equal("tag", -1, a->fx + 4, b->fx + 4, 1, say);
    }
    for (unsigned i = 0; i < 8; i++) {
        unsigned st = 32 + 16 * i, xmm = 160 + 16 * i;
        if (scope.x87)
            equal &= bytes_equal("st", (int)i, a->fx + st, b->fx + st, 10, say);
        if (!scope.vectors)
            continue;
        equal &= bytes_equal("xmm", (int)i, a->fx + xmm, b->fx + xmm, 16, say);
        if (level)
            equal &=
                bytes_equal("zmm", (int)i, a->vector[i], b->vector[i], level == 2 ? 64 : 32, say);
        if (level == 2)
            equal &= bytes_equal("k", (int)i, (const uint8_t *)&a->mask[i],
                                 (const uint8_t *)&b->mask[i], 8, say);
    }
    return equal;
}

static bool error_equal(const struct record *a, const struct record *b)
{
    uint32_t differ = a->error ^ b->error;

    if (a->vector == 14 && a->cr2 >= KERNEL && a->cr2 < KERNEL + KERNEL_END)
        differ &= ~1u; /* present there, but not for CPL 3 */
    return !error_matters(a->vector) || !differ;
}

static bool faults_equal(const struct record *a, const struct record *b, struct scope scope)
{
    if (a->vector != b->vector || a->vector == NO_VECTOR)
        return a->vector == b->vector;
    return a->eip == b->eip && (a->eflags == b->eflags || !scope.flags) && error_equal(a, b) &&
           (a->vector != 14 || a->cr2 - b->cr2 + scope.cr2_slack <= 2 * scope.cr2_slack);
}

static bool records_equal(const struct record *a, const struct record *b, bool vector, bool say)
{
    struct scope scope = scope_of(a);
    bool fault = faults_equal(a, b, scope),
         equal = gprs_equal(&a->out, &b->out, scope, say) && fault;

    if (vector)
        equal &= vectors_equal(&a->out, &b->out, scope, say);
    if (!fault && say)
        printf("  fault: native %u error %x eip %x cr2 %x eflags %x\n"
               "           novt %u error %x eip %x cr2 %x eflags %x\n",
               a->vector, a->error, a->eip, a->cr2, a->eflags, b->vector, b->error, b->eip, b->cr2,
               b->eflags);
    return equal;
}

static bool arenas_equal(bool say)
{
    unsigned said = 0;

    if (!memcmp(native.arena, guest.arena, ARENA_SIZE))
        return true;
    for (unsigned i = 0; say && i < ARENA_SIZE && said < 16; i++) {
        if (native.arena[i] != guest.arena[i]) {
            printf("  memory %08x: native %02x, novt %02x\n", ARENA + i, native.arena[i],
                   guest.arena[i]);
            said++;
        }
    }
    return false;
}

static enum outcome compare(const struct sequence *s, unsigned n, bool say)
{
    bool equal = true;

    for (unsigned i = 0; i < n; i++)
        equal &= records_equal(&native.records[i], &guest.records[i], s[i].vector, say);
    if (arenas_equal(say) && equal)
        return EQUAL;
    for (unsigned i = 0; i < n; i++) {
        if (scope_of(&native.records[i]).gap)
            return GAP;
    }
    return DIFFERENT;
}

/* One round on both sides. */
static enum outcome run_round(const struct sequence *s, unsigned n, bool say)
{
    const char *why = "";

    native_begin();
    bool guest_done = guest_run(&why);
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
    return compare(s, n, say);
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
    uint32_t pc;
    size_t len = blob_emit(s, 1, code, &record, &pc);

    guest_code_written(len);
    for (unsigned i = 0; i < ROUNDS && outcome == EQUAL; i++) {
        memcpy(native.arena, start->arena, ARENA_SIZE);
        memcpy(guest.arena, start->arena, ARENA_SIZE);
        prepare(&record, 1);
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
    const struct image *in = &start->record.in;

    printf("  with eax %08x ecx %08x edx %08x ebx %08x esp %08x ebp %08x esi %08x edi %08x eflags "
           "%x\n",
           in->gpr[0], in->gpr[1], in->gpr[2], in->gpr[3], in->gpr[4], in->gpr[5], in->gpr[6],
           in->gpr[7], in->eflags);
}

static void print_rerun(uint64_t batch)
{
    printf("  rerun: diff --seed %llu --batch %llu%s%s\n", (unsigned long long)options.seed,
           (unsigned long long)batch, options.guest.flags & NOVT_F_INTERPRET ? " --interpret" : "",
           options.guest.flags & NOVT_F_NO_CHAIN ? " --no-chain" : "");
}

static void report(const struct sequence *s, const struct state *start, uint64_t batch,
                   unsigned index)
{
    struct sequence small = *s;
    struct record record = start->record;
    uint32_t pc;

    shrink(&small, start);
    printf("FAIL seed %llu, batch %llu, sequence %u:\n", (unsigned long long)options.seed,
           (unsigned long long)batch, index);
    blob_emit(&small, 1, code, &record, &pc);
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

static void make_batch(struct random *r, unsigned n)
{
    batch.n = n;
    for (unsigned i = 0; i < n; i++)
        generate_sequence(r, &batch.sequence[i]);
    generate_arena(r, batch.arena);
}

static void make_inputs(struct random *r)
{
    for (unsigned i = 0; i < batch.n; i++)
        generate_input(r, &batch.record[i].in, !batch.sequence[i].vector);
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
    for (unsigned i = 0; i < batch.n; i++) {
        if (!records_equal(&native.records[i], &guest.records[i], batch.sequence[i].vector,
                           false)) {
            printf("sequence %u of the batch differs first:\n", i);
            records_equal(&native.records[i], &guest.records[i], batch.sequence[i].vector, true);
            break;
        }
    }
    arenas_equal(true);
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
    uint32_t pc[BATCH_MAX];
    size_t len;

    make_batch(&r, n);
    len = blob_emit(batch.sequence, n, code, batch.record, pc);
    if (!len) {
        printf("batch %llu does not fit\n", (unsigned long long)number);
        exit(2);
    }
    guest_code_written(len);
    memcpy(native.arena, batch.arena, ARENA_SIZE);
    memcpy(guest.arena, batch.arena, ARENA_SIZE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        make_inputs(&r);
        memcpy(again.arena, native.arena, ARENA_SIZE);
        prepare(batch.record, n);
        enum outcome outcome = run_round(batch.sequence, n, false);
        if (outcome == EQUAL) {
            count_faults();
            continue;
        }
        if (outcome == GAP || outcome == BROKEN) {
            gaps += outcome == GAP;
            broken += outcome == BROKEN;
            break;
        }
        if (options.verbose)
            say_differences();
        find_culprit(number);
        failed++;
        passed += n - 1;
        return;
    }
    passed += n;
}

/* ---- which forms this CPU has ---- */

static void probe_forms(unsigned count)
{
    struct random r;
    unsigned ud = 0;
    uint32_t pc[BATCH_MAX];

    random_seed(&r, 12345, 1);
    for (unsigned first = 0; first < count; first += BATCH_MAX) {
        unsigned n = count - first < BATCH_MAX ? count - first : BATCH_MAX;
        for (unsigned i = 0; i < n; i++) {
            generate_form(&r, first + i, &batch.sequence[i]);
            generate_input(&r, &batch.record[i].in, false);
        }
        blob_emit(batch.sequence, n, code, batch.record, pc);
        prepare(batch.record, n);
        native_begin();
        if (!native_end()) {
            printf("the native child died while probing forms from %u\n", first);
            restart_native();
            continue;
        }
        for (unsigned i = 0; i < n; i++) {
            if (native.records[i].vector == 6) {
                generate_form_is_ud(first + i);
                ud++;
            }
        }
    }
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
        } else if (!strcmp(arg, "--verbose")) {
            options.verbose = true;
        } else {
            fprintf(stderr, "usage: diff [--count N] [--seed S] [--batch B] [--max N] "
                            "[--kicks HZ] [--cache KIB] [--interpret] [--no-chain] [--verbose]\n");
            exit(2);
        }
    }
}

static void summary(double seconds)
{
    printf("%.1f s, %llu runs ended in a fault:", seconds, (unsigned long long)faults);
    for (unsigned i = 0; i < 256; i++) {
        if (fault_counts[i])
            printf(" #%u %u", i, fault_counts[i]);
    }
    printf("\n%llu batches cut short by a known gap, %llu by a wild store\n",
           (unsigned long long)gaps, (unsigned long long)broken);
    if (broken > 2 + passed / BATCH_MAX / 200) {
        printf("too many wild stores\n");
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
    probe_forms(generate_forms());
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
