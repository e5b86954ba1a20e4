//! Links of a page, followed as a browser without network follows them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Returns the addresses of a page's links, without the escapes of HTML.
pub fn addresses(page: &str) -> Vec<String> {
    let values = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().expect("a value"));
    values.map(unescape).collect()
}

/// Replaces decimal references to characters, the only ones that the program writes.
fn unescape(value: &str) -> String {
    let mut parts = value.split("&#");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(';').expect("the end of a reference");
        let number = number.parse().expect("a decimal number");
        text.push(char::from_u32(number).expect("a character"));
        text.push_str(rest);
    }
    text
}

/// Returns the bytes of an address's path.
fn decode(address: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = address.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
            let digits = str::from_utf8(&digits).expect("ASCII");
            bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
        } else {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes).into()
}

/// Follows all links of a page's file to other files, and returns these files' canonical paths, in order.
/// Fails for a link that leads nowhere, and for an address of any scheme but those of the web.
#[track_caller]
pub fn follow(file: &Path) -> Vec<PathBuf> {
    let page = fs::read_to_string(file).expect("a page");
    let folder = file.parent().expect("a folder");
    let mut found = Vec::new();
    for address in addresses(&page) {
        if address.starts_with('#') || address.starts_with("https://") {
            continue;
        }
        assert!(!address.contains(':') && !address.starts_with('/'), "{address}");
        let path = folder.join(decode(&address));
        let path = path.canonicalize().unwrap_or_else(|error| panic!("{address}: {error}"));
        assert!(path.is_file(), "{address}");
        found.push(path);
    }
    found
}

/// Fails unless the page loads nothing and has no script or style but its own.
#[track_caller]
pub fn is_self_contained(page: &str) {
    assert!(
        page.contains("content=\"default-src &#39;none&#39;; style-src &#39;sha256-"),
        "{page}"
    );
    assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
    for forbidden in ["src=\"", "<link", "<img", "<iframe", " style=\"", " onclick=\""] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}
