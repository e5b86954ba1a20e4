//! The stacks of those who are to blame, and what in them tells where they are.

use nmiscope_report::{
    Backtrace, Cpu, CpuState, Frame, Hang, NodeKind, Outcome, Report, TaskState, Trigger,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::finding::{Finding, Kind};

/// Tells whether a function, by its full name, is one in which everybody ends up: one to wait or to
/// panic in, in any kernel. The caller knows kernels.
pub type IsPlumbing = fn(&str) -> bool;

/// The stack of somebody who is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stack {
    /// Whose it is: CPUs and tasks, of which each has this stack.
    pub of: Vec<String>,
    /// Its functions, by their full names, innermost first, without those that tell nothing: ways to
    /// wait and to panic. At most 16.
    pub functions: Vec<String>,
}

/// So many stacks of so many functions are kept.
const MAX_STACKS: usize = 8;
const MAX_FUNCTIONS: usize = 16;

/// The stacks of those who are to blame for a finding of this report.
pub fn of_blamed(report: &Report, finding: &Finding, is_plumbing: IsPlumbing) -> Vec<Stack> {
    let mut stacks: Vec<Stack> = Vec::new();
    let mut add = |of: &str, frames: &[Frame]| {
        let functions = functions(frames, is_plumbing);
        if functions.is_empty() {
            return;
        }
        match stacks.iter().position(|stack| stack.functions == functions) {
            Some(same) => stacks[same].of.push(of.into()),
            None if stacks.len() == MAX_STACKS => {}
            None => stacks.push(Stack { of: vec![of.into()], functions }),
        }
    };
    if finding.kind == Kind::Hang {
        let hang = report.hangs.iter().find(|hang| hang.signature == finding.signature);
        if let Some(hang) = hang {
            for party in &hang.blamed {
                add(party, frames_of_party(report, hang, party));
            }
        }
    } else {
        for cpu in cpus_at_end(report) {
            add(&format!("cpu{}", cpu.cpu), frames_of(cpu));
        }
    }
    stacks
}

fn frames_of_party<'a>(report: &'a Report, hang: &Hang, party: &str) -> &'a [Frame] {
    let backtrace = hang.backtrace.and_then(|index| report.backtraces.get(index as usize));
    let node = hang.nodes.iter().find(|node| node.id == party);
    let (Some(backtrace), Some(node)) = (backtrace, node) else { return &[] };
    let cpu = match &node.kind {
        NodeKind::Cpu { cpu, .. } | NodeKind::Task { cpu, state: TaskState::Running, .. } => cpu,
        NodeKind::Task { task, .. } => {
            let task = backtrace.tasks.iter().find(|of| of.task == *task);
            return task.and_then(|task| task.host_stack.as_ref()).map_or(&[], |look| &look.frames);
        }
        NodeKind::Lock { .. } | NodeKind::Queue { .. } => return &[],
    };
    backtrace.cpus.iter().find(|of| of.cpu == *cpu).map_or(&[], frames_of)
}

fn functions(frames: &[Frame], is_plumbing: IsPlumbing) -> Vec<String> {
    let telling = names(frames).filter(|name| is_telling(name, is_plumbing)).take(MAX_FUNCTIONS);
    let telling: Vec<String> = telling.map(Into::into).collect();
    // All of it says nothing: then that is what there is.
    if telling.is_empty() {
        names(frames).take(MAX_FUNCTIONS).map(Into::into).collect()
    } else {
        telling
    }
}

/// The CPUs that it is about how a VM ended: the one that panicked, or all that ran when the time was
/// over.
pub fn cpus_at_end(report: &Report) -> Vec<&Cpu> {
    let taken_for = |wanted: fn(&Trigger) -> bool| {
        let last = report.backtraces.iter().rev().find(|taken| wanted(&taken.trigger));
        last.map_or(&[][..], |taken: &Backtrace| &taken.cpus)
    };
    match &report.outcome {
        Outcome::Panic { cpu, .. } | Outcome::Crash { cpu, .. } => {
            let cpus = taken_for(|trigger| *trigger == Trigger::GuestEnded);
            cpus.iter().filter(|of| of.cpu == *cpu).collect()
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

/// How a kernel panics, beyond what no stack is told from another by: by the start of a function's
/// path.
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

fn is_telling(function: &str, is_plumbing: IsPlumbing) -> bool {
    !is_plumbing(function) && !PANICKING.iter().any(|start| function.starts_with(start))
}

fn names(frames: &[Frame]) -> impl Iterator<Item = &str> {
    let functions = frames.iter().flat_map(|frame| &frame.functions);
    functions.filter_map(|function| function.name.as_deref())
}

/// Where a stack is.
pub fn place(frames: &[Frame], is_plumbing: IsPlumbing) -> Option<&str> {
    names(frames).find(|name| is_telling(name, is_plumbing))
}

/// What is known of a CPU's stack: as the host saw it, or else as the guest printed it.
pub fn frames_of(cpu: &Cpu) -> &[Frame] {
    let look = cpu.host_stack.as_ref().map(|look| look.frames.as_slice());
    let word = cpu.guest_trace.as_ref().map(|word| word.frames.as_slice());
    look.filter(|frames| !frames.is_empty()).or(word).unwrap_or_default()
}

/// The plumbing in the stored reports that tests here read.
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
    use crate::triage::glance;

    const DEADLOCK: &str = include_str!("../../../tests/offline/cores/abba-deadlock.json");
    const TASKS: &str = include_str!("../../../tests/offline/cores/mutex-deadlock.json");
    const PANIC: &str = include_str!("../../../tests/offline/cores/null-deref.json");

    fn stacks_of(text: &str) -> Vec<Stack> {
        let finding = glance::of_text(text.as_bytes(), stored_plumbing).unwrap().findings.remove(0);
        of_blamed(&serde_json::from_str(text).unwrap(), &finding, stored_plumbing)
    }

    #[test]
    fn the_blamed_have_their_stacks_be_they_cpus_or_tasks() {
        let rows: [(&str, &[&str], &str); 3] = [
            (DEADLOCK, &["cpu0", "cpu1"], "abba_deadlock::"),
            (TASKS, &["reader", "writer"], "mutex_deadlock::"),
            (PANIC, &["cpu1"], "null_deref::"),
        ];
        for (text, blamed, part) in rows {
            let stacks = stacks_of(text);
            let of: Vec<&String> = stacks.iter().flat_map(|stack| &stack.of).collect();
            assert_eq!(of, blamed);
            for stack in stacks {
                assert!(stack.functions[..2].iter().any(|name| name.contains(part)), "{stack:?}");
            }
        }
    }
}
