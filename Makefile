# Weftnet's one door for people and CI. `make` alone explains every target.
# A new machine needs Go, git and make; everything else comes from Go modules (pinned in tools/*/go.mod)
# and, for the testbed, from Debian packages that `make deps` installs.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= dev
NODES   ?= 3
PROXY   ?= none
PKG     ?= ./...
ARGS    ?=
export VERSION

BIN     := $(CURDIR)/bin
TESTBED := $(GO) run ./test/testbed
HELM    := $(CURDIR)/.testbed/bin/helm
CHART   := helm/weftnet

# The race detector needs cgo and a C compiler; without them the same tests run without it.
RACE := $(if $(and $(filter 1,$(shell $(GO) env CGO_ENABLED)),$(shell command -v gcc)),-race)

LDFLAGS := -s -w -X github.com/weftnet/weftnet/version.Version=$(VERSION)

# Packages that have tests behind the build tag $(1).
tagged = $(shell grep -rlE '^//go:build (.* )?$(1)( .*)?$$' --include='*_test.go' . | xargs -r -n1 dirname | sort -u)

##@ Start here

.PHONY: help
help: ## Explain every target (this text).
	@awk 'BEGIN { FS = ":.*## "; print "Usage: make TARGET [NODES=3] [PROXY=kube-proxy|none] [VERSION=dev] [ARGS=...]" } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps ## Build Weftnet, bring up a real cluster, install it, prove that the wire is encrypted. ARGS=--ip-family=ipv4|ipv6.
	$(GO) run ./test/demo --nodes=$(NODES) $(ARGS)

.PHONY: demo-down
demo-down: cluster-down ## End the demo and leave the machine as it was.

##@ Test

.PHONY: test
test: deps ## All of it, stage by stage with timings: unit, cyclonus, verify, netns, apiserver, testbed, a dozen upstream tests, e2e.
	@test/stages.sh $(ARGS)

.PHONY: test-unit
test-unit: ## Plain unit tests: no root, under a minute when warm, with the race detector where gcc is present.
	$(GO) test $(RACE) $(ARGS) $(PKG)

.PHONY: test-cyclonus
test-cyclonus: ## Our judgement of NetworkPolicies against cyclonus's, on its own cases and random ones.
	$(GO) test -C tools/cyclonus -count=1 $(ARGS) ./...

.PHONY: test-netns
test-netns: ## Tests on the real kernel, in network namespaces of their own (root).
	$(GO) test -tags netns -count=1 $(ARGS) $(call tagged,netns)

.PHONY: test-apiserver
test-apiserver: ## Tests against a real etcd and kube-apiserver: schemas, RBAC, admission policy, operator, chart.
	$(GO) test -tags apiserver -count=1 $(ARGS) $(call tagged,apiserver)

.PHONY: test-testbed
test-testbed: ## The testbed's own suite, with a cluster of its own: two ups are one, up and down after a crash, faults, leak audit (root).
	$(GO) test -tags e2e -count=1 -p 1 -timeout 20m $(ARGS) ./test/testbed/...

.PHONY: test-e2e
test-e2e: ## End-to-end suites on the testbed: connectivity, faults, leak audit (root).
	$(GO) test -tags e2e -count=1 -p 1 -timeout 60m -v $(ARGS) ./test/e2e/...

.PHONY: test-first-packet
test-first-packet: ## 201 Pods started under a policy while their addresses are sent to without pause; how soon 201 allowed ones are reached (root).
	$(GO) test -tags e2e,firstpacket -count=1 -timeout 30m -v -run 'NoPacketBeforeThePolicy|OpenSoon' $(ARGS) ./test/e2e/policy

.PHONY: test-rolling
test-rolling: ## 20 Pods roll under 500 requests a second, through the rules and then at the socket: not one may fail (root).
	$(GO) test -tags e2e,rolling -count=1 -timeout 30m -v -run RollingUpdate $(ARGS) ./test/e2e/service
	$(GO) test -tags e2e,rolling -count=1 -timeout 30m -v -run RollingUpdate $(ARGS) ./test/e2e/service -sockets

# What Services mean, which must be the same wherever a connection is balanced.
SEMANTICS := EveryWayIn|ClientAddress|Hairpin|PolicyLocal|Affinity|SourceRanges|NoEndpoint|UnknownPort|LastResort|NamedPorts|Hints|AnotherClass|WhereConnections

.PHONY: test-sockets
test-sockets: ## The tests of what Services mean once more, with TCP connections of Pods and nodes balanced at the socket (root).
	$(GO) test -tags e2e -count=1 -timeout 30m -v -run '$(SEMANTICS)' $(ARGS) ./test/e2e/service -sockets

.PHONY: test-upstream
test-upstream: ## Upstream's own tests, all that this kernel can run: [sig-network], Netpol, ClusterNetworkPolicy; no kube-proxy (root; an hour).
	$(GO) test -C tools/kubernetes ./balancer
	$(GO) run ./test/upstream --nodes=$(NODES) --set=conformance,services,serial,loadbalancer,netpol,cluster-network-policy,zones $(ARGS)

.PHONY: test-cnp
test-cnp: ## The conformance suite of ClusterNetworkPolicy, of its own project, without SCTP; no kube-proxy (root).
	$(GO) run ./test/upstream --nodes=$(NODES) --set=cluster-network-policy $(ARGS)

.PHONY: test-upstream-dozen
test-upstream-dozen: ## The upstream tests that `make test` runs: a dozen of conformance, a dozen of NetworkPolicy (root).
	$(GO) run ./test/upstream --nodes=$(NODES) --set=dozen,netpol-dozen --proxy=$(PROXY) $(ARGS)

.PHONY: test-kernel
test-kernel: ## The kernel WireGuard backend in a virtual machine with a Debian kernel (root, qemu).
	$(TESTBED) deps --for kernel
	$(GO) test -tags kernelvm -count=1 -v -timeout 30m $(ARGS) $(call tagged,kernelvm)

.PHONY: bench
bench: ## Benchmarks against the rivals, as a table with ratios (root).
	$(GO) test -tags bench -count=1 -p 1 -v -timeout 120m $(ARGS) ./test/bench/...

##@ Testbed: a real Kubernetes cluster in network namespaces

.PHONY: cluster-up
cluster-up: ## Bring up a cluster without a network: NODES=3 PROXY=kube-proxy|none.
	$(TESTBED) up --nodes=$(NODES) --proxy=$(PROXY) $(ARGS)

.PHONY: cluster-down
cluster-down: ## Take the cluster down and leave the machine as it was.
	$(TESTBED) down $(ARGS)

.PHONY: deps
deps: ## Debian prerequisites: install them (root on Debian) or list what is missing.
	$(TESTBED) deps

.PHONY: testbed-build
testbed-build: ## Build the testbed's programs and its images (cold: some 25 minutes on 2 cores; cached by version).
	$(TESTBED) build
	$(TESTBED) images testbed

##@ Build

.PHONY: build
build: ## Build Weftnet's binaries, static, into bin/.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weftnet-agent ./agent
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weftnet-operator ./operator
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weftnet-wireguard ./wireguard
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weftnet-cni ./cni
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weft ./cli
	ln -sf weft $(BIN)/kubectl-weft

.PHONY: images
images: ## Write the images as OCI archives into dist/images/.
	$(TESTBED) images

.PHONY: chart
chart: $(HELM) ## Package the chart into dist/.
	$(HELM) package $(CHART) --destination dist

.PHONY: clean
clean: ## Remove bin/ and dist/ (the testbed's cache in .testbed/ stays; `make cluster-down` ends its cluster).
	rm -rf bin dist

##@ Keep it right

.PHONY: generate
generate: $(BIN)/controller-gen generate-bpf ## Write what is generated: deepcopy, CRDs, the chart's copy of them, the compiled eBPF programs.
	$(BIN)/controller-gen object paths=./crds/... crd:crdVersions=v1 output:crd:dir=crds
	mkdir -p $(CHART)/files/crds && rm -f $(CHART)/files/crds/*.yaml && cp crds/*.yaml $(CHART)/files/crds/
	mkdir -p $(CHART)/files/policy-crds && cp -f --no-preserve=mode \
	  "$$($(GO) list -m -f '{{.Dir}}' sigs.k8s.io/network-policy-api)"/config/crd/standard/policy.networking.k8s.io_*.yaml $(CHART)/files/policy-crds/

# The compiled programs are committed, so that nobody needs clang to build the agent. Another version of clang makes another
# object, so only this one writes it; make deps-generate installs it. BTF needs -g; what else -g brings is stripped.
CLANG         ?= clang-14
CLANG_VERSION := 14.0.6
BPF           := agent/kernel/bpf/program/socket agent/kernel/bpf/flow/program/flow

# .BTF.ext tells the kernel's fields that the second program reads; the first reads none.
.PHONY: generate-bpf
generate-bpf: ## Compile the eBPF programs, where clang is there in the version that counts.
	@if $(CLANG) --version 2>/dev/null | grep -q 'clang version $(CLANG_VERSION)'; then \
	  for program in $(BPF); do \
	    $(CLANG) -target bpfel -mcpu=v3 -O2 -g -Wall -Wextra -Werror -ffile-prefix-map=$(CURDIR)=. -fdebug-compilation-dir=. \
	      -I/usr/include/$$(uname -m)-linux-gnu -c $$program.c -o $$program.o && \
	    case $$program in \
	      */flow) llvm-objcopy-14 --strip-debug $$program.o;; \
	      *) llvm-objcopy-14 --strip-debug --remove-section=.BTF.ext --remove-section=.rel.BTF.ext $$program.o;; \
	    esac || exit 1; \
	  done; \
	else echo 'the eBPF programs are left as they are: $(CLANG) $(CLANG_VERSION) is not here (make deps-generate installs it)'; fi

.PHONY: deps-generate
deps-generate: ## Debian prerequisites of make generate: clang, for the eBPF programs.
	$(TESTBED) deps --for generate

.PHONY: lint
lint: $(BIN)/golangci-lint ## golangci-lint with every build tag of the repository.
	$(BIN)/golangci-lint run $(ARGS)

.PHONY: verify
verify: verify-generated vet chart-lint ## gofmt, go vet under every tag, import law, docs, chart lint, generated files up to date.
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	  [ -z "$$unformatted" ] || { printf 'not gofmt-ed (run gofmt -w on them):\n%s\n' "$$unformatted"; exit 1; }
	$(GO) test ./test/importlaw ./test/docs

.PHONY: vet
vet: ## go vet, plain and under each build tag.
	$(GO) vet ./...
	$(GO) vet -tags netns,apiserver,e2e,firstpacket,rolling,bench,kernelvm ./...

.PHONY: verify-generated
verify-generated: ## Fail when `make generate` would change a file.
	@before=$$(cat crds/*.yaml crds/v1alpha1/zz_* $(CHART)/files/crds/*.yaml $(CHART)/files/policy-crds/*.yaml $(BPF:=.o) | sha256sum); \
	  $(MAKE) --no-print-directory generate; \
	  after=$$(cat crds/*.yaml crds/v1alpha1/zz_* $(CHART)/files/crds/*.yaml $(CHART)/files/policy-crds/*.yaml $(BPF:=.o) | sha256sum); \
	  [ "$$before" = "$$after" ] || { echo 'generated files were out of date: `make generate` has now written them, commit them'; exit 1; }

.PHONY: chart-lint
chart-lint: $(HELM) ## helm lint, strict, with the values of each example in helm/weftnet/ci/.
	@for values in $(CHART)/ci/*.yaml; do echo "helm lint with $$values"; $(HELM) lint --strict --quiet $(CHART) -f $$values; done

# Tools are built once per change of their module file.
$(BIN)/controller-gen: tools/dev/go.mod
	$(GO) build -C tools/dev -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen

$(BIN)/golangci-lint: tools/dev/go.mod
	$(GO) build -C tools/dev -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(HELM): tools/helm/go.mod
	CGO_ENABLED=0 $(GO) build -C tools/helm -o $@ helm.sh/helm/v4/cmd/helm
