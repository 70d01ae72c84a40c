# fuzz.mk - guest bytes to scanned host code: build/tests/fuzz/fuzz, and make fuzz under libFuzzer.
#
# make fuzz runs until it finds something or is stopped, FUZZ_SECONDS=N for N seconds. The corpus is
# kept in build/fuzz/corpus, what was found in build/fuzz/found.

FUZZ := $(B)/tests/fuzz
FUZZ_SRCS := tests/fuzz/fuzz.c $(wildcard tests/fuzz/control*.c)
FUZZ_OBJS := $(call objects,tests/fuzz/main.c $(FUZZ_SRCS))

.PHONY: tests-fuzz fuzz
tests-fuzz: $(FUZZ)/fuzz

$(FUZZ)/fuzz: $(FUZZ_OBJS) $(LIBNOVT_INTERNAL)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

# The engine below the monitor once more, with coverage and sanitizers.
FUZZ_CLANG := clang -O1 -g -std=gnu11 -fPIC -fno-omit-frame-pointer $(CPPFLAGS_ALL)
FUZZ_SAN := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_ENGINE := $(wildcard $(foreach d,runtime codecache translator,$(d)/*.c $(d)/*.S)) monitor/cpu/redirect64.c
FUZZ_SAN_OBJS := $(patsubst %,$(B)/fuzz/obj/%.o,$(FUZZ_ENGINE) $(FUZZ_SRCS) tests/fuzz/target.c)

$(B)/fuzz/obj/%.c.o: %.c
	@mkdir -p $(@D)
	$(FUZZ_CLANG) $(FUZZ_SAN) -MMD -MP -c -o $@ $<
$(B)/fuzz/obj/%.S.o: %.S
	@mkdir -p $(@D)
	$(FUZZ_CLANG) -Wa,--noexecstack -c -o $@ $<
$(B)/fuzz/fuzz: $(FUZZ_SAN_OBJS)
	clang -fsanitize=fuzzer,address,undefined -o $@ $^ $(ENGINE_LIBS)

fuzz: $(B)/fuzz/fuzz $(FUZZ)/fuzz | deps
	@mkdir -p $(B)/fuzz/corpus $(B)/fuzz/found
	@[ -n "$$(ls -A $(B)/fuzz/corpus)" ] || $(FUZZ)/fuzz -w $(B)/fuzz/corpus -n 300
	@$(B)/fuzz/fuzz -max_len=520 -max_total_time=$(or $(FUZZ_SECONDS),0) -print_final_stats=1 \
		-timeout=10 -artifact_prefix=$(B)/fuzz/found/ $(B)/fuzz/corpus || \
		{ echo 'fuzz: look at it again with $(FUZZ)/fuzz -r FILE, the file named above' >&2; exit 1; }

-include $(FUZZ_OBJS:.o=.d) $(FUZZ_SAN_OBJS:.o=.d)
