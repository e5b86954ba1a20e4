//! Time, memory and size of a report's page beside its JSON, for 64 vCPUs and 1,000 tasks. Each row runs in a
//! process of its own, so that its memory is measured alone.
//!
//! `cargo bench --package nmiscope-report --bench page`

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use nmiscope_report::html::{self, Sources};
use nmiscope_report::{Report, json};

#[path = "../tests/common/large_report.rs"]
#[allow(dead_code, reason = "a module of the tests")]
mod large_report;

/// Repetitions, of which the shortest counts.
const TIMES: usize = 50;

/// The most that a page may cost beside the JSON, and its largest size.
const MOST_TIME: Duration = Duration::from_millis(20);
const MOST_KIB: u64 = 10 << 10;
const MOST_BYTES: usize = 300_000;

fn render(form: &str, report: &Report) -> String {
    match form {
        "json" => json::text(report).expect("JSON"),
        "html" => html::report(report, &Sources::default()),
        _ => String::new(),
    }
}

/// Renders a form once and prints the peak memory of this process in KiB, then measures time and size.
fn measure(form: &str) {
    let report = large_report::large_report();
    // Sets the peak to what is used now (Linux, Documentation/filesystems/proc.rst).
    std::fs::write("/proc/self/clear_refs", "5").expect("to reset the peak memory");
    let before = peak_kib();
    let bytes = black_box(render(form, &report)).len();
    let memory = peak_kib() - before;
    let times = (0..TIMES).map(|_| {
        let started = Instant::now();
        black_box(render(form, &report));
        started.elapsed()
    });
    let shortest = times.min().expect("fifty of them");
    println!("{} {memory} {bytes}", shortest.as_nanos());
}

/// Returns the peak memory of this process in KiB, as the kernel counts it.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak memory");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

fn run(form: &str) -> (Duration, u64, usize) {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).env("NMISCOPE_BENCH_FORM", form).output().expect("itself");
    let text = String::from_utf8(output.stdout).expect("text");
    let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    (Duration::from_nanos(numbers[0]), numbers[1], numbers[2] as usize)
}

fn main() {
    if let Ok(form) = std::env::var("NMISCOPE_BENCH_FORM") {
        measure(&form);
        return;
    }
    let (json_time, json_kib, json_bytes) = run("json");
    let (time, kib, bytes) = run("html");
    println!("| 64 vCPUs, 1,000 tasks | time | memory | size |\n|---|---|---|---|");
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("| JSON | {:.1} ms | {json_kib} KiB | {} KB |", ms(json_time), json_bytes / 1000);
    println!("| page | {:.1} ms | {kib} KiB | {} KB |", ms(time), bytes / 1000);
    let is_within = time < json_time + MOST_TIME && kib < json_kib + MOST_KIB && bytes < MOST_BYTES;
    println!(
        "\nwithin 20 ms and 10 MiB more than the JSON, and 300 KB: {}",
        ["no", "yes"][usize::from(is_within)]
    );
    assert!(is_within, "a page costs too much");
}
