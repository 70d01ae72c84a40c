/* fuzz.h - the way from guest bytes to host code, given to a fuzzer.
 *
 * An input is a head of FUZZ_HEAD bytes and the guest's code:
 *
 *   0     bits 0-1: 16-bit (decoded only), 32-bit, 64-bit, 64-bit code; bit 2: the block's pc has
 *         collided; bit 3: the next page is there; bit 4: the block is moved, too; bit 5: accesses
 *         have met another class; bit 6: JNE to the code's start comes behind it
 *   1, 2  key: enum tr_key
 *   3     instructions at most
 *   4, 5  offset in the page, counted from its end (so that few bytes of code reach the next page)
 *   6     which of a few linear addresses
 *   7     what the guest's registers point to, and what class was met
 */
#ifndef NOVT_TESTS_FUZZ_FUZZ_H
#define NOVT_TESTS_FUZZ_FUZZ_H

#include "tests/fuzz/control.h"

#define FUZZ_HEAD 8u
#define FUZZ_MAX  (FUZZ_HEAD + 512u)

struct fuzz_counts {
    unsigned long inputs, translated, moved, loops, redirected, complaints;
    struct control control;
};
extern struct fuzz_counts fuzz_counts;

/* Decodes and translates the input and scans what came out. Returns the number of complaints, each
 * of which has been printed. */
unsigned long fuzz_one(const uint8_t *data, size_t size);

#endif
