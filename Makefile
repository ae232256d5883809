.PHONY: example test dist

example: ; ./examples/run
test: ; ./tests/run

# A static program with its checksum, in dist/: needs musl-gcc (Debian: musl-tools) and the target
# (rustup target add x86_64-unknown-linux-musl).
machine := $(shell uname -m)
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name := rbuild-$(version)-$(machine)-linux
target := $(or $(CARGO_TARGET_DIR),target)

dist:
	cargo build --profile dist --locked --target $(machine)-unknown-linux-musl
	mkdir -p dist
	cp $(target)/$(machine)-unknown-linux-musl/dist/rbuild dist/$(name)
	cd dist && sha256sum $(name) > SHA256SUMS
	@ls -l dist/$(name)
