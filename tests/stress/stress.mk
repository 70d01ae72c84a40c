# stress.mk - the stress test: build/tests/stress/stress.

STRESS := $(B)/tests/stress/stress

.PHONY: tests-stress
tests-stress: $(STRESS)

$(STRESS).o: tests/stress/stress.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(STRESS): $(STRESS).o $(LIBNOVT_A)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(STRESS).d
