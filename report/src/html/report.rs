//! The page of a report: its verdict, its hangs, its backtraces, the log, what is not known, and the plain text.
//!
//! Owns the order of these parts, and their limits; the words are those of `text`. Called by the command line and
//! by farms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use askama::Template;

use super::backtrace::BacktracePart;
use super::hang::{self, Drawn, HangPart};
use super::page;
use super::room::Room;
use super::sources::Sources;
use super::verdict::{self, Header};
use super::words::{self, Words};
use crate::sanitize::line;
use crate::text::{self, Detail};
use crate::units::plural;
use crate::wait_graph::Picture;
use crate::{Certainty, GuestKernel, Hang, KernelLog, NmiAnswer, Report, Source, Trigger, strips};

/// The most lines of a log, and of a console.
const MAX_LOG_LINES: usize = 250;
/// The most bytes of a log, and of a console.
const MAX_LOG_BYTES: usize = 16 << 10;
/// The most bytes of the plain text.
const MAX_TEXT_BYTES: usize = 24 << 10;
/// The most sentences about what is not known.
const MAX_UNKNOWNS: usize = 60;

/// The main part of the page.
#[derive(Template)]
#[template(path = "report/main.html")]
struct Main {
    contents: Vec<(String, String)>,
    hangs: Vec<HangPart>,
    /// Hangs without a part of their own.
    other_hangs: Vec<Words>,
    no_history: Option<&'static str>,
    backtraces: Vec<BacktracePart>,
    log: Option<Log>,
    console: Option<Log>,
    unknowns: Vec<String>,
    text: String,
    text_is_cut: bool,
}

/// The last lines of a log.
struct Log {
    caption: String,
    text: String,
}

/// Returns the page of a report. `sources` has the source lines that are shown in its stacks.
///
/// A page has limits, whatever its report holds: stacks, tasks and log lines beyond them are counted, and are in the
/// JSON. It has no clock and no chance: equal reports give equal pages.
pub fn report(report: &Report, sources: &Sources) -> String {
    let footer =
        format!("Made by nmiscope from a report of schema version {}.", report.schema_version);
    page(&verdict::title(report), &Header::new(report), &main_part(report, sources), &footer)
}

fn main_part(report: &Report, sources: &Sources) -> Main {
    let mut room = Room::default();
    let has_room = report.hangs.iter().take_while(|_| room.part()).count();
    let (shown, others) = report.hangs.split_at(has_room);
    let drawn: Vec<Drawn<'_>> = shown.iter().map(Picture::new).collect();
    let mut backtraces = BTreeMap::new();
    let count = report.backtraces.len();
    for number in by_importance(report) {
        let backtrace = &report.backtraces[number];
        let is_of_this = |hang: &Hang| hang.backtrace.is_some_and(|index| index as usize == number);
        let hangs: Vec<&Hang> = report.hangs.iter().filter(|hang| is_of_this(hang)).collect();
        let pictures: Vec<(String, &Picture<'_>)> = (shown.iter().zip(&drawn).enumerate())
            .filter(|(_, (hang, _))| is_of_this(hang))
            .filter_map(|(index, (_, drawn))| Some((hang::prefix(index), drawn.as_ref().ok()?)))
            .collect();
        let place = (number, count);
        let failed = failed_cpu(report, number);
        let part =
            BacktracePart::new(backtrace, place, (&hangs, failed), &pictures, sources, &mut room);
        backtraces.insert(number, part);
    }
    let anchors: BTreeMap<usize, HashMap<&str, &str>> =
        backtraces.iter().map(|(&number, part)| (number, part.anchors())).collect();
    let hangs: Vec<HangPart> = (shown.iter().zip(&drawn).enumerate())
        .map(|(number, (hang, drawn))| {
            let anchors = hang.backtrace.and_then(|index| anchors.get(&(index as usize)));
            let anchor = |party: &str| anchors?.get(party).map(|id| (*id).to_owned());
            HangPart::new(hang, (number, report.hangs.len()), drawn, &anchor)
        })
        .collect();
    let backtraces: Vec<BacktracePart> = backtraces.into_values().collect();
    let (text, text_is_cut) = plain_text(report);
    let has_strips = backtraces.iter().any(BacktracePart::has_strips);
    let unknowns = unknowns(report, count.saturating_sub(backtraces.len()));
    let mut main = Main {
        contents: Vec::new(),
        hangs,
        other_hangs: others
            .iter()
            .take(MAX_UNKNOWNS)
            .map(|hang| hang::short(hang).into())
            .collect(),
        no_history: (!has_strips).then(|| strips::missing(report)),
        backtraces,
        log: log(report),
        console: console(report),
        unknowns,
        text,
        text_is_cut,
    };
    main.contents = contents(&main);
    main
}

/// The most backtraces that are shown.
const MAX_BACKTRACES: usize = 24;

/// Returns the numbers of the backtraces that are shown, those first whose stacks and past matter most: of the
/// hang that the page is about, of other verdicts, of suspicions, and then the latest.
fn by_importance(report: &Report) -> Vec<usize> {
    let main = verdict::main_hang(report).and_then(|hang| hang.backtrace);
    let with = |is_wanted: fn(&Hang) -> bool| -> HashSet<u32> {
        report
            .hangs
            .iter()
            .filter(|hang| is_wanted(hang))
            .filter_map(|hang| hang.backtrace)
            .collect()
    };
    let (verdicts, all) = (with(|hang| hang.certainty.is_verdict()), with(|_| true));
    let mut numbers: Vec<u32> = (0..).take(report.backtraces.len()).collect();
    numbers.sort_by_key(|number| {
        let rank = match number {
            number if Some(*number) == main => 0,
            number if verdicts.contains(number) => 1,
            number if all.contains(number) => 2,
            _ => 3,
        };
        (rank, Reverse(*number))
    });
    numbers.into_iter().take(MAX_BACKTRACES).map(|number| number as usize).collect()
}

/// Returns the CPU that panicked or ended the guest, if the backtrace was taken for that.
pub(crate) fn failed_cpu(report: &Report, backtrace: usize) -> Option<u32> {
    let trigger = &report.backtraces.get(backtrace)?.trigger;
    let is_of_the_end = matches!(trigger, Trigger::GuestEnded | Trigger::Dump | Trigger::Attach);
    report.outcome.failed_cpu().filter(|_| is_of_the_end)
}

/// Returns the entries of the page's contents: ids and titles.
fn contents(main: &Main) -> Vec<(String, String)> {
    let hangs = main.hangs.iter().map(HangPart::entry);
    let past = main.no_history.map(|_| ("past".to_owned(), PAST.to_owned()));
    let backtraces = main.backtraces.iter().flat_map(BacktracePart::entries);
    let rest = [
        main.log.as_ref().map(|_| ("log", "Kernel log")),
        main.console.as_ref().map(|_| ("console", "Console")),
        (!main.unknowns.is_empty()).then_some(("unknowns", "What could not be found out")),
        Some(("text", "Plain text")),
    ];
    let rest = rest.into_iter().flatten().map(|(id, title)| (id.to_owned(), title.to_owned()));
    hangs.chain(past).chain(backtraces).chain(rest).collect()
}

/// Title of the part with the vCPUs' histories.
pub(super) const PAST: &str = "The last minute of each vCPU";

fn plain_text(report: &Report) -> (String, bool) {
    let mut text = text::plain(report, Detail::Folded);
    let is_cut = text.len() > MAX_TEXT_BYTES;
    if is_cut {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let end = text[..end].rfind('\n').map_or(end, |end| end + 1);
        text.truncate(end);
        text.push_str("... cut for the size of the page: nmiscope report prints all of it\n");
    }
    (text, is_cut)
}

/// Returns the last lines of a list within the limits, and their number.
fn last_lines(lines: impl DoubleEndedIterator<Item = String>) -> (String, usize) {
    let mut shown: Vec<String> = Vec::new();
    let mut bytes = 0;
    for line in lines.rev().take(MAX_LOG_LINES) {
        bytes += line.len() + 1;
        if bytes > MAX_LOG_BYTES {
            break;
        }
        shown.push(line);
    }
    shown.reverse();
    let count = shown.len();
    (shown.join("\n"), count)
}

fn log(report: &Report) -> Option<Log> {
    let log = report.backtraces.iter().rev().find_map(|backtrace| backtrace.log.as_ref())?;
    let KernelLog { lines, omitted, missing } = log;
    if missing.is_some() || lines.is_empty() {
        return None;
    }
    let texts =
        lines.iter().map(|record| format!("{} {}", text::uptime(record), line(&record.text)));
    let (text, shown) = last_lines(texts);
    let all = omitted.saturating_add(lines.len() as u64);
    let caption = match shown as u64 {
        shown if shown == all => plural(all, "line"),
        shown => format!("The last {shown} of {all} lines"),
    };
    Some(Log { caption, text })
}

fn console(report: &Report) -> Option<Log> {
    let tail = &report.console_tail;
    let (text, shown) = last_lines(tail.iter().map(|text| line(text)));
    (shown > 0).then(|| Log { caption: format!("The last {}", plural(shown as u64, "line")), text })
}

/// Returns sentences about all that the report does not know, each once.
fn unknowns(report: &Report, backtraces_left_out: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut all: Vec<String> = Vec::new();
    let mut add = |sentence: String| {
        let count = counts.entry(sentence.clone()).or_default();
        *count += 1;
        if *count == 1 {
            all.push(sentence);
        }
    };
    if backtraces_left_out > 0 {
        let more = plural(backtraces_left_out as u64, "more backtrace");
        add(format!("{more}, left out for the size of the page: in the JSON"));
    }
    report.warnings.iter().for_each(|warning| add(line(warning)));
    if let GuestKernel::Unknown { reason } = &report.image.kernel {
        add(format!("kernel unknown: {}", line(reason)));
    }
    for hang in &report.hangs {
        if let Certainty::Unknown { reason } = &hang.certainty {
            add(format!("whether the guest hangs is not known: {}", line(reason)));
        }
    }
    for backtrace in &report.backtraces {
        if let Some(reason) = backtrace.log.as_ref().and_then(|log| log.missing.as_ref()) {
            add(format!("log missing: {}", line(reason)));
        }
        let asked = text::parties::has_requested_nmis(backtrace);
        for cpu in &backtrace.cpus {
            if let (NmiAnswer::NoAnswer { reason }, true) = (&cpu.nmi.answer, asked) {
                add(format!("cpu{} gave no answer: {}", cpu.cpu, line(reason)));
            }
            let stack = cpu.host_stack.as_ref().filter(|stack| !stack.complete);
            if let Some(stack) = stack {
                add(format!("the host's stack of cpu{} ends: {}", cpu.cpu, line(&stack.end)));
            }
            let frames = cpu.host_stack.iter().flat_map(|stack| &stack.frames);
            for missing in frames.filter_map(|frame| frame.missing.as_ref()) {
                add(format!("some frames have no name: {}", line(missing)));
            }
        }
    }
    if report.source == Source::Dump {
        add("a dump records no kernel parameters, and no past of its vCPUs".into());
    }
    let more = all.len().saturating_sub(MAX_UNKNOWNS);
    all.truncate(MAX_UNKNOWNS);
    let mut shown: Vec<String> = all
        .into_iter()
        .map(|sentence| match counts.get(&sentence) {
            Some(&count) if count > 1 => format!("{sentence} ({count} times)"),
            _ => sentence,
        })
        .collect();
    if more > 0 {
        shown.push(format!("and {}", plural(more as u64, "more thing")));
    }
    shown.iter().map(|sentence| words::line(sentence)).collect()
}
