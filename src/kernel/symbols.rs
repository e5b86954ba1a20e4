//! Symbols: functions, lines, unwinding and variables of a kernel's addresses.
//!
//! Owns the trait by which stacks are unwound and described, and its implementation by an ELF image. A
//! kernel that describes itself in memory implements it without an image. Refuses to own formats: DWARF
//! and call frame information are the symbolizer's. Called by `capture` and `diagnosis`.

use nmiscope_machine::{UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::KernelCode;
use nmiscope_symbolizer::{
    FunctionVariables, Image, ProgramCounter, Resolved, SymbolOffset, Trace, TypeError, Types,
    Unwinder, UnwoundFrame, Variables,
};

/// Symbols, unwind tables and types of a running kernel and its modules. Addresses are those of the
/// guest: a bias between them and an image's is applied behind this trait.
pub trait KernelSymbols {
    /// Returns the function of an address, the calls that are inlined into it, and their lines.
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_>;

    /// Returns the symbol that contains an address.
    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>>;

    /// Returns the guest-virtual address of a symbol by name.
    fn address_of(&self, name: &str) -> Option<VirtualAddress>;

    /// Unwinds the stack that begins with these registers.
    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace;

    /// Returns the code by which Linux unwinds its stacks, for an unwinder that knows images too; `None` for any other
    /// kernel.
    fn code(&self) -> Option<&dyn KernelCode> {
        None
    }

    /// Returns the bytes of code from an address on, as the image has them; `None` outside of code, and for a kernel
    /// that changes its code as it runs.
    fn machine_code(&self, _address: VirtualAddress) -> Option<&[u8]> {
        None
    }

    /// Returns the build-id of the kernel's image; `None` if there is none.
    fn build_id(&self) -> Option<&[u8]> {
        None
    }

    /// Returns true if functions, lines or variables are missing because the debug information takes more work
    /// or memory than it gets.
    fn is_budget_spent(&self) -> bool {
        false
    }

    /// Reads the arguments and locals of a frame's functions, innermost first; `None` if variables were
    /// not requested.
    ///
    /// # Errors
    /// The debug information cannot be read.
    fn variables(
        &self,
        _frame: &UnwoundFrame,
        _memory: &dyn VirtualMemory,
    ) -> Option<Result<Vec<FunctionVariables>, TypeError>> {
        None
    }
}

/// Symbols of a kernel that runs at its link address.
impl KernelSymbols for Image<'_> {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        Image::frames(self, counter)
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        Image::symbol_containing(self, address)
    }

    fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        Some(self.symbol(name)?.address)
    }

    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        Unwinder::new(self).unwind(registers, memory)
    }

    fn machine_code(&self, address: VirtualAddress) -> Option<&[u8]> {
        self.is_text(address).then(|| self.loaded_bytes(address)).flatten()
    }

    fn build_id(&self) -> Option<&[u8]> {
        Image::build_id(self)
    }

    fn is_budget_spent(&self) -> bool {
        Image::is_budget_spent(self)
    }
}

/// The warning for a report whose frames lack functions or lines for want of work.
pub const SYMBOLS_INCOMPLETE: &str = "functions and lines are incomplete: the image's debug information takes more \
                                      work or memory than it is given";

/// Reason why frames have no variables: a warning for a user who requested them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("arguments and locals are not available: failed to {}", crate::error_chain(.0))]
pub struct NoVariables(TypeError);

/// Symbols of an image, with the variables of frames.
pub struct WithVariables<'i> {
    image: &'i Image<'i>,
    types: Types<'i>,
}

impl<'i> WithVariables<'i> {
    /// Finds the image's types, once for all stacks. That can take a while: call it before the guest is
    /// stopped.
    ///
    /// # Errors
    /// The image has no usable debug information about variables.
    pub fn new(image: &'i Image<'i>) -> Result<Self, NoVariables> {
        Ok(Self { image, types: Types::new(image).map_err(NoVariables)? })
    }
}

impl KernelSymbols for WithVariables<'_> {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        KernelSymbols::frames(self.image, counter)
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        KernelSymbols::symbol_containing(self.image, address)
    }

    fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        self.image.address_of(name)
    }

    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        self.image.unwind(registers, memory)
    }

    fn machine_code(&self, address: VirtualAddress) -> Option<&[u8]> {
        self.image.machine_code(address)
    }

    fn build_id(&self) -> Option<&[u8]> {
        KernelSymbols::build_id(self.image)
    }

    fn is_budget_spent(&self) -> bool {
        self.image.is_budget_spent()
    }

    fn variables(
        &self,
        frame: &UnwoundFrame,
        memory: &dyn VirtualMemory,
    ) -> Option<Result<Vec<FunctionVariables>, TypeError>> {
        Some(Variables::new(&self.types).in_frame(frame, memory))
    }
}
