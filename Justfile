# What is done with this tree, a line each. `just` lists it; .ci/run does the same without just.

_list:
    @just --list --unsorted

# the tool, with the guest kernel in it
build:
    cargo build --release --locked

# the tool without KVM and without the guest kernel: it reads what is stored, and starts no VM
build-without-kvm:
    cargo build --release --locked --no-default-features

# what a fresh machine with /dev/kvm can test
test *ARGS:
    cargo test --locked --workspace {{ARGS}}

# the half that needs no KVM, built without any
test-without-kvm:
    .ci/run without_kvm

# only the tests that run VMs on this machine's /dev/kvm
test-live *ARGS:
    cargo test --locked -p nmiscope-vmm --test live {{ARGS}}
    cargo test --locked --test end_to_end {{ARGS}} -- live:: accuracy:: arguments:: capture:: random_moments:: hostile_detector:: hostile_guest:: report:: sign_of_life:: signatures:: stepping:: tasks:: terminal:: verdicts::

# the same beside 16 busy processes, or as of the script: `just under-load 32 verdicts::`
under-load *ARGS:
    tests/under-load.sh {{ARGS}}

# pages in Chromium, with an accessibility checker and a validator of npm
test-browser *ARGS:
    tests/browser/packages.sh
    cargo test --locked --test end_to_end {{ARGS}} -- --ignored browser::

# the pictures of docs/images, made anew in Chromium
screenshots:
    tests/browser/screenshots.sh

# the tests that need a program a fresh machine lacks: QEMU, gdb, gcc, llvm-symbolizer, Chromium
test-ignored:
    tests/browser/packages.sh
    tests/linux_guest/kernel.sh
    tests/linux_guest/drgn.sh
    cargo test --locked --workspace --tests -- --ignored --skip debug_vmlinux

# Linux guests with the kernels of Debian 12 and 13, as CI runs them
linux:
    .ci/run linux

# the same on more kernels, some of them built here, and beside QEMU, nm, pahole and drgn: prints a table
linux-matrix *KERNELS:
    tests/linux_guest/matrix.sh {{KERNELS}}
    tests/linux_guest/kernel.sh -d bookworm trixie
    tests/linux_guest/check.sh target/linux/bookworm target/linux/trixie

# the live tests on a standard KVM, inside a QEMU TCG machine; arguments as of the script
test-nested *ARGS:
    tests/nested/run.sh {{ARGS}}

# make the cores of tests/offline and the reports expected of them anew, on this machine's /dev/kvm
offline-cores:
    tests/offline/make.sh

# make those of Linux guests anew, with the kernels that `just linux-logs WORK` has left; root
offline-linux WORK:
    tests/offline/linux/make.sh {{quote(WORK)}}

# the printk protocol, in every interleaving that loom can think of
loom:
    RUSTFLAGS="--cfg loom" cargo test --locked --package nmiscope-guest --test loom --release --target-dir target/loom

# fuzz targets, 10 seconds each, or as of the script: `just fuzz -t 600 unwind`
fuzz *ARGS:
    fuzz/run.sh {{ARGS}}

# clippy, rustfmt and shellcheck, warnings denied
lint: clippy clippy-kernel fmt-check shellcheck

# clippy on everything that runs on the host
clippy:
    cargo clippy --locked --workspace --all-targets -- --deny warnings

# clippy on the guest kernel; its profile has the panic = "abort" that it cannot do without
clippy-kernel:
    cargo clippy --locked --package nmiscope-guest --features kernel --bin nmiscope-kernel --profile kernel -- --deny warnings

# whether the sources are formatted
fmt-check:
    cargo fmt --all --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check

# format the sources
fmt:
    cargo fmt --all

# the scripts
shellcheck:
    shellcheck .ci/run tests/*.sh tests/browser/*.sh tests/nested/*.sh tests/nested/job tests/nested/machine-init tests/offline/*.sh tests/offline/linux/make.sh tests/offline/linux/init tests/linux_logs/make.sh tests/linux_logs/init tests/linux_guest/*.sh tests/linux_guest/init fuzz/*.sh benches/*.sh deploy/slurm/*

# counts of passages that a stranger has to read twice
plain-english *ARGS:
    .ci/plain_english {{ARGS}}

# the API documentation, broken links denied
doc:
    RUSTDOCFLAGS="--deny warnings" cargo doc --locked --workspace --no-deps

# all benchmarks; prints what docs/benchmarks.md has tables of
bench:
    ./benches/run.sh

# symbols of a kernel's vmlinux beside blazecli, and its answers beside llvm-symbolizer's
bench-symbolize VMLINUX:
    ./benches/symbolize.sh {{quote(VMLINUX)}}

# a log's symbols beside decode_stacktrace.sh and blazecli
bench-symbolize-log VMLINUX MODULES LOG DECODE_STACKTRACE:
    ./benches/symbolize_log.sh {{quote(VMLINUX)}} {{quote(MODULES)}} {{quote(LOG)}} {{quote(DECODE_STACKTRACE)}}

# logs of Debian's kernels 6.1 and 6.12, and what they need: 6 minutes, 4.4 GB, root
linux-logs WORK:
    tests/linux_logs/make.sh {{quote(WORK)}}

# the farm beside a shell loop over QEMU; prints docs/benchmarks-farm.md
bench-farm:
    ./benches/farm.sh

# the pause of attach beside a bare stop; prints docs/benchmarks-attach.md
bench-attach:
    ./benches/attach.sh

# all stacks of a Linux guest beside drgn, and the pause of attach; prints docs/benchmarks-linux.md
bench-linux *ARGS:
    ./benches/linux.sh {{ARGS}}

# the page of a report of 64 vCPUs and 1,000 tasks, beside its JSON: time, memory and size, within their bars
bench-page:
    cargo bench --locked --package nmiscope-report --bench page

# triage of 10,000 reports: how long it takes, and how much memory
bench-triage:
    cargo bench --locked --bench triage

# the labelled corpus: what the tool says of every workload; arguments as of the benchmark
accuracy *ARGS:
    cargo bench --locked --bench accuracy -- {{ARGS}}

# write the JSON schemas in docs/ anew from their types
schema:
    NMISCOPE_UPDATE=1 cargo test --locked --test end_to_end schema::

# what CI does
ci:
    bash .ci/run
