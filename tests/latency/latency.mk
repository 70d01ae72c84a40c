# latency.mk - from request to handler: build/tests/latency/latency.

LATENCY := $(B)/tests/latency/latency

.PHONY: tests-latency
tests-latency: $(LATENCY)

$(LATENCY).o: tests/latency/latency.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(LATENCY): $(LATENCY).o $(LIBNOVT_A)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(LATENCY).d
