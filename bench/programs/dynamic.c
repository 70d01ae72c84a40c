/* dynamic.c - the least that a dynamically linked program can do: what fork_exec_dynamic executes.
 *
 * Its time is the loader's: mapping the C library, relocating, and the first call through the PLT.
 */
#include <stdlib.h>

int main(void)
{
    return getenv("BENCH_FAILS") != NULL;
}
