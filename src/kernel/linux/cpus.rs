//! CPUs of a Linux kernel: counters, clocks, and what each does at the moment.
//!
//! Owns the places of per-CPU variables. Refuses to own what a CPU waits for (`waits`) and what follows from its
//! times (`hang`). A CPU that cannot be read is absent while the rest is read.

use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError, Field, Kallsyms};

use super::read_number;
use crate::kernel::{CpuActivity, CpuContext};

/// The bit of `watchdog_enabled` for the watchdog of soft lockups (include/linux/nmi.h,
/// `WATCHDOG_SOFTOCKUP_ENABLED_BIT`; the same under its former names).
const SOFT_WATCHDOG: u64 = 1 << 1;

/// The most softirqs that are named: the kernel has ten.
const MAX_SOFTIRQS: u64 = 16;

/// Places of per-CPU variables: addresses to which a CPU's offset is added, and of variables that are one for all.
#[derive(Debug)]
pub(super) struct CpuPlaces {
    /// Addresses of `__per_cpu_offset` and `__cpu_online_mask`.
    offsets: VirtualAddress,
    online: VirtualAddress,
    current: u64,
    /// Members of the run queue.
    clock: u64,
    task_clock: u64,
    switches: u64,
    idle: u64,
    running: Field,
    running_at: u64,
    /// The count of timer interrupts, and of all interrupts; `None` where the kernel does not have it there.
    ticks: Option<u64>,
    interrupts: Option<u64>,
    preempt_count: Option<u64>,
    pending_softirqs: Option<(u64, u64)>,
    tick: Option<TickPlaces>,
    /// Address of a byte that is set where some CPUs may run a lone task without a tick.
    full_dynticks: Option<VirtualAddress>,
    /// Address of the enabled watchdogs, a bit for each.
    watchdogs: Option<VirtualAddress>,
    /// Address of the mask of CPUs that the watchdog watches, and the per-CPU time of its last turn.
    watched: Option<VirtualAddress>,
    touched: Option<u64>,
    /// Address of the time between two turns of the watchdog on each CPU, in nanoseconds (kernel/watchdog.c).
    period: Option<VirtualAddress>,
    /// Address of the names of the softirqs, an array of pointers.
    softirq_names: Option<VirtualAddress>,
}

/// Places of what tells a tick that is late: the time for which a CPU's tick is armed, and the time of the next tick of
/// all (`tick_next_period`, kernel/time/tick-common.c), which one CPU keeps for all of them. Both are of
/// CLOCK_MONOTONIC, in nanoseconds.
#[derive(Debug)]
struct TickPlaces {
    armed: u64,
    next: VirtualAddress,
}

/// Clock of a CPU's run queue, in nanoseconds: with all time, and without that of interrupts.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuClock {
    clock: u64,
    task_clock: u64,
}

impl CpuClock {
    /// Returns the time that the run queue has recorded last.
    pub(super) fn now(self) -> u64 {
        self.clock
    }

    /// Converts a time of the clock without interrupts to the clock with them.
    pub(super) fn at(self, task_time: u64) -> u64 {
        self.clock.saturating_sub(self.task_clock.saturating_sub(task_time))
    }
}

/// A CPU at one moment.
#[derive(Debug)]
pub(super) struct ReadCpu {
    pub(super) activity: CpuActivity,
    pub(super) clock: CpuClock,
    /// Guest-virtual address of the task that the CPU runs, the idle task if it has none.
    pub(super) current: u64,
    /// The amount that is added to the addresses of per-CPU variables.
    pub(super) offset: u64,
    /// True if other tasks are ready to run beside the current one.
    pub(super) has_others: bool,
    /// The time between two turns of the watchdog in nanoseconds; `None` if it does not watch this CPU.
    pub(super) period: Option<u64>,
    /// The time at which the watchdog last had its turn, in nanoseconds.
    pub(super) touched: Option<u64>,
    /// The lateness of the CPU's tick in nanoseconds; 0 for one that is on time or stopped.
    pub(super) tick_late: u64,
}

impl CpuPlaces {
    /// Finds the places; `None` for a kernel without the symbols that all of it rests on.
    pub(super) fn new(symbols: &Kallsyms, btf: &Btf) -> Result<Option<Self>, BtfError> {
        let address = |name: &str| symbols.address_of(name).map(|address| address.0);
        let (Some(offsets), Some(online), Some(runqueues)) =
            (address("__per_cpu_offset"), address("__cpu_online_mask"), address("runqueues"))
        else {
            return Ok(None);
        };
        let member = |symbol: &str, structure: &str, member: &str| {
            let field = btf.field(structure, member).ok()?;
            Some((address(symbol)?.wrapping_add(field.offset), field.size))
        };
        let place = |symbol: &str, structure: &str, path: &str| {
            member(symbol, structure, path).map(|(at, _)| at)
        };
        let Some(current) =
            place("pcpu_hot", "pcpu_hot", "current_task").or_else(|| address("current_task"))
        else {
            return Ok(None);
        };
        let queue = |member: &str| Ok(runqueues.wrapping_add(btf.field("rq", member)?.offset));
        let armed = place("tick_cpu_sched", "tick_sched", "sched_timer.node.expires");
        let tick = armed.zip(symbols.address_of("tick_next_period"));
        // An int wherever it is a variable of its own (include/linux/interrupt.h, arch/x86/include/asm/hardirq.h).
        let softirqs = member("pcpu_hot", "pcpu_hot", "softirq_pending")
            .or_else(|| address("__softirq_pending").map(|at| (at, 2)))
            .or_else(|| member("irq_stat", "irq_cpustat_t", "__softirq_pending"));
        Ok(Some(Self {
            offsets: VirtualAddress(offsets),
            online: VirtualAddress(online),
            current,
            clock: queue("clock")?,
            task_clock: queue("clock_task")?,
            switches: queue("nr_switches")?,
            idle: queue("idle")?,
            running: btf.field("rq", "nr_running")?,
            running_at: queue("nr_running")?,
            ticks: place("irq_stat", "irq_cpustat_t", "apic_timer_irqs"),
            interrupts: place("kstat", "kernel_stat", "irqs_sum"),
            preempt_count: place("pcpu_hot", "pcpu_hot", "preempt_count")
                .or_else(|| address("__preempt_count")),
            pending_softirqs: softirqs,
            full_dynticks: symbols.address_of("tick_nohz_full_running"),
            tick: tick.map(|(armed, next)| TickPlaces { armed, next }),
            watchdogs: symbols.address_of("watchdog_enabled"),
            watched: symbols.address_of("watchdog_cpumask"),
            touched: address("watchdog_touch_ts"),
            period: symbols.address_of("sample_period"),
            softirq_names: symbols.address_of("softirq_to_name"),
        }))
    }

    /// Reads what one CPU does and counts.
    pub(super) fn read(&self, cpu: u64, memory: &dyn VirtualMemory) -> Result<ReadCpu, ReadError> {
        let offset = memory.read_u64(self.offsets.wrapping_add(8 * cpu))?;
        let place = |at: u64| VirtualAddress(at.wrapping_add(offset));
        let optional = |at: Option<u64>| {
            let count = at.map(|at| memory.read_u32(place(at))).transpose()?;
            Ok::<u64, ReadError>(count.unwrap_or(0).into())
        };
        let online =
            memory.read_u64(self.online.wrapping_add(cpu / 64 * 8))? >> (cpu % 64) & 1 != 0;
        let clock = CpuClock {
            clock: memory.read_u64(place(self.clock))?,
            task_clock: memory.read_u64(place(self.task_clock))?,
        };
        let running = read_number(place(self.running_at), self.running.size, memory)?;
        let current = memory.read_u64(place(self.current))?;
        let runs_idle = memory.read_u64(place(self.idle))? == current;
        let pending = self.pending_softirqs.map(|(at, size)| read_number(place(at), size, memory));
        let preempt_count = self.preempt_count.map(|at| memory.read_u32(place(at))).transpose()?;
        let context = preempt_count.map(preempt_context);
        // An interrupt may have come in, and not be over.
        let serves = |context: &CpuContext| {
            context.hard_interrupts > 0 || context.serves_softirq || context.nmis > 0
        };
        let is_idle = runs_idle && !context.as_ref().is_some_and(serves);
        let context = context.map(|context| CpuContext {
            is_idle,
            pending_softirqs: self
                .softirqs(pending.transpose().ok().flatten().unwrap_or(0), memory),
            ..context
        });
        let activity = CpuActivity {
            online,
            tick: optional(self.ticks)?,
            main_loop: memory.read_u64(place(self.switches))?,
            interrupts: optional(self.interrupts)?,
            ready_tasks: running.try_into().unwrap_or(u32::MAX),
            context,
            ..CpuActivity::default()
        };
        let watchdog = self.watchdogs.and_then(|at| memory.read_u64(at).ok());
        let watched =
            self.watched.and_then(|at| memory.read_u64(at.wrapping_add(cpu / 64 * 8)).ok());
        let is_watched = watched.is_some_and(|cpus| cpus >> (cpu % 64) & 1 != 0)
            && watchdog.is_some_and(|enabled| enabled & SOFT_WATCHDOG != 0);
        let period = self.period.filter(|_| is_watched);
        let period = period.and_then(|at| memory.read_u64(at).ok());
        let has_others = running > 1;
        let touched = self.touched.and_then(|at| memory.read_u64(place(at)).ok());
        // The watchdog counts in units of 2^30 ns (kernel/watchdog.c, `get_timestamp`).
        let touched =
            touched.filter(|&at| is_watched && at != 0 && at < 1 << 34).map(|at| at << 30);
        let tick = self.tick.as_ref();
        let tick_late = tick.map(|tick| tick.late(place(tick.armed), memory)).transpose()?;
        // A lone task may run without a tick (CONFIG_NO_HZ_FULL), on CPUs that the watchdog leaves alone.
        let may_stop = self.full_dynticks.is_some_and(|at| {
            let mut byte = [0];
            memory.read(at, &mut byte).is_ok() && byte != [0]
        });
        let is_ticking = !is_idle && (!may_stop || is_watched || has_others);
        let tick_late = tick_late.filter(|_| is_ticking).unwrap_or(0);
        Ok(ReadCpu { activity, clock, current, offset, has_others, period, touched, tick_late })
    }

    /// Returns the names of the softirqs in a mask, as the kernel has them.
    fn softirqs(&self, mask: u64, memory: &dyn VirtualMemory) -> Vec<String> {
        let pending = (0..MAX_SOFTIRQS).filter(|bit| mask >> bit & 1 != 0);
        let name = |bit: u64| {
            let text = memory.read_u64(self.softirq_names?.wrapping_add(8 * bit)).ok()?;
            let mut name = [0; 16];
            memory.read(VirtualAddress(text), &mut name).ok()?;
            let name = name.split(|&byte| byte == 0).next()?;
            Some(std::str::from_utf8(name).ok()?.to_owned())
        };
        pending.map(|bit| name(bit).unwrap_or_else(|| bit.to_string())).collect()
    }
}

impl TickPlaces {
    /// Returns the time by which a tick is late. A tick that is armed for later than the next one of all is on time, or
    /// has been stopped.
    fn late(&self, armed: VirtualAddress, memory: &dyn VirtualMemory) -> Result<u64, ReadError> {
        let (armed, next) = (memory.read_u64(armed)?, memory.read_u64(self.next)?);
        // Zero is a tick of another kind, before high-resolution timers or without them.
        Ok(if armed == 0 { 0 } else { next.saturating_sub(armed) })
    }
}

/// Decodes a preempt count (include/linux/preempt.h): eight bits of preemption, eight of softirqs, and four each of hard
/// interrupts and NMIs. The bits above are flags.
fn preempt_context(count: u32) -> CpuContext {
    CpuContext {
        preemption_disabled: count & 0xff,
        // A softirq that is served counts one; one that is only disabled, two.
        serves_softirq: count >> 8 & 1 != 0,
        softirqs_disabled: count >> 9 & 0x7f,
        hard_interrupts: count >> 16 & 0xf,
        nmis: count >> 20 & 0xf,
        ..CpuContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preempt_counts_are_decoded_as_the_kernel_counts_them() {
        let rows = [
            (0x8000_0000, CpuContext::default()),
            (0x0000_0002, CpuContext { preemption_disabled: 2, ..CpuContext::default() }),
            (0x0000_0100, CpuContext { serves_softirq: true, ..CpuContext::default() }),
            (0x8000_0200, CpuContext { softirqs_disabled: 1, ..CpuContext::default() }),
            (
                0x0011_0001,
                CpuContext {
                    preemption_disabled: 1,
                    hard_interrupts: 1,
                    nmis: 1,
                    ..CpuContext::default()
                },
            ),
        ];
        for (count, context) in rows {
            assert_eq!(preempt_context(count), context, "{count:#x}");
        }
    }
}
