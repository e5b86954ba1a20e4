//! Files that are mistaken for a kernel's image, and the file to give instead.
//!
//! Owns the recognition of boot images, compressed files, modules and lists of symbols. A boot image has
//! neither symbols nor debug information; the `vmlinux` that it was made from has both. Called when an
//! image cannot be parsed.

use nmiscope_symbolizer::is_relocatable;

use super::compression::Compression;

/// Explains why a file cannot be used as an image, and names the file to give instead. `None` for a file
/// of no known kind.
pub fn explanation(file: &[u8]) -> Option<String> {
    if let Some(format) = Compression::detect(file) {
        let program = format.program();
        return Some(format!(
            "it is compressed: decompress it first (`{program} FILE > vmlinux`); for a compressed \
             boot image, give the vmlinux that it was made from"
        ));
    }
    if is_bzimage(file) {
        let release = bzimage_release(file);
        let path = match &release {
            Some(release) => format!("/usr/lib/debug/boot/vmlinux-{release}"),
            None => "vmlinux".into(),
        };
        let of = release.map(|release| format!(" of Linux {release}")).unwrap_or_default();
        return Some(format!(
            "it is a bzImage{of}, which has no symbols: give the vmlinux that it was made from, with \
             debug information (distributions have it in a package of its own, often as {path})"
        ));
    }
    if is_relocatable(file) {
        return Some(
            "it is a kernel module: give the kernel's vmlinux, and the module's directory with \
             --modules"
                .into(),
        );
    }
    if is_symbol_map(file) {
        return Some(
            "it is a list of symbols (System.map), which has no source lines: give the vmlinux that \
             it was made from"
                .into(),
        );
    }
    if is_arm64_image(file) || is_efi_zboot(file) {
        return Some(
            "it is a boot image, which has no symbols: give the vmlinux that it was made from"
                .into(),
        );
    }
    None
}

/// Returns true for a bzImage: `HdrS` at 0x202 (Documentation/arch/x86/boot.rst, "header").
fn is_bzimage(file: &[u8]) -> bool {
    file.get(0x202..0x206) == Some(b"HdrS")
}

/// Returns the release in a bzImage's header: `kernel_version` at 0x20e is the offset of the string from
/// 0x200.
fn bzimage_release(file: &[u8]) -> Option<String> {
    let offset = u16::from_le_bytes(file.get(0x20e..0x210)?.try_into().ok()?);
    let text = file.get(0x200 + usize::from(offset)..)?;
    let release = text.iter().take(65).take_while(|byte| byte.is_ascii_graphic()).copied();
    String::from_utf8(release.collect()).ok().filter(|release| offset != 0 && !release.is_empty())
}

/// Returns true for an arm64 boot image: `ARM\x64` at 56 (Documentation/arch/arm64/booting.rst).
fn is_arm64_image(file: &[u8]) -> bool {
    file.get(56..60) == Some(b"ARM\x64")
}

/// Returns true for an EFI zboot image: `MZ`, and `zimg` at 4 (drivers/firmware/efi/libstub/zboot-header.S).
fn is_efi_zboot(file: &[u8]) -> bool {
    file.starts_with(b"MZ") && file.get(4..8) == Some(b"zimg")
}

/// Returns true for a list of symbols: `ffffffff81000000 T _text`, 16 hexadecimal digits, a letter, a name.
fn is_symbol_map(file: &[u8]) -> bool {
    let Some((address, rest)) = file.split_at_checked(16) else { return false };
    address.iter().all(u8::is_ascii_hexdigit)
        && matches!(rest, [b' ', kind, b' ', ..] if kind.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bzimage_is_named_with_its_release() {
        let mut file = vec![0; 0x400];
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        file[0x300..0x30c].copy_from_slice(b"6.1.0-56 (x)");
        let why = explanation(&file).expect("a reason");
        assert!(
            why.contains("bzImage of Linux 6.1.0-56") && why.contains("vmlinux-6.1.0-56"),
            "{why}"
        );
        // An offset of the version outside of the file.
        file[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
        assert!(explanation(&file).is_some_and(|why| why.contains("bzImage, which")));
    }

    #[test]
    fn boot_images_and_compressed_files_are_named() {
        let mut arm64 = vec![0; 64];
        arm64[56..60].copy_from_slice(b"ARM\x64");
        assert!(explanation(&arm64).is_some_and(|why| why.contains("boot image")));
        assert!(explanation(b"MZ\0\0zimg").is_some_and(|why| why.contains("boot image")));
        let map = b"ffffffff81000000 T _text\n";
        assert!(explanation(map).is_some_and(|why| why.contains("System.map")));
        assert!(explanation(b"\x1f\x8b\x08").is_some_and(|why| why.contains("gzip -dc")));
        assert_eq!(explanation(b"\x7fELF\x02\x01"), None);
        assert_eq!(explanation(b""), None);
    }
}
