//! Own part of a stack: the frames that belong to a hang, without what has interrupted them by chance, and
//! without what they have interrupted by chance.
//!
//! Interrupted frames divide a stack into segments. The outermost one is a task's or a main loop's; each
//! further one is a handler's. A hang belongs to the innermost segment that is there at all moments: an
//! interrupt that returns, and a fault that is raised again and again, leave the stack in between. Outer
//! segments belong to it only where the innermost one is the handler of an exception, which the interrupted
//! function has caused. The function that an interrupt came upon may be any.
//!
//! Owns this choice; refuses to own that of functions (`signature`). Called by `hangs`.

use std::collections::BTreeMap;

use nmiscope_report::{Class, Frame, HandlerKind, SourceLine};

use super::signature::Moments;
use crate::hang::behaviour;
use crate::kernel::Vocabulary;

/// Facts about the party whose stack it is.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// The class of the hang.
    pub class: Class,
    /// RFLAGS.IF of its CPU at the first moment; `None` if it was not running, or that is not known.
    pub interrupts_enabled: Option<bool>,
    /// The calls that wait, according to the kernel's records, the most relevant first.
    pub waits: &'a [SourceLine],
}

/// Stack of a party at all moments, reduced to its own part.
#[derive(Debug)]
pub struct OwnStack<'a> {
    /// The own part at each moment.
    pub moments: Moments<'a>,
    /// The kind of the handler that the own part ends in; `None` outside handlers.
    pub handler: Option<HandlerKind>,
}

/// Reduces a stack to its own part at each moment. The first moment is the one of the report.
pub fn own_part<'a>(
    party: Party<'_>,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> OwnStack<'a> {
    let Some(first) = moments.first() else {
        return OwnStack { moments: Vec::new(), handler: None };
    };
    let depth = lasting_depth(party, first, moments, vocabulary);
    let parts = moments.iter().map(|stack| Part::new(stack, depth, vocabulary));
    let handler = Part::new(first, depth, vocabulary).handler;
    OwnStack { moments: parts.map(|part| part.frames).collect(), handler }
}

/// Returns the number of segments, from the outer end, that last as long as the hang.
fn lasting_depth(
    party: Party<'_>,
    first: &[Frame],
    moments: &Moments<'_>,
    vocabulary: &dyn Vocabulary,
) -> usize {
    let now = segments(first).len();
    let waiting = party.waits.iter().find_map(|call| depth_of(first, |frame| calls(frame, call)));
    if let Some(depth) = waiting {
        return depth;
    }
    let behaviour = behaviour(party.class);
    let lasting = match party.interrupts_enabled {
        // A wait without a line: the functions that wait are known by name.
        _ if !behaviour.keeps_running && !party.waits.is_empty() => {
            let waits = |frame: &Frame| names(frame).any(|name| vocabulary.is_plumbing(name));
            depth_of(first, waits).unwrap_or(now)
        }
        _ if !behaviour.takes_interrupts => now,
        // Interrupts are on even in the innermost segment: it is no tick.
        Some(true) => now,
        Some(false) => (now - 1).max(1),
        None => 1,
    };
    lasting.min(least_depth(moments, vocabulary).unwrap_or(lasting)).max(1)
}

/// Returns the least number of segments at a moment, of the stacks that were unwound to the same end as
/// most.
fn least_depth(moments: &Moments<'_>, vocabulary: &dyn Vocabulary) -> Option<usize> {
    let calls = moments.iter().any(|stack| segments(stack).get(1).is_some_and(|&start| start > 1));
    let mut by_end: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for stack in moments {
        let Some(outermost) = stack.last() else { continue };
        let starts = segments(stack);
        // The entry of an exception that has called nothing yet, or nothing any more: the handler returns, if
        // it calls anything at another moment.
        let is_entry = starts.get(1) == Some(&1) && !serves_interrupts(&stack[..1], vocabulary);
        let depth = starts.len() - usize::from(calls && is_entry);
        let (seen, least) = by_end.entry(&outermost.address).or_insert((0, depth));
        *seen += 1;
        *least = depth.min(*least);
    }
    by_end.into_values().max().map(|(_, least)| least)
}

/// Returns the depth, in segments from the outer end, of the innermost segment with a certain frame.
fn depth_of(stack: &[Frame], is_wanted: impl Fn(&Frame) -> bool) -> Option<usize> {
    let found = stack.iter().position(is_wanted)?;
    Some(segments(stack).iter().filter(|&&start| start > found).count() + 1)
}

/// Returns true if a function of the frame makes a call in this line.
fn calls(frame: &Frame, call: &SourceLine) -> bool {
    frame.functions.iter().any(|function| {
        function.line == Some(call.line) && function.file.as_ref() == Some(&call.file)
    })
}

fn names(frame: &Frame) -> impl Iterator<Item = &str> {
    frame.functions.iter().filter_map(|function| function.name.as_deref())
}

/// Returns the index of the first frame of each segment, innermost first.
fn segments(stack: &[Frame]) -> Vec<usize> {
    let starts = (1..stack.len()).filter(|&index| stack[index].interrupted);
    [0].into_iter().chain(starts).collect()
}

fn serves_interrupts(segment: &[Frame], vocabulary: &dyn Vocabulary) -> bool {
    let mut frames = segment.iter();
    frames.any(|frame| names(frame).any(|name| vocabulary.serves_interrupts(name)))
}

/// Own part of a stack at one moment.
struct Part<'a> {
    frames: &'a [Frame],
    handler: Option<HandlerKind>,
}

impl<'a> Part<'a> {
    /// Leaves out the segments inside of the `depth` outer ones, and those that an interrupt came upon.
    fn new(stack: &'a [Frame], depth: usize, vocabulary: &dyn Vocabulary) -> Self {
        let starts = segments(stack);
        let own = &starts[starts.len().saturating_sub(depth)..];
        let Some(&start) = own.first() else { return Self { frames: stack, handler: None } };
        let mut segments = own.windows(2);
        let by_chance =
            segments.position(|bounds| serves_interrupts(&stack[bounds[0]..bounds[1]], vocabulary));
        let handler = match by_chance {
            Some(0) => Some(HandlerKind::Interrupt),
            _ => (own.len() > 1).then_some(HandlerKind::Unknown),
        };
        let end = by_chance.map_or(stack.len(), |segment| own[segment + 1]);
        Self { frames: &stack[start..end], handler }
    }
}

#[cfg(test)]
mod tests;
