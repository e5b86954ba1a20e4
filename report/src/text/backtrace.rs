//! A backtrace as text: how it was taken, then its vCPUs and tasks.
//!
//! Owns the layout of these, and the words on how the backtrace was taken; refuses to own the choice and
//! order of vCPUs, tasks and stacks (`parties`) and frames (`stack`). Called by `text`, whose interface has it.

use std::fmt::Write as _;

use super::focus::Rank;
use super::parties::{self, Parties, Party, ShownStack, cpu_list};
use super::{Detail, round_up, stack, waits};
use crate::phrase::{Phrase, Tone};
use crate::units::{plural, seconds};
use crate::{Backtrace, BufferReservation, Cpu, Hang, Task, Trigger};

/// Returns the text of a backtrace and of the vCPUs and tasks in it. `hangs` are those that it was taken
/// for: their blamed parties come first, and in a stack the blamed function.
///
/// With [`Detail::Folded`], vCPUs that idle share one line without a stack.
pub fn backtrace<'a>(
    backtrace: &'a Backtrace,
    hangs: impl IntoIterator<Item = &'a Hang>,
    detail: Detail,
) -> String {
    let mut text = String::new();
    for line in taken(backtrace) {
        let _ = writeln!(text, "{line}");
    }
    let hangs: Vec<&Hang> = hangs.into_iter().collect();
    for line in backtrace.waits.iter().flat_map(|graph| waits::sentences(graph, &hangs)) {
        let _ = writeln!(text, "{line}");
    }
    let parties = Parties::new(backtrace, hangs, detail);
    let (active, idle): (Vec<_>, Vec<_>) = parties
        .all()
        .into_iter()
        .partition(|(_, party)| detail == Detail::All || !matches!(party, Party::IdleCpus(_)));
    for (_, party) in active {
        text.push('\n');
        match party {
            Party::Cpus(members) | Party::IdleCpus(members) => cpus(&mut text, &parties, &members),
            Party::Tasks(members) => tasks(&mut text, &parties, &members),
        }
    }
    for line in parties::idle(idle.iter().map(|(_, party)| party)) {
        let _ = writeln!(text, "\n{line}");
    }
    if let Some(sleeping) = parties::sleeping(backtrace) {
        let _ = writeln!(text, "\n{sleeping}");
    }
    text.push('\n');
    text
}

/// Returns the text of the blamed vCPUs and tasks of a backtrace. Where none is blamed, it is that of the vCPU that
/// `failed`, or else of the first ones that do not idle.
pub(crate) fn main_parties<'a>(
    backtrace: &'a Backtrace,
    hangs: impl IntoIterator<Item = &'a Hang>,
    failed: Option<u32>,
) -> String {
    let parties = Parties::new(backtrace, hangs, Detail::Folded);
    let mut all = parties.all();
    let has_failed = |party: &Party<'_>| failed.is_some_and(|cpu| party.has_cpu(cpu));
    all.sort_by_key(|(rank, party)| {
        (*rank != Rank::Blamed, !has_failed(party), matches!(party, Party::IdleCpus(_)))
    });
    let blamed = all.iter().take_while(|(rank, _)| *rank == Rank::Blamed).count().max(1);
    let mut text = String::new();
    for (_, party) in all.iter().take(blamed) {
        match party {
            Party::Cpus(members) | Party::IdleCpus(members) => cpus(&mut text, &parties, members),
            Party::Tasks(members) => tasks(&mut text, &parties, members),
        }
        text.push('\n');
    }
    text
}

/// Appends vCPUs with equal stacks, with the reason where the first has not answered.
fn cpus(text: &mut String, parties: &Parties<'_>, cpus: &[&Cpu]) {
    let Some(&cpu) = cpus.first() else { return };
    let names = Phrase::new(Tone::Heading, &cpu_list(cpus));
    let _ = writeln!(text, "{names}  {}", parties.condition(cpu));
    for line in parties.remarks(cpus, cpu) {
        let _ = writeln!(text, "  {line}");
    }
    for shown in parties.stacks_of_cpu(cpu) {
        show(text, &shown);
    }
}

/// Appends tasks that wait alike: their names and ages, and their stack once.
fn tasks(text: &mut String, parties: &Parties<'_>, tasks: &[&Task]) {
    let _ = writeln!(text, "{}", parties::title_of_tasks(tasks));
    if tasks.len() > 1 {
        let _ = writeln!(text, "  {}", parties::names_of_tasks(tasks));
    }
    if let Some(shown) = tasks.first().and_then(|task| parties.stack_of_task(task)) {
        show(text, &shown);
    }
}

/// Appends a stack with its heading, its faults and the reason for its end.
fn show(text: &mut String, shown: &ShownStack<'_>) {
    if let Some(heading) = &shown.heading {
        let _ = writeln!(text, "  {heading}:");
    }
    for fault in &shown.before {
        let _ = writeln!(text, "  {fault}");
    }
    stack::lay_out(text, &shown.frames);
    for remark in &shown.after {
        let _ = writeln!(text, "  {remark}");
    }
}

/// Returns how a backtrace was taken: for what, and the account of its NMIs.
pub(crate) fn taken(backtrace: &Backtrace) -> Vec<Phrase> {
    let mut lines = Vec::new();
    match &backtrace.trigger {
        Trigger::Signal { name } => {
            lines.push(Phrase::plain(&format!("backtrace requested by {name}")));
        }
        Trigger::Timer => lines.push(Phrase::plain("backtrace requested by --nmi-after")),
        Trigger::Hang
        | Trigger::Starved
        | Trigger::GuestEnded
        | Trigger::TimeLimit
        | Trigger::Dump
        | Trigger::Attach => {}
    }
    if !parties::has_requested_nmis(backtrace) {
        let vcpus = plural(backtrace.cpus.len() as u64, "vCPU");
        lines.push(Phrase::plain(&format!("{vcpus}, seen from outside")));
        return lines;
    }
    lines.push(Phrase::plain(&format!(
        "NMI: sent to {}, {} answered in {} ms",
        plural(backtrace.nmi_sent.into(), "vCPU"),
        backtrace.nmi_answered,
        round_up(backtrace.elapsed_ms)
    )));
    lines.extend(reservation(&backtrace.reservation));
    lines
}

/// Returns a sentence about the reservation of the NMI buffers; `None` where nothing is special about it.
fn reservation(reservation: &BufferReservation) -> Option<Phrase> {
    let buffers = Phrase::plain("NMI buffers: ");
    let not_reserved = || Phrase::new(Tone::Bad, "not reserved");
    Some(match reservation {
        BufferReservation::Held { waited_ms } if *waited_ms < 1.0 => return None,
        BufferReservation::Held { waited_ms } => buffers.then(&format!(
            "waited {} ms for a backtrace inside the guest to end",
            round_up(*waited_ms)
        )),
        BufferReservation::Refused { holder, held_ms, waited_ms } => {
            let holder = holder.map_or("no CPU of the guest".into(), |cpu| format!("cpu{cpu}"));
            let held = held_ms.map_or("an unknown time".into(), seconds);
            buffers.join(not_reserved()).then(&format!(
                ", {holder} has held them for {held} (waited {} ms); their text may be of an earlier NMI",
                round_up(*waited_ms)
            ))
        }
        BufferReservation::Unavailable { reason } => {
            buffers.join(not_reserved()).then(&format!(": {reason}"))
        }
        BufferReservation::NotAsked => buffers.then("not used, no NMIs were requested"),
    })
}
