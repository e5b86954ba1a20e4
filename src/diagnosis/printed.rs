//! Stacks that a kernel printed into its log, as the guest's traces of a report, and held against the host's.
//!
//! Owns the comparison: of function and offset, which the kernel prints in place of addresses. Refuses to own the text
//! (`kernel`). Called by the parent module.

use nmiscope_machine::VirtualAddress;
use nmiscope_report::{Frame, GuestTrace, HostStack, PrintedTrace};
use nmiscope_symbolizer::ProgramCounter;

use super::{Resolver, milliseconds};
use crate::kernel::{PrintedEntry, PrintedStack};

/// Makes the guest's trace of a printed stack, compared with the stack that the host unwound.
pub fn trace(
    printed: &PrintedStack,
    host: Option<&HostStack>,
    resolver: &Resolver<'_>,
) -> GuestTrace {
    let host = host.map_or(&[][..], |stack| &stack.frames);
    let (mut frames, mut findings) = (Vec::new(), Vec::new());
    for entry in &printed.entries {
        match looked_up(entry, host, resolver) {
            Some(frame) => frames.push(frame),
            None => findings.push(format!("{} is no function of this kernel", entry.function)),
        }
    }
    let reliable = frames.iter().filter(|frame| frame.reliable).rev();
    let common = reliable.zip(host.iter().rev()).take_while(|(a, b)| a.address == b.address);
    let common_frames = common.count() as u32;
    let printed_at = PrintedTrace { uptime_ms: milliseconds(printed.uptime), common_frames };
    let text = printed.lines.join("\n") + "\n";
    GuestTrace { text, current: false, printed: Some(printed_at), frames, findings }
}

/// Looks an entry up: among the host's frames, or else by its name, which several functions may have.
fn looked_up(entry: &PrintedEntry, host: &[Frame], resolver: &Resolver<'_>) -> Option<Frame> {
    let name = match &entry.module {
        Some(module) => format!("{} [{module}]", entry.function),
        None => entry.function.clone(),
    };
    let is_seen = |frame: &&Frame| {
        let symbol = frame.symbol.as_ref().filter(|symbol| symbol.name == name);
        // A return address is looked up inside its call.
        let inside = u64::from(!frame.interrupted);
        symbol.is_some_and(|symbol| symbol.offset + inside == entry.offset)
    };
    if let Some(frame) = host.iter().find(is_seen) {
        let frame = Frame { found_by: None, cfi_fault: None, ..frame.clone() };
        return Some(Frame { reliable: entry.reliable, interrupted: entry.interrupted, ..frame });
    }
    let start = resolver.symbols()?.address_of(&entry.function)?;
    let address = VirtualAddress(start.0.checked_add(entry.offset)?);
    let counter = match entry.interrupted {
        true => ProgramCounter::Interrupted(address),
        false => ProgramCounter::Return(address),
    };
    let frame = resolver.frame(counter, entry.reliable);
    frame.symbol.as_ref().is_some_and(|symbol| symbol.name == name).then_some(frame)
}
