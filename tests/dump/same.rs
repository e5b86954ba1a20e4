//! Comparison of a core with a dump of the same workload and image: one guest under two VMMs.

use std::fs;

use super::support::*;
use crate::offline::directory;
use nmiscope::capture::note::CaptureNote;
use nmiscope::elf_core::{Core, ElfCore};
use nmiscope::targets::Dump;

fn core(name: &str) -> Vec<u8> {
    fs::read(directory().join(format!("cores/{name}.core"))).expect("a core of tests/offline")
}

#[test]
fn a_dump_and_a_core_have_the_same_stacks_and_log() {
    for name in DUMPS {
        let of_core = report_of(core(name), Some(&image())).expect("a report");
        let of_dump = report_of(dump(name), Some(&image())).expect("a report");
        let (of_core, of_dump) = (&of_core.backtraces[0], &of_dump.backtraces[0]);
        assert_eq!(stacks(of_dump), stacks(of_core), "{name}");
        assert_eq!(log(of_dump), log(of_core), "{name}");
        let waits = |backtrace: &nmiscope_report::Backtrace| -> Vec<_> {
            let tasks = backtrace.tasks.iter();
            tasks.map(|task| (task.name.clone(), task.waits_for.clone())).collect()
        };
        assert_eq!(waits(of_dump), waits(of_core), "{name}");
    }
}

#[test]
fn a_dump_and_a_core_have_the_same_tasks_waits_and_locks() {
    for name in DUMPS {
        let (core, dump) = (core(name), dump(name));
        let core = Core::parse(&core).expect("a core");
        let note = CaptureNote::read(&core).expect("a note");
        let states = note.capture.cpus.iter().map(|cpu| cpu.state.clone()).collect();
        let of_core = doing(Dump::new(core, states), &image());
        let of_dump = Dump::from_elf(ElfCore::parse(&dump).expect("a core")).expect("a dump");
        assert_eq!(doing(of_dump, &image()), of_core, "{name}");
    }
}
