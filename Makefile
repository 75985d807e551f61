# What people and CI run. `make` alone lists the targets.
# Everything built goes to a cache outside the clone, so that the next checkout starts warm: see scripts/env.sh.
SHELL := /bin/bash
ENV := . scripts/env.sh &&
SEEDS ?= 60
OPERATIONS ?= 100000

.PHONY: help bootstrap http-clients web-tools build demo demo-small test fmt-check clippy unit sim mount-proof three-machines doc fix bench bench-http bench-mount

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

bootstrap: ## Installs what the machine lacks and compiles RocksDB once.
	@scripts/bootstrap

build: bootstrap ## Builds the release binary.
	@$(ENV) cargo build --release -p cairn-cli && echo "built $$CARGO_TARGET_DIR/release/dfs"

demo: build ## Starts a cluster, stores a real tree, kills a leader and a datanode, compares every byte.
	@$(ENV) scripts/demo

demo-small: bootstrap ## The demo with a small tree and a debug build, in half a minute; part of `make test`.
	@$(ENV) cargo build --quiet -p cairn-cli && DFS="$$CARGO_TARGET_DIR/debug/dfs" scripts/demo-small

test: bootstrap fmt-check clippy unit demo-small sim doc ## Everything that guards the project; what CI runs.
	@echo "all checks passed"

fmt-check:
	@cargo fmt --all --check

clippy: bootstrap
	@$(ENV) cargo clippy --workspace --all-targets -- -D warnings

http-clients: ## Installs the HTTP clients of others that tests run, once per machine.
	@scripts/http-clients >/dev/null

web-tools: ## Installs the browser and the tools that tests of the console run, once per machine.
	@scripts/web-tools >/dev/null

unit: bootstrap http-clients web-tools
	@$(ENV) scripts/test-tools && cargo build --workspace --bins && cargo test --workspace

sim: bootstrap ## Deterministic simulation: make sim SEEDS=200
	@$(ENV) scripts/sim $(SEEDS)

mount-proof: bootstrap ## All tests of the mount with fsx at full length; needs root: make mount-proof OPERATIONS=100000
	@$(ENV) scripts/mount-proof $(OPERATIONS)

three-machines: build ## deploy/README.md on three machines that are network namespaces, with cut networks and power; needs root.
	@$(ENV) scripts/three-machines

doc: bootstrap
	@$(ENV) RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

fix: ## Formats and applies what clippy can mend.
	@$(ENV) cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged; cargo fmt --all

bench: build ## Measures; writes bench-results/core.json.
	@$(ENV) scripts/bench

bench-http: build ## Measures WebHDFS; writes bench-results/http.json.
	@$(ENV) scripts/bench-http

bench-mount: build ## Measures a mount beside the local disk; needs root; writes bench-results/mount.json.
	@$(ENV) scripts/bench-mount
