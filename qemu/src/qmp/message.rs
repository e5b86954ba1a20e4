//! Messages of QMP, as lines have them.
//!
//! Owns the parse of one line (QEMU, docs/interop/qmp-spec). Refuses to own the order of messages
//! (`qmp`).

use serde::Deserialize;
use serde_json::Value;

/// The longest piece of somebody's text that goes into an error, in characters.
const EXCERPT: usize = 120;

/// The version of a QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub micro: u32,
    /// The distribution's name for it, which may be empty.
    #[serde(skip)]
    pub package: String,
}

/// An event that QEMU reported by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpEvent {
    /// The name, such as `STOP` or `RESUME`.
    pub name: String,
    /// The data of the event; null where it has none.
    pub data: Value,
}

/// One line of the peer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Greeting(Version),
    Event(QmpEvent),
    Answer { id: Option<String>, result: Result<Value, Refusal> },
}

/// An error that QEMU answered.
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
    /// The message that a line is; `None` for a line that is no message.
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

/// The beginning of a text, short enough for an error.
pub(crate) fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * EXCERPT)]);
    text.chars().take(EXCERPT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As QEMU 7.2 sends them.
    const GREETING: &[u8] = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}"#;
    const EVENT: &[u8] = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#;

    #[test]
    fn every_kind_of_message_is_distinguished() {
        let package = "Debian 1:7.2".to_owned();
        let version = Version { major: 7, minor: 2, micro: 22, package };
        assert_eq!(Message::parse(GREETING), Some(Message::Greeting(version)));
        let event = QmpEvent { name: "STOP".into(), data: Value::Null };
        assert_eq!(Message::parse(EVENT), Some(Message::Event(event)));
        // An error in QEMU's parser has no id.
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
