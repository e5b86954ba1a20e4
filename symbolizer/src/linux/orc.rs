//! ORC: rows by which Linux unwinds its own stacks.
//!
//! Owns the decoding of rows and one step from a frame to its caller (arch/x86/kernel/unwind_orc.c,
//! arch/x86/include/asm/orc_types.h). Refuses to own the chain of strategies (`unwind`).
//!
//! Two things moved between kernels without a version number in the tables:
//!
//! - the bits of a row's flags. BTF's `struct orc_entry` has them;
//! - the numbers of registers. BTF does not have them. Most rows are relative to the stack pointer, so that
//!   the number that most rows have is that of SP: 5 up to 6.12, 3 in 7.2.
//!
//! ORC is what crosses interrupts, exceptions and system calls: distributions' `.debug_frame` has no entry code.

use nmiscope_machine::VirtualAddress;

use super::btf::{Btf, BtfError};

/// Bytes of a row: two offsets and the flags.
const ROW: usize = 6;

/// The reason why rows cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrcError {
    /// The kernel's types do not have `struct orc_entry`, or not as it is known here.
    #[error("read the layout of ORC rows")]
    Layout(#[from] BtfError),
    /// The rows have a size that is not known here.
    #[error("read ORC rows: they have {0} bytes each and not 6")]
    RowSize(u64),
    /// The two tables are of different lengths, or empty.
    #[error("read ORC rows: {addresses} addresses and {rows} rows")]
    Lengths {
        /// The number of addresses in `.orc_unwind_ip`.
        addresses: usize,
        /// The number of rows in `.orc_unwind`.
        rows: usize,
    },
    /// Addresses do not ascend: a lookup would find any row.
    #[error("read ORC rows: their addresses do not ascend")]
    Order,
    /// The numbers of registers fit no known numbering.
    #[error("read ORC rows: no known numbering of registers fits them")]
    Numbering,
}

/// A register that a row's addresses are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrcBase {
    /// No register: the value is not known.
    Undefined,
    /// The stack pointer of the caller, before the call.
    PreviousSp,
    /// The value of RAX in the frame.
    Ax,
    /// The value of RDX in the frame.
    Dx,
    /// The value of RDI in the frame.
    Di,
    /// The value of RBP in the frame.
    Bp,
    /// The value of RSP in the frame.
    Sp,
    /// The value of R10 in the frame.
    R10,
    /// The value of R13 in the frame.
    R13,
    /// The word in memory at RBP plus the row's offset.
    BpIndirect,
    /// The word in memory at RSP, to which the row's offset is added.
    SpIndirect,
}

/// The kind of frame that lies at a row's stack address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrcFrame {
    /// The caller is not known.
    Undefined,
    /// No caller: the outermost frame.
    End,
    /// A return address below it.
    Call,
    /// All registers of what was interrupted (`struct pt_regs`).
    Registers,
    /// The five words that the CPU pushed.
    PartialRegisters,
}

/// The row of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrcRow {
    /// The base of the stack address.
    pub sp_base: OrcBase,
    /// Bytes that are added to it.
    pub sp_offset: i16,
    /// The base of the place of the caller's RBP; [`OrcBase::Undefined`] where RBP has not been saved.
    pub bp_base: OrcBase,
    /// Bytes that are added to it.
    pub bp_offset: i16,
    /// The kind of frame at the stack address.
    pub frame: OrcFrame,
    /// True for a row of an interrupted instruction's caller (`signal`); false for all rows of older kernels.
    pub is_signal: bool,
}

/// A field of a row's flags: the lowest bit and the number of bits; no bits where there is no such field.
type Bits = (u32, u32);

#[derive(Clone, Copy, Debug)]
struct Layout {
    sp_base: Bits,
    bp_base: Bits,
    frame: Bits,
    end: Bits,
    signal: Bits,
}

impl Layout {
    fn new(btf: &Btf) -> Result<Self, OrcError> {
        let size = btf.size_of("orc_entry")?;
        if size != ROW as u64 {
            return Err(OrcError::RowSize(size));
        }
        let bits = |name| -> Result<Bits, BtfError> {
            let field = btf.field("orc_entry", name)?;
            // The flags are the third word of 16 bits.
            let bit = (field.offset as u32).saturating_sub(4) * 8 + u32::from(field.bit);
            Ok((bit.min(15), field.bits.into()))
        };
        let if_there = |name| bits(name).unwrap_or((0, 0));
        Ok(Self {
            sp_base: bits("sp_reg")?,
            bp_base: bits("bp_reg")?,
            frame: bits("type")?,
            end: if_there("end"),
            signal: if_there("signal"),
        })
    }
}

fn take(flags: u16, (bit, bits): Bits) -> u16 {
    let mask = (1u32 << bits.min(16)) - 1;
    (u32::from(flags) >> bit & mask) as u16
}

/// The registers by the numbers of rows (asm/orc_types.h, `ORC_REG_*`).
type Numbering = [OrcBase; 11];

/// The numbers up to 6.x.
const FORMER: Numbering = {
    use OrcBase::{Bp, Sp};
    use OrcBase::{BpIndirect, Di, Dx, PreviousSp, R10, R13, SpIndirect, Undefined};
    [Undefined, PreviousSp, Dx, Di, Bp, Sp, R10, R13, BpIndirect, SpIndirect, Undefined]
};
/// The numbers from 7.0 on.
const LATER: Numbering = {
    use OrcBase::{Ax, BpIndirect, Di, Dx, PreviousSp, R10, R13, SpIndirect, Undefined};
    use OrcBase::{Bp, Sp};
    [Undefined, Ax, Dx, Sp, Bp, Di, R10, R13, PreviousSp, SpIndirect, BpIndirect]
};

/// The rows of a kernel or of one module.
#[derive(Clone, Debug)]
pub struct OrcTable {
    /// Guest-virtual addresses from which each row holds, ascending.
    addresses: Vec<u64>,
    rows: Vec<u8>,
    layout: Layout,
    numbering: Numbering,
}

impl OrcTable {
    /// Reads a table: `addresses` is `.orc_unwind_ip` as it lies at the guest-virtual address `base`, 32-bit distances
    /// from the place of each; `rows` is `.orc_unwind`.
    ///
    /// # Errors
    /// [`OrcError`].
    pub fn new(
        addresses: &[u8],
        base: VirtualAddress,
        rows: &[u8],
        btf: &Btf,
    ) -> Result<Self, OrcError> {
        let layout = Layout::new(btf)?;
        let numbering = numbering(rows, layout).ok_or(OrcError::Numbering)?;
        Self::with_layout(addresses, base, rows, layout, numbering)
    }

    /// Reads the table of a module of the same kernel, which may have too few rows to show the numbering.
    ///
    /// # Errors
    /// [`OrcError::Lengths`] or [`OrcError::Order`].
    pub fn module(
        &self,
        addresses: &[u8],
        base: VirtualAddress,
        rows: &[u8],
    ) -> Result<Self, OrcError> {
        Self::with_layout(addresses, base, rows, self.layout, self.numbering)
    }

    fn with_layout(
        addresses: &[u8],
        base: VirtualAddress,
        rows: &[u8],
        layout: Layout,
        numbering: Numbering,
    ) -> Result<Self, OrcError> {
        let (distances, _) = addresses.as_chunks::<4>();
        let counts = (distances.len(), rows.len() / ROW);
        if counts.0 != counts.1 || counts.0 == 0 {
            return Err(OrcError::Lengths { addresses: counts.0, rows: counts.1 });
        }
        let places = (0..).map(|index| base.0.wrapping_add(4 * index));
        let address = |(&distance, place): (&[u8; 4], u64)| {
            place.wrapping_add_signed(i32::from_le_bytes(distance).into())
        };
        let addresses: Vec<u64> = distances.iter().zip(places).map(address).collect();
        if !addresses.is_sorted() {
            return Err(OrcError::Order);
        }
        Ok(Self { addresses, rows: rows.to_vec(), layout, numbering })
    }

    /// The number of rows in the table.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// True for a table without rows, which none is that was made.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The row of the instruction at an address; `None` below the first row. The last row holds for every
    /// address above it: compare with the end of the text first.
    pub fn row(&self, address: VirtualAddress) -> Option<OrcRow> {
        let behind = self.addresses.partition_point(|&begin| begin <= address.0);
        let at = behind.checked_sub(1)? * ROW;
        let row: [u8; ROW] = self.rows.get(at..at + ROW)?.try_into().ok()?;
        let [sp_low, sp_high, bp_low, bp_high, flags_low, flags_high] = row;
        let flags = u16::from_le_bytes([flags_low, flags_high]);
        let base = |bits| {
            let number = usize::from(take(flags, bits));
            self.numbering.get(number).copied().unwrap_or(OrcBase::Undefined)
        };
        let sp_base = base(self.layout.sp_base);
        Some(OrcRow {
            sp_base,
            sp_offset: i16::from_le_bytes([sp_low, sp_high]),
            bp_base: base(self.layout.bp_base),
            bp_offset: i16::from_le_bytes([bp_low, bp_high]),
            frame: self.frame(flags, sp_base),
            is_signal: take(flags, self.layout.signal) != 0,
        })
    }

    /// The kind of frame. Kernels with three bits for it have numbers for "undefined" and "end"; older ones have
    /// two bits, a bit for "end", and no base where nothing is known.
    fn frame(&self, flags: u16, sp_base: OrcBase) -> OrcFrame {
        let number = take(flags, self.layout.frame);
        if self.layout.frame.1 >= 3 {
            return match number {
                1 => OrcFrame::End,
                2 => OrcFrame::Call,
                3 => OrcFrame::Registers,
                4 => OrcFrame::PartialRegisters,
                _ => OrcFrame::Undefined,
            };
        }
        match number {
            _ if take(flags, self.layout.end) != 0 => OrcFrame::End,
            _ if sp_base == OrcBase::Undefined => OrcFrame::Undefined,
            0 => OrcFrame::Call,
            1 => OrcFrame::Registers,
            2 => OrcFrame::PartialRegisters,
            _ => OrcFrame::Undefined,
        }
    }
}

/// The numbering that makes SP the base of most rows.
fn numbering(rows: &[u8], layout: Layout) -> Option<Numbering> {
    let mut counts = [0usize; 16];
    for row in rows.as_chunks::<ROW>().0 {
        let flags = u16::from_le_bytes([row[4], row[5]]);
        counts[usize::from(take(flags, layout.sp_base) & 15)] += 1;
    }
    // Rows without a base are padding between functions.
    let most = (1..16).max_by_key(|&number| counts[number])?;
    [FORMER, LATER].into_iter().find(|numbering| numbering.get(most) == Some(&OrcBase::Sp))
}
