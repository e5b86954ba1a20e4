//! Hangs in a report: the class, the blamed parties, the graph of waits, and the facts that the verdict
//! rests on.
//!
//! Owns these types and their JSON names; refuses to own when a guest hangs (the tool's detector). Filled
//! by the tool's diagnosis, read by farms and `text`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::class::Class;
use super::cpu::HostStack;

/// A hang. Its parties (CPUs, tasks, locks and queues) are named by the `id` of their nodes.
///
/// The tool's detector has a type of the same name, in numbers; this is its form in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hang {
    /// Kind of hang, as a class name.
    pub class: Class,
    /// Hash that is equal for equal hangs, 16 hexadecimal digits. It is made from the class and the
    /// functions of the blamed stacks, and does not depend on addresses, lines or the number of CPUs.
    pub signature: String,
    /// Name for equal hangs that a person can say: class, blamed functions and locks, as in
    /// `deadlock:take_second:INODE_LOCK<->JOURNAL_LOCK`. Null in reports of version 2.
    #[serde(default)]
    pub bucket: Option<String>,
    /// Time of detection, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// Age of the hang at detection, in milliseconds, counting only time in which the CPU was scheduled
    /// by the host or idle.
    pub lasted_ms: f64,
    /// CPUs and tasks that cause the hang.
    pub blamed: Vec<String>,
    /// Locks that take part in the hang.
    pub locks: Vec<String>,
    /// CPUs and tasks that wait for the blamed ones.
    pub victims: Vec<String>,
    /// Parties: all CPUs, and the tasks, locks and queues that take part in the hang.
    pub nodes: Vec<WaitNode>,
    /// Waits between the parties, and the holders of locks.
    pub edges: Vec<WaitEdge>,
    /// Facts that the verdict rests on.
    pub evidence: Vec<Evidence>,
    /// Words of memory that blamed CPUs read in a loop until they change, and that are no lock of the kernel's
    /// records; absent where none were found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spins: Vec<Spin>,
    /// Certainty of the verdict; absent, and then `likely`, in reports of the first builds.
    #[serde(default)]
    pub certainty: Certainty,
    /// Index of the report's backtrace that was taken for this hang; null where there is none.
    pub backtrace: Option<u32>,
    /// Time from detection to recovery, in milliseconds; null where the hang did not end, or the run ended
    /// first.
    pub resolved_after_ms: Option<f64>,
}

/// The certainty of a hang.
///
/// The tool's detector has a type of the same name, with durations; this is its form in a report.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Certainty {
    /// The hang is permanent: the kernel can do nothing by itself that ends it.
    Certain,
    /// The hang has lasted for its bound, or is something that a kernel does not recover from.
    #[default]
    Likely,
    /// The hang may still end by itself.
    Suspected {
        /// Age of the suspected hang, in milliseconds.
        lasted_ms: f64,
        /// Bound of the class: age in milliseconds from which a suspicion counts as a hang.
        bound_ms: f64,
    },
    /// The facts do not show whether this is a hang.
    Unknown {
        /// Reason why it is unknown whether the guest hangs.
        #[serde(alias = "why")]
        reason: String,
    },
}

impl Certainty {
    /// Returns true for a verdict, false for a suspicion.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Certain | Self::Likely)
    }
}

/// The graph of all waits at one moment.
///
/// The tool's detector has a type of the same name, in numbers; this is its form in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitGraph {
    /// CPUs, tasks, locks and queues that take part in a wait.
    pub nodes: Vec<WaitNode>,
    /// Waits, and the holders of locks.
    pub edges: Vec<WaitEdge>,
}

/// A party to a wait: a CPU, a task, a lock or a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitNode {
    /// Name of the party, unique in its graph: `cpu0`, or the name of a task, a lock or a queue.
    pub id: String,
    /// Kind of party, and its state at the moment.
    #[serde(flatten)]
    pub kind: NodeKind,
}

/// The kind of a party to a wait, and its state at the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NodeKind {
    /// A CPU of the guest.
    Cpu {
        /// Number of the CPU, from 0.
        cpu: u32,
        /// Activity of the CPU when it was stopped.
        activity: ActivityState,
        /// Name of the task that it ran; null for its own main loop.
        task: Option<String>,
    },
    /// A task of the guest's scheduler.
    Task {
        /// Number of the task in the kernel's table.
        task: u32,
        /// Name that the kernel has for the task.
        name: String,
        /// Number of the CPU that it runs on.
        cpu: u32,
        /// Scheduling state of the task.
        state: TaskState,
    },
    /// A lock in the guest's memory.
    Lock {
        /// Symbol of the lock, demangled; null where it has none.
        symbol: Option<String>,
        /// Guest-virtual address of the lock, 16 hexadecimal digits.
        address: String,
        /// Kind of lock, as its waiters behave.
        lock: LockKind,
        /// Party that holds the lock; null where it is free, or the holder is not known.
        held_by: Option<String>,
        /// Source line of the last acquisition; null where that is not known.
        taken_at: Option<SourceLine>,
    },
    /// A queue that tasks sleep on.
    Queue {
        /// Symbol of the queue, demangled; null where it has none.
        symbol: Option<String>,
        /// Guest-virtual address of the queue, 16 hexadecimal digits.
        address: String,
    },
}

/// The activity of a CPU when it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActivityState {
    /// The CPU was executing instructions.
    Running,
    /// The CPU was executing instructions, and has made no progress for about as long as the hang has lasted.
    Stuck,
    /// The CPU was in HLT with interrupts on: an interrupt would have woken it.
    Idle,
    /// The CPU was in HLT with interrupts off: only an NMI would have woken it.
    Dead,
    /// The CPU does not run the kernel.
    Offline,
    /// The CPU does not exist, although the guest's records name it.
    Absent,
    /// The activity is not known.
    Unknown,
}

/// The state of a CPU that does not run the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OfflineState {
    /// The CPU was never started: it waits for INIT.
    NotStarted,
    /// The CPU received INIT, and waits for its start-up IPI.
    InInit,
    /// The CPU is as after power-on: it was reset after it had been started.
    Reset,
    /// The CPU is offline by the kernel's records, and halted.
    Halted,
    /// The CPU is offline by the kernel's records, and executes.
    Running,
}

/// The scheduling state of a task.
///
/// The tool's kernel adapters have a type of the same name; this is its form in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// The task could run, and waited for its CPU.
    Ready,
    /// The task was running on its CPU.
    Running,
    /// The task slept until another party wakes it.
    Blocked,
    /// The task waited for work or for an event, for as long as that takes: no sign of a hang.
    Sleeping,
    /// The task had ended before that moment.
    Ended,
    /// The task does not exist, although the guest's records name it.
    Absent,
    /// The guest's memory holds no valid state.
    Unknown,
}

/// The kinds of locks.
///
/// The tool's kernel adapters have a type of the same name; this is its form in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LockKind {
    /// A spinlock: waiting CPUs spin, in no order.
    Spin,
    /// A ticket lock: waiting CPUs spin, first come, first served.
    Ticket,
    /// A mutex: waiting tasks sleep.
    Mutex,
    /// A semaphore of readers and writers: waiting tasks sleep.
    RwSemaphore,
    /// The guest's memory holds no valid lock.
    Unknown,
}

/// A line of the guest's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceLine {
    /// Path of the file, relative to the source root where there is one.
    pub file: String,
    /// Number of the line, from 1.
    pub line: u32,
}

/// A wait of one party for another, or the holding of a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitEdge {
    /// Party that waits; of `held-by`, the lock.
    pub from: String,
    /// Party that is waited for; of `held-by`, the holder.
    pub to: String,
    /// Kind of wait, or `held-by`.
    pub kind: WaitKind,
    /// Source line of the call that waits; null where that is not known.
    #[serde(alias = "at")]
    pub call_site: Option<SourceLine>,
    /// Duration of the wait or hold, in milliseconds of the party's own time; null where it is not counted.
    #[serde(alias = "for_ms")]
    pub lasted_ms: Option<f64>,
}

/// The kinds of waits between parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// A CPU or a task waits for a lock.
    WaitsFor,
    /// A lock is held by a CPU or a task.
    HeldBy,
    /// A CPU waits for another one to answer its call-function IPI.
    CallsFunction,
    /// A CPU waits for another one to come online.
    BringsUp,
    /// A task runs on a CPU, or is ready to.
    RunsOn,
    /// A task sleeps on a queue until another party wakes it.
    SleepsOn,
}

/// A word of memory that CPUs read in a loop until it changes.
///
/// The code of the CPUs says so; who should have changed the word is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spin {
    /// Symbol of the word, with an offset inside of a larger object; null where there is none.
    pub symbol: Option<String>,
    /// Guest-virtual address of the word, 16 hexadecimal digits.
    pub address: String,
    /// CPUs that read the word in a loop.
    pub parties: Vec<String>,
    /// Functions on the stacks of other parties that store to the word at its fixed address, wherever in the
    /// function that is: of each stack the innermost.
    pub writers: Vec<SpinWriter>,
}

/// A function on a stack that stores to a word that others wait for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpinWriter {
    /// CPU or task on whose stack the function is.
    pub party: String,
    /// Name of the function, without its path.
    pub function: String,
}

/// A fact that was observed of one party.
///
/// The tool's detector has a type of the same name that draws conclusions; this one only states a fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// CPU or task that the fact was observed of.
    #[serde(alias = "of")]
    pub party: String,
    /// Observed fact, with its duration or place.
    #[serde(flatten)]
    pub fact: Fact,
}

/// Returns the function in which the first blamed party was stopped; `None` where no evidence has one.
pub fn blamed_function<'a>(blamed: &[String], evidence: &'a [Evidence]) -> Option<&'a str> {
    evidence.iter().find_map(|evidence| match &evidence.fact {
        Fact::StoppedAt { function, .. } if blamed.contains(&evidence.party) => function.as_deref(),
        _ => None,
    })
}

/// The facts that can be observed. Durations are in milliseconds of the CPU's own time: time in which the
/// host scheduled it, or in which it was idle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    /// The timer tick of the CPU did not advance.
    NoTick {
        /// Time without a timer tick, in milliseconds of the CPU's own time.
        ms: f64,
    },
    /// The main loop of the CPU did not advance: nothing was scheduled.
    NoSchedule {
        /// Time without a step of the main loop, in milliseconds of the CPU's own time.
        ms: f64,
        /// Number of interrupts that the CPU took while its main loop did not advance.
        interrupts: u64,
    },
    /// The party waited for the same thing.
    Waited {
        /// Time for which the party has waited, in milliseconds of its own time.
        ms: f64,
    },
    /// Queued work items were pending, and none was finished.
    #[serde(alias = "work-undone")]
    PendingWork {
        /// Time in which no work item was finished, in milliseconds of the CPU's own time.
        ms: f64,
        /// Number of items that are pending.
        items: u64,
        /// Time in which the CPU executed instructions while the work was pending, in milliseconds.
        ran_ms: f64,
    },
    /// Tasks could run, and were not switched to: all those of the CPU, or the task that is the party.
    TasksNotRun {
        /// Time without a switch to such a task, in milliseconds of the CPU's own time.
        ms: f64,
        /// Number of tasks that are ready.
        tasks: u32,
    },
    /// The CPU does not run the kernel.
    Offline {
        /// State in which it does not.
        how: OfflineState,
    },
    /// The guest had not reported that it is ready.
    NotReady {
        /// Time without a report that the guest is ready, in milliseconds of the CPU's own time.
        ms: f64,
    },
    /// The guest printed nothing on its console.
    NoOutput {
        /// Time without console output, in milliseconds of the CPU's own time.
        ms: f64,
    },
    /// Interrupts were off each time that the CPU was sampled.
    SeenWithInterruptsOff {
        /// Time in which every sample had interrupts off, in milliseconds of the CPU's own time.
        ms: f64,
    },
    /// Position of the CPU when it was stopped.
    #[serde(alias = "stood")]
    StoppedAt {
        /// True where the CPU was in HLT.
        halted: bool,
        /// RFLAGS.IF, true where the CPU took interrupts.
        interrupts_enabled: bool,
        /// True inside an NMI handler that has not returned, where the CPU takes no other NMI.
        #[serde(default)]
        nmi_masked: bool,
        /// Kind of the handler that the CPU stays in; absent outside handlers, in a handler that returns, and
        /// where the stack does not show it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handler: Option<HandlerKind>,
        /// Guest-virtual address of the next instruction, 16 hexadecimal digits.
        #[serde(alias = "at")]
        address: String,
        /// Innermost function of the stack that is not generic waiting code; of a blamed CPU that keeps
        /// running, one that stays on the stack. Null where it is not known.
        function: Option<String>,
        /// Source line in that function; null where it is not known, or the CPU was not in the function at
        /// that moment.
        line: Option<SourceLine>,
    },
}

/// The kinds of handlers that interrupt a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HandlerKind {
    /// A handler of interrupts or NMIs, which may come upon any function.
    Interrupt,
    /// A handler of interrupts or of exceptions.
    Unknown,
}

/// A task that was not running when the guest was stopped.
///
/// The bundled guest has a type of the same name, the task itself; this is its form in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Number of the task in the kernel's table.
    pub task: u32,
    /// Name that the kernel has for the task.
    pub name: String,
    /// Number of the CPU that it runs on.
    pub cpu: u32,
    /// Scheduling state of the task.
    pub state: TaskState,
    /// Symbol or address of the lock that it waits for; null where it waits for no known lock.
    pub waits_for: Option<String>,
    /// Time for which it has not run, in milliseconds of the guest's clock; absent where the kernel does not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asleep_ms: Option<f64>,
    /// Number of times that the scheduler switched to the task.
    pub switches: u64,
    /// Stack of the task; null where it could not be read.
    #[serde(alias = "look")]
    pub host_stack: Option<HostStack>,
}
