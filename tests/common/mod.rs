//! Helpers of the end-to-end tests: they run the program in a directory of its own and under a deadline, and
//! check its report against the committed schema whenever it is read.
//!
//! Refuses to read the source tree, so that the tests' binaries run on another machine too, where
//! `NMISCOPE_TEST_BIN` is the program's path.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nmiscope_report::{Backtrace, BufferReservation, Cpu, Frame, Hang, NmiAnswer, Report};
use nmiscope_symbolizer::short_name;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub mod corpus;
pub mod frozen;
pub mod image;
pub mod large_report;
pub mod llvm;
pub mod page;
pub mod promises;
pub mod vm;

/// Documented exit codes, as in the help and in src/cli/exit_code.rs.
pub mod exit {
    pub const CLEAN: i32 = 0;
    pub const GUEST_FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const HANG: i32 = 3;
    pub const CRASH: i32 = 4;
    pub const TOOL_FAILED: i32 = 5;
}

/// Deadline of a run, longer than any takes on a loaded machine: a later one has hung.
const DEADLINE: Duration = Duration::from_secs(300);

/// File name of the report that [`Invocation::with_report`] asks for.
pub const REPORT: &str = "report.json";

/// Fails without KVM: a live test that did not run must not pass.
pub fn require_kvm() {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        panic!("this test runs a virtual machine, and /dev/kvm cannot be opened: {error}");
    }
}

/// Returns the path of the program under test.
pub fn binary() -> PathBuf {
    std::env::var_os("NMISCOPE_TEST_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_nmiscope").into(), PathBuf::from)
}

/// A run of the program that has not started yet.
pub struct Invocation {
    pub command: Command,
    pub directory: TempDir,
    deadline: Duration,
}

/// Prepares a run of nmiscope in an empty directory of its own, with empty standard input.
pub fn nmiscope<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Invocation {
    program(Command::new(binary()), arguments)
}

/// Prepares `nmiscope run` with a workload and a number of vCPUs, and with its report in a file.
pub fn run_workload(workload: &str, cpus: u32) -> Invocation {
    require_kvm();
    nmiscope(["run", "--workload", workload, "--cpus", &cpus.to_string()]).with_report()
}

/// Prepares a run of any program under the same conditions.
pub fn program<I: AsRef<OsStr>>(
    mut command: Command,
    arguments: impl IntoIterator<Item = I>,
) -> Invocation {
    let directory = tempfile::tempdir().expect("a temporary directory");
    command
        .args(arguments)
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "DEBUGINFOD_URLS"] {
        command.env_remove(variable);
    }
    Invocation { command, directory, deadline: DEADLINE }
}

impl Invocation {
    /// Adds arguments to the command line.
    pub fn args<I: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = I>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Adds one argument to the command line.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Has the report written to [`REPORT`], where [`Finished::report`] reads it.
    pub fn with_report(self) -> Self {
        self.args(["--json", REPORT])
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Writes a file into the program's directory.
    pub fn with_file(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.directory.path().join(name), bytes).expect("a file");
        self
    }

    /// Starts the program, and captures its output.
    pub fn start(mut self) -> Running {
        let shown = format!("{:?}", self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        Running {
            stdout: child.stdout.take().map(Captured::new),
            stderr: child.stderr.take().map(Captured::new),
            directory: self.directory,
            deadline: Instant::now() + self.deadline,
            shown,
            child,
        }
    }

    /// Runs the program to its end.
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Runs the program to its end, with `input` on its standard input.
    pub fn run_with_input(mut self, input: &[u8]) -> Finished {
        self.command.stdin(Stdio::piped());
        let mut running = self.start();
        let mut stdin = running.child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let writer = thread::spawn(move || {
            // An error is ignored: a program need not read all of its input.
            let _ = stdin.write_all(&input);
        });
        let finished = running.wait();
        writer.join().expect("the writer");
        finished
    }
}

/// A running program and its captured output.
pub struct Running {
    pub child: Child,
    pub directory: TempDir,
    stdout: Option<Captured>,
    stderr: Option<Captured>,
    deadline: Instant,
    shown: String,
}

impl Running {
    /// Waits until standard output has `text` for the `count`th time.
    pub fn wait_for(&self, text: &str, count: usize) {
        let stdout = self.stdout.as_ref().expect("a pipe");
        if !stdout.wait_for(text, count, self.deadline) {
            self.kill();
            panic!("{}: no {count} times {text:?} in\n{}", self.shown, self.output());
        }
    }

    /// Waits until standard error is as wanted.
    pub fn wait_for_error(&self, is_wanted: impl Fn(&str) -> bool) {
        let stderr = self.stderr.as_ref().expect("a pipe");
        if !stderr.wait_until(is_wanted, self.deadline) {
            self.kill();
            panic!("{}: not as wanted:\n{}", self.shown, self.output());
        }
    }

    /// Waits for the guest to be ready, lets it run for `time`, takes a backtrace, lets it run for `time`
    /// again, and stops it. A guest that exits earlier is waited for.
    pub fn look_amid(self, time: Duration) -> Finished {
        let stdout = self.stdout.as_ref().expect("a pipe");
        if stdout.wait_for("guest ready", 1, self.deadline) {
            thread::sleep(time);
            self.signal(Signal::USR1);
            if stdout.wait_for("backtrace requested by SIGUSR1", 1, self.deadline) {
                thread::sleep(time);
                self.signal(Signal::INT);
            }
        }
        self.wait()
    }

    /// Sends a signal to this process only.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process runs");
    }

    /// Waits for the program's end. Fails after the deadline.
    pub fn wait(self) -> Finished {
        let Self { mut child, directory, stdout, stderr, deadline, shown } = self;
        let pid = Pid::from_child(&child);
        let (sender, ended) = mpsc::channel();
        let waiter = thread::spawn(move || sender.send(child.wait()));
        let status = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        if status.is_err() {
            // The waiter has not reaped the process, so the number is still valid.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = waiter.join();
        let stdout = stdout.map(Captured::into_text).unwrap_or_default();
        let stderr = stderr.map(Captured::into_text).unwrap_or_default();
        match status {
            Ok(status) => {
                let status = status.expect("a child can be waited for");
                Finished { stdout, stderr, status, directory, shown }
            }
            Err(_) => panic!("{shown} did not end in time\nstdout:\n{stdout}\nstderr:\n{stderr}"),
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Kills this process, and no other of its group.
    pub fn kill(&self) {
        let _ = kill_process(self.pid(), Signal::KILL);
    }

    fn output(&self) -> String {
        let show =
            |captured: &Option<Captured>| captured.as_ref().map(Captured::text).unwrap_or_default();
        format!("stdout:\n{}\nstderr:\n{}", show(&self.stdout), show(&self.stderr))
    }
}

/// Output of a process so far.
struct Captured {
    shared: Arc<(Mutex<Output>, Condvar)>,
    reader: thread::JoinHandle<()>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    ended: bool,
}

impl Captured {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::<(Mutex<Output>, Condvar)>::default();
        let theirs = shared.clone();
        let reader = thread::spawn(move || {
            let (output, changed) = &*theirs;
            let mut bytes = [0; 4096];
            loop {
                let count = pipe.read(&mut bytes).unwrap_or(0);
                let mut output = output.lock().expect("the output");
                output.bytes.extend_from_slice(&bytes[..count]);
                output.ended = count == 0;
                changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { shared, reader }
    }

    fn wait_for(&self, text: &str, count: usize, deadline: Instant) -> bool {
        self.wait_until(|output| output.matches(text).count() >= count, deadline)
    }

    fn wait_until(&self, is_wanted: impl Fn(&str) -> bool, deadline: Instant) -> bool {
        let (output, changed) = &*self.shared;
        let mut output = output.lock().expect("the output");
        loop {
            if is_wanted(&String::from_utf8_lossy(&output.bytes)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if output.ended || left.is_zero() {
                return false;
            }
            output = changed.wait_timeout(output, left).expect("the output").0;
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.0.lock().expect("the output").bytes).into_owned()
    }

    fn into_text(self) -> String {
        self.reader.join().expect("the reader");
        let output = self.shared.0.lock().expect("the output");
        String::from_utf8_lossy(&output.bytes).into_owned()
    }
}

/// A program that has ended, and its output.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub directory: TempDir,
    shown: String,
}

impl Finished {
    /// Returns the exit code. Fails if the program panicked or a signal ended it.
    pub fn code(&self) -> i32 {
        assert!(!self.stderr.contains("panicked at"), "a panic: {}", self.all());
        assert_eq!(self.status.signal(), None, "killed: {}", self.all());
        self.status.code().expect("an exit code")
    }

    /// Asserts the exit code, and prints the output if it differs.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{}", self.all());
        self
    }

    /// Returns the report in [`REPORT`], checked against the schema.
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_in(REPORT)
    }

    /// Returns the report in a file of the program's directory, checked against the schema.
    #[track_caller]
    pub fn report_in(&self, file: &str) -> Report {
        parse_report(&self.text_of(file))
    }

    /// Returns the text of a file in the program's directory.
    #[track_caller]
    pub fn text_of(&self, file: &str) -> String {
        let path = self.directory.path().join(file);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("no text in {file} ({error}): {}", self.all()))
    }

    /// Returns the names of files in the program's directory, sorted.
    pub fn files(&self) -> Vec<String> {
        files(self.directory.path())
    }

    /// Returns the command, its exit status and its output, for messages.
    pub fn all(&self) -> String {
        let Self { shown, status, stdout, stderr, .. } = self;
        format!("{shown}: {status}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

/// Returns the names of files in a directory, sorted.
pub fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Parses a report, and checks it against the schema and for consistency.
#[track_caller]
pub fn parse_report(text: &str) -> Report {
    let value: serde_json::Value = serde_json::from_str(text).expect("the report is JSON");
    if let Err(error) = schema().validate(&value) {
        panic!("the report is not what the schema says: {error} at {}", error.instance_path());
    }
    let report: Report = serde_json::from_value(value).expect("the report is a report");
    for backtrace in &report.backtraces {
        check_account(&report, backtrace);
    }
    report
}

fn schema() -> &'static jsonschema::Validator {
    static VALIDATOR: OnceLock<jsonschema::Validator> = OnceLock::new();
    VALIDATOR.get_or_init(|| {
        let schema = include_str!("../../docs/report.schema.json");
        let schema = serde_json::from_str(schema).expect("the schema is JSON");
        jsonschema::validator_for(&schema).expect("the schema is a schema")
    })
}

/// Asserts that a backtrace has every vCPU once, and that its counts are correct.
#[track_caller]
fn check_account(report: &Report, backtrace: &Backtrace) {
    let numbers: Vec<u32> = backtrace.cpus.iter().map(|cpu| cpu.cpu).collect();
    let all: Vec<u32> = (0..report.machine.vcpus).collect();
    assert_eq!(numbers, all, "each vCPU once, in order");
    let sent = backtrace.cpus.iter().filter(|cpu| cpu.nmi.sent).count();
    let answered = backtrace.cpus.iter().filter(|cpu| answered(cpu)).count();
    assert_eq!(backtrace.nmi_sent as usize, sent, "nmi_sent counts the NMIs");
    assert_eq!(backtrace.nmi_answered as usize, answered, "nmi_answered counts the answers");
    let mut grouped: Vec<u32> = backtrace.groups.iter().flatten().copied().collect();
    grouped.sort_unstable();
    assert_eq!(grouped, all, "each vCPU is in one group");
    let alone = matches!(backtrace.reservation, BufferReservation::Held { .. });
    for cpu in &backtrace.cpus {
        check_cpu(cpu, alone);
    }
}

/// Asserts that the parts of one vCPU's report are consistent.
#[track_caller]
fn check_cpu(cpu: &Cpu, alone: bool) {
    let nmi = &cpu.nmi;
    if answered(cpu) {
        assert!(nmi.sent && nmi.delivered == Some(true), "cpu{}: {nmi:?}", cpu.cpu);
        assert!(
            cpu.guest_trace.as_ref().is_some_and(|word| word.current),
            "cpu{}: {nmi:?}",
            cpu.cpu
        );
    }
    if nmi.handler_finished {
        assert_eq!(nmi.delivered, Some(true), "cpu{}: {nmi:?}", cpu.cpu);
        // Another NMI may be pending if a client inside the guest sends some too.
        assert!(!alone || !nmi.pending_after, "cpu{}: {nmi:?}", cpu.cpu);
    }
    if let NmiAnswer::NoAnswer { reason } = &nmi.answer {
        assert!(!reason.is_empty(), "cpu{}: no answer needs a reason", cpu.cpu);
    }
    if let (Some(look), Some(registers)) = (&cpu.host_stack, &cpu.registers) {
        let first = look.frames.first().expect("the first frame is where it stands");
        assert_eq!((&first.address, first.interrupted), (&registers.rip, true));
        assert!(!look.end.is_empty());
    }
}

/// Asserts a refusal: exit code 2, one line that contains `wanted`, no guest, and no new file.
#[track_caller]
pub fn refused(invocation: Invocation, wanted: &str) {
    let before = files(invocation.directory.path());
    let finished = invocation.run().expect_code(exit::USAGE);
    let all = finished.all();
    assert!(finished.stderr.starts_with("error: "), "{all}");
    assert_eq!(finished.stderr.lines().count(), 1, "{all}");
    assert!(finished.stderr.contains(wanted), "{wanted:?} is to be in {all}");
    assert_eq!(finished.stdout, "", "{all}");
    assert_eq!(finished.files(), before, "{all}");
}

/// Returns true if the vCPU has answered this NMI.
pub fn answered(cpu: &Cpu) -> bool {
    cpu.nmi.answer == NmiAnswer::Answered
}

/// Returns the reason why the vCPU has not answered its NMI.
#[track_caller]
pub fn no_answer(cpu: &Cpu) -> &str {
    match &cpu.nmi.answer {
        NmiAnswer::NoAnswer { reason } => reason,
        NmiAnswer::Answered => panic!("cpu{} has answered: {:?}", cpu.cpu, cpu.nmi),
    }
}

/// Returns the short names of the functions in the guest's own trace, innermost first, with inlined ones,
/// without frames that the guest marks as unreliable.
pub fn functions(cpu: &Cpu) -> Vec<String> {
    let frames =
        cpu.guest_trace.iter().flat_map(|word| &word.frames).filter(|frame| frame.reliable);
    frames.flat_map(frame_functions).collect()
}

/// Returns the short names of the functions in the host's stack, innermost first, with inlined ones.
pub fn seen_functions(cpu: &Cpu) -> Vec<String> {
    cpu.host_stack.iter().flat_map(|look| &look.frames).flat_map(frame_functions).collect()
}

/// Returns the short names of a frame's functions.
pub fn frame_functions(frame: &Frame) -> Vec<String> {
    let names = frame.functions.iter().filter_map(|function| function.name.as_deref());
    names.map(|name| short_name(name).to_owned()).collect()
}

/// Returns true if `found` has the names `wanted` in this order, with any others in between. `a|b` stands
/// for either name.
pub fn is_subsequence(wanted: &[&str], found: &[String]) -> bool {
    let mut found = found.iter();
    wanted.iter().all(|wanted| found.any(|name| wanted.split('|').any(|wanted| name == wanted)))
}

/// Returns the only hang of a report.
#[track_caller]
pub fn only_hang(report: &Report) -> &Hang {
    assert_eq!(report.hangs.len(), 1, "{:#?}", report.hangs);
    &report.hangs[0]
}

/// Asserts that the output has no control character except line feed and tab, whatever the guest printed.
#[track_caller]
pub fn harmless(finished: &Finished) {
    let dangerous = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!finished.stdout.contains(dangerous), "{:?}", finished.stdout);
    assert!(!finished.stderr.contains(dangerous), "{:?}", finished.stderr);
}
