//! Keys on the serial line that the kernel answers in its interrupt handler, whatever its CPUs are
//! doing: like Linux's "magic SysRq".

use crate::printk::PRINTK;
use crate::{machine, pr_info};

const HELP: &str = "sysrq: l shows the call traces of all CPUs, h shows this";

/// Console loglevel at which all messages reach the console.
const VERBOSE: u32 = 8;

/// Handles a key, in the interrupt handler of the CPU that takes the serial port's interrupt. The answer
/// reaches the console at any loglevel.
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
