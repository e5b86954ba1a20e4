//! vCPUs: a thread each, and the handle through which the controlling thread commands it.
//!
//! Owns the command queue and the life of the thread; refuses to own operations on several vCPUs
//! (`world`). `setup` prepares a vCPU, `thread` runs it, `kick` gets it out of the guest, `host` has the
//! reads that need unsafe code, `state` translates KVM's structures, `apic_timer` those of the timer,
//! `thread_times` and `statistics` read what the host counts while the vCPU runs. Called by `vm`, `world` and `watch`.

mod apic_timer;
mod host;
mod kick;
mod setup;
mod state;
mod statistics;
mod thread;
mod thread_times;

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use nmiscope_machine::{NmiRun, VcpuState};
use rustix::thread::{Pid, gettid};
use vmm_sys_util::signal::Killable;

use crate::collector::Slot;
use crate::exits::{Counters, ExitCounts};
use crate::kvm::KvmError;
use host::CpuClock;
use kick::ImmediateExit;
pub(crate) use setup::set_up;
pub use state::VcpuError;
pub(crate) use statistics::StatisticsLayout;
pub use statistics::VcpuStatistics;
pub(crate) use thread::SharedState;
use thread::Vcpu;
use thread_times::ThreadFiles;

/// Stack size of a vCPU's thread in bytes. Not the usual 2 MiB: at the first touch that much can become a
/// huge page, which has to be cleared and counts as used.
const STACK: usize = 256 << 10;
pub use thread_times::{ThreadState, ThreadTimes};

/// Commands to a vCPU thread. Each answer names its vCPU.
#[derive(Debug)]
pub(crate) enum Command {
    /// Stop at the next instruction boundary, and answer with the state there.
    Pause(Slot<Answer<VcpuState>>),
    /// Run the guest until the next command that stops it.
    Resume,
    /// Answer with the vCPU's state, and continue as before.
    Read(Slot<Answer<VcpuState>>),
    /// Answer with the time-stamp counter, in cycles.
    ReadTsc(Slot<Answer<u64>>),
    /// Execute one instruction, or all up to the guest-virtual address `to`, or until a kick, and answer
    /// with the state. Only for a paused vCPU.
    Step { to: Option<u64>, answer: Slot<Answer<VcpuState>> },
    /// Run one NMI handler, for `bound` of the vCPU's own time and at most until the time `until`. Only
    /// for a paused vCPU.
    RunNmi { bound: Duration, until: Instant, answer: Slot<Answer<NmiRun>> },
    /// End the thread. The answer comes once the vCPU is closed.
    Exit(Slot<u32>),
}

/// A vCPU's answer: its number, and the value or the error of reading it.
pub(crate) type Answer<T> = (u32, Result<T, KvmError>);

/// The controlling thread's end of a vCPU.
#[derive(Debug)]
pub(crate) struct VcpuHandle {
    commands: Sender<Command>,
    immediate_exit: Arc<ImmediateExit>,
    counters: Arc<Counters>,
    clock: CpuClock,
    /// Thread id (TID), set once the thread has begun.
    thread_id: Arc<OnceLock<Pid>>,
    /// The thread's files in /proc, opened at the first use and kept if `keeps_files`.
    thread_files: OnceLock<ThreadFiles>,
    /// The file of KVM's statistics, if KVM keeps any and `keeps_files`.
    statistics: Option<File>,
    /// True if this process may have three more files open for this vCPU.
    keeps_files: bool,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Starts a thread for the vCPU `fd`, paused and named after it. `keeps_files` is true if this process
    /// may have three more files open.
    pub(crate) fn spawn(
        cpu: u32,
        fd: VcpuFd,
        shared: Arc<SharedState>,
        keeps_files: bool,
    ) -> io::Result<Self> {
        kick::install_handler()?;
        let (commands, queue) = mpsc::channel();
        let immediate_exit = Arc::new(ImmediateExit::map(&fd)?);
        let counters = Arc::new(Counters::default());
        // Before the thread has the vCPU: the ioctl would block while it runs.
        let statistics = keeps_files.then(|| host::statistics(&fd)).flatten();
        let thread_id = Arc::new(OnceLock::new());
        let vcpu = Vcpu::new(cpu, fd, shared, queue, immediate_exit.clone(), counters.clone());
        let begun = thread_id.clone();
        let thread = std::thread::Builder::new().name(format!("vcpu{cpu}")).stack_size(STACK);
        let thread = thread.spawn(move || {
            begun.get_or_init(gettid);
            vcpu.run();
        })?;
        Ok(Self {
            commands,
            immediate_exit,
            counters,
            clock: CpuClock::from_thread(&thread)?,
            thread_id,
            thread_files: OnceLock::new(),
            statistics,
            keeps_files,
            thread: Some(thread),
        })
    }

    /// Queues a command; returns false if the thread is gone. A running vCPU reads it at its next exit,
    /// which a kick causes.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// Gets the thread out of KVM_RUN, or keeps it from entering: see the module `kick`.
    pub(crate) fn kick(&self) {
        self.immediate_exit.set();
        if let Some(thread) = &self.thread {
            // The thread exists until it is joined; a signal to one that has returned is lost.
            let _ = thread.kill(kick::signal());
        }
    }

    /// Returns the CPU time that the thread has used, in the guest and outside. Does not disturb the vCPU.
    pub(crate) fn run_time(&self) -> Duration {
        self.clock.now()
    }

    /// Returns the thread's times and state: see `Vm::host_times`. Does not disturb the vCPU.
    pub(crate) fn host_times(&self, cpu: u32) -> Result<ThreadTimes, VcpuError> {
        let thread = *self.thread_id.get().ok_or(VcpuError::NoThreadYet(cpu))?;
        let failed = |source| VcpuError::Thread { cpu, source };
        let opened;
        let files = match self.thread_files.get() {
            Some(files) => files,
            None => {
                let files = ThreadFiles::open(thread).map_err(failed)?;
                if self.keeps_files {
                    self.thread_files.get_or_init(|| files)
                } else {
                    opened = files;
                    &opened
                }
            }
        };
        Ok(ThreadTimes {
            run_time: self.run_time(),
            run_delay: files.run_delay().map_err(failed)?,
            state: files.state().map_err(failed)?,
        })
    }

    /// Returns the file of KVM's statistics of this vCPU, if it is open.
    pub(crate) fn statistics(&self) -> Option<&File> {
        self.statistics.as_ref()
    }

    pub(crate) fn exit_counts(&self) -> ExitCounts {
        self.counters.get()
    }

    /// Joins a thread that answered [`Command::Exit`], and so returns without delay.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The thread has printed its panic, if any; nothing is left to clean up.
            let _ = thread.join();
        }
    }
}
