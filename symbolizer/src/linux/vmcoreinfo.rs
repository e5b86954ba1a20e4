//! VMCOREINFO: the text by which a kernel describes itself to readers of crash dumps.
//!
//! Owns the search for it and its keys (kernel/vmcore_info.c, before 6.9 kernel/crash_core.c;
//! Documentation/admin-guide/kdump/vmcoreinfo.rst). Refuses to believe it: a page cache, a kernel before a
//! kexec and a nested guest have such texts too, so that the adapter compares its keys with page tables.

use std::collections::BTreeMap;

use memchr::memmem;

/// The first bytes of the note: its name, padded to a multiple of four, and the first key of its text.
const BEGIN: &[u8] = b"VMCOREINFO\0\0OSRELEASE=";
/// Bytes of the name with its padding.
const NAME: usize = 12;
/// Bytes of `namesz`, `descsz` and `type` before the name.
const HEADER: usize = 12;
/// The most bytes that a text has: VMCOREINFO_BYTES is one page.
const LONGEST: usize = 4096;

/// The reason why bytes are no VMCOREINFO.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmcoreInfoError {
    /// The bytes hold no such note.
    #[error("find VMCOREINFO: there is no such note")]
    Absent,
    /// The text lacks a key.
    #[error("read VMCOREINFO: it has no {0}")]
    NoKey(String),
    /// A key's value is no number of the base that the kernel prints it in.
    #[error("read VMCOREINFO: {key} is {value:?}")]
    Value {
        /// The key of the line.
        key: String,
        /// The text behind the equals sign.
        value: String,
    },
}

/// The keys and values of a VMCOREINFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmcoreInfo {
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Finds the notes in `bytes`, each with the offset of its header, in ascending order.
    pub fn find_all(bytes: &[u8]) -> impl Iterator<Item = (usize, Self)> + '_ {
        memmem::find_iter(bytes, BEGIN).filter_map(|name| {
            let header = name.checked_sub(HEADER)?;
            let size = bytes.get(header + 4..header + 8)?.try_into().ok()?;
            let size = u32::from_le_bytes(size) as usize;
            let text = bytes.get(name + NAME..)?;
            Some((header, Self::parse(&text[..size.min(LONGEST).min(text.len())])))
        })
    }

    /// Parses a text of lines `KEY=VALUE`. Other lines are left out, and the text ends at the first zero byte.
    pub fn parse(text: &[u8]) -> Self {
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        let lines = text.split(|&byte| byte == b'\n');
        let values = lines.filter_map(|line| {
            let (key, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Self { values: values.collect() }
    }

    /// The value of a key such as `OSRELEASE` or `BUILD-ID`.
    ///
    /// # Errors
    /// [`VmcoreInfoError::NoKey`].
    pub fn text(&self, key: &str) -> Result<&str, VmcoreInfoError> {
        let value = self.values.get(key).map(String::as_str);
        value.ok_or_else(|| VmcoreInfoError::NoKey(key.to_owned()))
    }

    /// The link-time or, with KASLR, run-time address of a symbol: `SYMBOL(name)`, hexadecimal.
    ///
    /// # Errors
    /// [`VmcoreInfoError`]: no such key, or no number.
    pub fn symbol(&self, name: &str) -> Result<u64, VmcoreInfoError> {
        self.hexadecimal(&format!("SYMBOL({name})"))
    }

    /// The offset of a structure's member in bytes: `OFFSET(structure.member)`, decimal.
    ///
    /// # Errors
    /// [`VmcoreInfoError`]: no such key, or no number.
    pub fn offset(&self, member: &str) -> Result<u64, VmcoreInfoError> {
        self.decimal(&format!("OFFSET({member})"))
    }

    /// The size of a structure in bytes: `SIZE(structure)`, decimal.
    ///
    /// # Errors
    /// [`VmcoreInfoError`]: no such key, or no number.
    pub fn size(&self, structure: &str) -> Result<u64, VmcoreInfoError> {
        self.decimal(&format!("SIZE({structure})"))
    }

    /// A number that may be negative: `NUMBER(name)`, decimal.
    ///
    /// # Errors
    /// [`VmcoreInfoError`]: no such key, or no number.
    pub fn number(&self, name: &str) -> Result<i64, VmcoreInfoError> {
        let key = format!("NUMBER({name})");
        let value = self.text(&key)?;
        value.parse().map_err(|_| VmcoreInfoError::Value { value: value.to_owned(), key })
    }

    /// The distance in bytes by which the kernel was moved from where it was linked (KASLR); 0 for a kernel that
    /// was not.
    ///
    /// # Errors
    /// [`VmcoreInfoError`]: the key `KERNELOFFSET` is absent or no number.
    pub fn kernel_offset(&self) -> Result<u64, VmcoreInfoError> {
        self.hexadecimal("KERNELOFFSET")
    }

    fn hexadecimal(&self, key: &str) -> Result<u64, VmcoreInfoError> {
        self.unsigned(key, 16)
    }

    fn decimal(&self, key: &str) -> Result<u64, VmcoreInfoError> {
        self.unsigned(key, 10)
    }

    fn unsigned(&self, key: &str, base: u32) -> Result<u64, VmcoreInfoError> {
        let value = self.text(key)?;
        u64::from_str_radix(value, base)
            .map_err(|_| VmcoreInfoError::Value { key: key.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note as a kernel lays it out: namesz, descsz, type, name, text.
    fn note(text: &str) -> Vec<u8> {
        let header = [11, text.len() as u32, 0].map(u32::to_le_bytes).concat();
        [&header[..], b"VMCOREINFO\0\0", text.as_bytes()].concat()
    }

    const TEXT: &str = "OSRELEASE=6.1.0-56-cloud-amd64\nPAGESIZE=4096\nSYMBOL(prb)=ffffffff9c1f3e00\n\
                        NUMBER(phys_base)=-117440512\nKERNELOFFSET=1a000000\nOFFSET(prb_desc.state_var)=0\n";

    #[test]
    fn keys_of_a_note_have_the_bases_that_the_kernel_prints() {
        let bytes = [vec![7; 100], note(TEXT), vec![0; 100]].concat();
        let found: Vec<_> = VmcoreInfo::find_all(&bytes).collect();
        let [(offset, info)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(*offset, 100);
        assert_eq!(info.text("OSRELEASE"), Ok("6.1.0-56-cloud-amd64"));
        assert_eq!(info.symbol("prb"), Ok(0xffff_ffff_9c1f_3e00));
        assert_eq!(info.number("phys_base"), Ok(-117_440_512));
        assert_eq!(info.kernel_offset(), Ok(0x1a00_0000));
        assert_eq!(info.offset("prb_desc.state_var"), Ok(0));
        assert_eq!(info.size("prb_desc"), Err(VmcoreInfoError::NoKey("SIZE(prb_desc)".into())));
    }

    #[test]
    fn note_at_the_edge_of_memory_is_cut_or_left_out() {
        let whole = note(TEXT);
        assert_eq!(VmcoreInfo::find_all(&whole[1..]).count(), 0, "its header is cut off");
        let cut = &whole[..whole.len() - 5];
        let (_, info) = VmcoreInfo::find_all(cut).next().expect("a note");
        assert!(info.offset("prb_desc.state_var").is_err());
        let mut long = whole.clone();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(VmcoreInfo::find_all(&long).count(), 1);
    }
}
