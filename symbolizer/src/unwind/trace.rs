//! The result of unwinding a stack: frames, and the reason why there are no more.
//!
//! Owns the types and their texts. Owns no unwinding.

use nmiscope_machine::{ReadError, UnwindRegisters, VirtualAddress};

use crate::dwarf::DwarfError;
use crate::expression::ExpressionError;
use crate::program_counter::ProgramCounter;

/// The means by which a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The registers given to the unwinder: the first frame.
    Registers,
    /// The call frame information of the frame's callee.
    Cfi,
    /// The ORC row of the frame's callee, in a Linux kernel.
    Orc,
    /// A call to a bad address: the callee's address is no code, as after a call through a null pointer,
    /// and a return address lies where such a call leaves it, at the stack pointer.
    BadCall,
    /// The chain of saved RBP. A function between the two that had not yet saved RBP is missed. In a Linux kernel
    /// without ORC also the mark in RBP by which entry code leads to the registers that it saved, and the
    /// return address above what an interrupted function had pushed before it saved RBP.
    FramePointer,
}

/// A frame of a stack. Inlined calls are not frames of their own: [`Image::frames`] has them.
///
/// [`Image::frames`]: crate::Image::frames
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnwoundFrame {
    /// The guest-virtual program counter, either interrupted or a return address.
    pub pc: ProgramCounter,
    /// The means by which the frame was found.
    pub strategy: Strategy,
    /// The registers of the frame, as far as they are known. Guest-virtual where they are addresses.
    pub registers: UnwindRegisters,
    /// The canonical frame address, guest-virtual: the stack pointer before the call that made the frame;
    /// for the entry of an interrupt, the address above the words that the CPU pushed. `None` where no strategy
    /// gave it.
    pub cfa: Option<VirtualAddress>,
    /// True for the entry of an interrupt, exception or NMI (`.cfi_signal_frame`): its caller was
    /// interrupted.
    pub is_signal_frame: bool,
    /// The fault in the frame's CFI; `None` without CFI or with a sound one. The next frame is then found
    /// by other means.
    pub cfi_fault: Option<CfiError>,
}

impl UnwoundFrame {
    /// True for the frame whose registers the unwinder was given.
    pub(crate) fn is_first(&self) -> bool {
        self.strategy == Strategy::Registers
    }

    /// True if the frame was interrupted: its PC is exact, no return address.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.pc, ProgramCounter::Interrupted(_))
    }
}

/// A stack: its frames, innermost first, and the reason why it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The frames, innermost first, at most [`MAX_FRAMES`](crate::MAX_FRAMES).
    pub frames: Vec<UnwoundFrame>,
    /// The reason why the last frame is the last.
    pub end: End,
}

/// The reason why unwinding ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The last frame's CFI says that nothing called it: its rule for RIP is "undefined".
    #[error("outermost frame: its CFI says that nothing called it")]
    Outermost,
    /// The last frame's return address is 0.
    #[error("outermost frame: its return address is 0")]
    ReturnAddressZero,
    /// The last frame has no CFI and its RBP is 0, the mark of the deepest stack frame in the psABI
    /// (3.4.1).
    #[error("outermost frame: its frame pointer is 0")]
    FramePointerZero,
    /// The last frame has no return address, and its stack begins where one would lie: the image has a label
    /// there that is no code, or a variable ends there.
    #[error("outermost frame: its stack begins at {address}")]
    StackTop {
        /// The address behind the stack, guest-virtual.
        address: VirtualAddress,
    },
    /// The last frame is a vCPU that halts or spins in a loop without an exit, and neither RSP nor RBP leads
    /// to a caller: the end of the start-up code of a CPU that nobody needs.
    #[error("outermost frame: it is parked in a loop, and nothing called it")]
    Parked,
    /// The last frame is the entry from user mode: what it interrupted is a program's stack.
    #[error("outermost frame of the kernel: user mode at {pc}")]
    UserMode {
        /// The instruction that was interrupted, or that follows the system call.
        pc: VirtualAddress,
    },
    /// The last frame's ORC row says that its caller is not known, or a register that it needs is not.
    #[error("unwind from {pc}: its ORC row leads to no caller")]
    NoOrcCaller {
        /// The PC of the last frame.
        pc: VirtualAddress,
    },
    /// The registers to start from have no RIP.
    #[error("unwind: no instruction pointer is known")]
    NoProgramCounter,
    /// The CFI gives a return address that is no address of the image's code.
    #[error("unwind: the return address {address} is not code of the image")]
    NotText {
        /// The value in place of the return address.
        address: VirtualAddress,
    },
    /// The return address could not be read.
    #[error("unwind: read the return address")]
    UnreadableStack(#[from] ReadError),
    /// The last frame has no CFI, and RBP gives no caller.
    #[error("unwind from {pc}: it has no CFI, and no frame pointer")]
    NoCallerFound {
        /// The PC of the last frame.
        pc: VirtualAddress,
        /// The reason why RBP gives no caller.
        #[source]
        frame_pointer: FramePointerError,
    },
    /// The last frame's CFI could not be used, and RBP gives no caller either.
    #[error("unwind from {pc}: its CFI cannot be used")]
    BadCfi {
        /// The PC of the last frame.
        pc: VirtualAddress,
        /// The fault in the CFI.
        #[source]
        source: CfiError,
    },
    /// The next frame is already in the trace, or lies below the last one on the same stack with no
    /// interrupt between them.
    #[error("unwind: {pc} at stack pointer {stack_pointer} leads back into the stack")]
    Loop {
        /// The PC of the next frame, which is not in the trace.
        pc: VirtualAddress,
        /// The stack pointer of that frame.
        stack_pointer: VirtualAddress,
    },
    /// The stack has more frames than [`MAX_FRAMES`](crate::MAX_FRAMES).
    #[error("unwind: more than {} frames", super::MAX_FRAMES)]
    TooManyFrames,
}

impl End {
    /// True if the whole stack is in the trace: the last frame is marked as the outermost.
    pub fn is_complete(&self) -> bool {
        matches!(
            self,
            Self::Outermost
                | Self::ReturnAddressZero
                | Self::FramePointerZero
                | Self::StackTop { .. }
                | Self::Parked
                | Self::UserMode { .. }
        )
    }
}

/// The reason why call frame information could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CfiError {
    /// `.eh_frame` or `.debug_frame` is broken, here or as a whole.
    #[error("use the call frame information")]
    Table(#[from] DwarfError),
    /// The frame's address is an expression that cannot be evaluated.
    #[error("compute the call frame's address")]
    Expression(#[from] ExpressionError),
    /// The frame's address depends on a register that is not known.
    #[error("compute the call frame's address: the value of {} is not known", crate::expression::name(*register))]
    UnknownRegister {
        /// The DWARF register number.
        register: u16,
    },
    /// The row has no rule for the return address, or one that cannot be followed.
    #[error("find the return address: the call frame information does not say where it is")]
    NoReturnAddress,
    /// The entries for this stack's functions are larger than those of any real image.
    #[error("use the call frame information: more of it than any real stack needs")]
    TooLarge,
}

/// The reason why RBP does not lead to a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramePointerError {
    /// The value of RBP in this frame is not known.
    #[error("follow RBP: its value is not known")]
    Unknown,
    /// RBP is 0, in a frame that cannot be an outermost function.
    #[error("follow RBP: it is 0")]
    Zero,
    /// RBP points below the stack pointer, where no live frame is.
    #[error("follow RBP: {frame_pointer} is below the stack pointer {stack_pointer}")]
    BelowStack {
        /// The value of RBP, guest-virtual.
        frame_pointer: VirtualAddress,
        /// The value of RSP, guest-virtual.
        stack_pointer: VirtualAddress,
    },
    /// The two words that RBP points at could not be read.
    #[error("follow RBP")]
    Unreadable(#[from] ReadError),
    /// The word above the saved RBP is no return address.
    #[error("follow RBP: {address} is not code of the image")]
    NotText {
        /// The value in place of the return address.
        address: VirtualAddress,
    },
}
