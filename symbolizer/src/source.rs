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

/// Joins path pieces, an absolute one replacing the pieces before it, and removes `.`, `..` and empty
/// components by their text alone.
pub(crate) fn join<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
    let mut absolute = false;
    let mut parts: Vec<&str> = Vec::new();
    for piece in pieces {
        if piece.starts_with('/') {
            absolute = true;
            parts.clear();
        }
        for part in piece.split('/') {
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
    let path = parts.join("/");
    if absolute { format!("/{path}") } else { path }
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
