//! Context of a CPU as reports have it: its task, and what its kernel has disabled or serves.
//!
//! Owns that form; refuses to own where a kernel keeps it (`kernel`). Called by the parent module.

use std::time::Duration;

use nmiscope_report::KernelContext;

use super::milliseconds;
use crate::kernel::KernelState;

/// Returns the context of a CPU; `None` for a kernel that keeps none.
pub fn context(kernel: &KernelState, cpu: u32) -> Option<KernelContext> {
    let activity = kernel.cpu(cpu)?;
    let context = activity.context.as_ref()?;
    let task = activity.task.and_then(|task| kernel.task(task));
    let since = |at| kernel.now_ns.map(|now| Duration::from_nanos(now.saturating_sub(at)));
    Some(KernelContext {
        task: task.map(|task| task.name.clone()),
        preemption_disabled: context.preemption_disabled,
        serves_softirq: context.serves_softirq,
        softirqs_disabled: context.softirqs_disabled,
        hard_interrupts: context.hard_interrupts,
        nmis: context.nmis,
        pending_softirqs: context.pending_softirqs.clone(),
        ready_tasks: activity.ready_tasks,
        tick_age_ms: activity.tick_ns.and_then(since).map(milliseconds),
    })
}
