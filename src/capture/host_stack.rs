//! Host stacks: those of vCPUs and sleeping tasks, unwound from outside through registers and page
//! tables, without the guest's help.
//!
//! Owns the choice of stacks, and the bound on their variables; refuses to own how a frame is found
//! (`KernelSymbols`) and shown (`diagnosis`). Called while the guest is stopped and before its NMIs,
//! whose handlers write to its stacks, and again for a stored capture.

use nmiscope_machine::{
    GuestVirtual, PageTables, PagingError, PhysicalMemory, Register, UnwindRegisters, VcpuState,
    VirtualAddress, VirtualMemory,
};
use nmiscope_symbolizer::{
    End, FunctionVariables, ProgramCounter, Strategy, TypeError, UnwoundFrame,
};

use crate::kernel::{KernelState, KernelSymbols, KernelTask};
use crate::targets::NoAnswer;

/// The most variables of one stack: recursion makes stacks of a thousand frames with the same few
/// variables each, and the guest is stopped meanwhile.
const MAX_VARIABLES: usize = 4096;

/// Stack that was unwound from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnwoundStack {
    /// The frames, innermost first; the first is where the vCPU or task was stopped.
    pub frames: Vec<UnwoundFrame>,
    /// The variables of each frame; empty if none were requested.
    pub variables: Vec<FrameVariables>,
    /// The reason why there are no more frames.
    pub ending: Ending,
}

/// Variables of a frame's functions, innermost first, or the reason why there are none.
pub type FrameVariables = Result<Vec<FunctionVariables>, NoFrameVariables>;

/// Reason why a frame has no variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFrameVariables {
    /// The frames before it have reached the bound.
    #[error("variables: the stack has more than {MAX_VARIABLES}")]
    TooMany,
    /// The debug information of the frame could not be read.
    #[error(transparent)]
    Unreadable(#[from] TypeError),
}

/// Reason why a stack has no more frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The unwinder ended, for its own reason.
    Unwound(End),
    /// The stack was not unwound beyond its first frame.
    NotUnwound(NotUnwound),
}

/// Reason why a stack was not unwound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUnwound {
    /// Symbols to unwind by are missing.
    #[error("there is no image to unwind by")]
    NoImage,
    /// The vCPU's registers select no page tables.
    #[error(transparent)]
    Paging(#[from] PagingError),
    /// A sleeping task has the kernel's address space, and no vCPU has page tables.
    #[error("no vCPU has page tables")]
    NoPageTables,
}

impl Ending {
    /// Returns true if the stack was unwound to its outermost frame.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Unwound(end) if end.is_complete())
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unwound(end) => f.write_str(&crate::error_chain(end)),
            Self::NotUnwound(reason) => f.write_str(&crate::error_chain(reason)),
        }
    }
}

/// Unwinds the stack of a vCPU, with variables if `symbols` has them; `None` for a vCPU without
/// registers, or with registers that hold no position.
pub fn unwind_vcpu(
    state: &Result<VcpuState, NoAnswer>,
    symbols: Option<&dyn KernelSymbols>,
    memory: &dyn PhysicalMemory,
) -> Option<UnwoundStack> {
    let (registers, tables) = start_of_unwinding(state)?;
    Some(unwind(&registers, tables, symbols, memory, Variables::IfThere))
}

/// Unwinds the stack of a vCPU without variables.
pub(super) fn unwind_vcpu_frames(
    state: &Result<VcpuState, NoAnswer>,
    symbols: Option<&dyn KernelSymbols>,
    memory: &dyn PhysicalMemory,
) -> Option<Vec<UnwoundFrame>> {
    let (registers, tables) = start_of_unwinding(state)?;
    Some(unwind(&registers, tables, symbols, memory, Variables::None).frames)
}

fn start_of_unwinding(
    state: &Result<VcpuState, NoAnswer>,
) -> Option<(UnwindRegisters, Result<PageTables, NotUnwound>)> {
    let state = state.as_ref().ok().filter(|state| state.execution().has_position())?;
    let tables = state.registers.page_tables().map_err(NotUnwound::from);
    Some((UnwindRegisters::from(&state.registers), tables))
}

/// Stacks of all vCPUs and tasks at one moment.
pub(super) struct Stacks {
    /// The stacks by vCPU number; `None` for a vCPU without a position.
    pub(super) vcpus: Vec<Option<UnwoundStack>>,
    /// The stacks by task number; `None` for a task that runs or does not exist.
    pub(super) tasks: Vec<Option<UnwoundStack>>,
}

/// Unwinds the stacks of all vCPUs and of all tasks that do not run, with variables if `symbols` has them.
pub(super) fn unwind_all(
    kernel: Option<&KernelState>,
    states: &[Result<VcpuState, NoAnswer>],
    symbols: Option<&dyn KernelSymbols>,
    memory: &dyn PhysicalMemory,
) -> Stacks {
    Stacks {
        vcpus: states.iter().map(|state| unwind_vcpu(state, symbols, memory)).collect(),
        tasks: unwind_tasks(kernel, states, symbols, memory),
    }
}

/// Unwinds the stacks of all tasks that do not run, by task number. The kernel's memory is the same in
/// all address spaces: they are read in that of the first vCPU that has page tables.
fn unwind_tasks(
    kernel: Option<&KernelState>,
    states: &[Result<VcpuState, NoAnswer>],
    symbols: Option<&dyn KernelSymbols>,
    memory: &dyn PhysicalMemory,
) -> Vec<Option<UnwoundStack>> {
    // A CPU in a program may have tables without the kernel (page-table isolation).
    let in_kernel = |state: &&VcpuState| state.registers.cs.selector & 3 == 0;
    let (kernels, programs): (Vec<_>, Vec<_>) = states.iter().flatten().partition(in_kernel);
    let mut tables = kernels.into_iter().chain(programs);
    let tables = tables.find_map(|state: &VcpuState| state.registers.page_tables().ok());
    let tables = tables.ok_or(NotUnwound::NoPageTables);
    let stack = |task: &Option<KernelTask>| {
        let registers = UnwindRegisters::from(task.as_ref()?.registers.as_ref()?);
        Some(unwind(&registers, tables.clone(), symbols, memory, Variables::IfThere))
    };
    kernel.map_or(&[][..], |kernel| &kernel.tasks).iter().map(stack).collect()
}

/// Choice between reading a stack's variables and not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variables {
    None,
    /// Read them if the symbols have them.
    IfThere,
}

fn unwind(
    registers: &UnwindRegisters,
    tables: Result<PageTables, NotUnwound>,
    symbols: Option<&dyn KernelSymbols>,
    memory: &dyn PhysicalMemory,
    wanted: Variables,
) -> UnwoundStack {
    let (symbols, tables) = match (symbols, tables) {
        (Some(symbols), Ok(tables)) => (symbols, tables),
        (None, _) => return first_frame_alone(registers, NotUnwound::NoImage),
        (_, Err(reason)) => return first_frame_alone(registers, reason),
    };
    let memory = GuestVirtual::new(memory, tables);
    let trace = symbols.unwind(registers, &memory);
    let variables = match wanted {
        Variables::None => Vec::new(),
        Variables::IfThere => variables(symbols, &trace.frames, &memory),
    };
    UnwoundStack { frames: trace.frames, variables, ending: Ending::Unwound(trace.end) }
}

fn first_frame_alone(registers: &UnwindRegisters, reason: NotUnwound) -> UnwoundStack {
    let rip = registers.get(Register::Rip).unwrap_or(0);
    UnwoundStack {
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

/// Reads the variables of a stack, frame for frame; empty if none were requested.
fn variables(
    symbols: &dyn KernelSymbols,
    frames: &[UnwoundFrame],
    memory: &dyn VirtualMemory,
) -> Vec<FrameVariables> {
    let mut left = MAX_VARIABLES;
    let each = |frame: &UnwoundFrame| {
        if left == 0 {
            return Some(Err(NoFrameVariables::TooMany));
        }
        let functions = symbols.variables(frame, memory)?;
        let found = functions.iter().flatten();
        let count: usize = found.map(|function| function.variables.len()).sum();
        left = left.saturating_sub(count);
        Some(functions.map_err(NoFrameVariables::from))
    };
    frames.iter().map_while(each).collect()
}
