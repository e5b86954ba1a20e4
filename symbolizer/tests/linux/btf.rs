//! BTF made by hand: structures, unions without names, bit fields, enumerations, and loops.

use nmiscope_symbolizer::linux::{Btf, BtfError, Field};
use proptest::prelude::*;

/// A table of types under construction (include/uapi/linux/btf.h).
#[derive(Default)]
pub(super) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        offset
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn head(&mut self, name: &str, kind: u32, length: usize, flag: bool, size_or_type: u32) {
        let name = self.string(name);
        self.words(&[name, u32::from(flag) << 31 | kind << 24 | length as u32, size_or_type]);
    }

    pub(super) fn int(&mut self, name: &str, bytes: u32) {
        self.head(name, 1, 0, false, bytes);
        self.words(&[bytes * 8]);
    }

    fn array(&mut self, element: u32, length: u32) {
        self.head("", 3, 0, false, 0);
        self.words(&[element, 1, length]);
    }

    /// Members are names, types, and offsets in bits, with the size of a bit field in the top byte.
    pub(super) fn structure(
        &mut self,
        name: &str,
        size: u32,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) {
        self.composite(4, name, size, flag, members);
    }

    fn composite(
        &mut self,
        kind: u32,
        name: &str,
        size: u32,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) {
        let names: Vec<u32> = members.iter().map(|(name, ..)| self.string(name)).collect();
        self.head(name, kind, members.len(), flag, size);
        for (&name, &(_, number, offset)) in names.iter().zip(members) {
            self.words(&[name, number, offset]);
        }
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let header = [0x0001_eb9f, 24, 0, types, types, strings].map(u32::to_le_bytes).concat();
        [header, self.types.clone(), self.strings.clone()].concat()
    }
}

fn example() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.int("unsigned int", 4); // 1
    builder.int("char", 1); // 2
    builder.array(2, 16); // 3
    builder.composite(5, "", 8, false, &[("inner", 1, 0), ("other", 1, 32)]); // 4
    builder.structure("thread", 24, false, &[("", 4, 64), ("comm", 3, 64)]); // 5
    let flags = [("sp_reg", 1, 4 << 24), ("type", 1, 3 << 24 | 8), ("thread", 5, 64)];
    builder.structure("row", 40, true, &flags); // 6
    builder.head("row_t", 8, 0, false, 6); // 7
    builder.head("", 10, 0, false, 7); // 8: const row_t
    let names = ["RED", "GREEN"].map(|name| builder.string(name));
    builder.head("color", 6, 2, true, 4); // 9
    builder.words(&[names[0], -5i32 as u32, names[1], 7]);
    builder.head("loop", 8, 0, false, 10); // 10: a typedef of itself
    builder.structure("nest", 4, false, &[("", 11, 0)]); // 11: contains itself
    builder.build()
}

#[test]
fn members_have_offsets_sizes_and_bits() {
    let btf = Btf::parse(&example()).expect("types");
    let field = |path| btf.field("row", path);
    assert_eq!(field("type"), Ok(Field { offset: 1, size: 4, bit: 0, bits: 3 }));
    assert_eq!(field("sp_reg"), Ok(Field { offset: 0, size: 4, bit: 0, bits: 4 }));
    assert_eq!(field("thread.comm"), Ok(Field { offset: 16, size: 16, bit: 0, bits: 0 }));
    assert_eq!(field("thread.other"), Ok(Field { offset: 20, size: 4, bit: 0, bits: 0 }));
    assert_eq!(btf.field("row_t", "thread.inner").map(|field| field.offset), Ok(16));
    assert_eq!(btf.size_of("row_t"), Ok(40));
    assert_eq!(btf.enumerator("color", "RED"), Ok(-5));
    assert_eq!(btf.enumerator("color", "GREEN"), Ok(7));
}

#[test]
fn missing_names_are_errors_and_loops_end() {
    let btf = Btf::parse(&example()).expect("types");
    assert_eq!(btf.size_of("none"), Err(BtfError::NoType("none".into())));
    assert!(matches!(btf.field("row", "thread.pid"), Err(BtfError::NoMember { .. })));
    assert!(matches!(btf.field("row", "type.inner"), Err(BtfError::NoMember { .. })));
    assert!(btf.size_of("loop").is_err());
    assert!(btf.field("nest", "member").is_err());
    assert!(btf.enumerator("row", "RED").is_err());
}

#[test]
fn what_is_no_btf_is_refused() {
    let whole = example();
    assert_eq!(Btf::parse(&[]).expect_err("refused"), BtfError::Header);
    assert_eq!(Btf::parse(&whole[..whole.len() - 1]).expect_err("refused"), BtfError::Header);
    let mut unknown_kind = whole;
    unknown_kind[24 + 7] = 31;
    assert_eq!(Btf::parse(&unknown_kind).expect_err("refused"), BtfError::Type { number: 1 });
}

proptest! {
    #[test]
    fn damaged_types_are_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = example();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(btf) = Btf::parse(&bytes) {
            let _ = (btf.field("row", "thread.comm"), btf.size_of("row_t"), btf.enumerator("color", "RED"));
        }
    }
}
