//! Words for people, each with a tone: a terminal shows it as a color, a page as a class.
//!
//! Owns the tones, and the harmlessness of words; refuses to own which words there are (`text`) and how a page
//! shows them (`html`). Called by `text`, which makes phrases, and by `html`, which shows the same ones.

use std::fmt;

use anstyle::{AnsiColor, Style};

use crate::sanitize::line;

/// The tones that words can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Words of a sentence, as they are.
    Plain,
    /// The name of a part.
    Heading,
    /// Places, ages and other details of a sentence.
    Dim,
    /// A fault or a hang.
    Bad,
    /// Recovery from a hang, and other good news.
    Good,
}

impl Tone {
    /// Returns the style that a terminal has for the tone.
    pub(crate) fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Good => AnsiColor::Green.on_default(),
        }
    }
}

/// A line of words. Its text is harmless: characters that a terminal acts on are escaped.
///
/// Displayed with `{}`, it has the escape sequences of a terminal's colors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Phrase(Vec<(Tone, String)>);

impl Phrase {
    /// Creates a phrase of plain words.
    pub(crate) fn plain(words: &str) -> Self {
        Self::default().and(Tone::Plain, words)
    }

    /// Creates a phrase of words in a tone.
    pub(crate) fn new(tone: Tone, words: &str) -> Self {
        Self::default().and(tone, words)
    }

    /// Returns the phrase with more words.
    pub(crate) fn and(mut self, tone: Tone, words: &str) -> Self {
        if !words.is_empty() {
            self.0.push((tone, line(words)));
        }
        self
    }

    /// Returns the phrase with more plain words.
    pub(crate) fn then(self, words: &str) -> Self {
        self.and(Tone::Plain, words)
    }

    /// Returns the phrase followed by another.
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns all phrases in one, with plain words between them.
    pub(crate) fn joined(phrases: impl IntoIterator<Item = Self>, separator: &str) -> Self {
        let mut joined = Self::default();
        for (index, phrase) in phrases.into_iter().enumerate() {
            joined = if index == 0 { phrase } else { joined.then(separator).join(phrase) };
        }
        joined
    }

    /// Returns the parts of the phrase, in their order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Tone, &str)> {
        self.0.iter().map(|(tone, words)| (*tone, words.as_str()))
    }

    /// Returns the words without their tones.
    pub(crate) fn words(&self) -> String {
        self.parts().map(|(_, words)| words).collect()
    }

    /// Returns the number of columns that the phrase takes on a terminal.
    pub(crate) fn columns(&self) -> usize {
        self.parts().map(|(_, words)| words.chars().count()).sum()
    }

    /// Returns true for a phrase without words.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (tone, words) in self.parts() {
            let style = tone.style();
            write!(f, "{style}{words}{style:#}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_colors_and_no_control_character_of_a_guest() {
        let phrase = Phrase::new(Tone::Bad, "hang").then(": ").and(Tone::Dim, "a\x1b[2Jb");
        assert_eq!(phrase.words(), "hang: a\\u{1b}[2Jb");
        assert_eq!(phrase.columns(), 17);
        assert_eq!(phrase.to_string(), "\x1b[1m\x1b[31mhang\x1b[0m: \x1b[2ma\\u{1b}[2Jb\x1b[0m");
    }
}
