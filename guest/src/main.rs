//! The bundled guest kernel: small enough to boot in milliseconds, real enough to hang.
//!
//! The kernel boots by PVH ([`arch`]), starts every CPU, and runs `cpu_main` on each: a heartbeat, then a step
//! of the workload that the kernel parameter `workload=` names ([`workload`]). Most workloads hang in a
//! way of their own. Each CPU answers NMIs with its registers and call trace, printed into its own
//! buffer; that protocol is in the library half of this crate, which is architecture-neutral. Workloads
//! may start kernel threads ([`kthread`]), which the main loops run between their steps. The kernel has
//! no processes and no heap.
//!
//! `build.rs` at the root of the repository builds this for bare metal and embeds it.

#![no_std]
#![no_main]

mod arch;
mod debugger;
mod kthread;
mod panic;
mod parameters;
mod sysrq;
mod workload;

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use core::panic::Location;

use arch::x86_64 as machine;
use machine::X86;
use nmiscope_guest::abi;
use nmiscope_guest::sync::{Wait, WaitFor};
use parameters::KernelParameters;
use workload::{Next, Workload};

/// The library's printk, on this machine.
mod printk {
    pub use nmiscope_guest::printk::{Busy, LogLevel, Printk};

    use crate::machine::X86;

    /// The kernel's log, console and reservation. The host finds them by this name.
    #[unsafe(no_mangle)]
    pub static PRINTK: Printk<X86> = Printk::new(X86);

    /// Prints a line at a level.
    #[macro_export]
    #[doc(hidden)]
    macro_rules! print_at {
        ($level:ident, $($argument:tt)+) => {{
            $crate::printk::PRINTK.vprintk(
                $crate::printk::LogLevel::$level,
                format_args!("{}\n", format_args!($($argument)+)),
            );
        }};
    }

    /// Prints a line at the level of errors.
    #[macro_export]
    macro_rules! pr_err { ($($argument:tt)+) => { $crate::print_at!(Error, $($argument)+) } }
    /// Prints a line at the level of warnings.
    #[macro_export]
    macro_rules! pr_warn { ($($argument:tt)+) => { $crate::print_at!(Warning, $($argument)+) } }
    /// Prints a line at the informational level.
    #[macro_export]
    macro_rules! pr_info { ($($argument:tt)+) => { $crate::print_at!(Info, $($argument)+) } }
}

/// The library's locks, on this machine.
mod sync {
    use crate::machine::X86;

    /// The library's [`SpinLock`](nmiscope_guest::sync::SpinLock), for short sections.
    pub type SpinLock<T> = nmiscope_guest::sync::SpinLock<T, X86>;
    /// The library's [`TicketLock`](nmiscope_guest::sync::TicketLock), fair to its waiters.
    pub type TicketLock<T> = nmiscope_guest::sync::TicketLock<T, X86>;
    /// The library's [`Mutex`](nmiscope_guest::sched::Mutex), which tasks sleep for.
    pub type Mutex<T> = nmiscope_guest::sched::Mutex<T, X86>;
    /// The library's [`WaitQueue`](nmiscope_guest::sched::WaitQueue) of sleeping tasks.
    pub type WaitQueue = nmiscope_guest::sched::WaitQueue<X86>;
}

machine::percpu! {
    /// Count of turns of the CPU's main loop. It stops growing when a step of the workload does not
    /// return, or a task does not yield.
    static loop_heartbeat: AtomicU64 = AtomicU64::new(0);
    /// Time of the last turn of the CPU's main loop, in nanoseconds since boot.
    static loop_ns: AtomicU64 = AtomicU64::new(0);
    /// 1 once the CPU has reached `cpu_main`, else 0.
    static arrived: AtomicU32 = AtomicU32::new(0);
    /// Count of work items given to this CPU. Any CPU may add to it.
    pub static work_queued: AtomicU64 = AtomicU64::new(0);
    /// Count of work items that this CPU has finished.
    pub static work_done: AtomicU64 = AtomicU64::new(0);
}

/// State of the kernel while it boots.
const SYSTEM_BOOTING: u32 = 0;
/// State of the kernel once all CPUs are up and run the workload.
const SYSTEM_RUNNING: u32 = 1;

/// State of the kernel: one of `SYSTEM_*`.
static SYSTEM_STATE: AtomicU32 = AtomicU32::new(SYSTEM_BOOTING);

/// The workload that the CPUs run once [`SYSTEM_STATE`] is `SYSTEM_RUNNING`.
static WORKLOAD: AtomicPtr<Workload> = AtomicPtr::new(core::ptr::null_mut());

/// Boots the kernel. Called by boot.S on the boot CPU, with the physical address of the start info.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u64) -> ! {
    // SAFETY: boot.S passes on EBX.
    let start_info = unsafe { machine::StartInfo::at(start_info) };
    workload::boot_stall::stall_if_asked_to(start_info.command_line());
    machine::init_console();
    let parameters = KernelParameters::parse(start_info.command_line());
    let possible =
        machine::count_possible_cpus(start_info, parameters.nr_cpus, parameters.allow_x2apic);
    machine::init_memory(start_info, possible);
    parameters.apply();
    WORKLOAD.store((&raw const *parameters.workload).cast_mut(), Relaxed);
    machine::run_boot_cpu()
}

/// Reports that the boot is over, and checks that the workload has enough CPUs. Called on the boot CPU
/// after the others have started, or have failed to.
fn all_cpus_up(online: usize) {
    let workload = the_workload();
    pr_info!("ready: {online} CPUs, workload {}", workload.name);
    if online < workload.min_cpus {
        pr_err!("workload {} needs at least {} CPUs", workload.name, workload.min_cpus);
        machine::debug_exit(abi::EXIT_BAD_PARAMETER);
    }
}

/// Waits until all online CPUs are in `cpu_main`, so that a workload that hangs one of them finds the
/// others running.
#[track_caller]
fn start_together(cpu: usize) {
    workload::ap_never_arrives::stall_if_it_runs(the_workload(), cpu);
    if cpu != 0 {
        arrived.this().store(1, Relaxed);
        while SYSTEM_STATE.load(Relaxed) != SYSTEM_RUNNING {
            machine::wait_for_interrupt();
        }
        return;
    }
    let others = machine::online_cpus().filter(|&cpu| cpu != 0);
    let waiting = Wait::begin_on_this_cpu::<X86>(WaitFor::CpuOnline(0), Location::caller());
    for other in others {
        waiting.now_for_cpu(other);
        while arrived.on(other).load(Relaxed) == 0 {
            core::hint::spin_loop();
        }
    }
    drop(waiting);
    // In this order: a workload may end the machine at once, and it was ready before.
    machine::post(abi::POST_READY);
    SYSTEM_STATE.store(SYSTEM_RUNNING, Relaxed);
}

fn the_workload() -> &'static Workload {
    // SAFETY: `kernel_main` has stored a pointer to a static before any other CPU started and
    // before this one came here.
    unsafe { &*WORKLOAD.load(Relaxed) }
}

/// Runs a CPU's main loop, for as long as the VM runs.
fn cpu_main(cpu: usize) -> ! {
    start_together(cpu);
    let workload = the_workload();
    let (heartbeat, at) = (loop_heartbeat.this(), loop_ns.this());
    loop {
        at.store(machine::clock_ns(), Relaxed);
        heartbeat.store(heartbeat.load(Relaxed).wrapping_add(1), Relaxed);
        let next = (workload.step)(cpu);
        kthread::run_ready();
        match next {
            Next::Again => {}
            Next::Wait => kthread::wait_for_interrupt(),
        }
    }
}
