//! Suggestions for misspelled names.
//!
//! Owns the measure of likeness; refuses to own the lists of names. Called wherever a user writes a name.

/// Returns the name that is most like `word`; `None` where no name is like it.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Jaro similarity above which two words are alike, as in clap.
    const LIKE: f64 = 0.7;
    let likeness = |name| (strsim::jaro(word, name), name);
    let alike = names.into_iter().map(likeness).filter(|(likeness, _)| *likeness > LIKE);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, name)| name)
}

/// Returns a hint for an unknown word: the name that may be meant, or all names.
pub fn hint(word: &str, names: &[&str]) -> String {
    match nearest(word, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("there are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_understood_and_nonsense_is_not() {
        let names = ["cpus", "memory", "time-limit", "stop-after", "deadlock", "livelock"];
        let rows = [
            ("cpu", Some("cpus")),
            ("memroy", Some("memory")),
            ("time_limit", Some("time-limit")),
            ("livelok", Some("livelock")),
            ("xyzzy", None),
            ("", None),
        ];
        for (word, meant) in rows {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
    }
}
