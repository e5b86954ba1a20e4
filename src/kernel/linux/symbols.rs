//! Symbols and unwind rows of a Linux kernel and its modules, without an image.
//!
//! Owns the choice between the kernel's tables and those of a module. Refuses to own the formats (the symbolizer).
//! Called by captures and diagnosis through [`KernelSymbols`].

use std::borrow::Cow;
use std::ops::Range;

use nmiscope_machine::{UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Kallsyms, KernelCode, OrcRow, OrcTable, unwind};
use nmiscope_symbolizer::{
    Frame, ProgramCounter, Resolved, Symbol, SymbolKind, SymbolOffset, Trace, UnwoundFrame,
};

use super::modules::Modules;
use crate::kernel::{KernelPart, KernelSymbols};

/// Symbols and unwind rows of one guest. Addresses are those at run time.
#[derive(Debug)]
pub(super) struct LinuxSymbols {
    pub(super) kallsyms: Kallsyms,
    /// The kernel's own rows; `None` for a kernel that was built without them.
    pub(super) orc: Option<OrcTable>,
    pub(super) modules: Modules,
    /// The range of the kernel's image; `None` for a kernel whose symbols do not say where it ends.
    image: Option<Range<u64>>,
    /// Ranges of the kernel's code: the code itself, and that which runs at boot only.
    text: Vec<Range<u64>>,
}

impl LinuxSymbols {
    pub(super) fn new(kallsyms: Kallsyms, orc: Option<OrcTable>, modules: Modules) -> Self {
        let range = |start: &str, end: &str| {
            Some(kallsyms.address_of(start)?.0..kallsyms.address_of(end)?.0)
        };
        let text = [range("_stext", "_etext"), range("_sinittext", "_einittext")];
        let text = text.into_iter().flatten().collect();
        let image = range("_text", "_end");
        Self { kallsyms, orc, modules, image, text }
    }

    /// Returns the name of a frame's function, without the module that has it.
    pub(super) fn function(&self, frame: &UnwoundFrame) -> Option<String> {
        let address = frame.pc.lookup_address();
        match self.modules.containing(address) {
            Some(module) => Some(module.symbol(address)?.0.to_owned()),
            None => Some(self.kallsyms.containing(address)?.name),
        }
    }

    /// The kernel without its modules, as it lies in memory.
    pub(super) fn kernel_part(&self, build_id: Option<Vec<u8>>) -> KernelPart {
        let symbol = |name: &str| Some((name.to_owned(), self.kallsyms.address_of(name)?));
        let symbols = ["_stext", "_etext", "_sinittext"].into_iter().filter_map(symbol).collect();
        KernelPart { build_id, text: self.text.clone(), sections: Vec::new(), symbols }
    }

    fn is_kernel_text(&self, address: VirtualAddress) -> bool {
        self.text.iter().any(|range| range.contains(&address.0))
    }

    /// Returns the name, address and size of the symbol that holds an address. A module's symbols are followed by
    /// the module's name in brackets, as the kernel prints them.
    fn find(&self, address: VirtualAddress) -> Option<(String, VirtualAddress, u64)> {
        if let Some(module) = self.modules.holding(address) {
            let (name, start, size) = module.symbol(address)?;
            return Some((format!("{name} [{}]", module.name), start, size));
        }
        // The last symbol of all has no end of its own.
        let is_inside = match &self.image {
            Some(image) => image.contains(&address.0),
            None => self.is_kernel_text(address),
        };
        let symbol = self.kallsyms.containing(address).filter(|_| is_inside)?;
        Some((symbol.name, symbol.address, symbol.extent?))
    }
}

impl KernelCode for LinuxSymbols {
    fn row(&self, address: VirtualAddress) -> Option<OrcRow> {
        if self.is_kernel_text(address) {
            return self.orc.as_ref()?.row(address);
        }
        self.modules.containing(address)?.row(address)
    }

    fn is_text(&self, address: VirtualAddress) -> bool {
        self.is_kernel_text(address) || self.modules.containing(address).is_some()
    }

    fn function_start(&self, address: VirtualAddress) -> Option<VirtualAddress> {
        self.find(address).map(|(_, start, _)| start)
    }
}

impl KernelSymbols for LinuxSymbols {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        let address = counter.lookup_address();
        let symbol = self.is_text(address).then(|| self.symbol_containing(address)).flatten();
        let function = symbol.as_ref().map(|found| found.symbol.name.clone().into_owned());
        let frame = function.map(|function| Frame {
            function: Some(function),
            linkage_name: None,
            location: None,
            inlined: false,
        });
        Resolved { address, frames: frame.into_iter().collect(), symbol, missing: None }
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        let (name, start, size) = self.find(address)?;
        let kind = if self.is_text(address) { SymbolKind::Function } else { SymbolKind::Data };
        let symbol = Symbol { name: Cow::Owned(name), address: start, size, kind };
        Some(SymbolOffset { offset: address.0 - start.0, symbol })
    }

    fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        let kernel = self.kallsyms.address_of(name);
        kernel.or_else(|| self.modules.modules.iter().find_map(|module| module.address_of(name)))
    }

    fn code(&self) -> Option<&dyn KernelCode> {
        Some(self)
    }

    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        unwind(self, registers, memory)
    }
}
