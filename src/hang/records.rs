//! Ages from records: those of a guest that was seen once, by the times that its kernel has recorded.
//!
//! Owns what a kernel's records date: ticks, main loops, waits and locks. Time is the guest's clock
//! alone: it is not recorded if the host ran a vCPU meanwhile, so that a hang found by these ages is at
//! most likely. A value without a time has no age.

use std::time::Duration;

use super::ages::{Age, Ages, CpuAges, Unchanged, WaitKey};
use super::observation::{Observation, VcpuSample};
use crate::kernel::{CpuActivity, KernelState, Wait, WaitFor};

impl Ages {
    /// Makes the ages at the moment of an observation from its kernel's records.
    pub fn from_records(now: &Observation) -> Self {
        let samples = now.vcpus.iter().map(|vcpu| vcpu.sample);
        let Some(kernel) = now.kernel.known() else {
            let cpus = samples.map(|seen| CpuAges { seen, ..CpuAges::default() }).collect();
            return Self { cpus, ..Self::default() };
        };
        let cpus = (0..).zip(samples).map(|(number, seen)| {
            let online = kernel.cpu(number).filter(|activity| activity.online);
            online.map_or_else(CpuAges::default, |activity| cpu_ages(kernel, activity, seen))
        });
        let waits = |task: &Option<crate::kernel::KernelTask>| task.as_ref()?.wait.clone();
        let waits: Vec<Option<Wait>> = kernel.tasks.iter().map(waits).collect();
        let wait = |wait: &Option<Wait>| wait_age(kernel, wait.as_ref());
        let answer = |wait: &Option<Wait>| wait_age(kernel, wait_for_cpu(wait.as_ref()));
        let locks = kernel.locks.iter().map(|(&address, lock)| {
            let age = since(kernel, Some(lock.taken_ns));
            (address, Unchanged::with_age((lock.holder, lock.taken_ns), age))
        });
        Self {
            cpus: cpus.collect(),
            tasks: waits.iter().map(wait).collect(),
            answers: waits.iter().map(answer).collect(),
            locks: locks.collect(),
            ..Self::default()
        }
    }
}

fn cpu_ages(kernel: &KernelState, activity: &CpuActivity, seen: Option<VcpuSample>) -> CpuAges {
    let (tick, main_loop) = (since(kernel, activity.tick_ns), since(kernel, activity.main_loop_ns));
    let no_progress = [tick, main_loop].into_iter().min_by_key(|age| age.wall).unwrap_or_default();
    // No host has counted if the vCPU ran meanwhile.
    let ran = |age: Age| Age { ran: age.own, ..age };
    let (main_loop, no_progress) = (ran(main_loop), ran(no_progress));
    CpuAges {
        tick: Unchanged::with_age(activity.tick, tick),
        main_loop: Unchanged::with_age(activity.main_loop, main_loop),
        wait: wait_age(kernel, activity.wait.as_ref()),
        answer: wait_age(kernel, wait_for_cpu(activity.wait.as_ref())),
        interrupts_before: activity.interrupts,
        no_progress,
        seen,
        ..CpuAges::default()
    }
}

fn wait_age(kernel: &KernelState, wait: Option<&Wait>) -> Unchanged<WaitKey> {
    let still = |wait: &Wait| Unchanged::with_age(wait.key(), since(kernel, Some(wait.since_ns)));
    wait.map(still).unwrap_or_default()
}

/// Returns a wait if it is for another CPU to act.
fn wait_for_cpu(wait: Option<&Wait>) -> Option<&Wait> {
    wait.filter(|wait| matches!(wait.what, WaitFor::Call(_) | WaitFor::Online(_)))
}

/// Returns the time from a record to the kernel's latest one; zero if it has no time.
fn since(kernel: &KernelState, at_ns: Option<u64>) -> Age {
    let passed = kernel.now_ns.zip(at_ns).map(|(now, at)| now.saturating_sub(at));
    let passed = Duration::from_nanos(passed.unwrap_or(0));
    Age { own: passed, ran: Duration::ZERO, wall: passed }
}
