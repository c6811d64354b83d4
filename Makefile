# Chartroom's targets. `make help` lists them.

SHELL := /usr/bin/env bash -o pipefail
.DEFAULT_GOAL := help

VERSION ?= $(shell hack/version)
IMAGE ?= localhost/chartroom:$(VERSION)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Where the other targets find a cluster: the kubeconfig asked for, else the one that cluster-up wrote.
export KUBECONFIG ?= $(CURDIR)/.cluster/kubeconfig

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it

.PHONY: demo demo-down
demo: ## Start a cluster, the operator and a registry, then push and pull a chart with helm.
	hack/demo up
demo-down: ## Remove all that `make demo` started.
	hack/demo down

##@ Develop

.PHONY: build generate verify lint fuzz bench
build: ## Build the programs into bin/.
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...
generate: ## Write the deepcopy code, the CRDs and the roles anew from the sources.
	hack/generate
verify: ## Check formatting, vet, shell scripts, go.mod, and that generated files are current.
	hack/verify
lint: ## Run golangci-lint (built from source the first time, which takes minutes).
	"$$(hack/tool golangci-lint)" run
fuzz: ## Run each fuzz target for FUZZTIME (60s).
	hack/fuzz "$(or $(FUZZTIME),60s)"
bench: ## Measure the server beside others and write docs/benchmarks.md, 25 minutes; BENCH="-quick -only pull" does a part.
	go run ./test/bench $(BENCH)

##@ Test

.PHONY: test test-unit test-integration test-e2e
test: ## Run every test: verify, unit, API server, real pods.
	hack/test
test-unit: ## Run the tests that need nothing but Go, with the race detector.
	hack/test unit
test-integration: ## Run the tests against a real API server, the OCI suite, and clients of others.
	hack/test integration
test-e2e: ## Run the tests on real pods, with real helm 3 and helm 4.
	hack/test e2e

##@ Cluster

.PHONY: cluster-up cluster-down cluster-status image deploy undeploy
cluster-up: ## Start a cluster: kind where Docker runs, else one node built from source.
	hack/cluster/up
cluster-down: ## Stop the cluster and remove all that it left.
	hack/cluster/down
cluster-status: ## Say which parts of the cluster run.
	hack/cluster/status
image: ## Build the image without Docker, as dist/chartroom-VERSION.tar.
	hack/image/build "$(VERSION)"
deploy: ## Install the operator into the cluster, with the image of this version.
	hack/deploy up "$(VERSION)"
undeploy: ## Remove the operator and its kinds, in an order that leaves nothing hanging.
	hack/deploy down

.PHONY: clean
clean: ## Delete what was built here; the cache of programs built from source stays.
	rm -rf bin dist
