//! The process of one VM: `nmiscope run`, started apart so that no failure of it can reach another VM or
//! the farm.
//!
//! Owns the command line and the names of the files that the process leaves; refuses to own their
//! judgement (`examine`). Called by the runner.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::suite::SuiteVm;

/// File of the guest's console output.
pub const CONSOLE: &str = "console.log";
/// File of the JSON report.
pub const REPORT: &str = "report.json";
/// File of the report as text.
pub const TEXT: &str = "report.txt";
/// File of the report as a page.
pub const HTML: &str = "report.html";
/// File of the core, written on a hang or a crash.
pub const CORE: &str = "hang.core";
/// File of the process's own messages.
pub const STDERR: &str = "stderr.log";

/// The farm's handle on a VM's process. The owner of the [`Child`] waits for it: first for its guest, by the
/// line that is its standard output (`line`), then for the process.
#[derive(Debug)]
pub struct VmProcess {
    pidfd: OwnedFd,
    started: Instant,
    overdue_at: Instant,
    grace: Duration,
}

impl VmProcess {
    /// Starts a VM with `program`, which is this program's own file, in `directory`, which receives its
    /// files. `options` are further options of its `run`. After its time limit the process has `grace` to
    /// write its report.
    ///
    /// # Errors
    /// Fails if the process cannot be created.
    pub fn start(
        program: &Path,
        options: &[String],
        vm: &SuiteVm,
        directory: &Path,
        stderr: File,
        grace: Duration,
    ) -> anyhow::Result<(Self, Child)> {
        let mut command = Command::new(program);
        command.args(run_arguments(vm)).args(options).current_dir(directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // Ctrl-C is for the farm, which ends its VMs with signals of its own.
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
        Ok((Self { pidfd, started, overdue_at: started + vm.time_limit + grace, grace }, child))
    }

    /// Asks the process to report its guest's state and to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills the process at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // Sending fails only if the process has already ended.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Returns the time at which the process started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the time that the process has to write its report, after its time limit or a request to end.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Returns the time by which the process should have ended, even if its guest hangs.
    pub fn overdue_at(&self) -> Instant {
        self.overdue_at
    }
}

/// Creates the files that must exist before the VM starts, so that a full disk is noticed in time. Returns
/// the file for its standard error.
///
/// # Errors
/// Fails if a file cannot be created.
pub fn make_files(directory: &Path) -> anyhow::Result<File> {
    let failed = |file: &str| format!("failed to make {}", directory.join(file).display());
    let create = |file: &str| File::create(directory.join(file)).with_context(|| failed(file));
    create(CONSOLE)?;
    create(STDERR)
}

/// Converts an exit status to a signal or an exit code.
pub fn process_end(status: io::Result<ExitStatus>) -> super::judge::ProcessEnd {
    use super::judge::ProcessEnd;
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => ProcessEnd::Signal(signal),
            (None, code) => ProcessEnd::Code(code.unwrap_or(-1)),
        },
        // Only another waiter for the same process could cause this, and there is none.
        Err(_) => ProcessEnd::Code(-1),
    }
}

/// Builds the arguments of `nmiscope run` for a VM.
fn run_arguments(vm: &SuiteVm) -> Vec<String> {
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
