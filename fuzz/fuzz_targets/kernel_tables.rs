//! Tables in which a Linux kernel describes itself, as a guest can forge them: symbols, types and the text for
//! crash dumps are searched and looked up.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::linux::{Btf, Kallsyms, OrcTable, VmcoreInfo};

/// The address of the seeds' image.
const BASE: u64 = 0xffff_ffff_8160_0000;

fuzz_target!(|data: &[u8]| {
    if let Ok(kallsyms) = Kallsyms::find(data, VirtualAddress(BASE)) {
        assert_eq!(kallsyms.iter().count(), kallsyms.len());
        for symbol in kallsyms.iter().take(16) {
            assert!(kallsyms.address_of(&symbol.name).is_some());
            assert!(kallsyms.containing(symbol.address).is_some());
        }
        let _ = kallsyms.containing(VirtualAddress(BASE + 0x123));
    }
    if let Ok(btf) = Btf::parse(data) {
        for structure in ["row", "row_t", "nest", "loop", "thread"] {
            let _ = (btf.size_of(structure), btf.field(structure, "thread.comm"));
            let _ = btf.field(structure, "type");
        }
        let _ = btf.enumerator("color", "RED");
        let (addresses, rows) = data.split_at(data.len() / 10 * 4);
        if let Ok(orc) = OrcTable::new(addresses, VirtualAddress(BASE), rows, &btf) {
            let _ = orc.row(VirtualAddress(BASE + 0x40));
        }
    }
    for (_, info) in VmcoreInfo::find_all(data).take(16) {
        let _ = (info.text("OSRELEASE"), info.kernel_offset(), info.number("phys_base"));
    }
});
