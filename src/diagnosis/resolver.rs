//! Resolver: turns addresses into frames, as reports have them.
//!
//! Owns the form of frames and paths; refuses to own symbols (`kernel`). Called by all of `diagnosis`.

use nmiscope_machine::VirtualAddress;
use nmiscope_report::{Frame, FrameSymbol, Function};
use nmiscope_symbolizer::{ProgramCounter, Resolved, SourceRoots, demangle};

use crate::kernel::{KernelSymbols, Vocabulary, any_vocabulary};

/// Result of a lookup without symbols.
const NOTHING: Resolved<'static> =
    Resolved { address: VirtualAddress(0), frames: Vec::new(), symbol: None, missing: None };

/// Lookup of a kernel's addresses and words.
pub struct Resolver<'a> {
    symbols: Option<&'a dyn KernelSymbols>,
    vocabulary: &'a dyn Vocabulary,
    roots: SourceRoots,
}

impl<'a> Resolver<'a> {
    /// Makes a resolver by `symbols`, with source paths shown relative to one of `roots`. Without
    /// symbols, frames have addresses alone.
    pub fn new(symbols: Option<&'a dyn KernelSymbols>, roots: SourceRoots) -> Self {
        Self { symbols, vocabulary: any_vocabulary(), roots }
    }

    /// Replaces the vocabulary, by which the kernel's own words are understood.
    #[must_use]
    pub fn with_vocabulary(self, vocabulary: &'a dyn Vocabulary) -> Self {
        Self { vocabulary, ..self }
    }

    /// Returns the vocabulary of the kernel.
    pub fn vocabulary(&self) -> &'a dyn Vocabulary {
        self.vocabulary
    }

    /// Returns the symbols; `None` without an image.
    pub fn symbols(&self) -> Option<&'a dyn KernelSymbols> {
        self.symbols
    }

    /// Returns a path relative to a source root, or to Rust's own library.
    pub(super) fn show_path(&self, path: &str) -> String {
        let library = path.strip_prefix("/rustc/").and_then(|path| path.split_once("/library/"));
        library.map_or_else(|| self.roots.strip_root(path), |(_, path)| path).to_owned()
    }

    /// Makes the frame of an address.
    pub fn frame(&self, counter: ProgramCounter, reliable: bool) -> Frame {
        match self.symbols {
            Some(symbols) => self.show_frame(counter, reliable, symbols.frames(counter)),
            None => Frame {
                missing: Some("there is no image to look it up in".into()),
                ..self.show_frame(counter, reliable, NOTHING)
            },
        }
    }

    /// Makes the frame of an address that has been looked up.
    pub fn show_frame(
        &self,
        counter: ProgramCounter,
        reliable: bool,
        found: Resolved<'_>,
    ) -> Frame {
        let missing = found.missing.as_ref().map(|reason| crate::error_chain(reason));
        let (functions, symbol) = self.show(found);
        Frame {
            address: counter.address().to_string(),
            interrupted: matches!(counter, ProgramCounter::Interrupted(_)),
            reliable,
            found_by: None,
            cfi_fault: None,
            functions,
            symbol,
            missing,
        }
    }

    fn show(&self, found: Resolved<'_>) -> (Vec<Function>, Option<FrameSymbol>) {
        let functions = found.frames.into_iter().map(|frame| {
            let location = frame.location.as_ref();
            Function {
                name: frame.function,
                file: location.map(|place| self.show_path(&place.file)),
                line: location.and_then(|place| place.line),
                column: location.and_then(|place| place.column),
                inlined: frame.inlined,
                variables: Vec::new(),
                variables_omitted: 0,
            }
        });
        let symbol = found
            .symbol
            .map(|found| FrameSymbol { name: demangle(&found.symbol.name), offset: found.offset });
        (functions.collect(), symbol)
    }
}
