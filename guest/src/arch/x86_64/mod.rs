//! The x86-64 half of the kernel: all of its assembly and nearly all of its unsafe code.
//!
//! The rest of the kernel reaches the machine through what is re-exported here. Start-up runs
//! `boot.S` → `kernel_main` (main.rs) → [`smp::start_others`] → `cpu_main` on every CPU.

mod acpi;
mod allocator;
mod apic;
mod backtrace;
mod descriptors;
mod instructions;
mod ioapic;
mod kvm_clock;
mod layout;
mod memory;
mod nmi;
pub mod percpu;
mod platform;
mod possible_cpus;
mod pvh;
mod serial;
mod smp;
mod stack_trace;
mod switch;
mod time;
mod trap;
mod trap_frame;

pub use backtrace::trigger_all_cpu_backtrace;
pub use instructions::{
    cause_triple_fault, halt_forever, interrupts_off, interrupts_on, wait_for_interrupt,
};
pub use memory::{init as init_memory, overwrite_own_stack};
pub use nmi::{
    DIRECT as NMI_BACKTRACE_DIRECT, send_to_self as send_nmi_to_self, set_hook as set_nmi_hook,
};
pub use percpu::cpu_number;
pub(crate) use percpu::percpu;
pub use platform::X86;
pub use possible_cpus::possible_cpus;
pub use pvh::StartInfo;
pub use serial::{init as init_console, read as read_console};
pub use smp::{
    count_possible_cpus, online_cpus, run_boot_cpu, send_reschedule, set_online, smp_call_function,
    smp_call_function_single,
};
pub use stack_trace::print_own_trace;
pub use switch::{new_task_stack, to_main as switch_to_main, to_task as switch_to_task};
pub use time::{clock_ns, next_tick_in, one_tick_in, start_tick, stop_tick};
pub use trap::{set_page_fault_hook, set_reschedule_hook, ticks};

use nmiscope_guest::abi;

core::arch::global_asm!(include_str!("boot.S"), options(att_syntax));
core::arch::global_asm!(include_str!("entry.S"), options(att_syntax));

/// Ends the VM, or QEMU with `-device isa-debug-exit`, with `code`. On a machine without that device, this
/// CPU halts for good.
pub fn debug_exit(code: u32) -> ! {
    instructions::out_dword(abi::DEBUG_EXIT_PORT, code);
    halt_forever()
}

/// Writes a POST code, which reports the boot's progress to the VMM.
pub fn post(code: u8) {
    instructions::out_byte(abi::POST_PORT, code);
}
