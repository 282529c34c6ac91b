# SPDX-License-Identifier: Apache-2.0
#
# make up       build skep, start a local cluster, run examples/hello on it
# make test     everything that proves it works (root; starts a cluster of its own)
# make down     remove the local cluster
# make build    bin/skep
# make generate what is generated from bpf/ and from the API types (needs clang-19)
# make check    formatting, vet, staticcheck, import rules
# make test-kernel  load every BPF program on Linux 5.10 in a virtual machine
# make test-long    a million random policy cases, every mutant, more swaps and kills, more truth tables of SCTP: about an hour
# make bench    measure a cluster of its own

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: up down build generate check test test-kernel test-long bench deps deps-gen deps-kernel

# The version that clients see: the Kubernetes release whose API is served, and skep's own after the plus.
VERSION     := v1.37.2+skep1
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

commit  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
tree    := $(shell test -z "$$(git status --porcelain --untracked-files=no 2>/dev/null)" && echo clean || echo dirty)
# The commit's date and not the clock's, so that the same tree gives the same binary.
date    := $(shell TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)
v       := k8s.io/component-base/version
ldflags := -s -w -X $(v).gitVersion=$(VERSION) -X $(v).gitMajor=1 -X $(v).gitMinor=37 \
           -X $(v).gitCommit=$(commit) -X $(v).gitTreeState=$(tree) -X $(v).buildDate=$(date)

export CGO_ENABLED := 0
# One set of flags for build, vet and test, or a cold cache is filled twice.
export GOFLAGS := $(strip $(shell go env GOFLAGS) -trimpath)

build:
	go build -ldflags "$(ldflags)" -o bin/skep ./cmd/skep

up: deps build
	bin/skep up
	go run ./examples/hello/image -o bin/hello.tar
	bin/skep image load bin/hello.tar
	bin/skep --context skep-skep apply -f examples/hello
	bin/skep --context skep-skep -n hello rollout status deployment/hello deployment/front --timeout 60s
	@cat examples/hello/next.txt

down: build
	bin/skep down

generate: deps-gen
	go generate ./...

check:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go test ./tests/arch

# Packages that start clusters or machines of their own, or measure, run one after another; the rest side by side.
serial   := skep.dev/skep/tests/cluster skep.dev/skep/tests/kernel
parallel = $$(go list ./... | grep -v -x $(addprefix -e ,$(serial)))

test: deps deps-gen deps-kernel build
	@test "$$(id -u)" = 0 || { echo "make test needs root: it makes network namespaces, loads BPF and starts containers"; exit 1; }
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go test $(parallel)
	go test -count=1 -p 1 -timeout 15m $(serial)

test-kernel: deps-kernel
	go test -count=1 -v -timeout 15m ./tests/kernel

test-long: deps deps-gen deps-kernel
	SKEP_POLICY_CASES=1000000 go test -count=1 -timeout 2h -v -run '^TestRandom' ./tests/policy
	go test -count=1 -timeout 3h -v -run '^TestABroken' ./tests/policy -mutate
	SKEP_SWAPS=10000 SKEP_KILLS=200 go test -count=1 -timeout 2h -run 'Swapped|Killed' ./tests/datapath
	SKEP_SCTP_CASES=all go test -count=1 -timeout 2h -v ./tests/kernel

bench: deps build
	go test -run '^$$' -bench . ./tests/datapath ./tests/policy
	go run ./tests/bench

deps:
	scripts/deps.sh run test

deps-gen:
	scripts/deps.sh gen

deps-kernel:
	scripts/deps.sh kernel
	tests/kernel/fetch.sh >/dev/null
