//! Bringing up all CPUs: numbering the possible ones (MADT), starting the others (INIT, start-up IPIs;
//! SDM vol. 3, 9.4), and the set-up of each CPU before it enters the workload.

use core::panic::Location;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use nmiscope_guest::sync::{self, Call, Wait, WaitFor};

use super::acpi::{Madt, MadtEntry};
use super::instructions::cpuid;
use super::layout::{DIRECT_MAP, MAX_CPUS, TRAMPOLINE, vector};
use super::memory::{CpuStack, drop_identity_mapping};
use super::percpu::percpu;
use super::platform::X86;
use super::possible_cpus::{Numbered, apic_id, possible_cpus};
use super::pvh::StartInfo;
use super::{apic, descriptors, ioapic, kvm_clock, percpu as per_cpu, serial, time};
use crate::workload::ap_never_starts;
use crate::{cpu_main, pr_warn};

/// Physical address of the I/O APIC for the legacy interrupts; 0 if there is none.
static IO_APIC: AtomicU64 = AtomicU64::new(0);

percpu! {
    /// 1 once the CPU is online, that is, runs this kernel; 0 before.
    pub static cpu_online: AtomicU32 = AtomicU32::new(0);
}

/// Iterates over the CPUs that are online.
pub fn online_cpus() -> impl Iterator<Item = usize> + Clone {
    (0..possible_cpus()).filter(|&cpu| is_online(cpu))
}

/// Sets this CPU's own mark: online while it runs the kernel.
pub fn set_online(online: bool) {
    cpu_online.this().store(online.into(), Release);
}

fn is_online(cpu: usize) -> bool {
    cpu_online.on(cpu).load(Acquire) != 0
}

/// Numbers the possible CPUs, this one first, then those of the firmware's table in its order, at most
/// `limit`; returns their number. Runs first, because per-CPU data needs that number.
pub fn count_possible_cpus(start_info: &StartInfo, limit: usize, allow_x2apic: bool) -> usize {
    apic::choose_mode(allow_x2apic);
    apic::silence_old_controllers();
    apic::enable();
    let this = apic::id();
    let mut numbered = Numbered::boot_cpu(this);
    for entry in Madt::find(start_info.rsdp()).into_iter().flat_map(Madt::entries) {
        match entry {
            MadtEntry::Cpu(id) if id != this && id <= apic::highest_id() => {
                if numbered.count() < limit.clamp(1, MAX_CPUS) {
                    numbered.add(id);
                }
            }
            MadtEntry::IoApic(address, 0) => IO_APIC.store(u64::from(address), Relaxed),
            MadtEntry::Cpu(_) | MadtEntry::IoApic(..) => {}
        }
    }
    numbered.publish()
}

/// Sets up what only the boot CPU needs before it starts the others: descriptors, clocks, the serial
/// port's interrupt.
pub fn prepare_boot_cpu() {
    descriptors::load(0);
    kvm_clock::enable();
    time::init();
    let io_apic = IO_APIC.load(Relaxed);
    if io_apic != 0 {
        ioapic::route(io_apic, serial::INTERRUPT, vector::SERIAL, apic_id(0));
        serial::enable_receive_interrupt();
    }
}

/// Starts all other possible CPUs at once and waits for them. Returns the number of CPUs that are online
/// then, this one included.
pub fn start_others() -> usize {
    let others = 1..possible_cpus();
    if others.is_empty() {
        return 1;
    }
    copy_trampoline();
    let workload = crate::the_workload();
    let startable = |&cpu: &usize| ap_never_starts::can_be_started(workload, cpu);
    for cpu in others.clone().filter(startable) {
        apic::send(apic_id(cpu), apic::Ipi::Init);
    }
    // Hardware needs 10 ms here; virtual CPUs need no delay.
    const HYPERVISOR: u32 = 1 << 31;
    if cpuid(1).ecx & HYPERVISOR == 0 {
        wait_until(10_000_000, || false);
    }
    // A start-up IPI is lost if its CPU does not wait for one yet, so it is sent again until the CPU is
    // online. A running CPU ignores it.
    const ROUNDS: u32 = 20;
    const ROUND_NS: u64 = 100_000_000;
    let is_online = |cpu: usize| cpu_online.on(cpu).load(Acquire) != 0;
    let mut first_missing = others.start;
    let waiting =
        Wait::begin_on_this_cpu::<X86>(WaitFor::CpuOnline(first_missing), Location::caller());
    let rounds = if ap_never_starts::is(workload) { u32::MAX } else { ROUNDS };
    for _ in 0..rounds {
        for cpu in others.clone().filter(startable).filter(|&cpu| !is_online(cpu)) {
            apic::send(apic_id(cpu), apic::Ipi::StartUp((TRAMPOLINE >> 12) as u8));
        }
        let all_online = wait_until(ROUND_NS, || {
            while first_missing < others.end && is_online(first_missing) {
                first_missing += 1;
                waiting.now_for_cpu(first_missing);
            }
            first_missing == others.end
        });
        if all_online {
            break;
        }
    }
    drop(waiting);
    for cpu in others.clone().filter(|&cpu| !is_online(cpu)) {
        pr_warn!("cpu{cpu} (APIC ID {}) did not start", apic_id(cpu));
    }
    // Plus this CPU.
    others.filter(|&cpu| is_online(cpu)).count() + 1
}

/// Runs `function` with `argument` on `cpu`, in an interrupt handler, and waits for it without a bound.
/// Must not be called from an interrupt handler.
#[inline(never)]
#[track_caller]
pub fn smp_call_function_single(cpu: usize, function: fn(usize), argument: usize) {
    sync::smp_call_function_single::<X86>(cpu, Call { function, argument });
}

/// Runs `function` with `argument` on all other online CPUs, as [`smp_call_function_single`] does.
#[inline(never)]
#[track_caller]
pub fn smp_call_function(function: fn(usize), argument: usize) {
    sync::smp_call_function_many::<X86>(online_cpus(), Call { function, argument });
}

/// Sends `cpu` a reschedule interrupt, which ends its halt.
pub fn send_reschedule(cpu: usize) {
    apic::send(apic_id(cpu), apic::Ipi::Vector(vector::RESCHEDULE));
}

/// Waits until `done` returns true; returns false if it has not after `nanoseconds`.
pub fn wait_until(nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = time::clock_ns();
    loop {
        if done() {
            return true;
        }
        if time::clock_ns() - start > nanoseconds {
            return false;
        }
        core::hint::spin_loop();
    }
}

fn copy_trampoline() {
    unsafe extern "C" {
        static trampoline_start: u8;
        static trampoline_end: u8;
    }
    let start = &raw const trampoline_start;
    let size = &raw const trampoline_end as usize - start as usize;
    // SAFETY: conventional memory below 640 KiB that the loader is done with and the allocator
    // never hands out; boot.S lays out what is copied for just this address.
    unsafe { core::ptr::copy_nonoverlapping(start, (DIRECT_MAP + TRAMPOLINE) as *mut u8, size) };
}

/// Leaves the boot stack for the boot CPU's own, and enters `cpu_main` there.
pub fn run_boot_cpu() -> ! {
    unsafe extern "C" {
        fn run_on_stack(entry: extern "C" fn(usize) -> !, argument: usize, stack_top: usize) -> !;
    }
    let (_, top) = CpuStack::Main.bounds(0);
    drop_identity_mapping();
    // SAFETY: the stack has been mapped (memory.rs) and is unused; nothing on the old one is needed
    // again.
    unsafe { run_on_stack(boot_cpu_main, 0, top as usize) }
}

extern "C" fn boot_cpu_main(_: usize) -> ! {
    prepare_boot_cpu();
    // From here on, this CPU can record what it waits for, and take NMIs.
    cpu_online.this().store(1, Release);
    let online = start_others();
    crate::all_cpus_up(online);
    enter(0)
}

/// Sets up an application processor. Called by `ap_start` in boot.S, on the CPU's own main stack.
#[unsafe(no_mangle)]
extern "C" fn ap_main(cpu: usize) -> ! {
    per_cpu::load(cpu);
    descriptors::load(cpu);
    apic::enable();
    kvm_clock::enable();
    enter(cpu)
}

fn enter(cpu: usize) -> ! {
    cpu_online.this().store(1, Release);
    time::start_tick(possible_cpus());
    super::instructions::interrupts_on();
    cpu_main(cpu)
}
