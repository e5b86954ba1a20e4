//! The state of a guest's kernel, in terms that all kernels share: CPUs, tasks, locks, and who waits
//! for what.
//!
//! Owns the model; refuses to own where a kernel keeps any of it (the adapters) and what is wrong with
//! it (`hang`). Addresses are guest-virtual; nobody but the adapter reads them. Stored in cores.

use std::collections::BTreeMap;

use nmiscope_machine::TaskRegisters;
use serde::{Deserialize, Serialize, Serializer};

/// What is known of a kernel at one moment. Stored as the state itself, as `null` where the kernel is
/// unknown, and as the reason where it could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Stored>")]
pub enum Reading {
    /// The kernel's state.
    Known(KernelState),
    /// The kernel is known, and its state could not be read this time: a later try may succeed.
    Unreadable {
        /// Why it could not be read.
        unreadable: String,
    },
    /// The kernel is unknown: there is nothing to try.
    #[default]
    Unknown,
}

/// A state or a reason, as it is stored. Not an untagged enum: serde has no numbers as keys in one.
#[derive(Deserialize)]
struct Stored {
    unreadable: Option<String>,
    panicking: Option<u32>,
    #[serde(default)]
    cpus: Vec<Option<CpuActivity>>,
    #[serde(default)]
    tasks: Vec<Option<KernelTask>>,
    #[serde(default)]
    locks: BTreeMap<u64, Lock>,
    #[serde(default)]
    now_ns: Option<u64>,
}

impl From<Option<Stored>> for Reading {
    fn from(stored: Option<Stored>) -> Self {
        match stored {
            None => Self::Unknown,
            Some(Stored { unreadable: Some(unreadable), .. }) => Self::Unreadable { unreadable },
            Some(Stored { panicking, cpus, tasks, locks, now_ns, .. }) => {
                Self::Known(KernelState { panicking, cpus, tasks, locks, now_ns })
            }
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
    /// The state, where it is known.
    pub fn known(&self) -> Option<&KernelState> {
        match self {
            Self::Known(state) => Some(state),
            Self::Unreadable { .. } | Self::Unknown => None,
        }
    }

    /// A state, or the reason why it could not be read.
    pub fn from_result<E: std::error::Error>(state: Result<KernelState, E>) -> Self {
        state.map_or_else(
            |error| Self::Unreadable { unreadable: crate::error_chain(&error) },
            Self::Known,
        )
    }
}

/// A kernel's own account of what it is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// The CPU that panics.
    pub panicking: Option<u32>,
    /// By CPU number; `None` for one that cannot be read.
    pub cpus: Vec<Option<CpuActivity>>,
    /// By task number; `None` for one that does not exist.
    pub tasks: Vec<Option<KernelTask>>,
    /// The locks that somebody waits for, by address.
    pub locks: BTreeMap<u64, Lock>,
    /// The latest time that the kernel has recorded, in nanoseconds of the guest's clock: it was no
    /// earlier than that when the state was read. `None` where nothing is dated.
    #[serde(default)]
    pub now_ns: Option<u64>,
}

impl KernelState {
    /// A task, if there is one with that number.
    pub fn task(&self, number: u32) -> Option<&KernelTask> {
        self.tasks.get(number as usize)?.as_ref()
    }

    /// A CPU, if it can be read.
    pub fn cpu(&self, number: u32) -> Option<&CpuActivity> {
        self.cpus.get(number as usize)?.as_ref()
    }
}

/// The activity of a CPU, by the kernel's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuActivity {
    /// True when the CPU runs the kernel.
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
    /// The wait in which the CPU spins.
    pub wait: Option<Wait>,
    /// The time of its last timer interrupt, in nanoseconds of the guest's clock; `None` where the
    /// kernel does not record it.
    #[serde(default)]
    pub tick_ns: Option<u64>,
    /// The time at which its main loop advanced last, likewise.
    #[serde(default)]
    pub main_loop_ns: Option<u64>,
}

impl CpuActivity {
    /// Whether it has been given work that it has not finished. One that has finished more than it was
    /// given has been read in between, or is garbage.
    pub fn has_work(&self) -> bool {
        self.work_queued > self.work_done
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTask {
    /// The name of the task.
    pub name: String,
    /// The CPU that it runs on.
    pub cpu: u32,
    /// The state of the task.
    pub state: TaskRunState,
    /// How often it was switched to.
    pub switches: u64,
    /// The wait in which the task sleeps.
    pub wait: Option<Wait>,
    /// Its registers while it does not run; `None` where nobody has looked, or they cannot be read.
    pub registers: Option<TaskRegisters>,
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskRunState {
    /// The task could run.
    Ready,
    /// The task runs.
    Running,
    /// The task sleeps until somebody wakes it.
    Blocked,
    /// The task has ended.
    Ended,
    /// The guest has something there that means nothing.
    Garbage(u32),
}

impl TaskRunState {
    /// True for a task with a stack of its own to look at: it exists, and no CPU runs it.
    pub fn is_off_cpu(self) -> bool {
        matches!(self, Self::Ready | Self::Blocked)
    }
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
    /// The way in which the wait may end without the one that is waited for; `None` where there is
    /// none.
    #[serde(default)]
    pub ends_by: Option<EndsBy>,
}

/// A way in which a wait may end although what is waited for does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndsBy {
    /// A timeout.
    Timeout,
    /// A signal to the task.
    Signal,
    /// The waiter gives up after a number of tries, or backs off for others.
    BackOff,
}

/// The thing that is waited for.
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
    /// The kind of lock.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_stored_as_the_state_or_null_or_a_reason() {
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
