//! The local APIC, through memory (xAPIC) or registers (x2APIC): this CPU's ID, interrupts between CPUs,
//! the timer, end of interrupt (SDM vol. 3, chapter 11).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::instructions::{cpuid, irq_restore, irq_save, out_byte, read_msr, write_msr};
use super::layout::{LOCAL_APIC, direct_map, vector};

const MSR_APIC_BASE: u32 = 0x1b;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

/// Registers by their offset in memory. In x2APIC mode, a register's MSR number is `0x800 + offset / 16`.
#[derive(Clone, Copy)]
enum Register {
    Id = 0x20,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    InterruptCommand = 0x300,
    InterruptCommandHigh = 0x310,
    TimerVector = 0x320,
    Lint0 = 0x350,
    Lint1 = 0x360,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivide = 0x3e0,
}

/// True in x2APIC mode. Set once, before other CPUs start.
static X2APIC: AtomicBool = AtomicBool::new(false);

/// Chooses x2APIC mode for all CPUs if the processor has it and `allow_x2apic` is true, or if it is on
/// already.
pub fn choose_mode(allow_x2apic: bool) {
    let supported = cpuid(1).ecx & 1 << 21 != 0;
    // SAFETY: architectural.
    let already = unsafe { read_msr(MSR_APIC_BASE) } & BASE_X2APIC != 0;
    X2APIC.store(already || supported && allow_x2apic, Relaxed);
}

/// Masks every line of the old interrupt controllers, the 8259s. Firmware may have left an interrupt
/// requested there. If the CPU takes it after its LINT0 has been masked, it gets no vector, and QEMU's
/// TCG turns vector -1 into a general protection fault. On a machine without these controllers, the
/// writes have no effect.
pub fn silence_old_controllers() {
    const MASKS: [u16; 2] = [0x21, 0xa1];
    const ALL: u8 = 0xff;
    MASKS.into_iter().for_each(|port| out_byte(port, ALL));
}

/// Returns the highest APIC ID that an interrupt can be sent to.
pub fn highest_id() -> u32 {
    if X2APIC.load(Relaxed) { u32::MAX - 1 } else { 254 }
}

/// Turns this CPU's APIC on, in the mode that was chosen. Masks the line of the old interrupt controller
/// (LINT0), which firmware may have left open, and opens the NMI line (LINT1) on every CPU, so that
/// QEMU's `inject-nmi` reaches all of them.
pub fn enable() {
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    const MASKED: u32 = 1 << 16;
    const NMI: u32 = 4 << 8;
    // SAFETY: architectural; the base address is left as it is.
    unsafe {
        let base = read_msr(MSR_APIC_BASE) | BASE_ENABLE;
        let mode = if X2APIC.load(Relaxed) { BASE_X2APIC } else { 0 };
        write_msr(MSR_APIC_BASE, base | mode);
    }
    write(Register::Spurious, SOFTWARE_ENABLE | u32::from(vector::SPURIOUS));
    write(Register::Lint0, MASKED);
    write(Register::Lint1, NMI);
}

/// Returns this CPU's APIC ID.
pub fn id() -> u32 {
    let id = read(Register::Id);
    if X2APIC.load(Relaxed) { id } else { id >> 24 }
}

/// Signals the end of the interrupt in service (EOI).
pub fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Interrupts that one CPU can send to another (SDM vol. 3, 11.6.1).
#[derive(Clone, Copy)]
pub enum Ipi {
    Nmi,
    Init,
    /// Start-up IPI: start in real mode at this page number.
    StartUp(u8),
    /// Maskable interrupt with this vector.
    Vector(u8),
}

/// Sends `ipi` to the CPU with the APIC ID `destination`.
pub fn send(destination: u32, ipi: Ipi) {
    const ASSERT: u32 = 1 << 14;
    let command = ASSERT
        | match ipi {
            Ipi::Nmi => 4 << 8,
            Ipi::Init => 5 << 8,
            Ipi::StartUp(page) => 6 << 8 | u32::from(page),
            Ipi::Vector(vector) => u32::from(vector),
        };
    if X2APIC.load(Relaxed) {
        let value = u64::from(destination) << 32 | u64::from(command);
        // SAFETY: x2APIC mode is on: the register exists. What the other CPU does then is sound
        // by itself: an NMI handler, or ap_start.
        unsafe { write_msr(0x800 + Register::InterruptCommand as u32 / 16, value) };
    } else {
        // Otherwise an interrupt handler that sends in between would overwrite the destination.
        let flags = irq_save();
        write(Register::InterruptCommandHigh, destination << 24);
        write(Register::InterruptCommand, command);
        irq_restore(flags);
    }
}

/// Value of the divide register that divides the bus clock by 16.
const TIMER_DIVIDE: u32 = 3;
/// Divisor of the bus clock that [`TIMER_DIVIDE`] selects.
pub const TIMER_DIVISOR: u64 = 16;

/// Starts a periodic timer interrupt, every `count` cycles of the divided bus clock.
pub fn start_periodic_timer(count: u32) {
    const PERIODIC: u32 = 1 << 17;
    write(Register::TimerDivide, TIMER_DIVIDE);
    write(Register::TimerVector, PERIODIC | u32::from(vector::TIMER));
    write(Register::TimerInitialCount, count);
}

/// Starts a timer interrupt after `count` cycles of the divided bus clock. No other follows it.
pub fn start_one_shot_timer(count: u32) {
    write(Register::TimerDivide, TIMER_DIVIDE);
    write(Register::TimerVector, u32::from(vector::TIMER));
    write(Register::TimerInitialCount, count);
}

/// Stops this CPU's timer interrupt.
pub fn stop_timer() {
    write(Register::TimerInitialCount, 0);
}

/// Runs `wait` and returns the number of cycles of the divided bus clock that passed meanwhile. The timer
/// interrupt stays masked.
pub fn count_while(wait: impl FnOnce()) -> u32 {
    const MASKED: u32 = 1 << 16;
    write(Register::TimerDivide, TIMER_DIVIDE);
    write(Register::TimerVector, MASKED | u32::from(vector::TIMER));
    write(Register::TimerInitialCount, u32::MAX);
    wait();
    let count = u32::MAX - read(Register::TimerCurrentCount);
    write(Register::TimerInitialCount, 0);
    count
}

fn read(register: Register) -> u32 {
    if X2APIC.load(Relaxed) {
        // SAFETY: x2APIC mode is on: these registers exist.
        unsafe { read_msr(0x800 + register as u32 / 16) as u32 }
    } else {
        let address = direct_map(LOCAL_APIC) + register as usize;
        // SAFETY: the registers' page is mapped, uncached.
        unsafe { (address as *const u32).read_volatile() }
    }
}

fn write(register: Register, value: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: x2APIC mode is on: these registers exist, and touch no memory.
        unsafe { write_msr(0x800 + register as u32 / 16, u64::from(value)) }
    } else {
        let address = direct_map(LOCAL_APIC) + register as usize;
        // SAFETY: the registers' page is mapped, uncached.
        unsafe { (address as *mut u32).write_volatile(value) }
    }
}
