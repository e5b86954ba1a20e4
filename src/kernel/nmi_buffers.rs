//! NMI buffers: the per-CPU buffers that a kernel's NMI handlers answer into, and the reservation of all
//! of them.
//!
//! Owns the protocol's steps as a trait, and a buffer's contents; refuses to own the places of both (the
//! adapters) and the order of the steps (`capture`). A buffer's contents are stored in cores.

use nmiscope_machine::{PhysicalMemory, ReadError};
use nmiscope_symbolizer::TypeError;
use serde::{Deserialize, Serialize};

use crate::targets::{NoSuchWord, Words};

/// Per-CPU buffers behind one reservation, as in the RFC "printk: Simple implementation for NMI
/// backtracing". CPUs are the kernel's, by number.
pub trait NmiBuffers {
    /// Returns true if a CPU runs the kernel, and so has an NMI handler; `None` if that cannot be read.
    fn is_online(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<bool>;

    /// Returns the number of NMIs that a CPU has taken; `None` if it cannot be read.
    fn nmi_count(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<u64>;

    /// Reads the buffer of a CPU.
    ///
    /// # Errors
    /// A part of the buffer cannot be read.
    fn read(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Result<SeqBuf, NoBuffer>;

    /// Returns the owner of a CPU's buffer, and the claimed length of its text in bytes; `None` if that
    /// cannot be read.
    fn peek(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<(BufferOwner, u32)>;

    /// Empties a CPU's buffer for the next handler. Returns false if that was not possible.
    fn wipe(&self, words: &dyn Words, cpu: u32) -> bool;

    /// Takes all buffers for the hypervisor by one atomic test-and-set, as a client inside the guest
    /// does.
    ///
    /// # Errors
    /// The outer error is a missing word, the inner one the present holder.
    fn try_take(
        &self,
        memory: &dyn PhysicalMemory,
        words: &dyn Words,
    ) -> Result<Result<(), Holder>, NoSuchWord>;

    /// Asks the clients inside the guest to stand back, or withdraws that.
    ///
    /// # Errors
    /// The word is not in the guest's memory.
    fn set_wanted(&self, words: &dyn Words, wanted: bool) -> Result<(), NoSuchWord>;

    /// Releases the reservation of the buffers.
    ///
    /// # Errors
    /// The word is not in the guest's memory.
    fn release(&self, words: &dyn Words) -> Result<(), NoSuchWord>;

    /// Returns the guest's clock in nanoseconds for a vCPU's time-stamp counter of `tsc`; `None` if it
    /// cannot be read.
    fn clock_ns(&self, memory: &dyn PhysicalMemory, tsc: u64) -> Option<u64>;
}

/// Client that holds the reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The guest CPU that holds it; `None` if the value is no CPU's.
    pub cpu: Option<u32>,
    /// The time at which it took the reservation, in nanoseconds of the guest's clock; `None` if it
    /// cannot be read.
    pub since_ns: Option<u64>,
}

/// Reason why a CPU's buffer was not read. Cores store its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NoBuffer {
    /// The kernel has no buffers, or they were not located.
    #[error("its place is not known")]
    PlaceUnknown,
    /// The kernel has fewer CPUs than the machine.
    #[error("the guest knows of {cpus} CPUs only")]
    NoSuchCpu {
        /// The number of CPUs that the kernel has.
        cpus: usize,
    },
    /// The CPU's variables were not found.
    #[error(transparent)]
    NotFound(#[from] TypeError),
    /// The buffer's memory could not be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// Reason read from a core, as text.
    #[error("{0}")]
    Stored(String),
}

impl From<NoBuffer> for String {
    fn from(reason: NoBuffer) -> Self {
        crate::error_chain(&reason)
    }
}

impl From<String> for NoBuffer {
    fn from(text: String) -> Self {
        Self::Stored(text)
    }
}

/// Contents of a CPU's NMI buffer.
///
/// The bundled guest has a type of the same name, in which its handlers print; this is a copy on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqBuf {
    /// The text: `claimed_len` bytes, but no more than the buffer can hold.
    #[serde(with = "bytes_as_text")]
    pub text: Vec<u8>,
    /// The length in bytes that the guest claims.
    pub claimed_len: u32,
    /// The size of the buffer in bytes.
    pub capacity: u32,
    /// The number of messages that did not fit.
    pub lost: u32,
    /// The number of messages that were printed while the buffer was in other use.
    pub missed: u32,
    /// The present user of the buffer.
    pub owner: BufferOwner,
}

/// Serialization of bytes as a string of the characters U+0000 to U+00FF, in which text remains readable.
mod bytes_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|&byte| char::from(byte)).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
        bytes.map_err(|_| D::Error::custom("a character beyond U+00FF"))
    }
}

/// User of an NMI buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferOwner {
    /// The buffer is not in use.
    Free,
    /// A handler that has not returned.
    Handler,
    /// A client inside the guest, which prints the buffer.
    Reader,
    /// A value that the guest does not define.
    Garbage(u32),
}
