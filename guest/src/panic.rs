//! The end of the kernel: says why, shows the way there, and tells the VMM.

use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::abi;

use crate::machine;
use crate::printk::{Level, PRINTK};

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::interrupts_off();
    let cpu = machine::cpu_number();
    if PANICKING.swap(true, Relaxed) {
        // The first one is at work, perhaps on this very CPU: its message is the one that counts.
        machine::halt_forever();
    }
    let place = info.location().map_or("", |location| location.file());
    let line = info.location().map_or(0, |location| location.line());
    print_last_words(format_args!(
        "Kernel panic on cpu{cpu}: {} ({place}:{line})\n",
        info.message()
    ));
    machine::print_own_trace(cpu, print_last_words);
    machine::debug_exit(abi::EXIT_PANIC)
}

/// Prints what has to be seen although the kernel is broken: waits for no lock without a bound, and
/// goes past the diversion of an NMI.
pub fn print_last_words(text: Arguments<'_>) {
    PRINTK.panic_print(Level::Emergency, text);
}
