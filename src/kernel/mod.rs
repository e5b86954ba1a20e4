//! Kernels in a guest's memory: an adapter for each.
//!
//! Owns the interface: the traits that an adapter implements ([`KernelAdapter`], [`Located`],
//! [`NmiBuffers`], [`KernelSymbols`], [`Vocabulary`]), the neutral state that it returns
//! ([`KernelState`]), and the choice of the adapter for a guest. Refuses to know what its results are
//! for. Session and capture use the traits and no kernel directly.
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `state` | CPUs, tasks, locks and waits, as all kernels have them |
//! | `symbols` | functions, lines, unwinding and variables of addresses |
//! | `parts` | the kernel and its modules as they lie in memory, for those that move |
//! | `with_images` | lines and variables of such a kernel, by images of its parts |
//! | `vocabulary` | a kernel's own codes, texts and function names |
//! | `log` | the kernel's log |
//! | `nmi_buffers` | the protocol of the buffers that NMI handlers answer into |
//! | `adapter` | the traits that put them together |
//! | `bundled`, `linux`, `unknown` | the adapters |
//! | `unrecognised` | the state of a guest that no adapter recognises |

mod adapter;
mod bundled;
mod linux;
mod log;
mod nmi_buffers;
mod parts;
mod state;
mod symbols;
mod unknown;
mod unrecognised;
mod vocabulary;
mod with_images;

use nmiscope_machine::{PhysicalMemory, Registers, VcpuState};
use nmiscope_symbolizer::Image;

pub use adapter::{Depth, KernelAdapter, LocateError, Located};
use bundled::BundledKernel;
pub use bundled::{DOORBELLS, Doorbells};
pub use log::{Log, LogError, LogRecord};
pub use nmi_buffers::{BufferOwner, Holder, NmiBuffers, NoBuffer, SeqBuf};
pub use parts::{KernelPart, KernelParts};
pub use state::{
    CpuActivity, CpuContext, EndsBy, KernelState, KernelTask, Lock, LockKind, Patience, Reading,
    Site, TaskRunState, Wait, WaitFor,
};
pub use symbols::{KernelSymbols, NoVariables, SYMBOLS_INCOMPLETE, WithVariables};
pub use vocabulary::{PrintedEntry, PrintedStack, TraceEntry, Vocabulary, may_begin_panic};
pub use with_images::{KernelImages, OpenImage, PlacedImage, WithImages};

/// Returns the vocabulary of the bundled kernel.
pub fn bundled_vocabulary() -> &'static dyn Vocabulary {
    &bundled::BundledVocabulary
}

/// Returns a vocabulary of function names for any kernel. It knows no numbers and texts.
pub fn any_vocabulary() -> &'static dyn Vocabulary {
    static ANY: unknown::AnyVocabulary<'_> =
        unknown::AnyVocabulary { known: &[&bundled::BundledVocabulary] };
    &ANY
}

/// Makes the adapter of an unknown kernel.
pub fn unknown(reason: String) -> Box<dyn KernelAdapter> {
    Box::new(unknown::UnknownKernel { reason, vocabulary: any_vocabulary() })
}

/// Makes the adapter of a guest in which no kernel was recognised: its reason is the guest's state, such as firmware
/// or another operating system. Without `memory` the registers alone decide.
pub fn unrecognised(
    vcpus: &[VcpuState],
    memory: Option<&dyn PhysicalMemory>,
) -> Box<dyn KernelAdapter> {
    unknown(unrecognised::describe(vcpus, memory))
}

/// Makes the adapter for a kernel that describes itself in guest memory, by the registers of the vCPUs; `None` if
/// there is none. It needs no image.
pub fn recognise_in_memory(
    memory: &dyn PhysicalMemory,
    vcpus: &[Registers],
) -> Option<Box<dyn KernelAdapter>> {
    Some(Box::new(linux::LinuxKernel::recognise(memory, vcpus)?))
}

/// Makes the adapter for the kernel in `image`, by the structures of known kernels.
pub fn recognise(image: &Image<'_>) -> Box<dyn KernelAdapter> {
    // Looking up a symbol is faster than searching hundreds of megabytes of debug information for types
    // that are not there.
    if image.symbol(BundledKernel::MARK).is_none() {
        return unknown(format!("the image has no symbol {}", BundledKernel::MARK));
    }
    match BundledKernel::find(image) {
        Ok(bundled) => Box::new(bundled),
        Err(error) => unknown(crate::error_chain(&error)),
    }
}
