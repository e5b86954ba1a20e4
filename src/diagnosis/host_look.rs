//! The host's look at a vCPU: its stack, unwound from its registers through its page tables, without
//! a word from the guest.
//!
//! Taken while the guest stands still and before its NMIs, whose handlers write to its stacks.

use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalMemory, Register, UnwindRegisters, VcpuState, VirtualAddress,
};
use nmiscope_symbolizer::{End, ProgramCounter, Strategy, UnwoundFrame};

use super::variables::{self, FrameVariables};
use crate::kernel::Symbols;
use crate::report::FoundBy;

/// What the host sees of one vCPU.
#[derive(Debug, Clone)]
pub struct HostLook {
    /// Innermost first; the first one is where the vCPU stands.
    pub frames: Vec<UnwoundFrame>,
    /// The variables of each of them; empty if nobody asked.
    pub variables: Vec<FrameVariables>,
    /// Why there are no more.
    pub ending: Ending,
}

/// Why a stack has no more frames.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The unwinder says.
    Unwound(End),
    /// There was nothing to unwind by.
    NotUnwound(String),
}

impl Ending {
    /// Whether the whole stack is there.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Unwound(end) if end.is_complete())
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unwound(end) => f.write_str(&crate::error_chain(end)),
            Self::NotUnwound(reason) => f.write_str(reason),
        }
    }
}

/// Looks at all of them; `None` for one that cannot be seen: it has no registers, or none that mean
/// anything. Their variables are read if `symbols` has them.
pub fn look_at_all(
    states: &[Result<VcpuState, String>],
    symbols: Option<&dyn Symbols>,
    memory: &dyn PhysicalMemory,
) -> Vec<Option<HostLook>> {
    states.iter().map(|state| look(state.as_ref().ok()?, symbols, memory)).collect()
}

fn look(
    state: &VcpuState,
    symbols: Option<&dyn Symbols>,
    memory: &dyn PhysicalMemory,
) -> Option<HostLook> {
    if !state.execution().has_position() {
        return None;
    }
    let registers = UnwindRegisters::from(&state.registers);
    let tables = state.registers.page_tables().map_err(|error| crate::error_chain(&error));
    Some(look_from(&registers, tables, symbols, memory))
}

/// Looks at the stack that starts with `registers`, in the address space of `tables`, or of which it
/// is said why there is none.
pub(super) fn look_from(
    registers: &UnwindRegisters,
    tables: Result<PageTables, String>,
    symbols: Option<&dyn Symbols>,
    memory: &dyn PhysicalMemory,
) -> HostLook {
    let (symbols, tables) = match (symbols, tables) {
        (Some(symbols), Ok(tables)) => (symbols, tables),
        (None, _) => return first_frame_alone(registers, "there is no image to unwind by".into()),
        (_, Err(reason)) => return first_frame_alone(registers, reason),
    };
    let memory = GuestVirtual::new(memory, tables);
    let trace = symbols.unwind(registers, &memory);
    let variables = variables::of_stack(symbols, &trace.frames, &memory);
    HostLook { frames: trace.frames, variables, ending: Ending::Unwound(trace.end) }
}

fn first_frame_alone(registers: &UnwindRegisters, reason: String) -> HostLook {
    let rip = registers.get(Register::Rip).unwrap_or(0);
    HostLook {
        frames: vec![UnwoundFrame {
            pc: ProgramCounter::Interrupted(VirtualAddress(rip)),
            strategy: Strategy::Registers,
            registers: registers.clone(),
            cfa: None,
            is_signal_frame: false,
            cfi_fault: None,
        }],
        variables: Vec::new(),
        ending: Ending::NotUnwound(reason),
    }
}

impl From<Strategy> for FoundBy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Registers => Self::Registers,
            Strategy::Cfi => Self::Cfi,
            Strategy::BadCall => Self::BadCall,
            Strategy::FramePointer => Self::FramePointer,
        }
    }
}
