//! Places in the source: paths as text, and lines.
//!
//! Owns joining and normalizing the pieces that DWARF stores, and showing a path relative to a root.
//! Touches no file system: the sources may be on another machine, or gone.

/// A place in the source: file, line and column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The path that the compiler used, joined with its directories and normalized. Absolute unless the
    /// image was built with its paths remapped. See [`SourceRoots`].
    pub file: String,
    /// The line, from 1. `None` for code that the compiler attributes to no line.
    pub line: Option<u32>,
    /// The column, from 1. `None` where it is not known.
    pub column: Option<u32>,
}

/// The root of an absolute path, as the path has it: `/` or, for Windows, a drive such as `C:\` or the server
/// and share `\\server\share\`. Empty for a relative path.
fn root(path: &str) -> &str {
    let is_separator = |byte: Option<&u8>| matches!(byte, Some(b'/' | b'\\'));
    let bytes = path.as_bytes();
    if bytes.first() == Some(&b'/') {
        return &path[..1];
    }
    if bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.get(1) == Some(&b':') {
        // A drive without a separator has a working directory, which no debug information knows.
        return &path[..if is_separator(bytes.get(2)) { 3 } else { 2 }];
    }
    let Some(names) = path.strip_prefix(r"\\") else {
        // The root of the current drive.
        return &path[..usize::from(path.starts_with('\\'))];
    };
    let mut ends = names.match_indices(['/', '\\']).map(|(at, _)| at + 3);
    let _server = ends.next();
    &path[..ends.next().unwrap_or(path.len())]
}

/// Joins path pieces, an absolute one replacing the pieces before it, and removes `.`, `..` and empty
/// components by their text alone. Below a Windows root the separator is a backslash, and both separate.
pub(crate) fn join<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
    let mut prefix = "";
    let mut parts: Vec<&str> = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        match root(piece) {
            "" => {}
            // On the drive of the directory before it.
            r"\" if is_windows(prefix) => parts.clear(),
            own => {
                (prefix, rest) = (own, &piece[own.len()..]);
                parts.clear();
            }
        }
        let absolute = !prefix.is_empty();
        let separators: &[char] = if is_windows(prefix) { &['/', '\\'] } else { &['/'] };
        for part in rest.split(separators) {
            match part {
                "" | "." => {}
                ".." => match parts.last() {
                    Some(&last) if last != ".." => {
                        parts.pop();
                    }
                    _ if absolute => {}
                    _ => parts.push(".."),
                },
                _ => parts.push(part),
            }
        }
    }
    if !is_windows(prefix) {
        return prefix.to_owned() + &parts.join("/");
    }
    let mut root = prefix.replace('/', r"\");
    if !root.ends_with('\\') && !parts.is_empty() {
        root.push('\\');
    }
    root + &parts.join(r"\")
}

fn is_windows(root: &str) -> bool {
    !root.is_empty() && root != "/"
}

/// Directories that shown paths are relative to, as a project names its own sources.
#[derive(Clone, Debug, Default)]
pub struct SourceRoots {
    /// Normalized directories without a trailing slash, longest first.
    roots: Vec<String>,
}

impl SourceRoots {
    /// Takes roots as absolute directory names; relative ones are ignored. The longest match wins.
    pub fn new<S: AsRef<str>>(roots: impl IntoIterator<Item = S>) -> Self {
        let mut roots: Vec<_> = roots
            .into_iter()
            .map(|root| join([root.as_ref()]))
            .filter(|root| root.starts_with('/'))
            .map(|root| root.trim_end_matches('/').to_owned())
            .collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
        Self { roots }
    }

    /// The part of `path` below the longest root that holds it, or `path` unchanged. Whole components
    /// match: `/src` holds `/src/a.c` and not `/srcs/a.c`.
    pub fn strip_root<'a>(&self, path: &'a str) -> &'a str {
        self.roots
            .iter()
            .find_map(|root| path.strip_prefix(root.as_str())?.strip_prefix('/'))
            .filter(|relative| !relative.is_empty())
            .unwrap_or(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_by_their_text() {
        assert_eq!(join(["/build", "src/./arch", "../nmi.rs"]), "/build/src/nmi.rs");
        assert_eq!(join(["/build", "/rustc/abc", "core.rs"]), "/rustc/abc/core.rs");
        assert_eq!(join(["/", "../../etc"]), "/etc");
        assert_eq!(join(["a", "../../b"]), "../b");
        assert_eq!(join(["", "main.c"]), "main.c");
        assert_eq!(join([""; 0]), "");
    }

    /// Paths as compilers for Windows write them, joined as there (`PathCchCombine`).
    #[test]
    fn windows_paths_are_joined_with_backslashes_and_not_to_an_absolute_one() {
        assert_eq!(join([r"C:\work\build", r"C:\work\kernel\main.c"]), r"C:\work\kernel\main.c");
        assert_eq!(join(["/home/me", r"C:\work\kernel\main.c"]), r"C:\work\kernel\main.c");
        assert_eq!(join(["/home/me", "C:/work/kernel/irq.c"]), r"C:\work\kernel\irq.c");
        assert_eq!(join([r"C:\work\build", r"..\kernel", "irq.c"]), r"C:\work\kernel\irq.c");
        assert_eq!(join([r"C:\work\build", "src/./a.c"]), r"C:\work\build\src\a.c");
        assert_eq!(join([r"C:\", r"..\..\a.c"]), r"C:\a.c");
        assert_eq!(join([r"C:\work", r"\kernel\a.c"]), r"C:\kernel\a.c");
        assert_eq!(join([r"\\server\share\src", r"..\..\a.c"]), r"\\server\share\a.c");
        assert_eq!(join([r"C:\work", r"\\server\share", "a.c"]), r"\\server\share\a.c");
        // Elsewhere a backslash is part of a name.
        assert_eq!(join(["/src", r"a\b.c"]), r"/src/a\b.c");
    }

    #[test]
    fn the_longest_root_that_holds_a_path_is_stripped() {
        let roots = SourceRoots::new(["/home/me", "/home/me/nmiscope/", "relative"]);
        assert_eq!(roots.strip_root("/home/me/nmiscope/guest/a.rs"), "guest/a.rs");
        assert_eq!(roots.strip_root("/home/me/nmiscope-old/a.rs"), "nmiscope-old/a.rs");
        assert_eq!(roots.strip_root("/home/mean/a.rs"), "/home/mean/a.rs");
        assert_eq!(roots.strip_root("/home/me"), "/home/me");
        assert_eq!(SourceRoots::new(["/"]).strip_root("/a.rs"), "a.rs");
    }
}
