//! QMP monitors on QEMU's command line.
//!
//! Owns the parser of the options that define a QMP monitor. Refuses to own processes and the
//! resolution of paths (`find`, the caller). Options in configuration files (`-readconfig`) are not on the
//! command line, so monitors defined there are not found.

use std::collections::BTreeMap;

/// A QMP monitor that a command line defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MonitorOption {
    /// A unix socket at a path, which may be relative to QEMU's working directory.
    Path(Vec<u8>),
    /// A unix socket at a name of the abstract namespace.
    Abstract(Vec<u8>),
    /// A listening descriptor that the program that started QEMU passed to it, as libvirt does.
    Descriptor,
    /// A transport that this crate cannot connect to, as on the command line: TCP, a pipe, a client socket.
    Elsewhere(String),
}

/// Returns the monitors of a command line: sockets given to `-qmp` directly, then monitors on a character
/// device.
pub(crate) fn parse_monitors(arguments: &[Vec<u8>]) -> Vec<MonitorOption> {
    let mut devices: BTreeMap<Vec<u8>, MonitorOption> = BTreeMap::new();
    let mut controls: Vec<Vec<u8>> = Vec::new();
    let mut found = Vec::new();
    for pair in arguments.windows(2) {
        let [option, value] = pair else { continue };
        match option_name(option) {
            Some(b"qmp" | b"qmp-pretty") => match value.strip_prefix(b"chardev:") {
                Some(id) => controls.push(id.to_vec()),
                None => found.push(parse_qmp(value)),
            },
            Some(b"chardev") => {
                let options = Options::parse(value);
                if let Some(id) = options.get(b"id") {
                    devices.insert(id.to_vec(), parse_chardev(&options));
                }
            }
            Some(b"mon") => {
                let options = Options::parse(value);
                let device = options.get(b"chardev").or(options.bare.first().map(Vec::as_slice));
                if options.get(b"mode") == Some(b"control") {
                    controls.extend(device.map(<[u8]>::to_vec));
                }
            }
            _ => {}
        }
    }
    let find_device = |id: Vec<u8>| {
        let name = String::from_utf8_lossy(&id).into_owned();
        devices.get(&id).cloned().unwrap_or(MonitorOption::Elsewhere(name))
    };
    found.extend(controls.into_iter().map(find_device));
    found
}

/// Strips the dashes of an option; QEMU accepts one or two.
fn option_name(option: &[u8]) -> Option<&[u8]> {
    let name = option.strip_prefix(b"-")?;
    Some(name.strip_prefix(b"-").unwrap_or(name))
}

/// Parses a value of `-qmp`, such as `unix:PATH,server=on,wait=off`.
fn parse_qmp(value: &[u8]) -> MonitorOption {
    let elsewhere = || MonitorOption::Elsewhere(String::from_utf8_lossy(value).into_owned());
    let Some(rest) = value.strip_prefix(b"unix:") else { return elsewhere() };
    let options = Options::parse(rest);
    match options.bare.first() {
        Some(path) if options.is_on(b"server") => listener_at(path, &options),
        _ => elsewhere(),
    }
}

/// Parses a value of `-chardev`, such as `socket,id=ID,path=PATH,server=on,wait=off`.
fn parse_chardev(options: &Options) -> MonitorOption {
    let is_socket = options.bare.first().is_some_and(|kind| kind == b"socket");
    match (options.get(b"path"), options.get(b"fd")) {
        (Some(path), _) if is_socket && options.is_on(b"server") => listener_at(path, options),
        (None, Some(_)) if is_socket => MonitorOption::Descriptor,
        _ => MonitorOption::Elsewhere(String::from_utf8_lossy(&options.text).into_owned()),
    }
}

fn listener_at(path: &[u8], options: &Options) -> MonitorOption {
    if options.is_on(b"abstract") {
        MonitorOption::Abstract(path.to_vec())
    } else {
        MonitorOption::Path(path.to_vec())
    }
}

/// A comma-separated option value of QEMU: `bare,name=value`, with `,,` for a literal comma.
struct Options {
    text: Vec<u8>,
    bare: Vec<Vec<u8>>,
    named: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Options {
    fn parse(text: &[u8]) -> Self {
        let mut options = Self { text: text.to_vec(), bare: Vec::new(), named: BTreeMap::new() };
        for part in split_commas(text) {
            match part.iter().position(|&byte| byte == b'=') {
                // The first part may be a path, which may contain an equals sign.
                Some(at) if !options.bare.is_empty() || !part[..at].contains(&b'/') => {
                    options.named.insert(part[..at].to_vec(), part[at + 1..].to_vec());
                }
                _ => options.bare.push(part),
            }
        }
        options
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.named.get(name).map(Vec::as_slice)
    }

    /// True if `name` is given alone, or as `on`, `yes` or `true`.
    fn is_on(&self, name: &[u8]) -> bool {
        let bare = self.bare.iter().any(|bare| bare == name);
        bare || matches!(self.get(name), Some(b"on" | b"yes" | b"true"))
    }
}

fn split_commas(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Vec<MonitorOption> {
        let words = line.split_whitespace().map(|word| word.as_bytes().to_vec());
        parse_monitors(&words.collect::<Vec<_>>())
    }

    fn path(path: &str) -> MonitorOption {
        MonitorOption::Path(path.into())
    }

    #[test]
    fn every_option_form_of_a_monitor_is_found() {
        for line in [
            "qemu -m 1G -qmp unix:/run/q.sock,server=on,wait=off",
            "qemu --qmp unix:/run/q.sock,server,nowait -m 1G",
            "qemu -qmp-pretty unix:/run/q.sock,server=on",
            "qemu -chardev socket,id=m,path=/run/q.sock,server=on -mon chardev=m,mode=control",
            "qemu -mon m,mode=control -chardev socket,path=/run/q.sock,server=yes,id=m",
            "qemu -chardev socket,id=m,path=/run/q.sock,server=on -qmp chardev:m",
        ] {
            assert_eq!(parse(line), [path("/run/q.sock")], "{line}");
        }
    }

    #[test]
    fn commas_and_equals_signs_in_paths_are_kept() {
        assert_eq!(parse("q -qmp unix:/run/a,,b=c,server=on"), [path("/run/a,b=c")]);
    }

    #[test]
    fn unreachable_monitors_are_distinguished() {
        let libvirt = "qemu -chardev socket,id=charmonitor,fd=24,server=on,wait=off \
                       -mon chardev=charmonitor,id=monitor,mode=control";
        assert_eq!(parse(libvirt), [MonitorOption::Descriptor]);
        let name = MonitorOption::Abstract("vm".into());
        assert_eq!(parse("qemu -qmp unix:vm,server=on,abstract=on"), [name]);
        for line in [
            "qemu -qmp tcp:localhost:4444,server=on",
            "qemu -qmp stdio",
            "qemu -qmp unix:/run/client",
            "qemu -mon chardev=gone,mode=control",
        ] {
            assert!(matches!(parse(line)[..], [MonitorOption::Elsewhere(_)]), "{line}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_command_line_does_not_panic(words in prop::collection::vec(
            prop_oneof![
                Just("-qmp".to_owned()),
                Just("-mon".to_owned()),
                Just("-chardev".to_owned()),
                "(unix:|socket,|chardev:|id=|path=|chardev=|mode=control|,|=|/|[a-z])*",
            ],
            0..8,
        )) {
            let words: Vec<Vec<u8>> = words.into_iter().map(String::into_bytes).collect();
            parse_monitors(&words);
        }
    }

    #[test]
    fn human_monitor_is_no_qmp_monitor() {
        assert_eq!(parse("qemu -monitor unix:/run/q.sock,server=on,wait=off"), []);
        assert_eq!(parse("q -chardev socket,id=m,path=/q,server=on -mon chardev=m"), []);
        assert_eq!(parse("qemu -qmp"), []);
    }
}
