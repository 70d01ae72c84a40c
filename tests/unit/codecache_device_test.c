/* Which instructions access devices. */
#include "codecache/cc.h"

#include <criterion/criterion.h>

TestSuite(codecache_device, .timeout = 30);

static struct cc cc;

static void find_guilty(uint64_t gpa, uint16_t bytes)
{
    for (unsigned i = 1; i < CC_DEVICE_FAULTS; i++) {
        cr_assert(!cc_device_note(&cc, gpa, bytes));
        cr_assert(!cc_device_known(&cc, gpa, bytes), "innocent after %u faults", i);
    }
    cr_assert(cc_device_note(&cc, gpa, bytes));
    cr_assert(cc_device_known(&cc, gpa, bytes));
}

Test(codecache_device, an_instruction_is_known_after_some_faults)
{
    cr_assert(!cc_device_known(&cc, 0x1000, 0x008b));
    find_guilty(0x1000, 0x008b);
    cr_assert(!cc_device_known(&cc, 0x1001, 0x008b), "its neighbour is not");
}

Test(codecache_device, other_code_at_the_same_address_is_innocent)
{
    find_guilty(0x1000, 0x008b);
    cr_assert(!cc_device_known(&cc, 0x1000, 0x0889));
    find_guilty(0x1000, 0x0889);
    cr_assert(!cc_device_known(&cc, 0x1000, 0x008b));
}

/* Each set of 8 places can be full: then the oldest goes, and no other is taken for it. */
Test(codecache_device, a_full_table_forgets_and_never_confuses)
{
    for (uint64_t gpa = 0; gpa < 64 * CC_DEVICES; gpa += 8)
        find_guilty(gpa, (uint16_t)gpa);
    for (uint64_t gpa = 0; gpa < 64 * CC_DEVICES; gpa += 8)
        cr_assert(!cc_device_known(&cc, gpa + 4, (uint16_t)gpa));
}

/* An instruction that no callout takes the place of: its block is not made again for every fault.
 */
Test(codecache_device, one_that_goes_on_faulting_is_seldom_translated_again)
{
    unsigned again = 0;

    find_guilty(0x2000, 0x0050);
    for (unsigned i = 0; i < 3200; i++) {
        again += cc_device_note(&cc, 0x2000, 0x0050);
        cr_assert(cc_device_known(&cc, 0x2000, 0x0050));
    }
    cr_assert(again >= 100 && again <= 110, "%u times", again);
}
