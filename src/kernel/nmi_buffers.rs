//! The buffers that a kernel's NMI handlers answer into, and the reservation of all of them.
//!
//! Owns the protocol's steps as a trait and what a buffer holds; refuses to own where either lies (the
//! adapters) and the order of the steps (`capture`). A buffer's contents are stored in cores.

use nmiscope_machine::{PhysicalMemory, ReadError};
use nmiscope_symbolizer::TypeError;
use serde::{Deserialize, Serialize};

use crate::targets::{NoSuchWord, Words};

/// Per-CPU buffers behind one reservation, as the RFC "printk: Simple implementation for NMI
/// backtracing" has them. CPUs are those of the kernel, by number.
pub trait NmiBuffers {
    /// Whether a CPU runs the kernel, and so has an NMI handler; `None` where that cannot be read.
    fn is_online(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<bool>;

    /// How many NMIs a CPU has taken; `None` where that cannot be read.
    fn nmi_count(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<u64>;

    /// Reads a CPU's buffer.
    ///
    /// # Errors
    /// Which part of it cannot be read, and why.
    fn read(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Result<SeqBuf, NoBuffer>;

    /// Who is using a CPU's buffer, and how many bytes of text it is said to hold; `None` where that
    /// cannot be read.
    fn peek(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<(BufferOwner, u32)>;

    /// Empties a CPU's buffer for the next handler. Whether that was possible.
    fn wipe(&self, words: &dyn Words, cpu: u32) -> bool;

    /// Takes all buffers for the hypervisor: one atomic test-and-set, as a client inside the guest
    /// does it.
    ///
    /// # Errors
    /// Outer: there is no such word. Inner: who has them.
    fn try_take(
        &self,
        memory: &dyn PhysicalMemory,
        words: &dyn Words,
    ) -> Result<Result<(), Holder>, NoSuchWord>;

    /// Asks the clients inside the guest to stand back, or no longer to.
    ///
    /// # Errors
    /// There is no such word.
    fn set_wanted(&self, words: &dyn Words, wanted: bool) -> Result<(), NoSuchWord>;

    /// Gives the buffers back.
    ///
    /// # Errors
    /// There is no such word.
    fn release(&self, words: &dyn Words) -> Result<(), NoSuchWord>;

    /// The guest's clock, in nanoseconds, when a vCPU's time-stamp counter is `tsc`; `None` where it
    /// cannot be read.
    fn clock_ns(&self, memory: &dyn PhysicalMemory, tsc: u64) -> Option<u64>;
}

/// The client that holds the reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The guest CPU that holds it; `None` where the value is no CPU's.
    pub cpu: Option<u32>,
    /// When it took it, in nanoseconds of the guest's clock; `None` where that cannot be read.
    pub since_ns: Option<u64>,
}

/// The reason why a CPU's buffer was not read. Stored in cores as its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NoBuffer {
    /// The kernel has no buffers, or they were not found.
    #[error("its place is not known")]
    PlaceUnknown,
    /// The kernel has fewer CPUs than the machine.
    #[error("the guest knows of {cpus} CPUs only")]
    NoSuchCpu {
        /// The number of CPUs that the kernel has.
        cpus: usize,
    },
    /// The CPU's variables are not where they should be.
    #[error(transparent)]
    NotFound(#[from] TypeError),
    /// The memory could not be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The reason that is stored in a core.
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

/// A CPU's NMI buffer, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqBuf {
    /// The text: as much as `claimed_len` says, but no more than there is room for.
    #[serde(with = "bytes_as_text")]
    pub text: Vec<u8>,
    /// The length that the guest claims.
    pub claimed_len: u32,
    /// How much the buffer can hold.
    pub capacity: u32,
    /// Messages that did not fit.
    pub lost: u32,
    /// Messages that came while the buffer was somebody else's.
    pub missed: u32,
    /// Who is using it.
    pub owner: BufferOwner,
}

/// Bytes as a string of the characters U+0000 to U+00FF: what is text remains readable.
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

/// Who is using an NMI buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferOwner {
    /// Nobody.
    Free,
    /// A handler that has not returned.
    Handler,
    /// A client inside the guest, which prints it.
    Reader,
    /// The guest has something there that means nothing.
    Garbage(u32),
}
