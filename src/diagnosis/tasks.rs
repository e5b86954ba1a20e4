//! The kernel's tasks that do not run: what they wait for, and their stacks.

use nmiscope_machine::{PageTables, PhysicalMemory, UnwindRegisters};

use super::hangs::lock_name;
use super::host_look::{HostLook, look_from};
use super::{Resolver, show_look};
use crate::kernel::{KernelState, Symbols, Task, TaskState, WaitFor};
use crate::report;

/// Looks at the stacks of all tasks that do not run, by task number.
pub fn look_at_tasks(
    kernel: Option<&KernelState>,
    tables: &Result<PageTables, String>,
    symbols: Option<&dyn Symbols>,
    memory: &dyn PhysicalMemory,
) -> Vec<Option<HostLook>> {
    let tasks = kernel.map_or(&[][..], |kernel| &kernel.tasks);
    let look = |task: &Option<Task>| {
        let task = task.as_ref().filter(|task| is_off(task))?;
        let registers = UnwindRegisters::from(task.registers.as_ref()?);
        Some(look_from(&registers, tables.clone(), symbols, memory))
    };
    tasks.iter().map(look).collect()
}

fn is_off(task: &Task) -> bool {
    matches!(task.state, TaskState::Ready | TaskState::Blocked)
}

/// What a report says of them.
pub fn show(
    kernel: Option<&KernelState>,
    looks: &[Option<HostLook>],
    resolver: &Resolver<'_>,
) -> Vec<report::Task> {
    let tasks = kernel.map_or(&[][..], |kernel| &kernel.tasks);
    let show = |(number, (task, look)): (u32, (&Option<Task>, &Option<HostLook>))| {
        let task = task.as_ref().filter(|task| is_off(task))?;
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
            switches: task.switches,
            look: look.as_ref().map(|look| show_look(look, resolver)),
        })
    };
    (0..).zip(tasks.iter().zip(looks)).filter_map(show).collect()
}
