//! The reader of one line of a trace, word by word.
//!
//! Owns the order in which forms are tried, and the effect of a word on those after it. Called by the
//! [`Grammar`].

use std::ops::Range;

use super::labels::{
    Label, bracketed, build_id_in, find, frame_number, is_source_mark, is_transparent, label_in,
    module_in, module_name, selector,
};
use super::symbol::{self, symbol_without_size, symbols_in};
use super::words::{Word, address_in, hex, words};
use super::{CodeLocation, Grammar, Module, Reference, SymbolReference, symbol_target};

/// The state of parsing one line.
pub(super) struct Reader<'a, 'grammar> {
    line: &'a [u8],
    words: Vec<Word<'a>>,
    next: usize,
    label: Option<Label>,
    /// True if the line begins with `WARNING:`, so that its first symbol is exact.
    is_warning: bool,
    /// True if the line begins with `#0`: the address in brackets is exact.
    is_first_frame: bool,
    /// True if the last word ended in a comma.
    after_comma: bool,
    /// True if the line is about user space, which has no references to a kernel.
    is_user_space: bool,
    references: Vec<Reference<'a>>,
    /// Index of the last reference, if it is an address in brackets that a symbol may follow.
    beside: Option<usize>,
    grammar: &'grammar mut Grammar,
}

impl<'a, 'grammar> Reader<'a, 'grammar> {
    /// Prepares to parse a line, or a piece of one.
    pub(super) fn new(line: &'a [u8], grammar: &'grammar mut Grammar) -> Self {
        Self {
            line,
            words: words(line).collect(),
            next: 0,
            label: None,
            is_warning: false,
            is_first_frame: false,
            after_comma: false,
            is_user_space: false,
            references: Vec::new(),
            beside: None,
            grammar,
        }
    }

    /// Returns the references of the line, whose prefix ends at `content`. If that is the end of the line,
    /// the forms of a line's start are not tried.
    pub(super) fn read(mut self, content: usize) -> Vec<Reference<'a>> {
        if content < self.line.len() {
            self.next = self.words.partition_point(|word| word.span.end <= content);
            self.cut_prefix(content);
            self.read_start();
        }
        while self.next < self.words.len() {
            self.read_word();
        }
        self.references
    }

    /// Returns the word `distance` places ahead, 0 for the next one.
    fn peek(&self, distance: usize) -> Option<Word<'a>> {
        self.words.get(self.next + distance).cloned()
    }

    /// Removes the part of the next word that belongs to the prefix.
    fn cut_prefix(&mut self, content: usize) {
        if let Some(word) = self.words.get_mut(self.next)
            && word.span.start < content
        {
            *word =
                Word { bytes: &self.line[content..word.span.end], span: content..word.span.end };
        }
    }

    /// Parses the forms that are recognised only at the start of a line.
    fn read_start(&mut self) {
        let Some(word) = self.peek(0) else { return };
        if word.bytes == b"[exception" {
            return self.read_exception_frame();
        }
        if let Some(number) = frame_number(word.bytes) {
            return self.read_numbered_frame(number);
        }
        if word.bytes == b"---" && self.peek(1).is_some_and(|word| word.bytes == b"interrupted") {
            self.grammar.interrupted = true;
        }
        if word.bytes.eq_ignore_ascii_case(b"call")
            && self.peek(1).is_some_and(|word| word.bytes.eq_ignore_ascii_case(b"trace:"))
        {
            self.grammar.at_trace_start = true;
        }
        self.is_warning = word.bytes == b"WARNING:";
        // `=> 0xffffffff81234567 <func+20>:` is gdb's disassembly.
        let arrow = usize::from(word.bytes == b"=>");
        let Some(word) = self.peek(arrow) else { return };
        let (digits, is_listing) = match word.bytes.strip_suffix(b":") {
            Some(digits) => (digits, true),
            None => (word.bytes, arrow == 1),
        };
        let Some(address) = address_in(digits) else { return };
        let following = self.peek(arrow + 1).map(|word| word.bytes);
        self.next += arrow + 1;
        // Several addresses in a row are words of a stack.
        if following.is_none_or(|following| address_in(following).is_none()) {
            let span = word.span.start..word.span.start + digits.len();
            // gdb's stops are exact: `0xffffffff81234567 in func ()`, `.. is in func (x.c:1)`.
            let is_stop = matches!(following, Some(b"in" | b"is"));
            self.push_address(span, address, is_listing || is_stop);
        } else {
            self.next = self.words.len();
        }
    }

    /// Parses crash's `[exception RIP: func+95]`, whose offset is decimal.
    fn read_exception_frame(&mut self) {
        if self.peek(1).is_none_or(|word| word.bytes != b"RIP:") {
            return;
        }
        self.next += 2;
        let Some(word) = self.peek(0) else { return };
        let inner = word.bytes.strip_suffix(b"]").unwrap_or(word.bytes);
        if let Some((name, offset)) = symbol_without_size(inner) {
            let span = word.span.start..word.span.start + inner.len();
            self.push(span, symbol_target(name, offset, None), true);
            self.next += 1;
        }
    }

    /// Parses `Workqueue: events func [mod]`; a description in parentheses may follow.
    fn read_workqueue(&mut self) {
        let words = &self.words[self.next..];
        let description = words.iter().skip(2).position(|word| word.bytes.starts_with(b"("));
        let words = &words[..description.map_or(words.len(), |position| position + 2)];
        let module = words.last().and_then(|word| module_in(word.bytes));
        // The name of the queue comes first.
        let function = words.len().checked_sub(1 + usize::from(module.is_some()));
        if let Some(function) = function.filter(|&function| function > 0)
            && let Some(word) = words.get(function).cloned()
            && let Some(name) = symbol::name_in(word.bytes)
        {
            let target = SymbolReference { name, offset: 0, size: None, module, address: None };
            self.push(word.span, CodeLocation::Symbol(target), true);
        }
        self.next = self.words.len();
    }

    /// Parses a numbered frame, `#1 ..`, of gdb, crash, or a sanitizer.
    fn read_numbered_frame(&mut self, number: u64) {
        let Some(second) = self.peek(1) else { return };
        if second.bytes == b"<signal" {
            self.grammar.interrupted = true;
            self.next = self.words.len();
            return;
        }
        if let Some(address) = address_in(second.bytes) {
            let is_first = number == 0 || std::mem::take(&mut self.grammar.interrupted);
            self.push_address(second.span, address, is_first);
            self.next += 2;
            return;
        }
        let is_crash = bracketed(second.bytes).and_then(address_in).is_some();
        if is_crash
            && self.peek(3).is_some_and(|word| word.bytes == b"at")
            && let Some(place) = self.peek(4)
            && let Some(address) = address_in(place.bytes)
        {
            let is_interrupted = self.grammar.exception == Some(address);
            self.grammar.exception = None;
            self.push_address(place.span, address, is_interrupted);
            self.next = self.words.len();
            return;
        }
        // A frame of nmiscope's own report: `#0  func  [<ffffffff81234567>]`.
        self.is_first_frame = number == 0;
        self.next += 1;
    }

    /// Parses one word anywhere in a line.
    fn read_word(&mut self) {
        let Some(word) = self.peek(0) else { return };
        self.next += 1;
        if word.bytes == b"Workqueue:" {
            return self.read_workqueue();
        }
        if self.read_bracketed_address(&word) || self.read_symbols(&word) {
            return;
        }
        if let Some((label, rest)) = label_in(word.bytes) {
            self.label = Some(label);
            let start = word.span.end - rest.len();
            if !rest.is_empty() {
                self.read_labelled(Word { bytes: rest, span: start..word.span.end });
            }
            return;
        }
        if matches!(self.label, Some(Label::ProgramCounter | Label::Link))
            && self.read_labelled(word.clone())
        {
            return;
        }
        // `Breakpoint 1, 0xffffffff81234567 in func ()`.
        if self.after_comma
            && self.peek(0).is_some_and(|word| word.bytes == b"in")
            && let Some(address) = address_in(word.bytes)
        {
            self.push_address(word.span.clone(), address, true);
        }
        self.after_comma = word.bytes.ends_with(b",");
        if !is_transparent(word.bytes) {
            self.label = None;
            self.beside = None;
        }
    }

    /// Parses an address behind a label, with a segment selector or without. Returns true if the word was
    /// used.
    fn read_labelled(&mut self, word: Word<'a>) -> bool {
        let (selector, rest) = selector(word.bytes);
        self.note_selector(selector);
        let digits = rest.strip_suffix(b",").unwrap_or(rest);
        let digits = bracketed(digits).unwrap_or(digits);
        let is_code = matches!(self.label, Some(Label::ProgramCounter | Label::Link));
        let Some(address) = is_code.then(|| address_in(digits)).flatten() else {
            return selector.is_some();
        };
        let exact = self.label == Some(Label::ProgramCounter);
        if exact {
            self.grammar.exception = Some(address);
        }
        let end = word.span.end;
        self.push_address(end - rest.len()..end, address, exact);
        // `NIP [c000000000123456] func+0x14/0x90` is one place in two forms.
        if rest.starts_with(b"[") {
            self.beside = self.references.len().checked_sub(1);
        }
        true
    }

    /// Parses `[<ffffffff81234567>]`; a selector or a label may come before it. Returns true if the word
    /// was used.
    fn read_bracketed_address(&mut self, word: &Word<'a>) -> bool {
        let Some(open) = find(word.bytes, b"[<") else { return false };
        let digits = &word.bytes[open + 2..];
        let Some(close) = find(digits, b">]") else { return false };
        let Some(address) = hex(&digits[..close]) else { return false };
        let before = &word.bytes[..open];
        if let Some((label, _)) = label_in(before) {
            self.label = Some(label);
        }
        self.note_selector(selector(before).0);
        let span = word.span.start + open..word.span.start + open + close + 4;
        if let Some(last) = self.beside
            && self.references[last].target == CodeLocation::Address(address)
        {
            // `RIP: 0010:[<addr>]  [<addr>] func+0x14/0x90` has the same address twice.
            return true;
        }
        let is_counter = self.label == Some(Label::ProgramCounter) || self.is_first_frame;
        let exact = is_counter || self.take_interrupted();
        self.push(span, CodeLocation::Address(address), exact);
        self.beside = self.references.len().checked_sub(1);
        true
    }

    /// Parses each `func+0x14/0x90` in the word. Returns true if it has one.
    fn read_symbols(&mut self, word: &Word<'a>) -> bool {
        let mut found = false;
        for (name, offset, size, span) in symbols_in(word.bytes) {
            if !found {
                let before = &word.bytes[..span.start];
                if let Some((label, _)) = label_in(before) {
                    self.label = Some(label);
                }
                self.note_selector(selector(before).0);
            }
            found = true;
            let span = word.span.start + span.start..word.span.start + span.end;
            self.read_symbol(name, offset, size, span);
        }
        found
    }

    fn read_symbol(&mut self, name: &'a str, offset: u64, size: u64, span: Range<usize>) {
        let module = self.read_module();
        let mut target = SymbolReference { name, offset, size: Some(size), module, address: None };
        let mut exact = self.is_exact(&target);
        self.label = None;
        if let Some(marks) = self.peek(0).filter(|word| is_source_mark(word.bytes)) {
            exact |= marks.bytes.contains(&b'P');
            self.next += 1;
        }
        if let Some(last) = self.beside.take()
            && let Some(Reference {
                span: beside,
                target: CodeLocation::Address(address),
                exact: marked,
            }) = self.references.get(last).cloned()
        {
            target.address = Some(address);
            self.references.truncate(last);
            let span = beside.start..span.end;
            self.push(span, CodeLocation::Symbol(target), exact || marked);
            return;
        }
        self.push(span, CodeLocation::Symbol(target), exact);
    }

    /// Parses ` [mod]` or ` [mod BUILDID]` behind a symbol.
    fn read_module(&mut self) -> Option<Module<'a>> {
        let word = self.peek(0)?;
        if let Some(module) = module_in(word.bytes) {
            self.next += 1;
            return Some(module);
        }
        let name = module_name(word.bytes.strip_prefix(b"[")?)?;
        let build_id = build_id_in(self.peek(1)?.bytes)?;
        self.next += 2;
        Some(Module { name, build_id: Some(build_id) })
    }

    /// Returns true if a symbol and offset name the instruction itself, not a return address.
    fn is_exact(&mut self, target: &SymbolReference<'a>) -> bool {
        // `%pB` prints return addresses by the symbol one byte before them, so it never prints the
        // start of a function: such a reference is a function pointer. So is the end of the padding
        // before a function, which `__pfx_` names.
        let is_entry = target.offset == 0
            || (target.name.starts_with("__pfx_") && Some(target.offset) == target.size);
        let is_warning = std::mem::take(&mut self.is_warning);
        match self.label {
            Some(Label::ProgramCounter) => {
                self.grammar.program_counter = Some((target.name.to_owned(), target.offset));
                true
            }
            Some(Label::Link) => is_entry,
            _ => {
                let repeats = std::mem::take(&mut self.grammar.at_trace_start)
                    && self.grammar.program_counter.take().is_some_and(|(name, offset)| {
                        name == target.name && offset == target.offset
                    });
                is_entry || is_warning || repeats || self.is_first_frame || self.take_interrupted()
            }
        }
    }

    /// Marks the line as one about user space if the segment selector before an address has requested
    /// privilege level 3 (Intel SDM, volume 3, 3.4.2).
    fn note_selector(&mut self, selector: Option<u64>) {
        self.is_user_space |= selector.is_some_and(|selector| selector & 3 == 3);
    }

    fn take_interrupted(&mut self) -> bool {
        std::mem::take(&mut self.grammar.interrupted)
    }

    fn push_address(&mut self, span: Range<usize>, address: u64, exact: bool) {
        self.push(span, CodeLocation::Address(address), exact);
    }

    fn push(&mut self, span: Range<usize>, target: CodeLocation<'a>, exact: bool) {
        if self.is_user_space {
            return;
        }
        self.references.push(Reference { span, target, exact });
    }
}
