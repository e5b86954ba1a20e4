//! Workloads: the programs that the CPUs run, one file each. Most of them hang.
//!
//! The head of each file describes the hang and the CPUs in it, and lists the functions that a backtrace
//! must show, innermost first, as `Frames: WHERE: FUNCTION, FUNCTION, ...`. WHERE is a CPU's number,
//! `n/2` (half the number of CPUs, rounded down), `last`, `others`, or `task NAME`. A FUNCTION may be
//! alternatives with `|` between them, of which one must be there, or `none` for a CPU that runs nothing.
//! The tests compare reports with these lines.
//!
//! The head also has the verdict that the host must reach without reading it: `Expect: CLASS`, the CPUs
//! and tasks `Blamed:`, the `Locks:` involved, the `Victims:`, and the number of `Cpus:` needed. Together
//! the workloads are the corpus that the host's verdicts are measured with. `farm/src/corpus.rs`, which
//! parses these lines, defines them exactly.

mod abba_deadlock;
pub mod ap_never_arrives;
pub mod ap_never_starts;
pub mod boot_stall;
mod busy;
mod call_deadlock;
mod corrupt_stack;
mod cpu_hotplug;
mod debugger_prompt;
mod deep_stack;
mod double_begin;
pub mod exit;
mod fault_loop;
mod forgotten_unlock;
mod halt_irqs_off;
mod heavy_printk;
mod hog_and_dead;
mod holder_halts;
mod holder_offline;
mod holder_spins;
mod idle;
mod interrupt_storm;
mod ipi_ack_lost;
mod ipi_wait;
mod livelock;
mod livelock_tasks;
mod lock_contention;
mod long_critical_section;
mod long_irqs_off;
mod long_memset;
mod long_softirq;
mod lost_timer_tickless;
mod lost_wakeup;
mod lost_wakeup_busy;
mod many_ipis;
mod missed_timer;
mod mixed_cycle;
mod mutex_contention;
mod mutex_deadlock;
mod mutex_held_long;
mod mutex_holder_computes;
mod mutex_holder_spins;
mod nested_panic;
mod nmi_stuck;
mod null_deref;
mod offline_halted;
mod one_shot_timers;
mod panic;
mod panic_others_spin;
mod partial_line;
mod pause_and_go;
mod pause_in_irq;
mod printk_lock_held;
mod raw_flags;
mod ready_not_run;
mod recursion;
mod rwlock_reader_lost;
mod same_code_ab;
mod same_code_cd;
mod self_deadlock;
mod seqlock_writer_stuck;
mod sleeping_holder;
mod slow_device;
mod slow_device_busy;
mod spin_in_calls;
mod spin_irqs_off;
mod spin_irqs_on;
mod sysrq_storm;
mod task_hog;
mod tasks;
mod three_lock_cycle;
mod ticket_starved;
mod tickless_idle;
mod triple_fault;
mod two_roots;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use nmiscope_guest::sync::Context;

use crate::machine::X86;
use crate::sync::WaitQueue;

/// A workload that the CPUs can run.
pub struct Workload {
    /// Name, as in the kernel parameter `workload=`.
    pub name: &'static str,
    /// Least number of CPUs that it needs.
    pub min_cpus: usize,
    /// Function that runs a step of it on the current CPU, whose number is `cpu`. The CPU's main loop calls
    /// it repeatedly; a workload that hangs does not return.
    pub step: fn(cpu: usize) -> Next,
}

/// Action of the main loop after a step.
pub enum Next {
    /// Run the next step at once.
    Again,
    /// Halt, and run the next step after an interrupt.
    Wait,
}

/// Workload that runs if the command line names none.
pub const DEFAULT: &Workload = &idle::WORKLOAD;

static ALL: &[&Workload] = &[
    &abba_deadlock::WORKLOAD,
    &ap_never_arrives::WORKLOAD,
    &ap_never_starts::WORKLOAD,
    &boot_stall::WORKLOAD,
    &busy::WORKLOAD,
    &call_deadlock::WORKLOAD,
    &corrupt_stack::WORKLOAD,
    &cpu_hotplug::WORKLOAD,
    &debugger_prompt::WORKLOAD,
    &deep_stack::WORKLOAD,
    &double_begin::WORKLOAD,
    &exit::WORKLOAD,
    &fault_loop::WORKLOAD,
    &forgotten_unlock::WORKLOAD,
    &halt_irqs_off::WORKLOAD,
    &heavy_printk::WORKLOAD,
    &hog_and_dead::WORKLOAD,
    &holder_halts::WORKLOAD,
    &holder_offline::WORKLOAD,
    &holder_spins::WORKLOAD,
    &idle::WORKLOAD,
    &interrupt_storm::WORKLOAD,
    &ipi_ack_lost::WORKLOAD,
    &ipi_wait::WORKLOAD,
    &livelock::WORKLOAD,
    &livelock_tasks::WORKLOAD,
    &lock_contention::WORKLOAD,
    &long_critical_section::WORKLOAD,
    &long_irqs_off::WORKLOAD,
    &long_memset::WORKLOAD,
    &long_softirq::WORKLOAD,
    &lost_timer_tickless::WORKLOAD,
    &lost_wakeup::WORKLOAD,
    &lost_wakeup_busy::WORKLOAD,
    &many_ipis::WORKLOAD,
    &missed_timer::WORKLOAD,
    &mixed_cycle::WORKLOAD,
    &mutex_contention::WORKLOAD,
    &mutex_deadlock::WORKLOAD,
    &mutex_held_long::WORKLOAD,
    &mutex_holder_computes::WORKLOAD,
    &mutex_holder_spins::WORKLOAD,
    &nested_panic::WORKLOAD,
    &nmi_stuck::WORKLOAD,
    &null_deref::WORKLOAD,
    &offline_halted::WORKLOAD,
    &one_shot_timers::WORKLOAD,
    &panic::WORKLOAD,
    &panic_others_spin::WORKLOAD,
    &partial_line::WORKLOAD,
    &pause_and_go::WORKLOAD,
    &pause_in_irq::WORKLOAD,
    &printk_lock_held::WORKLOAD,
    &raw_flags::WORKLOAD,
    &ready_not_run::WORKLOAD,
    &recursion::WORKLOAD,
    &rwlock_reader_lost::WORKLOAD,
    &same_code_ab::WORKLOAD,
    &same_code_cd::WORKLOAD,
    &self_deadlock::WORKLOAD,
    &seqlock_writer_stuck::WORKLOAD,
    &sleeping_holder::WORKLOAD,
    &slow_device::WORKLOAD,
    &slow_device_busy::WORKLOAD,
    &spin_in_calls::WORKLOAD,
    &spin_irqs_off::WORKLOAD,
    &spin_irqs_on::WORKLOAD,
    &sysrq_storm::WORKLOAD,
    &task_hog::WORKLOAD,
    &tasks::WORKLOAD,
    &three_lock_cycle::WORKLOAD,
    &ticket_starved::WORKLOAD,
    &tickless_idle::WORKLOAD,
    &triple_fault::WORKLOAD,
    &two_roots::WORKLOAD,
];

/// Returns the workload with this name, `None` if there is none.
pub fn find(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|workload| workload.name == name).copied()
}

/// Returns true on the CPU that workloads with one culprit hang: neither the first nor the last, if
/// possible, so that a tool that confuses CPUs is found out.
fn is_culprit(cpu: usize) -> bool {
    cpu == crate::machine::possible_cpus() / 2
}

/// A barrier at which CPUs wait for each other, reusable. It makes races certain.
struct Meeting {
    arrivals: AtomicU32,
}

impl Meeting {
    const fn new() -> Self {
        Self { arrivals: AtomicU32::new(0) }
    }

    /// Waits until `cpus` CPUs have arrived.
    fn meet(&self, cpus: usize) {
        let cpus = cpus as u32;
        let all_here = (self.arrivals.fetch_add(1, Relaxed) / cpus + 1) * cpus;
        while self.arrivals.load(Relaxed) < all_here {
            core::hint::spin_loop();
        }
    }
}

/// A flag for an action that only the first CPU or call performs.
struct Once {
    done: AtomicBool,
}

impl Once {
    const fn new() -> Self {
        Self { done: AtomicBool::new(false) }
    }

    /// Returns true for the first call only.
    fn first(&self) -> bool {
        !self.done.swap(true, Relaxed)
    }
}

/// A slow device, which one task at a time asks and sleeps for.
struct Device {
    /// Time of the answer, in nanoseconds since boot; the latest of all while none is due.
    answers_at: AtomicU64,
    answered: WaitQueue,
}

impl Device {
    const fn new() -> Self {
        Self { answers_at: AtomicU64::new(u64::MAX), answered: WaitQueue::new() }
    }

    /// Sleeps until the device has answered, in that many nanoseconds.
    #[inline(never)]
    fn wait_for_answer(&self, nanoseconds: u64) {
        let at = X86::clock_ns() + nanoseconds;
        self.answers_at.store(at, Relaxed);
        self.answered.wait_event(|| X86::clock_ns() >= at);
    }

    /// Wakes up the task if the answer is due: the device's interrupt handler, as it were. Called by a main
    /// loop after each interrupt.
    fn poll(&self) {
        if X86::clock_ns() >= self.answers_at.load(Relaxed) {
            self.answers_at.store(u64::MAX, Relaxed);
            self.answered.wake_up();
        }
    }
}

/// Length in nanoseconds of the long sections of some healthy workloads: a little less than the time
/// without progress that the host reports as a hang.
pub static SECTION_NS: AtomicU64 = AtomicU64::new(0);

/// Keeps the CPU busy for `nanoseconds` of its own time. Time in which the host does not run the vCPU shows
/// as a long interval between two readings of the clock, of which only a short part counts.
#[inline(never)]
fn compute_for(nanoseconds: u64) {
    const LONGEST_STEP_NS: u64 = 250_000;
    let (mut computed, mut last) = (0, X86::clock_ns());
    while computed < nanoseconds {
        core::hint::spin_loop();
        let now = X86::clock_ns();
        computed += (now - last).min(LONGEST_STEP_NS);
        last = now;
    }
}

/// Spins until the VM is ended. `whose` is the caller's own workload: it keeps the compiler from merging
/// functions that only spin, after which a backtrace would name the wrong one.
#[inline(always)]
fn spin_for_good(whose: &'static Workload) -> ! {
    loop {
        core::hint::black_box(whose);
        core::hint::spin_loop();
    }
}
