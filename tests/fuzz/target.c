/* target.c - fuzz.c under libFuzzer (make fuzz): a complaint ends the run, and libFuzzer keeps the
 * input. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (fuzz_one(data, size))
        abort();
    return 0;
}
