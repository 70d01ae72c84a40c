# stress.mk - the stress test: build/tests/stress/stress.

STRESS := $(B)/tests/stress/stress
STRESS_OBJS := $(call objects,tests/stress/stress.c)

.PHONY: tests-stress
tests-stress: $(STRESS)

$(STRESS): $(STRESS_OBJS) $(LIBNOVT_A)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(STRESS_OBJS:.o=.d)
