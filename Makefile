# `make` alone lists the targets. Every cargo call keeps to the lock file.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Flags for `make run`, such as ARGS="--data-dir /var/tmp/events --idle spin".
ARGS ?=
# How long `make fuzz` looks for each target, seconds.
FUZZ_SECONDS ?= 60
# Rounds of `make test-kill`, and power cuts of `make test-root`.
ROUNDS ?= 200
CUTS ?= 50
# Preemptions that loom tries in each interleaving: 3 finds what is found in practice (loom's own advice is 2 to 3).
LOOM_MAX_PREEMPTIONS ?= 3

.PHONY: help run demo demo-overload examples test test-kill test-root test-vm replay large-log ack-latency bench host-report fuzz loom lint doc clean deps

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: deps ## start the engine on 127.0.0.1 (ARGS="…" for flags of serve)
	$(CARGO) run --locked --release --bin eventstream -- serve $(ARGS)

demo: deps ## start it, send samples and a million events, drain, show ledger, latencies and log
	bench-scripts/demo.sh

demo-overload: deps ## a flood drives it through every level and back; a report with a plot
	bench-scripts/overload.sh

examples: deps ## three programs with the engine inside, and one with the client; each runs to its end
	for example in minimal orders windows producer; do $(CARGO) run --locked --example "$$example"; done

test: lint ## everything that must hold: format, clippy, tests, doctests, docs, loom
	if $(CARGO) nextest --version >/dev/null 2>&1; then $(CARGO) nextest run --locked; else $(CARGO) test --locked --lib --bins --tests; fi
	$(CARGO) test --locked --doc
	$(MAKE) --no-print-directory doc loom

test-kill: deps ## kill -9 in mid-load and in mid-recovery: what was acked or announced is in the log, once (ROUNDS=200)
	ROUNDS=$(ROUNDS) KILL_ROUNDS=$(ROUNDS) $(CARGO) test --locked --release --test kill_rounds --test kill_loop -- --nocapture --test-threads 1

test-root: deps ## as root: power cuts on loop-mounted file systems (CUTS=50), no space, read-only
	CUTS=$(CUTS) $(CARGO) test --locked --test root_faults -- --ignored --nocapture --test-threads=1

test-vm: deps ## Linux 6.1 in a virtual machine with two NUMA nodes and a disk that fails (no KVM needed)
	tests/vm/run.sh

replay: deps ## 100,000 dead letters replayed twice, online and offline: each in the log once
	REPLAY_LETTERS=100000 $(CARGO) test --locked --release --test dead_letters -- replayed_twice

large-log: deps ## a log of 10 GiB is made and opened: time, memory, bytes read (LARGE_LOG_GIB=10)
	LARGE_LOG_GIB="$${LARGE_LOG_GIB:-10}" $(CARGO) test --locked --release --test large_log -- --ignored --nocapture

ack-latency: deps ## how long acks take at 10,000 events/s, beside what the disk alone takes
	bench-scripts/ack-latency.sh

bench: deps ## events per second, stored: engine on core 0, sender on core 1
	bench-scripts/throughput.sh

host-report: deps ## this host: limits, four scenarios, one page, in three minutes (to compare hosts and kernels)
	bench-scripts/host-report.sh

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
	for name in frame session log; do \
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

lint: deps ## format and clippy, warnings denied; the client without the engine too
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --lib --no-default-features --features client -- -D warnings
	! $(CARGO) tree --locked --edges normal --no-default-features --features client | grep -E 'io-uring|hwlocality|tokio'

doc: export RUSTDOCFLAGS := -D warnings
doc: deps ## the documentation, warnings denied
	$(CARGO) doc --locked --no-deps

clean: ## remove what was built (never data/)
	$(CARGO) clean
	rm -rf tests/fuzz/target

deps: # the C libraries that topology needs, installed when missing
	@.ci/deps
