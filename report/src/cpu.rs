//! vCPUs in a report: its state, the account of its NMI, and its two stacks, one printed by the guest
//! and one read by the host.
//!
//! Owns these types and their JSON names; refuses to own how two stacks are compared (the tool's diagnosis).
//! Filled by the diagnosis, rendered by `text`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::frame::Frame;

/// A vCPU at the moment of a backtrace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// Number of the vCPU, from 0.
    pub cpu: u32,
    /// Execution state when the vCPU was stopped.
    pub state: CpuState,
    /// RFLAGS.IF, true where the vCPU takes interrupts; null where its registers could not be read.
    pub interrupts_enabled: Option<bool>,
    /// Registers when the vCPU was stopped; null where they could not be read.
    pub registers: Option<Registers>,
    /// True inside an NMI handler, where the vCPU takes no other NMI; null where that is not known.
    pub in_nmi: Option<bool>,
    /// Context that the vCPU executes in, by the records of the guest's kernel; absent for a kernel that keeps none, and
    /// where they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<KernelContext>,
    /// Account of the NMI that was sent for this backtrace.
    pub nmi: Nmi,
    /// Backtrace that the guest's NMI handler printed; null where it printed nothing.
    #[serde(alias = "word")]
    pub guest_trace: Option<GuestTrace>,
    /// Stack that the host unwound from outside, as it was before the NMI; null where no registers say
    /// where the vCPU was.
    #[serde(alias = "look")]
    pub host_stack: Option<HostStack>,
    /// Faults of the guest's trace, of the host's stack, and differences between the two.
    pub findings: Vec<CpuFinding>,
}

/// The context that a CPU executes in, by the records of its kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelContext {
    /// Name of the task that the CPU runs; null where it runs none, or its idle task.
    pub task: Option<String>,
    /// Number of times that preemption was disabled and not enabled again; a held spinlock is one.
    pub preemption_disabled: u32,
    /// True while a softirq is served.
    pub serves_softirq: bool,
    /// Number of times that softirqs were disabled and not enabled again.
    pub softirqs_disabled: u32,
    /// Number of hard interrupts that are being served, one inside the other.
    pub hard_interrupts: u32,
    /// Number of NMIs that are being served, one inside the other.
    pub nmis: u32,
    /// Names of the softirqs that are pending.
    pub pending_softirqs: Vec<String>,
    /// Number of tasks that run on the CPU or are ready to.
    pub ready_tasks: u32,
    /// Time since the last timer tick, in milliseconds of the guest's clock, at least; null where the kernel does not
    /// record it.
    pub tick_age_ms: Option<f64>,
}

/// A stack that the host read and unwound from outside.
///
/// The tool's capture has a type of the same name, with raw addresses; this is its form in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostStack {
    /// Frames, innermost first; the first one is the position of the vCPU or task.
    pub frames: Vec<Frame>,
    /// True where the stack was unwound to its outermost frame.
    pub complete: bool,
    /// Reason why unwinding ended after the last frame.
    pub end: String,
}

/// A fault of a vCPU's guest trace or host stack, or a difference between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CpuFinding {
    /// An NMI was sent, and the handler was never entered.
    NmiNotDelivered,
    /// An NMI was sent and is pending: the vCPU is still inside an earlier one.
    NmiMasked,
    /// The NMI handler was entered and did not return.
    HandlerUnfinished,
    /// The NMI handler printed more than its buffer holds.
    BufferOverflowed {
        /// Number of messages that were lost.
        messages: u64,
    },
    /// The buffer holds bytes that no NMI handler prints.
    #[serde(alias = "word-garbled")]
    TraceGarbled,
    /// The guest's trace ends within a line.
    #[serde(alias = "word-truncated")]
    TraceTruncated,
    /// The guest's trace lacks frames that the host's stack has: the guest follows frame pointers, and
    /// prints into a buffer of limited size.
    #[serde(alias = "word-incomplete")]
    TraceIncomplete {
        /// Number of frames that are missing.
        frames: u32,
    },
    /// The guest's trace has frames on top of the host's stack: the vCPU took an interrupt or an
    /// exception after it was resumed and before its NMI.
    InterruptedBefore {
        /// Number of frames that the guest's trace has above the innermost frame of the host's stack.
        frames: u32,
    },
    /// The vCPU was stopped in the shadow of an STI or MOV SS, in which it takes no NMI, and ran on
    /// before it took this one. The guest's trace is from a later moment than the host's stack.
    InterruptShadow {
        /// Number of the first frame that differs.
        frame: u32,
    },
    /// The guest's trace and the host's stack contradict each other.
    #[serde(alias = "witnesses-differ")]
    StacksDiffer {
        /// Number of the first frame that differs.
        frame: u32,
    },
    /// Part of the stack could not be read.
    StackUnreadable {
        /// Address that could not be read, and the reason.
        reason: String,
    },
    /// The stack does not lead to a function that stacks begin with.
    StackBroken {
        /// Place where unwinding failed, and the fault there.
        reason: String,
    },
}

/// The execution state of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuState {
    /// The vCPU was executing instructions.
    Running,
    /// The vCPU is in HLT.
    Halted,
    /// The vCPU was never started: it waits for INIT.
    NotStarted,
    /// The vCPU received INIT, and waits for its start-up IPI.
    InInit,
    /// The vCPU is as after power-on. KVM on AMD hosts resets a vCPU whose guest shut it down by a triple
    /// fault, so its last position is lost.
    Reset,
    /// The state could not be read.
    Unknown,
    /// Running or halted: a dump does not record which.
    NotRecorded,
    /// Most likely halted: a dump does not record it, and the instruction before its position is HLT.
    ProbablyHalted,
}

/// The general registers of a vCPU, its control registers and privilege level. Values are strings of 16
/// hexadecimal digits.
///
/// The `machine` crate has a type of the same name, with numbers; this is its form in a report.
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
    /// Control register 0. This and the other control registers are "not recorded" in a report from a
    /// dump that has general registers alone.
    pub cr0: String,
    pub cr2: String,
    pub cr3: String,
    pub cr4: String,
    /// Current privilege level: 0 in the kernel, 3 in user mode.
    pub cpl: u8,
}

/// The account of one NMI, from sending it to reading its buffer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nmi {
    /// True where an NMI was sent.
    pub sent: bool,
    /// True where the vCPU took the NMI; null where that is not known.
    pub delivered: Option<bool>,
    /// True where the vCPU was inside an earlier NMI when this one was sent.
    pub masked_before: bool,
    /// True where the vCPU was inside an NMI when it was stopped again.
    pub masked_after: bool,
    /// True where the NMI was still pending when the vCPU was stopped again.
    pub pending_after: bool,
    /// True where the handler ran to its end.
    pub handler_finished: bool,
    /// Time for which the vCPU was resumed for the NMI, in milliseconds; null where it was not.
    pub ran_ms: Option<f64>,
    /// Result of the NMI: an answer, or the reason why there is none.
    pub answer: NmiAnswer,
    /// Number of bytes in the buffer; null where it could not be read.
    pub bytes: Option<u32>,
    /// Number of messages that the handler printed and the buffer did not keep; null where it could not
    /// be read.
    pub messages_lost: Option<u64>,
    /// Number of bytes from an earlier NMI that nobody had read, and that were discarded.
    pub stale_bytes: u32,
}

/// The result of an NMI: an answer, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NmiAnswer {
    /// The guest's NMI handler printed a trace.
    Answered,
    /// The guest's NMI handler printed nothing that could be read.
    NoAnswer {
        /// Reason why there is no answer.
        reason: String,
    },
}

/// The place of a trace in the kernel's log, and how far it agrees with what the host saw later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrintedTrace {
    /// Time at which the kernel printed it, in milliseconds of the guest's clock since the guest started.
    pub uptime_ms: f64,
    /// Number of frames, from the outermost on, that the host's stack has too.
    pub common_frames: u32,
}

/// The backtrace that a guest's kernel printed: in the handler of an NMI, or into its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestTrace {
    /// Contents of the buffer, or lines of the log. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub text: String,
    /// True where this NMI's handler printed it; false where an earlier one's did and has not returned, and in a trace
    /// from the kernel's log.
    pub current: bool,
    /// Place of the trace in the kernel's log; absent for one from an NMI buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printed: Option<PrintedTrace>,
    /// Frames of the printed call trace, innermost first.
    pub frames: Vec<Frame>,
    /// Faults of the buffer and its text, as sentences.
    pub findings: Vec<String>,
}
