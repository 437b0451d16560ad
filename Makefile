# SPDX-License-Identifier: GPL-2.0
#
# Ferry. "make help" lists the targets; Kbuild builds the module.

.NOTPARALLEL:
.DEFAULT_GOAL := $(if $(KDIR),modules,help)

export KSRC KDIR V JOBS SIGNOFF

top := $(CURDIR)
in_env := scripts/env run
module = scripts/kernel make $(1) --no-print-directory M=$(top) MO=$(top)/build/module-$(1)
cargo_bench = cargo build -q --release --locked --manifest-path tests/bench/Cargo.toml --target-dir build/bench

help: ## this list
	@echo "Ferry: batched page migration for Linux"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 18
	@echo
	@echo "KSRC=<tree>   kernel source to use in place of Debian's package"
	@echo "KDIR=<tree>   built kernel tree for a plain out-of-tree build of the module"
	@echo "V=1           show what is run;  JOBS=n  parallel jobs (default: all CPUs)"

demo: kernel module bench-tools ## build everything, boot it, migrate memory and show the figures
	@$(in_env) scripts/demo

devices: env ## the models of DMA engines (build/devices)
	@$(in_env) cargo build -q --release --locked --manifest-path tests/devices/Cargo.toml --target-dir build/devices

dmaclient: kernel ## modules for the tests of drivers of DMA engines (build/drivers-base)
	@scripts/dma-drivers base

dmaclient-debug: kernel-debug ## the same for the debug kernel (build/drivers-debug)
	@scripts/dma-drivers debug

bench: kernel module devices bench-tools ## the demo's long form: workers, batch limits, a busy machine, engines (35 minutes)
	@$(in_env) scripts/bench

results: env ## the figures in the documents, from the result files; NAMES="bench native" takes those of build/results first
	@$(in_env) scripts/results $(NAMES)

soak: kernel module kernel-debug module-debug selftests ## 30 minutes of migration on the plain kernel, 8 with kmemleak: nothing lost, nothing leaked
	@$(in_env) scripts/soak

check: kernel module kernel-debug module-debug selftests devices dmaclient dmaclient-debug bench-tools ## all tests; ends with "N passed, N failed, N skipped"
	@$(in_env) scripts/check --base --devices --debug-short

check-quick: kernel module selftests devices ## tests to pass before a change is sent: 10 minutes from a built tree
	@$(in_env) scripts/check --quick

check-debug: kernel-debug module-debug selftests devices dmaclient-debug ## the whole test set on the debug kernel (KASAN, lockdep, ...)
	@$(in_env) scripts/check --debug --devices-debug

kernel: env ## the patched kernel (build/kernel-base)
	@scripts/kernel build base

kernel-debug: env ## the same with KASAN, lockdep and the like (build/kernel-debug)
	@scripts/kernel build debug

kernel-um: env ## the kernel as a user process (build/kernel-um)
	@scripts/kernel build um

kernel-cfi: env ## the same with CONFIG_CFI (build/kernel-cfi)
	@scripts/kernel build cfi

kernel-rt: env ## the same with PREEMPT_RT and tracers of latency (build/kernel-rt)
	@scripts/kernel build rt

module: kernel ## ferry.ko for it (build/module-base)
	@$(call module,base) modules

module-debug: kernel-debug ## ferry.ko for the debug kernel (build/module-debug)
	@$(call module,debug) modules

module-cfi: kernel-cfi ## ferry.ko for the kernel with CONFIG_CFI (build/module-cfi)
	@$(call module,cfi) modules

module-rt: kernel-rt ## ferry.ko for the kernel with PREEMPT_RT (build/module-rt)
	@$(call module,rt) modules

module-um: kernel-um ## ferry.ko for the kernel as a user process (build/module-um)
	@$(call module,um) modules

selftests: kernel ## the programs of tests/selftests (build/selftests)
	@$(in_env) $(MAKE) -s --no-print-directory -C tests/selftests KSRC=$(top)/build/linux OUTPUT=$(top)/build/selftests

bench-tools: env ## the benchmark and plot programs (build/bench)
	@$(in_env) $(cargo_bench)

bench-native: kernel-um module-um bench-tools ## copying at the machine's own speed, without a VM
	@scripts/bench-native

host-tests: env ## the tests that need no kernel, model checking included
	@$(in_env) scripts/check --host

objcheck: kernel ## with CONFIG_MIGRATE_COPY=n, mm/migrate.o is the stock one
	@scripts/objcheck

lint: module ## rustfmt, layers, docs, width, clippy, types for CFI, checkpatch, shellcheck: no warning from any
	@$(in_env) scripts/lint

shell: kernel module ## a shell in a guest with two nodes
	@scripts/vm --shell

env: ## the build environment: the host's tools, or a Debian root in build/root
	@scripts/env ensure

series-test: env ## cut the series of kernel patches after each: check that it builds, boots and migrates (hours)
	@$(in_env) scripts/series-test

series: ## the kernel patches as mails, a folder for each series (build/series)
	@scripts/kernel fetch && scripts/kernel patch && scripts/kernel series

patch-kernel: ## put the kernel patches on a tree of your own: make KSRC=<tree> patch-kernel
	@$(if $(KSRC),,echo "error: no kernel tree named: make KSRC=<tree> patch-kernel" >&2; exit 1)
	@scripts/kernel apply "$(KSRC)"

modules: ## the module for a kernel of your own: make KDIR=<built tree>
	@$(if $(KDIR),,echo "error: no kernel named: make KDIR=<built tree>, or make module" >&2; exit 1)
	@test -e "$(KDIR)/Module.symvers" || { echo "error: $(KDIR) is no built kernel tree (no Module.symvers): build it there first" >&2; exit 1; }
	@grep -qs '^CONFIG_MIGRATE_COPY=y' "$(KDIR)/.config" || { echo "error: $(KDIR) is not configured with CONFIG_MIGRATE_COPY=y: patch it with make KSRC=<tree> patch-kernel, configure and build it" >&2; exit 1; }
	@mkdir -p build/module
	$(MAKE) -C "$(KDIR)" M=$(top) MO=$(top)/build/module modules
	@echo "built: build/module/ferry.ko"

clean: ## remove what was built, but for the kernels and the build root
	rm -rf build/series-test build/module build/module-base build/module-debug build/module-cfi build/module-cfi-types build/module-rt build/module-um build/module-clippy build/selftests build/bench build/bench-native build/devices build/drivers-base build/drivers-debug build/target build/objcheck build/series build/check build/vm

distclean: ## remove build/
	rm -rf --one-file-system build

.PHONY: help devices dmaclient dmaclient-debug demo check check-quick check-debug kernel kernel-debug kernel-cfi kernel-rt kernel-um module \
	module-cfi module-rt \
	module-debug module-um selftests soak bench bench-tools bench-native results host-tests \
	objcheck lint shell env series series-test patch-kernel modules clean distclean
