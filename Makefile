# The words of this house; `make` alone lists them. Nothing needs activating, nothing needs root.
#
#   PYTHON=python3.12     the interpreter to use (3.11 or newer); its venv is VENV
#   SHMFLOW_WERROR=1      compiler warnings are errors
#   SHMFLOW_CI=1          a missing optional tool is an error instead of a `skip:` line
#   ARGS='-k lapped -x'   handed to pytest; DEMO_ARGS, BENCH_ARGS, STORM_ARGS, SOAK_ARGS likewise

PYTHON ?= python3
VENV ?= .venv
CC ?= cc
CXX ?= c++
CROSS_CC ?= aarch64-linux-gnu-gcc
NUMPY ?= numpy
DEMO_ARGS ?=
BENCH_ARGS ?=
STORM_ARGS ?=
SOAK_ARGS ?=
KILL_ARGS ?=
FUZZ_ARGS ?=
EVIL_ARGS ?=
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -q
PYTEST := $(BIN)/pytest

core_c := $(sort $(wildcard src/os/*.c src/core/*.c))
headers := $(sort $(wildcard src/*/*.h))
c_sources := $(sort $(wildcard src/*/*.c)) $(headers)
package := $(shell find shmflow -name '*.py' -o -name '*.pyi' -o -name py.typed -o -name 'page.*' 2>/dev/null | sort)
ctests := $(sort $(wildcard tests/core/test_*.c))

# $(call skip,what and why)
skip = if [ "$$SHMFLOW_CI" = 1 ]; then echo "error: $(1)" >&2; exit 1; else echo "skip: $(1)"; fi

# $(call stages,word word ...): run each, and note how long it took
define stages
@mkdir -p build; $(call each,$(1))
endef
each = for stage in $(1); do start=$$(date +%s); $(MAKE) $$stage || exit 1; \
    echo "$$stage $$(( $$(date +%s) - start ))" >> build/times.txt; done
# $(call lanes,words,words): the ones beside the others, where each waits as much as it computes
define lanes
@mkdir -p build; ( $(call each,$(1)) ) & ( $(call each,$(2)) ); status=$$?; wait $$! && exit $$status
endef

## help: this list
.PHONY: help
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' Makefile | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

# ---- what every word stands on: a usable interpreter, a compiler, a venv -----------------------

define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("shmflow needs Python 3.11 or newer, this is %d.%d: try make PYTHON=python3.12"
             % sys.version_info[:2])
import os, sysconfig
try:
    import venv, ensurepip
except ImportError:
    sys.exit("this Python has no venv: install python3-venv (Debian, Ubuntu) or another Python")
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    sys.exit("this Python has no Python.h: install python3-dev (python3-devel) or another Python")
endef
export CHECK_PYTHON

# Prints the requirements of one extra, so that they can be installed without the package.
define EXTRA
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print(*project["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
endef
export EXTRA

.PHONY: check-tools
check-tools:
	@command -v $(firstword $(PYTHON)) >/dev/null || \
	    { echo "no $(PYTHON) found: shmflow needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@command -v $(firstword $(CC)) >/dev/null || \
	    { echo "no C compiler ($(CC)) found: install gcc or clang" >&2; exit 1; }

$(VENV)/.stamp-venv: pyproject.toml setup.py
	@$(MAKE) check-tools
	@echo "== $(VENV): a venv of $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install 'setuptools>=77' '$(NUMPY)' 'click>=8'
	@touch $@

$(VENV)/.stamp-%: $(VENV)/.stamp-venv
	@echo "== $(VENV): what the extra '$*' asks for"
	@$(BIN)/python -c "$$EXTRA" $* > $(VENV)/$*.txt && $(PIP) install -r $(VENV)/$*.txt '$(NUMPY)'
	@touch $@

# What the extension was compiled with; when that changes, everything is compiled again.
switches := $(SHMFLOW_WERROR)/$(SHMFLOW_DEBUG)/$(SHMFLOW_SANITIZE)/$(SHMFLOW_COVERAGE)/$(CC)/$(CFLAGS)
$(VENV)/.switches: $(VENV)/.stamp-venv FORCE
	@echo '$(switches)' | cmp -s - $@ || { rm -rf $(VENV)/.build; echo '$(switches)' > $@; }
.PHONY: FORCE
FORCE:

# pip builds from this directory into VENV/.build; all but the extension is copied there anew.
# NumPy 1.26 at run time still is NumPy 2 at build time: then pip makes a build environment.
isolation = $(if $(findstring 1.26,$(NUMPY)),,--no-build-isolation)
$(VENV)/.stamp-installed: $(VENV)/.switches $(c_sources) $(package)
	@test -d src || { echo "there is no src/ here" >&2; exit 1; }
	@echo "== $(VENV): shmflow"
	@mkdir -p $(VENV)/.build
	@find $(VENV)/.build -type f ! -name '*.so' ! -name '*.o' -delete
	@printf '[build]\nbuild_base = %s\n[egg_info]\negg_base = %s\n' \
	    '$(abspath $(VENV))/.build' '$(abspath $(VENV))/.build' > $(VENV)/build.cfg
	@DIST_EXTRA_CONFIG=$(abspath $(VENV))/build.cfg \
	    $(PIP) install --no-deps --force-reinstall $(isolation) .
	@touch $@

## demo: video through shared memory, with a reader that dies and one that hoards
.PHONY: demo
demo: $(VENV)/.stamp-demo $(VENV)/.stamp-installed
	@$(BIN)/shmflow demo $(DEMO_ARGS)

# ---- tests -------------------------------------------------------------------------------------

## test: everything: C tests, Python tests, models, aarch64, an sdist, the other Pythons
.PHONY: test
test:
	$(call lanes,environment,test-c)
	$(call stages,test-python test-parallel test-hostile)
	$(call lanes,test-pythons,model cross sdist)

.PHONY: environment
environment: $(VENV)/.stamp-test $(VENV)/.stamp-lint $(VENV)/.stamp-installed

## test-quick: the C tests and the Python tests that are not slow
.PHONY: test-quick
test-quick: test-c
	@$(MAKE) test-python ARGS='-m "not slow" $(ARGS)'

extra ?= test
.PHONY: test-python
test-python: $(VENV)/.stamp-$(extra) $(VENV)/.stamp-installed
	$(PYTEST) -q -n 3 --dist loadfile --ignore=tests/lint $(ARGS)

# Each test in four threads at a time, each thread with a topic of its own: what they share is the module.
parallel := $(addprefix tests/api/test_,threads.py loan_shorter.py message.py)

## test-parallel: tests that are run by four threads at a time
.PHONY: test-parallel
test-parallel: $(VENV)/.stamp-test $(VENV)/.stamp-installed
	$(PYTEST) -q -p no:xdist --parallel-threads=4 $(parallel) $(ARGS)

# Python code in every collection, and collections all the time, while threads are at it.
## test-hostile: the tests of threads, with a collector that runs Python code all the time
.PHONY: test-hostile
test-hostile: $(VENV)/.stamp-test $(VENV)/.stamp-installed
	HOSTILE=1 $(PYTEST) -q -n 2 --dist loadfile $(addprefix tests/api/test_,threads.py records.py) $(ARGS)

strict := -std=c11 -Wall -Wextra -Wconversion -Wshadow -Wmissing-prototypes -D_GNU_SOURCE -pthread \
    $(if $(SHMFLOW_WERROR),-Werror)
relaxed := $(filter-out -Wconversion -Wmissing-prototypes,$(strict)) \
    -Werror=incompatible-pointer-types -Werror=implicit-function-declaration

# They wait more than they compute: two programs at a time, each one's words kept together.
jobs ?= 3

# $(call variant,name,compiler,flags,link flags): the core's objects and one program per C test,
# in build/ctests/name. Tests named *_points get a core with a failpoint after every shared store.
define variant
build/ctests/$(1)/obj/%.o: src/%.c
	@mkdir -p $$(@D)
	@$(2) $$(strict) $(3) -fvisibility=hidden -Isrc -MMD -MP -c -o $$@ $$<
build/ctests/$(1)/%: tests/core/%.c $$(core_c:src/%.c=build/ctests/$(1)/obj/%.o)
	@$(2) $$(relaxed) $(3) -Isrc -Itests/core -MMD -MP -MF $$@.d -o $$@ $$(filter %.c %.o,$$^) $(4)
build/ctests/$(1)/obj-points/%.o: src/%.c
	@mkdir -p $$(@D)
	@$(2) $$(strict) $(3) -DSF_FAILPOINTS -fvisibility=hidden -Isrc -MMD -MP -c -o $$@ $$<
$$(filter %_points,$$(ctests:tests/core/%.c=build/ctests/$(1)/%)): build/ctests/$(1)/%: tests/core/%.c $$(core_c:src/%.c=build/ctests/$(1)/obj-points/%.o)
	@$(2) $$(relaxed) $(3) -DSF_FAILPOINTS -Isrc -Itests/core -MMD -MP -MF $$@.d -o $$@ $$(filter %.c %.o,$$^) $(4)
.PRECIOUS: build/ctests/$(1)/obj/%.o build/ctests/$(1)/obj-points/%.o
.PHONY: ctests-$(1)
ctests-$(1): $$(filter-out $$(left_out),$$(ctests:tests/core/%.c=build/ctests/$(1)/%))
	@test -n "$$(ctests)" || echo "there are no tests in tests/core"
	@printf '%s\n' $$^ | xargs -P $$(jobs) -I{} bash -c \
	    'said=$$$$($$(run) ./{} $$(CTEST_ARGS) 2>&1); status=$$$$?; printf "%s\n" "$$$$said"; exit $$$$status'
-include $$(wildcard build/ctests/$(1)/obj*/*/*.d build/ctests/$(1)/*.d)
endef
$(eval $(call variant,plain,$$(CC),-O2 -g -DSF_DEBUG=1))
$(eval $(call variant,asan,$$(CC),-O1 -g -DSF_DEBUG=1 -fsanitize=address$$(comma)undefined \
    -fno-sanitize-recover=all -fno-omit-frame-pointer))
$(eval $(call variant,tsan,$$(CC),-O1 -g -fsanitize=thread))
$(eval $(call variant,aarch64,$$(CROSS_CC),-O3,-static))
comma := ,

## test-c: the tests of the core alone, without Python
.PHONY: test-c
test-c: ctests-plain

## test-pythons: 3.12 with NumPy 1.26 and 3.13, where found: the tests of what differs between them
# Built with invariant checks, which also builds faster.
.PHONY: test-pythons
test-pythons:
	@$(MAKE) on-python VERSION=3.12 NUMPY='numpy==1.26.*' differs='$(numpys)'
	@$(MAKE) on-python VERSION=3.13 differs='$(interpreters)'

# What an interpreter can make a difference to, and what a NumPy can.
interpreters := $(addprefix tests/api/test_,arguments.py asyncio.py batches.py errors.py fileno.py help.py \
    inputs.py loan.py message.py out_of_memory.py read.py reference_leaks.py threads.py \
    topic_object.py topic_reentry.py write.py) \
    $(addprefix tests/process/test_,exit.py fork.py fork_within.py start_methods.py)
numpys := $(addprefix tests/api/test_,inputs.py arguments.py write.py read.py loan.py \
    message.py)

# The first candidate that runs: a pyenv shim may exist and yet not run.
.PHONY: on-python
on-python:
	@python=; for p in python$(VERSION) $(HOME)/.pyenv/versions/$(VERSION).*/bin/python$(VERSION); do \
	    if "$$p" -c 'import venv' 2>/dev/null; then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then $(call skip,Python $(VERSION) (not found)); \
	else echo "== Python $(VERSION), $(NUMPY)"; \
	    $(MAKE) test-python PYTHON="$$python" VENV='build/venvs/$(VERSION)' extra=other SHMFLOW_DEBUG=1 \
	        ARGS='-m "not slow" $(differs) $(ARGS)'; fi

## free-threaded: the tests of tests/api and tests/process on a CPython without a GIL, built for that
# The interpreter and the venv are kept in a cache folder: tests/freethreaded/interpreter says where.
.PHONY: free-threaded
free-threaded:
	@python=$$(tests/freethreaded/interpreter) && \
	    $(MAKE) test-python PYTHON="$$python" VENV="$${python%/bin/*}/venv" NUMPY='numpy==2.4.*' extra=freethreaded \
	        SHMFLOW_DEBUG=1 ARGS='-m "not slow" tests/api tests/process $(ARGS)'

## cross: the core compiled for aarch64, its tests run under qemu
# Left out: what an emulator cannot show (the order of memory), or shows like any machine (faults).
.PHONY: cross
cross:
	@if ! command -v $(CROSS_CC) >/dev/null; then $(call skip,cross (no $(CROSS_CC))); \
	else qemu=$$(command -v qemu-aarch64 qemu-aarch64-static | head -1); \
	    if [ -n "$$qemu" ]; then CHECK_TIMEOUT_S=300 CHECK_EMULATED=1 $(MAKE) ctests-aarch64 run="$$qemu" \
	        left_out='%/test_litmus %/test_space_model %/test_rebuild_points %/test_cleaning_points $(addprefix %/test_faults_,$(addsuffix _points,create names flow join public))'; \
	    else $(MAKE) ctests-aarch64 run='@true' && $(call skip,C tests on aarch64 (no qemu-aarch64)); \
	    fi; fi

## asan: C tests and all Python tests with the address and undefined-behaviour sanitizers
.PHONY: asan
asan: export ASAN_OPTIONS := detect_leaks=0:abort_on_error=0:handle_segv=0:use_sigaltstack=0
asan: export UBSAN_OPTIONS := halt_on_error=1:print_stacktrace=1
asan:
	@ASAN_OPTIONS=detect_leaks=1 $(MAKE) ctests-asan
	@$(MAKE) build/venvs/asan/.stamp-test build/venvs/asan/.stamp-installed VENV=build/venvs/asan \
	    SHMFLOW_SANITIZE=address,undefined SHMFLOW_DEBUG=1
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    PYTHONMALLOC=malloc build/venvs/asan/bin/pytest -q -n 2 --dist loadfile --timeout 600 --ignore=tests/lint $(ARGS)

## tsan: C tests with the thread sanitizer
# Without address randomisation: older sanitizers know only some of the layouts newer kernels use.
# Left out: the injected faults' own counters, which threads of the core pass by.
.PHONY: tsan
tsan: export TSAN_OPTIONS ?= halt_on_error=1
tsan:
	@CHECK_TIMEOUT_S=300 $(MAKE) ctests-tsan left_out=build/ctests/tsan/test_faults_public_points run='setarch $(shell uname -m) -R'

## weaken: one memory order after the other is weakened; the thread sanitizer must find each
.PHONY: weaken
weaken:
	@CC='$(CC)' tests/core/weaken

## valgrind: C tests under memcheck
# One thread runs at a time there: tests that race take their time. Leaks are for `make asan`: here
# each forked child that ends by _exit would be told for what its parent has on the stack. Two
# invalid writes are told: of test_fork.c's children, which touch on purpose what was taken away.
.PHONY: valgrind
valgrind:
	@command -v valgrind >/dev/null || { echo "no valgrind found" >&2; exit 1; }
	@CHECK_TIMEOUT_S=900 $(MAKE) ctests-plain run='valgrind -q --error-exitcode=9 --fair-sched=yes --leak-check=no'

# ---- long attacks; each has a quick form among the tests ----------------------------------------

MODEL ?= quick
## model: the protocols as Promela models, verified exhaustively; MODEL=full, MODEL=broken
.PHONY: model
model:
	@if command -v spin >/dev/null; then $(PYTHON) tests/model/run $(MODEL); \
	else $(call skip,models (no spin)); fi

kill_c := $(sort $(wildcard tests/kill/*.c))
build/kill-matrix: $(kill_c) $(wildcard tests/kill/*.h) $(core_c) $(headers)
	@mkdir -p build
	@$(CC) $(relaxed) -O2 -g -DSF_FAILPOINTS -DSF_DEBUG=1 -Isrc -o $@ $(kill_c) $(core_c)

## kill: a death at every point of every operation, and a second one at every point of the recovery
.PHONY: kill
kill: build/kill-matrix
	@build/kill-matrix --all --jobs 2 $(KILL_ARGS)

KILLS ?= 5000
storm_c := $(sort $(wildcard tests/storm/*.c))
build/storm: $(storm_c) $(wildcard tests/storm/*.h) $(core_c) $(headers)
	@mkdir -p build
	@$(CC) $(relaxed) -O2 -g -Isrc -o $@ $(storm_c) $(core_c)

## storm: writers and readers killed at random, KILLS=20000; STORM_ARGS='--stop', '--lossless'
.PHONY: storm
storm: build/storm
	@build/storm --kills $(KILLS) $(STORM_ARGS)

## fuzz: spoilt segments: corpus, live mutator, damaged messages; EXECUTIONS=20000000: libFuzzer
# The latter needs clang and its runtime (Debian: clang, libclang-rt-14-dev).
.PHONY: fuzz
fuzz: $(VENV)/.stamp-installed
	@PYTHON=$(BIN)/python CC='$(CC)' tests/fuzz/run \
	    $(if $(EXECUTIONS),long EXECUTIONS=$(EXECUTIONS),quick)

## fuzz-api: random calls of the Python interface in threads and processes, MINUTES=20; FUZZ_ARGS='--seed 7'
.PHONY: fuzz-api
fuzz-api: $(VENV)/.stamp-installed
	@$(BIN)/python tests/fuzz/fuzz_api.py --minutes $(MINUTES) $(FUZZ_ARGS)

MINUTES ?= 5
## fuzz-evil: arguments that do harm while a call looks at them, over every public call; MINUTES=30
.PHONY: fuzz-evil
fuzz-evil: $(VENV)/.stamp-installed
	@$(BIN)/python tests/fuzz/fuzz_evil.py --minutes $(MINUTES) $(EVIL_ARGS)

## soak: many millions of messages while others come and go, MINUTES=60; nothing may grow
.PHONY: soak
soak: $(VENV)/.stamp-installed
	@$(BIN)/python tests/storm/soak.py --minutes $(MINUTES) $(SOAK_ARGS)

## bench: shmflow beside its peers (half an hour), with tables and pictures in build/bench; BENCH_ARGS
.PHONY: bench
bench: $(VENV)/.stamp-bench $(VENV)/.stamp-installed
	@$(BIN)/python benchmarks/run.py --plots build/bench $(BENCH_ARGS)

## bench-quick: the same in two minutes, with the fewest sizes
.PHONY: bench-quick
bench-quick: $(VENV)/.stamp-bench $(VENV)/.stamp-installed
	@$(BIN)/python benchmarks/run.py --quick --plots build/bench $(BENCH_ARGS)

NEW ?= build/bench/results.json
## bench-check: what got worse from one run to another, OLD=before.json, NEW=build/bench/results.json
.PHONY: bench-check
bench-check: $(VENV)/.stamp-venv
	@test -n "$(OLD)" || { echo "make bench-check OLD=before.json NEW=after.json" >&2; exit 2; }
	@$(BIN)/python benchmarks/compare.py '$(OLD)' '$(NEW)' $(BENCH_ARGS)

# ---- the source itself -------------------------------------------------------------------------

## lint: formats, types, stubs, warnings, header in C and C++, rules of the house
.PHONY: lint
lint:
	$(call stages,lint-format lint-types lint-c lint-rules)

.PHONY: lint-format
lint-format: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(wildcard src/*/*.[ch] tests/*/*.[ch])

# From an empty directory, for else mypy reads the checkout and stubtest imports from it.
.PHONY: lint-types
lint-types: $(VENV)/.stamp-lint $(VENV)/.stamp-installed
	@mkdir -p build/lint
	cd build/lint && $(abspath $(BIN))/stubtest --concise --ignore-disjoint-bases \
	    --mypy-config-file ../../pyproject.toml --allowlist ../../tests/lint/stubtest.allow \
	    shmflow
	cd build/lint && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p shmflow

header_check := -Isrc -fsyntax-only -Wall -Wextra -pedantic -Werror
.PHONY: lint-c
lint-c: $(VENV)/.stamp-venv
	@mkdir -p build/lint
	@for file in $(core_c); do \
	    $(CC) $(filter-out -Werror,$(strict)) -Werror -O3 -Isrc -c -o build/lint/object.o $$file || exit 1; done
	echo '#include "core/shmflow.h"' | $(CC) -std=c11 $(header_check) -x c -
	@if command -v $(CXX) >/dev/null; then set -x; \
	    echo '#include "core/shmflow.h"' | $(CXX) -std=c++11 $(header_check) -x c++ -; \
	else $(call skip,the public header as C++ (no $(CXX))); fi
	SHMFLOW_WERROR=1 $(BIN)/python setup.py -q build_ext --build-temp build/lint/py --build-lib build/lint/py
	@for header in $(HOME)/.pyenv/versions/3.1[3-9].*/include/python3.1[3-9]/Python.h; do \
	    test -e "$$header" || break; echo "== the extension without a GIL: $${header%/*}"; \
	    $(CC) $(filter-out -Werror,$(strict)) -Werror -Isrc -fsyntax-only -DPy_GIL_DISABLED=1 \
	        -isystem "$${header%/*}" -isystem "$$($(BIN)/python -c 'import numpy; print(numpy.get_include())')" \
	        -DNPY_NO_DEPRECATED_API=NPY_1_25_API_VERSION -DNPY_TARGET_VERSION=NPY_1_25_API_VERSION \
	        $(sort $(wildcard src/python/*.c)) || exit 1; break; done

.PHONY: lint-rules
lint-rules: $(VENV)/.stamp-lint $(VENV)/.stamp-installed
	$(PYTEST) -q tests/lint

## sdist: a source archive, and a wheel built from that alone
.PHONY: sdist
sdist: $(VENV)/.stamp-lint
	@rm -rf build/sdist && mkdir -p build/sdist dist
	@printf '[build]\nbuild_base = %s\n[egg_info]\negg_base = %s\n' \
	    '$(abspath build)/sdist/base' '$(abspath build)/sdist' > build/sdist/build.cfg
	@DIST_EXTRA_CONFIG=$(abspath build)/sdist/build.cfg \
	    $(BIN)/python -m build --sdist --no-isolation -o dist . > build/sdist/log 2>&1 || { cat build/sdist/log; exit 1; }
	@$(PIP) wheel --no-deps --no-build-isolation -w build/sdist dist/shmflow-*.tar.gz
	@ls dist/shmflow-*.tar.gz build/sdist/shmflow-*.whl

## format: what lint-format asks for
.PHONY: format
format: $(VENV)/.stamp-lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard src/*/*.[ch] tests/*/*.[ch])

## clean: removes what these words made
.PHONY: clean
clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
