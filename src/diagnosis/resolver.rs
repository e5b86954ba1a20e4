//! Addresses to frames, as reports have them.

use nmiscope_report::{Frame, FrameSymbol, Function};
use nmiscope_symbolizer::{ProgramCounter, Resolved, SourceRoots, demangle};

use crate::kernel::{Symbols, Vocabulary, any_words};

/// Looks a kernel's addresses and words up.
pub struct Resolver<'a> {
    symbols: Option<&'a dyn Symbols>,
    words: &'a dyn Vocabulary,
    roots: SourceRoots,
}

impl<'a> Resolver<'a> {
    /// For addresses of which `symbols` knows, with source paths shown relative to one of `roots`.
    /// Without symbols, addresses stay what they are.
    pub fn new(symbols: Option<&'a dyn Symbols>, roots: SourceRoots) -> Self {
        Self { symbols, words: any_words(), roots }
    }

    /// The same for a kernel whose words mean what `words` says.
    #[must_use]
    pub fn with_words(self, words: &'a dyn Vocabulary) -> Self {
        Self { words, ..self }
    }

    /// What the kernel's words mean.
    pub fn words(&self) -> &'a dyn Vocabulary {
        self.words
    }

    /// The symbols, if there are any.
    pub fn symbols(&self) -> Option<&'a dyn Symbols> {
        self.symbols
    }

    /// Relative to a source root; of Rust's own library, to that.
    pub(super) fn show_path(&self, path: &str) -> String {
        let library = path.strip_prefix("/rustc/").and_then(|path| path.split_once("/library/"));
        library.map_or_else(|| self.roots.strip_root(path), |(_, path)| path).to_owned()
    }

    /// What is known of an address.
    pub fn frame(&self, counter: ProgramCounter, reliable: bool) -> Frame {
        let found = self.symbols.map(|symbols| symbols.frames(counter));
        let missing = match &found {
            None => Some("there is no image to look it up in".into()),
            Some(found) => found.missing.as_ref().map(|reason| crate::error_chain(reason)),
        };
        let (functions, symbol) = found.map_or_else(Default::default, |found| self.show(found));
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
