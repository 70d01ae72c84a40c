# diff.mk - the differential test: build/tests/diff/diff.

DIFF_SOURCES := $(wildcard tests/diff/*.c tests/diff/*.S)
DIFF_OBJS := $(patsubst tests/diff/%,$(B)/tests/diff/%.o,$(DIFF_SOURCES))

.PHONY: tests-diff
tests-diff: $(B)/tests/diff/diff

$(B)/tests/diff/%.c.o: tests/diff/%.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<
$(B)/tests/diff/%.S.o: tests/diff/%.S tests/diff/layout.h | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -g -Wa,--noexecstack -c -o $@ $<

$(B)/tests/diff/diff: $(DIFF_OBJS) $(LIBNOVT_INTERNAL)
	$(CC) -o $@ $(DIFF_OBJS) $(LIBNOVT_INTERNAL) $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(patsubst %.o,%.d,$(filter %.c.o,$(DIFF_OBJS)))
