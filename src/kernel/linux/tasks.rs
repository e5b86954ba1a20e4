//! Tasks of a Linux kernel: the list of them, and what each says of itself.
//!
//! Owns the places of `struct task_struct` and the walk over the list. Refuses to own what a task waits for
//! (`waits`). The list is the guest's: its length is bounded, and a task that cannot be read is absent.

use std::collections::HashSet;

use nmiscope_machine::{ReadError, Register, TaskRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError, Field};

use super::cpus::CpuClock;
use super::read_number;
use crate::kernel::{Depth, KernelTask, TaskRunState};

/// The most tasks that are read.
const MAX_TASKS: usize = 1 << 16;
/// The priority from which on tasks share a CPU by turns (include/linux/sched/prio.h, `MAX_RT_PRIO`).
const MAX_RT_PRIO: u32 = 100;
/// Task states (include/linux/sched.h): bits that together say how a task sleeps. They have been these since 4.14.
mod state {
    pub(super) const UNINTERRUPTIBLE: u64 = 0x2;
    /// A fatal signal wakes the task too.
    pub(super) const WAKEKILL: u64 = 0x100;
    /// A bit of kernel threads that wait for work without counting towards the load.
    pub(super) const NOLOAD: u64 = 0x400;
    /// The bits of a task that has ended: EXIT_DEAD, EXIT_ZOMBIE and TASK_DEAD.
    pub(super) const ENDED: u64 = 0x10 | 0x20 | 0x80;
}

/// Offsets of members of `struct task_struct`, and of the frame that a task leaves on its stack.
#[derive(Debug)]
pub(super) struct TaskPlaces {
    /// Guest-virtual address of the first task.
    init: u64,
    list: u64,
    thread_head: u64,
    thread_node: u64,
    signal: u64,
    name: Field,
    pid: u64,
    state: Field,
    cpu: u64,
    on_cpu: Field,
    voluntary: u64,
    involuntary: u64,
    /// Time of the last account of the task's run time, by its run queue's clock without interrupts.
    accounted: Option<u64>,
    /// Time at which the task was last switched to, and at which it last became ready to run; `None` where the kernel
    /// does not record it.
    arrived: Option<u64>,
    queued: Option<u64>,
    /// Priority of the task: below 100 it is a real-time one, which keeps its CPU (include/linux/sched/prio.h).
    priority: u64,
    stack_pointer: u64,
    frame_size: u64,
    frame: [(Register, u64); 7],
}

/// A task with what only other parts of the adapter use.
#[derive(Debug, Clone)]
pub(super) struct ReadTask {
    pub(super) task: KernelTask,
    /// True if a fatal signal ends its sleep.
    pub(super) is_killable: bool,
}

impl TaskPlaces {
    /// Finds the places by types. `init` is the guest-virtual address of the first task.
    pub(super) fn new(init: u64, btf: &Btf) -> Result<Self, BtfError> {
        let at = |structure: &str, path: &str| Ok(btf.field(structure, path)?.offset);
        let task = |path: &str| at("task_struct", path);
        let state =
            btf.field("task_struct", "__state").or_else(|_| btf.field("task_struct", "state"))?;
        let frame = |register, member: &str| Ok((register, at("inactive_task_frame", member)?));
        Ok(Self {
            init,
            list: task("tasks")?,
            thread_head: at("signal_struct", "thread_head")?,
            thread_node: task("thread_node")?,
            signal: task("signal")?,
            name: btf.field("task_struct", "comm")?,
            pid: task("pid")?,
            state,
            cpu: task("thread_info.cpu").or_else(|_: BtfError| task("cpu"))?,
            on_cpu: btf.field("task_struct", "on_cpu")?,
            voluntary: task("nvcsw")?,
            involuntary: task("nivcsw")?,
            accounted: task("se.exec_start").ok(),
            arrived: task("sched_info.last_arrival").ok(),
            queued: task("sched_info.last_queued").ok(),
            priority: task("prio")?,
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
        })
    }

    /// Finds all tasks: the leaders of groups by the list that begins at the first task, and the threads of each
    /// leader. A list that leads back into itself, or to nothing, ends there. Returns guest-virtual addresses.
    pub(super) fn addresses(&self, memory: &dyn VirtualMemory) -> Result<Vec<u64>, ReadError> {
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
        found.truncate(MAX_TASKS);
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
        // The leader is passed too: the number of steps is bounded, not that of threads.
        for _ in 0..MAX_TASKS {
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

    /// Returns the time at which a task was last switched to, in nanoseconds of its run queue's clock; `None` where the
    /// kernel does not record it.
    pub(super) fn arrived(&self, task: u64, memory: &dyn VirtualMemory) -> Option<u64> {
        let at = VirtualAddress(task.wrapping_add(self.arrived?));
        memory.read_u64(at).ok().filter(|&at| at != 0)
    }

    /// Returns true for a real-time task.
    pub(super) fn is_real_time(&self, task: u64, memory: &dyn VirtualMemory) -> bool {
        let priority = memory.read_u32(VirtualAddress(task.wrapping_add(self.priority)));
        priority.is_ok_and(|priority| priority < MAX_RT_PRIO)
    }

    /// Reads a task. `clocks` are those of the CPUs, by number.
    pub(super) fn read(
        &self,
        task: u64,
        memory: &dyn VirtualMemory,
        depth: Depth,
        clocks: &[Option<CpuClock>],
    ) -> Result<ReadTask, ReadError> {
        let at = |offset: u64| VirtualAddress(task.wrapping_add(offset));
        let mut name = vec![0; self.name.size.min(64) as usize];
        memory.read(at(self.name.offset), &mut name)?;
        let name =
            String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default());
        let pid = memory.read_u32(at(self.pid))?;
        let bits = read_number(at(self.state.offset), self.state.size, memory)?;
        let on_cpu = read_number(at(self.on_cpu.offset), self.on_cpu.size, memory)? != 0;
        let state = run_state(bits, on_cpu);
        let cpu = memory.read_u32(at(self.cpu))?;
        let is_wanted = match depth {
            Depth::Counters => false,
            Depth::Stuck => state.is_off_cpu(),
            Depth::All => state.is_off_cpu() || state == TaskRunState::Sleeping,
        };
        let registers = is_wanted.then(|| self.registers(task, memory).ok()).flatten();
        // The run time of a task is accounted last when the task is switched from.
        let time = |offset: Option<u64>| {
            let time = offset.map(|offset| memory.read_u64(at(offset))).transpose()?;
            Ok::<_, ReadError>(time.filter(|&time| time != 0))
        };
        let since_ns = match state {
            TaskRunState::Running => None,
            TaskRunState::Ready => time(self.queued)?,
            _ => {
                let clock = clocks.get(cpu as usize).copied().flatten();
                time(self.accounted)?.zip(clock).map(|(at, clock)| clock.at(at))
            }
        };
        let task = KernelTask {
            name: format!("{name}/{pid}"),
            cpu,
            state,
            switches: memory
                .read_u64(at(self.voluntary))?
                .wrapping_add(memory.read_u64(at(self.involuntary))?),
            wait: None,
            since_ns,
            registers,
        };
        let is_killable = bits & state::WAKEKILL != 0;
        Ok(ReadTask { task, is_killable })
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
