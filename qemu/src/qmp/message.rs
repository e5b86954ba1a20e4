//! QMP messages, each parsed from one line.
//!
//! Owns the parser of a line (QEMU, docs/interop/qmp-spec). Refuses to own the order of messages (`qmp`,
//! the caller).

use serde::Deserialize;
use serde_json::Value;

/// Maximum length of foreign text quoted in an error, in characters.
const EXCERPT: usize = 120;

/// Version of a QEMU, from its greeting.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// First number: the major version.
    pub major: u32,
    /// Second number: the minor version.
    pub minor: u32,
    /// Third number: the micro version.
    pub micro: u32,
    /// The distribution's package version, which may be empty.
    #[serde(skip)]
    pub package: String,
}

/// An asynchronous event that QEMU reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpEvent {
    /// Name of the event, such as `STOP` or `RESUME`.
    pub name: String,
    /// Data of the event; null if it has none.
    pub data: Value,
}

/// A message from the peer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Greeting(Version),
    Event(QmpEvent),
    Answer { id: Option<String>, result: Result<Value, Refusal> },
}

/// Error that QEMU returned for a command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    pub(super) class: String,
    pub(super) desc: String,
}

#[derive(Deserialize)]
struct Greeting {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Version,
    package: String,
}

impl Message {
    /// Parses a line; `None` if it is not a QMP message.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let Value::Object(mut object) = serde_json::from_slice(line).ok()? else { return None };
        let id = object.get("id").and_then(Value::as_str).map(String::from);
        if let Some(result) = object.remove("return") {
            return Some(Self::Answer { id, result: Ok(result) });
        }
        if let Some(error) = object.remove("error") {
            let refusal = serde_json::from_value(error).ok()?;
            return Some(Self::Answer { id, result: Err(refusal) });
        }
        if let Some(name) = object.get("event") {
            let name = name.as_str()?.to_owned();
            return Some(Self::Event(QmpEvent {
                name,
                data: object.remove("data").unwrap_or_default(),
            }));
        }
        let greeting: Greeting = serde_json::from_value(object.remove("QMP")?).ok()?;
        let version = Version { package: greeting.version.package, ..greeting.version.qemu };
        Some(Self::Greeting(version))
    }
}

/// Returns the beginning of a text, short enough for an error message.
pub(crate) fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * EXCERPT)]);
    text.chars().take(EXCERPT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Greeting of a QEMU 7.2.
    const GREETING: &[u8] = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}"#;
    const EVENT: &[u8] = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#;

    #[test]
    fn every_kind_of_message_is_distinguished() {
        let package = "Debian 1:7.2".to_owned();
        let version = Version { major: 7, minor: 2, micro: 22, package };
        assert_eq!(Message::parse(GREETING), Some(Message::Greeting(version)));
        let event = QmpEvent { name: "STOP".into(), data: Value::Null };
        assert_eq!(Message::parse(EVENT), Some(Message::Event(event)));
        // QEMU answers a line that it cannot parse without an id.
        let answer = Message::Answer { id: None, result: Ok(Value::Null) };
        assert_eq!(Message::parse(br#"{"return": null}"#), Some(answer));
        for line in
            [&b""[..], b"null", b"[]", b"{}", br#"{"error": 1}"#, br#"{"event": 1}"#, b"\xff"]
        {
            assert_eq!(Message::parse(line), None);
        }
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(Message::parse(&deep), None);
    }

    proptest! {
        #[test]
        fn mutated_line_does_not_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            greets in any::<bool>(),
        ) {
            let mut line = if greets { GREETING } else { EVENT }.to_vec();
            for (at, byte) in edits {
                let at = at.index(line.len());
                line[at] = byte;
            }
            Message::parse(&line);
        }
    }
}
