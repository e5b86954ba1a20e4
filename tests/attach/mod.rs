//! Tests of `nmiscope attach` with real QEMUs under TCG, which run the bundled guest.
//!
//! | module | holds |
//! |---|---|
//! | `same_report` | equal reports of one workload: live, core, QEMU's dump, attach |
//! | `core` | the core of an attach, compared with its report |
//! | `resume` | the guest runs after the tool has ended in any way; a guest stopped before stays stopped |
//! | `refused` | VMs that cannot be attached to, with message and exit code |
//! | `process` | the tool's own process: standard output, a core that fails, a signal |
//! | `unprivileged` | memory through the monitor, without access to the process |
//! | `vm` | the QEMU of a test, with a monitor for the test |

mod core;
mod process;
mod refused;
mod resume;
mod same_report;
mod unprivileged;
mod vm;
