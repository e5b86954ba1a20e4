//! Tests of the core of an attach: its report equals the report of the VM.

use std::process::Command;

use nmiscope::elf_core::Core;
use nmiscope_report::{Report, Source};

use super::vm::Vm;
use crate::common::*;

const CORE: &str = "vm.core";

/// Attaches with a core of this size, and returns the attach and the report of the core.
fn attach_with_core(vm: &Vm, size: &str) -> (Finished, Report) {
    let attached = vm.attach().with_report().args(["--core", CORE, "--core-size", size]).run();
    let attached = attached.expect_code(exit::HANG);
    let commands = "wrote vm.core, to be opened by: nmiscope report vm.core";
    assert!(attached.all().contains(commands), "{}", attached.all());
    let path = attached.directory.path().join(CORE).display().to_string();
    let stored = nmiscope(["report", &path]).with_report().run().expect_code(exit::HANG);
    assert_eq!(stored.stderr.replace("wrote report.json\n", ""), "", "{}", stored.all());
    let report = stored.report();
    (attached, report)
}

#[test]
#[ignore = "needs QEMU"]
fn the_core_of_an_attach_gives_the_report_of_the_attach() {
    for (workload, cpus) in [("abba-deadlock", 3), ("mutex-deadlock", 2)] {
        let vm = Vm::hung(workload, cpus);
        for size in ["minimal", "full"] {
            let (attached, of_core) = attach_with_core(&vm, size);
            let of_vm = attached.report();
            assert_eq!((of_vm.source, of_core.source), (Source::Attached, Source::Core));
            let of_core = Report { source: of_vm.source, ..of_core };
            assert_eq!(of_core, of_vm, "{workload}, {size}");
        }
    }
}

#[test]
#[ignore = "needs QEMU"]
fn full_core_has_all_memory_and_minimal_core_little() {
    let vm = Vm::hung("abba-deadlock", 2);
    let memory = |size: &str| {
        let (attached, _) = attach_with_core(&vm, size);
        let bytes = std::fs::read(attached.directory.path().join(CORE)).expect("a core");
        Core::parse(&bytes).expect("a core").extents().bytes()
    };
    assert!(memory("full") >= 64 << 20);
    assert!(memory("minimal") < 4 << 20);
}

#[test]
#[ignore = "needs QEMU and gdb"]
fn gdb_reads_an_attach_core_with_a_thread_for_each_vcpu() {
    let vm = Vm::hung("abba-deadlock", 3);
    for size in ["minimal", "full"] {
        let (attached, _) = attach_with_core(&vm, size);
        let core = attached.directory.path().join(CORE).display().to_string();
        let finished = program(Command::new("gdb"), ["-nx", "-batch", "-ex"])
            .args(["thread apply all backtrace", "guest.elf", &core])
            .with_file("guest.elf", nmiscope::bundled::image())
            .run()
            .expect_code(0);
        for (function, count) in [("take_both", 2), ("ap_start", 2), ("run_on_stack", 1)] {
            let found = finished.stdout.lines().filter(|line| line.contains(function)).count();
            assert_eq!(found, count, "{function}, {size}: {}", finished.all());
        }
    }
}
