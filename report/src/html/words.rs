//! Phrases as markup: words in the color of their tone.
//!
//! Owns which class a tone has; refuses to own the words (`text`). Called by the parts of a page.

use askama::Template;

use crate::phrase::{Phrase, Tone};
use crate::sanitize::{self, cut};
use crate::text::hang::Statement;

/// A phrase as a part of a page.
#[derive(Template)]
#[template(path = "report/words.html")]
pub(super) struct Words(Phrase);

impl Words {
    /// Returns the parts of the phrase, each with its class.
    fn parts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let parts = self.0.parts().take(MAX_PARTS);
        parts.map(|(tone, words)| (class(tone), cut(words.to_owned(), MAX_PHRASE)))
    }
}

impl From<Phrase> for Words {
    fn from(phrase: Phrase) -> Self {
        Self(phrase)
    }
}

impl From<Statement> for Words {
    fn from(statement: Statement) -> Self {
        Self(statement.whole())
    }
}

/// The most parts of a phrase, and characters of a part: names of 64 vCPUs are one.
const MAX_PARTS: usize = 100;
const MAX_PHRASE: usize = 1000;
/// The most characters of a name or another text of one line.
pub(super) const MAX_LINE: usize = 400;

/// Returns a text of a report as one harmless line, of which a page has room for the beginning.
pub(super) fn line(text: &str) -> String {
    cut(sanitize::line(text), MAX_LINE)
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Heading => "label",
        Tone::Dim => "muted",
        Tone::Bad => "bad",
        Tone::Good => "good",
    }
}
