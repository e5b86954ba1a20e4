//! ORC rows in each layout of their flags and each numbering of registers.

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::linux::{Btf, OrcBase, OrcError, OrcFrame, OrcRow, OrcTable};

use super::btf::Builder;

pub(super) const TEXT: u64 = 0xffff_ffff_8100_0000;
const TABLE: u64 = 0xffff_ffff_8240_0000;

/// The layouts of a row's flags and the numbers of registers in kernels.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel {
    /// Two bits for the type, a bit for the end; SP is 5: 5.10 and 6.1.
    V61,
    /// Three bits for the type, a bit for signals; SP is 5: 6.12.
    V612,
    /// The layout of 6.12 with SP as number 3: 7.2.
    V72,
}

impl Kernel {
    pub(super) fn btf(self) -> Btf {
        let mut builder = Builder::new();
        builder.int("short", 2);
        let bits = |bits: u32, at: u32| bits << 24 | (32 + at);
        let (kind, other, at) = match self {
            Self::V61 => (2, "end", 10),
            Self::V612 | Self::V72 => (3, "signal", 11),
        };
        let members = [
            ("sp_offset", 1, 0),
            ("bp_offset", 1, 16),
            ("sp_reg", 1, bits(4, 0)),
            ("bp_reg", 1, bits(4, 4)),
            ("type", 1, bits(kind, 8)),
            (other, 1, bits(1, at)),
        ];
        builder.structure("orc_entry", 6, true, &members);
        Btf::parse(&builder.build()).expect("types")
    }

    pub(super) fn sp(self) -> u16 {
        if matches!(self, Self::V72) { 3 } else { 5 }
    }

    pub(super) fn previous_sp(self) -> u16 {
        if matches!(self, Self::V72) { 8 } else { 1 }
    }

    pub(super) fn frame(self, frame: OrcFrame) -> u16 {
        match (self, frame) {
            (Self::V61, OrcFrame::Registers) => 1 << 8,
            (Self::V61, OrcFrame::PartialRegisters) => 2 << 8,
            (Self::V61, OrcFrame::End) => 1 << 10,
            (Self::V61, _) => 0,
            (_, OrcFrame::Undefined) => 0,
            (_, OrcFrame::End) => 1 << 8,
            (_, OrcFrame::Call) => 2 << 8,
            (_, OrcFrame::Registers) => 3 << 8,
            (_, OrcFrame::PartialRegisters) => 4 << 8,
        }
    }
}

/// Makes a table of rows: addresses from [`TEXT`] on, offsets, and flags.
pub(super) fn table(kernel: Kernel, rows: &[(u64, i16, i16, u16)]) -> Result<OrcTable, OrcError> {
    let mut addresses = Vec::new();
    let mut bytes = Vec::new();
    for (index, (at, sp_offset, bp_offset, flags)) in rows.iter().enumerate() {
        let place = TABLE + 4 * index as u64;
        let distance = (TEXT + at) as i64 - place as i64;
        addresses.extend_from_slice(&(distance as i32).to_le_bytes());
        bytes.extend_from_slice(&sp_offset.to_le_bytes());
        bytes.extend_from_slice(&bp_offset.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
    }
    OrcTable::new(&addresses, VirtualAddress(TABLE), &bytes, &kernel.btf())
}

#[test]
fn rows_of_each_kernel_are_decoded() {
    for kernel in [Kernel::V61, Kernel::V612, Kernel::V72] {
        let sp = kernel.sp();
        let call = sp | kernel.previous_sp() << 4 | kernel.frame(OrcFrame::Call);
        let rows = [
            (0, 8, 0, sp | kernel.frame(OrcFrame::Call)),
            (4, 16, -16, call),
            (0x40, 0, 0, sp | kernel.frame(OrcFrame::Registers)),
            (0x80, 0, 0, sp | kernel.frame(OrcFrame::End)),
            (0x90, 0, 0, 0),
        ];
        let table = table(kernel, &rows).unwrap_or_else(|error| panic!("{kernel:?}: {error}"));
        let row = |at| table.row(VirtualAddress(TEXT + at)).expect("a row");
        let expected = OrcRow {
            sp_base: OrcBase::Sp,
            sp_offset: 16,
            bp_base: OrcBase::PreviousSp,
            bp_offset: -16,
            frame: OrcFrame::Call,
            is_signal: false,
        };
        assert_eq!(row(4), expected, "{kernel:?}");
        assert_eq!(row(0x3f), expected, "{kernel:?}");
        assert_eq!((row(3).sp_offset, row(3).bp_base), (8, OrcBase::Undefined), "{kernel:?}");
        let frames = [0x40, 0x80, 0x90].map(|at| row(at).frame);
        assert_eq!(frames, [OrcFrame::Registers, OrcFrame::End, OrcFrame::Undefined], "{kernel:?}");
        assert_eq!(table.row(VirtualAddress(TEXT - 1)), None);
    }
}

#[test]
fn tables_that_cannot_be_used_are_refused() {
    let kernel = Kernel::V612;
    let call = kernel.sp() | kernel.frame(OrcFrame::Call);
    let refused = |rows: &[(u64, i16, i16, u16)]| table(kernel, rows).expect_err("refused");
    assert!(matches!(refused(&[]), OrcError::Lengths { .. } | OrcError::Numbering));
    assert!(matches!(refused(&[(8, 8, 0, call), (0, 8, 0, call)]), OrcError::Order));
    // Register 14 is none of any numbering.
    assert!(matches!(
        refused(&[(0, 8, 0, 14 | kernel.frame(OrcFrame::Call))]),
        OrcError::Numbering
    ));
}
