# bench.mk - the benchmark program, for each architecture: one static program, the same file natively
# and in every guest, and a small dynamically linked one that it executes.

BENCH_WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla
BENCH_CFLAGS := -std=gnu11 -O2 -D_GNU_SOURCE $(BENCH_WARN)
BENCH_ARCH_i386 := -m32 -march=i686
BENCH_ARCH_amd64 := -m64
BENCH_NAMES := main integer memory fp-sse fp-x87 simd os
BENCH_PROGRAMS :=

define bench_rules
$(B)/bench/$(1)/%.o: bench/programs/%.c bench/programs/bench.h bench/bench.mk | deps
	@mkdir -p $$(@D)
	$$(CC) $$(BENCH_ARCH_$(1)) $$(BENCH_CFLAGS) -c -o $$@ $$<
$(B)/bench/$(1)/fp-sse.o: bench/programs/fp.c bench/programs/bench.h | deps
	@mkdir -p $$(@D)
	$$(CC) $$(BENCH_ARCH_$(1)) $$(BENCH_CFLAGS) -msse2 -mfpmath=sse -c -o $$@ $$<
$(B)/bench/$(1)/fp-x87.o: bench/programs/fp.c bench/programs/bench.h | deps
	@mkdir -p $$(@D)
	$$(CC) $$(BENCH_ARCH_$(1)) $$(BENCH_CFLAGS) -DFP_X87 -mfpmath=387 -c -o $$@ $$<
$(B)/bench/bench-$(1): $$(patsubst %,$(B)/bench/$(1)/%.o,$$(BENCH_NAMES))
	$$(CC) $$(BENCH_ARCH_$(1)) $$(BENCH_CFLAGS) -static -o $$@ $$^ -lm
$(B)/bench/bench-$(1)-dynamic: bench/programs/dynamic.c bench/bench.mk | deps
	@mkdir -p $$(@D)
	$$(CC) $$(BENCH_ARCH_$(1)) $$(BENCH_CFLAGS) -o $$@ $$<
BENCH_PROGRAMS += $(B)/bench/bench-$(1) $(B)/bench/bench-$(1)-dynamic
endef
$(foreach a,i386 amd64,$(eval $(call bench_rules,$(a))))

.PHONY: bench-programs
bench-programs: $(BENCH_PROGRAMS)
