//! Cost of hang detection while nothing hangs: the same healthy guest with detection off and on, in turn,
//! with the tool's own CPU time and the guest's exits for each. Medians of a few rounds.
//!
//! The tool's own time is the CPU time of every thread but the vCPUs', read from `/proc`, over a span that
//! begins when the guest has long been up: the cost of finding a kernel's structures, once, has a column of
//! its own. Needs `/dev/kvm`, and `cc` for guests with an unknown kernel.

#[path = "common/own_time.rs"]
mod own_time;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nmiscope::hang::Bounds;
use nmiscope::images::{Access, DEBUG_DIRECTORY, DebugSearch, Files};
use nmiscope::session::{self, Policy, RunOptions, Sink};
use nmiscope_report::Outcome;
use own_time::own_time;

const ROUNDS: usize = 3;
/// Time from the start of a run to the beginning of the measured span.
const BEFORE: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);

/// Name of the measuring thread, whose own CPU time is left out.
const METER: &str = "meter";

/// A healthy guest of the comparison.
struct Guest {
    name: &'static str,
    vcpus: u32,
    image: Option<PathBuf>,
}

impl Guest {
    fn bundled(name: &'static str, vcpus: u32) -> Self {
        Self { name, vcpus, image: None }
    }

    /// Builds a kernel of `tests/fixtures`, unknown to the tool, which starts only one of its vCPUs.
    fn foreign(name: &'static str, does: &str, folder: &Path) -> Self {
        let image = folder.join(does);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign.S");
        let status = Command::new("cc")
            .args(["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x200000", "-Wl,-Tdata=0x210000"])
            .args([&format!("-D{does}"), "-o"])
            .args([&image, &source])
            .status()
            .expect("start cc");
        assert!(status.success(), "cc {}", source.display());
        Self { name, vcpus: 2, image: Some(image) }
    }
}

/// The cost of a run.
struct Cost {
    /// The tool's own CPU time before the measured span; `measured` is that within it.
    before: Duration,
    measured: Duration,
    /// The number of the guest's exits in the whole run.
    exits: u64,
}

/// Runs a guest and measures its cost.
fn run(guest: &Guest, hang_after: Option<Duration>) -> Cost {
    let options = RunOptions {
        image: guest.image.clone(),
        initrd: None,
        command_line: format!("workload={}", guest.name),
        vcpus: guest.vcpus,
        memory_bytes: 64 << 20,
        bounds: Bounds::new(hang_after),
        policy: Policy { report: true, kill: true },
        nmi_after: None,
        stop_after: Some(BEFORE + MEASURED + Duration::from_millis(500)),
        time_limit: None,
        nmi_timeout: None,
        serial: Sink::None,
        terminal_input: false,
        lost_by_second_signal: None,
        general_bound: None,
        text: None,
        debug: DebugSearch::in_directories(&[DEBUG_DIRECTORY.into()]),
        variables: false,
        core: None,
    };
    let files = Files::open(guest.image.as_deref(), Access::Read).expect("an image");
    let (started, at_start) = (Instant::now(), own_time("self", Some(METER)));
    let meter = thread::Builder::new().name(METER.into()).spawn(move || {
        let own_time_at = |at: Duration| {
            thread::sleep(at.saturating_sub(started.elapsed()));
            own_time("self", Some(METER)).saturating_sub(at_start)
        };
        (own_time_at(BEFORE), own_time_at(BEFORE + MEASURED))
    });
    let mut exits = 0;
    let ended = session::run(files, &options, started, |event| {
        if let session::RunEvent::Stopping { exits: counts } = event {
            exits = counts.total();
        }
    });
    let outcome = ended.expect("the VM runs").report.outcome;
    assert!(matches!(outcome, Outcome::Stopped { .. }), "{}: {outcome:?}", guest.name);
    let (before, after) = meter.expect("a thread").join().expect("/proc can be read");
    Cost { before, measured: after.saturating_sub(before), exits }
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Prints a row: each number with detection off and on, and their difference.
fn compare(guest: &Guest) {
    // In turn, so that other load on the machine affects both.
    let round = |_| (run(guest, None), run(guest, Some(Bounds::DEFAULT)));
    let (off, on): (Vec<_>, Vec<_>) = (0..ROUNDS).map(round).unzip();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let before = |costs: &[Cost]| milliseconds(median(costs.iter().map(|cost| cost.before)));
    let share = |costs: &[Cost]| {
        let time = median(costs.iter().map(|cost| cost.measured));
        time.as_secs_f64() / MEASURED.as_secs_f64() * 100.0
    };
    let exits = |costs: &[Cost]| median(costs.iter().map(|cost| cost.exits));
    println!(
        "| {} | {} | {:.3} % | {:.3} % | **{:.3} %** | {:.1} ms | {} | {} |",
        guest.name,
        guest.vcpus,
        share(&off),
        share(&on),
        share(&on) - share(&off),
        before(&on) - before(&off),
        exits(&off),
        exits(&on),
    );
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    println!(
        "| guest | vCPUs | share of a core, off | on | detection | once | exits, off | on |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for vcpus in [1, 2, 8] {
        compare(&Guest::bundled("busy", vcpus));
    }
    for name in ["idle", "tasks"] {
        compare(&Guest::bundled(name, 2));
    }
    for (name, does) in [
        ("unknown kernel, idles", "IDLES"),
        ("unknown kernel, computes", "SPINS_WITH_INTERRUPTS_ON"),
        // The host counts nothing that shows its state: it is stopped and examined at every sample.
        ("unknown kernel, without interrupts", "PRINTS_WITH_INTERRUPTS_OFF"),
    ] {
        compare(&Guest::foreign(name, does, folder.path()));
    }
}
