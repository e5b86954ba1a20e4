//! What a report says of one vCPU: what it was doing, what became of its NMI, and the two witnesses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::frame::Frame;

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
    /// The vCPU was stopped in the shadow of an STI or MOV SS, in which it takes no NMI: it has run on
    /// before it took this one. The guest's trace is of a later moment than the host's.
    InterruptShadow {
        /// The first frame at which they differ.
        frame: u32,
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
    /// Running or halted: a dump does not record which.
    NotRecorded,
    /// Most likely halted: a dump does not record it, and the instruction before its position is HLT.
    ProbablyHalted,
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
    /// Control register 0. This and the other control registers are "not recorded" in a report from a
    /// dump that has general registers alone.
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
