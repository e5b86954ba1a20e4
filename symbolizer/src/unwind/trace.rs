//! What unwinding a stack results in: frames, and why there are no more.
//!
//! Owns the types and their words. Owns no unwinding.

use nmiscope_machine::{ReadError, UnwindRegisters, VirtualAddress};

use crate::dwarf::DwarfError;
use crate::expression::ExpressionError;
use crate::program_counter::ProgramCounter;

/// How a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Given by the caller of the unwinder: the first frame.
    Registers,
    /// By the call frame information of its callee.
    Cfi,
    /// Its callee's address is no code, as after a call through a null pointer, and a return address
    /// lies where such a call leaves it: at the stack pointer.
    BadCall,
    /// By the chain of saved RBP. A function between the two that had not yet saved RBP is missed.
    FramePointer,
}

/// One frame of a stack. Inlined calls are not frames of their own: [`Image::frames`] has them.
///
/// [`Image::frames`]: crate::Image::frames
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnwoundFrame {
    /// Where it is, guest-virtual, and whether it was interrupted there or is to be returned to.
    pub pc: ProgramCounter,
    /// How it was found.
    pub strategy: Strategy,
    /// The registers in it, as far as they are known. Guest-virtual where they are addresses.
    pub registers: UnwindRegisters,
    /// Its canonical frame address, guest-virtual: the stack pointer before the call that made it,
    /// or below the interrupt that did. `None` if it was not possible to go on from here.
    pub cfa: Option<VirtualAddress>,
    /// Whether it is the entry of an interrupt, exception or NMI, and so its caller was interrupted
    /// (`.cfi_signal_frame`).
    pub is_signal_frame: bool,
    /// What is wrong with its CFI, where it has some. The next frame is then by other means.
    pub cfi_fault: Option<CfiError>,
}

impl UnwoundFrame {
    /// Whether it was interrupted: its PC is exact, no return address.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.pc, ProgramCounter::Interrupted(_))
    }
}

/// A stack: innermost frame first, and why it ends where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// At most [`MAX_FRAMES`](crate::MAX_FRAMES).
    pub frames: Vec<UnwoundFrame>,
    /// Why the last frame is the last.
    pub end: End,
}

/// Why unwinding ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The last frame's CFI says that nothing called it: its rule for RIP is "undefined".
    #[error("outermost frame: its CFI says that nothing called it")]
    Outermost,
    /// The last frame's return address is 0.
    #[error("outermost frame: its return address is 0")]
    ReturnAddressZero,
    /// The last frame has no CFI and its RBP is 0, which is how the psABI (3.4.1) has the deepest
    /// stack frame marked.
    #[error("outermost frame: its frame pointer is 0")]
    FramePointerZero,
    /// The registers to start from have no RIP.
    #[error("unwind: no instruction pointer is known")]
    NoProgramCounter,
    /// What the CFI gives for a return address is no address of the image's code.
    #[error("unwind: the return address {address} is not code of the image")]
    NotText {
        /// What lies there instead of a return address.
        address: VirtualAddress,
    },
    /// The return address could not be read.
    #[error("unwind: read the return address")]
    UnreadableStack(#[from] ReadError),
    /// There is no CFI for the last frame, and RBP does not lead on.
    #[error("unwind from {pc}: it has no CFI, and no frame pointer")]
    NoCallerFound {
        /// The last frame's PC.
        pc: VirtualAddress,
        /// What is wrong with RBP.
        #[source]
        frame_pointer: FramePointerError,
    },
    /// There is CFI for the last frame, but it could not be used, and RBP does not lead on either.
    #[error("unwind from {pc}: its CFI cannot be used")]
    BadCfi {
        /// The last frame's PC.
        pc: VirtualAddress,
        /// What is wrong with the CFI.
        #[source]
        source: CfiError,
    },
    /// The next frame would be one that was there already, or lie below this one on the same stack
    /// with no interrupt between them.
    #[error("unwind: {pc} at stack pointer {stack_pointer} leads back into the stack")]
    Loop {
        /// PC of the frame that is not in the trace any more.
        pc: VirtualAddress,
        /// Its stack pointer.
        stack_pointer: VirtualAddress,
    },
    /// There are more frames than anyone reads.
    #[error("unwind: more than {} frames", super::MAX_FRAMES)]
    TooManyFrames,
}

impl End {
    /// Whether the whole stack is in the trace: the last frame says that it is the outermost.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Outermost | Self::ReturnAddressZero | Self::FramePointerZero)
    }
}

/// Why call frame information could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CfiError {
    /// `.eh_frame` or `.debug_frame` is broken, here or as a whole.
    #[error("use the call frame information")]
    Table(#[from] DwarfError),
    /// The frame's address is computed, and cannot be.
    #[error("compute the call frame's address")]
    Expression(#[from] ExpressionError),
    /// The frame's address depends on a register that is not known.
    #[error("compute the call frame's address: the value of {} is not known", crate::expression::name(*register))]
    UnknownRegister {
        /// The DWARF register number.
        register: u16,
    },
    /// No rule, or one that cannot be followed, for where the return address is.
    #[error("find the return address: the call frame information does not say where it is")]
    NoReturnAddress,
    /// The entries for this stack's functions are larger than those of any real image.
    #[error("use the call frame information: more of it than any real stack needs")]
    TooLarge,
}

/// Why RBP does not lead to a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramePointerError {
    /// Its value in this frame is not known.
    #[error("follow RBP: its value is not known")]
    Unknown,
    /// It is 0, in a frame that cannot be an outermost function.
    #[error("follow RBP: it is 0")]
    Zero,
    /// It points below the stack pointer, where no live frame is.
    #[error("follow RBP: {frame_pointer} is below the stack pointer {stack_pointer}")]
    BelowStack {
        /// RBP.
        frame_pointer: VirtualAddress,
        /// RSP.
        stack_pointer: VirtualAddress,
    },
    /// The two words that it points at could not be read.
    #[error("follow RBP")]
    Unreadable(#[from] ReadError),
    /// There is no return address above what it points at.
    #[error("follow RBP: {address} is not code of the image")]
    NotText {
        /// What lies there instead.
        address: VirtualAddress,
    },
}
