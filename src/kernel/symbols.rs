//! The meaning of a kernel's addresses: functions, lines, unwinding, variables.
//!
//! Owns the trait that whoever looks at stacks asks, and its implementation by an ELF image. A kernel
//! that describes itself in memory implements it without one. Refuses to own formats: DWARF and call
//! frame information are the symbolizer's. Called by `capture` and `diagnosis`.

use nmiscope_machine::{UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{
    FunctionVariables, Image, ProgramCounter, Resolved, SymbolOffset, Trace, TypeError, Types,
    Unwinder, UnwoundFrame, Variables,
};

/// The symbols, unwind tables and types of a running kernel and its modules. Addresses are those of
/// the guest: a bias between them and an image's is applied behind this trait.
pub trait KernelSymbols {
    /// The function of an address, the calls that are inlined into it, and their lines.
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_>;

    /// The symbol that an address lies in.
    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>>;

    /// The address of the symbol with that name.
    fn address_of(&self, name: &str) -> Option<VirtualAddress>;

    /// The stack that begins with these registers.
    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace;

    /// The build-id of the kernel's image; `None` where there is none.
    fn build_id(&self) -> Option<&[u8]> {
        None
    }

    /// The arguments and locals of a frame's functions, innermost first, or why there are none;
    /// `None` where nobody asked for variables.
    fn variables(
        &self,
        _frame: &UnwoundFrame,
        _memory: &dyn VirtualMemory,
    ) -> Option<Result<Vec<FunctionVariables>, TypeError>> {
        None
    }
}

/// For a kernel that runs where it was linked.
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

    fn build_id(&self) -> Option<&[u8]> {
        Image::build_id(self)
    }
}

/// The reason why frames have no variables: a warning to whoever asked for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("arguments and locals are not to be had: failed to {}", crate::error_chain(.0))]
pub struct NoVariables(TypeError);

/// An image's symbols, with the variables of frames.
pub struct WithVariables<'i> {
    image: &'i Image<'i>,
    types: Types<'i>,
}

impl<'i> WithVariables<'i> {
    /// Finds the image's types, once for all stacks. That can take a while: before the guest is
    /// stopped.
    ///
    /// # Errors
    /// The image does not say where variables are.
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

    fn build_id(&self) -> Option<&[u8]> {
        KernelSymbols::build_id(self.image)
    }

    fn variables(
        &self,
        frame: &UnwoundFrame,
        memory: &dyn VirtualMemory,
    ) -> Option<Result<Vec<FunctionVariables>, TypeError>> {
        Some(Variables::new(&self.types).in_frame(frame, memory))
    }
}
