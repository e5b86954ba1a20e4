//! Stacks as text: a line for each function, innermost first.
//!
//! Owns the layout of frames, and which functions are folded: those inside the function that the hang
//! blames or that panicked, which are named in one line, and those of the language's core library. Refuses
//! to own which function a hang blames (`focus`). Called by `parties` and `backtrace`. JSON has all frames, and so has the text with
//! [`Detail::All`].

use std::fmt::Write as _;

use nmiscope_names::short_name;

use super::focus::Place;
use super::parties::{ShownStack, fault};
use super::{Detail, variables};
use crate::phrase::{Phrase, Tone};
use crate::sanitize::line;
use crate::{Frame, Function, GuestTrace, HostStack};

/// Names are padded to at least, and at most, this many characters.
const NAME_WIDTH: std::ops::RangeInclusive<usize> = 22..=48;

/// The most characters of a line that names folded functions.
const CALLS_WIDTH: usize = 80;

/// The functions of a stack that are shown.
#[derive(Default)]
pub(crate) struct Frames<'a> {
    /// A line for each function, innermost first.
    pub(crate) rows: Vec<Row<'a>>,
    /// Functions that the first one calls, which are folded; `None` where none are.
    pub(crate) calls: Option<String>,
}

/// A line of a stack.
pub(crate) struct Row<'a> {
    /// Number of the frame, `#0`; `in` for a further function of the frame before.
    pub(crate) label: String,
    /// Name of the function, or address of a frame without one.
    pub(crate) name: String,
    /// Source line or address; for a frame without a function, the reason.
    pub(crate) place: String,
    /// True for a frame that nobody vouches for.
    pub(crate) is_doubtful: bool,
    /// True for the function that was interrupted by the frames before it.
    pub(crate) is_interrupted: bool,
    /// Function of the line; `None` for a frame without one.
    pub(crate) function: Option<&'a Function>,
}

/// Returns a stack that the host unwound: its frames, the first fault of call frame information, and the
/// reason why it ends early.
pub(super) fn host_stack<'a>(
    stack: &'a HostStack,
    places: &[Place<'_>],
    detail: Detail,
) -> ShownStack<'a> {
    let frames = frames(&stack.frames.iter().collect::<Vec<_>>(), places, detail);
    // The last frame's fault is the reason for the end. One fault is enough: it mostly affects the whole
    // image.
    let callees = stack.frames.split_last().map_or(&[][..], |(_, callees)| callees);
    let faulty =
        callees.iter().zip(0..).find_map(|(frame, n)| Some((n, frame.cfi_fault.as_ref()?)));
    let faulty = faulty.map(|(number, cause)| {
        fault(&format!("#{number}'s caller was found by other means: failed to {cause}"))
    });
    let end = (!stack.complete).then(|| Phrase::new(Tone::Dim, &format!("ends: {}", stack.end)));
    let after = faulty.into_iter().chain(end).collect();
    ShownStack { heading: None, before: Vec::new(), frames, after }
}

/// Returns a trace that the guest printed, after its faults.
pub(super) fn guest_trace<'a>(
    trace: &'a GuestTrace,
    places: &[Place<'_>],
    detail: Detail,
) -> ShownStack<'a> {
    // The interrupted instruction is always reliable. Where no other entry is, the unreliable ones are
    // shown.
    let trusted = trace.frames.iter().filter(|frame| frame.reliable).count() > 1;
    let shown = trace.frames.iter().filter(|frame| frame.reliable || !trusted);
    let frames = frames(&shown.collect::<Vec<_>>(), places, detail);
    ShownStack { heading: None, before: trace_faults(trace), frames, after: Vec::new() }
}

/// Returns the faults of a trace.
pub(super) fn trace_faults(trace: &GuestTrace) -> Vec<Phrase> {
    trace.findings.iter().map(|finding| fault(finding)).collect()
}

/// Appends the lines of a stack, with source lines below each other.
pub(super) fn lay_out(text: &mut String, frames: &Frames<'_>) {
    let width = name_width(&frames.rows);
    for (index, row) in frames.rows.iter().enumerate() {
        let Row { label, name, place, is_doubtful, is_interrupted, function } = row;
        let place = Phrase::new(Tone::Dim, place);
        let mark = if *is_doubtful { "  ?" } else { "" };
        let interrupted = if *is_interrupted { "  (interrupted)" } else { "" };
        let width = if function.is_some() { width } else { 0 };
        let _ = writeln!(text, "  {label:<3} {name:<width$}  {place}{mark}{interrupted}");
        if let Some(function) = function {
            variables::show(text, function);
        }
        if let Some(calls) = frames.calls.as_ref().filter(|_| index == 0) {
            let _ = writeln!(text, "      {}", Phrase::new(Tone::Dim, calls));
        }
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
            None => format!("[<{}>]", line(&self.frame.address)),
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

fn frames<'a>(frames: &[&'a Frame], places: &[Place<'_>], detail: Detail) -> Frames<'a> {
    let entries = entries(frames);
    let (folded, rest) = entries.split_at(first_shown(&entries, places, detail));
    let is_shown = |entry: &&Entry<'_>| {
        detail == Detail::All || !entry.is_of_core_library() || entry.is_interrupted()
    };
    let mut shown: Vec<Entry<'_>> = rest.iter().filter(is_shown).copied().collect();
    if shown.is_empty() {
        shown = rest.to_vec();
    }
    let calls = shown.first().filter(|_| !folded.is_empty()).map(|first| calls(folded, first));
    let mut last = None;
    let rows = shown.iter().map(|entry| row(entry, last.replace(entry.number)));
    Frames { rows: rows.collect(), calls }
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

fn name_width(rows: &[Row<'_>]) -> usize {
    let names = rows.iter().filter(|row| row.function.is_some()).map(|row| &row.name);
    let longest = names.map(|name| name.chars().count()).max();
    longest.unwrap_or(0).clamp(*NAME_WIDTH.start(), *NAME_WIDTH.end())
}

/// Returns the line of a function, behind one of the frame with the number `last`.
fn row<'a>(entry: &Entry<'a>, last: Option<usize>) -> Row<'a> {
    let Entry { frame, function, number } = *entry;
    let label = if last == Some(number) { "in".into() } else { format!("#{number}") };
    let (name, place) = match function {
        Some(function) => (name_in_line(entry, function), place_in_line(entry, function)),
        None => (entry.name(), line(frame.missing.as_deref().unwrap_or("unknown"))),
    };
    let is_inlined = function.is_some_and(|function| function.inlined);
    let is_doubtful = !frame.reliable && !is_inlined;
    Row { label, name, place, is_doubtful, is_interrupted: entry.is_interrupted(), function }
}

fn place_in_line(entry: &Entry<'_>, function: &Function) -> String {
    match (&function.file, function.line) {
        (Some(file), Some(number)) => line(&format!("{file}:{number}")),
        (Some(file), None) => line(file),
        (None, _) => format!("[<{}>]", line(&entry.frame.address)),
    }
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
