# SPDX-License-Identifier: GPL-2.0-or-later
#
# A short front door; the build itself is meson's. `make help` lists the targets.

BUILD ?= build
PREFIX ?= $(or $(prefix),/usr/local)
T ?= 60
S ?= 1
MESON_FLAGS ?=

.DEFAULT_GOAL := all
.PHONY: all demo test torture check-asan check-tsan check-valgrind fuzz bench tidy format install uninstall clean help
.NOTPARALLEL:

all: $(BUILD)/build.ninja ## the programs and the library, in build/
	@ninja -C $(BUILD)

$(BUILD)/build.ninja: packages
	@scripts/deps build
	@if [ -e $@ ]; then touch $@; else meson setup $(BUILD) $(MESON_FLAGS); fi

demo: all ## a real folder doing the main job on real input
	@scripts/deps build test
	@KSHARED_BUILD=$(abspath $(BUILD)) scripts/demo

test: all ## every test, with one line for each file of tests
	@scripts/deps build test
	@KSHARED_BUILD=$(abspath $(BUILD)) tests/run $(TESTS)

torture: all ## ten minutes of merging memory while everything is done to it and everybody killed
	KSHARED_TORTURE_S=600 $(BUILD)/tests/unit/test_merge_torture

check-asan: ## unit tests and cases under the address and undefined behaviour sanitizers
	@scripts/deps build test
	@tests/run --sanitize asan $(TESTS)

check-tsan: ## unit tests and cases under the thread sanitizer
	@scripts/deps build test
	@tests/run --sanitize tsan $(TESTS)

check-valgrind: ## unit tests and cases under valgrind
	@scripts/deps build test
	@tests/run --sanitize valgrind $(TESTS)

fuzz: ## every fuzz target for T= seconds (60), from seed S= (1)
	@scripts/deps build test
	@tests/fuzz/run --seconds $(T) --seed $(S)

bench: all ## the benchmarks, each beside its peers
	@scripts/deps build test bench
	@meson setup --reconfigure $(BUILD) >/dev/null # finds the peers' libraries that have just been installed
	@ninja -C $(BUILD)
	@KSHARED_BUILD=$(abspath $(BUILD)) bench/run

tidy: all ## clang-tidy over the C sources
	@scripts/deps build test
	@find src -name '*.c' ! -name '*.bpf.c' | sort | xargs -P 2 -n 1 clang-tidy --quiet -p $(BUILD)

format: ## clang-format over the C sources and headers
	@scripts/deps build test
	@git ls-files -co --exclude-standard '*.c' '*.h' '*.cc' | xargs -r clang-format -i

install: ## into PREFIX= (/usr/local), below DESTDIR= if given
	@[ -e $(BUILD)/build.ninja ] || $(MAKE) all
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@ninja -C $(BUILD)
	@meson install -C $(BUILD) --no-rebuild
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || ldconfig

uninstall: ## what the last install put in place
	@ninja -C $(BUILD) uninstall
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || ldconfig

clean: ## remove every build directory
	rm -rf $(BUILD) build-asan build-tsan build-valgrind build-fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
