//! The part of a report that says how the guest hung: the class, the blame, who waits for whom, and
//! what all that rests on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::class::Class;
use super::cpu::Look;

/// A hang. Its parties (CPUs, tasks, locks and queues) are named by the `id` of their nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hang {
    /// In which way.
    pub class: Class,
    /// Equal for equal hangs: made from the class and the functions of the blamed stacks, whatever
    /// the addresses, the lines, and the number of CPUs. 16 hexadecimal digits.
    pub signature: String,
    /// When it was found, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// For how long it had lasted then, in milliseconds of the time in which the host ran the CPU, or
    /// the CPU had nothing to run for.
    pub lasted_ms: f64,
    /// Whose fault it is: CPUs and tasks.
    pub blamed: Vec<String>,
    /// The locks that have to do with it.
    pub locks: Vec<String>,
    /// CPUs and tasks that wait for those who are to blame.
    pub victims: Vec<String>,
    /// All CPUs, and the tasks, locks and queues that have to do with it.
    pub nodes: Vec<WaitNode>,
    /// Who waits for whom.
    pub edges: Vec<WaitEdge>,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// The certainty with which it is a hang. Reports written before there was one have verdicts alone.
    #[serde(default)]
    pub certainty: Certainty,
    /// Which of the report's backtraces is of this moment; null if there is none.
    pub backtrace: Option<u32>,
    /// How long after it was found it was over, in milliseconds; null if it was not, or nobody
    /// waited for it.
    pub resolved_after_ms: Option<f64>,
}

/// The certainty of a hang.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Certainty {
    /// Nothing that the kernel knows of can end it.
    Certain,
    /// The hang has lasted for its bound, or is something that a kernel does not come back from.
    #[default]
    Likely,
    /// The hang may yet end by itself.
    Suspected {
        /// The time that it has lasted, in milliseconds.
        lasted_ms: f64,
        /// The time, in milliseconds, after which it would be called a hang.
        bound_ms: f64,
    },
    /// Nobody can tell whether it is a hang.
    Unknown {
        /// The reason.
        why: String,
    },
}

impl Certainty {
    /// True for what is a hang, and not merely something that may become one.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Certain | Self::Likely)
    }
}

/// The graph of waits at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitGraph {
    /// The CPUs, tasks, locks and queues that have to do with a wait.
    pub nodes: Vec<WaitNode>,
    /// The waits, and the holders of locks.
    pub edges: Vec<WaitEdge>,
}

/// A party to a hang.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitNode {
    /// Its name in this hang: `cpu0`, the name of a task, of a lock or of a queue.
    pub id: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: NodeKind,
}

/// What a party to a hang is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NodeKind {
    /// A CPU.
    Cpu {
        /// Its number.
        cpu: u32,
        /// What it did.
        activity: Activity,
        /// The name of the task that it ran; null for its own main loop.
        task: Option<String>,
    },
    /// A task.
    Task {
        /// Its number.
        task: u32,
        /// Its name.
        name: String,
        /// The CPU that it runs on.
        cpu: u32,
        /// What it did.
        state: TaskState,
    },
    /// A lock.
    Lock {
        /// Its symbol, demangled; null where it has none.
        symbol: Option<String>,
        /// Its address.
        address: String,
        /// What kind of lock.
        lock: LockKind,
        /// Who has it; null if nobody does, or that is not known.
        held_by: Option<String>,
        /// Where it was last taken; null where that is not known.
        taken_at: Option<SourceLine>,
    },
    /// A queue that tasks sleep on.
    Queue {
        /// Its symbol, demangled; null where it has none.
        symbol: Option<String>,
        /// Its address.
        address: String,
    },
}

/// What a CPU did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// It executed instructions.
    Running,
    /// It was in HLT, and an interrupt would have woken it.
    Idle,
    /// It was in HLT with interrupts off.
    Dead,
    /// It does not run the kernel.
    Offline,
    /// There is no such CPU, whatever the guest has written down.
    Absent,
    /// That is not known.
    Unknown,
}

/// What a task did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// It could run, and waited for its CPU.
    Ready,
    /// It ran.
    Running,
    /// It slept until somebody wakes it.
    Blocked,
    /// It had ended.
    Ended,
    /// There is no such task, whatever the guest has written down.
    Absent,
    /// The guest has something there that means nothing.
    Unknown,
}

/// The kinds of locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LockKind {
    /// CPUs spin for it.
    Spin,
    /// CPUs spin for it, first come, first served.
    Ticket,
    /// Tasks sleep for it.
    Mutex,
    /// The guest has something there that means nothing.
    Unknown,
}

/// A line of the guest's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceLine {
    /// The file, relative to the source root where there is one.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// One that cannot go on before another one does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitEdge {
    /// The one that cannot.
    pub from: String,
    /// The other one.
    pub to: String,
    /// Why not.
    pub kind: WaitKind,
    /// The call that waits; null where that is not known.
    pub at: Option<SourceLine>,
    /// For how long it has been so, in milliseconds of the waiter's, or the holder's, own time; null
    /// where that is not counted.
    pub for_ms: Option<f64>,
}

/// Why one cannot go on before another one does.
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
    /// A task runs on a CPU, or would like to.
    RunsOn,
    /// A task sleeps on a queue until somebody wakes it.
    SleepsOn,
}

/// Something that was observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Of which CPU or task.
    pub of: String,
    /// What.
    #[serde(flatten)]
    pub fact: Fact,
}

/// The function in which the first of those to blame stood, of a hang's evidence.
pub fn function_of<'a>(blamed: &[String], evidence: &'a [Evidence]) -> Option<&'a str> {
    evidence.iter().find_map(|evidence| match &evidence.fact {
        Fact::Stood { function, .. } if blamed.contains(&evidence.of) => function.as_deref(),
        _ => None,
    })
}

/// What can be observed. Durations are in milliseconds of the CPU's own time: in which the host ran
/// it, or it had nothing to run for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    /// Its timer tick stood still.
    NoTick {
        /// For so long.
        ms: f64,
    },
    /// Its main loop stood still: it scheduled nothing.
    NoSchedule {
        /// For so long.
        ms: f64,
        /// And took so many interrupts meanwhile.
        interrupts: u64,
    },
    /// It waited for the same thing.
    Waited {
        /// For so long.
        ms: f64,
    },
    /// It had work and finished none of it.
    WorkUndone {
        /// For so long.
        ms: f64,
        /// So many items.
        items: u64,
        /// And ran for so long meanwhile.
        ran_ms: f64,
    },
    /// Tasks could have run there, and none was switched to.
    TasksNotRun {
        /// For so long.
        ms: f64,
        /// So many.
        tasks: u32,
    },
    /// It was not ready.
    NotReady {
        /// For so long.
        ms: f64,
    },
    /// The console was silent.
    NoOutput {
        /// For so long.
        ms: f64,
    },
    /// It was seen with interrupts off each time that it was looked at.
    SeenWithInterruptsOff {
        /// For so long.
        ms: f64,
    },
    /// When it was stopped, it was there.
    Stood {
        /// In HLT.
        halted: bool,
        /// RFLAGS.IF.
        interrupts_enabled: bool,
        /// Inside an NMI handler that has not returned, so that it takes no other.
        #[serde(default)]
        nmi_masked: bool,
        /// The address.
        at: String,
        /// The innermost function of its stack that is more than a way to wait, and of one to blame
        /// that runs on, more than what a loop happens to call; null where that is not known.
        function: Option<String>,
        /// The line in it; null where that is not known, or it was not in that function just then.
        line: Option<SourceLine>,
    },
}

/// A task that does not run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Its number.
    pub task: u32,
    /// Its name.
    pub name: String,
    /// The CPU that it runs on.
    pub cpu: u32,
    /// What it does.
    pub state: TaskState,
    /// What it waits for: a lock by its symbol or address; null if that is nothing that is known.
    pub waits_for: Option<String>,
    /// How often it has been switched to.
    pub switches: u64,
    /// Its stack; null where that cannot be seen.
    pub look: Option<Look>,
}
