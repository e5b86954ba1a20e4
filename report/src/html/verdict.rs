//! The head of a report's page: the verdict, and the facts about the run as a whole.
//!
//! Owns which facts these are; the words are those of `text`. Called by `html`.

use askama::Template;

use super::words::{MAX_LINE, Words, line};
use crate::phrase::Phrase;
use crate::sanitize::cut;
use crate::text::{self, hang};
use crate::units::seconds;
use crate::{
    Certainty, GuestImage, GuestKernel, Hang, Outcome, Report, Source, UNKNOWN_HOST, summary,
};

/// The head of the page.
#[derive(Template)]
#[template(path = "report/header.html")]
pub(super) struct Header {
    verdict: Words,
    /// End of the run, where the verdict does not say how it ended.
    end: Option<Words>,
    redacted: Option<&'static str>,
    facts: Vec<Fact>,
}

/// A fact about the run.
struct Fact {
    name: &'static str,
    value: String,
    /// True for a name that is to be copied, such as a signature.
    is_code: bool,
}

impl Header {
    /// Creates the head of a report's page.
    pub(super) fn new(report: &Report) -> Self {
        let hang = main_hang(report);
        let end = text::end(&report.outcome);
        let (verdict, end) = match (hang, end) {
            (Some(hang), end) => (hang::headline(hang), end),
            (None, Some(end)) => (end, None),
            (None, None) => (Phrase::plain("no hang"), None),
        };
        Self {
            verdict: verdict.into(),
            end: end.map(Words::from),
            redacted: report.redacted.then_some(text::REDACTED),
            facts: facts(report, hang),
        }
    }
}

/// Returns the hang that a page is about: the first verdict, or the first suspicion where there is none.
pub(crate) fn main_hang(report: &Report) -> Option<&Hang> {
    let verdict = report.hangs.iter().find(|hang| hang.certainty.is_verdict());
    let is_over = matches!(report.outcome, Outcome::Exit { .. });
    verdict.or_else(|| report.hangs.first().filter(|_| !is_over))
}

/// Returns the title of a report's page.
pub(super) fn title(report: &Report) -> String {
    let summary = Some(&report.summary).filter(|summary| !summary.is_empty());
    let summary = summary.map_or_else(|| summary::summarize(report), |summary| line(summary));
    format!("{} \u{2013} nmiscope", cut(summary, MAX_LINE))
}

/// Returns a certainty in words.
pub(crate) fn certainty(certainty: &Certainty) -> String {
    match certainty {
        Certainty::Certain => "certain: nothing in the guest can end it".into(),
        Certainty::Likely => "likely".into(),
        Certainty::Suspected { lasted_ms, bound_ms } => format!(
            "suspected: {} so far, and a hang after {}",
            seconds(*lasted_ms),
            seconds(*bound_ms)
        ),
        Certainty::Unknown { reason } => format!("unknown: {}", line(reason)),
    }
}

/// Returns the kernel in words.
pub(crate) fn kernel(image: &GuestImage) -> String {
    match &image.kernel {
        GuestKernel::Bundled => "the bundled guest".into(),
        GuestKernel::Known { name } => line(name),
        GuestKernel::Unknown { reason } => format!("unknown: {}", line(reason)),
        GuestKernel::NotExamined => "not examined: the VM ended before".into(),
    }
}

/// Returns how a run ended, as one sentence.
pub(crate) fn end(outcome: &Outcome) -> String {
    match (text::end(outcome), outcome) {
        (Some(end), _) => end.words(),
        (None, Outcome::Hang) => "the guest hung, and the run ended with that".into(),
        (None, _) => "observed at one moment; the guest's run belongs to another program".into(),
    }
}

fn facts(report: &Report, hang: Option<&Hang>) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name, value: Option<String>, is_code| {
        facts.extend(value.map(|value| Fact { name, value: cut(value, MAX_LINE), is_code }));
    };
    let image = &report.image;
    add("bucket", hang.and_then(|hang| hang.bucket.as_deref()).map(line), true);
    add("signature", hang.map(|hang| line(&hang.signature)), true);
    add("certainty", hang.map(|hang| certainty(&hang.certainty)), false);
    let at = hang.filter(|hang| hang.at_ms > 0.0);
    let at = at.map(|hang| format!("{} after the tool's start", seconds(hang.at_ms)));
    add("detected", at, false);
    let recorded = report.captured_at.as_deref().map_or("not recorded".into(), line);
    add("captured at", Some(recorded), false);
    let host = Some(&report.host).filter(|host| *host != UNKNOWN_HOST);
    add("host", Some(host.map_or("not known".into(), |host| line(host))), false);
    add("source", Some(source(report.source).into()), false);
    let visit = report.visit.as_ref().map(|visit| text::visit(visit).trim_end().to_owned());
    add("attach", visit, false);
    let tool = &report.tool;
    add("tool", Some(line(&format!("{} {}", tool.name, tool.version))), false);
    add("kernel", Some(kernel(image)), false);
    add("machine", Some(text::size_of_machine(&report.machine)), false);
    let ready = report.ready_after_ms.map(|ms| format!("after {} ms", ms.max(0.0) as u64));
    add("guest ready", ready, false);
    add("end of the run", Some(end(&report.outcome)), false);
    add("image", image.path.as_deref().map(line), true);
    add("build-id", image.build_id.as_deref().map(line), true);
    add("initial RAM disk", image.initrd.as_deref().map(line), true);
    let parameters = Some(&image.command_line).filter(|parameters| !parameters.is_empty());
    add("kernel parameters", parameters.map(|parameters| line(parameters)), true);
    facts
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Live => "the VM, while it ran",
        Source::Core => "a core that the tool wrote",
        Source::Dump => "a dump that another program wrote",
        Source::Attached => "a running VM that another program started",
    }
}
