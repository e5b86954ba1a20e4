//! Values that are a string or a number in TOML and say more: each is read as what it says, or refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nmiscope_report::hang_after::{HangAfter, HangAfterError};
use nmiscope_report::units::{self, UnitError};
use schemars::JsonSchema;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::suite::MAX_VCPUS;

/// The reason why a text does not say what it should. The place in the file is added by whoever reads it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("a name is not empty, and has no space at its ends")]
    NoName,
    #[error("a control character in {0}")]
    ControlCharacter(&'static str),
    #[error("a tag is one word, without parentheses")]
    NoTag,
    #[error("an empty name")]
    EmptyName,
    #[error("the name of a workload is one word")]
    SeveralWords,
    #[error("no memory at all")]
    NoMemory,
    #[error("no time at all")]
    NoTime,
    #[error("a duration is wanted, as in \"2s\"")]
    NoDuration,
    #[error("no class of hangs `{name}`; {hint}")]
    NoClass { name: String, hint: String },
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error(transparent)]
    Bound(#[from] HangAfterError),
}

/// Reads a string, and what it says.
pub(super) fn from_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expecting: &'static str,
    read: fn(&str) -> Result<T, ValueError>,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, fn(&str) -> Result<T, ValueError>);
    impl<T> Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(expecting, read))
}

/// Types that are a string which says something: how the error calls it, and how it is read.
macro_rules! read_from_text {
    ($($type:ty: $expecting:literal, $read:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer, $expecting, $read)
            }
        }
    )*};
}

read_from_text! {
    Name: "a name", read_name;
    Tag: "a tag", read_tag;
    Workload: "the name of a workload", |text| match text {
        "" => Err(ValueError::EmptyName),
        text if text.contains(is_space) => Err(ValueError::SeveralWords),
        text => Ok(Workload(text.into())),
    };
    Parameters: "kernel parameters", |text| match text.contains(char::is_control) {
        true => Err(ValueError::ControlCharacter("kernel parameters")),
        false => Ok(Parameters(text.trim().into())),
    };
    Size: "a size in quotes, as in \"64M\"", |text| {
        let bytes = units::parse_size(text)?;
        if bytes == 0 { Err(ValueError::NoMemory) } else { Ok(Size { text: text.trim().into(), bytes }) }
    };
    Time: "a duration in quotes, as in \"2s\"", |text| Ok(Time(units::parse_duration(text)?));
    TimeLimit: "a duration in quotes, as in \"30s\"", |text| {
        let limit = units::parse_duration(text)?;
        if limit.is_zero() { Err(ValueError::NoTime) } else { Ok(TimeLimit(limit)) }
    };
    Bound: "a duration in quotes, as in \"2s\"", |text| match HangAfter::from_str(text)?.scope {
        None => Ok(Bound(text.into())),
        Some(_) => Err(ValueError::NoDuration),
    };
    BoundOfSome: "a bound in quotes, as in \"2s\" or \"livelock=10s\"", |text| {
        HangAfter::from_str(text)?;
        Ok(BoundOfSome(text.into()))
    };
    Expression: "a regular expression", |text| Ok(Expression(text.into()));
}

/// The name of a VM.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Name(#[schemars(length(min = 1))] pub String);

fn read_name(text: &str) -> Result<Name, ValueError> {
    if text.is_empty() || text.trim() != text {
        return Err(ValueError::NoName);
    }
    if text.contains(char::is_control) {
        return Err(ValueError::ControlCharacter("a name"));
    }
    Ok(Name(text.into()))
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Tag(#[schemars(regex(pattern = r"^[^\s()]+$"))] pub String);

fn read_tag(text: &str) -> Result<Tag, ValueError> {
    if text.is_empty() || text.contains(is_space) || text.contains(['(', ')']) {
        return Err(ValueError::NoTag);
    }
    Ok(Tag(text.into()))
}

/// A workload's name.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Workload(pub String);

/// Kernel parameters.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Parameters(pub String);

fn is_space(character: char) -> bool {
    character.is_whitespace() || character.is_control()
}

/// A number of vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub struct Cpus(#[schemars(range(min = 1, max = 512))] pub u32);

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(CpusVisitor)
    }
}

/// Refuses what it is given itself: an error that is made later has lost its place.
struct CpusVisitor;

impl Visitor<'_> for CpusVisitor {
    type Value = Cpus;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of vCPUs")
    }

    fn visit_i64<E: Error>(self, cpus: i64) -> Result<Cpus, E> {
        let most = MAX_VCPUS;
        let number = u32::try_from(cpus).ok().filter(|cpus| (1..=most).contains(cpus));
        let impossible = || E::custom(format!("{cpus} vCPUs: 1 to {most} are possible"));
        number.map(Cpus).ok_or_else(impossible)
    }
}

/// A size of guest memory: bytes, or with K, M or G behind.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(with = "String")]
pub struct Size {
    /// As it is written.
    pub text: String,
    /// In bytes.
    pub bytes: u64,
}

/// However it is written.
impl PartialEq for Size {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// A duration with its unit, as `2s` or `500ms`; or `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Time(pub Duration);

/// A duration with its unit, as `2s` or `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct TimeLimit(pub Duration);

/// How long before it is a hang: a duration with its unit, as `2s`; or `0` to not look.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Bound(pub String);

/// The same, or that of one class of hangs: `livelock=10s`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct BoundOfSome(pub String);

/// A regular expression, in the syntax of the Rust crate `regex`. Whether it is one is asked later: a
/// suite has the same ones again and again, and to compile one takes longer than to read a VM.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(description = "A regular expression, in the syntax of the Rust crate `regex`.")]
pub struct Expression(pub String);
