//! The keys of the serial line that the kernel answers from its interrupt handler, whatever its
//! CPUs are doing: Linux's "magic SysRq", without the magic.

use crate::machine;
use crate::printk::{Level, PRINTK};

const HELP: &str = "sysrq: l shows the call traces of all CPUs, h shows this";

/// All messages reach the console.
const VERBOSE: u32 = 8;

/// Acts on a key. On the CPU that takes the serial port's interrupt, in its handler.
pub fn handle(key: u8) {
    match key {
        b'l' => {
            print(format_args!("sysrq: call traces of all CPUs"));
            let loglevel = PRINTK.console_loglevel();
            PRINTK.set_console_loglevel(VERBOSE);
            let result = machine::trigger_all_cpu_backtrace();
            PRINTK.set_console_loglevel(loglevel);
            if let Err(busy) = result {
                print(format_args!("sysrq: {busy}, try again later"));
            }
        }
        b'h' => print(format_args!("{HELP}")),
        b'\r' | b'\n' => {}
        key => print(format_args!("sysrq: no such key '{}'. {HELP}", key.escape_ascii())),
    }
}

/// Whatever the loglevel: someone has asked.
fn print(text: core::fmt::Arguments<'_>) {
    PRINTK.vprintk(Level::Emergency, format_args!("{text}\n"));
}
