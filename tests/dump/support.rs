//! The stored dumps, and the comparable parts of a stopped guest.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use nmiscope::capture::{StoppedGuest, Timeouts};
use nmiscope::elf_core::ElfCore;
use nmiscope::images::{Access, DebugSearch, Files};
use nmiscope::kernel::{self, KernelState, LockKind, Site, TaskRunState, Wait, WaitFor};
use nmiscope::session::StackChoice;
use nmiscope::session::offline::{Stored, report};
use nmiscope::targets::{Dump, Target};
use nmiscope_machine::VcpuState;
use nmiscope_report::{Backtrace, Frame, HostStack, Report};

use crate::common::frame_functions;
use crate::offline::directory;

pub const DUMPS: [&str; 3] = ["abba-deadlock", "mutex-deadlock", "null-deref"];

pub fn image() -> PathBuf {
    directory().join("guest.elf")
}

/// Returns the bytes of a stored dump, uncompressed.
pub fn dump(name: &str) -> Vec<u8> {
    let file = fs::File::open(directory().join(format!("dumps/{name}.elf.gz"))).expect("a dump");
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).expect("a dump of tests/offline");
    bytes
}

/// Makes the report of a dump in memory, with the library.
pub fn report_of(bytes: Vec<u8>, image: Option<&Path>) -> anyhow::Result<Report> {
    let images = Vec::from_iter(image.map(Path::to_owned));
    report(
        &Stored::from_bytes(bytes, "some.dump"),
        &images,
        &DebugSearch::in_directories(&["/nonexistent".into()]),
        StackChoice::default(),
    )
}

/// Returns the states of a dump's vCPUs, by number.
pub fn states(bytes: &[u8]) -> Vec<VcpuState> {
    let dump = Dump::from_elf(ElfCore::parse(bytes).expect("a core")).expect("a dump");
    let states = dump.states(&Vec::from_iter(0..dump.vcpus()), Duration::ZERO);
    states.into_iter().map(|state| state.expect("a state")).collect()
}

/// A kernel's state without times and counters, which differ between any two runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Doing {
    panicking: Option<u32>,
    cpus: Vec<Option<Cpu>>,
    tasks: Vec<Option<Task>>,
    locks: BTreeMap<u64, Lock>,
}

type Waits = (WaitFor, Site);
/// State of a CPU: online, the task that runs there, and the wait in which the CPU spins.
type Cpu = (bool, Option<u32>, Option<Waits>);
/// State of a task: name, CPU, state, and the wait in which the task sleeps.
type Task = (String, u32, TaskRunState, Option<Waits>);
/// State of a lock: kind, holder, and the place where it was taken.
type Lock = (LockKind, Option<u32>, Site);

impl From<&KernelState> for Doing {
    fn from(state: &KernelState) -> Self {
        let waits = |wait: &Option<Wait>| wait.as_ref().map(|wait| (wait.what, wait.at.clone()));
        Self {
            panicking: state.panicking,
            cpus: Vec::from_iter(
                state
                    .cpus
                    .iter()
                    .map(|cpu| cpu.as_ref().map(|cpu| (cpu.online, cpu.task, waits(&cpu.wait)))),
            ),
            tasks: Vec::from_iter(state.tasks.iter().map(|task| {
                let task = task.as_ref()?;
                Some((task.name.clone(), task.cpu, task.state, waits(&task.wait)))
            })),
            locks: state
                .locks
                .iter()
                .map(|(&at, lock)| (at, (lock.kind, lock.holder, lock.taken_at.clone())))
                .collect(),
        }
    }
}

/// Returns the state of a stopped guest's kernel.
pub fn doing(dump: Dump<'_>, image: &Path) -> Doing {
    try_doing(dump, image).expect("a state of the kernel")
}

/// Returns the state of a kernel that may still be booting; `None` before it can be read.
pub fn try_doing(mut dump: Dump<'_>, image: &Path) -> Option<Doing> {
    let files = Files::open(Some(image), Access::Read).expect("the image");
    let kernel = kernel::recognise(&files.parse().expect("an image"));
    let bounds = Timeouts::for_vcpus(dump.vcpus());
    let stopped = StoppedGuest::stop(&mut dump, &*kernel, None, bounds);
    stopped.kernel.known().map(Doing::from)
}

/// Returns the functions of all stacks, of vCPUs and then of tasks. Each frame gives only its outermost
/// function: the inlined one in which a loop is stopped differs between runs.
pub fn stacks(backtrace: &Backtrace) -> Vec<Vec<String>> {
    let outermost = |frame: &Frame| match frame_functions(frame).pop() {
        Some(name) => name,
        None => frame.symbol.as_ref().map_or_else(String::new, |symbol| symbol.name.clone()),
    };
    let functions = |look: Option<&HostStack>| {
        let stack = look.map_or_else(Vec::new, |look| look.frames.iter().map(outermost).collect());
        without_interrupt(stack)
    };
    let cpus = backtrace.cpus.iter().map(|cpu| functions(cpu.host_stack.as_ref()));
    cpus.chain(backtrace.tasks.iter().map(|task| functions(task.host_stack.as_ref()))).collect()
}

/// Returns a stack without the interrupt that was being handled, such as a timer's, which may come at any
/// moment. An exception stays: its handler panics.
fn without_interrupt(stack: Vec<String>) -> Vec<String> {
    let entry = stack.iter().position(|name| name == "trap_common");
    let is_interrupt = |at: &usize| !stack[..*at].iter().any(|name| name.contains("panic"));
    match entry.filter(is_interrupt) {
        Some(at) => stack[at + 1..].to_vec(),
        None => stack,
    }
}

/// Returns the texts of the kernel's log without values of registers, which come from clocks.
pub fn log(backtrace: &Backtrace) -> Vec<&str> {
    let log = backtrace.log.as_ref().expect("a log");
    let texts = log.lines.iter().map(|line| line.text.as_str());
    texts.filter(|text| !(text.starts_with('R') && text[1..].contains(": "))).collect()
}
