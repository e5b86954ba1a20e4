//! Stacks as text: a line for each function, innermost first.
//!
//! Owns the layout of frames, and which functions are folded: those inside the function that the hang
//! blames or that panicked, which are named in one line, and those of the language's core library. Refuses
//! to own which function a hang blames (`focus`). Called by `backtrace`. JSON has all frames, and so has the text with
//! [`Detail::All`].

use std::fmt::Write as _;

use nmiscope_names::short_name;

use super::focus::Place;
use super::{BAD, DIM, Detail, variables};
use crate::sanitize::line;
use crate::{Frame, Function, GuestTrace, HostStack};

/// Names are padded to at least, and at most, this many characters.
const NAME_WIDTH: std::ops::RangeInclusive<usize> = 22..=48;

/// The most characters of a line that names folded functions.
const CALLS_WIDTH: usize = 80;

/// Appends a stack that the host unwound: its frames, the first fault of call frame information, and the
/// reason why it ends early.
pub(super) fn host_stack(
    text: &mut String,
    stack: &HostStack,
    places: &[Place<'_>],
    detail: Detail,
) {
    frames(text, &stack.frames.iter().collect::<Vec<_>>(), places, detail);
    // The last frame's fault is the reason for the end. One fault is enough: it mostly affects the whole
    // image.
    let callees = stack.frames.split_last().map_or(&[][..], |(_, callees)| callees);
    let fault = callees.iter().zip(0..).find_map(|(frame, n)| Some((n, frame.cfi_fault.as_ref()?)));
    if let Some((number, fault)) = fault {
        let fault = format!("#{number}'s caller was found by other means: failed to {fault}");
        let _ = writeln!(text, "  {BAD}!{BAD:#} {}", line(&fault));
    }
    if !stack.complete {
        let _ = writeln!(text, "  {DIM}ends: {}{DIM:#}", line(&stack.end));
    }
}

/// Appends a trace that the guest printed, after its faults.
pub(super) fn guest_trace(
    text: &mut String,
    trace: &GuestTrace,
    places: &[Place<'_>],
    detail: Detail,
) {
    trace_faults(text, trace);
    // The interrupted instruction is always reliable. Where no other entry is, the unreliable ones are
    // shown.
    let trusted = trace.frames.iter().filter(|frame| frame.reliable).count() > 1;
    let shown = trace.frames.iter().filter(|frame| frame.reliable || !trusted);
    frames(text, &shown.collect::<Vec<_>>(), places, detail);
}

/// Appends the faults of a trace.
pub(super) fn trace_faults(text: &mut String, trace: &GuestTrace) {
    for finding in &trace.findings {
        let _ = writeln!(text, "  {BAD}!{BAD:#} {}", line(finding));
    }
}

/// A line of a stack: a function, or the address of a frame without functions.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// Number of the frame in its stack.
    number: usize,
    frame: &'a Frame,
    function: Option<&'a Function>,
}

impl Entry<'_> {
    fn name(&self) -> String {
        match self.function {
            Some(function) => function_name(function),
            None => format!("[<{}>]", self.frame.address),
        }
    }

    /// True for the function that was interrupted by the frames before it.
    fn is_interrupted(&self) -> bool {
        let is_outermost = self.function.is_none_or(|function| !function.inlined);
        self.number > 0 && self.frame.interrupted && is_outermost
    }

    /// The full name of the function.
    fn full_name(&self) -> Option<&str> {
        self.function?.name.as_deref()
    }

    /// True for a function that ends the kernel in a panic, of the bundled guest or of Linux.
    fn is_panic(&self) -> bool {
        const NAMES: [&str; 8] = [
            "rust_begin_unwind",
            "__rustc::rust_begin_unwind",
            "panic",
            "vpanic",
            "die",
            "__die",
            "die_addr",
            "oops_end",
        ];
        self.full_name().is_some_and(|name| NAMES.contains(&name))
    }

    /// True for a function between an exception and the panic that it ends in, of the bundled guest or of
    /// Linux.
    fn is_exception_entry(&self) -> bool {
        const NAMES: [&str; 3] = ["exception", "trap_entry", "trap_common"];
        const STARTS: [&str; 5] =
            ["asm_exc_", "exc_", "page_fault_oops", "kernelmode_fixup_or_oops", "bad_area"];
        self.full_name().is_some_and(|name| {
            NAMES.contains(&short_name(name)) || STARTS.iter().any(|start| name.starts_with(start))
        })
    }

    fn is_of_core_library(&self) -> bool {
        const ROOTS: [&str; 3] = ["core::", "alloc::", "std::"];
        self.full_name().is_some_and(|name| {
            let path = name.trim_start_matches(['<', '&', '*', '[', '(']);
            ROOTS.iter().any(|root| path.starts_with(root))
        })
    }
}

fn frames(text: &mut String, frames: &[&Frame], places: &[Place<'_>], detail: Detail) {
    let entries = entries(frames);
    let (folded, rest) = entries.split_at(first_shown(&entries, places, detail));
    let is_shown = |entry: &&Entry<'_>| {
        detail == Detail::All || !entry.is_of_core_library() || entry.is_interrupted()
    };
    let mut shown: Vec<Entry<'_>> = rest.iter().filter(is_shown).copied().collect();
    if shown.is_empty() {
        shown = rest.to_vec();
    }
    let width = name_width(&shown);
    let mut last = None;
    for (index, entry) in shown.iter().enumerate() {
        let label =
            if last == Some(entry.number) { "in".into() } else { format!("#{}", entry.number) };
        last = Some(entry.number);
        show(text, &label, entry, width);
        if index == 0 && !folded.is_empty() {
            let _ = writeln!(text, "      {DIM}{}{DIM:#}", calls(folded, entry));
        }
    }
}

fn entries<'a>(frames: &[&'a Frame]) -> Vec<Entry<'a>> {
    let of_frame = |(number, frame): (usize, &&'a Frame)| {
        let frame: &'a Frame = frame;
        let functions = frame.functions.iter().map(Some);
        let none = frame.functions.is_empty().then_some(None);
        functions
            .chain(none)
            .map(move |function| Entry { number, frame, function })
            .collect::<Vec<_>>()
    };
    frames.iter().enumerate().flat_map(of_frame).collect()
}

/// Returns the index of the entry that a stack begins with: the blamed function where it is there, or else
/// the one that panicked, or else the first that is not of the core library.
fn first_shown(entries: &[Entry<'_>], places: &[Place<'_>], detail: Detail) -> usize {
    if detail == Detail::All {
        return 0;
    }
    // The outermost function is how every stack begins: to fold down to it would hide the whole stack.
    let outermost = entries.last().map_or(0, |entry| entry.number);
    let inner = entries.iter().take_while(|entry| outermost == 0 || entry.number < outermost);
    let inner: Vec<Option<&Function>> = inner.map(|entry| entry.function).collect();
    let first = places.iter().find_map(|place| place.index_in(&inner));
    let first = first.or_else(|| panicked(entries));
    let first = first.or_else(|| entries.iter().position(|entry| !entry.is_of_core_library()));
    first.unwrap_or(0)
}

/// Returns the index of the function that panicked, or whose instruction raised the exception; `None` for a
/// stack without a panic.
fn panicked(entries: &[Entry<'_>]) -> Option<usize> {
    // A panic inside a panic follows from the outer one.
    let panic = entries.iter().rposition(Entry::is_panic)?;
    let caller = |entry: &Entry<'_>| !entry.is_of_core_library() && !entry.is_exception_entry();
    Some(panic + 1 + entries[panic + 1..].iter().position(caller)?)
}

/// Returns what the first function of a stack calls, outermost first, in one line. Neighbours of one name, as a
/// method that only calls another of its name, are named once.
fn calls(folded: &[Entry<'_>], first: &Entry<'_>) -> String {
    let room = CALLS_WIDTH - "      calls ".len();
    let mut names: Vec<String> = Vec::new();
    let mut caller = first;
    for entry in folded.iter().rev() {
        let is_handler = entry.number < caller.number && caller.frame.interrupted;
        let mark = if is_handler { "(interrupted) " } else { "" };
        if is_handler || names.last().is_none_or(|last| *last != entry.name()) {
            names.push(format!("{mark}{}", entry.name()));
        }
        caller = entry;
    }
    let is_too_long = |names: &[String]| names.join(" > ").chars().count() > room;
    if is_too_long(&names) {
        // The outermost says most: it is what the first function has called.
        while names.len() > 1 && is_too_long(&names) {
            names.pop();
        }
        while names.len() > 1 && names.join(" > ").chars().count() + " > …".len() > room {
            names.pop();
        }
        names.push("…".into());
    }
    format!("calls {}", names.join(" > "))
}

fn name_width(entries: &[Entry<'_>]) -> usize {
    let names = entries.iter().filter_map(|entry| Some(name_in_line(entry, entry.function?)));
    let longest = names.map(|name| name.chars().count()).max();
    longest.unwrap_or(0).clamp(*NAME_WIDTH.start(), *NAME_WIDTH.end())
}

fn show(text: &mut String, label: &str, entry: &Entry<'_>, width: usize) {
    let Entry { frame, function, .. } = entry;
    let interrupted = if entry.is_interrupted() { "  (interrupted)" } else { "" };
    let mark = if frame.reliable { "" } else { "  ?" };
    let Some(function) = function else {
        let reason = frame.missing.as_deref().unwrap_or("unknown");
        let _ = writeln!(
            text,
            "  {label:<3} [<{}>]  {DIM}{}{DIM:#}{mark}{interrupted}",
            frame.address,
            line(reason)
        );
        return;
    };
    let place = match (&function.file, function.line) {
        (Some(file), Some(number)) => line(&format!("{file}:{number}")),
        (Some(file), None) => line(file),
        (None, _) => format!("[<{}>]", frame.address),
    };
    let mark = if function.inlined { "" } else { mark };
    let _ = writeln!(
        text,
        "  {label:<3} {:<width$}  {DIM}{place}{DIM:#}{mark}{interrupted}",
        name_in_line(entry, function)
    );
    variables::show(text, function);
}

/// Returns the name of a function in its own line. Where no source line says which call it is, the offset does, as
/// kernels print it: of the return address, which is looked up inside its call.
fn name_in_line(entry: &Entry<'_>, function: &Function) -> String {
    let symbol = entry.frame.symbol.as_ref().filter(|symbol| {
        function.file.is_none() && !function.inlined && function.name.as_ref() == Some(&symbol.name)
    });
    let name = function_name(function);
    let Some(symbol) = symbol else { return name };
    let offset = symbol.offset + u64::from(!entry.frame.interrupted);
    match name.split_once(" [") {
        Some((name, module)) => format!("{name}+{offset:#x} [{module}"),
        None => format!("{name}+{offset:#x}"),
    }
}

fn function_name(function: &Function) -> String {
    function.name.as_deref().map_or_else(|| "??".into(), |name| line(short_name(name)))
}
