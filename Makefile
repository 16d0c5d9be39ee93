# `make up` starts a store; `make test` does all that CI does; `make help` lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help packages build up down test lint unit soak docs clients swift-functional guest fuzz cluster bench bench-peers bench-scale bench-cluster

# What `make up` passes on: make up ARGS="--data /srv/kodiak --devices 4"
ARGS ?=
BUILD_PACKAGES := build-essential pkg-config libclang-dev
TEST_PACKAGES := $(BUILD_PACKAGES) python3-venv python3-dev libffi-dev
CLUSTER_PACKAGES := iproute2 nftables
GUEST_PACKAGES := qemu-system-x86 busybox-static cpio e2fsprogs
ENV := . scripts/env.sh;

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 20

packages:
	@scripts/packages $(BUILD_PACKAGES)

build: packages ## Build everything in release
	@scripts/build

up: build ## Start a store on this machine and print how to reach it
	@$(ENV) "$$CARGO_TARGET_DIR/release/kodiak" up -d $(ARGS)

down: ## Stop it
	@$(ENV) "$$CARGO_TARGET_DIR/release/kodiak" down $(ARGS)

test: ## Everything that CI runs, set-up included
	@scripts/packages $(TEST_PACKAGES) $(CLUSTER_PACKAGES)
	@$(MAKE) --no-print-directory build lint unit clients cluster swift-functional guest fuzz

lint:
	@$(ENV) cargo fmt --all --check
	@$(ENV) cargo clippy --release --workspace --all-targets --locked -- -D warnings
	@$(ENV) RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked --quiet

unit: build ## Unit, property and fault tests
	@$(ENV) cargo test --release --workspace --locked --quiet

soak: ## Simulate other seeds than CI does until it is stopped (SOAK_FROM=100000)
	@$(ENV) scripts/soak $(SOAK_FROM)

clients: build ## Tests with the clients that people use
	@$(ENV) venv=$$(scripts/clients) && KODIAK="$$CARGO_TARGET_DIR/release/kodiak" \
		"$$venv/bin/python" -m pytest -q -p no:cacheprovider tests/clients

swift-functional: build ## OpenStack Swift's own functional tests, compared with the list of known results
	@$(ENV) KODIAK="$$CARGO_TARGET_DIR/release/kodiak" tests/swift/run

cluster: build ## Machines that are network namespaces: killed, paused, cut off, slow, wiped, replaced under load
	@scripts/packages $(CLUSTER_PACKAGES)
	@$(ENV) tests/cluster/run

guest: build ## Cut the power of a virtual machine under load, KODIAK_GUEST_ROUNDS times
	@scripts/packages $(GUEST_PACKAGES)
	@$(ENV) cargo test --release -p kodiak-tests --locked --quiet --test guest -- --ignored --nocapture

fuzz: build ## Fuzz everything that reads untrusted bytes, with the same inputs each time or for FUZZ_SECONDS
	@$(ENV) scripts/fuzz

bench: build ## Measure this machine's figures
	@$(ENV) bench/run "$$CARGO_TARGET_DIR/release"

bench-peers: build ## Measure Swift, Garage, SeaweedFS and radosgw beside Kodiak (ARGS="--stores kodiak,garage")
	@scripts/packages python3-venv
	@$(ENV) bench/peers/run "$$CARGO_TARGET_DIR/release" $(ARGS)
	@$(ENV) bench/peers/ring "$$CARGO_TARGET_DIR/release"

bench-scale: build ## Measure listings, starts and memory with a million objects
	@$(ENV) bench/scale/run "$$CARGO_TARGET_DIR/release" $(ARGS)

bench-cluster: build ## Three nodes on this machine beside one
	@$(ENV) bench/cluster/run "$$CARGO_TARGET_DIR/release" $(ARGS)
