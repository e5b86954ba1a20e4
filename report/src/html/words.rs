//! Phrases as markup: words in the color of their tone.
//!
//! Owns which class a tone has; refuses to own the words (`text`). Called by the parts of a page.

use askama::Template;

use crate::phrase::{Phrase, Tone};
use crate::text::hang::Statement;

/// A phrase as a part of a page.
#[derive(Template)]
#[template(path = "report/words.html")]
pub(super) struct Words(Phrase);

impl Words {
    /// Returns the parts of the phrase, each with its class.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.parts().map(|(tone, words)| (class(tone), words))
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

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Heading => "label",
        Tone::Dim => "muted",
        Tone::Bad => "bad",
        Tone::Good => "good",
    }
}
