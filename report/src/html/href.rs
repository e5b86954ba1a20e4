//! Addresses that a page's links may have: pages of the web, files by relative paths, parts of the page.
//!
//! Owns which text becomes an address; refuses to own the text of a link. Called by `index`, and by farms for
//! their Markdown.

use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Maximum length of a URL that becomes an address, in bytes.
const MAX_URL: usize = 2048;

/// The address of a link. None has a scheme but http and https, so that no text of a guest or of a file
/// becomes a script, and all are plain ASCII without quotes, spaces and angle brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Href(String);

impl Href {
    /// Returns the address of a page of the web; `None` for another scheme, and for text that is no plain
    /// URL.
    pub fn web(url: &str) -> Option<Self> {
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#@!$&*+,;=%".contains(&byte);
        let is_web = url.starts_with("https://") || url.starts_with("http://");
        (is_web && url.len() <= MAX_URL && url.bytes().all(is_plain)).then(|| Self(url.into()))
    }

    /// Returns the address of a file by its path relative to the page's folder; `None` for an absolute path,
    /// and for one that names no file.
    pub fn relative(path: &Path) -> Option<Self> {
        let mut text = String::new();
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => "..".as_ref(),
                Component::CurDir => continue,
                Component::RootDir | Component::Prefix(_) => return None,
            };
            if !text.is_empty() {
                text.push('/');
            }
            for &byte in name.as_bytes() {
                // A colon would end a scheme, and `?` and `#` the path.
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    text.push(byte.into());
                } else {
                    let _ = write!(text, "%{byte:02X}");
                }
            }
        }
        (!text.is_empty()).then_some(Self(text))
    }

    /// Returns the address of a file for a page in `folder`. Both paths are absolute and without `.`, `..`
    /// and links, as [`std::fs::canonicalize`] returns them.
    pub fn between(folder: &Path, file: &Path) -> Option<Self> {
        let shared = folder.components().zip(file.components());
        let shared = shared.take_while(|(in_folder, in_file)| in_folder == in_file).count();
        let up = folder.components().skip(shared).map(|_| Component::ParentDir);
        let down = file.components().skip(shared);
        Self::relative(&up.chain(down).collect::<PathBuf>())
    }

    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Href {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_of_the_web_become_addresses() {
        for url in ["https://bugs.example/42?a=b#c", "http://x/~me/%20"] {
            assert_eq!(Href::web(url).unwrap().as_str(), url);
        }
        let long = format!("https://x/{}", "a".repeat(MAX_URL));
        for url in [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            " https://x",
            "data:text/html,x",
            "file:///etc/passwd",
            "//evil.example",
            "https:/\\x",
            "https://x/\"onclick=\"alert(1)",
            "https://x/ y",
            "https://x/<b>",
            "https://x/\u{202e}",
            "https://x/\n",
            "",
            &long,
        ] {
            assert_eq!(Href::web(url), None, "{url}");
        }
    }

    /// Expected values: from Python's `urllib.parse.quote(path, safe="/")`.
    #[test]
    fn relative_paths_are_percent_encoded() {
        for (path, address) in [
            ("vms/boot--cpus=8/1.1/report.html", "vms/boot--cpus%3D8/1.1/report.html"),
            ("javascript:alert(1)", "javascript%3Aalert%281%29"),
            ("a b/\"'<>&?#%\n", "a%20b/%22%27%3C%3E%26%3F%23%25%0A"),
            ("../ä/..", "../%C3%A4/.."),
            ("./a//b/.", "a/b"),
        ] {
            assert_eq!(Href::relative(Path::new(path)).unwrap().as_str(), address, "{path}");
        }
        for path in ["", ".", "/etc/passwd"] {
            assert_eq!(Href::relative(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn files_are_addressed_from_the_folder_of_the_page() {
        for (folder, file, address) in [
            ("/r", "/r/vms/a/report.html", "vms/a/report.html"),
            ("/out/pages", "/r/a", "../../r/a"),
            ("/r/pages", "/r/vms/a", "../vms/a"),
            ("/", "/r/a", "r/a"),
            ("/rr", "/r/a", "../r/a"),
        ] {
            let found = Href::between(Path::new(folder), Path::new(file)).unwrap();
            assert_eq!(found.as_str(), address, "{folder} {file}");
        }
        assert_eq!(Href::between(Path::new("/r"), Path::new("/r")), None);
    }
}
