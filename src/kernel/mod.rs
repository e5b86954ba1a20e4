//! Kernels in a guest's memory: one adapter for each.
//!
//! Owns the seam: the traits that an adapter implements ([`KernelAdapter`], [`Located`], [`NmiBuffers`],
//! [`KernelSymbols`], [`Vocabulary`]), the neutral state that it answers with ([`KernelState`]), and which adapter a guest
//! gets. Refuses to know what is done with the answers. Session and capture speak to the traits and to
//! no kernel directly.
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `state` | CPUs, tasks, locks and waits, as all kernels have them |
//! | `symbols` | what addresses mean |
//! | `vocabulary` | what a kernel's own words mean |
//! | `log` | the kernel's log |
//! | `nmi_buffers` | the protocol of the buffers that NMI handlers answer into |
//! | `adapter` | the traits that put them together |
//! | `bundled`, `unknown` | the adapters |

mod adapter;
mod bundled;
mod log;
mod nmi_buffers;
mod state;
mod symbols;
mod unknown;
mod vocabulary;

use nmiscope_symbolizer::Image;

pub use adapter::{Depth, KernelAdapter, LocateError, Located};
use bundled::BundledKernel;
pub use bundled::{DOORBELLS, Doorbells};
pub use log::{Log, LogError, LogRecord};
pub use nmi_buffers::{BufferOwner, Holder, NmiBuffers, NoBuffer, SeqBuf};
pub use state::{
    CpuActivity, EndsBy, KernelState, KernelTask, Lock, LockKind, Reading, Site, TaskRunState,
    Wait, WaitFor,
};
pub use symbols::{KernelSymbols, NoVariables, WithVariables};
pub use vocabulary::{TraceEntry, Vocabulary};

/// The meaning of the bundled kernel's words.
pub fn bundled_vocabulary() -> &'static dyn Vocabulary {
    &bundled::BundledVocabulary
}

/// What the names of functions may mean in any kernel. Numbers and texts mean nothing there.
pub fn any_vocabulary() -> &'static dyn Vocabulary {
    static ANY: unknown::AnyVocabulary<'_> =
        unknown::AnyVocabulary { known: &[&bundled::BundledVocabulary] };
    &ANY
}

/// The adapter of a kernel that nobody knows, and why not.
pub fn unknown(reason: String) -> Box<dyn KernelAdapter> {
    Box::new(unknown::UnknownKernel { reason, vocabulary: any_vocabulary() })
}

/// The adapter for the kernel in `image`, by the structures of those that are known.
pub fn recognise(image: &Image<'_>) -> Box<dyn KernelAdapter> {
    // A name is found faster than it is found out that there are no such types, in hundreds of
    // megabytes of them.
    if image.symbol(BundledKernel::MARK).is_none() {
        return unknown(format!("the image has no symbol {}", BundledKernel::MARK));
    }
    match BundledKernel::find(image) {
        Ok(bundled) => Box::new(bundled),
        Err(error) => unknown(crate::error_chain(&error)),
    }
}
