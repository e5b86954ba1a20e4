//! Evidence of hangs in words, a sentence for each fact.
//!
//! Owns these sentences; refuses to own which facts a verdict rests on (the tool's detector). Called by pages.

use nmiscope_names::short_name;

use super::hang::source;
use crate::units::{plural, seconds};
use crate::{Evidence, Fact, HandlerKind, OfflineState};

/// Returns a fact about a party, without the party's name and not made harmless.
pub(crate) fn fact(evidence: &Evidence) -> String {
    match &evidence.fact {
        Fact::NoTick { ms } => format!("no timer tick for {}", seconds(*ms)),
        Fact::NoSchedule { ms, interrupts } => format!(
            "nothing scheduled for {}, {} taken meanwhile",
            seconds(*ms),
            plural(*interrupts, "interrupt")
        ),
        Fact::Waited { ms } => format!("waited for {}", seconds(*ms)),
        Fact::PendingWork { ms, items, ran_ms } => format!(
            "no work finished for {} with {} pending, of which it ran {}",
            seconds(*ms),
            plural(*items, "work item"),
            seconds(*ran_ms)
        ),
        Fact::TasksNotRun { ms, tasks } => {
            format!("{} ready and not run for {}", plural((*tasks).into(), "task"), seconds(*ms))
        }
        Fact::Offline { how } => offline(*how).into(),
        Fact::NotReady { ms } => format!("not ready after {}", seconds(*ms)),
        Fact::NoOutput { ms } => format!("nothing printed for {}", seconds(*ms)),
        Fact::SeenWithInterruptsOff { ms } => {
            format!("interrupts off at each sample for {}", seconds(*ms))
        }
        Fact::StoppedAt { .. } => stopped_at(&evidence.fact),
    }
}

fn stopped_at(fact: &Fact) -> String {
    let Fact::StoppedAt {
        halted,
        interrupts_enabled,
        nmi_masked,
        handler,
        address,
        function,
        line,
    } = fact
    else {
        return String::new();
    };
    let halted = if *halted { "halted" } else { "stopped" };
    let place = match function {
        Some(function) => format!("in {}", short_name(function)),
        None => format!("at [<{address}>]"),
    };
    let line = line.as_ref().map_or_else(String::new, |line| format!(" ({})", source(line)));
    let interrupts = if *interrupts_enabled { "interrupts on" } else { "interrupts off" };
    let nmi = if *nmi_masked { ", with NMIs masked" } else { "" };
    let handler = match handler {
        None => "",
        Some(HandlerKind::Interrupt) => ", in an interrupt handler",
        Some(HandlerKind::Unknown) => ", in an interrupt or exception handler",
    };
    format!("{halted} {place}{line}, {interrupts}{nmi}{handler}")
}

/// Returns the state of a CPU that does not run the kernel, after the CPU's name.
pub(super) fn offline(how: OfflineState) -> &'static str {
    match how {
        OfflineState::NotStarted => "has never been started",
        OfflineState::InInit => "has received INIT, and waits for its start-up IPI",
        OfflineState::Reset => "was reset after it had been started",
        OfflineState::Halted => "is offline, says the kernel, and halted",
        OfflineState::Running => "is offline, says the kernel, and executes",
    }
}
