//! A report as a whole: what ran, on what, how it ended, and the backtraces that were taken.
//!
//! Owns the version of the format, and nothing of vCPUs, frames and hangs, which have files of their own.
//! Filled by sessions and by diagnosis.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cpu::Cpu;
use super::hang::{Certainty, Hang, Task, WaitGraph};

/// Raised when a field changes its meaning or goes away; not when one is added.
pub const SCHEMA_VERSION: u32 = 2;

/// The report of one run of one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "nmiscope report")]
pub struct Report {
    /// The version of this format.
    pub schema_version: u32,
    /// What the report was made from. All else is the same for both.
    pub source: Source,
    /// What wrote the report; of one from a core, what wrote that.
    pub tool: Tool,
    /// What ran.
    pub image: GuestImage,
    /// What it ran on.
    pub machine: Machine,
    /// Milliseconds from the tool's start until the guest said that it was ready; null if it never
    /// did.
    pub ready_after_ms: Option<f64>,
    /// How it ended.
    pub outcome: Outcome,
    /// Every hang that was found, in order, up to a thousand. Those of one moment come one after the
    /// other, in the order of their classes, which is that of what explains most.
    pub hangs: Vec<Hang>,
    /// Every backtrace that was taken, in order. Of a guest that goes on after its hangs, there are none
    /// of later ones.
    pub backtraces: Vec<Backtrace>,
    /// What the tool could not do.
    pub warnings: Vec<String>,
    /// The last lines that the guest printed on its console.
    pub console_tail: Vec<String>,
    /// The visit that the report is of; absent for a run, a core and a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visit: Option<Visit>,
}

/// What a report was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The VM, while it ran.
    Live,
    /// A core file.
    Core,
    /// A dump of the guest's memory that another program wrote.
    Dump,
    /// A running VM that somebody else started.
    Attached,
}

/// A visit to a VM that somebody else runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Visit {
    /// Process ID of the VM.
    #[serde(alias = "process")]
    pub pid: i32,
    /// Run state of the VM before the visit, as QEMU names it: `running`, `paused`, `guest-panicked` and so
    /// on.
    #[serde(alias = "was")]
    pub run_state: String,
    /// The time for which the guest was stopped, in milliseconds; null where it was not stopped for the
    /// visit.
    pub stopped_ms: Option<f64>,
    /// True where some memory was read while the guest ran: it may not be of one moment.
    pub torn: bool,
}

/// The program that wrote a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A guest image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestImage {
    /// Its file; null for the bundled guest.
    pub path: Option<String>,
    /// Its GNU build-id, in hexadecimal; null if it has none.
    pub build_id: Option<String>,
    /// The initial RAM disk's file; null if there was none.
    #[serde(default)]
    pub initrd: Option<String>,
    /// The kernel parameters it was started with; empty in a report from a dump, which does not have
    /// them.
    pub command_line: String,
    /// Which kernel's structures were found in it.
    pub kernel: GuestKernel,
}

/// The kernels whose structures are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum GuestKernel {
    /// nmiscope's own guest.
    Bundled,
    /// Another kernel whose structures are known.
    Known {
        /// The name and version of the kernel.
        name: String,
    },
    /// None of the known ones: NMIs are sent, but where the answers are is not known.
    Unknown {
        /// What was looked for and not found.
        reason: String,
    },
    /// The VM ended before it was necessary to know.
    NotExamined,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// How many vCPUs it had.
    pub vcpus: u32,
    /// Its memory, in bytes; of a dump, the memory that is in it.
    pub memory_bytes: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest left by itself.
    Exit {
        /// With this code; 0 is success.
        code: u32,
    },
    /// The guest hung, and the run was ended for it; `hangs` says how.
    Hang,
    /// The host did not run the guest: nothing is known of it.
    Starved {
        /// These vCPUs made no progress.
        cpus: Vec<u32>,
        /// For so long, by the clock, in milliseconds.
        wall_ms: f64,
        /// Of which the one that ran most ran so long, in milliseconds.
        ran_ms: f64,
    },
    /// The guest's kernel panicked.
    Panic {
        /// On this vCPU.
        cpu: u32,
        /// What it said on its console; null if that is not to be found there.
        message: Option<String>,
    },
    /// The guest ended other than by leaving.
    Crash {
        /// On this vCPU.
        cpu: u32,
        /// In which way.
        cause: CrashCause,
        /// What happened.
        description: String,
    },
    /// The guest had not ended within `--time-limit`.
    TimedOut {
        /// The limit, in milliseconds.
        limit_ms: f64,
        /// The CPU time that all its vCPUs had, in milliseconds; absent where nobody counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran_ms: Option<f64>,
    },
    /// The run was ended from outside: a signal, or `--stop-after`.
    Stopped {
        /// By what.
        by: String,
    },
    /// The guest was looked at from outside, at one moment: its run is somebody else's.
    Observed {
        /// The number of the CPU that panics; absent where none does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        panicking: Option<u32>,
        /// The message of that panic; absent where there is none, or it is not in the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

impl Outcome {
    /// True for a hang that a run which ended so is about: every hang; and at a time limit what was on its
    /// way to be one, if it had come a quarter of that way. A shorter wait may be of no account.
    pub fn is_about(&self, certainty: &Certainty) -> bool {
        let is_on_its_way = match certainty {
            Certainty::Suspected { lasted_ms, bound_ms } => *lasted_ms >= bound_ms / 4.0,
            Certainty::Certain | Certainty::Likely | Certainty::Unknown { .. } => false,
        };
        certainty.is_verdict() || matches!(self, Self::TimedOut { .. }) && is_on_its_way
    }
}

/// The ways to end other than by leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CrashCause {
    /// A fault in the handling of a fault in the handling of a fault.
    TripleFault,
    /// The guest asked for a reset, or to be switched off.
    Reset,
    /// KVM cannot go on with it.
    KvmError,
}

/// The stacks of all vCPUs at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Backtrace {
    /// What it was taken for.
    pub trigger: Trigger,
    /// When, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// Whether the buffers were the hypervisor's alone meanwhile.
    pub reservation: BufferReservation,
    /// How many vCPUs an NMI was sent to.
    pub nmi_sent: u32,
    /// How many of them answered.
    pub nmi_answered: u32,
    /// How long that took, first NMI to last buffer read, in milliseconds.
    pub elapsed_ms: f64,
    /// All vCPUs, in order. One that did not answer says why.
    pub cpus: Vec<Cpu>,
    /// vCPUs with equal stacks, together; each vCPU is in one of them.
    pub groups: Vec<Vec<u32>>,
    /// The kernel's tasks that do not run at the moment and have not ended; none where the kernel has
    /// none, or they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
    /// All waits of that moment, hang or not; absent where nobody waits, or the kernel is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitGraph>,
    /// The kernel's log, as it was in memory; absent for a kernel whose log is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<KernelLog>,
}

/// The last lines of a kernel's log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelLog {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// The number of lines before these: overwritten by the guest, or left out here.
    pub omitted: u64,
    /// The reason why the log could not be read; absent where it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// One line of a kernel's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// The time at which it was printed, in milliseconds of the guest's clock since the guest started.
    pub uptime_ms: f64,
    /// The number of the CPU that printed it; null where the kernel does not record it.
    pub cpu: Option<u32>,
    /// The severity as in syslog: 0, emergency, to 7, debug.
    pub level: u8,
    /// The text of the line.
    pub text: String,
}

/// What asks for a backtrace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trigger {
    /// The detector.
    Hang,
    /// The host does not run the guest.
    Starved,
    /// `--nmi-after`.
    Timer,
    /// A signal to the tool.
    Signal {
        /// Its name.
        name: String,
    },
    /// The guest panicked or crashed.
    GuestEnded,
    /// The guest had not ended within `--time-limit`.
    TimeLimit,
    /// A dump that another program took.
    Dump,
    /// Somebody attached to a running VM.
    Attach,
}

/// The hypervisor's hold on the guest's NMI buffers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BufferReservation {
    /// It had them.
    Held {
        /// After waiting that many milliseconds for a client inside the guest.
        waited_ms: f64,
    },
    /// A client inside the guest would not let go; the backtrace was taken without.
    Refused {
        /// The client: a CPU of the guest, or null for a value that is none.
        holder: Option<u32>,
        /// How long the guest says that it has held them, in milliseconds; null if that makes no
        /// sense.
        held_ms: Option<f64>,
        /// How long the hypervisor waited, in milliseconds.
        waited_ms: f64,
    },
    /// The buffers could not be taken: they were not found, or the target's memory cannot be written.
    Unavailable {
        /// The reason.
        reason: String,
    },
    /// No NMIs were asked for, and so no buffers.
    NotAsked,
}
