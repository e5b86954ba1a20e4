//! Cores of a Linux guest that QEMU runs: each gives the report of its attach, and drgn reads the full one.
//!
//! `tests/linux_guest/drgn.sh` makes the Python with drgn.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nmiscope::capture::note::CaptureNote;
use nmiscope::capture::{StoppedGuest, Timeouts};
use nmiscope::elf_core::{Core, ElfCore};
use nmiscope::kernel;
use nmiscope::targets::{Dump, Target};
use nmiscope_machine::Registers;
use nmiscope_report::{GuestKernel, Report, Source};

use super::{LinuxVm, vmlinux};
use crate::common::*;

const CORE: &str = "vm.core";

impl LinuxVm {
    /// Attaches with a core of this size.
    fn attach_with_core(&self, size: &str) -> Finished {
        let qmp = self.path("qmp").display().to_string();
        let attach = ["attach", "--qmp", &qmp, "--max-pause", "60s"];
        let core = ["--core", CORE, "--core-size", size];
        nmiscope(attach).args(core).with_report().run()
    }
}

fn path_of(attached: &Finished, file: &str) -> PathBuf {
    attached.directory.path().join(file)
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn core_of_linux_gives_the_report_of_its_attach() {
    for (scenario, ready, code) in
        [("idle", "test: ready", exit::CLEAN), ("crash", "end Kernel panic", exit::CRASH)]
    {
        let vm = LinuxVm::start(scenario);
        vm.wait_for(ready);
        for size in ["minimal", "full"] {
            let attached = vm.attach_with_core(size).expect_code(code);
            let core = path_of(&attached, CORE);
            let stored = nmiscope(["report", &core.display().to_string()]).with_report();
            let stored = stored.run().expect_code(code);
            let wrote = "wrote vm.core, to be opened by: nmiscope report vm.core\n";
            assert!(attached.stdout.contains(wrote), "{}", attached.all());
            let printed = attached.stdout.replace(wrote, "");
            assert_eq!(stored.stdout, printed, "{scenario}, {size}");
            let (of_vm, of_core) = (attached.report(), stored.report());
            assert_eq!((of_vm.source, of_core.source), (Source::Attached, Source::Core));
            let of_core = Report { source: of_vm.source, ..of_core };
            assert_eq!(of_core, of_vm, "{scenario}, {size}");
            for file in [CORE, REPORT] {
                let mode =
                    path_of(&attached, file).metadata().expect("a file").permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{file}");
            }
            let length = core.metadata().expect("a core").len();
            // A small core has the kernel's tables, which are 10 MiB, and the guest has 256 MiB.
            assert_eq!(length < 16 << 20, size == "minimal", "{scenario}, {size}: {length}");
        }
    }
}

/// Runs drgn on a core, with the arguments of `drgn_core.py` behind it.
fn drgn(core: &Path, arguments: &[&str]) -> serde_json::Value {
    let python = std::env::var_os("NMISCOPE_DRGN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/drgn/bin/python"),
        PathBuf::from,
    );
    assert!(python.exists(), "no {}: run tests/linux_guest/drgn.sh", python.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/linux_guest/drgn_core.py");
    let finished = program(Command::new(python), [script.as_path(), core])
        .args(arguments)
        .deadline(super::PATIENCE)
        .run()
        .expect_code(0);
    serde_json::from_str(&finished.stdout).expect("JSON")
}

/// Returns the names of all tasks and the texts of the log in a core, as the adapter reads them.
fn tasks_and_log(path: &Path) -> (BTreeSet<String>, Vec<String>) {
    let bytes = std::fs::read(path).expect("a core");
    let core = Core::new(ElfCore::parse(&bytes).expect("a core")).expect("a core of nmiscope");
    let note = CaptureNote::read(&core).expect("a note");
    let states: Vec<_> = note.capture.cpus.iter().map(|cpu| cpu.state.clone()).collect();
    let registers: Vec<Registers> = states.iter().flatten().map(|state| state.registers).collect();
    let mut dump = Dump::new(core, states);
    let kernel = kernel::recognise_in_memory(&dump, &registers).expect("Linux");
    let bounds = Timeouts::for_vcpus(dump.vcpus());
    let mut stopped = StoppedGuest::stop(&mut dump, &*kernel, None, bounds);
    let log = stopped.read_log(&dump).expect("a log").expect("a log that can be read");
    let tasks = &stopped.kernel.known().expect("a state of the kernel").tasks;
    let tasks = tasks.iter().map(|task| task.as_ref().expect("a task").name.clone()).collect();
    (tasks, log.records.into_iter().map(|record| record.text).collect())
}

fn texts(value: &serde_json::Value) -> Vec<String> {
    let values = value.as_array().expect("an array").iter();
    values.map(|text| text.as_str().expect("a text").to_owned()).collect()
}

#[test]
#[ignore = "needs QEMU, a Linux kernel and drgn"]
fn drgn_opens_a_full_core_of_linux_by_its_vmcoreinfo() {
    let vm = LinuxVm::start("idle");
    vm.wait_for("test: ready");
    let attached = vm.attach_with_core("full").expect_code(exit::CLEAN);
    let GuestKernel::Known { name } = attached.report().image.kernel else { panic!("unknown") };
    let found = drgn(&path_of(&attached, CORE), &[]);
    let release = found["release"].as_str().expect("a release");
    assert!(name.starts_with(&format!("Linux {release} ")), "{name}: {release}");
    assert_eq!(found["memory_release"], found["release"]);
}

#[test]
#[ignore = "needs QEMU, a Linux kernel, its debug vmlinux and drgn"]
fn drgn_with_debug_vmlinux_reads_the_same_tasks_and_log() {
    let vm = LinuxVm::start("idle");
    vm.wait_for("test: ready");
    let attached = vm.attach_with_core("full").expect_code(exit::CLEAN);
    let core = path_of(&attached, CORE);
    let found = drgn(&core, &[&vmlinux().display().to_string()]);
    let (tasks, log) = tasks_and_log(&core);
    assert!(tasks.len() > 30, "{tasks:?}");
    assert_eq!(tasks, BTreeSet::from_iter(texts(&found["tasks"])));
    // A record may have several lines, which the adapter returns as one record each.
    let records = texts(&found["log"]);
    let lines: Vec<&str> = records.iter().flat_map(|record| record.split('\n')).collect();
    let differs = lines.iter().zip(&log).find(|(theirs, ours)| *theirs != ours);
    assert_eq!(differs, None);
    assert_eq!(log.len(), lines.len());
}
