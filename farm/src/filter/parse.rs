//! Parser of filter expressions: recursive descent, one function per level of binding.
//!
//! Written by hand: the grammar has four levels and an unusual token, the regular expression with
//! parentheses of its own, and the errors are sentences with a column.

use nmiscope_report::nearest;

use super::{Filter, FilterError, Pattern};
use crate::expression;

/// Maximum depth of nested parentheses and negations, far beyond any handwritten expression.
const MAX_DEPTH: usize = 64;

const FUNCTIONS: [&str; 3] = ["all", "name", "tag"];

/// Parses the text of a filter expression.
pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let filter = parser.alternatives()?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(filter),
        Some(')') => Err(parser.error(parser.at, "this closes nothing")),
        Some(_) => Err(parser.error(parser.at, "expected `and` or `or` between two expressions")),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Offset of the next byte to be parsed.
    at: usize,
    /// Number of parentheses and negations around this place.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, at: usize, message: impl Into<String>) -> FilterError {
        let column = self.text[..at].chars().count() + 1;
        FilterError { column, message: message.into(), text: self.text.into() }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Returns the next word; empty if something else is next.
    fn word(&self) -> &'a str {
        let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '!' | '&' | '|');
        let rest = self.rest();
        &rest[..rest.find(ends).unwrap_or(rest.len())]
    }

    /// Consumes an operator given as a word or as a sign; returns false if another token is next.
    fn take_operator(&mut self, word: &str, sign: char) -> bool {
        self.skip_space();
        let length = if self.word() == word {
            word.len()
        } else if self.peek() == Some(sign) {
            sign.len_utf8()
        } else {
            return false;
        };
        self.at += length;
        true
    }

    fn alternatives(&mut self) -> Result<Filter, FilterError> {
        let mut filters = vec![self.conjunction()?];
        while self.take_operator("or", '|') {
            filters.push(self.conjunction()?);
        }
        Ok(if filters.len() == 1 { filters.remove(0) } else { Filter::Or(filters) })
    }

    fn conjunction(&mut self) -> Result<Filter, FilterError> {
        let mut filters = vec![self.negation()?];
        while self.take_operator("and", '&') {
            filters.push(self.negation()?);
        }
        Ok(if filters.len() == 1 { filters.remove(0) } else { Filter::And(filters) })
    }

    fn negation(&mut self) -> Result<Filter, FilterError> {
        if !self.take_operator("not", '!') {
            return self.primary();
        }
        self.deeper(|parser| Ok(Filter::Not(Box::new(parser.negation()?))))
    }

    fn deeper(
        &mut self,
        inside: impl FnOnce(&mut Self) -> Result<Filter, FilterError>,
    ) -> Result<Filter, FilterError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(self.at, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let filter = inside(self);
        self.depth -= 1;
        filter
    }

    fn primary(&mut self) -> Result<Filter, FilterError> {
        self.skip_space();
        let start = self.at;
        let word = self.word();
        match (word, self.peek()) {
            ("", Some('(')) => self.group(),
            ("", None) => Err(self.error(start, "expected an expression")),
            ("", Some(_)) | ("and" | "or", _) => {
                let message = "expected an expression: a word, name(...), tag(...) or all()";
                Err(self.error(start, message))
            }
            _ => {
                self.at += word.len();
                if self.peek() == Some('(') {
                    self.function(word, start)
                } else {
                    Ok(Filter::Word(word.into()))
                }
            }
        }
    }

    fn group(&mut self) -> Result<Filter, FilterError> {
        let start = self.at;
        self.at += 1;
        let filter = self.deeper(Self::alternatives)?;
        self.skip_space();
        if self.peek() != Some(')') {
            return Err(match self.peek() {
                None => self.error(start, "this is never closed"),
                Some(_) => self.error(self.at, "expected `and` or `or` between two expressions"),
            });
        }
        self.at += 1;
        Ok(filter)
    }

    fn function(&mut self, function: &str, start: usize) -> Result<Filter, FilterError> {
        if !FUNCTIONS.contains(&function) {
            let hint = nearest::hint(function, &FUNCTIONS);
            return Err(self.error(start, format!("no `{function}(...)`; {hint}")));
        }
        let inside = self.at + 1;
        let argument = self.argument()?;
        let is_nothing = argument.trim().is_empty();
        match function {
            "all" if is_nothing => Ok(Filter::All),
            "all" => Err(self.error(inside, "all() has nothing inside")),
            _ if is_nothing => Err(self.error(inside, format!("{function}() needs an argument"))),
            "tag" => Ok(Filter::Tag(argument.trim().into())),
            _ => match argument.trim_start().strip_prefix('=') {
                Some(name) => Ok(Filter::Exact(unescaped(name.trim()))),
                None => {
                    let regex = expression::read(argument);
                    let regex = regex.map_err(|error| self.error(inside, error.to_string()))?;
                    Ok(Filter::Matches(Pattern(regex)))
                }
            },
        }
    }

    /// Consumes the parentheses that are next, up to the one that closes them, and returns the text
    /// between them.
    fn argument(&mut self) -> Result<&'a str, FilterError> {
        let start = self.at;
        let mut open = 0;
        let mut characters = self.rest().char_indices();
        while let Some((index, character)) = characters.next() {
            match character {
                '\\' => {
                    characters.next();
                }
                '(' => open += 1,
                ')' if open == 1 => {
                    self.at = start + index + 1;
                    return Ok(&self.text[start + 1..start + index]);
                }
                ')' => open -= 1,
                _ => {}
            }
        }
        Err(self.error(
            start,
            "this is never closed; a parenthesis that has no partner is written \\( or \\)",
        ))
    }
}

/// Removes backslashes that escape the character behind them.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            _ => plain.push(character),
        }
    }
    plain
}
