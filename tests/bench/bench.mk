# bench.mk (tests) - what the smoke test of bench/ runs.
.PHONY: tests-bench
tests-bench: bench-programs tools
