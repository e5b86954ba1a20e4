//! Tests of reports from stored cores of Debian's kernels, which need neither KVM nor QEMU: the adapter recognises
//! each kernel in the core's memory and makes the committed report.
//!
//! `tests/offline/linux` is made by `tests/offline/linux/make.sh`. Only the expected reports are updated by
//! `NMISCOPE_UPDATE=1 cargo test --test end_to_end offline::linux::`.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use nmiscope::capture::note::CaptureNote;
use nmiscope::cli::exit_code;
use nmiscope::elf_core::{Core, ElfCore};
use nmiscope::images::DebugSearch;
use nmiscope::session::StackChoice;
use nmiscope::session::offline::{Stored, report};
use nmiscope_machine::{MappingLimits, PageTables};
use nmiscope_report::{Certainty, Class, GuestKernel, Report, Source, WaitKind};

use super::expect_in;
use crate::common::*;

/// The stored moments, as kernel and name.
const MOMENTS: [(&str, &str); 15] = [
    ("61", "call"),
    ("61", "frozen"),
    ("61", "holder"),
    ("61", "idle"),
    ("61", "mutexes"),
    ("61", "panic"),
    ("61", "rwsem"),
    ("61", "softlockup"),
    ("61", "spinlocks"),
    ("61", "user"),
    ("612", "idle"),
    ("612", "mutexes"),
    ("612", "rwsem"),
    ("612", "softlockup"),
    ("612", "spinlocks"),
];

const PAGE: usize = 4096;
/// Most bytes of a compressed moment, beside the tables that all moments of a kernel share.
const MAX_MOMENT: u64 = 300 << 10;
/// Most bytes of all files of a kernel.
const MAX_KERNEL: u64 = 6 << 20;

fn directory() -> PathBuf {
    super::directory().join("linux")
}

fn unpack(file: &str) -> Vec<u8> {
    let compressed = fs::File::open(directory().join(file)).expect("a file of tests/offline/linux");
    let mut bytes = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(compressed).expect("zstd");
    decoder.read_to_end(&mut bytes).expect("zstd");
    bytes
}

/// Returns a core, put together from the pages that its kernel's cores share and its own, as `split.py` has
/// separated them.
pub fn core(kernel: &str, moment: &str) -> Vec<u8> {
    let (tables, stored) =
        (unpack(&format!("{kernel}/tables.zst")), unpack(&format!("{kernel}/{moment}.zst")));
    let number = |at: usize| {
        let bytes = stored[4 * at..4 * at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let count = number(0);
    let mut own = stored[4 * (count + 1)..].chunks_exact(PAGE);
    let mut core = Vec::with_capacity(count * PAGE);
    for page in (1..=count).map(number) {
        core.extend_from_slice(match page {
            0 => &[0; PAGE],
            1 => own.next().expect("a page"),
            shared => &tables[(shared - 2) * PAGE..(shared - 1) * PAGE],
        });
    }
    assert_eq!(own.count(), 0, "{kernel}/{moment} has more pages than its core");
    core
}

/// Runs `nmiscope report` on a core, without an image.
fn nmiscope_report(core: &[u8], arguments: &[&str]) -> Finished {
    nmiscope(["report", "linux.core"]).args(arguments).with_file("linux.core", core).run()
}

#[test]
fn core_of_linux_gives_its_committed_report() {
    for (kernel, moment) in MOMENTS {
        let name = format!("{kernel}/{moment}");
        let core = core(kernel, moment);
        let finished = nmiscope_report(&core, &["--quiet", "--json", "-"]);
        let report = parse_report(&finished.stdout);
        let finished = finished.expect_code(exit_code::for_report(&report).0.into());
        assert_eq!(finished.stderr, "", "{name}");
        assert_eq!(report.source, Source::Core, "{name}");
        assert_eq!(report.warnings, [""; 0], "{name}");
        assert!(matches!(report.image.kernel, GuestKernel::Known { .. }), "{name}: {report:?}");
        expect_in(&directory(), &format!("{name}.json"), &finished.stdout);
        let text = nmiscope_report(&core, &[]).stdout;
        expect_in(&directory(), &format!("{name}.txt"), &text);
    }
}

/// Makes the report of a core in memory, with the library.
fn report_of(bytes: Vec<u8>) -> anyhow::Result<Report> {
    let stored = Stored::from_bytes(bytes, "linux.core");
    report(
        &stored,
        &[],
        &DebugSearch::in_directories(&["/nonexistent".into()]),
        StackChoice::default(),
    )
}

#[test]
fn core_of_linux_cut_anywhere_is_refused_or_warned_of() {
    let bytes = core("61", "panic");
    let whole = report_of(bytes.clone()).expect("a report");
    for part in 0..8 {
        let length = bytes.len() / 8 * part + 0x123;
        match report_of(bytes[..length].to_vec()) {
            Ok(report) => {
                assert!(report.warnings.len() > whole.warnings.len(), "{length}: {report:?}");
                assert_eq!(report.backtraces[0].cpus.len(), 4, "{length}");
            }
            Err(error) => assert!(!format!("{error:#}").contains('\n'), "{length}: {error:#}"),
        }
    }
}

/// Returns the address spaces of a core's vCPUs.
fn address_spaces(note: &CaptureNote) -> Vec<PageTables> {
    let states = note.capture.cpus.iter().map(|cpu| cpu.state.as_ref().expect("a state"));
    states.map(|state| state.registers.page_tables().expect("page tables")).collect()
}

#[test]
fn small_core_of_linux_has_no_memory_of_programs() {
    for (kernel, moment) in MOMENTS {
        let bytes = core(kernel, moment);
        let core = Core::new(ElfCore::parse(&bytes).expect("a core")).expect("a core of nmiscope");
        let note = CaptureNote::read(&core).expect("a note");
        let stored = core.extents();
        let mut programs = 0;
        for tables in address_spaces(&note) {
            let ranges = tables.mappings(&core, MappingLimits::default()).ranges;
            // The lower half of the address space is that of programs.
            for range in ranges.iter().filter(|range| range.virtual_start.0 >> 63 == 0) {
                programs += range.length;
                let (start, end) = (range.physical_start.0, range.physical_start.0 + range.length);
                let shown = stored
                    .iter()
                    .find(|extent| extent.start.0 < end && start < extent.start.0 + extent.length);
                assert!(shown.is_none(), "{kernel}/{moment}: {range:x?} is in {shown:x?}");
            }
        }
        // Four vCPUs are in programs then.
        assert!(programs > 0 || moment != "user", "{kernel}/{moment}: no vCPU has a program");
    }
}

#[test]
fn stored_cores_of_linux_are_small() {
    for kernel in ["61", "612"] {
        let mut all = 0;
        for file in fs::read_dir(directory().join(kernel)).expect("a directory") {
            let file = file.expect("a file");
            let (name, size) = (file.file_name(), file.metadata().expect("metadata").len());
            all += size;
            let is_moment =
                file.path().extension().is_some_and(|ext| ext == "zst") && name != "tables.zst";
            assert!(!is_moment || size <= MAX_MOMENT, "{kernel}/{}: {size}", name.display());
        }
        assert!(all <= MAX_KERNEL, "{kernel}: {all}");
    }
}

/// Hangs of the threads of `linux/module/hang.c`: the class, whether it is certain, whom it blames, and who waits for
/// them. Names of tasks are without their numbers.
#[test]
fn hangs_of_a_modules_threads_are_what_its_source_makes() {
    let mutexes = (Class::Deadlock, true, vec!["reader1", "writer2"], vec![]);
    let rwsem = (Class::LockWait, false, vec!["holder1"], vec!["writer2", "reader3"]);
    let spinlocks = (Class::HardLockup, false, vec!["cpu1", "cpu2"], vec![]);
    let rows = [
        ("61", "mutexes", mutexes.clone()),
        ("612", "mutexes", mutexes),
        ("61", "rwsem", rwsem.clone()),
        ("612", "rwsem", rwsem),
        ("61", "spinlocks", spinlocks.clone()),
        ("612", "spinlocks", spinlocks),
        ("61", "holder", (Class::SoftLockup, false, vec!["cpu1"], vec!["waiter2"])),
        ("61", "call", (Class::HardLockup, false, vec!["cpu1"], vec!["cpu2"])),
    ];
    for (kernel, moment, (class, is_certain, blamed, victims)) in rows {
        let report = report_of(core(kernel, moment)).expect("a report");
        let [hang] = &report.hangs[..] else { panic!("{kernel}/{moment}: {:#?}", report.hangs) };
        let certainty = if is_certain { Certainty::Certain } else { Certainty::Likely };
        assert_eq!((hang.class, &hang.certainty), (class, &certainty), "{kernel}/{moment}");
        let name = |party: &String| party.split('/').next().unwrap_or_default().to_owned();
        assert_eq!(hang.blamed.iter().map(name).collect::<Vec<_>>(), blamed, "{kernel}/{moment}");
        // Others may wait too, such as the CPU that loads the module.
        let found: Vec<String> = hang.victims.iter().map(name).collect();
        let is_found = |victim: &&str| found.iter().any(|found| found == victim);
        assert!(victims.iter().all(is_found), "{kernel}/{moment}: {found:?}");
    }
}

/// Returns what each CPU and task of a moment waits for, by name.
fn waits(kernel: &str, moment: &str) -> Vec<(String, String)> {
    let report = report_of(core(kernel, moment)).expect("a report");
    let graph = report.backtraces[0].waits.clone().expect("waits");
    let locks = graph.edges.iter().filter(|edge| edge.kind == WaitKind::WaitsFor);
    let name = |id: &str| id.split('/').next().unwrap_or_default().to_owned();
    locks.map(|edge| (name(&edge.from), edge.to.clone())).collect()
}

#[test]
fn each_spinning_cpu_wants_the_lock_that_the_other_one_took() {
    for kernel in ["61", "612"] {
        let expected = [("cpu1", "tree_spinlock [hang]"), ("cpu2", "log_spinlock [hang]")];
        let expected = expected.map(|(cpu, lock)| (cpu.to_owned(), lock.to_owned()));
        assert_eq!(waits(kernel, "spinlocks"), expected, "{kernel}");
    }
}
