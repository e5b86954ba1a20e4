//! What the CPUs run: one file each, and most of them hang.
//!
//! The head of each file says what happens, on which CPUs, and which functions a backtrace must
//! show, innermost first, as `Frames: WHERE: FUNCTION, FUNCTION, ...`. WHERE is a CPU's number,
//! `n/2` (half the number of CPUs, rounded down) or `others`. A FUNCTION may be two or more with `|`
//! between them, of which one is there. The tests read these lines and hold the reports against them.

mod abba_deadlock;
mod busy;
mod corrupt_stack;
mod deep_stack;
mod double_begin;
pub mod exit;
mod halt_irqs_off;
mod idle;
mod nmi_stuck;
mod null_deref;
mod panic;
mod partial_line;
mod printk_lock_held;
mod spin_irqs_off;
mod spin_irqs_on;
mod sysrq_storm;
mod tasks;
mod triple_fault;

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
    &busy::WORKLOAD,
    &corrupt_stack::WORKLOAD,
    &deep_stack::WORKLOAD,
    &double_begin::WORKLOAD,
    &exit::WORKLOAD,
    &halt_irqs_off::WORKLOAD,
    &idle::WORKLOAD,
    &nmi_stuck::WORKLOAD,
    &null_deref::WORKLOAD,
    &panic::WORKLOAD,
    &partial_line::WORKLOAD,
    &printk_lock_held::WORKLOAD,
    &spin_irqs_off::WORKLOAD,
    &spin_irqs_on::WORKLOAD,
    &sysrq_storm::WORKLOAD,
    &tasks::WORKLOAD,
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
