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

# The bare-metal guests of the group micro, with the start-up code of the self-checking guests.
MICRO_FLAGS = -std=gnu11 -O1 -g -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fcf-protection=none -fno-toplevel-reorder -fno-strict-aliasing \
	-mgeneral-regs-only -Wall -Wextra -Wshadow -Wundef -Wvla -I$(1)
MICRO_LINK := -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack \
	-Wl,--no-warn-rwx-segments -Wl,-z,max-page-size=4096
MICRO_32 := guest-support/test
MICRO_64 := guest-support/test64
MICRO_COMMON = $(1)/support.c $(1)/start.S

$(B)/bench/%-i386: bench/micro/%.c $(call MICRO_COMMON,$(MICRO_32)) bench/bench.mk | deps
	@mkdir -p $(@D)
	$(CC) -m32 -march=i686 -mpreferred-stack-boundary=2 $(call MICRO_FLAGS,$(MICRO_32)) $(MICRO_LINK) \
		-T $(MICRO_32)/link.ld -o $@ $(filter %.c %.S,$^)
$(B)/bench/%-amd64.sym: bench/micro/%.c $(call MICRO_COMMON,$(MICRO_64)) bench/bench.mk | deps
	@mkdir -p $(@D)
	$(CC) -m64 -mno-red-zone -mcmodel=small $(call MICRO_FLAGS,$(MICRO_64)) $(MICRO_LINK) \
		-T $(MICRO_64)/link.ld -o $@ $(filter %.c %.S,$^)
# Multiboot loaders take ELF32.
$(B)/bench/%-amd64: $(B)/bench/%-amd64.sym
	$(OBJCOPY) -O elf32-i386 --strip-all $< $@
bench-programs: $(foreach n,micro null,$(B)/bench/$(n)-i386 $(B)/bench/$(n)-amd64)
.SECONDARY: $(foreach n,micro null,$(B)/bench/$(n)-amd64.sym)
