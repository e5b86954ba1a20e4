//! Machine code of x86-64, as far as symbols need it.
//!
//! Owns the recognition of a call at the end of a function. Disassembles nothing. Called by `image`.

/// True when the last instruction may be a call (Intel SDM, volume 2A, CALL): `e8` and 4 bytes, or
/// `ff` with 2 in the middle of its ModR/M byte, and 0 to 5 bytes behind that.
pub(crate) fn ends_in_call(code: &[u8]) -> bool {
    let from_end = |distance: usize| code.len().checked_sub(distance).map(|at| code[at]);
    from_end(5) == Some(0xe8)
        || (2..=7).any(|length| {
            from_end(length) == Some(0xff)
                && from_end(length - 1).is_some_and(|modrm| modrm >> 3 & 7 == 2)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of functions, as objdump prints them.
    #[test]
    fn calls_at_the_end_of_a_function_are_seen() {
        for call in [
            &[0x90, 0xe8, 0xeb, 0xdf, 0xfa, 0xff][..],
            &[0xff, 0xd0],                               // call *%rax
            &[0x41, 0xff, 0xd2],                         // call *%r10
            &[0xff, 0x53, 0x08],                         // call *0x8(%rbx)
            &[0xff, 0x14, 0xc5, 0x00, 0x10, 0x20, 0x82], // call *-0x7ddff000(,%rax,8)
            &[0xff, 0x15, 0x10, 0x20, 0x30, 0x40],       // call *0x40302010(%rip)
        ] {
            assert!(ends_in_call(call), "{call:x?}");
        }
        for other in [
            &[0x5d, 0xc3][..],
            &[0xe9, 0x4e, 0x4d, 0x95, 0x00], // jmp
            &[0xff, 0xe0],                   // jmp *%rax
            &[0x0f, 0x0b],
            &[],
        ] {
            assert!(!ends_in_call(other), "{other:x?}");
        }
    }
}
