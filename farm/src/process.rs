//! One VM: `nmiscope run` as a process of its own, so that nothing that happens to it can touch
//! another one, or the farm.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::suite::Vm;

/// The console, as the guest prints it.
pub const CONSOLE: &str = "console.log";
/// The report.
pub const REPORT: &str = "report.json";
/// The core of a hang, or of a crash.
pub const CORE: &str = "hang.core";
/// What the process itself has to say.
pub const STDERR: &str = "stderr.log";

/// How long after its time limit a VM's process may take to say how it went.
const EXIT_GRACE: Duration = Duration::from_secs(15);

/// A VM's process, as far as it is in the farm's hands. Whoever has the [`Child`] waits for it: first
/// for its standard output to end, which says that the guest is over, then for the process.
#[derive(Debug)]
pub struct VmProcess {
    pidfd: OwnedFd,
    started: Instant,
    overdue_at: Instant,
}

impl VmProcess {
    /// Starts a VM: `program` is this one, and its files go to `directory`.
    ///
    /// # Errors
    /// The process could not be made.
    pub fn start(
        program: &Path,
        vm: &Vm,
        directory: &Path,
        stderr: File,
    ) -> anyhow::Result<(Self, Child)> {
        let mut command = Command::new(program);
        command.args(run_arguments(vm)).current_dir(directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // Ctrl-C is for the farm, which ends its VMs in its own way.
        command.process_group(0);
        let started = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(error).context("failed to watch a VM's process");
            }
        };
        Ok((Self { pidfd, started, overdue_at: started + vm.time_limit + EXIT_GRACE }, child))
    }

    /// Asks it to say where its guest is, and to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // One that has ended needs none.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When it should have ended by itself, whatever its guest does.
    pub fn overdue_at(&self) -> Instant {
        self.overdue_at
    }
}

/// Makes the files of a VM that are there before it is, so that a disk that is full is noticed by then.
/// Returns the one for its standard error.
///
/// # Errors
/// One could not be made.
pub fn make_files(directory: &Path) -> anyhow::Result<File> {
    let failed = |file: &str| format!("failed to make {}", directory.join(file).display());
    let create = |file: &str| File::create(directory.join(file)).with_context(|| failed(file));
    create(CONSOLE)?;
    create(STDERR)
}

/// Waits until a VM's guest is over, and its process has only to clean up and to write down how it went.
pub fn wait_for_guest(child: &mut Child) {
    if let Some(mut stdout) = child.stdout.take() {
        // There is nothing on it. However it ends, it has ended.
        let _ = io::copy(&mut stdout, &mut io::sink());
    }
}

/// How a process ended: by a signal, or with a code.
pub fn process_end(status: io::Result<ExitStatus>) -> super::judge::ProcessEnd {
    use super::judge::ProcessEnd;
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => ProcessEnd::Signal(signal),
            (None, code) => ProcessEnd::Code(code.unwrap_or(-1)),
        },
        // Nobody else waits for it: this does not happen.
        Err(_) => ProcessEnd::Code(-1),
    }
}

/// What `nmiscope` is told.
fn run_arguments(vm: &Vm) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["run".into()];
    if let Some(image) = &vm.image {
        arguments.push(image.display().to_string());
    }
    let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
    let mut option = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    if let Some(initrd) = &vm.initrd {
        option("initrd", initrd.display().to_string());
    }
    if let Some(workload) = &vm.workload {
        option("workload", workload.clone());
    }
    option("append", vm.append.clone());
    option("cpus", vm.cpus.to_string());
    option("memory", vm.memory.to_string());
    option("time-limit", milliseconds(vm.time_limit));
    if let Some(after) = vm.stop_after {
        option("stop-after", milliseconds(after));
    }
    option("ready-within", milliseconds(vm.ready_within));
    for bound in &vm.hang_after {
        option("hang-after", bound.clone());
    }
    option("hang-policy", "report,core,kill".into());
    option("serial", CONSOLE.into());
    option("json", REPORT.into());
    option("core", CORE.into());
    option("die-with", std::process::id().to_string());
    arguments.push("--quiet".into());
    arguments
}
