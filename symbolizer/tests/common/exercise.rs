//! Calls every lookup and read of an image's variables and types, whatever their answers are.

use nmiscope_machine::VirtualMemory;
use nmiscope_symbolizer::{Place, Type, Types};

/// Looks up the names in `elf::debug_sections`, and others that are not there.
pub fn types(types: &Types<'_>, memory: &impl VirtualMemory) {
    for name in ["LOG", "printk::LOG", "BROKEN", "after", ""] {
        if let Ok(place) = types.variable(name) {
            exercise_place(&place, memory);
        }
    }
    for name in ["Ring", "Atomic", "u64"] {
        if let Ok(ty) = types.type_named(name) {
            exercise_type(&ty);
        }
    }
}

fn exercise_place(place: &Place<'_>, memory: &impl VirtualMemory) {
    exercise_type(place.ty());
    let _ = (place.read_unsigned(memory), place.read_signed(memory), place.read_bytes(memory, 64));
    let _ = (place.index(2), place.deref(memory), place.peel());
    for path in ["len", "len.value", "cpus", "0", ""] {
        if let Ok(part) = place.field(path) {
            exercise_type(part.ty());
            let _ = (part.read_signed(memory), part.index(1));
        }
    }
}

fn exercise_type(ty: &Type<'_>) {
    let _ = (ty.name(), ty.kind(), ty.size(), ty.peel(), ty.count(), ty.pointee());
    let _ = (ty.element(1), ty.element(u64::MAX), ty.enumerator(3), ty.member("value"));
}
