.PHONY: example test

example: ; ./examples/run
test: ; ./tests/run
