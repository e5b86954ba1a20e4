//! Arguments and locals of a function, as lines below the one of its frame.
//!
//! Owns their layout; refuses to own that of frames (`stack`, which calls it).

use std::fmt::Write as _;

use crate::phrase::{Phrase, Tone};
use crate::sanitize::line;
use crate::{Cpu, Function, HostStack, Variable, VariableKind};

/// Indentation, deeper than that of function names.
const INDENT: &str = "        ";
/// The most characters of a line, the indentation included. One variable may take a whole line; a longer
/// one is cut.
const WIDTH: usize = 100;

/// Appends the parameters of a function, then its locals, in lines of at most [`WIDTH`] characters.
pub(super) fn show(text: &mut String, function: &Function) {
    let omitted = Some(function.variables_omitted).filter(|&omitted| omitted > 0);
    let entries = in_order(function).map(entry);
    let entries = entries.chain(omitted.map(|omitted| format!("… {omitted} more")));
    let mut lines: Vec<(usize, String)> = Vec::new();
    let room = WIDTH - INDENT.len();
    for entry in entries {
        let length = entry.chars().count();
        match lines.last_mut() {
            // With a comma and a space before it, and a comma after it.
            Some((used, current)) if *used + length + 3 <= room => {
                *used += length + 2;
                let _ = write!(current, ", {entry}");
            }
            _ => lines.push((length, entry)),
        }
    }
    let last = lines.len().saturating_sub(1);
    for (index, (_, shown)) in lines.iter().enumerate() {
        let comma = if index < last { "," } else { "" };
        let _ = writeln!(text, "{INDENT}{}", Phrase::new(Tone::Dim, &format!("{shown}{comma}")));
    }
}

/// Returns the variables of a function: parameters, then locals.
pub(crate) fn in_order(function: &Function) -> impl Iterator<Item = &Variable> {
    let of_kind = |kind| function.variables.iter().filter(move |variable| variable.kind == kind);
    of_kind(VariableKind::Parameter).chain(of_kind(VariableKind::Local))
}

fn entry(variable: &Variable) -> String {
    let entry = line(&format!("{} = {}", variable.name, variable.value));
    let room = WIDTH - INDENT.len() - 1;
    if entry.chars().count() <= room {
        return entry;
    }
    entry.chars().take(room - 1).chain(['…']).collect()
}

/// Returns true where any frame has variables: the host's stack then says more than an equal guest trace.
pub(super) fn has_some(stack: &HostStack) -> bool {
    let mut functions = stack.frames.iter().flat_map(|frame| &frame.functions);
    functions.any(|function| !function.variables.is_empty() || function.variables_omitted > 0)
}

/// Returns a remark that names the vCPU whose variables are shown: others with the same stack may have other values.
pub(super) fn owner(cpu: &Cpu) -> Phrase {
    Phrase::new(Tone::Dim, &format!("arguments and locals are those of cpu{}", cpu.cpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Availability;

    fn function(variables: &[(&str, VariableKind, &str)]) -> Function {
        let each = |&(name, kind, value): &(&str, VariableKind, &str)| Variable {
            name: name.into(),
            kind,
            type_name: None,
            value: value.into(),
            availability: Availability::Known,
        };
        Function {
            name: None,
            file: None,
            line: None,
            column: None,
            inlined: false,
            variables: variables.iter().map(each).collect(),
            variables_omitted: 0,
        }
    }

    fn shown(function: &Function) -> String {
        let mut text = String::new();
        show(&mut text, function);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn parameters_come_before_locals() {
        let function = function(&[
            ("turns", VariableKind::Local, "7"),
            ("cpu", VariableKind::Parameter, "2"),
            ("lock", VariableKind::Parameter, "INODE_LOCK"),
        ]);
        assert_eq!(shown(&function), "        cpu = 2, lock = INODE_LOCK, turns = 7\n");
    }

    #[test]
    fn a_function_without_variables_takes_no_line() {
        assert_eq!(shown(&function(&[])), "");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let function = Function { variables_omitted: 3, ..function(&[]) };
        assert_eq!(shown(&function), "        … 3 more\n");
    }

    #[test]
    fn control_characters_of_the_guest_and_its_image_do_nothing() {
        let function = function(&[("a\x1b[2J", VariableKind::Local, "\"\n\u{202e}\"")]);
        assert_eq!(shown(&function), "        a\\u{1b}[2J = \"\\n\\u{202e}\"\n");
    }

    #[test]
    fn many_are_wrapped_and_long_ones_cut() {
        let long = "x".repeat(300);
        let mut variables = vec![("number", VariableKind::Local, "123456789"); 20];
        variables.push(("long", VariableKind::Local, &long));
        let text = shown(&function(&variables));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.matches("number = 123456789,").count(), 20, "{text}");
        assert_eq!(text.lines().count(), 6, "five of 18 characters fit into 92\n{text}");
        assert!(text.ends_with("x…\n"), "{text}");
    }
}
