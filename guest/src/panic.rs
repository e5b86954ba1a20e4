//! Kernel panics: print the message and the call trace, then end the VM.

use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nmiscope_guest::abi;

use crate::machine;
use crate::printk::{LogLevel, PRINTK};

/// Number plus one of the CPU that panicked first; 0 while none has. The host reads it by this name.
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
        // A panic while this CPU's own panic is printed.
        Err(first) if first == this => end(),
        // Another CPU panicked first; only its message is printed.
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

/// Ends the VM with the exit code of a panic.
pub fn end() -> ! {
    machine::debug_exit(abi::EXIT_PANIC)
}

/// Prints a message from a broken kernel: waits for locks only for a bounded time, and ignores the
/// diversion of printk in an NMI handler.
pub fn print_last_words(text: Arguments<'_>) {
    PRINTK.panic_print(LogLevel::Emergency, text);
}
