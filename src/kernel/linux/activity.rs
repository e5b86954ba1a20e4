//! Activity of a Linux kernel in neutral terms: its CPUs, its tasks, and who waits for whom.
//!
//! Owns the order in which they are read and put together. Refuses to own their places (`cpus`, `tasks`, `waits`)
//! and what follows from the state (`hang`).

use std::collections::HashMap;
use std::time::Duration;

use nmiscope_machine::{ReadError, Registers, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError, Kallsyms};

use super::cpus::{CpuPlaces, ReadCpu};
use super::symbols::LinuxSymbols;
use super::tasks::{ReadTask, TaskPlaces};
use super::waits::{WaitPlaces, Waits};
use crate::kernel::{Depth, KernelState, KernelTask, Patience};

/// The most CPUs that are read: NR_CPUS is 8192 at most.
const MAX_CPUS: u64 = 8192;

/// The times of a kernel that does not watch its CPUs and tasks: the defaults of those that do
/// (kernel/watchdog.c, `watchdog_thresh`; kernel/hung_task.c, CONFIG_DEFAULT_HUNG_TASK_TIMEOUT).
const DEFAULT_THRESHOLD: u64 = 10;
const DEFAULT_SLEEP: u64 = 120;
/// The longest time that is waited for, in seconds.
const MAX_PATIENCE: u64 = 24 * 3600;

/// Places of the times, in seconds, after which the kernel takes a CPU or a task for stuck; `None` for one without such
/// a watchdog.
#[derive(Debug)]
struct PatiencePlaces {
    threshold: Option<VirtualAddress>,
    sleep: Option<VirtualAddress>,
}

impl PatiencePlaces {
    /// Reads the times. Zero turns a watchdog off.
    fn read(&self, memory: &dyn VirtualMemory) -> Patience {
        let seconds = |read: Option<u64>, default: u64| {
            read.filter(|&seconds| seconds > 0).unwrap_or(default).min(MAX_PATIENCE)
        };
        let threshold = self.threshold.and_then(|at| memory.read_u32(at).ok()).map(u64::from);
        let threshold = seconds(threshold, DEFAULT_THRESHOLD);
        let sleep = self.sleep.and_then(|at| memory.read_u64(at).ok());
        Patience {
            tick: Duration::from_secs(threshold),
            // Twice the threshold of hard lockups (kernel/watchdog.c, `get_softlockup_thresh`).
            schedule: Duration::from_secs(2 * threshold),
            sleep: Duration::from_secs(seconds(sleep, DEFAULT_SLEEP)),
        }
    }
}

/// Places of a kernel's CPUs, tasks and locks.
#[derive(Debug)]
pub(super) struct ActivityLayout {
    cpus: CpuPlaces,
    tasks: TaskPlaces,
    waits: WaitPlaces,
    patience: PatiencePlaces,
    /// Address of the number of the CPU that panics, -1 for none (`panic_cpu`, kernel/panic.c).
    panic_cpu: Option<VirtualAddress>,
    /// Address of the number of the CPU that runs the debugger, -1 for none (`kgdb_active`,
    /// kernel/debug/debug_core.c).
    kgdb_active: Option<VirtualAddress>,
}

impl ActivityLayout {
    pub(super) fn new(symbols: &Kallsyms, btf: &Btf) -> Result<Option<Self>, BtfError> {
        let (Some(cpus), Some(init)) =
            (CpuPlaces::new(symbols, btf)?, symbols.address_of("init_task"))
        else {
            return Ok(None);
        };
        let tasks = TaskPlaces::new(init.0, btf)?;
        let waits = WaitPlaces::new(symbols, btf);
        let patience = PatiencePlaces {
            threshold: symbols.address_of("watchdog_thresh"),
            sleep: symbols.address_of("sysctl_hung_task_timeout_secs"),
        };
        let panic_cpu = symbols.address_of("panic_cpu");
        let kgdb_active = symbols.address_of("kgdb_active");
        Ok(Some(Self { cpus, tasks, waits, patience, panic_cpu, kgdb_active }))
    }

    /// Reads the state of all CPUs and tasks. `vcpus` are the registers of the machine's vCPUs, where they have any.
    pub(super) fn read(
        &self,
        vcpus: &[Option<Registers>],
        symbols: &LinuxSymbols,
        memory: &dyn VirtualMemory,
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        // The first task is part of the kernel: without it there is nothing to read.
        let addresses = self.tasks.addresses(memory)?;
        let count = (vcpus.len() as u64).min(MAX_CPUS);
        let mut cpus: Vec<Option<ReadCpu>> =
            (0..count).map(|cpu| self.cpus.read(cpu, memory).ok()).collect();
        let now = cpus.iter().flatten().map(|cpu| cpu.clock.now()).max();
        for (cpu, registers) in cpus.iter_mut().zip(vcpus) {
            let in_program = registers.is_some_and(|registers| registers.cpl == 3);
            if let (Some(cpu), Some(now)) = (cpu, now) {
                self.date(cpu, in_program, now, memory);
            }
        }
        let clocks: Vec<_> = cpus.iter().map(|cpu| cpu.as_ref().map(|cpu| cpu.clock)).collect();
        let tasks: Vec<Option<ReadTask>> = addresses
            .iter()
            .map(|&address| self.tasks.read(address, memory, depth, &clocks).ok())
            .collect();
        let numbers: HashMap<u64, u32> = addresses.iter().copied().zip(0..).collect();
        for cpu in cpus.iter_mut().flatten() {
            cpu.activity.task = numbers.get(&cpu.current).copied();
        }
        let cpu_at = |at: Option<VirtualAddress>| {
            let cpu = memory.read_u32(at?).ok()?;
            Some(cpu).filter(|&cpu| (cpu as usize) < vcpus.len())
        };
        let mut state = KernelState {
            panicking: cpu_at(self.panic_cpu),
            in_debugger: cpu_at(self.kgdb_active),
            now_ns: now,
            patience: Some(self.patience.read(memory)),
            ..KernelState::default()
        };
        if depth != Depth::Counters {
            let moment = Waits {
                vcpus,
                cpus: &cpus,
                tasks: &tasks,
                addresses: &addresses,
                numbers: &numbers,
                symbols,
                memory,
            };
            let found = self.waits.find(&moment, now.unwrap_or(0));
            for (cpu, wait) in cpus.iter_mut().zip(found.of_cpus) {
                if let Some(cpu) = cpu {
                    cpu.activity.wait = wait;
                }
            }
            for (cpu, waits) in cpus.iter_mut().zip(found.in_halt) {
                cpu.iter_mut().for_each(|cpu| cpu.activity.waits_in_halt = waits);
            }
            state.locks = found.locks;
            state.tasks = tasks
                .into_iter()
                .zip(found.of_tasks)
                .map(|(task, wait)| Some(KernelTask { wait, ..task?.task }))
                .collect();
        } else {
            state.tasks = tasks.into_iter().map(|task| Some(task?.task)).collect();
        }
        state.cpus = cpus.into_iter().map(|cpu| Some(cpu?.activity)).collect();
        Ok(state)
    }

    /// Dates the last tick and the last switch of a CPU, in nanoseconds of the run queues' clock. `now` is the latest
    /// time of any of them.
    ///
    /// An idle CPU, and one in a program, have nothing to schedule. Neither has one whose task has nobody else beside it,
    /// as a busy program has that enters the kernel now and then, but for the watchdog: it has its turn each period.
    fn date(&self, cpu: &mut ReadCpu, in_program: bool, now: u64, memory: &dyn VirtualMemory) {
        let is_idle = cpu.activity.context.as_ref().is_some_and(|context| context.is_idle);
        // The idle task has no such record: an interrupt that does not return to it is dated by the watchdog.
        let arrived = self.tasks.arrived(cpu.current, memory).or(cpu.touched);
        // A real-time task keeps its CPU from others, but not from the watchdog.
        let gives_way = cpu.has_others
            && (cpu.period.is_some() || !self.tasks.is_real_time(cpu.current, memory));
        let turn = if gives_way { Some(0) } else { cpu.period };
        let turn = turn.filter(|_| !is_idle && !in_program);
        let due = arrived.zip(turn).map(|(arrived, turn)| arrived.saturating_add(turn).min(now));
        cpu.activity.main_loop_ns = Some(due.unwrap_or(now));
        // The tick brings its run queue's clock forward. Others that wake a task there do so too: the age is the least
        // that it can be.
        let age = match cpu.tick_late {
            0 => 0,
            late => late.max(now.saturating_sub(cpu.clock.now())),
        };
        cpu.activity.tick_ns = Some(now.saturating_sub(age));
    }
}
