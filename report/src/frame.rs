//! Frames of stacks: the method that found each, its functions and source lines, and their variables.
//!
//! Owns these types and their JSON names; refuses to own unwinding and symbols (`symbolizer`). Filled by the
//! tool's diagnosis, rendered by `text`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A frame of a stack.
///
/// The `symbolizer` crate has types named `Frame`, `Variable` and `VariableKind` too; these are their forms
/// in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Guest-virtual address of the frame, 16 hexadecimal digits.
    pub address: String,
    /// True where the address is that of an interrupted instruction; false where a call returns to it.
    pub interrupted: bool,
    /// True for a frame that the guest or the host vouches for; false for a value on the stack that merely
    /// points into code.
    pub reliable: bool,
    /// Method by which the host found the frame; null for one that the guest printed.
    pub found_by: Option<FoundBy>,
    /// Fault of the frame's call frame information, because of which its caller was found by other means or
    /// not at all; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cfi_fault: Option<String>,
    /// Symbol that contains the address; null where there is none.
    pub symbol: Option<FrameSymbol>,
    /// Functions at the address: inlined calls, innermost first, then the function that contains their code.
    /// Empty where nothing is known.
    pub functions: Vec<Function>,
    /// Reason why functions, lines or requested variables are missing; null where none is.
    pub missing: Option<String>,
}

/// The methods by which the host finds frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// The registers of the vCPU: the first frame.
    Registers,
    /// The call frame information of its callee.
    Cfi,
    /// The ORC row of its callee, in a Linux kernel.
    Orc,
    /// The return address at the stack pointer, after a call to an address that is not code.
    BadCall,
    /// The chain of saved frame pointers, where there is nothing better.
    FramePointer,
}

/// A symbol of the image, and an offset into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FrameSymbol {
    /// Name of the symbol, demangled.
    pub name: String,
    /// Distance of the address from the symbol's start, in bytes.
    pub offset: u64,
}

/// A function at an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Function {
    /// Full name of the function, demangled; null where it has none.
    pub name: Option<String>,
    /// Path of the source file, relative to the source root where there is one; null where it is not known.
    pub file: Option<String>,
    /// Number of the line, from 1: in the innermost function the line of the instruction, in the others
    /// that of the call. Null where it is not known.
    pub line: Option<u32>,
    /// Number of the column in that line, from 1; null where it is not known.
    pub column: Option<u32>,
    /// True where the function is inlined into the next one.
    pub inlined: bool,
    /// Arguments and locals in scope, in the order of their declaration; absent where there are none, where
    /// they were not requested, and in frames that the guest printed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    /// Number of variables that are left out: beyond the limit, or without a readable name. Absent for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variables_omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An argument or a local variable of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Variable {
    /// Name of the variable. Of several with the same name, the last is the one that the source refers to.
    pub name: String,
    /// Kind of variable: a parameter or a local.
    pub kind: VariableKind,
    /// Name of its type; null where the image has none.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Value in the notation of the source: numbers in decimal, pointers as `symbol+0x10` or in hexadecimal,
    /// enumerators by name, strings quoted, and `{Type}` for a value with parts. Where it is not known, the
    /// reason in angle brackets.
    pub value: String,
    /// Availability of the value at this address.
    pub availability: Availability,
}

/// The kinds of variables of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VariableKind {
    /// A parameter of the function.
    Parameter,
    /// A local variable of the function.
    Local,
}

/// The availability of a variable's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// The value was read, and is known.
    Known,
    /// The compiler did not keep the value at this address.
    OptimizedOut,
    /// The value is in a register or in memory that could not be read.
    Unavailable,
}
