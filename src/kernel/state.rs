//! State of a guest's kernel in terms that all kernels share: CPUs, tasks, locks, and waits.
//!
//! Owns the model; refuses to own its places in memory (the adapters) and its faults (`hang`). Addresses
//! are guest-virtual; only the adapter reads them. Stored in cores.

use std::collections::BTreeMap;
use std::time::Duration;

use nmiscope_machine::TaskRegisters;
use serde::{Deserialize, Serialize, Serializer};

/// Result of reading a kernel's state at one moment. Stored as the state itself, as `null` if the kernel
/// is unknown, and as the reason if it could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Stored>")]
pub enum Reading {
    /// The kernel is known, and this is its state.
    Known(KernelState),
    /// The kernel is known, but its state could not be read: a later try may succeed.
    Unreadable {
        /// The reason why it could not be read.
        unreadable: String,
    },
    /// The kernel is unknown: there is nothing to try.
    #[default]
    Unknown,
}

/// Stored form of a state or a reason. Not an untagged enum, in which serde does not support numbers as
/// keys.
#[derive(Deserialize)]
struct Stored {
    unreadable: Option<String>,
    panicking: Option<u32>,
    #[serde(default)]
    in_debugger: Option<u32>,
    #[serde(default)]
    cpus: Vec<Option<CpuActivity>>,
    #[serde(default)]
    tasks: Vec<Option<KernelTask>>,
    #[serde(default)]
    locks: BTreeMap<u64, Lock>,
    #[serde(default)]
    now_ns: Option<u64>,
    patience: Option<Patience>,
}

impl From<Option<Stored>> for Reading {
    fn from(stored: Option<Stored>) -> Self {
        match stored {
            None => Self::Unknown,
            Some(Stored { unreadable: Some(unreadable), .. }) => Self::Unreadable { unreadable },
            Some(Stored {
                panicking, in_debugger, cpus, tasks, locks, now_ns, patience, ..
            }) => Self::Known(KernelState {
                panicking,
                in_debugger,
                cpus,
                tasks,
                locks,
                now_ns,
                patience,
            }),
        }
    }
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(state) => state.serialize(to),
            Self::Unreadable { unreadable } => {
                BTreeMap::from([("unreadable", unreadable)]).serialize(to)
            }
            Self::Unknown => to.serialize_none(),
        }
    }
}

impl Reading {
    /// Returns the state; `None` if it could not be read.
    pub fn known(&self) -> Option<&KernelState> {
        match self {
            Self::Known(state) => Some(state),
            Self::Unreadable { .. } | Self::Unknown => None,
        }
    }

    /// Makes a reading from the result of a try.
    pub fn from_result<E: std::error::Error>(state: Result<KernelState, E>) -> Self {
        state.map_or_else(
            |error| Self::Unreadable { unreadable: crate::error_chain(&error) },
            Self::Known,
        )
    }
}

/// State of a kernel, as its own records have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// The number of the CPU that panics; `None` if none does.
    pub panicking: Option<u32>,
    /// The number of the CPU whose debugger has stopped the kernel; `None` if none has. A stopped kernel
    /// makes no progress, and does not hang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_debugger: Option<u32>,
    /// The CPUs by number; `None` for one that cannot be read.
    pub cpus: Vec<Option<CpuActivity>>,
    /// The tasks by number; `None` for one that does not exist.
    pub tasks: Vec<Option<KernelTask>>,
    /// The locks that are waited for, by guest-virtual address.
    pub locks: BTreeMap<u64, Lock>,
    /// The latest time that the kernel has recorded, in nanoseconds of the guest's clock: a lower bound
    /// of the time at which the state was read. `None` if the kernel records no times.
    #[serde(default)]
    pub now_ns: Option<u64>,
    /// The times that the kernel itself gives its CPUs and tasks; `None` if it does not watch them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
}

/// Times after which a kernel itself takes a CPU or a task for stuck: shorter ones are normal in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// The time without a timer interrupt.
    pub tick: Duration,
    /// The time without a switch of tasks.
    pub schedule: Duration,
    /// The time of an uninterruptible sleep.
    pub sleep: Duration,
}

impl KernelState {
    /// Returns true while a debugger has stopped the kernel.
    pub fn is_in_debugger(&self) -> bool {
        self.in_debugger.is_some()
    }

    /// Returns a task by number; `None` if it does not exist.
    pub fn task(&self, number: u32) -> Option<&KernelTask> {
        self.tasks.get(number as usize)?.as_ref()
    }

    /// Returns true for a task that could run and that its CPU does not run: it is ready, on an offline CPU
    /// too, or is recorded as running while its online CPU runs something else.
    pub fn awaits_cpu(&self, number: u32, task: &KernelTask) -> bool {
        let Some(cpu) = self.cpu(task.cpu) else { return false };
        match task.state {
            TaskRunState::Ready => true,
            TaskRunState::Running => cpu.online && cpu.task != Some(number),
            _ => false,
        }
    }

    /// Returns a CPU by number; `None` if it cannot be read.
    pub fn cpu(&self, number: u32) -> Option<&CpuActivity> {
        self.cpus.get(number as usize)?.as_ref()
    }
}

/// Activity of a CPU, by the kernel's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuActivity {
    /// True if the CPU runs the kernel.
    pub online: bool,
    /// The count of its timer interrupts.
    pub tick: u64,
    /// The count of its main loop's iterations. The main loop is its scheduler.
    pub main_loop: u64,
    /// The number of interrupts that it has taken.
    pub interrupts: u64,
    /// The number of tasks that are ready to run on it.
    pub ready_tasks: u32,
    /// The number of work items queued on it so far.
    pub work_queued: u64,
    /// The number of work items that it has finished so far.
    pub work_done: u64,
    /// The number of the task that it runs; `None` in its own main loop.
    pub task: Option<u32>,
    /// The wait in which the CPU spins; `None` if it does not.
    pub wait: Option<Wait>,
    /// The time of its last timer interrupt, in nanoseconds of the guest's clock; `None` if the kernel
    /// does not record it.
    #[serde(default)]
    pub tick_ns: Option<u64>,
    /// The time at which its main loop last advanced, in the same clock; `None` if the kernel does not
    /// record it.
    #[serde(default)]
    pub main_loop_ns: Option<u64>,
    /// True if it waits for a lock in HLT with interrupts off, until the hypervisor wakes it (paravirtual spinlocks).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_in_halt: bool,
    /// The context that it executes in; `None` if the kernel does not record it.
    #[serde(default)]
    pub context: Option<CpuContext>,
}

/// Context that a CPU executes in, by the kernel's own count. `nmiscope_report::CpuContext` is its form in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuContext {
    /// True for a CPU that runs its idle task.
    pub is_idle: bool,
    /// The number of times that preemption was disabled and not enabled again; a held spinlock is one.
    pub preemption_disabled: u32,
    /// True while a softirq is served.
    pub serves_softirq: bool,
    /// The number of times that softirqs were disabled and not enabled again.
    pub softirqs_disabled: u32,
    /// The number of hard interrupts that are being served, one inside the other.
    pub hard_interrupts: u32,
    /// The number of NMIs that are being served, one inside the other.
    pub nmis: u32,
    /// The names of the softirqs that are pending, as the kernel has them.
    pub pending_softirqs: Vec<String>,
}

impl CpuActivity {
    /// Returns true if it has unfinished work. More finished than queued work is garbage, or was read in
    /// between.
    pub fn has_work(&self) -> bool {
        self.work_queued > self.work_done
    }
}

/// Task of the kernel. `nmiscope_report::Task` is its form in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTask {
    /// The name of the task.
    pub name: String,
    /// The number of the CPU that it runs on.
    pub cpu: u32,
    /// The run state of the task.
    pub state: TaskRunState,
    /// The number of times that it was switched to.
    pub switches: u64,
    /// The wait in which the task sleeps; `None` if it does not.
    pub wait: Option<Wait>,
    /// The time since which it has not run, in nanoseconds of the guest's clock; `None` for a task that runs, and if
    /// the kernel does not record it.
    #[serde(default)]
    pub since_ns: Option<u64>,
    /// The registers that were saved when it was switched from; `None` if they were not read, or cannot
    /// be.
    pub registers: Option<TaskRegisters>,
}

impl KernelTask {
    /// Returns true for a task that sleeps until another party wakes it.
    pub fn is_asleep(&self) -> bool {
        matches!(self.state, TaskRunState::Blocked | TaskRunState::Sleeping)
    }
}

/// Run state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskRunState {
    /// The task could run, and waits for its CPU.
    Ready,
    /// The task runs on its CPU.
    Running,
    /// The task sleeps until it is woken.
    Blocked,
    /// The task waits for work or for an event, for as long as that takes. Kernels that make a difference have
    /// this state for the sleep of daemons and idle workers, which is no sign of a hang.
    Sleeping,
    /// The task has ended, and runs no more.
    Ended,
    /// A value that the guest does not define.
    Garbage(u32),
}

impl TaskRunState {
    /// Returns true for a task that exists and that no CPU runs: its stack can be unwound from saved
    /// registers.
    pub fn is_off_cpu(self) -> bool {
        matches!(self, Self::Ready | Self::Blocked)
    }
}

/// Wait of a CPU or a task.
///
/// The bundled guest has a type of the same name, the record in its memory; this is any kernel's, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The thing that is waited for.
    pub what: WaitFor,
    /// The start of the wait in nanoseconds of the guest's clock, which distinguishes one wait from the
    /// next.
    pub since_ns: u64,
    /// The place of the waiting call in the source.
    pub at: Site,
    /// The way in which the wait may end by itself; `None` if only the party that is waited for can end
    /// it.
    #[serde(default)]
    pub ends_by: Option<EndsBy>,
}

/// Way in which a wait may end although its condition does not come true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndsBy {
    /// A timeout of the wait.
    Timeout,
    /// A signal to the task.
    Signal,
    /// The waiter gives up after a number of tries, or backs off for others.
    BackOff,
}

/// Thing that is waited for.
///
/// The bundled guest has a type of the same name, with its own addresses; this is any kernel's, as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitFor {
    /// A lock, by its address.
    Lock(u64),
    /// A wake-up from a queue, by the queue's address.
    Queue(u64),
    /// A CPU's answer to a call-function IPI, by the CPU's number.
    Call(u32),
    /// A CPU's coming online, by its number.
    Online(u32),
}

/// Place in the guest's source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The guest-virtual address of the guest's description of it; 0 for no place.
    pub address: u64,
    /// The file and line; `None` if they were not read, or cannot be.
    pub line: Option<(String, u32)>,
}

/// Record of a lock and its holder.
///
/// The bundled guest has a type of the same name, the lock itself; this is any kernel's, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The kind of the lock.
    pub kind: LockKind,
    /// The number of the CPU that holds it, or of the task if tasks hold locks of this kind; `None` if no
    /// holder is recorded.
    pub holder: Option<u32>,
    /// The place in the source where it was last taken.
    pub taken_at: Site,
    /// The time at which it was last taken, in nanoseconds of the guest's clock, which distinguishes one
    /// holder from the next.
    pub taken_ns: u64,
}

/// Kind of a lock. `nmiscope_report::LockKind` has the same kinds, with garbage as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// A spinlock: a CPU spins for it, and a CPU holds it.
    Spin,
    /// A ticket lock: a spinlock whose waiters take turns.
    Ticket,
    /// A mutex: a task sleeps for it, and a task holds it.
    Mutex,
    /// A semaphore of readers and writers: a task sleeps for it, and one writing task or several reading tasks hold
    /// it. Readers are not recorded as holders.
    RwSemaphore,
    /// A value that the guest does not define.
    Garbage(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_stored_as_state_or_null_or_reason() {
        let (kind, taken_at) = (LockKind::Spin, Site::default());
        let lock = Lock { kind, holder: None, taken_at, taken_ns: 9 };
        let locks = BTreeMap::from([(4096, lock)]);
        let state = KernelState { panicking: Some(1), locks, ..KernelState::default() };
        let unreadable = "no vCPU has registers".to_owned();
        let table = [
            (
                Reading::Known(state),
                concat!(
                    r#"{"panicking":1,"cpus":[],"tasks":[],"locks":{"4096":{"kind":"Spin","#,
                    r#""holder":null,"taken_at":{"address":0,"line":null},"taken_ns":9}},"now_ns":null}"#
                ),
            ),
            (Reading::Unreadable { unreadable }, r#"{"unreadable":"no vCPU has registers"}"#),
            (Reading::Unknown, "null"),
        ];
        for (reading, stored) in table {
            assert_eq!(serde_json::to_string(&reading).expect("text"), stored);
            assert_eq!(serde_json::from_str::<Reading>(stored).expect("a reading"), reading);
        }
    }
}
