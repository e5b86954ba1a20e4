//! What lies in a guest's memory: one adapter per guest kernel, which finds its heartbeats, its
//! reservation and its NMI buffers by symbol and type.
//!
//! Session and capture speak to [`Kernel`] and to no guest directly. The addresses come from the
//! image's debug information, the values from the guest, which may have put anything there.

mod bundled;
mod state;
mod symbols;

pub use bundled::{
    BufferOwner, Bundled, CpuPlaces, Depth, Holder, Located, ReservationPlace, SeqBuf, SeqBufPlace,
};

pub use state::{CpuActivity, KernelState, Lock, LockKind, Site, Task, TaskState, Wait, WaitFor};
pub use symbols::{Symbols, WithVariables};

use nmiscope_machine::{PhysicalMemory, Registers};
use nmiscope_symbolizer::Image;

/// The guest kernels whose structures are known.
#[derive(Debug)]
pub enum Kernel {
    /// nmiscope's own.
    Bundled(Box<Bundled>),
    /// Any other. There is nothing to watch and no buffer to read, and it says why.
    Unknown {
        /// What was not found.
        reason: String,
    },
}

impl Kernel {
    /// Looks for the structures of the known kernels in `image`.
    pub fn recognise(image: &Image<'_>) -> Self {
        // A name is found faster than it is found out that there are no such types, in hundreds of
        // megabytes of them.
        if image.symbol(Bundled::MARK).is_none() {
            return Self::Unknown { reason: format!("the image has no symbol {}", Bundled::MARK) };
        }
        match Bundled::find(image) {
            Ok(bundled) => Self::Bundled(Box::new(bundled)),
            Err(error) => Self::Unknown { reason: crate::error_chain(&error) },
        }
    }

    /// Finds the structures in a guest's memory; see [`Bundled::locate`].
    ///
    /// # Errors
    /// Why they are not to be found.
    pub fn locate(
        &self,
        memory: &dyn PhysicalMemory,
        registers: impl IntoIterator<Item = Result<Registers, String>>,
    ) -> Result<Located, String> {
        match self {
            Self::Bundled(bundled) => bundled.locate(memory, registers),
            Self::Unknown { reason } => Err(reason.clone()),
        }
    }
}
