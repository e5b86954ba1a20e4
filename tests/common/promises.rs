//! Comparison of the stacks in a report with those that the head of a workload's file promises.

use nmiscope::hang::Class;
use nmiscope_farm::corpus::{Expected, Row, promises};
use nmiscope_report::{Backtrace, Cpu, CpuFinding, CpuState, Report};

use super::{answered, frame_functions, functions, is_subsequence, seen_functions};

/// Returns the stacks that differ from those in the head of the row's file.
pub fn broken_promises(row: &Row, report: &Report) -> Vec<String> {
    let stacks = report.backtraces.iter().flat_map(|backtrace| promised_stacks(row, backtrace));
    let broken = stacks.filter(|(_, wanted, found)| !is_subsequence(wanted, found));
    broken.map(|(whose, wanted, found)| format!("{whose}: {found:?}, not {wanted:?}")).collect()
}

/// Returns true if a CPU still runs its main loop, at least when a tick wakes it.
fn makes_progress(row: &Row, cpu: u32, cpus: u32) -> bool {
    match row.expected() {
        Expected::Hang(Class::Livelock | Class::LostWakeup) => true,
        _ => {
            let name = format!("cpu{cpu}");
            !row.blamed(cpus).contains(&name) && !row.victims(cpus).contains(&name)
        }
    }
}

/// Returns true if the guest's trace of a CPU lacks frames, as its report says, and no promise can be held
/// against it. The NMI may interrupt a function of a CPU that makes progress before it has set up its
/// frame, and the guest follows frame pointers.
pub fn may_lack_frames(row: &Row, cpu: &Cpu, count: u32) -> bool {
    let lacks = |finding: &CpuFinding| matches!(finding, CpuFinding::TraceIncomplete { .. });
    makes_progress(row, cpu.cpu, count) && cpu.findings.iter().any(lacks)
}

/// Returns each stack that the head promises: its owner, the promised functions, and those found.
fn promised_stacks(
    row: &Row,
    backtrace: &Backtrace,
) -> Vec<(String, Vec<&'static str>, Vec<String>)> {
    let mut stacks = Vec::new();
    let count = backtrace.cpus.len() as u32;
    for promise in promises(row.source, count) {
        let cpus = promise.cpus.iter().map(|&cpu| &backtrace.cpus[cpu as usize]);
        // AMD's KVM resets a vCPU after a triple fault, and no stack is left.
        for cpu in cpus.filter(|cpu| cpu.state != CpuState::Reset) {
            let look = ("look", seen_functions(cpu));
            // `live` tests which CPUs take no NMI.
            let speaks = answered(cpu)
                && row.expected() != Expected::Healthy
                && !may_lack_frames(row, cpu, count);
            let word = speaks.then(|| ("word", functions(cpu)));
            for (witness, found) in word.into_iter().chain([look]) {
                let whose = format!("{witness} of cpu{}", cpu.cpu);
                stacks.push((whose, promise.functions.clone(), found));
            }
        }
        if let Some(name) = promise.task {
            let task = backtrace.tasks.iter().find(|task| task.name == name);
            let frames = task.and_then(|task| task.host_stack.as_ref()).map(|look| &look.frames);
            let found = frames.into_iter().flatten().flat_map(frame_functions).collect();
            stacks.push((format!("task {name}"), promise.functions, found));
        }
    }
    stacks
}
