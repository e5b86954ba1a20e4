//! What watching costs while nothing is wrong: the same healthy guest with hang detection on and
//! off, in turn, and the tool's own CPU time and the guest's exits for each.
//!
//! The tool's own time is that of every thread but the vCPUs', read from `/proc`. Needs `/dev/kvm`.

use std::fs;
use std::time::{Duration, Instant};

use nmiscope::hang::Bounds;
use nmiscope::images::{Access, DEBUG_DIRECTORY, Files};
use nmiscope::session::{self, Options, Policy, Sink};

const SECONDS: u64 = 10;
const VCPUS: u32 = 2;

/// CPU time of this process's threads that are no vCPU's.
fn own_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        if name.starts_with("vcpu") {
            return None;
        }
        let statistics = fs::read_to_string(task.path().join("schedstat")).ok()?;
        statistics.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Runs the guest; returns the share of a core that the tool took, and the guest's exits.
fn run(hang_after: Option<Duration>) -> (f64, u64) {
    let options = Options {
        image: None,
        command_line: "workload=busy".into(),
        vcpus: VCPUS,
        memory_bytes: 64 << 20,
        bounds: Bounds::new(hang_after),
        policy: Policy { report: true, kill: true },
        nmi_after: None,
        stop_after: Some(Duration::from_secs(SECONDS)),
        nmi_timeout: None,
        serial: Sink::None,
        terminal_input: false,
        debug_directory: DEBUG_DIRECTORY.into(),
        variables: false,
        core: None,
    };
    let files = Files::open(None, Access::Read).expect("the bundled guest");
    let started = Instant::now();
    let mut ready = None;
    let mut exits = 0;
    session::run(files, &options, started, |event| match event {
        session::Event::Ready { .. } => ready = Some((Instant::now(), own_time())),
        session::Event::Stopping { exits: counts } => exits = counts.total(),
        _ => {}
    })
    .expect("the VM runs");
    let (since, at_ready) = ready.expect("the guest gets ready");
    let own = own_time().saturating_sub(at_ready);
    (own.as_secs_f64() / since.elapsed().as_secs_f64(), exits)
}

fn main() {
    println!("| hang detection | the tool's share of a core | the guest's exits in {SECONDS} s |");
    println!("|---|---|---|");
    for round in 0..2 {
        for (name, hang_after) in [("off", None), ("on", Some(Duration::from_secs(2)))] {
            let (share, exits) = run(hang_after);
            println!("| {name}, round {round} | {:.3} % | {exits} |", share * 100.0);
        }
    }
}
