//! What is seen of a guest at one moment, as plain numbers. Addresses are guest-virtual and mean
//! nothing here but that equal ones are the same thing.

use std::collections::BTreeMap;
use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes, TaskRegisters};
use serde::{Deserialize, Serialize};

/// What is seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// When, since any fixed moment.
    pub at: Duration,
    /// By vCPU number.
    pub vcpus: Vec<Vcpu>,
    /// How many bytes the guest has printed so far.
    pub console_bytes: u64,
    /// What the kernel says of itself; `None` where its structures are not known, or cannot be read.
    pub kernel: Option<KernelState>,
}

/// A vCPU, from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vcpu {
    /// What its thread has had of the host's CPUs; `None` where that cannot be told.
    pub times: Option<HostTimes>,
    /// Its state; `None` where nobody has asked, since that stops it for a moment.
    pub sample: Option<VcpuSample>,
    /// What the host has counted of it so far.
    pub counts: HostCounts,
}

impl Vcpu {
    /// Its state as far as it follows from an earlier observation and from what the host has counted
    /// since, so that it need not be stopped for it; `None` if it does not.
    pub fn sample_without_asking(&self, before: &Self) -> Option<VcpuSample> {
        let asleep = self.times?.asleep;
        let same = |before: Option<u64>, now: Option<u64>| Some(before? == now?);
        if same(before.counts.interrupts, self.counts.interrupts) == Some(false) {
            return Some(VcpuSample { halted: asleep, interrupts_on: true, started: true });
        }
        // In the same HLT as then: what ends one is an interrupt, and then it runs, or halts anew.
        // One that had not been started has not been since, for the same reason.
        let slept = before.sample.filter(|sample| asleep && (sample.halted || !sample.started));
        slept.filter(|_| same(before.counts.halts, self.counts.halts) == Some(true))
    }
}

/// A vCPU's state, as far as it matters here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSample {
    /// In HLT.
    pub halted: bool,
    /// RFLAGS.IF.
    pub interrupts_on: bool,
    /// It runs, or could: it has been started, and not been reset.
    pub started: bool,
}

/// The kernel's own account of what it is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// The CPU that panics.
    pub panicking: Option<u32>,
    /// By CPU number; `None` for one that cannot be read.
    pub cpus: Vec<Option<CpuActivity>>,
    /// By task number; `None` for one that does not exist.
    pub tasks: Vec<Option<Task>>,
    /// The locks that somebody waits for, by address.
    pub locks: BTreeMap<u64, Lock>,
}

/// What a CPU does, by the kernel's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuActivity {
    /// It runs the kernel.
    pub online: bool,
    /// Advanced by its timer interrupt.
    pub tick: u64,
    /// Advanced by its main loop, which is its scheduler.
    pub main_loop: u64,
    /// Interrupts that it has taken.
    pub interrupts: u64,
    /// Tasks that could run there, and do not.
    pub ready_tasks: u32,
    /// Work items given to it.
    pub work_queued: u64,
    /// Work items that it has finished.
    pub work_done: u64,
    /// The task that it runs; `None` for its own main loop.
    pub task: Option<u32>,
    /// What it waits for, spinning.
    pub wait: Option<Wait>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// The CPU that it runs on.
    pub cpu: u32,
    /// What it does.
    pub state: TaskState,
    /// How often it was switched to.
    pub switches: u64,
    /// What it sleeps for.
    pub wait: Option<Wait>,
    /// Its registers while it does not run; `None` where nobody has looked, or they cannot be read.
    pub registers: Option<TaskRegisters>,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// It could run.
    Ready,
    /// It runs.
    Running,
    /// It sleeps until somebody wakes it.
    Blocked,
    /// It has ended.
    Ended,
    /// The guest has something there that means nothing.
    Garbage(u32),
}

/// Somebody waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// For what.
    pub what: WaitFor,
    /// Since when, in nanoseconds of the guest's clock: tells one wait from the next.
    pub since_ns: u64,
    /// The call that waits.
    pub at: Site,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitFor {
    /// A lock, by its address.
    Lock(u64),
    /// To be woken, by the address of the queue.
    Queue(u64),
    /// A CPU's answer to a call-function IPI.
    Call(u32),
    /// A CPU that is to come online.
    Online(u32),
}

/// A place in the guest's source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Where the guest describes it, guest-virtual; 0 for nowhere.
    pub address: u64,
    /// File and line; `None` where they have not been read, or cannot be.
    pub line: Option<(String, u32)>,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// What kind.
    pub kind: LockKind,
    /// Who has it: the number of a CPU, or of a task where tasks hold locks of this kind.
    pub holder: Option<u32>,
    /// Where it was last taken.
    pub taken_at: Site,
    /// When, in nanoseconds of the guest's clock: tells one holder from the next.
    pub taken_ns: u64,
}

/// The kinds of locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// A CPU spins for it, and a CPU holds it.
    Spin,
    /// The same, first come, first served.
    Ticket,
    /// A task sleeps for it, and a task holds it.
    Mutex,
    /// The guest has something there that means nothing.
    Garbage(u32),
}
