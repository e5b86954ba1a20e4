//! The labelled corpus: the bundled guest's workloads, and the verdict expected of each. The labels stand
//! in the heads of the workloads' source files, which are compiled in:
//!
//! * `Expect: CLASS`: a class of hangs, `panic`, `triple-fault`, `exit N`, or `healthy`; several independent
//!   hangs have a `+` between their classes, and in `Blamed` between their parties;
//! * `Blamed: WHO, ...`: the parties to blame; `Victims: WHO, ...`: the parties that suffer from them;
//! * `Locks: NAME, ...`: the locks that are part of the hang;
//! * `Cpus: N..`: the least number of CPUs; 1 if the label is missing;
//! * `Sleeps: yes`: a healthy workload's tasks sleep for longer than parties that run may take;
//! * `Frames: WHO: FUNCTION, FUNCTION, ...`: functions on a stack, innermost first, possibly with others
//!   in between; `|` separates alternatives, and `none` stands for a stack on which nothing runs.
//!
//! WHO is a CPU's number, `n/2` (half the number of CPUs, rounded down), `last`, `others` (all CPUs that
//! are not to blame; for frames, those that no other line names), or `task NAME`.
//!
//! This module reads the labels and compares no report with them: the tests do that for this program, and
//! a farm for its suite. An unreadable label is a mistake in this program, hence a panic; a test here
//! reads them all.

use std::collections::BTreeSet;

use clap::ValueEnum;
use nmiscope_report::Class;
use nmiscope_report::nearest::nearest;

/// A workload of the bundled guest, with its source file.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Name of the workload, as the kernel parameter `workload=` takes it.
    pub name: &'static str,
    /// Text of the workload's source file.
    pub source: &'static str,
}

/// Functions that a workload's head promises on the stacks of some CPUs, or of one task.
#[derive(Debug)]
pub struct Promise {
    /// Numbers of the CPUs; empty if the promise is about a task.
    pub cpus: Vec<u32>,
    /// Name of the task; `None` if the promise is about CPUs.
    pub task: Option<&'static str>,
    /// Functions, innermost first; `|` separates alternatives.
    pub functions: Vec<&'static str>,
}

/// Expected end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// The guest hangs in this way.
    Hang(Class),
    /// The guest's kernel panics with any message.
    Panic,
    /// A triple fault resets the guest.
    TripleFault,
    /// The guest leaves with this code.
    Exit(u32),
    /// The guest runs until it is stopped.
    Healthy,
}

macro_rules! rows {
    ($($name:literal: $file:literal,)*) => {
        /// All workloads, sorted by name.
        pub const ROWS: &[Row] = &[$(Row {
            name: $name,
            source: include_str!(concat!("../../guest/src/workload/", $file)),
        }),*];
    };
}

rows! {
    "abba-deadlock": "abba_deadlock.rs",
    "ap-never-arrives": "ap_never_arrives.rs",
    "ap-never-starts": "ap_never_starts.rs",
    "boot-stall": "boot_stall.rs",
    "busy": "busy.rs",
    "call-deadlock": "call_deadlock.rs",
    "corrupt-stack": "corrupt_stack.rs",
    "cpu-hotplug": "cpu_hotplug.rs",
    "debugger-prompt": "debugger_prompt.rs",
    "deep-stack": "deep_stack.rs",
    "double-begin": "double_begin.rs",
    "exit": "exit.rs",
    "fault-loop": "fault_loop.rs",
    "forgotten-unlock": "forgotten_unlock.rs",
    "halt-irqs-off": "halt_irqs_off.rs",
    "heavy-printk": "heavy_printk.rs",
    "hog-and-dead": "hog_and_dead.rs",
    "holder-halts": "holder_halts.rs",
    "holder-offline": "holder_offline.rs",
    "holder-spins": "holder_spins.rs",
    "idle": "idle.rs",
    "interrupt-storm": "interrupt_storm.rs",
    "ipi-ack-lost": "ipi_ack_lost.rs",
    "ipi-wait": "ipi_wait.rs",
    "livelock": "livelock.rs",
    "livelock-tasks": "livelock_tasks.rs",
    "lock-contention": "lock_contention.rs",
    "long-critical-section": "long_critical_section.rs",
    "long-irqs-off": "long_irqs_off.rs",
    "long-memset": "long_memset.rs",
    "long-softirq": "long_softirq.rs",
    "lost-timer-tickless": "lost_timer_tickless.rs",
    "lost-wakeup": "lost_wakeup.rs",
    "lost-wakeup-busy": "lost_wakeup_busy.rs",
    "many-ipis": "many_ipis.rs",
    "missed-timer": "missed_timer.rs",
    "mixed-cycle": "mixed_cycle.rs",
    "mutex-contention": "mutex_contention.rs",
    "mutex-deadlock": "mutex_deadlock.rs",
    "mutex-held-long": "mutex_held_long.rs",
    "mutex-holder-computes": "mutex_holder_computes.rs",
    "mutex-holder-spins": "mutex_holder_spins.rs",
    "nested-panic": "nested_panic.rs",
    "nmi-stuck": "nmi_stuck.rs",
    "null-deref": "null_deref.rs",
    "offline-halted": "offline_halted.rs",
    "one-shot-timers": "one_shot_timers.rs",
    "panic": "panic.rs",
    "panic-others-spin": "panic_others_spin.rs",
    "partial-line": "partial_line.rs",
    "pause-and-go": "pause_and_go.rs",
    "pause-in-irq": "pause_in_irq.rs",
    "printk-lock-held": "printk_lock_held.rs",
    "raw-flags": "raw_flags.rs",
    "ready-not-run": "ready_not_run.rs",
    "recursion": "recursion.rs",
    "rwlock-reader-lost": "rwlock_reader_lost.rs",
    "same-code-ab": "same_code_ab.rs",
    "same-code-cd": "same_code_cd.rs",
    "self-deadlock": "self_deadlock.rs",
    "seqlock-writer-stuck": "seqlock_writer_stuck.rs",
    "sleeping-holder": "sleeping_holder.rs",
    "slow-device": "slow_device.rs",
    "slow-device-busy": "slow_device_busy.rs",
    "spin-in-calls": "spin_in_calls.rs",
    "spin-irqs-off": "spin_irqs_off.rs",
    "spin-irqs-on": "spin_irqs_on.rs",
    "sysrq-storm": "sysrq_storm.rs",
    "task-hog": "task_hog.rs",
    "tasks": "tasks.rs",
    "three-lock-cycle": "three_lock_cycle.rs",
    "ticket-starved": "ticket_starved.rs",
    "tickless-idle": "tickless_idle.rs",
    "triple-fault": "triple_fault.rs",
    "two-roots": "two_roots.rs",
}

/// Returns the workload of that name.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The bundled guest has no workload of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no workload `{name}`; {hint}")]
pub struct UnknownWorkload {
    name: String,
    hint: String,
}

/// Returns the workload of that name, as a user wrote it.
///
/// # Errors
/// There is none; the error has the name that is most like it.
pub fn find_written(name: &str) -> Result<&'static Row, UnknownWorkload> {
    find(name).ok_or_else(|| {
        let hint = match nearest(name, ROWS.iter().map(|row| row.name)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`nmiscope list workloads` names them all".into(),
        };
        UnknownWorkload { name: name.into(), hint }
    })
}

/// Parses the promises in a workload's source file for that number of CPUs.
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
                (None, None) => panic!("{who:?} names no party"),
            };
            let functions = functions.split(", ").map(str::trim).filter(|&name| name != "none");
            Promise { cpus, task, functions: functions.collect() }
        })
        .collect()
}

impl Row {
    /// Returns the value of a label in the head of the file.
    fn label(&self, label: &str) -> Option<&'static str> {
        let lines = self.source.lines().map_while(|line| line.strip_prefix("//!"));
        let mut labelled = lines.filter_map(|line| line.trim().split_once(": "));
        labelled.find(|(name, _)| *name == label).map(|(_, value)| value.trim())
    }

    /// Returns the expected end of a run.
    pub fn expected(&self) -> Expected {
        let label = self.label("Expect").unwrap_or_else(|| panic!("{}: no label", self.name));
        match label {
            "panic" => Expected::Panic,
            "triple-fault" => Expected::TripleFault,
            "healthy" => Expected::Healthy,
            class => match class.strip_prefix("exit ") {
                Some(code) => Expected::Exit(code.parse().expect("an exit code")),
                None => Expected::Hang(class_named(class.split('+').next().unwrap_or(class))),
            },
        }
    }

    /// Returns the first sentence of the head: what the workload does.
    pub fn summary(&self) -> String {
        let lines = self.source.lines().map_while(|line| line.strip_prefix("//!"));
        let lines = lines.map(str::trim).take_while(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join(" ");
        let end = text.find(". ").map_or(text.len(), |end| end + 1);
        text[..end].to_owned()
    }

    /// Returns each expected hang with that many CPUs: its class, and the names of the parties to blame.
    /// Empty unless the guest hangs.
    pub fn hangs(&self, cpus: u32) -> Vec<(Class, BTreeSet<String>)> {
        let Expected::Hang(_) = self.expected() else { return Vec::new() };
        let parts = |label| self.label(label).unwrap_or("").split('+');
        let classes = parts("Expect").map(class_named);
        let blamed = parts("Blamed").map(|parties| self.parties_in(parties, cpus));
        classes.zip(blamed).collect()
    }

    /// Returns true for a healthy workload that sleeps for longer than parties that run may take.
    pub fn sleeps(&self) -> bool {
        self.label("Sleeps") == Some("yes")
    }

    /// Returns the least number of CPUs that the workload needs.
    pub fn min_cpus(&self) -> u32 {
        let cpus = self.label("Cpus").map(|cpus| cpus.trim_end_matches(".."));
        cpus.map_or(1, |cpus| cpus.parse().expect("a number of CPUs"))
    }

    /// Returns the names of the parties to blame with that many CPUs, as reports spell them.
    pub fn blamed(&self, cpus: u32) -> BTreeSet<String> {
        self.parties("Blamed", cpus)
    }

    /// Returns the names of the victims with that many CPUs, as reports spell them.
    pub fn victims(&self, cpus: u32) -> BTreeSet<String> {
        self.parties("Victims", cpus)
    }

    /// Returns the names of the locks that are part of the hang.
    pub fn locks(&self) -> BTreeSet<String> {
        let locks = self.label("Locks").unwrap_or("").split(',').map(str::trim);
        locks.filter(|lock| !lock.is_empty()).map(str::to_owned).collect()
    }

    fn parties(&self, label: &str, cpus: u32) -> BTreeSet<String> {
        self.parties_in(self.label(label).unwrap_or(""), cpus)
    }

    fn parties_in(&self, words: &str, cpus: u32) -> BTreeSet<String> {
        let words = words.split([',', '+']).map(str::trim).filter(|word| !word.is_empty());
        words.flat_map(|word| self.party(word, cpus)).collect()
    }

    fn party(&self, word: &str, cpus: u32) -> Vec<String> {
        let name = |cpu: u32| vec![format!("cpu{cpu}")];
        match word {
            "n/2" => name(cpus / 2),
            "last" => name(cpus - 1),
            "others" => {
                let blamed = self.blamed(cpus);
                let all = (0..cpus).map(|cpu| format!("cpu{cpu}"));
                all.filter(|cpu| !blamed.contains(cpu)).collect()
            }
            word => match word.strip_prefix("task ") {
                Some(task) => vec![task.to_owned()],
                None => name(word.parse().expect("the number of a CPU")),
            },
        }
    }
}

/// Parses the name of a class in a label.
fn class_named(name: &str) -> Class {
    Class::from_str(name.trim(), false).expect("a class")
}

impl Expected {
    /// Returns the expectation as the label spells it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_lists_every_workload_with_its_number_of_cpus() {
        let guest = include_str!("../../guest/src/workload/mod.rs");
        assert_eq!(ROWS.len(), guest.matches("::WORKLOAD,").count());
        assert!(ROWS.is_sorted_by_key(|row| row.name));
        for row in ROWS {
            let Row { name, source } = row;
            assert!(source.contains(&format!("name: {name:?}")), "{name}");
            let min_cpus = format!("min_cpus: {}", row.min_cpus());
            assert!(source.contains(&min_cpus), "{name}: {min_cpus}");
        }
    }

    #[test]
    fn labels_parse_for_every_number_of_cpus() {
        for row in ROWS {
            for cpus in row.min_cpus()..=9 {
                let hangs = matches!(row.expected(), Expected::Hang(_));
                let of_hangs = row.hangs(cpus).into_iter().flat_map(|(_, blamed)| blamed);
                assert!(!hangs || row.blamed(cpus) == of_hangs.collect(), "{}", row.name);
                let blamed = row.blamed(cpus);
                assert!(!hangs || !blamed.is_empty(), "{}: a hang without blame", row.name);
                assert!(blamed.is_disjoint(&row.victims(cpus)), "{}", row.name);
                assert!(row.locks().iter().all(|lock| !lock.is_empty()), "{}", row.name);
            }
        }
    }

    #[test]
    fn workload_heads_promise_a_stack_for_each_cpu() {
        for Row { name, source } in ROWS {
            let mut promised: Vec<u32> =
                promises(source, 8).into_iter().flat_map(|promise| promise.cpus).collect();
            promised.sort_unstable();
            let with_a_stack = match *name {
                "exit" => 0..0,
                "boot-stall" => 0..1,
                _ => 0..8,
            };
            assert_eq!(promised, Vec::from_iter(with_a_stack), "{name}");
        }
    }

    #[test]
    fn blamed_parties_are_named_as_in_reports() {
        let rows: [(&str, u32, &[&str]); 7] = [
            ("abba-deadlock", 2, &["cpu0", "cpu1"]),
            ("spin-irqs-off", 1, &["cpu0"]),
            ("spin-irqs-off", 5, &["cpu2"]),
            ("ap-never-starts", 8, &["cpu7"]),
            ("lost-wakeup", 4, &["worker"]),
            ("mutex-deadlock", 4, &["reader", "writer"]),
            ("idle", 4, &[]),
        ];
        for (name, cpus, blamed) in rows {
            let row = find(name).expect("a workload");
            assert_eq!(row.blamed(cpus).iter().collect::<Vec<_>>(), blamed, "{name}/{cpus}");
        }
        let row = find("hog-and-dead").expect("a workload");
        let of = |cpu: &str| BTreeSet::from([cpu.to_owned()]);
        let hangs = [(Class::DeadHalt, of("cpu3")), (Class::SoftLockup, of("cpu0"))];
        assert_eq!(row.hangs(4), hangs);
        let row = find("forgotten-unlock").expect("a workload");
        assert_eq!(row.victims(3).iter().collect::<Vec<_>>(), ["cpu0", "cpu2"]);
    }
}
