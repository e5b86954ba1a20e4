//! The labelled corpus: every workload's verdict against its label. Run by `just accuracy`, or with `just
//! accuracy --help` for a part of it. Prints the tables of docs/accuracy.md.

#[path = "../tests/common/corpus.rs"]
mod corpus;
#[path = "common/enough.rs"]
mod enough;
#[path = "common/meter.rs"]
mod meter;
#[path = "common/own_time.rs"]
mod own_time;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use corpus::{Expected, ROWS, Row};
use meter::{Delay, Seen};
use nmiscope_report::Report;

/// Run the labelled corpus, every workload at several numbers of vCPUs, and count the right verdicts.
#[derive(Parser)]
struct Arguments {
    /// Run only these rows
    rows: Vec<String>,
    /// Run each row with these numbers of vCPUs, if it has enough of them
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    cpus: Vec<u32>,
    /// Run each row this many times
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Run this many VMs at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Report a hang after this long without progress, for every class
    #[arg(long, default_value = "1s")]
    hang_after: String,
    /// Report a hang whose waiters all sleep after this long: longer than any healthy row sleeps
    #[arg(long, default_value = "6s")]
    sleepers: String,
    /// Run the healthy rows for this long, and until each vCPU has had three times its bound of own time
    #[arg(long, default_value = "6s")]
    healthy: String,
    /// Keep this many busy processes per core beside the runs
    #[arg(long, default_value_t = 0)]
    load: usize,
    /// Stop each healthy run in the middle with SIGSTOP, for this many seconds
    #[arg(long, default_value_t = 0)]
    stop: u64,
    /// Run this program [default: the one of this build, or that in NMISCOPE_TEST_BIN]
    #[arg(long)]
    program: Option<String>,
    /// Run only the healthy rows
    #[arg(long)]
    only_healthy: bool,
    /// Accept the flag that cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A run of a row at a number of vCPUs.
#[derive(Clone, Copy)]
struct Run {
    row: &'static Row,
    cpus: u32,
    /// False for a run without hang detection, which measures its cost.
    detection: bool,
}

/// The result of a run, with its faults.
struct Ended {
    run: Run,
    found: String,
    faults: Vec<String>,
    text: String,
    delay: Option<Delay>,
    /// The tool's own CPU time as a share of a core; `None` if it was not measured.
    share: Option<f64>,
    signature: Option<String>,
    /// The least own time of a healthy run's vCPUs, as a multiple of the bound; `None` if it was not measured.
    bounds_passed: Option<f64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_wanted = |row: &Row| {
        let named =
            arguments.rows.is_empty() || arguments.rows.iter().any(|wanted| wanted == row.name);
        named && (row.expected() == Expected::Healthy || !arguments.only_healthy)
    };
    let cpus = |row: &'static Row| {
        let counts = arguments.cpus.iter().copied().filter(|&cpus| cpus >= row.min_cpus());
        counts.map(move |cpus| Run { row, cpus, detection: true })
    };
    let mut once: Vec<Run> = ROWS.iter().filter(|row| is_wanted(row)).flat_map(cpus).collect();
    if arguments.load == 0 && arguments.stop == 0 {
        once.extend(without_detection(&once));
    }
    let runs: Vec<Run> = (0..arguments.repeat).flat_map(|_| once.iter().copied()).collect();
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = Load::start(arguments.load * cores);
    let started = Instant::now();
    let ended = run_all(&runs, &arguments);
    drop(load);
    print!("{}", summary(&ended, started.elapsed()));
    if ended.iter().all(|ended| ended.faults.is_empty() && !ended.is_late()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The healthy rows at the largest number of vCPUs, without hang detection.
fn without_detection(runs: &[Run]) -> Vec<Run> {
    let most = runs.iter().map(|run| run.cpus).max();
    let compared = |run: &&Run| run.row.expected() == Expected::Healthy && Some(run.cpus) == most;
    runs.iter().filter(compared).map(|&run| Run { detection: false, ..run }).collect()
}

/// Runs several at a time; returns their results in the order of `runs`.
fn run_all(runs: &[Run], arguments: &Arguments) -> Vec<Ended> {
    let next = AtomicUsize::new(0);
    let (sender, ended) = mpsc::channel();
    let progress = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let (next, sender, progress) = (&next, sender.clone(), &progress);
            scope.spawn(move || {
                while let Some((index, run)) = Some(next.fetch_add(1, Relaxed))
                    .and_then(|index| Some((index, runs.get(index)?)))
                {
                    let ended = run_one(*run, arguments);
                    let mut done = progress.lock().unwrap_or_else(PoisonError::into_inner);
                    *done += 1;
                    let verdict = if ended.faults.is_empty() { "right" } else { "WRONG" };
                    eprintln!(
                        "{done}/{}  {verdict}  {}/{}  {}",
                        runs.len(),
                        run.row.name,
                        run.cpus,
                        ended.faults.join("; ")
                    );
                    let _ = sender.send((index, ended));
                }
            });
        }
    });
    drop(sender);
    let by_index: BTreeMap<usize, Ended> = ended.into_iter().collect();
    by_index.into_values().collect()
}

fn run_one(run: Run, arguments: &Arguments) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    let healthy = run.row.expected() == Expected::Healthy;
    let duration = |text: &str| humantime::parse_duration(text).expect("a duration, as in 6s");
    let (bound, runs_for) = (duration(&arguments.hang_after), duration(&arguments.healthy));
    let sleepers = duration(&arguments.sleepers);
    // The critical section ends just before the bound.
    let section = format!("section_ms={}", bound.as_millis() * 17 / 20);
    let mut command = Command::new(program(arguments));
    command
        .args(["run", "--serial", "none", "--cpus", &run.cpus.to_string()])
        .args(["--workload", run.row.name, "--append", &section])
        .args(["--hang-after", if run.detection { &arguments.hang_after } else { "0" }])
        .args(["--hang-after", &format!("sleepers={}", bound_of_sleepers(run, arguments))])
        .arg("--json")
        .arg(&json)
        // A run whose hang is not detected ends too, and so does one whose vCPUs get no time.
        .args(["--stop-after", if healthy { "15m" } else { "60s" }])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if run.row.expected().name() == "boot-stall" {
        command.args(["--ready-within", "2s"]);
    }
    let mut child = command.spawn().expect("start the program");
    let passed = healthy.then(|| {
        let stopped = Duration::from_secs(arguments.stop);
        if arguments.stop > 0 {
            stop_for_a_while(child.id(), stopped);
        }
        let bound = if run.row.sleeps() { sleepers } else { bound };
        enough::end_after(child.id(), runs_for + stopped, bound * 3, stopped, bound)
    });
    let Seen { text, delay, share } =
        meter::watch(&mut child, bound, runs_for.saturating_sub(Duration::from_millis(500)));
    child.wait().expect("the program ends");
    let bounds_passed = passed.map(|passed| passed.join().expect("/proc can be read"));
    let share = share.filter(|_| healthy && arguments.stop == 0);
    match read(&json) {
        Err(reason) => {
            let (found, faults) = ("nothing".into(), vec![reason]);
            let (signature, bounds_passed) = (None, None);
            Ended { run, found, faults, text, delay, share, signature, bounds_passed }
        }
        Ok(report) => {
            let found = corpus::found(&report).map_or_else(|| "other".into(), Expected::name);
            let mut faults = corpus::faults(run.row, &report, run.cpus);
            if run.detection && bounds_passed.is_some_and(|passed| passed < 3.0) {
                faults.push(format!("only {bounds_passed:?} times the bound of own time"));
            }
            // If the guest hangs later, or its vCPUs share the cores with each other, the time at which the
            // verdict was due is not known from outside.
            let delay = delay.filter(|_| hangs_at_once(&report, bound));
            let signature = report.hangs.first().map(|hang| hang.signature.clone());
            Ended { run, found, faults, text, delay, share, signature, bounds_passed }
        }
    }
}

/// The bound of sleepers in a run, as text.
fn bound_of_sleepers(run: Run, arguments: &Arguments) -> &str {
    if run.detection { &arguments.sleepers } else { "0" }
}

fn program(arguments: &Arguments) -> String {
    let given = arguments.program.clone().or_else(|| std::env::var("NMISCOPE_TEST_BIN").ok());
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_nmiscope").into())
}

fn read(json: &Path) -> Result<Report, String> {
    let bytes = fs::read(json).map_err(|error| format!("no report: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("no report: {error}"))
}

/// True if the first hang began with the ready mark and its vCPUs did not wait for a core: the tool's own
/// report puts the verdict within a few samples of the due time.
fn hangs_at_once(report: &Report, bound: Duration) -> bool {
    const LOOKS_MS: f64 = 300.0;
    let due = report.ready_after_ms.map(|ready| ready + bound.as_secs_f64() * 1e3);
    let first = report.hangs.first().zip(due);
    first.is_some_and(|(hang, due)| hang.at_ms < due + LOOKS_MS)
}

fn stop_for_a_while(process: u32, duration: Duration) {
    use rustix::process::{Pid, Signal, kill_process};
    let process = Pid::from_raw(process as i32).expect("a process");
    thread::sleep(Duration::from_secs(1));
    // A process that has ended already was reported as a fault.
    let _ = kill_process(process, Signal::STOP);
    thread::sleep(duration);
    let _ = kill_process(process, Signal::CONT);
}

/// Processes that keep the cores busy until they are dropped.
struct Load(Vec<std::process::Child>);

impl Load {
    fn start(processes: usize) -> Self {
        let busy = || {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            command.spawn().expect("a busy process")
        };
        Self((0..processes).map(|_| busy()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn summary(ended: &[Ended], took: Duration) -> String {
    let mut text = String::new();
    let right = ended.iter().filter(|ended| ended.faults.is_empty()).count();
    let _ = writeln!(text, "{right} of {} runs right, in {:.0} s", ended.len(), took.as_secs_f64());
    text.push_str(&delays(ended));
    text.push_str(&cost(ended));
    text.push_str(&own_times(ended));
    text.push_str(&signatures(ended));
    text.push_str(&matrix(ended));
    for wrong in ended.iter().filter(|ended| !ended.faults.is_empty()) {
        let Run { row, cpus, .. } = wrong.run;
        let _ = writeln!(text, "\n### {}, {cpus} vCPUs: {}\n", row.name, wrong.faults.join("; "));
        let _ = writeln!(text, "```\n{}```", wrong.text);
    }
    text
}

/// The longest that a verdict may take once it is due, in the tool's own CPU time.
const LATE: Duration = Duration::from_millis(100);

impl Ended {
    fn is_late(&self) -> bool {
        self.delay.is_some_and(|delay| delay.own > LATE)
    }
}

/// Delays of the verdicts, by the number of vCPUs.
fn delays(ended: &[Ended]) -> String {
    let cpus: BTreeSet<u32> = ended.iter().map(|ended| ended.run.cpus).collect();
    let rows: Vec<String> = cpus
        .into_iter()
        .filter_map(|cpus| {
            let runs = ended.iter().filter(|ended| ended.run.cpus == cpus);
            let delays: Vec<Delay> = runs.filter_map(|ended| ended.delay).collect();
            let columns = |time: fn(&Delay) -> Duration| {
                let sum: Duration = delays.iter().map(time).sum();
                let most = delays.iter().map(time).max()?;
                let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
                let mean = milliseconds(sum) / delays.len() as f64;
                Some(format!("{mean:.0} ms | {:.0} ms", milliseconds(most)))
            };
            let (own, wall) = (columns(|delay| delay.own)?, columns(|delay| delay.wall)?);
            Some(format!("| {cpus} | {} | {own} | {wall} |\n", delays.len()))
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\nDelay from the moment at which a verdict is due, the bound after the ready mark, to the line that \
         reports it, over the runs that hang at once and have the cores that they need. Wall time includes \
         up to 100 ms before the first sample without progress, the quarter of a second after which running \
         vCPUs are sampled again, and the second after which an NMI handler counts as unfinished.\n\n\
         | vCPUs | runs | the tool's own time, mean | most | by the wall clock, mean | most |\n\
         |---:|---:|---:|---:|---:|---:|\n{}",
        rows.concat()
    )
}

/// The tool's CPU time while nothing hangs, with and without hang detection.
fn cost(ended: &[Ended]) -> String {
    let share = |off: &Ended, detection: bool| {
        let same = |run: Run| {
            (run.row.name, run.cpus, run.detection) == (off.run.row.name, off.run.cpus, detection)
        };
        ended.iter().find(|ended| same(ended.run))?.share
    };
    let off = ended.iter().filter(|ended| !ended.run.detection);
    let pairs: Vec<(f64, f64)> =
        off.filter_map(|off| share(off, false).zip(share(off, true))).collect();
    let Some(cpus) = ended.iter().find(|ended| !ended.run.detection).map(|off| off.run.cpus) else {
        return String::new();
    };
    let mean = |which: fn(&(f64, f64)) -> f64| {
        pairs.iter().map(which).sum::<f64>() / pairs.len().max(1) as f64 * 100.0
    };
    let most = pairs.iter().map(|(off, on)| (on - off) * 100.0).fold(0.0, f64::max);
    let (off, on) = (mean(|pair| pair.0), mean(|pair| pair.1));
    format!(
        "\nWhile nothing hangs, at {cpus} vCPUs, in {} guests: with detection off the tool takes {off:.3} % of \
         a core, with detection on {on:.3} %, which is {:.3} % more; {most:.3} % in the one that costs most.\n",
        pairs.len(),
        on - off,
    )
}

/// The least time that the vCPUs of healthy runs had, by the number of vCPUs.
fn own_times(ended: &[Ended]) -> String {
    let mut least = BTreeMap::<u32, f64>::new();
    for ended in ended.iter().filter(|ended| ended.run.detection) {
        if let Some(passed) = ended.bounds_passed {
            let entry = least.entry(ended.run.cpus).or_insert(passed);
            *entry = entry.min(passed);
        }
    }
    if least.is_empty() {
        return String::new();
    }
    let rows = least.iter().map(|(cpus, passed)| format!("{passed:.1} at {cpus}"));
    format!(
        "\nIn every healthy run each vCPU had at least so many times the bound of own time, by the number of \
         vCPUs: {}.\n",
        rows.collect::<Vec<_>>().join(", ")
    )
}

/// Counts the rows that had the same signature in every run.
fn signatures(ended: &[Ended]) -> String {
    let mut by_row: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for ended in ended {
        if let Some(signature) = &ended.signature {
            *by_row.entry(ended.run.row.name).or_default().entry(signature).or_default() += 1;
        }
    }
    if by_row.is_empty() {
        return String::new();
    }
    let several = by_row.iter().filter(|(_, signatures)| signatures.len() > 1);
    let several: Vec<String> =
        several.map(|(row, signatures)| format!("{row} ({})", signatures.len())).collect();
    let same = by_row.len() - several.len();
    let others = if several.is_empty() {
        String::new()
    } else {
        format!("; more than one: {}", several.join(", "))
    };
    format!("\n{same} of {} hanging rows have one signature{others}.\n", by_row.len())
}

/// A table of labels (rows) against verdicts (columns).
fn matrix(ended: &[Ended]) -> String {
    let mut counts: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for ended in ended {
        *counts.entry((ended.run.row.expected().name(), &ended.found)).or_default() += 1;
    }
    let mut said: Vec<&str> = counts.keys().map(|(_, found)| *found).collect();
    said.sort_unstable();
    said.dedup();
    let mut is: Vec<&String> = counts.keys().map(|(expected, _)| expected).collect();
    is.dedup();
    let mut text = format!("\n| is \\ said | {} |\n", said.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(said.len()));
    for expected in is {
        let cells = said.iter().map(|found| {
            let count = counts.get(&(expected.clone(), *found));
            count.map_or_else(String::new, ToString::to_string)
        });
        let _ = writeln!(text, "| {expected} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}
