# golden.mk - the golden listings: build/tests/golden/golden; `make golden-regenerate` rewrites them.

GOLDEN := $(B)/tests/golden/golden

.PHONY: tests-golden golden-regenerate
tests-golden: $(GOLDEN)

golden-regenerate: $(GOLDEN)
	$(GOLDEN) --regenerate tests/golden/cases.txt

$(GOLDEN).o: tests/golden/golden.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(GOLDEN): $(GOLDEN).o $(LIBNOVT_INTERNAL)
	$(CC) -o $@ $< $(LIBNOVT_INTERNAL) $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(GOLDEN).d
