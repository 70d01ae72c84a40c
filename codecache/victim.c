/* victim.c - entries of 64-bit jump tables that have lost their slot to another pc.
 *
 * A large program has more targets of indirect branches than a table keeps apart: two that share a
 * slot would throw each other out for ever, each time by way of C. So a pc that finds its slot
 * taken goes to a second, smaller place as well, chosen by all of its bits, and the stub that
 * misses lead to looks there first (l_emit_probe()). What it finds is entered as from the table:
 * the entry check decides.
 *
 * A victim's block may have been dropped: its entry then leads to C without another look, and what
 * is translated next for the pc takes the victim's place. */
#include "codecache/cc.h"
#include "runtime/rt.h"

#define PER_PAGE (4096 / sizeof(struct cc_victim))
#define KEPT     8 /* pages that a table keeps when it is cleared */

_Static_assert(CC_VICTIMS / PER_PAGE <= 64, "a bit for each page");

__attribute__((target("sse4.2"))) static struct cc_victim *victim_of(void **table, uint64_t pc)
{
    return &cc_victims(table)[__builtin_ia32_crc32di(0, pc) & (CC_VICTIMS - 1)];
}

static uint64_t page_bit(uint64_t pc)
{
    return 1ull << (((pc >> 12) * 0x9e3779b97f4a7c15ull) >> 58);
}

void cc_victims_make(const struct cc *cc, struct cc_victim *victims, size_t n)
{
    for (size_t i = 0; i < n; i++)
        victims[i] = (struct cc_victim){.hpc = cc->closed_stub};
}

void cc_victim_set(void **table, uint64_t pc, void *hpc, bool lost)
{
    struct cc_table_head *head = cc_table_head(table);
    struct cc_victim *victim = victim_of(table, pc);

    if (!lost && (!head->victims || victim->pc != pc))
        return;
    *victim = (struct cc_victim){pc, hpc};
    head->victims |= 1ull << (size_t)(victim - cc_victims(table)) / PER_PAGE;
    head->victims_of |= page_bit(pc);
}

void cc_victim_forget(const struct cc *cc, void **table, uint64_t pc)
{
    if (cc_table_head(table)->victims && victim_of(table, pc)->pc == pc)
        cc_victims_make(cc, victim_of(table, pc), 1);
}

void cc_victims_clear_page(const struct cc *cc, void **table, uint64_t pc)
{
    const struct cc_table_head *head = cc_table_head(table);

    if (!(head->victims_of & page_bit(pc)))
        return;
    for (uint64_t pages = head->victims; pages; pages &= pages - 1) {
        struct cc_victim *victim = cc_victims(table) + (size_t)__builtin_ctzll(pages) * PER_PAGE;
        for (unsigned i = 0; i < PER_PAGE; i++) {
            if (victim[i].pc >> 12 == pc >> 12)
                cc_victims_make(cc, &victim[i], 1);
        }
    }
}

void cc_victims_clear(const struct cc *cc, void **table)
{
    struct cc_table_head *head = cc_table_head(table);
    uint64_t pages = head->victims;

    /* Private pages go; what is read next is the memfd's again. */
    if (__builtin_popcountll(pages) > KEPT &&
        rt_os_discard(cc_victims(table), CC_VICTIMS_SIZE) == 0)
        pages = 0;
    for (; pages; pages &= pages - 1)
        cc_victims_make(cc, cc_victims(table) + (size_t)__builtin_ctzll(pages) * PER_PAGE,
                        PER_PAGE);
    head->victims = head->victims_of = 0;
}

bool cc_probe_again(const struct cc *cc, struct rt_context *context)
{
    uint64_t at = context->rip - (uint64_t)cc->rx;

    if (at < cc->probe.start || at >= cc->probe.end)
        return false;
    if (at >= cc->probe.saved && at < cc->probe.jump)
        context->gpr[1] = context->gpr[11];
    context->rip = (uint64_t)cc->rx + cc->probe.start;
    return true;
}
