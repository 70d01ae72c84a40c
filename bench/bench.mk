# bench.mk - the benchmark program: static, 32-bit, the same file natively and in every guest.

BENCH_WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla
BENCH_CFLAGS := -m32 -static -march=i686 -std=gnu11 -O2 -D_GNU_SOURCE $(BENCH_WARN)
BENCH_OBJS := $(patsubst %,$(B)/bench/%.o,main integer memory fp-sse fp-x87 simd os)

$(B)/bench/%.o: bench/programs/%.c bench/programs/bench.h | deps
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -c -o $@ $<
$(B)/bench/fp-sse.o: bench/programs/fp.c bench/programs/bench.h | deps
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -msse2 -mfpmath=sse -c -o $@ $<
$(B)/bench/fp-x87.o: bench/programs/fp.c bench/programs/bench.h | deps
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -DFP_X87 -mfpmath=387 -c -o $@ $<
$(B)/bench/bench: $(BENCH_OBJS)
	$(CC) $(BENCH_CFLAGS) -o $@ $^ -lm
