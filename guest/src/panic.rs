//! The end of the kernel: says why, shows the way there, and tells the VMM.

use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nmiscope_guest::abi;

use crate::machine;
use crate::printk::{LogLevel, PRINTK};

/// The CPU that panicked first, plus one; 0 while none has. The host reads it by this name.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the field's name for it")]
static panic_cpu: AtomicU32 = AtomicU32::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::interrupts_off();
    let cpu = machine::cpu_number();
    let this = cpu as u32 + 1;
    match panic_cpu.compare_exchange(0, this, Relaxed, Relaxed) {
        Ok(_) => {}
        // Its own message is what it could not print.
        Err(first) if first == this => end(),
        // The first one is at work, and its message is the one that counts.
        Err(_) => machine::halt_forever(),
    }
    let place = info.location().map_or("", |location| location.file());
    let line = info.location().map_or(0, |location| location.line());
    print_last_words(format_args!(
        "Kernel panic on cpu{cpu}: {} ({place}:{line})\n",
        info.message()
    ));
    machine::print_own_trace(cpu, print_last_words);
    end()
}

/// Tells the VMM that the kernel has panicked.
pub fn end() -> ! {
    machine::debug_exit(abi::EXIT_PANIC)
}

/// Prints what has to be seen although the kernel is broken: waits for no lock without a bound, and
/// goes past the diversion of an NMI.
pub fn print_last_words(text: Arguments<'_>) {
    PRINTK.panic_print(LogLevel::Emergency, text);
}
