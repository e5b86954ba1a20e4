//! The labelled corpus: the bundled guest's workloads, and what has to be said of each. The labels are
//! in the heads of their files, which are compiled in:
//!
//! * `Expect: CLASS`: a class of hangs, `panic`, `triple-fault`, `exit N`, or `healthy`;
//! * `Blamed: WHO, ...`: who is to blame; `Victims: WHO, ...`: who suffers from it;
//! * `Locks: NAME, ...`: which locks have to do with it;
//! * `Cpus: N..`: how many CPUs it takes; from 1 where it does not say;
//! * `Frames: WHO: FUNCTION, FUNCTION, ...`: what is on a stack, innermost first, with or without
//!   others in between; of two or more functions with `|` between them, one.
//!
//! WHO is a CPU's number, `n/2` (half the number of CPUs, rounded down), `last`, `others` (all CPUs
//! that are not to blame; of frames, those that no other line speaks of), or `task NAME`.

use std::collections::BTreeSet;

use clap::ValueEnum;
use nmiscope::hang::Class;
use nmiscope::report::{CrashCause, Hang, Outcome, Report};

/// A workload, and its file.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub source: &'static str,
}

/// A promise of a workload's head: on these CPUs, or in this task, these functions, innermost first.
#[derive(Debug)]
#[allow(dead_code, reason = "who only counts verdicts looks at no stacks")]
pub struct Promise {
    pub cpus: Vec<u32>,
    pub task: Option<&'static str>,
    pub functions: Vec<&'static str>,
}

/// What is to be said of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    Hang(Class),
    Panic,
    TripleFault,
    Exit(u32),
    Healthy,
}

macro_rules! rows {
    ($($name:literal: $file:literal,)*) => {
        /// All of them.
        pub const ROWS: &[Row] = &[$(Row {
            name: $name,
            source: include_str!(concat!("../../guest/src/workload/", $file)),
        }),*];
    };
}

rows! {
    "abba-deadlock": "abba_deadlock.rs",
    "ap-never-starts": "ap_never_starts.rs",
    "boot-stall": "boot_stall.rs",
    "busy": "busy.rs",
    "call-deadlock": "call_deadlock.rs",
    "corrupt-stack": "corrupt_stack.rs",
    "deep-stack": "deep_stack.rs",
    "double-begin": "double_begin.rs",
    "exit": "exit.rs",
    "forgotten-unlock": "forgotten_unlock.rs",
    "halt-irqs-off": "halt_irqs_off.rs",
    "heavy-printk": "heavy_printk.rs",
    "holder-halts": "holder_halts.rs",
    "holder-spins": "holder_spins.rs",
    "idle": "idle.rs",
    "interrupt-storm": "interrupt_storm.rs",
    "ipi-wait": "ipi_wait.rs",
    "livelock": "livelock.rs",
    "lock-contention": "lock_contention.rs",
    "long-critical-section": "long_critical_section.rs",
    "long-irqs-off": "long_irqs_off.rs",
    "lost-wakeup": "lost_wakeup.rs",
    "many-ipis": "many_ipis.rs",
    "missed-timer": "missed_timer.rs",
    "mutex-contention": "mutex_contention.rs",
    "mutex-deadlock": "mutex_deadlock.rs",
    "mutex-holder-spins": "mutex_holder_spins.rs",
    "nested-panic": "nested_panic.rs",
    "nmi-stuck": "nmi_stuck.rs",
    "null-deref": "null_deref.rs",
    "panic": "panic.rs",
    "panic-others-spin": "panic_others_spin.rs",
    "partial-line": "partial_line.rs",
    "pause-and-go": "pause_and_go.rs",
    "printk-lock-held": "printk_lock_held.rs",
    "self-deadlock": "self_deadlock.rs",
    "sleeping-holder": "sleeping_holder.rs",
    "spin-in-calls": "spin_in_calls.rs",
    "spin-irqs-off": "spin_irqs_off.rs",
    "spin-irqs-on": "spin_irqs_on.rs",
    "sysrq-storm": "sysrq_storm.rs",
    "task-hog": "task_hog.rs",
    "tasks": "tasks.rs",
    "three-lock-cycle": "three_lock_cycle.rs",
    "ticket-starved": "ticket_starved.rs",
    "triple-fault": "triple_fault.rs",
}

/// The promises of a workload's file for that number of CPUs.
#[allow(dead_code, reason = "who only counts verdicts looks at no stacks")]
pub fn promises(source: &'static str, cpus: u32) -> Vec<Promise> {
    let lines = source.lines().filter_map(|line| line.strip_prefix("//! Frames: "));
    let parts: Vec<(&str, &str)> =
        lines.map(|line| line.split_once(": ").expect("WHO: FUNCTIONS")).collect();
    let named = |who: &str| match who {
        "n/2" => Some(cpus / 2),
        "last" => Some(cpus - 1),
        who => who.parse().ok(),
    };
    let taken: Vec<u32> = parts.iter().filter_map(|(who, _)| named(who)).collect();
    parts
        .into_iter()
        .map(|(who, functions)| {
            let task = who.strip_prefix("task ");
            let others = || (0..cpus).filter(|cpu| !taken.contains(cpu)).collect();
            let cpus = match (named(who), task) {
                (Some(cpu), _) => vec![cpu],
                (None, Some(_)) => Vec::new(),
                (None, None) if who == "others" => others(),
                (None, None) => panic!("{who:?} is nobody"),
            };
            Promise { cpus, task, functions: functions.split(", ").map(str::trim).collect() }
        })
        .collect()
}

impl Row {
    /// A line of the head.
    fn label(&self, label: &str) -> Option<&'static str> {
        let lines = self.source.lines().map_while(|line| line.strip_prefix("//!"));
        let mut labelled = lines.filter_map(|line| line.trim().split_once(": "));
        labelled.find(|(name, _)| *name == label).map(|(_, value)| value.trim())
    }

    /// What is to be said of it.
    pub fn expected(&self) -> Expected {
        let label = self.label("Expect").unwrap_or_else(|| panic!("{}: no label", self.name));
        match label {
            "panic" => Expected::Panic,
            "triple-fault" => Expected::TripleFault,
            "healthy" => Expected::Healthy,
            class => match class.strip_prefix("exit ") {
                Some(code) => Expected::Exit(code.parse().expect("an exit code")),
                None => Expected::Hang(Class::from_str(class, false).expect("a class")),
            },
        }
    }

    /// How many CPUs it takes.
    pub fn min_cpus(&self) -> u32 {
        let cpus = self.label("Cpus").map(|cpus| cpus.trim_end_matches(".."));
        cpus.map_or(1, |cpus| cpus.parse().expect("a number of CPUs"))
    }

    /// Parties, as reports name them.
    fn parties(&self, label: &str, cpus: u32) -> BTreeSet<String> {
        let words = self.label(label).unwrap_or("");
        let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.flat_map(|word| self.party(word, cpus)).collect()
    }

    fn party(&self, word: &str, cpus: u32) -> Vec<String> {
        let name = |cpu: u32| vec![format!("cpu{cpu}")];
        match word {
            "n/2" => name(cpus / 2),
            "last" => name(cpus - 1),
            "others" => {
                let blamed = self.parties("Blamed", cpus);
                let all = (0..cpus).map(|cpu| format!("cpu{cpu}"));
                all.filter(|cpu| !blamed.contains(cpu)).collect()
            }
            word => match word.strip_prefix("task ") {
                Some(task) => vec![task.to_owned()],
                None => name(word.parse().expect("the number of a CPU")),
            },
        }
    }

    /// What is wrong with a report of a run with that many CPUs; nothing if it says what it has to.
    pub fn faults(&self, report: &Report, cpus: u32) -> Vec<String> {
        let mut faults = Vec::new();
        let expected = self.expected();
        let found = found(report);
        if found != Some(expected) {
            let found = found.map_or_else(|| format!("{:?}", report.outcome), |found| found.name());
            faults.push(format!("{found} instead of {}", expected.name()));
        }
        match (expected, &report.hangs[..]) {
            (Expected::Hang(_), [hang]) => faults.extend(self.faults_of_hang(hang, cpus)),
            (Expected::Hang(_), hangs) => faults.push(format!("{} hangs", hangs.len())),
            (Expected::Panic | Expected::TripleFault, []) => {
                faults.extend(self.fault_of_end(report, cpus));
            }
            (_, []) => {}
            (_, hangs) => faults.push(format!("a false alarm: {}", hangs[0].class)),
        }
        faults
    }

    /// An end has a CPU too.
    fn fault_of_end(&self, report: &Report, cpus: u32) -> Option<String> {
        let (Outcome::Panic { cpu, .. } | Outcome::Crash { cpu, .. }) = report.outcome else {
            return None;
        };
        let found = BTreeSet::from([format!("cpu{cpu}")]);
        let wanted = self.parties("Blamed", cpus);
        (found != wanted).then(|| format!("on {found:?} instead of {wanted:?}"))
    }

    fn faults_of_hang(&self, hang: &Hang, cpus: u32) -> Vec<String> {
        let locks = self.label("Locks").unwrap_or("").split(',').map(str::trim);
        let locks = locks.filter(|lock| !lock.is_empty()).map(str::to_owned).collect();
        let rows = [
            ("blamed", &hang.blamed, self.parties("Blamed", cpus)),
            ("victims", &hang.victims, self.parties("Victims", cpus)),
            ("locks", &hang.locks, locks),
        ];
        let wrong = rows.into_iter().filter_map(|(what, found, wanted)| {
            let found: BTreeSet<String> = found.iter().cloned().collect();
            (found != wanted).then(|| format!("{what} {found:?} instead of {wanted:?}"))
        });
        wrong.collect()
    }
}

impl Expected {
    /// Its name, as the label has it.
    pub fn name(self) -> String {
        match self {
            Self::Hang(class) => class.name().into(),
            Self::Panic => "panic".into(),
            Self::TripleFault => "triple-fault".into(),
            Self::Exit(code) => format!("exit {code}"),
            Self::Healthy => "healthy".into(),
        }
    }
}

/// What a report says of a run; `None` for what no row has.
pub fn found(report: &Report) -> Option<Expected> {
    Some(match &report.outcome {
        Outcome::Hang => Expected::Hang(report.hangs.first()?.class),
        Outcome::Panic { .. } => Expected::Panic,
        Outcome::Crash { cause: CrashCause::TripleFault, .. } => Expected::TripleFault,
        Outcome::Exit { code } => Expected::Exit(*code),
        Outcome::Stopped { .. } => Expected::Healthy,
        Outcome::Crash { .. } | Outcome::Starved { .. } => return None,
    })
}
