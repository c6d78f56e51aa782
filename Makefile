# `make` alone lists the targets. Every cargo call keeps to the lock file.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Flags for `make run`, such as ARGS="--data-dir /var/tmp/events --idle spin".
ARGS ?=
# How long `make fuzz` looks for each target, seconds.
FUZZ_SECONDS ?= 60
# Preemptions that loom tries in each interleaving: 3 finds what is found in practice (loom's own advice is 2 to 3).
LOOM_MAX_PREEMPTIONS ?= 3

.PHONY: help run demo demo-overload examples test replay bench fuzz loom lint doc clean deps

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: deps ## start the engine on 127.0.0.1 (ARGS="…" for flags of serve)
	$(CARGO) run --locked --release --bin eventstream -- serve $(ARGS)

demo: deps ## start it, send samples and a million events, drain, show ledger, latencies and log
	bench-scripts/demo.sh

demo-overload: deps ## a flood drives it through every level and back; a report with a plot
	bench-scripts/overload.sh

examples: deps ## three programs with the engine inside, each runs to its end
	for example in minimal orders windows; do $(CARGO) run --locked --example "$$example"; done

test: lint ## everything that must hold: format, clippy, tests, doctests, docs, loom
	if $(CARGO) nextest --version >/dev/null 2>&1; then $(CARGO) nextest run --locked; else $(CARGO) test --locked --lib --bins --tests; fi
	$(CARGO) test --locked --doc
	$(MAKE) --no-print-directory doc loom

replay: deps ## 100,000 dead letters replayed twice, online and offline: each in the log once
	REPLAY_LETTERS=100000 $(CARGO) test --locked --release --test dead_letters -- replayed_twice

bench: deps ## events per second, stored: engine on core 0, sender on core 1
	bench-scripts/throughput.sh

# Coverage instrumentation is all that libFuzzer needs, and stable rustc has it, so neither cargo-fuzz nor a nightly
# toolchain is asked for. The codec is safe code: there is nothing for a sanitizer to see.
fuzz: export RUSTFLAGS := --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
fuzz: deps ## look for inputs that break a codec (FUZZ_SECONDS=60 each)
	@if ! command -v c++ >/dev/null; then printf '%s\n' 'error: make fuzz needs a C++ compiler' \
		'cause: libFuzzer is C++, and there is no c++ on the path' 'fix: apt-get install g++' >&2; exit 1; fi
	target=$$(rustc -vV | sed -n 's/^host: //p'); \
	cd tests/fuzz && mkdir -p artifacts && $(CARGO) build --locked --release --target "$$target" --bins && \
	for name in frame session; do \
		mkdir -p "corpus/found/$$name" && "target/$$target/release/$$name" -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
			-print_final_stats=1 -artifact_prefix=artifacts/ "corpus/found/$$name" "corpus/$$name" || exit; \
	done

loom: export RUSTFLAGS := --cfg loom
loom: export LOOM_MAX_PREEMPTIONS := $(LOOM_MAX_PREEMPTIONS)
loom: export CARGO_PROFILE_RELEASE_LTO := off
loom: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS := 16
loom: export CARGO_PROFILE_RELEASE_DEBUG := none
loom: deps ## every interleaving of the lock-free parts
	$(CARGO) test --locked --release --lib --target-dir target/loom loom

lint: deps ## format and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: export RUSTDOCFLAGS := -D warnings
doc: deps ## the documentation, warnings denied
	$(CARGO) doc --locked --no-deps

clean: ## remove what was built (never data/)
	$(CARGO) clean
	rm -rf tests/fuzz/target

deps: # the C libraries that topology needs, installed when missing
	@.ci/deps
