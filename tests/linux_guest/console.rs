//! Stacks that a Linux guest prints on its console, as a second opinion on those in a report.
//!
//! Owns the reading of the kernel's text: traces (arch/x86/kernel/dumpstack.c, `show_trace_log_lvl`) and the heads of
//! tasks (kernel/sched/core.c, `sched_show_task`). Refuses to own the guest and what is compared.

use std::collections::BTreeMap;

/// Function names of stacks, innermost first, by the name and number of the task, such as `insmod/123`.
pub(super) type TaskStacks = BTreeMap<String, Vec<String>>;

/// Returns the functions of the last trace on the console that the kernel vouches for, innermost first.
pub(super) fn last_trace(console: &str) -> Vec<String> {
    let (_, trace) = console.rsplit_once("Call Trace:").expect("a call trace");
    trace_at_start(trace)
}

/// Returns the stacks of tasks that sysrq-w and sysrq-t print.
pub(super) fn task_stacks(console: &str) -> TaskStacks {
    let mut stacks = TaskStacks::new();
    // Text before the first head belongs to no task.
    for text in console.split("] task:").skip(1) {
        let (name, rest) = text.split_once(" state:").expect("a state");
        let (_, number) = rest.split_once(" pid:").expect("a number");
        let number = number.split_whitespace().next().expect("a number");
        let trace = text.split_once("Call Trace:").map(|(_, trace)| trace_at_start(trace));
        stacks.insert(format!("{}/{number}", name.trim_end()), trace.unwrap_or_default());
    }
    stacks
}

/// Returns the functions of the trace that a text begins with. The kernel marks with a question mark what it only found
/// on the stack.
fn trace_at_start(text: &str) -> Vec<String> {
    let function = |line: &str| {
        let (_, text) = line.split_once("] ")?;
        let text = text.trim();
        let (name, offset) = text.split_once("+0x")?;
        let is_entry = !text.starts_with('?') && offset.contains('/') && !name.contains(' ');
        is_entry.then(|| name.to_owned())
    };
    text.lines().take_while(|line| !line.contains("</TASK>")).filter_map(function).collect()
}
