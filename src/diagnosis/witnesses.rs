//! Comparison of the two witnesses of a vCPU, the guest's trace and the host's: each difference has a
//! finding.
//!
//! Owns the comparison; refuses to own either trace. Called by the parent module for each vCPU.

use super::{garbage, is_cut};
use crate::capture::CpuCapture;
use crate::capture::host_stack::{Ending, UnwoundStack};
use nmiscope_report::{CpuFinding, Frame, GuestTrace, Nmi, NmiAnswer};
use nmiscope_symbolizer::End;

/// Returns the findings of one vCPU.
pub fn findings(capture: &CpuCapture, nmi: &Nmi, word: Option<&GuestTrace>) -> Vec<CpuFinding> {
    let mut findings = Vec::new();
    if nmi.sent {
        match (nmi.delivered, nmi.masked_before) {
            (Some(true), _) if !nmi.handler_finished => {
                findings.push(CpuFinding::HandlerUnfinished)
            }
            (Some(true), _) => {}
            (_, true) => findings.push(CpuFinding::NmiMasked),
            (_, false) => findings.push(CpuFinding::NmiNotDelivered),
        }
    }
    if let Some(messages) = nmi.messages_lost.filter(|messages| *messages > 0) {
        findings.push(CpuFinding::BufferOverflowed { messages });
    }
    let text = word.map_or("", |word| &word.text);
    if capture.buffer.as_ref().is_ok_and(|buffer| !garbage(buffer, text).is_empty()) {
        findings.push(CpuFinding::TraceGarbled);
    }
    if is_cut(text) {
        findings.push(CpuFinding::TraceTruncated);
    }
    if let Some(look) = &capture.stack {
        findings.extend(stack_fault(look));
        // An earlier handler's trace does not show this moment.
        if let Some(word) = word.filter(|word| word.current && nmi.answer == NmiAnswer::Answered) {
            let difference = compare(&vouched_for(word), &seen(look), look.ending.is_complete());
            let nmi = capture.state.as_ref().ok().and_then(|state| state.nmi);
            let shadow = nmi.is_some_and(|nmi| nmi.interrupt_shadow);
            findings.extend(difference.map(|difference| in_shadow(difference, shadow)));
        }
    }
    findings
}

/// Explains a contradiction by the vCPU's interrupt shadow. On AMD processors KVM has the vCPU execute
/// one instruction by the trap flag before it injects the NMI: a pending interrupt may come in between,
/// and a hypervisor below may let the vCPU run for longer.
fn in_shadow(difference: CpuFinding, shadow: bool) -> CpuFinding {
    match difference {
        CpuFinding::StacksDiffer { frame } if shadow => CpuFinding::InterruptShadow { frame },
        other => other,
    }
}

/// Returns the finding for a host stack that is not complete.
fn stack_fault(look: &UnwoundStack) -> Option<CpuFinding> {
    let reason = look.ending.to_string();
    match &look.ending {
        ending if ending.is_complete() => None,
        Ending::Unwound(End::UnreadableStack(_)) => Some(CpuFinding::StackUnreadable { reason }),
        Ending::Unwound(_) => Some(CpuFinding::StackBroken { reason }),
        Ending::NotUnwound(_) => None,
    }
}

/// Place of a frame: its address, and its interrupted flag.
type Place = (String, bool);

fn vouched_for(word: &GuestTrace) -> Vec<Place> {
    let frames = word.frames.iter().filter(|frame| frame.reliable);
    frames.map(|frame: &Frame| (frame.address.clone(), frame.interrupted)).collect()
}

fn seen(look: &UnwoundStack) -> Vec<Place> {
    let frames = look.frames.iter();
    frames.map(|frame| (frame.pc.address().to_string(), frame.is_interrupted())).collect()
}

/// Returns the difference between the guest's trace and the host's. The guest follows frame pointers, and
/// may miss functions that have none; it may have taken an interrupt before the NMI.
fn compare(word: &[Place], look: &[Place], look_is_complete: bool) -> Option<CpuFinding> {
    if word == look {
        return None;
    }
    if !look.is_empty() && word.len() > look.len() && word.ends_with(look) {
        return Some(CpuFinding::InterruptedBefore { frames: (word.len() - look.len()) as u32 });
    }
    if !look_is_complete && word.starts_with(look) {
        // The end of the host's stack has a finding already.
        return None;
    }
    let mut rest = look.iter();
    if word.first() == look.first() && word.iter().all(|place| rest.any(|seen| seen == place)) {
        return Some(CpuFinding::TraceIncomplete { frames: (look.len() - word.len()) as u32 });
    }
    let frame = word.iter().zip(look).take_while(|(said, seen)| said == seen).count();
    Some(CpuFinding::StacksDiffer { frame: frame as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a trace of one-letter addresses; capitals were interrupted.
    fn trace(letters: &str) -> Vec<Place> {
        letters.chars().map(|letter| (letter.to_string(), letter.is_uppercase())).collect()
    }

    fn difference(word: &str, look: &str, look_is_complete: bool) -> Option<CpuFinding> {
        compare(&trace(word), &trace(look), look_is_complete)
    }

    #[test]
    fn equal_traces_agree() {
        assert_eq!(difference("Abc", "Abc", true), None);
        assert_eq!(difference("", "", true), None);
    }

    #[test]
    fn an_interrupt_before_the_nmi_adds_frames_to_the_guests_trace() {
        let before = Some(CpuFinding::InterruptedBefore { frames: 2 });
        assert_eq!(difference("XyAbc", "Abc", true), before);
    }

    #[test]
    fn frames_without_a_frame_pointer_are_missing_not_contradicting() {
        assert_eq!(
            difference("Acd", "Abcd", true),
            Some(CpuFinding::TraceIncomplete { frames: 1 })
        );
        assert_eq!(difference("A", "Abcd", true), Some(CpuFinding::TraceIncomplete { frames: 3 }));
    }

    #[test]
    fn an_incomplete_host_stack_does_not_contradict() {
        assert_eq!(difference("Abcd", "Ab", false), None);
        assert_eq!(difference("Abcd", "Ab", true), Some(CpuFinding::StacksDiffer { frame: 2 }));
    }

    #[test]
    fn a_contradiction_has_the_index_of_its_first_frame() {
        assert_eq!(difference("Abxd", "Abcd", true), Some(CpuFinding::StacksDiffer { frame: 2 }));
        assert_eq!(difference("Xb", "Ab", false), Some(CpuFinding::StacksDiffer { frame: 0 }));
        assert_eq!(difference("Abc", "ABc", true), Some(CpuFinding::StacksDiffer { frame: 1 }));
        assert_eq!(difference("", "Ab", true), Some(CpuFinding::StacksDiffer { frame: 0 }));
    }

    #[test]
    fn an_interrupt_shadow_explains_a_contradiction() {
        let differ = CpuFinding::StacksDiffer { frame: 2 };
        assert_eq!(in_shadow(differ.clone(), false), differ);
        assert_eq!(in_shadow(differ, true), CpuFinding::InterruptShadow { frame: 2 });
        let lacks = CpuFinding::TraceIncomplete { frames: 1 };
        assert_eq!(in_shadow(lacks.clone(), true), lacks);
    }
}
