# precise.mk - the precise-state test: build/tests/precise/precise.

PRECISE := $(B)/tests/precise/precise

.PHONY: tests-precise
tests-precise: $(PRECISE)

$(B)/tests/precise/precise.o: tests/precise/precise.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<
$(B)/tests/precise/cases.o: tests/precise/cases.S | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -Wa,--noexecstack -c -o $@ $<

$(PRECISE): $(B)/tests/precise/precise.o $(B)/tests/precise/cases.o $(LIBNOVT_A)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(B)/tests/precise/precise.d
