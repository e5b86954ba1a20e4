//! A report as a whole: the guest that ran, how its run ended, its hangs and its backtraces.
//!
//! Owns the version of the format; refuses to own vCPUs, frames and hangs (`cpu`, `frame`, `hang`). Filled
//! by the tool's sessions and its diagnosis, read by everything else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cpu::Cpu;
use super::hang::{Certainty, Hang, Task, WaitGraph};
use super::history::History;

/// The version of the report format.
///
/// Within a version the format is additive: fields and kinds are added, and none changes its name or its
/// meaning or goes away; a reader ignores fields that it does not know. A change that is not additive raises
/// the version, and a reader of version N reads version N - 1 too ([`former`](crate::former)).
pub const SCHEMA_VERSION: u32 = 3;

/// The value of [`Report::host`] where the host is not known.
pub const UNKNOWN_HOST: &str = "unknown";

/// The report of one run of a VM, or of one observation of a VM that another program started.
///
/// Times named `*_ms` are milliseconds: of a moment, since the tool's start; otherwise a duration. The only
/// wall clock is `captured_at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "nmiscope report")]
pub struct Report {
    /// Version of the report format: 3. Within a version, fields are only added; ignore those that you do
    /// not know.
    pub schema_version: u32,
    /// Result of the run in one line, for people: the hang's bucket and the blamed parties, or how the run
    /// ended. Do not parse it.
    #[serde(default)]
    pub summary: String,
    /// True where the report lacks what the guest printed or held: log, console, names of tasks, registers,
    /// values of variables, and the kernel parameters; and paths and the name of the host. Addresses are
    /// `address#1` and so on then, equal ones with equal numbers, tasks have `#` and their number for a
    /// name, and other texts that are left out are `<redacted>`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub redacted: bool,
    /// Source of the report: a VM while it ran, or a file. The rest of the report does not depend on it.
    pub source: Source,
    /// Wall clock at the last backtrace, or at the end of a run without any: RFC 3339, UTC. Null for a dump
    /// of another program, which does not record it, and in reports of version 2.
    #[serde(default)]
    pub captured_at: Option<String>,
    /// Name of the host that the VM ran on; `unknown` for a dump of another program, and in reports of
    /// version 2.
    #[serde(default = "unknown_host")]
    pub host: String,
    /// Program that captured the guest; for a core, the one that wrote it.
    pub tool: Tool,
    /// Guest image, and the kernel that was recognised in it.
    pub image: GuestImage,
    /// Virtual machine that the guest ran on.
    pub machine: Machine,
    /// Time from the tool's start until the guest reported that it is ready, in milliseconds; null if it
    /// never did.
    pub ready_after_ms: Option<f64>,
    /// Way in which the run ended.
    pub outcome: Outcome,
    /// Detected hangs in order of time, up to a thousand. Those of one moment are in the order of their
    /// classes: the one that explains most comes first.
    pub hangs: Vec<Hang>,
    /// Backtraces in order of time. A guest that keeps running after its hangs gets none for later ones.
    pub backtraces: Vec<Backtrace>,
    /// Limits of this report: things that the tool could not do.
    pub warnings: Vec<String>,
    /// Last lines that the guest printed on its console.
    pub console_tail: Vec<String>,
    /// Account of an attach to a running VM; absent for a run, a core and a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visit: Option<Visit>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

fn unknown_host() -> String {
    UNKNOWN_HOST.into()
}

/// The sources of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A VM of the tool's own, while it ran.
    Live,
    /// A core file that the tool wrote.
    Core,
    /// A dump of the guest's memory that another program wrote.
    Dump,
    /// A running VM that another program started.
    Attached,
}

/// An attach to a running VM that another program started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Visit {
    /// Process ID of the VM; null where the process is in another PID namespace.
    #[serde(alias = "process")]
    pub pid: Option<i32>,
    /// Source of the guest's memory.
    #[serde(default)]
    pub memory: MemorySource,
    /// Run state of the VM before the attach, as QEMU names it: `running`, `paused`, `guest-panicked` and so
    /// on.
    #[serde(alias = "was")]
    pub run_state: String,
    /// Time for which the guest was stopped, in milliseconds; null where it was not stopped for the attach.
    pub stopped_ms: Option<f64>,
    /// True where some memory was read while the guest ran, so that the report may mix two moments.
    pub torn: bool,
}

/// The sources of the memory of a running VM that another program started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemorySource {
    /// The memory of the VM's process, read as a debugger does.
    #[default]
    Process,
    /// QEMU, which reads the memory itself and returns it through its monitor where the process may not be read.
    Monitor,
}

/// The program that captured a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Name of the program: nmiscope.
    pub name: String,
    /// Version of that program, as `--version` prints it.
    pub version: String,
}

/// The image that a guest ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestImage {
    /// Path of the image file; null for the bundled guest.
    pub path: Option<String>,
    /// GNU build-id of the image, in hexadecimal; null if it has none.
    pub build_id: Option<String>,
    /// Path of the initial RAM disk; null if there was none.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Kernel parameters that the guest was started with; empty in a report from a dump, which does not
    /// record them.
    pub command_line: String,
    /// Kernel that was recognised in the image.
    pub kernel: GuestKernel,
}

/// The kernel that was recognised in an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum GuestKernel {
    /// The bundled guest of nmiscope.
    Bundled,
    /// Another kernel whose data structures the tool knows.
    Known {
        /// Name and version of the kernel.
        name: String,
    },
    /// An unknown kernel: NMIs are sent, but the place of their answers is not known.
    Unknown {
        /// Data structures that were looked for and not found.
        reason: String,
    },
    /// The VM ended before its kernel was examined.
    NotExamined,
}

/// The virtual machine of a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Number of vCPUs of the machine.
    pub vcpus: u32,
    /// Size of the guest's memory in bytes; for a dump, of the memory that the file holds.
    pub memory_bytes: u64,
}

/// The ways in which a run ends.
///
/// The `machine` crate has a type of the same name for the end of a VM; this one is about a whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest exited by itself.
    Exit {
        /// Exit code of the guest; 0 is success.
        code: u32,
    },
    /// The guest hung, and the run ended with that.
    Hang,
    /// The host did not schedule the vCPUs, so that there is no verdict on the guest.
    Starved {
        /// Numbers of the vCPUs that made no progress.
        cpus: Vec<u32>,
        /// Wall-clock duration without progress, in milliseconds.
        wall_ms: f64,
        /// Longest time for which the host scheduled one of these vCPUs meanwhile, in milliseconds.
        ran_ms: f64,
    },
    /// The kernel of the guest panicked.
    Panic {
        /// Number of the vCPU that panicked.
        cpu: u32,
        /// Message of the panic on the guest's console; null if it is not found there.
        message: Option<String>,
    },
    /// The guest ended without exiting.
    Crash {
        /// Number of the vCPU that ended the guest.
        cpu: u32,
        /// Kind of crash, as its cause.
        cause: CrashCause,
        /// Description of the crash, as a sentence.
        description: String,
    },
    /// The guest had not ended within `--time-limit`.
    TimedOut {
        /// Time limit of the run, in milliseconds.
        limit_ms: f64,
        /// CPU time of all vCPUs together, in milliseconds; absent where it was not counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran_ms: Option<f64>,
    },
    /// The run was ended from outside: by a signal, or by `--stop-after`.
    Stopped {
        /// Name of the signal or option.
        by: String,
    },
    /// The guest was observed at one moment: its run belongs to another program.
    Observed {
        /// Number of the CPU that is panicking; absent where none is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        panicking: Option<u32>,
        /// Message of that panic; absent where no CPU panics, or the log does not have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

impl Outcome {
    /// Returns the number of the CPU that panicked or ended the guest; `None` for another end.
    pub fn failed_cpu(&self) -> Option<u32> {
        match self {
            Self::Panic { cpu, .. } | Self::Crash { cpu, .. } => Some(*cpu),
            Self::Observed { panicking, .. } => *panicking,
            _ => None,
        }
    }

    /// Returns true for a hang that a run with this outcome counts: every verdict; and at a time limit also
    /// a suspicion that has lasted for a quarter of its bound. Shorter waits may be normal.
    pub fn is_about(&self, certainty: &Certainty) -> bool {
        let is_on_its_way = match certainty {
            Certainty::Suspected { lasted_ms, bound_ms } => *lasted_ms >= bound_ms / 4.0,
            Certainty::Certain | Certainty::Likely | Certainty::Unknown { .. } => false,
        };
        certainty.is_verdict() || matches!(self, Self::TimedOut { .. }) && is_on_its_way
    }
}

/// The causes of a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CrashCause {
    /// A triple fault: an exception in the delivery of a double fault.
    TripleFault,
    /// The guest requested a reset or a power-off.
    Reset,
    /// KVM cannot run the guest any further.
    KvmError,
}

/// The stacks of all vCPUs at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Backtrace {
    /// Event that the backtrace was taken for.
    pub trigger: Trigger,
    /// Time of the event, in milliseconds since the tool's start; 0 for a dump and an attach.
    pub at_ms: f64,
    /// Reservation of the guest's NMI buffers while the backtrace was taken.
    pub reservation: BufferReservation,
    /// Number of vCPUs that an NMI was sent to.
    pub nmi_sent: u32,
    /// Number of vCPUs that answered their NMI.
    pub nmi_answered: u32,
    /// Duration from the first NMI to the last buffer that was read, in milliseconds.
    pub elapsed_ms: f64,
    /// All vCPUs by number. One that did not answer has the reason.
    pub cpus: Vec<Cpu>,
    /// Groups of vCPUs with equal stacks; each vCPU is in exactly one.
    pub groups: Vec<Vec<u32>>,
    /// Tasks that were not running and have not ended; absent where the kernel has none, or they are not
    /// known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
    /// Number of tasks that waited for work or for an event, which are not among `tasks`; absent for 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sleeping_tasks: u32,
    /// All waits of the moment, of hangs or not; absent where no party waits, or the kernel is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitGraph>,
    /// Kernel log in the guest's memory; absent for a kernel whose log format is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<KernelLog>,
    /// Last minute of all vCPUs before the backtrace; absent where there is none: in a report from a dump, of
    /// an attach and of a run without hang detection, and in reports of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The last lines of a kernel's log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelLog {
    /// Lines of the log, oldest first.
    pub lines: Vec<LogLine>,
    /// Number of earlier lines that are missing from `lines`: overwritten by the guest, or left out of the
    /// report.
    pub omitted: u64,
    /// Reason why the log could not be read; absent where it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A line of a kernel's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// Time of the line, in milliseconds of the guest's clock since the guest started.
    pub uptime_ms: f64,
    /// Number of the CPU that printed the line; null where the kernel does not record it.
    pub cpu: Option<u32>,
    /// Severity as in syslog: 0, emergency, to 7, debug.
    pub level: u8,
    /// Text of the line, without time and severity.
    pub text: String,
}

/// The events that a backtrace is taken for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trigger {
    /// The detector reported a hang.
    Hang,
    /// The host did not schedule the guest's vCPUs.
    Starved,
    /// The time of `--nmi-after` was over.
    Timer,
    /// The tool received a signal.
    Signal {
        /// Name of the signal, such as SIGQUIT.
        name: String,
    },
    /// The guest panicked or crashed.
    GuestEnded,
    /// The guest had not ended within `--time-limit`.
    TimeLimit,
    /// A dump was read that another program wrote.
    Dump,
    /// The tool attached to a running VM.
    Attach,
}

/// The hypervisor's reservation of the guest's NMI buffers.
///
/// The tool's captures have a type of the same name, which cores store; this is its form in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BufferReservation {
    /// The hypervisor held the buffers alone.
    Held {
        /// Time for which the hypervisor waited until a client inside the guest released the buffers, in
        /// milliseconds.
        waited_ms: f64,
    },
    /// A client inside the guest did not release the buffers; the backtrace was taken without.
    Refused {
        /// Number of the guest's CPU that holds them; null for a value that is no CPU.
        holder: Option<u32>,
        /// Time for which it has held them by the guest's records, in milliseconds; null for a value that is
        /// impossible.
        held_ms: Option<f64>,
        /// Time for which the hypervisor waited for the buffers before it gave up, in milliseconds.
        waited_ms: f64,
    },
    /// The buffers could not be reserved: they were not found, or the target's memory cannot be written.
    Unavailable {
        /// Reason why they could not be reserved.
        reason: String,
    },
    /// No NMI was to be sent, and so no buffer was needed.
    NotAsked,
}
