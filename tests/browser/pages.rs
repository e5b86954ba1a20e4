//! The pages that are tested: of reports of every class of hangs, stored and of VMs that run now, of a large
//! guest, and of hostile text. Each is made once.

use std::sync::OnceLock;

use clap::ValueEnum as _;
use nmiscope_report::html::{self, Sources};
use nmiscope_report::{Class, Report};

use super::hostile::{HOSTILE, with_text_everywhere};
use crate::common::large_report::large_report;
use crate::common::*;
use crate::foreign_guest::foreign;

/// A page, and the report that it is about.
pub struct Page {
    pub name: String,
    pub report: Report,
    pub html: String,
}

impl Page {
    /// Makes the page of a report.
    pub fn of(name: &str, report: Report) -> Self {
        let html = html::report(&report, &Sources::default());
        Self { name: name.to_owned(), report, html }
    }
}

/// Returns a report as the program prints it.
pub fn printed(report: &Report) -> String {
    let json = serde_json::to_vec(report).expect("JSON");
    let finished = nmiscope(["report", REPORT]).with_file(REPORT, &json).run();
    assert!(!finished.stdout.is_empty(), "{}", finished.all());
    finished.stdout
}

/// Stored reports of the corpus.
const STORED: [(&str, &str); 10] = [
    ("abba-deadlock", include_str!("../offline/cores/abba-deadlock.json")),
    ("corrupt-stack", include_str!("../offline/cores/corrupt-stack.json")),
    ("halt-irqs-off", include_str!("../offline/cores/halt-irqs-off.json")),
    ("ipi-wait", include_str!("../offline/cores/ipi-wait.json")),
    ("mutex-deadlock", include_str!("../offline/cores/mutex-deadlock.json")),
    ("nmi-stuck", include_str!("../offline/cores/nmi-stuck.json")),
    ("null-deref", include_str!("../offline/cores/null-deref.json")),
    ("dump", include_str!("../offline/dumps/mutex-deadlock.json")),
    ("linux-softlockup", include_str!("../offline/linux/61/softlockup.json")),
    ("linux-rwsem", include_str!("../offline/linux/61/rwsem.json")),
];

/// Workloads whose ends no stored report has, with their arguments.
const LIVE: [(&str, &[&str]); 7] = [
    ("spin-irqs-on", &["--hang-after", "300ms", "--locals"]),
    ("forgotten-unlock", &["--hang-after", "300ms"]),
    ("livelock", &["--hang-after", "300ms"]),
    ("lost-wakeup", &["--hang-after", "sleepers=300ms"]),
    ("boot-stall", &["--ready-within", "1s"]),
    ("triple-fault", &[]),
    ("idle", &["--nmi-after", "1s", "--stop-after", "2s"]),
];

/// Returns the page of a name.
pub fn page(name: &str) -> &'static Page {
    all().iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no page {name}"))
}

/// Returns all pages. Every class of hangs is among them.
pub fn all() -> &'static [Page] {
    static PAGES: OnceLock<Vec<Page>> = OnceLock::new();
    PAGES.get_or_init(|| {
        let reports = [stored(), live(), made()].concat();
        for class in Class::value_variants() {
            let has_it = |report: &Report| report.hangs.iter().any(|hang| hang.class == *class);
            assert!(reports.iter().any(|(_, report)| has_it(report)), "no page of {class}");
        }
        reports.into_iter().map(|(name, report)| Page::of(name, report)).collect()
    })
}

type Named = (&'static str, Report);

fn stored() -> Vec<Named> {
    STORED.map(|(name, json)| (name, serde_json::from_str(json).expect("a report"))).to_vec()
}

fn live() -> Vec<Named> {
    let silent = foreign("SPINS_WITH_INTERRUPTS_ON", &[]).start();
    let runs = LIVE.map(|(workload, arguments)| {
        let run = run_workload(workload, 2).args(["--serial", "none"]).args(arguments);
        (workload, run.start())
    });
    let runs = runs.into_iter().chain([("silent", silent)]);
    runs.map(|(name, running)| (name, running.wait().report())).collect()
}

fn made() -> Vec<Named> {
    let abba: Report = serde_json::from_str(STORED[0].1).expect("a report");
    vec![("large", large_report()), ("hostile", with_text_everywhere(&abba, HOSTILE))]
}
