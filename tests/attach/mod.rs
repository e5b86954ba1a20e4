//! `nmiscope attach` and real QEMUs under TCG, with the bundled guest in them.
//!
//! | module | holds |
//! |---|---|
//! | `same_report` | the reports of one workload against each other: live, core, QEMU's dump, attach |
//! | `core` | the core of an attach against its report |
//! | `resume` | that no guest stays stopped, whatever happens to the tool, and that one that was does |
//! | `refused` | what cannot be attached to, by message and exit code |
//! | `unprivileged` | memory through the monitor, where the process may not be read |
//! | `vm` | the QEMU of a test, and a second client of it |

mod core;
mod refused;
mod resume;
mod same_report;
mod unprivileged;
mod vm;
