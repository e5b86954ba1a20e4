//! CPUs and tasks of a Linux kernel in neutral terms.
//!
//! Owns the places of what is read, by symbols and BTF, and the walks over per-CPU areas and the list of tasks. Refuses
//! to own what follows from the state (`hang`). Lists and numbers are the guest's: they have budgets, and a CPU or a
//! task that cannot be read is absent while the rest is read.

use std::collections::HashSet;

use nmiscope_machine::{ReadError, Register, TaskRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError, Field, Kallsyms};

use crate::kernel::{CpuActivity, Depth, KernelState, KernelTask, TaskRunState};

/// The most CPUs that are read: NR_CPUS is 8192 at most.
const MAX_CPUS: u64 = 8192;
/// The most tasks that are read.
const MAX_TASKS: usize = 1 << 16;
/// Task states (include/linux/sched.h): bits that together say how a task sleeps. They have been these since 4.14.
mod state {
    pub(super) const UNINTERRUPTIBLE: u64 = 0x2;
    /// A bit of kernel threads that wait for work without counting towards the load.
    pub(super) const NOLOAD: u64 = 0x400;
    /// The bits of a task that has ended: EXIT_DEAD, EXIT_ZOMBIE and TASK_DEAD.
    pub(super) const ENDED: u64 = 0x10 | 0x20 | 0x80;
}

/// Places of a kernel's CPUs and tasks.
#[derive(Debug)]
pub(super) struct ActivityLayout {
    cpus: CpuPlaces,
    tasks: TaskPlaces,
    /// Address of the number of the CPU that panics, -1 for none (`panic_cpu`, kernel/panic.c).
    panic_cpu: Option<VirtualAddress>,
}

/// Places of per-CPU variables: addresses to which a CPU's offset is added.
#[derive(Debug)]
struct CpuPlaces {
    /// Addresses of `__per_cpu_offset` and `__cpu_online_mask`.
    offsets: VirtualAddress,
    online: VirtualAddress,
    current: u64,
    /// Members of the run queue.
    clock: u64,
    switches: u64,
    running: Field,
    running_at: u64,
    /// The count of timer interrupts, and of all interrupts; `None` where the kernel does not have it there.
    ticks: Option<u64>,
    interrupts: Option<u64>,
}

/// Offsets of members of `struct task_struct`, and of the frame that a task leaves on its stack.
#[derive(Debug)]
struct TaskPlaces {
    init: u64,
    list: u64,
    thread_head: u64,
    thread_node: u64,
    signal: u64,
    name: Field,
    pid: u64,
    state: Field,
    cpu: u64,
    on_cpu: u64,
    voluntary: u64,
    involuntary: u64,
    stack_pointer: u64,
    frame_size: u64,
    frame: [(Register, u64); 7],
}

impl ActivityLayout {
    pub(super) fn new(symbols: &Kallsyms, btf: &Btf) -> Result<Option<Self>, BtfError> {
        let address = |name: &str| symbols.address_of(name).map(|address| address.0);
        let (Some(offsets), Some(online), Some(runqueues), Some(init)) = (
            address("__per_cpu_offset"),
            address("__cpu_online_mask"),
            address("runqueues"),
            address("init_task"),
        ) else {
            return Ok(None);
        };
        let at = |structure: &str, path: &str| Ok(btf.field(structure, path)?.offset);
        let task = |path: &str| at("task_struct", path);
        let current = match (address("pcpu_hot"), address("current_task")) {
            (Some(hot), _) => hot + at("pcpu_hot", "current_task")?,
            (None, Some(current)) => current,
            (None, None) => return Ok(None),
        };
        let counter = |symbol: &str, structure: &str, member: &str| {
            Some(address(symbol)? + btf.field(structure, member).ok()?.offset)
        };
        let queue = |member: &str| Ok(runqueues + at("rq", member)?);
        let cpus = CpuPlaces {
            offsets: VirtualAddress(offsets),
            online: VirtualAddress(online),
            current,
            clock: queue("clock")?,
            switches: queue("nr_switches")?,
            running: btf.field("rq", "nr_running")?,
            running_at: queue("nr_running")?,
            ticks: counter("irq_stat", "irq_cpustat_t", "apic_timer_irqs"),
            interrupts: counter("kstat", "kernel_stat", "irqs_sum"),
        };
        let state =
            btf.field("task_struct", "__state").or_else(|_| btf.field("task_struct", "state"))?;
        let frame = |register, member: &str| Ok((register, at("inactive_task_frame", member)?));
        let tasks = TaskPlaces {
            init,
            list: task("tasks")?,
            thread_head: at("signal_struct", "thread_head")?,
            thread_node: task("thread_node")?,
            signal: task("signal")?,
            name: btf.field("task_struct", "comm")?,
            pid: task("pid")?,
            state,
            cpu: task("thread_info.cpu").or_else(|_: BtfError| task("cpu"))?,
            on_cpu: task("on_cpu")?,
            voluntary: task("nvcsw")?,
            involuntary: task("nivcsw")?,
            stack_pointer: task("thread.sp")?,
            frame_size: btf.size_of("inactive_task_frame")?,
            frame: [
                frame(Register::R15, "r15")?,
                frame(Register::R14, "r14")?,
                frame(Register::R13, "r13")?,
                frame(Register::R12, "r12")?,
                frame(Register::Rbx, "bx")?,
                frame(Register::Rbp, "bp")?,
                frame(Register::Rip, "ret_addr")?,
            ],
        };
        let panic_cpu = symbols.address_of("panic_cpu");
        Ok(Some(Self { cpus, tasks, panic_cpu }))
    }

    /// Reads the state of the CPUs that a machine with `vcpus` vCPUs has, and of all tasks.
    pub(super) fn read(
        &self,
        vcpus: u64,
        memory: &dyn VirtualMemory,
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        // The first task is part of the kernel: without it there is nothing to read.
        let addresses = self.tasks.addresses(memory)?;
        let panicking = self.panic_cpu.and_then(|at| memory.read_u32(at).ok());
        let panicking = panicking.filter(|&cpu| u64::from(cpu) < vcpus);
        let mut state = KernelState { panicking, ..KernelState::default() };
        let mut current = Vec::new();
        for cpu in 0..vcpus.min(MAX_CPUS) {
            let read = self.cpus.read(cpu, memory).ok();
            state.now_ns = state.now_ns.max(read.as_ref().map(|(_, _, clock)| *clock));
            current.push(read.as_ref().map(|(_, task, _)| *task));
            state.cpus.push(read.map(|(activity, ..)| activity));
        }
        for &address in &addresses {
            state.tasks.push(self.tasks.read(address, memory, depth).ok());
        }
        for (cpu, task) in state.cpus.iter_mut().zip(current) {
            let number = addresses.iter().position(|&address| Some(address) == task);
            if let (Some(cpu), Some(number)) = (cpu, number) {
                cpu.task = Some(number as u32);
            }
        }
        Ok(state)
    }
}

impl CpuPlaces {
    /// Reads a CPU's activity, the address of its current task, and its clock in nanoseconds.
    fn read(
        &self,
        cpu: u64,
        memory: &dyn VirtualMemory,
    ) -> Result<(CpuActivity, u64, u64), ReadError> {
        let offset = memory.read_u64(self.offsets.wrapping_add(8 * cpu))?;
        let place = |at: u64| VirtualAddress(at.wrapping_add(offset));
        let optional = |at: Option<u64>| {
            let count = at.map(|at| memory.read_u32(place(at))).transpose()?;
            Ok::<u64, ReadError>(count.unwrap_or(0).into())
        };
        let online =
            memory.read_u64(self.online.wrapping_add(cpu / 64 * 8))? >> (cpu % 64) & 1 != 0;
        let clock = memory.read_u64(place(self.clock))?;
        let running = read_number(place(self.running_at), self.running.size, memory)?;
        let activity = CpuActivity {
            online,
            tick: optional(self.ticks)?,
            main_loop: memory.read_u64(place(self.switches))?,
            interrupts: optional(self.interrupts)?,
            ready_tasks: running.try_into().unwrap_or(u32::MAX),
            main_loop_ns: Some(clock),
            ..CpuActivity::default()
        };
        Ok((activity, memory.read_u64(place(self.current))?, clock))
    }
}

impl TaskPlaces {
    /// Finds all tasks: the leaders of groups by the list that begins at the first task, and the threads of each
    /// leader. A list that leads back into itself, or to nothing, ends there.
    fn addresses(&self, memory: &dyn VirtualMemory) -> Result<Vec<u64>, ReadError> {
        let word = |at: u64| memory.read_u64(VirtualAddress(at));
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut link = word(self.init.wrapping_add(self.list))?;
        while found.len() < MAX_TASKS {
            let leader = link.wrapping_sub(self.list);
            if leader == self.init || !seen.insert(leader) {
                break;
            }
            let Ok(next) = word(link) else { break };
            found.push(leader);
            let threads = word(leader.wrapping_add(self.signal)).map(|signal| {
                self.threads(signal.wrapping_add(self.thread_head), leader, &mut seen, memory)
            });
            found.extend(threads.unwrap_or_default());
            link = next;
        }
        Ok(found)
    }

    /// Finds the threads of a group but for its leader.
    fn threads(
        &self,
        head: u64,
        leader: u64,
        seen: &mut HashSet<u64>,
        memory: &dyn VirtualMemory,
    ) -> Vec<u64> {
        let mut threads = Vec::new();
        let mut link = head;
        while threads.len() < MAX_TASKS {
            let Ok(next) = memory.read_u64(VirtualAddress(link)) else { break };
            link = next;
            let thread = link.wrapping_sub(self.thread_node);
            if link == head {
                break;
            }
            if thread == leader {
                continue;
            }
            if !seen.insert(thread) {
                break;
            }
            threads.push(thread);
        }
        threads
    }

    fn read(
        &self,
        task: u64,
        memory: &dyn VirtualMemory,
        depth: Depth,
    ) -> Result<KernelTask, ReadError> {
        let at = |offset: u64| VirtualAddress(task.wrapping_add(offset));
        let mut name = vec![0; self.name.size.min(64) as usize];
        memory.read(at(self.name.offset), &mut name)?;
        let name =
            String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default());
        let pid = memory.read_u32(at(self.pid))?;
        let bits = read_number(at(self.state.offset), self.state.size, memory)?;
        let on_cpu = memory.read_u32(at(self.on_cpu))? != 0;
        let state = run_state(bits, on_cpu);
        let registers =
            (depth == Depth::All && state.is_off_cpu()).then(|| self.registers(task, memory));
        Ok(KernelTask {
            name: format!("{name}/{pid}"),
            cpu: memory.read_u32(at(self.cpu))?,
            state,
            switches: memory
                .read_u64(at(self.voluntary))?
                .wrapping_add(memory.read_u64(at(self.involuntary))?),
            wait: None,
            registers: registers.and_then(Result::ok),
        })
    }

    /// Reads the registers that the task saved when it was switched from (`struct inactive_task_frame`,
    /// arch/x86/include/asm/switch_to.h).
    fn registers(&self, task: u64, memory: &dyn VirtualMemory) -> Result<TaskRegisters, ReadError> {
        let sp = memory.read_u64(VirtualAddress(task.wrapping_add(self.stack_pointer)))?;
        TaskRegisters::try_from_fn(|register| match register {
            Register::Rsp => Ok(sp.wrapping_add(self.frame_size)),
            _ => match self.frame.iter().find(|(saved, _)| *saved == register) {
                Some((_, at)) => memory.read_u64(VirtualAddress(sp.wrapping_add(*at))),
                None => Ok(0),
            },
        })
    }
}

fn run_state(bits: u64, on_cpu: bool) -> TaskRunState {
    match bits {
        _ if on_cpu => TaskRunState::Running,
        0 => TaskRunState::Ready,
        _ if bits & state::ENDED != 0 => TaskRunState::Ended,
        _ if bits & state::UNINTERRUPTIBLE != 0 && bits & state::NOLOAD == 0 => {
            TaskRunState::Blocked
        }
        // Interruptible, stopped, traced or parked.
        _ => TaskRunState::Sleeping,
    }
}

/// Reads a number of 4 or 8 bytes.
fn read_number(
    at: VirtualAddress,
    size: u64,
    memory: &dyn VirtualMemory,
) -> Result<u64, ReadError> {
    if size == 8 { memory.read_u64(at) } else { memory.read_u32(at).map(u64::from) }
}
