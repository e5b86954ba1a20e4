//! The end of the kernel: says why, shows the way there, and tells the VMM.

use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nmiscope_guest::abi;

use crate::machine;
use crate::printk::{Level, PRINTK};

/// The CPU that panicked first, plus one.
static PANICKING: AtomicUsize = AtomicUsize::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::interrupts_off();
    let cpu = machine::cpu_number();
    match PANICKING.compare_exchange(0, cpu + 1, Relaxed, Relaxed) {
        Ok(_) => {}
        // Its own message is what it could not print.
        Err(first) if first == cpu + 1 => end(),
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
    PRINTK.panic_print(Level::Emergency, text);
}
