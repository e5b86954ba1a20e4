//! A handle to a running QEMU.
//!
//! Owns the order of a visit: find the monitor and the process, check that the VM may be captured, stop
//! it, and resume it whatever happens. Refuses to own the work of its parts (`qmp`, `status`,
//! `registers`, `memory_map`, `process_memory`, `find`, `hold`) and the capture. Called by the program
//! that attaches to the VM.

use std::cell::RefMut;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::find::{self, FindError};
use crate::hold::{self, Guardian, GuardianError};
use crate::memory::GuestMemory;
use crate::memory_map::{self, MapError};
use crate::monitor::SharedMonitor;
use crate::monitor_memory::MonitorMemory;
use crate::process::{ProcessError, ProcessHandle};
use crate::process_memory::{ProcessMemory, ProcessMemoryError};
use crate::qmp::{Address, Deadlines, Qmp, QmpError};
use crate::registers::{self, RegistersError, VcpuRegisters};
use crate::status::{self, Accelerator, Readiness, RunState, StatusError};

/// Error of an operation on a running QEMU. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// The QMP connection or a command on it failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The monitor of a process was not found, or the process behind a socket was not.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The process has ended, or this program may not inspect it.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The VM may not be captured in its current state.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The monitor's register text could not be parsed.
    #[error(transparent)]
    Registers(#[from] RegistersError),
    /// The layout of guest memory could not be determined.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The guest's memory was not found in QEMU's process, or may not be read there.
    #[error(transparent)]
    Memory(#[from] ProcessMemoryError),
    /// The guardian could not be started, so nothing was stopped.
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    /// Another process listens on the socket that the command line of the requested process names.
    #[error(
        "find the monitor of process {pid}: process {peer} listens on {address}: was the socket \
         taken over by a later QEMU?"
    )]
    AnotherPeer {
        /// PID of the requested process.
        pid: i32,
        /// PID of the process that listens on the socket.
        peer: i32,
        /// Address of the socket on which it listens.
        address: Address,
    },
    /// `stop` was not answered in time. QEMU still carries it out later; the guardian then resumes the
    /// guest.
    #[error(
        "stop the VM within {waited:?}: QEMU waits for its disks, or is stuck; process {guardian} \
         resumes the guest as soon as QEMU answers"
    )]
    StopUnanswered {
        /// Time allowed for the answer to `stop`.
        waited: Duration,
        /// PID of the guardian, which keeps the connection.
        guardian: u32,
    },
}

/// A running QEMU: its monitor connection and its process. Creating one does not stop the VM.
#[derive(Debug)]
pub struct Qemu {
    monitor: Rc<SharedMonitor>,
    /// The QEMU process; `None` if it is in another PID namespace.
    process: Option<ProcessHandle>,
    deadlines: Deadlines,
}

impl Qemu {
    /// Opens the QEMU whose monitor is at `address`. Its process is the one that listens there, unless
    /// that one is in another PID namespace.
    ///
    /// # Errors
    /// [`QemuError::Qmp`] or [`QemuError::Process`].
    pub fn open(address: &Address, deadlines: Deadlines) -> Result<Self, QemuError> {
        let qmp = Qmp::connect(address, &deadlines)?;
        let process = match find::peer_pid(qmp.socket()) {
            Ok(pid) => Some(ProcessHandle::open(pid)?),
            Err(_) => None,
        };
        Ok(Self::new(qmp, process, deadlines))
    }

    fn new(qmp: Qmp, process: Option<ProcessHandle>, deadlines: Deadlines) -> Self {
        Self { monitor: SharedMonitor::new(qmp), process, deadlines }
    }

    /// Opens the QEMU process `pid` with its monitor at `address`. Use this when another process, such as
    /// libvirtd, created the listening socket. A mismatch of the two is an error of
    /// [`memory`](Self::memory).
    ///
    /// # Errors
    /// [`QemuError::Qmp`] or [`QemuError::Process`].
    pub fn open_with_pid(
        address: &Address,
        pid: i32,
        deadlines: Deadlines,
    ) -> Result<Self, QemuError> {
        let process = ProcessHandle::open(pid)?;
        Ok(Self::new(Qmp::connect(address, &deadlines)?, Some(process), deadlines))
    }

    /// Opens the QEMU process `pid` through the first of its monitors that no other client holds.
    ///
    /// # Errors
    /// The error of the last monitor that was tried, as for [`open`](Self::open);
    /// [`QemuError::AnotherPeer`]; [`QemuError::Find`] for a process without a monitor.
    pub fn open_pid(pid: i32, deadlines: Deadlines) -> Result<Self, QemuError> {
        let process = ProcessHandle::open(pid)?;
        let mut last = QemuError::Find(FindError::NoMonitor(pid));
        for address in find::find_addresses(&process)? {
            match Qmp::connect(&address, &deadlines) {
                Ok(qmp) => match find::peer_pid(qmp.socket())? {
                    peer if peer == pid => return Ok(Self::new(qmp, Some(process), deadlines)),
                    peer => last = QemuError::AnotherPeer { pid, peer, address },
                },
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// The QEMU process; `None` if it is in another PID namespace.
    pub fn process(&self) -> Option<&ProcessHandle> {
        self.process.as_ref()
    }

    /// Borrows the connection, for commands that this crate has no method for. Reading guest memory may
    /// use the same connection: drop the guard first.
    pub fn qmp(&mut self) -> RefMut<'_, Qmp> {
        self.monitor.qmp()
    }

    /// Queries the run state of the VM.
    ///
    /// # Errors
    /// [`QemuError::Qmp`].
    pub fn run_state(&mut self) -> Result<RunState, QemuError> {
        Ok(status::run_state(&mut self.monitor.qmp(), self.deadlines.command)?)
    }

    /// Checks that the VM may be captured: no migration, snapshot or dump is under way, and its memory is
    /// not encrypted.
    ///
    /// # Errors
    /// [`QemuError::Status`].
    pub fn readiness(&mut self) -> Result<Readiness, QemuError> {
        let within = self.deadlines.command;
        let mut qmp = self.monitor.qmp();
        let readiness = status::readiness(&mut qmp, within)?;
        status::refuse_encrypted(&mut qmp, within)?;
        Ok(readiness)
    }

    /// Queries the accelerator. It is informational: nothing in this crate depends on it.
    ///
    /// # Errors
    /// [`QemuError::Qmp`].
    pub fn accelerator(&mut self) -> Result<Accelerator, QemuError> {
        Ok(status::accelerator(&mut self.monitor.qmp(), self.deadlines.command)?)
    }

    /// Queries the number of vCPUs. After a CPU was unplugged, numbers of the others may exceed it.
    ///
    /// # Errors
    /// [`QemuError::Qmp`].
    pub fn vcpus(&mut self) -> Result<u32, QemuError> {
        Ok(status::vcpus(&mut self.monitor.qmp(), self.deadlines.command)?)
    }

    /// Reads the registers of every vCPU. While the VM runs, each vCPU stops for the microseconds that
    /// reading its registers takes, so that different vCPUs are read at slightly different times.
    ///
    /// # Errors
    /// [`QemuError::Qmp`] or [`QemuError::Registers`].
    pub fn states(&mut self) -> Result<Vec<VcpuRegisters>, QemuError> {
        let text = self.monitor.qmp().execute_hmp("info registers -a", self.deadlines.command)?;
        Ok(registers::parse(&text)?)
    }

    /// Opens the guest's memory: from QEMU's process, or through the monitor where the process may not be
    /// read. Call this before a stop, since it sends a dozen commands. The result stays valid until memory
    /// is hot-plugged or, below 1 MiB, while firmware still changes the layout.
    ///
    /// # Errors
    /// [`QemuError::Map`] or [`QemuError::Memory`].
    pub fn memory(&mut self) -> Result<GuestMemory, QemuError> {
        let Some(process) = &self.process else { return self.monitor_memory() };
        let ranges = memory_map::query_map(&mut self.monitor.qmp(), self.deadlines.command)?;
        match ProcessMemory::open(process, ranges) {
            Ok(memory) => Ok(GuestMemory::Process(memory)),
            Err(ProcessMemoryError::Process(denied @ ProcessError::NotPermitted { .. })) => {
                tracing::debug!(%denied, "memory is read through the monitor");
                self.monitor_memory()
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the guest's memory through the monitor. Prefer [`memory`](Self::memory), which uses QEMU's
    /// process where it may.
    ///
    /// # Errors
    /// [`QemuError::Map`] or [`QemuError::Qmp`].
    pub fn monitor_memory(&mut self) -> Result<GuestMemory, QemuError> {
        let within = self.deadlines.command;
        let mut qmp = self.monitor.qmp();
        let ranges = memory_map::query_map(&mut qmp, within)?;
        let dumps = !status::has_libvirt(&mut qmp, within)?;
        drop(qmp);
        let monitor = Rc::clone(&self.monitor);
        Ok(GuestMemory::Monitor(MonitorMemory::new(monitor, ranges, dumps, within)))
    }

    /// Stops the VM, unless it is already stopped. `guardian` is a command that ends up in
    /// [`hold::run`]; it is not started for a VM that is already stopped. Call [`states`](Self::states) and
    /// [`memory`](Self::memory) first: they need no stop, and their results remain usable if this fails.
    ///
    /// A VM that stops by itself between the query and `stop`, for example because its guest panics, is
    /// left stopped. A `stop` by another client at that moment cannot be distinguished from this one.
    ///
    /// # Errors
    /// [`QemuError::Status`] or [`QemuError::Guardian`]: nothing was stopped.
    /// [`QemuError::StopUnanswered`]: the guardian took over the connection, and every later command on it
    /// fails. [`QemuError::Qmp`]: `stop` was refused, or QEMU has ended.
    pub fn stop(&mut self, guardian: Command) -> Result<StoppedVm<'_>, QemuError> {
        if let Readiness::Stopped(state) = self.readiness()? {
            self.monitor.set_vm_is_stopped(true);
            return Ok(StoppedVm { qemu: self, guardian: None, state, since: Instant::now() });
        }
        let within = self.deadlines.guardian;
        let mut guardian = hold::start(guardian, self.monitor.qmp().socket(), within)?;
        guardian.arm(self.deadlines.pause)?;
        self.monitor.qmp().take_guardian_answered();
        let since = Instant::now();
        let stopped = self.send_stop();
        self.monitor.set_vm_is_stopped(stopped.is_ok());
        match stopped {
            Ok(RunState::Paused) => Ok(StoppedVm {
                qemu: self,
                guardian: Some(guardian),
                state: RunState::Paused,
                since,
            }),
            Ok(state) => {
                guardian.dismiss();
                Ok(StoppedVm { qemu: self, guardian: None, state, since })
            }
            Err(error) => Err(self.hand_to_guardian(guardian, error)),
        }
    }

    fn send_stop(&mut self) -> Result<RunState, QmpError> {
        self.monitor.qmp().execute("stop", self.deadlines.stop)?;
        status::run_state(&mut self.monitor.qmp(), self.deadlines.stop)
    }

    /// Returns the error of a failed `stop`. The guardian takes over the connection, unless QEMU refused
    /// the command and so stopped nothing.
    fn hand_to_guardian(&mut self, guardian: Guardian, error: QmpError) -> QemuError {
        if let QmpError::Command { .. } = error {
            guardian.dismiss();
            return error.into();
        }
        let pid = guardian.pid();
        self.monitor.qmp().hand_over();
        drop(guardian);
        match error {
            QmpError::NoAnswer { waited, .. } => {
                QemuError::StopUnanswered { waited, guardian: pid }
            }
            error => error.into(),
        }
    }
}

/// A stopped VM. Dropping it resumes the VM if this visit stopped it.
#[derive(Debug)]
pub struct StoppedVm<'a> {
    qemu: &'a mut Qemu,
    /// The guardian process; present exactly while this visit has to resume the VM.
    guardian: Option<Guardian>,
    state: RunState,
    since: Instant,
}

/// Outcome of the release of a stopped VM.
#[derive(Debug)]
pub enum ReleaseOutcome {
    /// The VM was stopped by this visit, and runs again.
    Resumed {
        /// Time from just before `stop` was sent until `cont` was answered.
        pause: Duration,
        /// True if the pause exceeded [`Deadlines::pause`] and the guardian resumed the VM first: late
        /// reads then saw a running VM.
        expired: bool,
    },
    /// The VM was already stopped, or stopped by itself, and was left stopped.
    LeftStopped,
    /// `cont` failed or was not answered, and the guardian keeps trying. Every later command on the
    /// connection fails.
    HandedOver {
        /// PID of the guardian, which keeps the connection.
        guardian: u32,
        /// Error of the `cont` that this process sent.
        error: QmpError,
    },
}

impl StoppedVm<'_> {
    /// The run state: [`RunState::Paused`] if this visit stopped the VM.
    pub fn run_state(&self) -> &RunState {
        &self.state
    }

    /// True if this visit stopped the VM and has to resume it.
    pub fn must_resume(&self) -> bool {
        self.guardian.is_some()
    }

    /// Time since just before `stop` was sent; for a VM that was already stopped, since that was found.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Borrows the QEMU, for example to read registers. Do not send `cont` through it.
    pub fn qemu(&mut self) -> &mut Qemu {
        self.qemu
    }

    /// Resumes the VM if this visit stopped it, and returns the outcome.
    pub fn release(mut self) -> ReleaseOutcome {
        self.resume()
    }

    fn resume(&mut self) -> ReleaseOutcome {
        self.qemu.monitor.set_vm_is_stopped(false);
        let Some(guardian) = self.guardian.take() else { return ReleaseOutcome::LeftStopped };
        let within = self.qemu.deadlines.command;
        let answer = self.qemu.monitor.qmp().execute("cont", within);
        match answer {
            Ok(_) => {
                let pause = self.since.elapsed();
                let expired = self.qemu.monitor.qmp().take_guardian_answered();
                guardian.dismiss();
                ReleaseOutcome::Resumed { pause, expired }
            }
            Err(error) => {
                let pid = guardian.pid();
                self.qemu.monitor.qmp().hand_over();
                drop(guardian);
                ReleaseOutcome::HandedOver { guardian: pid, error }
            }
        }
    }
}

impl Drop for StoppedVm<'_> {
    fn drop(&mut self) {
        if let ReleaseOutcome::HandedOver { guardian, error } = self.resume() {
            tracing::warn!(guardian, %error, "the guardian resumes the guest");
        }
    }
}
