//! vCPUs: a thread each, and the handle through which the controlling thread commands it.
//!
//! Owns the command queue and the life of the thread; refuses to own what commands achieve together
//! (`world`). `setup` prepares a vCPU, `thread` runs it, `kick` gets it out of the guest, `host`
//! reads what needs unsafe code, `state` translates what KVM answers, `thread_times` and `statistics` are what
//! the host tells without asking it. Called by `vm`, `world` and `watch`.

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

/// Of a vCPU's thread. Two megabytes, as is usual, can become a huge page at the first touch, which
/// has to be cleared, and counts as used.
const STACK: usize = 256 << 10;
pub use thread_times::{ThreadState, ThreadTimes};

/// What a vCPU thread can be told. Each answer names its vCPU.
#[derive(Debug)]
pub(crate) enum Command {
    /// Stop at the next instruction boundary, and read the state there.
    Pause(Slot<Answer<VcpuState>>),
    /// Run the guest.
    Resume,
    /// Read the state.
    Read(Slot<Answer<VcpuState>>),
    /// Read the time-stamp counter.
    ReadTsc(Slot<Answer<u64>>),
    /// Execute instructions up to a point, or to a kick, and read the state. Only to a paused vCPU.
    Step { to: Option<u64>, answer: Slot<Answer<VcpuState>> },
    /// Run one NMI handler, not beyond `until`. Only to a paused vCPU.
    RunNmi { bound: Duration, until: Instant, answer: Slot<Answer<NmiRun>> },
    /// End the thread. Answered when the vCPU is closed.
    Exit(Slot<u32>),
}

/// An answer that can fail.
pub(crate) type Answer<T> = (u32, Result<T, KvmError>);

/// The controlling thread's end of a vCPU.
#[derive(Debug)]
pub(crate) struct VcpuHandle {
    commands: Sender<Command>,
    immediate_exit: Arc<ImmediateExit>,
    counters: Arc<Counters>,
    clock: CpuClock,
    /// The thread's number, once it has begun.
    thread_id: Arc<OnceLock<Pid>>,
    /// The thread's files in /proc, once they are wanted, if there is room for them.
    thread_files: OnceLock<ThreadFiles>,
    /// KVM's statistics, if it keeps any and there is room for them.
    statistics: Option<File>,
    keeps_files: bool,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Gives `fd` a thread, paused, named after its vCPU. `keeps_files`: whether there is room for
    /// three open files more.
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
        // Before the thread has it: a vCPU that runs cannot be asked.
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

    /// Queues a command; false if the thread is gone. A running vCPU sees it at its next exit: kick
    /// it to have one.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// Gets the thread out of KVM_RUN, or keeps it from entering. See `kick`.
    pub(crate) fn kick(&self) {
        self.immediate_exit.set();
        if let Some(thread) = &self.thread {
            // The thread exists until it is joined; a signal to one that has returned is lost.
            let _ = thread.kill(kick::signal());
        }
    }

    /// CPU time that the thread has used, in the guest and outside. Asks the host, not the vCPU.
    pub(crate) fn run_time(&self) -> Duration {
        self.clock.now()
    }

    /// See `Vm::host_times`. Asks the host, not the vCPU.
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

    /// The file of KVM's statistics of this vCPU, if there is one.
    pub(crate) fn statistics(&self) -> Option<&File> {
        self.statistics.as_ref()
    }

    pub(crate) fn exit_counts(&self) -> ExitCounts {
        self.counters.get()
    }

    /// Joins a thread that answered [`Command::Exit`], and so returns without delay.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself, and there is nothing left to save.
            let _ = thread.join();
        }
    }
}
