# golden.mk - the golden listings: build/tests/golden/golden; `make golden-regenerate` rewrites them.

GOLDEN := $(B)/tests/golden/golden
GOLDEN_OBJS := $(call objects,tests/golden/golden.c)

.PHONY: tests-golden golden-regenerate
tests-golden: $(GOLDEN)

golden-regenerate: $(GOLDEN)
	$(GOLDEN) --regenerate tests/golden/cases.txt

$(GOLDEN): $(GOLDEN_OBJS) $(LIBNOVT_INTERNAL)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(GOLDEN_OBJS:.o=.d)
