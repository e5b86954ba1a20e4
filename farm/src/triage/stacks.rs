//! Stacks of the parties to blame, and the functions in them that distinguish one failure from another.
//!
//! Owns the choice of stacks and functions; refuses to know any kernel's functions (its caller supplies
//! the test). Called by `report_summary` and `groups`.

use nmiscope_report::{
    Backtrace, Cpu, CpuState, Frame, Hang, NodeKind, Outcome, Report, TaskState, Trigger,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::failure::{Failure, FailureKind};

/// Test for functions, by their full names, that occur in most failures of any kernel because they wait or
/// panic. The caller knows the kernels.
pub type IsPlumbing = fn(&str) -> bool;

/// A stack that one or several blamed parties have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stack {
    /// Names of the CPUs and tasks that have this stack.
    pub parties: Vec<String>,
    /// Full names of the stack's functions, innermost first, without those that wait or panic; at most 16.
    pub functions: Vec<String>,
}

/// Maximum numbers of stacks, and of functions in each.
const MAX_STACKS: usize = 8;
const MAX_FUNCTIONS: usize = 16;

/// Returns the stacks of the parties to blame for a failure in this report.
pub fn blamed_stacks(report: &Report, failure: &Failure, is_plumbing: IsPlumbing) -> Vec<Stack> {
    let mut stacks: Vec<Stack> = Vec::new();
    let mut add = |party: &str, frames: &[Frame]| {
        let functions = functions(frames, is_plumbing);
        if functions.is_empty() {
            return;
        }
        match stacks.iter().position(|stack| stack.functions == functions) {
            Some(same) => stacks[same].parties.push(party.into()),
            None if stacks.len() == MAX_STACKS => {}
            None => stacks.push(Stack { parties: vec![party.into()], functions }),
        }
    };
    if failure.kind == FailureKind::Hang {
        let hang = report.hangs.iter().find(|hang| hang.signature == failure.signature);
        if let Some(hang) = hang {
            for party in &hang.blamed {
                add(party, party_frames(report, hang, party));
            }
        }
    } else {
        for cpu in cpus_at_end(report) {
            add(&format!("cpu{}", cpu.cpu), cpu_frames(cpu));
        }
    }
    stacks
}

fn party_frames<'a>(report: &'a Report, hang: &Hang, party: &str) -> &'a [Frame] {
    let backtrace = hang.backtrace.and_then(|index| report.backtraces.get(index as usize));
    let node = hang.nodes.iter().find(|node| node.id == party);
    let (Some(backtrace), Some(node)) = (backtrace, node) else { return &[] };
    let cpu = match &node.kind {
        NodeKind::Cpu { cpu, .. } | NodeKind::Task { cpu, state: TaskState::Running, .. } => cpu,
        NodeKind::Task { task, .. } => {
            let task = backtrace.tasks.iter().find(|entry| entry.task == *task);
            return task
                .and_then(|task| task.host_stack.as_ref())
                .map_or(&[], |stack| &stack.frames);
        }
        NodeKind::Lock { .. } | NodeKind::Queue { .. } => return &[],
    };
    backtrace.cpus.iter().find(|entry| entry.cpu == *cpu).map_or(&[], cpu_frames)
}

fn functions(frames: &[Frame], is_plumbing: IsPlumbing) -> Vec<String> {
    let significant =
        names(frames).filter(|name| is_significant(name, is_plumbing)).take(MAX_FUNCTIONS);
    let significant: Vec<String> = significant.map(Into::into).collect();
    // If every function waits or panics, they are all there is to show.
    if significant.is_empty() {
        names(frames).take(MAX_FUNCTIONS).map(Into::into).collect()
    } else {
        significant
    }
}

/// Returns the CPUs that a guest's end is about: the one that panicked, or all that ran when the time
/// limit was exceeded.
pub fn cpus_at_end(report: &Report) -> Vec<&Cpu> {
    let taken_for = |wanted: fn(&Trigger) -> bool| {
        let last = report.backtraces.iter().rev().find(|taken| wanted(&taken.trigger));
        last.map_or(&[][..], |taken: &Backtrace| &taken.cpus)
    };
    match &report.outcome {
        Outcome::Panic { cpu, .. } | Outcome::Crash { cpu, .. } => {
            let cpus = taken_for(|trigger| *trigger == Trigger::GuestEnded);
            cpus.iter().filter(|entry| entry.cpu == *cpu).collect()
        }
        Outcome::Observed { panicking: Some(panicking), .. } => {
            let cpus = report.backtraces.first().map_or(&[][..], |taken| &taken.cpus);
            cpus.iter().filter(|cpu| cpu.cpu == *panicking).collect()
        }
        Outcome::TimedOut { .. } => {
            let cpus = taken_for(|trigger| *trigger == Trigger::TimeLimit);
            cpus.iter().filter(|cpu| cpu.state == CpuState::Running).collect()
        }
        _ => Vec::new(),
    }
}

/// Starts of functions that panic, in addition to the caller's.
const PANICKING: [&str; 10] = [
    "__rustc::",
    "trap_entry",
    "trap_common",
    "asm_exc_",
    "exc_",
    "oops_",
    "__die",
    "die_addr",
    "page_fault_oops",
    "dump_stack",
];

fn is_significant(function: &str, is_plumbing: IsPlumbing) -> bool {
    !is_plumbing(function) && !PANICKING.iter().any(|start| function.starts_with(start))
}

fn names(frames: &[Frame]) -> impl Iterator<Item = &str> {
    let functions = frames.iter().flat_map(|frame| &frame.functions);
    functions.filter_map(|function| function.name.as_deref())
}

/// Returns the innermost function that neither waits nor panics.
pub fn innermost_significant(frames: &[Frame], is_plumbing: IsPlumbing) -> Option<&str> {
    names(frames).find(|name| is_significant(name, is_plumbing))
}

/// Returns a CPU's stack as the host unwound it, or else as the guest printed it.
pub fn cpu_frames(cpu: &Cpu) -> &[Frame] {
    let unwound = cpu.host_stack.as_ref().map(|stack| stack.frames.as_slice());
    let printed = cpu.guest_trace.as_ref().map(|trace| trace.frames.as_slice());
    unwound.filter(|frames| !frames.is_empty()).or(printed).unwrap_or_default()
}

/// Functions that wait or panic in the stored reports of these tests.
#[cfg(test)]
pub(super) fn stored_plumbing(function: &str) -> bool {
    const STARTS: [&str; 7] = [
        "core::",
        "<core::",
        "nmiscope_guest::",
        "<nmiscope_guest::",
        "nmiscope_kernel::arch::",
        "nmiscope_kernel::panic::",
        "rust_begin_unwind",
    ];
    STARTS.iter().any(|start| function.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triage::report_summary;

    const DEADLOCK: &str = include_str!("../../../tests/offline/cores/abba-deadlock.json");
    const TASKS: &str = include_str!("../../../tests/offline/cores/mutex-deadlock.json");
    const PANIC: &str = include_str!("../../../tests/offline/cores/null-deref.json");

    fn stacks_of(text: &str) -> Vec<Stack> {
        let failure =
            report_summary::summarize(text.as_bytes(), stored_plumbing).unwrap().failures.remove(0);
        blamed_stacks(&serde_json::from_str(text).unwrap(), &failure, stored_plumbing)
    }

    #[test]
    fn blamed_cpus_and_tasks_have_their_stacks() {
        let rows: [(&str, &[&str], &str); 3] = [
            (DEADLOCK, &["cpu0", "cpu1"], "abba_deadlock::"),
            (TASKS, &["reader", "writer"], "mutex_deadlock::"),
            (PANIC, &["cpu1"], "null_deref::"),
        ];
        for (text, blamed, part) in rows {
            let stacks = stacks_of(text);
            let parties: Vec<&String> = stacks.iter().flat_map(|stack| &stack.parties).collect();
            assert_eq!(parties, blamed);
            for stack in stacks {
                assert!(stack.functions[..2].iter().any(|name| name.contains(part)), "{stack:?}");
            }
        }
    }
}
