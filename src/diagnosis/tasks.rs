//! Tasks that do not run, as reports have them: their waits and stacks.
//!
//! Owns their form in a report; refuses to own their stacks (`capture`) and states (`kernel`). Called by
//! the parent module.

use std::time::Duration;

use nmiscope_report as report;

use super::waits::lock_name;
use super::{Resolver, milliseconds, show_stack};
use crate::capture::host_stack::UnwoundStack;
use crate::kernel::{KernelState, KernelTask, TaskRunState, WaitFor};

/// Returns the tasks as a report has them. `stacks` is indexed by task number.
pub fn show(
    kernel: Option<&KernelState>,
    stacks: &[Option<UnwoundStack>],
    resolver: &Resolver<'_>,
) -> Vec<report::Task> {
    let tasks = kernel.map_or(&[][..], |kernel| &kernel.tasks);
    let now = kernel.and_then(|kernel| kernel.now_ns);
    let show = |(number, (task, stack)): (u32, (&Option<KernelTask>, &Option<UnwoundStack>))| {
        let task = task.as_ref().filter(|task| task.state.is_off_cpu() || stack.is_some())?;
        let asleep = now.zip(task.since_ns).map(|(now, since)| now.saturating_sub(since));
        let waits_for = task.wait.as_ref().map(|wait| match wait.what {
            WaitFor::Lock(address) | WaitFor::Queue(address) => lock_name(address, resolver),
            WaitFor::Call(cpu) | WaitFor::Online(cpu) => format!("cpu{cpu}"),
        });
        Some(report::Task {
            task: number,
            name: task.name.clone(),
            cpu: task.cpu,
            state: task.state.into(),
            waits_for,
            asleep_ms: asleep.map(|asleep| milliseconds(Duration::from_nanos(asleep))),
            switches: task.switches,
            host_stack: stack.as_ref().map(|stack| show_stack(stack, resolver)),
        })
    };
    (0..).zip(tasks.iter().zip(stacks)).filter_map(show).collect()
}

/// Counts the tasks that wait for work or for an event and whose stacks were not read.
pub fn count_sleeping(kernel: Option<&KernelState>, stacks: &[Option<UnwoundStack>]) -> u32 {
    let tasks = kernel.map_or(&[][..], |kernel| &kernel.tasks).iter().zip(stacks);
    let is_left_out = |(task, stack): &(&Option<KernelTask>, &Option<UnwoundStack>)| {
        let sleeps = task.as_ref().is_some_and(|task| task.state == TaskRunState::Sleeping);
        sleeps && stack.is_none()
    };
    tasks.filter(is_left_out).count() as u32
}
