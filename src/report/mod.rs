//! What nmiscope says, as data. These structs are the JSON schema (docs/report.schema.json), and the
//! text is made from them and from nothing else (`text.rs`).
//!
//! Filled by `diagnosis` and `session`; knows neither KVM nor DWARF. An unknown is a `null` or a
//! reason, never a guess. Addresses are guest-virtual, as strings of 16 hexadecimal digits, which is
//! how kernels print them and what JSON numbers cannot hold. Strings that come from the guest or its
//! image may hold control characters, JSON-escaped; the renderers make them harmless.

mod hang;
pub mod json;
pub mod sanitize;
pub mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use hang::{
    Activity, Evidence, Fact, Hang, LockKind, NodeKind, SourceLine, Task, TaskState, WaitEdge,
    WaitKind, WaitNode,
};

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
    pub image: Image,
    /// What it ran on.
    pub machine: Machine,
    /// Milliseconds from the tool's start until the guest said that it was ready; null if it never
    /// did.
    pub ready_after_ms: Option<f64>,
    /// How it ended.
    pub outcome: Outcome,
    /// Every hang that was found, in order. Those of one moment come one after the other, the one
    /// that explains most first.
    pub hangs: Vec<Hang>,
    /// Every backtrace that was taken, in order.
    pub backtraces: Vec<Backtrace>,
    /// What the tool could not do.
    pub warnings: Vec<String>,
    /// The last lines that the guest printed on its console.
    pub console_tail: Vec<String>,
}

/// What a report was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The VM, while it ran.
    Live,
    /// A core file.
    Core,
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
pub struct Image {
    /// Its file; null for the bundled guest.
    pub path: Option<String>,
    /// Its GNU build-id, in hexadecimal; null if it has none.
    pub build_id: Option<String>,
    /// The kernel parameters it was started with.
    pub command_line: String,
    /// Which kernel's structures were found in it.
    pub kernel: Kernel,
}

/// The kernels whose structures are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kernel {
    /// nmiscope's own guest.
    Bundled,
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
    /// Its memory, in bytes.
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
    /// The run was ended from outside: a signal, or the time that it was given.
    Stopped {
        /// By what.
        by: String,
    },
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
    pub reservation: Reservation,
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
}

/// The hypervisor's hold on the guest's NMI buffers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reservation {
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
    /// There is nothing to reserve.
    Unavailable {
        /// Because.
        reason: String,
    },
}

/// One vCPU in a backtrace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// What it was doing.
    pub state: CpuState,
    /// RFLAGS.IF: whether it would have taken interrupts; null where there are no registers.
    pub interrupts_enabled: Option<bool>,
    /// Its registers when it was stopped; null where they could not be read.
    pub registers: Option<Registers>,
    /// Inside an NMI handler, where it takes no other NMI; null where that is not known.
    pub in_nmi: Option<bool>,
    /// What became of its NMI.
    pub nmi: Nmi,
    /// The guest's word: what its handler printed; null if there is nothing of it.
    pub word: Option<Word>,
    /// The host's look: its stack when it was stopped, before its NMI; null where there are no
    /// registers that say where it was.
    pub look: Option<Look>,
    /// What is wrong, with the one witness, the other, or both together.
    pub findings: Vec<Finding>,
}

/// The host's look at a vCPU: its stack, read and unwound from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Look {
    /// Innermost first; the first one is where the vCPU stood.
    pub frames: Vec<Frame>,
    /// Whether that is the whole stack.
    pub complete: bool,
    /// Why it ends where it does.
    pub end: String,
}

/// What is wrong with what is known of a vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Finding {
    /// An NMI was sent, and it never came to the handler.
    NmiNotDelivered,
    /// An NMI was sent, and waits: the vCPU is inside an earlier NMI.
    NmiMasked,
    /// The NMI handler was entered and did not come to its end.
    HandlerUnfinished,
    /// The handler printed more than its buffer holds.
    BufferOverflowed {
        /// How many messages are lost.
        messages: u64,
    },
    /// What lies in the buffer is not what a handler prints.
    WordGarbled,
    /// The guest's text ends within a line.
    WordTruncated,
    /// The guest's trace lacks frames that the host sees: the guest follows frame pointers, and
    /// prints into a buffer that has an end.
    WordIncomplete {
        /// How many.
        frames: u32,
    },
    /// The guest's trace has frames on top of all that the host saw: the vCPU took an interrupt or
    /// an exception when it was let run, before its NMI.
    InterruptedBefore {
        /// How many.
        frames: u32,
    },
    /// The guest's trace and the host's contradict each other.
    WitnessesDiffer {
        /// The first frame at which they do.
        frame: u32,
    },
    /// Part of the stack cannot be read.
    StackUnreadable {
        /// Which address, and why.
        reason: String,
    },
    /// The stack does not lead to where every stack begins.
    StackBroken {
        /// Where it goes wrong, and how.
        reason: String,
    },
}

/// What a vCPU was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuState {
    /// Executing instructions.
    Running,
    /// In HLT.
    Halted,
    /// Never started: waits for INIT or a start-up IPI.
    NotStarted,
    /// As after power-on. On AMD hosts KVM resets a vCPU whose guest has shut it down by a triple
    /// fault, and with that what it was doing is lost.
    Reset,
    /// It could not be asked.
    Unknown,
}

/// The general registers of a vCPU, and what tells its mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "registers by their names")]
pub struct Registers {
    pub rip: String,
    pub rsp: String,
    pub rbp: String,
    pub rflags: String,
    pub rax: String,
    pub rbx: String,
    pub rcx: String,
    pub rdx: String,
    pub rsi: String,
    pub rdi: String,
    pub r8: String,
    pub r9: String,
    pub r10: String,
    pub r11: String,
    pub r12: String,
    pub r13: String,
    pub r14: String,
    pub r15: String,
    pub cr0: String,
    pub cr2: String,
    pub cr3: String,
    pub cr4: String,
    /// Current privilege level.
    pub cpl: u8,
}

/// The account of one NMI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nmi {
    /// Whether it was sent.
    pub sent: bool,
    /// Whether the vCPU took it; null if that cannot be told.
    pub delivered: Option<bool>,
    /// The vCPU was inside an earlier NMI when this one was sent.
    pub masked_before: bool,
    /// The vCPU was inside an NMI when it was stopped again.
    pub masked_after: bool,
    /// It had not been taken when the vCPU was stopped again.
    pub pending_after: bool,
    /// The handler ran to its end.
    pub handler_finished: bool,
    /// How long the vCPU was let run for it, in milliseconds.
    pub ran_ms: Option<f64>,
    /// What there is to say about the answer.
    pub answer: Answer,
    /// Bytes in the buffer.
    pub bytes: Option<u32>,
    /// Messages that the handler printed and that were not kept.
    pub messages_lost: Option<u64>,
    /// Bytes of an earlier NMI that nobody had read, and that were thrown away.
    pub stale_bytes: u32,
}

/// Whether there is an answer, or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Answer {
    /// There is.
    Answered,
    /// There is none.
    NoAnswer {
        /// Because.
        reason: String,
    },
}

/// The guest's word: what an NMI handler printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Word {
    /// As it stood in the buffer. Bytes that are no UTF-8 have become U+FFFD.
    pub text: String,
    /// Of this NMI; false if it is of an earlier one, whose handler has not returned.
    pub current: bool,
    /// The call trace in it, innermost first.
    pub frames: Vec<Frame>,
    /// What is wrong with it.
    pub findings: Vec<String>,
}

/// A frame of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Its address.
    pub address: String,
    /// The address is that of an instruction that was interrupted; otherwise a call returns to it.
    pub interrupted: bool,
    /// Whoever found it vouches for it. Otherwise it is a word on the stack that points into code.
    pub reliable: bool,
    /// By what the host found it; null for one that the guest printed.
    pub found_by: Option<FoundBy>,
    /// What is wrong with its call frame information, so that its caller, if there is one, was found
    /// by other means; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cfi_fault: Option<String>,
    /// The symbol that the address lies in.
    pub symbol: Option<Symbol>,
    /// Inlined calls, innermost first, and last the function whose code it is. Empty where nothing
    /// is known.
    pub functions: Vec<Function>,
    /// Why there is less than functions and lines, or variables if asked for, if so.
    pub missing: Option<String>,
}

/// How the host found a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// By the vCPU's registers: the first one.
    Registers,
    /// By the callee's call frame information.
    Cfi,
    /// By the return address at the stack pointer, its callee being no code.
    BadCall,
    /// By the chain of saved frame pointers, for want of anything better.
    FramePointer,
}

/// A symbol of the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Symbol {
    /// Its name, demangled.
    pub name: String,
    /// How far the address is behind its start.
    pub offset: u64,
}

/// A function at an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Function {
    /// Its full name, demangled; null where there is none.
    pub name: Option<String>,
    /// Its source file, relative to the source root where there is one.
    pub file: Option<String>,
    /// The line: of the innermost function the instruction's, of the others the call's.
    pub line: Option<u32>,
    /// The column.
    pub column: Option<u32>,
    /// Inlined into the next.
    pub inlined: bool,
    /// Its arguments and locals in scope, in the order of their declaration; absent where there are
    /// none, nobody asked for them (`--args`), or the guest has found the frame.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    /// How many more it has: more than are looked at, or without a name that can be read; absent
    /// for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variables_omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An argument or a local variable of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Variable {
    /// Its name. Of several with the same one, the last is what the source means.
    pub name: String,
    /// Parameter or local.
    pub kind: VariableKind,
    /// The name of its type; null where the image has none.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Its value as the source would have it: numbers in decimal, pointers as `symbol+0x10` or in
    /// hexadecimal, enumerators by name, strings quoted, and `{Type}` for what has parts. Where it
    /// is not known, why, in angle brackets.
    pub value: String,
    /// Whether it is known.
    pub availability: Availability,
}

/// What a variable is to its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VariableKind {
    /// A parameter.
    Parameter,
    /// A local variable.
    Local,
}

/// Whether the value of a variable is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// It is.
    Known,
    /// There is none at this address: the compiler did not keep it.
    OptimizedOut,
    /// There is one, in a register or in memory that could not be had.
    Unavailable,
}
