//! Choice of the stacks in a report, and of their variables, as options of the command line.
//!
//! Owns the choice; refuses to own how a kernel is read to a depth (`kernel`). Used for cores, dumps and attached VMs,
//! whose kernels may have thousands of tasks.

use clap::ValueEnum;
use nmiscope_report::Backtrace;

use crate::kernel::Depth;

/// Choice of the stacks in a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StackChoice {
    /// True to read the arguments and local variables of frames.
    pub variables: bool,
    /// Tasks whose stacks are wanted.
    pub tasks: TaskChoice,
}

/// Tasks whose stacks are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TaskChoice {
    /// Tasks that may hang: blocked, or ready to run
    #[default]
    Blocked,
    /// Tasks that wait for work or events too
    All,
    /// No tasks but those that hangs name
    None,
}

impl TaskChoice {
    /// Returns the depth to which the kernel's state is read. Hangs of tasks are found whatever is shown.
    pub(super) fn depth(self) -> Depth {
        match self {
            Self::Blocked | Self::None => Depth::Stuck,
            Self::All => Depth::All,
        }
    }

    /// Removes the tasks that are not wanted.
    pub(super) fn apply(self, backtrace: &mut Backtrace) {
        if self == Self::None {
            backtrace.tasks.clear();
        }
    }
}
