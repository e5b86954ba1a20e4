//! Expected end of a VM in a suite: a word, or a table.

use std::borrow::Cow;
use std::fmt;

use clap::ValueEnum;
use nmiscope_report::Class;
use nmiscope_report::nearest;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Expression;
use super::values::{SettingError, from_text};
use crate::suite::Expectation;

/// Expected end of a guest.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged, deny_unknown_fields)]
pub enum Expect {
    /// Expected end as a single word.
    Word(ExpectWord),
    /// Guest that leaves with this code.
    Exit {
        /// Exit code of the guest.
        exit: u32,
    },
    /// Guest that hangs, with this class and blame.
    Hang {
        /// Class of the hang, or `any`.
        hang: HangClass,
        /// Names of exactly the parties to blame, as reports spell them: `cpu0`, or a task's name. Any
        /// parties if missing.
        blamed: Option<Vec<String>>,
    },
    /// Guest whose kernel panics, with this message.
    Panic {
        /// Regular expression that the panic's message matches.
        #[schemars(with = "Expression")]
        panic: Spanned<Expression>,
    },
    /// Guest that crashes without a panic.
    Crash {
        /// Always `true`, the only value accepted here.
        crash: bool,
    },
}

/// Expected end of a guest as a single word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExpectWord {
    /// The guest leaves with code 0, or is stopped by `stop-after`.
    Pass,
    /// The guest hangs in any way.
    Hang,
    /// The guest's kernel panics with any message.
    Panic,
    /// The guest crashes without a panic: a triple fault, a reset, or an error of KVM.
    Crash,
}

/// Class of hangs; `None` stands for `any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HangClass(pub Option<Class>);

/// Schema that lists `any` as one more class.
impl JsonSchema for HangClass {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HangClass".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": class_names() })
    }
}

fn class_names() -> Vec<&'static str> {
    let classes = Class::value_variants().iter();
    classes.map(|class| class.name()).chain(["any"]).collect()
}

fn read_class(text: &str) -> Result<HangClass, SettingError> {
    if text == "any" {
        return Ok(HangClass(None));
    }
    let class = Class::from_str(text, false);
    let unknown =
        |_| SettingError::NoClass { name: text.into(), hint: nearest::hint(text, &class_names()) };
    class.map(|class| HangClass(Some(class))).map_err(unknown)
}

impl<'de> Deserialize<'de> for HangClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a class of hangs in quotes, or \"any\"", read_class)
    }
}

impl Expect {
    /// Converts the expected end to the form in which a VM has it.
    pub fn expectation(&self) -> Expectation {
        match self {
            Self::Word(ExpectWord::Pass) => Expectation::Pass,
            Self::Word(ExpectWord::Hang) => Expectation::Hang { class: None, blamed: None },
            Self::Word(ExpectWord::Panic) => Expectation::Panic { message: None },
            Self::Word(ExpectWord::Crash) | Self::Crash { .. } => Expectation::Crash,
            Self::Exit { exit } => Expectation::Exit { code: *exit },
            Self::Hang { hang: HangClass(class), blamed } => {
                let blamed = blamed.as_ref().map(|blamed| blamed.iter().cloned().collect());
                Expectation::Hang { class: *class, blamed }
            }
            Self::Panic { panic } => {
                Expectation::Panic { message: Some(panic.get_ref().0.clone()) }
            }
        }
    }
}

/// All keys of an expectation's table; [`Expect`] says which of them go together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectTable {
    exit: Option<u32>,
    hang: Option<HangClass>,
    blamed: Option<Vec<String>>,
    panic: Option<Spanned<Expression>>,
    crash: Option<bool>,
}

impl ExpectTable {
    fn expect(self) -> Result<Expect, &'static str> {
        if self.blamed.is_some() && self.hang.is_none() {
            return Err("`blamed` is for hangs: { hang = \"any\", blamed = [...] }");
        }
        if self.blamed.as_ref().is_some_and(Vec::is_empty) {
            return Err("`blamed` is empty: leave it out to accept any parties");
        }
        match (self.exit, self.hang, self.panic, self.crash) {
            (Some(exit), None, None, None) => Ok(Expect::Exit { exit }),
            (None, Some(hang), None, None) => Ok(Expect::Hang { hang, blamed: self.blamed }),
            (None, None, Some(panic), None) => Ok(Expect::Panic { panic }),
            (None, None, None, Some(true)) => Ok(Expect::Crash { crash: true }),
            (None, None, None, Some(false)) => Err("to expect no crash, leave out `crash`"),
            _ => Err("expected one way to end: exit, hang, panic or crash"),
        }
    }
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectVisitor)
    }
}

struct ExpectVisitor;

impl<'de> Visitor<'de> for ExpectVisitor {
    type Value = Expect;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"pass\", or a table as { hang = \"deadlock\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Expect, E> {
        ExpectWord::deserialize(StrDeserializer::new(text)).map(Expect::Word)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Expect, A::Error> {
        let table = ExpectTable::deserialize(MapAccessDeserializer::new(map))?;
        table.expect().map_err(A::Error::custom)
    }
}
