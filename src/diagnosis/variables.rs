//! Arguments and locals of the frames that the host sees, for those who ask for them.
//!
//! Owns how many of them a stack may have, and their form in reports. Owns no locations and no
//! rendering: the symbolizer finds them and makes text of them. Called by `host_look`, while the
//! guest stands still, and when its look becomes a report.

use nmiscope_machine::VirtualMemory;
use nmiscope_symbolizer::{FunctionVariables, UnwoundFrame, VariableKind, VariableValue};

use crate::kernel::Symbols;
use crate::report::{self, Availability, Frame, Function, Variable};

/// Variables of one vCPU's stack: what is behind that many says so. Recursion makes stacks of a
/// thousand frames with the same few variables each, and the guest stands still meanwhile.
const MAX_VARIABLES: usize = 4096;

/// The variables of a frame's functions, innermost first, or why there are none.
pub type FrameVariables = Result<Vec<FunctionVariables>, String>;

/// The variables of a stack, frame for frame; empty if nobody asked for them.
pub fn of_stack(
    symbols: &dyn Symbols,
    frames: &[UnwoundFrame],
    memory: &dyn VirtualMemory,
) -> Vec<FrameVariables> {
    let mut left = MAX_VARIABLES;
    let each = |frame: &UnwoundFrame| {
        if left == 0 {
            return Some(Err(format!("variables: the stack has more than {MAX_VARIABLES}")));
        }
        let functions = symbols.variables(frame, memory)?;
        let found = functions.iter().flatten();
        let count: usize = found.map(|function| function.variables.len()).sum();
        left = left.saturating_sub(count);
        Some(functions)
    };
    frames.iter().map_while(each).collect()
}

/// Adds a frame's variables to what is said of it.
pub fn add(frame: &mut Frame, variables: &FrameVariables) {
    match variables {
        Ok(functions) => {
            for (function, variables) in frame.functions.iter_mut().zip(functions) {
                add_to_function(function, variables);
            }
        }
        Err(reason) => {
            frame.missing.get_or_insert_with(|| reason.clone());
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
