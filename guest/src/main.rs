//! The bundled guest kernel: small enough to boot in milliseconds, real enough to hang.
//!
//! It boots by PVH ([`arch`]), starts every CPU, and has each run `cpu_main`: a heartbeat, then a
//! step of the workload that the kernel parameter `workload=` names ([`workload`]). Most workloads
//! hang in a way of their own. Meanwhile each CPU answers NMIs with its registers and call trace,
//! printed into its own buffer; the protocol for that is in the library half of this crate, which
//! knows no machine. Workloads that want some make kernel threads ([`kthread`]), which the main loops
//! run between their steps. There are no processes and no allocator.
//!
//! `build.rs` at the root of the repository builds this for bare metal and embeds it.

#![no_std]
#![no_main]

mod arch;
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

/// printk, as the library has it, on this machine.
mod printk {
    pub use nmiscope_guest::printk::{Busy, LogLevel, Printk};

    use crate::machine::X86;

    /// The log, the console and the reservation. The host finds it by this name.
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

    /// Prints a line about an error.
    #[macro_export]
    macro_rules! pr_err { ($($argument:tt)+) => { $crate::print_at!(Error, $($argument)+) } }
    /// Prints a warning line.
    #[macro_export]
    macro_rules! pr_warn { ($($argument:tt)+) => { $crate::print_at!(Warning, $($argument)+) } }
    /// Prints a line for those who want to know.
    #[macro_export]
    macro_rules! pr_info { ($($argument:tt)+) => { $crate::print_at!(Info, $($argument)+) } }
}

/// The library's locks, on this machine.
mod sync {
    use crate::machine::X86;

    /// A lock for short sections.
    pub type SpinLock<T> = nmiscope_guest::sync::SpinLock<T, X86>;
    /// A lock whose waiters get it in their order.
    pub type TicketLock<T> = nmiscope_guest::sync::TicketLock<T, X86>;
    /// A lock that tasks sleep for.
    pub type Mutex<T> = nmiscope_guest::sched::Mutex<T, X86>;
    /// Tasks that wait for something to happen.
    pub type WaitQueue = nmiscope_guest::sched::WaitQueue<X86>;
}

machine::percpu! {
    /// Advanced each time round the CPU's main loop: stands still on a CPU whose work does not
    /// come to an end, a task's that does not yield among it.
    static loop_heartbeat: AtomicU64 = AtomicU64::new(0);
    /// The time at which the CPU's main loop came round last, in nanoseconds since boot.
    static loop_ns: AtomicU64 = AtomicU64::new(0);
    /// Whether the CPU has got as far as `cpu_main`.
    static arrived: AtomicU32 = AtomicU32::new(0);
    /// Items of work that were given to this CPU. Anyone may add.
    pub static work_queued: AtomicU64 = AtomicU64::new(0);
    /// Those of them that it has finished.
    pub static work_done: AtomicU64 = AtomicU64::new(0);
}

/// The kernel boots.
const SYSTEM_BOOTING: u32 = 0;
/// All CPUs are up and run the workload.
const SYSTEM_RUNNING: u32 = 1;

/// How far the kernel has come.
static SYSTEM_STATE: AtomicU32 = AtomicU32::new(SYSTEM_BOOTING);

/// What the CPUs run, once [`SYSTEM_STATE`] says so.
static WORKLOAD: AtomicPtr<Workload> = AtomicPtr::new(core::ptr::null_mut());

/// From boot.S, on the boot CPU, with the physical address that the loader passed.
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

/// On the boot CPU, when the others have started, or have not.
fn all_cpus_up(online: usize) {
    let workload = the_workload();
    pr_info!("ready: {online} CPUs, workload {}", workload.name);
    if online < workload.min_cpus {
        pr_err!("workload {} needs at least {} CPUs", workload.name, workload.min_cpus);
        machine::debug_exit(abi::EXIT_BAD_PARAMETER);
    }
}

/// Waits until all CPUs that run are in `cpu_main`, so that whatever the workload does to one of
/// them, the others are there.
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

/// What every CPU does for as long as it runs.
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
