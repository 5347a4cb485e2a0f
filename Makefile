# The door for people: each target installs what it misses, and says so.
#   make demo   the gateway in front of three example backends and an example model
#   make test   everything CI runs that is not style
#   make run    the gateway with conf/gateway.yaml (CONFIG=… for another)
#   make check  format, lints, licences, unused dependencies
#   make bench  beside nginx, HAProxy and a bare Pingora, on this machine
#   make bench-ai  calls of models: beside nginx, a bare Pingora, LiteLLM and Portkey
#   make bench-limits  what identity and three limits in Redis add to a request
#   make load   100, 500, 1,000 users; a backend, Redis killed; a reload, an upgrade: load-report.html in four minutes (ARGS=--quick: one)
#   make fuzz   every parser of what strangers send, SECONDS=600 each
#   make soak   long runs: upgrades, reloads, slow callers, connections at rest, half an hour of faults (SOAK_MINUTES=…)
#   make image  the container image

CARGO  ?= cargo
CONFIG ?= conf/gateway.yaml
SECONDS ?= 600
TARGET ?= $(or $(CARGO_TARGET_DIR),target)

.PHONY: demo run test check bench bench-ai bench-limits load fuzz soak image build-needs test-needs bench-needs bench-ai-needs load-needs check-needs
.DEFAULT_GOAL := demo

demo: build-needs
	$(CARGO) run --locked --release --bin onemind -- demo $(ARGS)

run: build-needs
	$(CARGO) run --locked --release --bin onemind -- run -c $(CONFIG)

test: build-needs test-needs
	.ci/test

check: build-needs check-needs
	.ci/check

bench: build-needs bench-needs
	$(CARGO) build --locked --release --bin onemind
	ONEMIND_BIN=$(TARGET)/release/onemind $(CARGO) bench --locked --bench compare -- $(ARGS)

bench-ai: build-needs bench-needs bench-ai-needs
	$(CARGO) build --locked --release --bin onemind
	ONEMIND_BIN=$(TARGET)/release/onemind $(CARGO) bench --locked --bench ai -- $(ARGS)

bench-limits: build-needs bench-needs
	$(CARGO) build --locked --release --bin onemind
	ONEMIND_BIN=$(TARGET)/release/onemind $(CARGO) bench --locked --bench added -- $(ARGS)

load: build-needs load-needs
	$(CARGO) build --locked --release --bin onemind
	ONEMIND_BIN=$(TARGET)/release/onemind $(CARGO) bench --locked --bench load -- $(ARGS)

fuzz: build-needs
	FUZZ_SECONDS=$(SECONDS) $(CARGO) test --locked --test fuzz -- --nocapture $(ARGS)

soak: build-needs
	SOAK=1 $(CARGO) test --locked --release --test it -- --nocapture --test-threads 1 soak::$(ARGS)

image:
	docker build -t onemind-gateway .

# Pingora's compression libraries are built by cmake. `build-essential` brings the headers that `gcc` alone does not.
build-needs:
	@command -v $(CARGO) >/dev/null || { echo "no $(CARGO): install Rust from https://rustup.rs, then try again" >&2; exit 1; }
	@.ci/install cmake cc:build-essential
test-needs:
	@.ci/install redis-server prometheus promtool:prometheus curl jq unshare:util-linux mkfifo:coreutils
	@.ci/sdks
	@.ci/install chromium
bench-needs:
	@.ci/install nginx haproxy wrk h2load:nghttp2-client taskset:util-linux redis-server
bench-ai-needs:
	@.ci/gateways
load-needs:
	@.ci/install redis-server taskset:util-linux
check-needs:
	@.ci/install-tools cargo-deny cargo-machete
