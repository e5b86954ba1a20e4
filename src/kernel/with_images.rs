//! Symbols of a kernel that describes itself, with what the images of its parts add: files, lines, inlined calls,
//! variables, and call frame information where the kernel has no unwind rows of its own.
//!
//! Owns the bias between an image and the guest, and the order of sources: names of functions are the kernel's
//! own. Refuses to own the search for images (`session`). An image is opened at the first address that it is wanted for.

use std::cell::{Cell, LazyCell};
use std::ops::Range;

use nmiscope_machine::{UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{self, KernelCode, OrcRow};
use nmiscope_symbolizer::{
    FunctionVariables, Image, Missing, ProgramCounter, Resolved, SymbolOffset, Trace, TypeError,
    Types, UnwoundFrame, Variables,
};

use super::symbols::KernelSymbols;

/// An image and where it lies in a guest.
#[derive(Debug)]
pub struct PlacedImage<'f> {
    /// The image, of the kernel or of one module.
    pub image: Image<'f>,
    /// Distance in bytes, modulo 2^64, from the image's addresses to the guest's.
    pub bias: u64,
}

/// Opens an image when it is first wanted; gives `None` where it cannot be used.
pub type OpenImage<'f> = Box<dyn FnOnce() -> Option<PlacedImage<'f>> + 'f>;

type LazyImage<'f> = LazyCell<Option<PlacedImage<'f>>, OpenImage<'f>>;

/// Images of the parts of a kernel.
#[derive(Default)]
pub struct KernelImages<'f> {
    /// Ranges of guest-virtual addresses of code, with the image that has it.
    images: Vec<(Vec<Range<u64>>, LazyImage<'f>)>,
    /// True after a lookup that an image's budget of work ended.
    is_budget_spent: Cell<bool>,
}

impl<'f> KernelImages<'f> {
    /// Adds an image for code at guest-virtual addresses.
    pub fn add(&mut self, text: Vec<Range<u64>>, open: OpenImage<'f>) {
        self.images.push((text, LazyCell::new(open)));
    }

    /// Returns the image of the code at an address.
    fn at(&self, address: VirtualAddress) -> Option<&PlacedImage<'f>> {
        let holds = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&address.0));
        let (_, image) = self.images.iter().find(|(text, _)| holds(text))?;
        image.as_ref()
    }
}

/// Symbols of a kernel that describes itself, and images of its parts.
pub struct WithImages<'a, 'f> {
    kernel: &'a dyn KernelSymbols,
    images: &'a KernelImages<'f>,
    variables: bool,
}

impl<'a, 'f> WithImages<'a, 'f> {
    /// Adds images to a kernel's own symbols; `variables` decides whether the variables of frames are read.
    pub fn new(
        kernel: &'a dyn KernelSymbols,
        images: &'a KernelImages<'f>,
        variables: bool,
    ) -> Self {
        Self { kernel, images, variables }
    }
}

impl KernelSymbols for WithImages<'_, '_> {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        let own = self.kernel.frames(counter);
        let Some(placed) = self.images.at(counter.lookup_address()) else { return own };
        let found = placed.image.frames(moved(counter, placed.bias));
        // Assembly has no debug information and is no fault.
        let missing = found
            .missing
            .filter(|missing| matches!(missing, Missing::Malformed(_) | Missing::BudgetSpent(_)));
        if placed.image.is_budget_spent() {
            self.images.is_budget_spent.set(true);
        }
        let mut frames = found.frames;
        match (frames.last_mut(), own.frames.last()) {
            (None, _) => return Resolved { missing: missing.or(own.missing), ..own },
            (Some(function), Some(known)) => {
                function.function.clone_from(&known.function);
                function.linkage_name = None;
            }
            (Some(_), None) => {}
        }
        Resolved { address: own.address, frames, symbol: own.symbol, missing }
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        self.kernel.symbol_containing(address)
    }

    fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        self.kernel.address_of(name)
    }

    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        match self.kernel.code() {
            Some(code) => {
                let Self { images, variables, .. } = *self;
                linux::unwind(&CodeWithImages { code, images, variables }, registers, memory)
            }
            None => self.kernel.unwind(registers, memory),
        }
    }

    fn build_id(&self) -> Option<&[u8]> {
        self.kernel.build_id()
    }

    fn is_budget_spent(&self) -> bool {
        self.images.is_budget_spent.get()
    }

    fn variables(
        &self,
        frame: &UnwoundFrame,
        memory: &dyn VirtualMemory,
    ) -> Option<Result<Vec<FunctionVariables>, TypeError>> {
        if !self.variables {
            return None;
        }
        let Some(placed) = self.images.at(frame.pc.lookup_address()) else {
            return Some(Ok(Vec::new()));
        };
        let read = |types: Types<'_>| {
            Variables::new(&types).with_bias(placed.bias).in_frame(frame, memory)
        };
        Some(Types::new(&placed.image).and_then(read))
    }
}

/// A program counter of the guest as the image has it.
fn moved(counter: ProgramCounter, bias: u64) -> ProgramCounter {
    let address = VirtualAddress(counter.address().0.wrapping_sub(bias));
    match counter {
        ProgramCounter::Interrupted(_) => ProgramCounter::Interrupted(address),
        ProgramCounter::Return(_) => ProgramCounter::Return(address),
    }
}

/// Code of a kernel with the call frame information of images.
struct CodeWithImages<'a, 'f> {
    code: &'a dyn KernelCode,
    images: &'a KernelImages<'f>,
    variables: bool,
}

impl KernelCode for CodeWithImages<'_, '_> {
    fn row(&self, address: VirtualAddress) -> Option<OrcRow> {
        self.code.row(address)
    }

    fn is_text(&self, address: VirtualAddress) -> bool {
        self.code.is_text(address)
    }

    fn function_start(&self, address: VirtualAddress) -> Option<VirtualAddress> {
        self.code.function_start(address)
    }

    fn image(&self, address: VirtualAddress) -> Option<(&Image<'_>, u64)> {
        let placed = self.images.at(address)?;
        Some((&placed.image, placed.bias))
    }

    fn wants_registers(&self) -> bool {
        self.variables
    }
}
