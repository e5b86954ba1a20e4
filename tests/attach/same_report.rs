//! One workload, seen in four ways: live in a VM of ours, by the core of that run, by a dump of QEMU's,
//! and by attaching to that QEMU.
//!
//! All four give one report, apart from source, times and counters. Where a target cannot know something,
//! [`ROWS`] says what and why, and the report has to lack exactly that.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use nmiscope::hang::conduct;
use nmiscope_farm::corpus::{Expected, find};
use nmiscope_report::{Certainty, Class, Hang, Report, TaskState};

use super::vm::{PATIENCE, Vm};
use crate::common::*;
use crate::dump::support::{report_of, stacks};

/// A workload with a hang, and what there is of the hang in the report of a dump or an attach.
struct Row {
    class: Class,
    workload: &'static str,
    cpus: u32,
    seen_once: SeenOnce,
}

/// The knowledge of a target that sees a guest once.
enum SeenOnce {
    /// All that a run knows.
    All,
    /// No hang, for this reason; stacks and tasks are those of the run.
    NoHang(&'static str),
}

use SeenOnce::{All, NoHang};

/// A workload that a dump and an attach know as much of as a run.
const fn row(class: Class, workload: &'static str, cpus: u32) -> Row {
    Row { class, workload, cpus, seen_once: All }
}

/// One or two workloads of each class.
const ROWS: [Row; 11] = [
    row(Class::Deadlock, "abba-deadlock", 3),
    row(Class::Deadlock, "mutex-deadlock", 2),
    row(Class::DeadHalt, "holder-halts", 3),
    row(Class::HardLockup, "holder-spins", 3),
    Row {
        class: Class::HardLockup,
        workload: "spin-irqs-off",
        cpus: 1,
        seen_once: NoHang(
            "time is told by the kernel's latest record, and no CPU is left that takes a tick: the last \
             one may have been a moment ago",
        ),
    },
    row(Class::SoftLockup, "spin-irqs-on", 3),
    row(Class::LockWait, "forgotten-unlock", 3),
    row(Class::LockWait, "sleeping-holder", 2),
    Row {
        class: Class::Livelock,
        workload: "livelock",
        cpus: 2,
        seen_once: NoHang(
            "the guest counts finished work and does not date it: that the count stands still shows \
             in two looks, and a dump and an attach have one",
        ),
    },
    Row {
        class: Class::LostWakeup,
        workload: "lost-wakeup",
        cpus: 2,
        seen_once: NoHang(
            "the guest does not date pending work: a task that sleeps while there is some may be \
             woken at the next instruction",
        ),
    },
    Row {
        class: Class::BootStall,
        workload: "boot-stall",
        cpus: 2,
        seen_once: NoHang(
            "the guest writes to a port of its VMM that it is ready, and keeps no record of it: QEMU \
             has no such port, and memory does not tell a guest that boots from one that has booted",
        ),
    },
];

/// The class that no workload has: it takes a kernel of which nothing is known.
const WITHOUT_WORKLOAD: Class = Class::Silent;

/// What a report says of a guest, without times and counters.
#[derive(Debug, Clone, PartialEq)]
struct Summary {
    hangs: Vec<HangSummary>,
    stacks: Vec<Vec<String>>,
    tasks: Vec<(String, u32, TaskState, Option<String>)>,
}

#[derive(Debug, Clone, PartialEq)]
struct HangSummary {
    class: Class,
    signature: String,
    /// Blamed, locks and victims.
    parties: [Vec<String>; 3],
    edges: Vec<String>,
    /// True for certain, false for likely; nothing else is a verdict.
    certain: bool,
}

impl Summary {
    fn from_report(report: &Report) -> Self {
        let backtrace = report.backtraces.last().expect("a backtrace");
        let tasks = backtrace.tasks.iter();
        let task = |task: &nmiscope_report::Task| {
            (task.name.clone(), task.cpu, task.state, task.waits_for.clone())
        };
        Self {
            hangs: report.hangs.iter().filter_map(HangSummary::from_verdict).collect(),
            stacks: stacks(backtrace).into_iter().map(named_frames).collect(),
            tasks: tasks.map(task).collect(),
        }
    }

    /// Only the outer part of stacks, which a CPU does not leave that comes back to its main loop: what
    /// it has just called is of one moment.
    fn without_moving_frames(self) -> Self {
        let outer = |stack: Vec<String>| {
            let step = stack.iter().rposition(|name| name == "cpu_main").unwrap_or(0);
            stack[step..].to_vec()
        };
        Self { stacks: self.stacks.into_iter().map(outer).collect(), ..self }
    }
}

impl HangSummary {
    /// Nothing for a suspicion, which has not lasted for as long as a run waits.
    fn from_verdict(hang: &Hang) -> Option<Self> {
        let edge =
            |edge: &nmiscope_report::WaitEdge| format!("{} {:?} {}", edge.from, edge.kind, edge.to);
        hang.certainty.is_verdict().then(|| Self {
            class: hang.class,
            signature: hang.signature.clone(),
            parties: [hang.blamed.clone(), hang.locks.clone(), hang.victims.clone()],
            edges: hang.edges.iter().map(edge).collect(),
            certain: hang.certainty == Certainty::Certain,
        })
    }
}

/// A stack without frames of no name: a CPU that was never started stands at the reset vector in a VM of
/// ours, and in SeaBIOS, which has started and parked it, in QEMU.
fn named_frames(stack: Vec<String>) -> Vec<String> {
    stack.into_iter().filter(|name| !name.is_empty()).collect()
}

/// Looks until the report says what is wanted: a look may come while an interrupt is handled, or before
/// the hang is as old as a run waits for.
#[track_caller]
fn wait_for_report(
    what: &str,
    moves: bool,
    wanted: &Summary,
    mut observe: impl FnMut() -> Report,
) -> Report {
    let end = Instant::now() + PATIENCE;
    loop {
        let report = observe();
        let summary = Summary::from_report(&report);
        let summary = if moves { summary.without_moving_frames() } else { summary };
        if summary == *wanted {
            return report;
        }
        if Instant::now() > end {
            assert_eq!(summary, *wanted, "{what}");
        }
        sleep(Duration::from_millis(100));
    }
}

fn assert_one_report(workload: &str) {
    let row = ROWS.iter().find(|row| row.workload == workload).expect("a workload of the table");
    let cpus = row.cpus;
    // It hangs while the other does.
    let mut vm = Vm::start(workload, cpus);
    let live = run_workload(workload, cpus)
        .args(["--memory", "64M", "--core", "hang.core", "--ready-within", "3s"])
        .run()
        .expect_code(exit::HANG);
    let of_run = Summary::from_report(&live.report());
    let classes: Vec<Class> = of_run.hangs.iter().map(|hang| hang.class).collect();
    assert_eq!(classes, [row.class], "{workload}");
    let core = live.directory.path().join("hang.core").display().to_string();
    let of_core = nmiscope(["report", &core]).with_report().run().expect_code(exit::HANG).report();
    assert_eq!(Summary::from_report(&of_core), of_run, "the core of {workload}");

    let (wanted, code, because) = match row.seen_once {
        All => (of_run, exit::HANG, "what the kernel records is enough"),
        NoHang(reason) => (Summary { hangs: Vec::new(), ..of_run }, exit::CLEAN, reason),
    };
    let moves = conduct(row.class).returns;
    let wanted = if moves { wanted.without_moving_frames() } else { wanted };
    let attached = wait_for_report(&format!("attach to {workload}"), moves, &wanted, || {
        vm.attach().with_report().run().report()
    });
    assert_eq!(vm.attach().run().status.code(), Some(code), "{workload}: {because}");
    let dumped = wait_for_report(&format!("dump of {workload}"), moves, &wanted, || {
        report_of(vm.dump(), None).expect("a report")
    });
    for report in [&attached, &dumped] {
        let has_none = report.hangs.is_empty();
        assert_eq!(has_none, code == exit::CLEAN, "{because}, but: {:#?}", report.hangs);
    }
    assert_eq!(attached.image.build_id, live.report().image.build_id);
    assert_eq!(dumped.image.build_id, attached.image.build_id);
}

#[test]
fn every_class_has_a_workload_with_its_label() {
    for &class in Class::value_variants() {
        let has_row = ROWS.iter().any(|row| row.class == class);
        assert_eq!(has_row, class != WITHOUT_WORKLOAD, "{class}");
    }
    for Row { class, workload, .. } in &ROWS {
        let label = find(workload).expect("a workload").expected();
        assert_eq!(label, Expected::Hang(*class), "{workload}");
    }
}

macro_rules! workloads {
    ($($test:ident: $name:literal;)*) => {
        $(
            #[test]
            #[ignore = "needs QEMU"]
            fn $test() {
                assert_one_report($name);
            }
        )*
        /// The workloads that have a test.
        const TESTED: &[&str] = &[$($name),*];
    };
}

workloads! {
    four_observations_of_abba_deadlock_give_one_report: "abba-deadlock";
    four_observations_of_mutex_deadlock_give_one_report: "mutex-deadlock";
    four_observations_of_holder_halts_give_one_report: "holder-halts";
    four_observations_of_holder_spins_give_one_report: "holder-spins";
    four_observations_of_spin_irqs_off_give_one_report: "spin-irqs-off";
    four_observations_of_spin_irqs_on_give_one_report: "spin-irqs-on";
    four_observations_of_forgotten_unlock_give_one_report: "forgotten-unlock";
    four_observations_of_sleeping_holder_give_one_report: "sleeping-holder";
    four_observations_of_livelock_give_one_report: "livelock";
    four_observations_of_lost_wakeup_give_one_report: "lost-wakeup";
    four_observations_of_boot_stall_give_one_report: "boot-stall";
}

#[test]
fn every_workload_in_the_table_has_a_test() {
    assert_eq!(Vec::from_iter(ROWS.iter().map(|row| row.workload)), TESTED);
}
