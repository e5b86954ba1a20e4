//! The keys of the serial line that the kernel answers from its interrupt handler, whatever its
//! CPUs are doing: Linux's "magic SysRq", without the magic.

use crate::printk::PRINTK;
use crate::{machine, pr_info};

const HELP: &str = "sysrq: l shows the call traces of all CPUs, h shows this";

/// All messages reach the console.
const VERBOSE: u32 = 8;

/// Acts on a key. On the CPU that takes the serial port's interrupt, in its handler. What it says
/// reaches the console whatever the loglevel: someone has asked.
pub fn handle(key: u8) {
    let loglevel = PRINTK.console_loglevel();
    PRINTK.set_console_loglevel(VERBOSE);
    match key {
        b'l' => {
            pr_info!("sysrq: call traces of all CPUs");
            if let Err(busy) = machine::trigger_all_cpu_backtrace() {
                pr_info!("sysrq: {busy}, try again later");
            }
        }
        b'h' => pr_info!("{HELP}"),
        b'\r' | b'\n' => {}
        key => pr_info!("sysrq: no such key '{}'. {HELP}", key.escape_ascii()),
    }
    PRINTK.set_console_loglevel(loglevel);
}
