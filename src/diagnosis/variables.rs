//! Arguments and locals of host frames, as reports have them.
//!
//! Owns their form alone: the symbolizer finds and prints them, `capture` bounds their number.

use nmiscope_report::{self as report, Availability, Frame, Function, Variable};
use nmiscope_symbolizer::{FunctionVariables, VariableKind, VariableValue};

use crate::capture::host_stack::FrameVariables;

/// Adds a frame's variables to its report.
pub fn add(frame: &mut Frame, variables: &FrameVariables) {
    match variables {
        Ok(functions) => {
            for (function, variables) in frame.functions.iter_mut().zip(functions) {
                add_to_function(function, variables);
            }
        }
        Err(reason) => {
            frame.missing.get_or_insert_with(|| crate::error_chain(reason));
        }
    }
}

fn add_to_function(function: &mut Function, found: &FunctionVariables) {
    function.variables = found.variables.iter().map(show).collect();
    function.variables_omitted = found.omitted as u64;
}

fn show(variable: &nmiscope_symbolizer::Variable) -> Variable {
    Variable {
        name: variable.name.clone(),
        kind: match variable.kind {
            VariableKind::Parameter => report::VariableKind::Parameter,
            VariableKind::Local => report::VariableKind::Local,
        },
        type_name: variable.type_name.clone(),
        value: variable.value.to_string(),
        availability: match variable.value {
            VariableValue::Text(_) => Availability::Known,
            VariableValue::OptimizedOut => Availability::OptimizedOut,
            VariableValue::Unavailable(_) => Availability::Unavailable,
        },
    }
}
