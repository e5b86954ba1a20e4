//! Runs the labelled corpus and counts what the tool gets right: `just accuracy`, and
//! `just accuracy --help` for less than all of it. Prints what docs/accuracy.md has.

#[path = "../tests/common/corpus.rs"]
mod corpus;

use std::collections::BTreeMap;
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
use nmiscope::report::Report;

/// Runs the labelled corpus: every workload at several numbers of vCPUs, and what is said of each.
#[derive(Parser)]
struct Arguments {
    /// Only these rows
    rows: Vec<String>,
    /// Numbers of vCPUs; a row that needs more is left out
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    cpus: Vec<u32>,
    /// How often each
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// How many runs at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The bound of all classes
    #[arg(long, default_value = "1s")]
    hang_after: String,
    /// How long the healthy ones run
    #[arg(long, default_value = "6s")]
    healthy: String,
    /// Busy processes beside them, per core
    #[arg(long, default_value_t = 0)]
    load: usize,
    /// Stop the healthy ones in the middle (SIGSTOP), for so long in seconds
    #[arg(long, default_value_t = 0)]
    stop: u64,
    /// The program [default: the one of this build, or that in NMISCOPE_TEST_BIN]
    #[arg(long)]
    program: Option<String>,
    /// Only the healthy rows
    #[arg(long)]
    only_healthy: bool,
    /// cargo says this to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// One run.
#[derive(Clone, Copy)]
struct Run {
    row: &'static Row,
    cpus: u32,
}

/// What came of one.
struct Ended {
    run: Run,
    found: String,
    faults: Vec<String>,
    text: String,
    /// From the bound's expiry to the verdict, of the time that the tool saw.
    delay: Option<Duration>,
    signature: Option<String>,
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
        counts.map(move |cpus| Run { row, cpus })
    };
    let once: Vec<Run> = ROWS.iter().filter(|row| is_wanted(row)).flat_map(cpus).collect();
    let runs: Vec<Run> = (0..arguments.repeat).flat_map(|_| once.iter().copied()).collect();
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = Load::start(arguments.load * cores);
    let started = Instant::now();
    let ended = run_all(&runs, &arguments);
    drop(load);
    print!("{}", told(&ended, started.elapsed()));
    if ended.iter().all(|ended| ended.faults.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Several at a time, in the order of `runs`.
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
    let bound = format!("lock-wait={}", arguments.hang_after);
    let mut command = Command::new(program(arguments));
    command
        .args(["run", "--serial", "none", "--cpus", &run.cpus.to_string()])
        .args(["--workload", run.row.name, "--hang-after", &arguments.hang_after])
        .args(["--hang-after", &bound, "--json"])
        .arg(&json)
        // One that is not found ends too.
        .args(["--stop-after", if healthy { &arguments.healthy } else { "60s" }])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if run.row.expected().name() == "boot-stall" {
        command.args(["--ready-within", "2s"]);
    }
    let child = command.spawn().expect("start the program");
    if healthy && arguments.stop > 0 {
        stop_for_a_while(child.id(), Duration::from_secs(arguments.stop));
    }
    let output = child.wait_with_output().expect("the program ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match read(&json) {
        Err(reason) => {
            let (found, faults) = ("nothing".into(), vec![reason]);
            Ended { run, found, faults, text, delay: None, signature: None }
        }
        Ok(report) => {
            let found = corpus::found(&report).map_or_else(|| "other".into(), Expected::name);
            let faults = corpus::faults(run.row, &report, run.cpus);
            let delay = delay(&report, &arguments.hang_after);
            let signature = report.hangs.first().map(|hang| hang.signature.clone());
            Ended { run, found, faults, text, delay, signature }
        }
    }
}

fn program(arguments: &Arguments) -> String {
    let given = arguments.program.clone().or_else(|| std::env::var("NMISCOPE_TEST_BIN").ok());
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_nmiscope").into())
}

fn read(json: &Path) -> Result<Report, String> {
    let bytes = fs::read(json).map_err(|error| format!("no report: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("no report: {error}"))
}

/// How much older than its bound a hang was when it was found.
fn delay(report: &Report, bound: &str) -> Option<Duration> {
    let hang = report.hangs.first().filter(|hang| hang.class.name() != "boot-stall")?;
    let bound = humantime::parse_duration(bound).ok()?;
    Some(Duration::from_secs_f64(hang.lasted_ms / 1000.0).saturating_sub(bound))
}

fn stop_for_a_while(process: u32, duration: Duration) {
    use rustix::process::{Pid, Signal, kill_process};
    let process = Pid::from_raw(process as i32).expect("a process");
    thread::sleep(Duration::from_secs(1));
    // One that has ended already was found to be wrong.
    let _ = kill_process(process, Signal::STOP);
    thread::sleep(duration);
    let _ = kill_process(process, Signal::CONT);
}

/// Processes that keep the cores busy, until dropped.
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

fn told(ended: &[Ended], took: Duration) -> String {
    let mut text = String::new();
    let right = ended.iter().filter(|ended| ended.faults.is_empty()).count();
    let _ = writeln!(text, "{right} of {} runs right, in {:.0} s", ended.len(), took.as_secs_f64());
    let delays: Vec<Duration> = ended.iter().filter_map(|ended| ended.delay).collect();
    if let Some(longest) = delays.iter().max() {
        let mean = delays.iter().sum::<Duration>() / delays.len() as u32;
        let _ = writeln!(
            text,
            "\nFrom the bound's expiry to the verdict, in the own time of who hangs: {:.0} ms on \
             average, {:.0} ms at most.",
            mean.as_secs_f64() * 1000.0,
            longest.as_secs_f64() * 1000.0
        );
    }
    text.push_str(&signatures(ended));
    text.push_str(&matrix(ended));
    for wrong in ended.iter().filter(|ended| !ended.faults.is_empty()) {
        let Run { row, cpus } = wrong.run;
        let _ = writeln!(text, "\n### {}, {cpus} vCPUs: {}\n", row.name, wrong.faults.join("; "));
        let _ = writeln!(text, "```\n{}```", wrong.text);
    }
    text
}

/// How many rows had the same signature in every run.
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

/// Rows are what is, columns what was said.
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
