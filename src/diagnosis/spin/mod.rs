//! Spins: waits that no record of the kernel shows, as on sequence counters, flags and hand-made
//! acknowledgements. Blamed CPUs that read the same word in a loop until it changes, and the functions on
//! other stacks that store to it.
//!
//! Owns the grouping by words; refuses to own what instructions show (`code`) and any verdict: that a CPU
//! reads a word says neither who should write it nor that somebody will. Code is the image's, so that a
//! core shows the same as a live guest. Called by `hangs`.

mod code;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::Register as X86Register;
use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress};
use nmiscope_report::{Spin, SpinWriter};
use nmiscope_symbolizer::{ProgramCounter, SymbolKind, UnwoundFrame, short_name};

use super::Resolver;
use super::waits::lock_symbol;
use crate::kernel::KernelSymbols;

/// The most interrupted frames of a stack that are examined: a task's, and those of nested handlers.
const MAX_INTERRUPTED: usize = 4;
/// The most frames of a stack whose functions are searched for stores.
const MAX_FRAMES: usize = 64;
/// The largest function that is searched for stores, in bytes.
const MAX_FUNCTION: u64 = 16 << 10;
/// Bytes of code that are searched for stores, for all words of a hang.
const MAX_SEARCHED: u64 = 1 << 20;

/// Stack of a CPU or a task, with its name in the hang.
pub struct PartyStack<'a> {
    /// The party's name in the hang.
    pub party: String,
    /// The frames of its stack, innermost first.
    pub frames: &'a [UnwoundFrame],
}

/// Returns the words that blamed CPUs spin on. `others` are all stacks of the moment.
pub fn spins(
    blamed: &[PartyStack<'_>],
    others: &[PartyStack<'_>],
    resolver: &Resolver<'_>,
) -> Vec<Spin> {
    let Some(symbols) = resolver.symbols() else { return Vec::new() };
    let mut words: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for stack in blamed {
        if let Some(word) = awaited_word(stack.frames, symbols) {
            words.entry((word.start, word.end)).or_default().push(stack.party.clone());
        }
    }
    let search = Search { resolver, symbols, budget: Cell::new(MAX_SEARCHED) };
    let spin = |((start, end), parties): ((u64, u64), Vec<String>)| Spin {
        symbol: lock_symbol(start, resolver),
        address: format!("{start:016x}"),
        writers: others
            .iter()
            .filter(|stack| !parties.contains(&stack.party))
            .filter_map(|stack| search.writer(stack, &(start..end)))
            .collect(),
        parties,
    };
    words.into_iter().map(spin).collect()
}

/// Returns the word that the code of an interrupted frame waits for.
fn awaited_word(frames: &[UnwoundFrame], symbols: &dyn KernelSymbols) -> Option<Range<u64>> {
    let interrupted = frames.iter().filter(|frame| frame.is_interrupted());
    interrupted.take(MAX_INTERRUPTED).find_map(|frame| {
        let code = |at| symbols.machine_code(VirtualAddress(at));
        let register = |wanted| value(&frame.registers, wanted);
        code::awaited_word(frame.pc.address().0, &code, register)
    })
}

/// Returns the value of a 64-bit register.
fn value(registers: &UnwindRegisters, wanted: X86Register) -> Option<u64> {
    let register = match wanted {
        X86Register::RAX => Register::Rax,
        X86Register::RCX => Register::Rcx,
        X86Register::RDX => Register::Rdx,
        X86Register::RBX => Register::Rbx,
        X86Register::RSP => Register::Rsp,
        X86Register::RBP => Register::Rbp,
        X86Register::RSI => Register::Rsi,
        X86Register::RDI => Register::Rdi,
        X86Register::R8 => Register::R8,
        X86Register::R9 => Register::R9,
        X86Register::R10 => Register::R10,
        X86Register::R11 => Register::R11,
        X86Register::R12 => Register::R12,
        X86Register::R13 => Register::R13,
        X86Register::R14 => Register::R14,
        X86Register::R15 => Register::R15,
        _ => return None,
    };
    registers.get(register)
}

/// Search for stores in the functions of stacks.
struct Search<'a> {
    resolver: &'a Resolver<'a>,
    symbols: &'a dyn KernelSymbols,
    /// Bytes of code that may still be searched.
    budget: Cell<u64>,
}

impl Search<'_> {
    /// Returns the innermost function of a stack that stores to the word.
    fn writer(&self, stack: &PartyStack<'_>, word: &Range<u64>) -> Option<SpinWriter> {
        let frames = stack.frames.iter().take(MAX_FRAMES);
        let at = frames.into_iter().find_map(|frame| self.store(frame, word))?;
        let found = self.resolver.frame(ProgramCounter::Interrupted(VirtualAddress(at)), true);
        let names = || found.functions.iter().filter_map(|function| function.name.as_deref());
        let own = names().find(|name| !self.resolver.vocabulary().is_plumbing(name));
        let function = short_name(own.or_else(|| names().next_back())?).to_owned();
        Some(SpinWriter { party: stack.party.clone(), function })
    }

    fn store(&self, frame: &UnwoundFrame, word: &Range<u64>) -> Option<u64> {
        let found = self.symbols.symbol_containing(frame.pc.lookup_address())?;
        let (start, size) = (found.symbol.address.0, found.symbol.size);
        if found.symbol.kind != SymbolKind::Function || size == 0 || size > MAX_FUNCTION {
            return None;
        }
        self.budget.set(self.budget.get().checked_sub(size)?);
        let code = |at| self.symbols.machine_code(VirtualAddress(at));
        code::store(word, start..start.checked_add(size)?, &code)
    }
}
