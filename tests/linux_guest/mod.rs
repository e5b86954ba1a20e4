//! `nmiscope attach` and `nmiscope report` of a Linux guest that QEMU runs: Debian's kernel as it is, with KASLR, without a
//! vmlinux and without a debug package. The guest's own console is the second opinion.
//!
//! The guest is made by `tests/linux_guest/kernel.sh`. The environment variable NMISCOPE_LINUX names a directory with
//! another kernel, such as `target/linux/trixie`.

mod console;
mod cores;
mod lines;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nmiscope_qemu::{Address, Deadlines, Qmp};
use nmiscope_report::{Frame, GuestKernel, Outcome, Report, Task, TaskState};
use serde_json::json;

use crate::common::*;

/// Longest time that a test waits for the guest: it boots under TCG, in 10 s on an idle host.
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns the directory of the guest's kernel and initial RAM disk.
fn directory() -> PathBuf {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/linux");
    std::env::var_os("NMISCOPE_LINUX").map_or_else(own, PathBuf::from)
}

/// Returns the vmlinux of the guest's kernel with its debug information: `vmlinux` beside `vmlinuz`, or the file
/// that NMISCOPE_VMLINUX names. Debian has it in `linux-image-*-dbg`.
fn vmlinux() -> PathBuf {
    let path = std::env::var_os("NMISCOPE_VMLINUX")
        .map_or_else(|| directory().join("vmlinux"), PathBuf::from);
    assert!(path.exists(), "no {}: set NMISCOPE_VMLINUX", path.display());
    path
}

/// A QEMU with the Linux guest. Dropping it kills QEMU.
struct LinuxVm {
    running: Option<Running>,
}

impl LinuxVm {
    fn start(scenario: &str) -> Self {
        let directory = directory();
        let kernel = directory.join("vmlinuz");
        assert!(kernel.exists(), "no {}: run tests/linux_guest/kernel.sh", kernel.display());
        let parameters =
            format!("console=ttyS0 loglevel=8 no_timer_check printk.time=1 scenario={scenario}");
        let qemu = program(Command::new("qemu-system-x86_64"), ["-accel", "tcg", "-cpu", "max"])
            .args(["-M", "q35", "-m", "256", "-smp", "2", "-append", &parameters])
            .args(["-kernel", &kernel.display().to_string()])
            .args(["-initrd", &directory.join("initrd").display().to_string()])
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-serial", "file:console", "-qmp", "unix:qmp,server=on,wait=off"])
            .args(["-qmp", "unix:second,server=on,wait=off"]);
        Self { running: Some(qemu.deadline(2 * PATIENCE).start()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.running.as_ref().expect("a QEMU").directory.path().join(name)
    }

    /// Waits for a text on the console, and returns all of it.
    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let console = std::fs::read(self.path("console")).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).replace('\r', "");
            if console.contains(text) {
                return console;
            }
            assert!(Instant::now() < end, "no {text:?} within {PATIENCE:?} in\n{console}");
            sleep(Duration::from_millis(100));
        }
    }

    fn attach(&self) -> Finished {
        let qmp = self.path("qmp").display().to_string();
        nmiscope(["attach", "--qmp", &qmp, "--max-pause", "60s"]).with_report().run()
    }

    /// Makes the report of a dump that QEMU writes, with these arguments.
    fn report_of_dump(&self, arguments: &[&str]) -> Finished {
        let address = Address::Path(self.path("second"));
        let mut qmp = Qmp::connect(&address, &Deadlines::default()).expect("a monitor");
        let dump = self.path("dump");
        let protocol = format!("file:{}", dump.display());
        // QEMU leaves a file that may only be read.
        let _ = std::fs::remove_file(&dump);
        let how = json!({ "paging": false, "protocol": protocol });
        qmp.execute_with("dump-guest-memory", &how, PATIENCE).expect("a dump");
        let invocation = nmiscope(["report", &dump.display().to_string()]).args(arguments);
        invocation.with_report().run()
    }
}

impl Drop for LinuxVm {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
            running.wait();
        }
    }
}

fn names(frames: &[Frame]) -> Vec<&str> {
    let functions = frames.iter().flat_map(|frame| &frame.functions);
    functions.filter_map(|function| function.name.as_deref()).collect()
}

/// Returns the functions of the panicking CPU's stack.
fn panicking_stack(report: &Report) -> Vec<String> {
    let Outcome::Observed { panicking: Some(cpu), .. } = report.outcome else {
        panic!("no panic: {:?}", report.outcome);
    };
    let cpu = &report.backtraces[0].cpus[cpu as usize];
    let stack = cpu.host_stack.as_ref().expect("a stack");
    assert!(stack.complete, "{stack:?}");
    names(&stack.frames).into_iter().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn panic_of_linux_has_the_stack_that_its_console_shows() {
    let vm = LinuxVm::start("crash");
    let console = vm.wait_for("end Kernel panic");
    let attached = vm.attach().expect_code(exit::CRASH);
    let report = attached.report();
    let GuestKernel::Known { name } = &report.image.kernel else {
        panic!("{:?}", report.image.kernel);
    };
    // The banner: a panic's lines may come into the middle of what a process prints.
    let (_, banner) = console.split_once("Linux version ").expect("a banner");
    let release = banner.split(' ').next().expect("a release");
    assert!(name.starts_with(&format!("Linux {release} ")), "{name}");
    // The kernel prints its offset at a panic.
    let (_, offset) = console.split_once("Kernel Offset: ").expect("an offset");
    let offset = offset.split(' ').next().expect("an offset");
    assert!(name.contains(&format!("(KASLR {offset}, ")), "{name}: {offset}");
    let Outcome::Observed { message, .. } = &report.outcome else { panic!("observed") };
    assert_eq!(message.as_deref(), Some("sysrq triggered crash"));
    // The kernel prints its trace in panic, below what the vCPU executes now.
    let stack = panicking_stack(&report);
    let trace = console::last_trace(&console);
    fn below_panic(stack: &[String]) -> Vec<&String> {
        stack.iter().skip_while(|name| !name.starts_with("sysrq_handle_crash")).collect()
    }
    let shown = below_panic(&trace);
    assert!(shown.len() > 5, "{trace:?}");
    assert_eq!(below_panic(&stack), shown);
    let log = report.backtraces[0].log.as_ref().expect("a log");
    let last = log.lines.last().expect("a line");
    assert!(last.text.contains("end Kernel panic"), "{last:?}");
    assert!(log.lines.iter().all(|line| console.contains(line.text.trim_end())), "{log:?}");
    let dumped = vm.report_of_dump(&[]).expect_code(exit::CRASH).report();
    // The CPU waits in panic, and blinks, until it is dumped.
    assert_eq!(below_panic(&panicking_stack(&dumped)), shown);
}

/// Returns the stacks of a report's blocked tasks by their names.
fn blocked_stacks(report: &Report) -> console::TaskStacks {
    let blocked = report.backtraces[0].tasks.iter().filter(|task| task.state == TaskState::Blocked);
    let stack = |task: &Task| {
        let stack = task.host_stack.as_ref().expect("a stack");
        assert!(stack.complete, "{task:?}");
        names(&stack.frames).into_iter().map(str::to_owned).collect()
    };
    blocked.map(|task| (task.name.clone(), stack(task))).collect()
}

/// Lets a guest hang, and compares the stacks of its tasks that are blocked in a function, given by the end of its
/// name, with those that sysrq-w printed, in an attach and in a dump. Other blocked tasks may go on meanwhile.
#[track_caller]
fn expect_blocked(scenario: &str, function: &str, count: usize) {
    let vm = LinuxVm::start(scenario);
    let console = vm.wait_for("test: ready");
    let in_function = |stacks: console::TaskStacks| {
        let is_in = |stack: &[String]| stack.iter().any(|name| name.ends_with(function));
        stacks.into_iter().filter(|(_, stack)| is_in(stack)).collect::<BTreeMap<_, _>>()
    };
    let shown = in_function(console::task_stacks(&console));
    assert_eq!(shown.len(), count, "{console}");
    let report = vm.attach().report();
    assert_eq!(in_function(blocked_stacks(&report)), shown);
    let dumped = vm.report_of_dump(&[]).report();
    assert_eq!(in_function(blocked_stacks(&dumped)), shown);
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn tasks_behind_a_mutex_have_the_stacks_that_sysrq_shows() {
    expect_blocked("mutex", "pipe_read", 3);
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn tasks_behind_a_semaphore_have_the_stacks_that_sysrq_shows() {
    expect_blocked("rwsem", "rwsem_down_write_slowpath", 3);
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn task_behind_a_starved_thread_has_the_stack_that_sysrq_shows() {
    expect_blocked("hotplug", "_cpu_down", 1);
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn idle_linux_has_the_tasks_that_it_counts_itself() {
    let vm = LinuxVm::start("idle");
    let console = vm.wait_for("test: ready");
    let (_, counted) = console.split_once("test: ").expect("a count");
    let counted: i64 =
        counted.split(' ').next().and_then(|count| count.parse().ok()).expect("a count");
    let report = vm.attach().expect_code(exit::CLEAN).report();
    let backtrace = &report.backtraces[0];
    let found = i64::from(backtrace.sleeping_tasks) + backtrace.tasks.len() as i64;
    // Threads that work for others, and the shell that counted, come and go.
    assert!((found - counted).abs() <= 6, "{found} tasks, and the guest counts {counted}");
    for cpu in &backtrace.cpus {
        let stack = cpu.host_stack.as_ref().expect("a stack");
        assert!(stack.complete, "{stack:?}");
    }
    assert!(report.hangs.is_empty(), "{:?}", report.hangs);
}
