//! Tests of one workload observed in four ways: live in a VM of this program, from the core of that run,
//! from a dump of QEMU, and by attaching to that QEMU.
//!
//! All four reports are equal, apart from source, times and counters. [`ROWS`] lists the hangs that a single
//! observation cannot detect, with the reason; the report must lack exactly these.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use nmiscope::hang::behaviour;
use nmiscope_farm::corpus::{Expected, find};
use nmiscope_report::{Certainty, Class, Hang, Report, TaskState};

use super::vm::{PATIENCE, Vm};
use crate::common::*;
use crate::dump::support::{report_of, stacks};

/// A workload with a hang, and the part of it that a dump or an attach reports.
struct Row {
    class: Class,
    workload: &'static str,
    cpus: u32,
    seen_once: SeenOnce,
}

/// Part of a hang that a single observation reports.
enum SeenOnce {
    /// The same as a live run.
    All,
    /// No hang, for this reason; stacks and tasks as in the live run.
    NoHang(&'static str),
}

use SeenOnce::{All, NoHang};

/// Returns a row whose hang a single observation reports like a live run.
const fn row(class: Class, workload: &'static str, cpus: u32) -> Row {
    Row { class, workload, cpus, seen_once: All }
}

/// Workloads of each class, one or two per class.
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
            "the time is taken from the kernel's latest record, and no CPU takes ticks any more: the last \
             tick may have been a moment ago",
        ),
    },
    row(Class::SoftLockup, "spin-irqs-on", 3),
    row(Class::LockWait, "forgotten-unlock", 3),
    Row {
        class: Class::LockWait,
        workload: "sleeping-holder",
        cpus: 2,
        seen_once: NoHang(
            "all who wait for the lock sleep, and so does its holder: until that has lasted for two minutes \
             it is suspected",
        ),
    },
    Row {
        class: Class::Livelock,
        workload: "livelock",
        cpus: 2,
        seen_once: NoHang(
            "the guest counts finished work without times: two observations are needed to see that the \
             count does not advance",
        ),
    },
    Row {
        class: Class::LostWakeup,
        workload: "lost-wakeup",
        cpus: 2,
        seen_once: NoHang(
            "the guest records no time of pending work: a task that sleeps beside it may be woken at the \
             next instruction",
        ),
    },
    Row {
        class: Class::BootStall,
        workload: "boot-stall",
        cpus: 2,
        seen_once: NoHang(
            "the guest reports that it is ready through a port of its VMM and keeps no record: QEMU has no \
             such port, and memory does not distinguish a booting guest from a booted one",
        ),
    },
];

/// The class without a workload: it occurs only with an unknown kernel.
const WITHOUT_WORKLOAD: Class = Class::Silent;

/// Content of a report that must be equal, without times and counters.
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
    /// Names of the blamed, the locks and the victims.
    parties: [Vec<String>; 3],
    edges: Vec<String>,
    /// True for a certain hang, false for a likely one; no other certainty is a verdict.
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

    /// Keeps only the outer frames of each stack, up to the CPU's main loop: the frames inside change from
    /// moment to moment in a CPU that returns to its main loop.
    fn without_moving_frames(self) -> Self {
        let outer = |stack: Vec<String>| {
            let step = stack.iter().rposition(|name| name == "cpu_main").unwrap_or(0);
            stack[step..].to_vec()
        };
        Self { stacks: self.stacks.into_iter().map(outer).collect(), ..self }
    }
}

impl HangSummary {
    /// Summarises a hang; `None` for a suspected one, which is not old enough for a verdict.
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

/// Removes frames without a name: a CPU that the guest never started is at the reset vector in a VM of this
/// program, but in QEMU is parked in SeaBIOS, which started it.
fn named_frames(stack: Vec<String>) -> Vec<String> {
    stack.into_iter().filter(|name| !name.is_empty()).collect()
}

/// Observes the guest until its report equals `wanted`: an observation may fall into an interrupt handler, or
/// come before the hang is old enough for a verdict.
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
    // Both VMs run at the same time.
    let mut vm = Vm::start(workload, cpus);
    let live = run_workload(workload, cpus)
        .args(["--memory", "64M", "--core", "hang.core", "--ready-within", "3s"])
        .args(["--hang-after", "2s", "--hang-after", "sleepers=2s"])
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
    let moves = behaviour(row.class).returns_to_main_loop;
    let wanted = if moves { wanted.without_moving_frames() } else { wanted };
    let attached = wait_for_report(&format!("attach to {workload}"), moves, &wanted, || {
        vm.attach().with_report().run().report()
    });
    assert_eq!(vm.attach().run().status.code(), Some(code), "{workload}: {because}");
    let dumped = wait_for_report(&format!("dump of {workload}"), moves, &wanted, || {
        report_of(vm.dump(), None).expect("a report")
    });
    for report in [&attached, &dumped] {
        let has_none = !report.hangs.iter().any(|hang| hang.certainty.is_verdict());
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
        /// Names of the workloads that have a test.
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
