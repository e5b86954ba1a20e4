//! Values with a meaning of their own, such as sizes and durations: each is parsed from a TOML string or
//! number, or refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nmiscope_report::hang_after::{HangAfter, HangAfterError};
use nmiscope_report::units::{self, UnitError};
use schemars::JsonSchema;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::suite::MAX_VCPUS;

/// Reason why a text is no value of its type; the caller adds the place in the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum SettingError {
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
    #[error("expected a duration, as in \"2s\"")]
    NoDuration,
    #[error("no class of hangs `{name}`; {hint}")]
    NoClass { name: String, hint: String },
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error(transparent)]
    HangBound(#[from] HangAfterError),
}

/// Deserializes a string and parses it by `read`.
pub(super) fn from_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expecting: &'static str,
    read: fn(&str) -> Result<T, SettingError>,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, fn(&str) -> Result<T, SettingError>);
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

/// Implements deserialization for types that are strings in TOML: `expecting` names the value in errors.
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
    VmName: "a name", read_name;
    Tag: "a tag", read_tag;
    WorkloadName: "the name of a workload", |text| match text {
        "" => Err(SettingError::EmptyName),
        text if text.contains(is_space) => Err(SettingError::SeveralWords),
        text => Ok(WorkloadName(text.into())),
    };
    KernelParameters: "kernel parameters", |text| match text.contains(char::is_control) {
        true => Err(SettingError::ControlCharacter("kernel parameters")),
        false => Ok(KernelParameters(text.trim().into())),
    };
    MemorySize: "a size in quotes, as in \"64M\"", |text| {
        let bytes = units::parse_size(text)?;
        if bytes == 0 { Err(SettingError::NoMemory) } else { Ok(MemorySize { text: text.trim().into(), bytes }) }
    };
    DurationSetting: "a duration in quotes, as in \"2s\"", |text| Ok(DurationSetting(units::parse_duration(text)?));
    TimeLimit: "a duration in quotes, as in \"30s\"", |text| {
        let limit = units::parse_duration(text)?;
        if limit.is_zero() { Err(SettingError::NoTime) } else { Ok(TimeLimit(limit)) }
    };
    HangBound: "a duration in quotes, as in \"2s\"", |text| match HangAfter::from_str(text)?.scope {
        None => Ok(HangBound(text.into())),
        Some(_) => Err(SettingError::NoDuration),
    };
    ClassBound: "a bound in quotes, as in \"2s\" or \"livelock=10s\"", |text| {
        HangAfter::from_str(text)?;
        Ok(ClassBound(text.into()))
    };
    Expression: "a regular expression", |text| Ok(Expression(text.into()));
}

/// Name of a VM: not empty, no control characters, no space at its ends.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct VmName(#[schemars(length(min = 1))] pub String);

fn read_name(text: &str) -> Result<VmName, SettingError> {
    if text.is_empty() || text.trim() != text {
        return Err(SettingError::NoName);
    }
    if text.contains(char::is_control) {
        return Err(SettingError::ControlCharacter("a name"));
    }
    Ok(VmName(text.into()))
}

/// Tag of a VM: one word without parentheses.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Tag(#[schemars(regex(pattern = r"^[^\s()]+$"))] pub String);

fn read_tag(text: &str) -> Result<Tag, SettingError> {
    if text.is_empty() || text.contains(is_space) || text.contains(['(', ')']) {
        return Err(SettingError::NoTag);
    }
    Ok(Tag(text.into()))
}

/// Name of a workload: a single word.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct WorkloadName(pub String);

/// Kernel parameters as one string, without control characters.
// The bundled guest has a type of the same name: the parameters that it has parsed.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct KernelParameters(pub String);

fn is_space(character: char) -> bool {
    character.is_whitespace() || character.is_control()
}

/// Number of vCPUs, from 1 to 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub struct Cpus(#[schemars(range(min = 1, max = 512))] pub u32);

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(CpusVisitor)
    }
}

/// Checks the range itself, since an error that is made after the visit has lost its place in the file.
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

/// Size of guest memory in bytes, or with a suffix K, M or G.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(with = "String")]
pub struct MemorySize {
    /// Text of the size as the suite spells it.
    pub text: String,
    /// Size of the memory in bytes.
    pub bytes: u64,
}

/// Compares sizes by their bytes: `1M` equals `1024K`.
impl PartialEq for MemorySize {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// Duration with a unit, such as `2s` or `500ms`; or `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct DurationSetting(pub Duration);

/// Duration with a unit, such as `2s` or `500ms`; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct TimeLimit(pub Duration);

/// Time without progress after which a hang is reported: a duration with a unit, such as `2s`; `0`
/// disables detection.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct HangBound(pub String);

/// Hang bound for all classes, such as `2s`, or for one class, such as `livelock=10s`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct ClassBound(pub String);

/// A regular expression, in the syntax of the Rust crate `regex`. Its validity is checked later, once per
/// distinct text: a suite repeats the same ones, and compiling one takes longer than parsing a VM.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(description = "A regular expression, in the syntax of the Rust crate `regex`.")]
pub struct Expression(pub String);
