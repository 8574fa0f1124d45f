# Everything that is done with this repository. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where binaries go; `make build BIN=/somewhere` puts them elsewhere.
BIN := bin
DIST := dist
# Where `make run` keeps its cluster.
RUN := run

# The same for all that is built, checked and tested, so that each package is compiled once.
export CGO_ENABLED := 0
export GOFLAGS := $(filter-out -trimpath,$(GOFLAGS)) -trimpath

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)
# -buildvcs=false: the version is stamped here, and a checkout that belongs to another user must build too.
GOBUILD := go build -buildvcs=false -ldflags "-s -w -X kineshim/version.Version=$(VERSION)"
PRODUCTS := ./cmd/kineshim ./cmd/raftwitness ./cmd/shimctl
DEMO := ./integration/cmd/devcluster ./integration/cmd/kv
TOOLS := bin/tools
# The product, and the modules of tests that need more than it may link.
MODULES := . integration/oracle integration/kubernetes integration/linearizability

.PHONY: help
help: ## list the targets
	@echo "make TARGET"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | while IFS=$$'\t' read -r t d; do printf '  %-16s %s\n' "$$t" "$$d"; done

.PHONY: setup
setup: ## install PostgreSQL 14-18 if it is missing, check Go
	@scripts/setup.sh

.PHONY: setup-lab
setup-lab:
	@scripts/setup.sh lab

.PHONY: run
run: setup build ## start two data nodes and a witness on this machine, data in ./run (K3S=1: print the k3s command too)
	@exec $(BIN)/devcluster --dir $(RUN) $(if $(filter-out 0,$(K3S)),--k3s)

.PHONY: test
test: setup-lab ## go vet and all tests, on real PostgreSQL and real processes (TESTFLAGS=... is passed to go test)
	@scripts/test.sh $(TESTFLAGS)

.PHONY: build
build: ## build kineshim, raftwitness, shimctl, and devcluster and kv to try them with, into bin/
	@mkdir -p $(BIN)
	@echo "build $(VERSION) into $(BIN)/"
	@$(GOBUILD) -o $(BIN)/ $(PRODUCTS) $(DEMO)

.PHONY: cross
cross: ## build the three binaries for linux amd64, arm64, armv7 and armv6 into dist/
	@for target in amd64 arm64 armv7:7 armv6:6; do \
		name=$${target%%:*}; goarch=$$name; goarm=; \
		if [[ $$target == *:* ]]; then goarch=arm; goarm=$${target##*:}; fi; \
		echo "build $(VERSION) for linux-$$name"; \
		mkdir -p "$(DIST)/linux-$$name"; \
		GOOS=linux GOARCH=$$goarch GOARM=$$goarm $(GOBUILD) -o "$(DIST)/linux-$$name/" $(PRODUCTS); \
	done

.PHONY: packages
packages: cross $(TOOLS)/nfpm ## make debs and rpms of kineshim and raftwitness in dist/
	@deploy/packages/build.sh "$(VERSION)" "$(abspath $(TOOLS))/nfpm" "$(abspath $(DIST))"

.PHONY: packages-test
packages-test: $(TOOLS)/nfpm ## install, upgrade, remove and purge the packages in a Debian of its own, as root (needs debootstrap); kept in ROOT=/tmp/kineshim-packages
	@mkdir -p "$(DIST)/linux-amd64"; GOOS=linux GOARCH=amd64 $(GOBUILD) -o "$(DIST)/linux-amd64/" $(PRODUCTS)
	@deploy/packages/test.sh "$(abspath $(TOOLS))/nfpm" "$(abspath $(DIST))" "$(or $(ROOT),/tmp/kineshim-packages)"

.PHONY: lint
lint: $(TOOLS)/staticcheck ## gofmt, go vet and staticcheck
	@bad=$$(gofmt -l .); if [[ -n $$bad ]]; then echo "not formatted, run gofmt -w:"; echo "$$bad"; exit 1; fi
	@for module in $(MODULES); do echo "go vet $$module/..."; go -C $$module vet ./... || exit 1; done
	@echo "staticcheck ./..."; $(TOOLS)/staticcheck ./...

.PHONY: proto
proto: $(TOOLS)/staticcheck ## generate Go code from proto/kineshim.proto (needs protoc: apt-get install protobuf-compiler)
	@command -v protoc >/dev/null || { echo "protoc is missing: apt-get install protobuf-compiler" >&2; exit 1; }
	PATH="$(CURDIR)/$(TOOLS):$$PATH" protoc -I proto --go_out=proto --go_opt=paths=source_relative \
		--go-grpc_out=proto --go-grpc_opt=paths=source_relative kineshim.proto

# One command builds all tools at the versions of tools/go.mod; staticcheck stands for them.
$(TOOLS)/staticcheck: tools/go.mod tools/go.sum
	@echo "build the tools into $(TOOLS)/"
	@GOBIN="$(CURDIR)/$(TOOLS)" go -C tools install tool
	@touch $@

# A module of its own: it needs more than all the others.
$(TOOLS)/nfpm: tools/nfpm/go.mod tools/nfpm/go.sum
	@echo "build nfpm into $(TOOLS)/"
	@GOBIN="$(CURDIR)/$(TOOLS)" go -C tools/nfpm install tool
	@touch $@

.PHONY: failover-bench
failover-bench: setup build ## time failovers: ROUNDS=50 per kind, KINDS=kill-group,kill-node,kill-postgres,silent,switchover, KEYS=n keys in the store, BUSY=10m all cores busy first, results in OUT=failover.jsonl
	@$(GOBUILD) -o $(BIN)/ ./integration/cmd/failoverbench
	@KINESHIM_BIN_DIR="$(abspath $(BIN))" $(BIN)/failoverbench --rounds $(or $(ROUNDS),50) --out $(or $(OUT),failover.jsonl) $(if $(KINDS),--kinds $(KINDS)) $(if $(KEYS),--keys $(KEYS)) $(if $(BUSY),--busy $(BUSY))

.PHONY: bench
bench: setup build ## kineshim beside etcd and kine: QUICK=1 for what is to be reached, in 6 minutes; results in OUT=bench.jsonl
	@$(GOBUILD) -o $(BIN)/ ./integration/cmd/peerbench ./integration/cmd/kineserver
	@go -C integration/peers build -buildvcs=false -ldflags "-s -w" -o "$(abspath $(BIN))/etcd" go.etcd.io/etcd/server/v3
	@KINESHIM_BIN_DIR="$(abspath $(BIN))" $(BIN)/peerbench --out $(or $(OUT),bench.jsonl) $(if $(filter-out 0,$(QUICK)),--quick) $(BENCHFLAGS)

.PHONY: sim
sim: ## simulate failures: MINUTES=1 of many histories, from FROM=seed; SEED=n (KEEP=1,2 MUTANT=rule) replays one; MUTANTS=1 breaks each rule in turn
	@$(GOBUILD) -o $(BIN)/ ./integration/cmd/sim
	@exec $(BIN)/sim $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep $(KEEP)) $(if $(MUTANT),--mutant $(MUTANT)) $(if $(filter-out 0,$(MUTANTS)),--mutants) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(FROM),--from $(FROM))

.PHONY: e2e
e2e: setup ## Kubernetes' own storage tests against kineshim (also part of `make test`)
	@integration/kubernetes/run.sh $(TESTFLAGS)

.PHONY: soak
soak: setup-lab build ## NEMESIS=2h of it, then failover tests many times over (ROUNDS=10), the oracle's random sequences (CHECKS=100000), linearizability across 50 failovers and 50 switchovers, its mutants, and fuzzing (FUZZTIME=5m for each target)
	@$(MAKE) --no-print-directory nemesis NEMESIS=$(or $(NEMESIS),2h)
	@$(GOBUILD) -o $(BIN)/ ./integration/cmd/engineserver
	@KINESHIM_BIN_DIR="$(abspath $(BIN))" KINESHIM_LONG=1 KINESHIM_ROUNDS=$(or $(ROUNDS),10) go test ./integration -count=1 -timeout 24h -v $(TESTFLAGS)
	@KINESHIM_BIN_DIR="$(abspath $(BIN))" ORACLE_CHECKS=$(or $(CHECKS),100000) go -C integration/oracle test -count=1 -timeout 24h -v $(TESTFLAGS) ./...
	@KINESHIM_BIN_DIR="$(abspath $(BIN))" KINESHIM_LONG=1 go -C integration/linearizability test -count=1 -timeout 24h -v $(TESTFLAGS) .
	@$(MAKE) --no-print-directory fuzz FUZZTIME=$(or $(FUZZTIME),5m)

.PHONY: fuzz
fuzz: ## random inputs for whatever reads from the network or from disk: FUZZTIME=30s for each target, one after the other
	@scripts/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: nemesis
nemesis: setup-lab build ## random failures of a cluster on three hosts, as root: SEED=n, NEMESIS=5m, BURST=n that one of the seed only, PLAN=file instead of a seed, RACE=1 nodes with the race detector; evidence in OUT=/tmp/kineshim-nemesis
	@$(if $(filter-out 0,$(RACE)),mkdir -p "$(BIN)/race" && CGO_ENABLED=1 go build -race -buildvcs=false -o "$(BIN)/race/" ./cmd/kineshim ./cmd/raftwitness)
	@go -C integration/linearizability build -buildvcs=false -o "$(abspath $(BIN))/" ./cmd/nemesis
	@KINESHIM_BIN_DIR="$(abspath $(BIN))$(if $(filter-out 0,$(RACE)),/race)" $(BIN)/nemesis --for $(or $(NEMESIS),5m) $(if $(OUT),--out $(OUT)) $(if $(SEED),--seed $(SEED)) $(if $(BURST),--burst $(BURST)) $(if $(PLAN),--plan $(PLAN)) $(NEMESISFLAGS)

.PHONY: lab
lab: setup-lab build ## the failure matrix for real, as root: ROW=19 (or 19,53a) for some rows, QUICK=1 for the quick ones; stories and logs in OUT=/tmp/kineshim-lab
	@$(GOBUILD) -o $(BIN)/ ./integration/cmd/lab
	@KINESHIM_BIN_DIR="$(abspath $(BIN))" $(BIN)/lab $(if $(OUT),--out $(OUT)) $(if $(ROW),--rows $(ROW)) $(if $(filter-out 0,$(QUICK)),--quick) $(LABFLAGS)

.PHONY: lab-clean
lab-clean: ## remove what killed labs have left: namespaces, mounts, processes, directories
	@$(GOBUILD) -o $(BIN)/ ./integration/cmd/lab
	@$(BIN)/lab --clean

.PHONY: clean
clean: ## stop the cluster of `make run`; remove run/, bin/, dist/
	@scripts/clean.sh $(RUN)
	@rm -rf $(BIN) $(DIST)
