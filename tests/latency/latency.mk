# latency.mk - from request to handler: build/tests/latency/latency.

LATENCY := $(B)/tests/latency/latency
LATENCY_OBJS := $(call objects,tests/latency/latency.c)

.PHONY: tests-latency
tests-latency: $(LATENCY)

$(LATENCY): $(LATENCY_OBJS) $(LIBNOVT_A)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(LATENCY_OBJS:.o=.d)
