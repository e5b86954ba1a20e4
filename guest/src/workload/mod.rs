//! What the CPUs run: one file each, and most of them hang.
//!
//! The head of each file says what happens, on which CPUs, and which functions a backtrace must
//! show, innermost first, as `Frames: WHERE: FUNCTION, FUNCTION, ...`. WHERE is a CPU's number,
//! `n/2` (half the number of CPUs, rounded down), `last`, `others`, or `task NAME`. A FUNCTION may be
//! two or more with `|` between them, of which one is there, or `none` where nothing runs. The tests
//! read these lines and hold the reports against them.
//!
//! The head says too what the host has to make of it, without being told: `Expect: CLASS`, who is
//! `Blamed:`, which `Locks:` have to do with it, who are its `Victims:`, and how many `Cpus:` it takes.
//! Together the workloads are the corpus by which the host's verdicts are measured; what the lines mean
//! exactly stands where they are read, in `farm/src/corpus.rs`.

mod abba_deadlock;
pub mod ap_never_arrives;
pub mod ap_never_starts;
pub mod boot_stall;
mod busy;
mod call_deadlock;
mod corrupt_stack;
mod deep_stack;
mod double_begin;
pub mod exit;
mod forgotten_unlock;
mod halt_irqs_off;
mod heavy_printk;
mod holder_halts;
mod holder_spins;
mod idle;
mod interrupt_storm;
mod ipi_wait;
mod livelock;
mod lock_contention;
mod long_critical_section;
mod long_irqs_off;
mod lost_wakeup;
mod many_ipis;
mod missed_timer;
mod mutex_contention;
mod mutex_deadlock;
mod mutex_holder_spins;
mod nested_panic;
mod nmi_stuck;
mod null_deref;
mod panic;
mod panic_others_spin;
mod partial_line;
mod pause_and_go;
mod printk_lock_held;
mod self_deadlock;
mod sleeping_holder;
mod spin_in_calls;
mod spin_irqs_off;
mod spin_irqs_on;
mod sysrq_storm;
mod task_hog;
mod tasks;
mod three_lock_cycle;
mod ticket_starved;
mod triple_fault;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use nmiscope_guest::sync::Context;

use crate::machine::X86;

/// Something to run.
pub struct Workload {
    /// As `workload=` names it.
    pub name: &'static str,
    /// How many CPUs it takes to have it happen.
    pub min_cpus: usize,
    /// Runs a piece of it on the CPU with that number, the one it is called on. Called again and
    /// again by the CPU's main loop; a workload that hangs does not return.
    pub step: fn(cpu: usize) -> Next,
}

/// What the main loop does after a step.
pub enum Next {
    /// The next step at once.
    Again,
    /// The next step after an interrupt.
    Wait,
}

/// What runs where none is named.
pub const DEFAULT: &Workload = &idle::WORKLOAD;

static ALL: &[&Workload] = &[
    &abba_deadlock::WORKLOAD,
    &ap_never_arrives::WORKLOAD,
    &ap_never_starts::WORKLOAD,
    &boot_stall::WORKLOAD,
    &busy::WORKLOAD,
    &call_deadlock::WORKLOAD,
    &corrupt_stack::WORKLOAD,
    &deep_stack::WORKLOAD,
    &double_begin::WORKLOAD,
    &exit::WORKLOAD,
    &forgotten_unlock::WORKLOAD,
    &halt_irqs_off::WORKLOAD,
    &heavy_printk::WORKLOAD,
    &holder_halts::WORKLOAD,
    &holder_spins::WORKLOAD,
    &idle::WORKLOAD,
    &interrupt_storm::WORKLOAD,
    &ipi_wait::WORKLOAD,
    &livelock::WORKLOAD,
    &lock_contention::WORKLOAD,
    &long_critical_section::WORKLOAD,
    &long_irqs_off::WORKLOAD,
    &lost_wakeup::WORKLOAD,
    &many_ipis::WORKLOAD,
    &missed_timer::WORKLOAD,
    &mutex_contention::WORKLOAD,
    &mutex_deadlock::WORKLOAD,
    &mutex_holder_spins::WORKLOAD,
    &nested_panic::WORKLOAD,
    &nmi_stuck::WORKLOAD,
    &null_deref::WORKLOAD,
    &panic::WORKLOAD,
    &panic_others_spin::WORKLOAD,
    &partial_line::WORKLOAD,
    &pause_and_go::WORKLOAD,
    &printk_lock_held::WORKLOAD,
    &self_deadlock::WORKLOAD,
    &sleeping_holder::WORKLOAD,
    &spin_in_calls::WORKLOAD,
    &spin_irqs_off::WORKLOAD,
    &spin_irqs_on::WORKLOAD,
    &sysrq_storm::WORKLOAD,
    &task_hog::WORKLOAD,
    &tasks::WORKLOAD,
    &three_lock_cycle::WORKLOAD,
    &ticket_starved::WORKLOAD,
    &triple_fault::WORKLOAD,
];

/// The workload with that name.
pub fn find(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|workload| workload.name == name).copied()
}

/// The CPU that a workload with one culprit picks: neither the first nor the last where there is
/// a choice, so that a tool which mixes up CPUs is found out.
fn is_culprit(cpu: usize) -> bool {
    cpu == crate::machine::possible_cpus() / 2
}

/// Where several CPUs wait for each other, as often as they like: what must not be left to luck.
struct Meeting {
    arrivals: AtomicU32,
}

impl Meeting {
    const fn new() -> Self {
        Self { arrivals: AtomicU32::new(0) }
    }

    /// Waits until `cpus` are here.
    fn meet(&self, cpus: usize) {
        let cpus = cpus as u32;
        let all_here = (self.arrivals.fetch_add(1, Relaxed) / cpus + 1) * cpus;
        while self.arrivals.load(Relaxed) < all_here {
            core::hint::spin_loop();
        }
    }
}

/// Something that is done by the first to come, and not again.
struct Once {
    done: AtomicBool,
}

impl Once {
    const fn new() -> Self {
        Self { done: AtomicBool::new(false) }
    }

    fn first(&self) -> bool {
        !self.done.swap(true, Relaxed)
    }
}

/// How long the healthy workloads are that get on just in time, in nanoseconds: a little less than what
/// the host takes for a hang.
pub static SECTION_NS: AtomicU64 = AtomicU64::new(0);

/// Keeps the CPU busy for that many nanoseconds of its own: of the time in which the host does not run
/// it, hardly any counts. That is told by how far apart two readings of the clock are.
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

/// Computes nothing until somebody ends the VM. `whose` is the caller's own workload: it keeps the
/// compiler from making one function of all those that do nothing but spin, and a backtrace from
/// naming another one than the source does.
#[inline(always)]
fn spin_for_good(whose: &'static Workload) -> ! {
    loop {
        core::hint::black_box(whose);
        core::hint::spin_loop();
    }
}
