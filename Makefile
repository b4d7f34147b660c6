# What this repository can do. `make` alone lists it.
#
# `make test` decides whether a change is good: here, and in CI (.ci/run calls it and nothing else).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
# Where rustup puts cargo, for shells that were not told.
export PATH := $(PATH):$(HOME)/.cargo/bin
# The lock file decides which dependencies are built; nobody updates it by running a test.
LOCKED := --locked

.DEFAULT_GOAL := help
.PHONY: help test soak fuzz measure bench tools peers bench-peers demo audit image

help: ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

test: tools ## format, lints, doc links, every test
	cargo fmt --check
	cargo clippy $(LOCKED) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(LOCKED) --no-deps
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(LOCKED); \
		cargo test $(LOCKED) --doc; \
	else \
		cargo test $(LOCKED); \
	fi

soak: tools ## a thousand kills on each store: KILLS=… for another number, CRASH_SEED=… to repeat
	CRASH_KILLS=$${KILLS:-1000} CRASH_SEED=$${CRASH_SEED:-$$RANDOM} cargo test $(LOCKED) --test it -- --nocapture \
		--test-threads 1 crash::whenever_

# A C compiler builds SQLite, the allocator and the TLS primitives; rustfmt and clippy are not in rustup's minimal
# profile. Only what is missing is installed, and packages only by root: nobody's machine is changed behind their back.
tools:
	@if ! command -v cargo >/dev/null; then \
		echo "make: cargo is missing; install Rust with rustup" >&2; exit 1; \
	fi
	@if ! echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			export DEBIAN_FRONTEND=noninteractive; \
			apt-get update </dev/null; \
			apt-get install -y --no-install-recommends gcc libc6-dev pkg-config </dev/null; \
		else \
			echo "make: a C compiler is missing; install one (Debian: sudo apt-get install build-essential)" >&2; exit 1; \
		fi; \
	fi
	@$(MAKE) --no-print-directory peers
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

# Installs what `missing` names, for $(1). Tests and the benchmark start a PostgreSQL of their own: the package is kept from
# starting one for the machine.
define install_missing
if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1; \
			case "$$missing" in *postgresql*) \
				if [ ! -e /etc/postgresql-common/createcluster.conf ]; then \
					mkdir -p /etc/postgresql-common; \
					echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf; \
				fi;; \
			esac; \
			apt-get update </dev/null; \
			apt-get install -y --no-install-recommends $$missing </dev/null; \
		else \
			echo "make: $(1) $$missing; install it (Debian: sudo apt-get install $$missing)" >&2; exit 1; \
		fi; \
	fi
endef

# Servers that are not ours, for tests to talk to: nginx, PostgreSQL, Redis, and Python packages at the versions of
# tests/peers; and strace, which shows that no answer leaves before its sync.
peers:
	@missing=""; \
	command -v curl >/dev/null || missing="curl"; \
	{ command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing="$$missing nginx-light"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	strace -V >/dev/null 2>&1 || missing="$$missing strace"; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	$(call install_missing,tests need)
	@if ! cmp -s tests/peers/requirements.txt target/peers/installed.txt; then \
		rm -rf target/peers; \
		python3 -m venv target/peers; \
		target/peers/bin/pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt; \
		cp tests/peers/requirements.txt target/peers/installed.txt; \
	fi

demo: ## five simulated partners, real leads, one process, no set-up
	cargo run $(LOCKED) --release -- demo

# Licences, bans and sources are read from the lock file and the crates themselves. Advisories need the RustSec
# database, and so a network: without one their check is left out, and said so.
audit: ## licences, bans, sources and advisories of every dependency
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny $(LOCKED) check licenses bans sources
	if GIT_TERMINAL_PROMPT=0 timeout 120 cargo deny $(LOCKED) fetch db </dev/null >/dev/null 2>&1; then \
		cargo deny $(LOCKED) check advisories; \
	else \
		echo "make: no advisory database could be fetched; advisories were NOT checked" >&2; \
	fi

# The tests fuzz for a few seconds from one seed; this looks for longer, from another each time, and says which.
fuzz: ## look for inputs that break a parser, FUZZ_SECONDS (300) for each target
	@export FUZZ_SECONDS=$${FUZZ_SECONDS:-300} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)}; \
	echo "FUZZ_SEED=$$FUZZ_SEED FUZZ_SECONDS=$$FUZZ_SECONDS"; \
	cargo test $(LOCKED) --release --test it -- fuzz:: --nocapture

measure: ## what a quiet machine shows: a healthy partner beside a hundred bad ones, two million waiting (4 GiB of disk)
	cargo test $(LOCKED) --release --test it -- --ignored --nocapture --test-threads=1 \
		beside_a_hundred_bad_partners two_million

bench: bench-peers ## leads a second against nginx as a bare proxy: SCENARIOS=async,wait SECONDS=60 ARGS=--list
	cargo bench $(LOCKED) --profile dist --bench throughput -- $(if $(SCENARIOS),--scenarios $(SCENARIOS)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

# What the benchmark starts besides the gateway.
bench-peers:
	@missing=""; \
	{ command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || missing="postgresql"; \
	command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing="$$missing nginx-light"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	$(call install_missing,the benchmark needs)

image: ## the container image
	docker build -t lead-gateway .
