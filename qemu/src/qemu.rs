//! A running QEMU.
//!
//! Owns the order of a visit: find the monitor and the process, ask whether the VM may be captured, stop
//! it, and let it go on whatever happens. Refuses to own what its parts do (`qmp`, `status`,
//! `registers`, `memory_map`, `process_memory`, `find`, `hold`) and what a capture is.

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

/// Why something could not be had of a QEMU. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// The QMP connection or a command on it failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// No monitor was found, or no process.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The process may not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The VM may not be captured.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The registers are not understood.
    #[error(transparent)]
    Registers(#[from] RegistersError),
    /// The guest's memory is not found.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The guest's memory may not be read.
    #[error(transparent)]
    Memory(#[from] ProcessMemoryError),
    /// There is no guardian, and nothing was stopped.
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    /// The sockets of a process are other processes' by now.
    #[error(
        "find the monitor of process {pid}: process {peer} listens on {address}: was the socket \
         taken over by a later QEMU?"
    )]
    AnotherPeer {
        /// The process that was asked for.
        pid: i32,
        /// The process that listens.
        peer: i32,
        /// The address of the socket.
        address: Address,
    },
    /// `stop` was not answered in time. It is carried out when QEMU comes to it, and the guardian lets
    /// the guest go on right after.
    #[error(
        "stop the VM within {waited:?}: QEMU waits for its disks, or is stuck; process {guardian} \
         lets the guest go on as soon as QEMU answers"
    )]
    StopUnanswered {
        /// The time that `stop` had.
        waited: Duration,
        /// The number of the guardian's process.
        guardian: u32,
    },
}

/// A running QEMU, by its monitor and its process. Nothing is stopped by having one.
#[derive(Debug)]
pub struct Qemu {
    monitor: Rc<SharedMonitor>,
    /// `None` for a process of another PID namespace.
    process: Option<ProcessHandle>,
    deadlines: Deadlines,
}

impl Qemu {
    /// The QEMU whose monitor is at `address`. Its process is the one that listens there, if it can be
    /// seen from here.
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

    /// The QEMU that is the process `pid` and has its monitor at `address`, for a socket on which another
    /// process listened before it was QEMU's, as libvirt does. That both belong together shows in
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

    /// The QEMU that is the process of that number, by the first of its monitors that is free.
    ///
    /// # Errors
    /// As [`open`](Self::open), of the last monitor that was tried; [`QemuError::AnotherPeer`].
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

    /// The process; `None` where it is in another PID namespace.
    pub fn process(&self) -> Option<&ProcessHandle> {
        self.process.as_ref()
    }

    /// The connection, for commands that this crate has no method for. Memory of this QEMU may be read
    /// through the same connection: drop the guard before that.
    pub fn qmp(&mut self) -> RefMut<'_, Qmp> {
        self.monitor.qmp()
    }

    /// The run state of the VM.
    ///
    /// # Errors
    /// [`QemuError::Qmp`].
    pub fn run_state(&mut self) -> Result<RunState, QemuError> {
        Ok(status::run_state(&mut self.monitor.qmp(), self.deadlines.command)?)
    }

    /// Readiness for a capture. A VM that something else works on, or whose memory is encrypted, is
    /// refused.
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

    /// The accelerator, for people; nothing depends on it.
    ///
    /// # Errors
    /// [`QemuError::Qmp`].
    pub fn accelerator(&mut self) -> Result<Accelerator, QemuError> {
        Ok(status::accelerator(&mut self.monitor.qmp(), self.deadlines.command)?)
    }

    /// The number of vCPUs. Where a CPU was unplugged, numbers of later ones are not below it.
    ///
    /// # Errors
    /// [`QemuError::Qmp`].
    pub fn vcpus(&mut self) -> Result<u32, QemuError> {
        Ok(status::vcpus(&mut self.monitor.qmp(), self.deadlines.command)?)
    }

    /// The registers of every vCPU. Of a running VM they are of one moment each, at most some
    /// microseconds apart; each vCPU stops for as long as its own are read.
    ///
    /// # Errors
    /// [`QemuError::Qmp`] or [`QemuError::Registers`].
    pub fn states(&mut self) -> Result<Vec<VcpuRegisters>, QemuError> {
        let text = self.monitor.qmp().execute_hmp("info registers -a", self.deadlines.command)?;
        Ok(registers::parse(&text)?)
    }

    /// The guest's memory as it lies in the process now, or by way of the monitor where that process may
    /// not be read. Make it before a stop: it takes a dozen commands, and it stays right until memory is
    /// plugged or, below 1 MiB, until firmware is done.
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

    /// The guest's memory by way of the monitor. See [`memory`](Self::memory), which prefers the process.
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

    /// Stops the VM, unless it is stopped already. `guardian` is a command that leads to
    /// [`hold::run`]; it is not started for a VM that is stopped already. Have [`states`](Self::states) and
    /// [`memory`](Self::memory) first: they need no stop, and can still be had when this fails.
    ///
    /// A VM that stops by itself between the query and `stop`, because its guest panics for one, is
    /// left as it is. A client that stops it in that moment cannot be told from this one.
    ///
    /// # Errors
    /// [`QemuError::Status`] or [`QemuError::Guardian`]: nothing was stopped. [`QemuError::StopUnanswered`]: the connection was
    /// left to the guardian, and every later command on it fails. [`QemuError::Qmp`]: `stop` was refused, or
    /// QEMU has ended.
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

    /// The error of a `stop` that failed. Unless QEMU said itself that nothing was stopped, the
    /// guardian sees to it.
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

/// A VM that stands still. Dropped, it goes on if it was running before.
#[derive(Debug)]
pub struct StoppedVm<'a> {
    qemu: &'a mut Qemu,
    /// There is one exactly while the VM has to be let go on.
    guardian: Option<Guardian>,
    state: RunState,
    since: Instant,
}

/// The outcome of letting a VM go on.
#[derive(Debug)]
pub enum ReleaseOutcome {
    /// It runs again.
    Resumed {
        /// The time from before `stop` was sent until `cont` was answered.
        pause: Duration,
        /// True when the guardian let it go on before, since the pause was longer than
        /// [`Deadlines::pause`]: what was read late was read of a running VM.
        expired: bool,
    },
    /// It had been stopped before, or stopped by itself, and was left so.
    LeftStopped,
    /// `cont` failed or was not answered; the guardian goes on with it. Every later command on the
    /// connection fails.
    HandedOver {
        /// The number of the guardian's process.
        guardian: u32,
        /// The error of `cont`.
        error: QmpError,
    },
}

impl StoppedVm<'_> {
    /// The run state: [`RunState::Paused`] for a VM that this stopped.
    pub fn run_state(&self) -> &RunState {
        &self.state
    }

    /// True when this stopped the VM and has to let it go on.
    pub fn must_resume(&self) -> bool {
        self.guardian.is_some()
    }

    /// The time since before `stop` was sent.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The QEMU, for its registers. Do not send `cont` by it.
    pub fn qemu(&mut self) -> &mut Qemu {
        self.qemu
    }

    /// Lets the VM go on if it was running before, and says how that went.
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
            tracing::warn!(guardian, %error, "the guest is let go on by its guardian");
        }
    }
}
