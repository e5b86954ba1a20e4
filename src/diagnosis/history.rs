//! History as reports have it: suspected parties with names, and the NMIs of the backtrace itself.
//!
//! Owns that form; refuses to own what was recorded (`hang`). Called by the parent module.

use nmiscope_report::{Cpu, History, PastNmis, PastSuspicion};

use super::waits::Names;
use super::{Resolver, milliseconds};
use crate::capture::Capture;
use crate::hang::{self, Ages, PastMinute, Suspect};

/// Makes the report's history of a capture. The names of parties are those of the backtrace's waits.
pub fn history(
    past: &PastMinute,
    capture: &Capture,
    cpus: &[Cpu],
    resolver: &Resolver<'_>,
) -> History {
    let kernel = capture.kernel.known();
    let edges = kernel.map_or_else(Vec::new, |kernel| hang::all_waits(kernel, &Ages::default()));
    let names = Names::of_waits(&edges, kernel, resolver);
    let suspicion = |suspect: &Suspect| PastSuspicion {
        class: suspect.class,
        parties: suspect.parties.iter().map(|&party| names.id(party)).collect(),
        began_at_ms: milliseconds(suspect.began),
        ended_at_ms: suspect.ended.map(milliseconds),
    };
    let mut history = past.history.clone();
    history.suspicions = past.suspects.iter().map(suspicion).collect();
    let cpus: Vec<u32> = cpus.iter().filter(|cpu| cpu.nmi.sent).map(|cpu| cpu.cpu).collect();
    if !cpus.is_empty() {
        history.nmis.push(PastNmis { at_ms: milliseconds(capture.at), cpus });
    }
    history
}
