//! A frame of a stack: whoever has found it, and where it is in the source.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A frame of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Its address.
    pub address: String,
    /// The address is that of an instruction that was interrupted; otherwise a call returns to it.
    pub interrupted: bool,
    /// Whoever found it vouches for it. Otherwise it is a word on the stack that points into code.
    pub reliable: bool,
    /// By what the host found it; null for one that the guest printed.
    pub found_by: Option<FoundBy>,
    /// What is wrong with its call frame information, so that its caller, if there is one, was found
    /// by other means; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cfi_fault: Option<String>,
    /// The symbol that the address lies in.
    pub symbol: Option<SymbolOffset>,
    /// Inlined calls, innermost first, and last the function whose code it is. Empty where nothing
    /// is known.
    pub functions: Vec<Function>,
    /// Why there is less than functions and lines, or variables if asked for, if so.
    pub missing: Option<String>,
}

/// How the host found a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// By the vCPU's registers: the first one.
    Registers,
    /// By the callee's call frame information.
    Cfi,
    /// By the return address at the stack pointer, its callee being no code.
    BadCall,
    /// By the chain of saved frame pointers, for want of anything better.
    FramePointer,
}

/// A symbol of the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SymbolOffset {
    /// Its name, demangled.
    pub name: String,
    /// How far the address is behind its start.
    pub offset: u64,
}

/// A function at an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Function {
    /// Its full name, demangled; null where there is none.
    pub name: Option<String>,
    /// Its source file, relative to the source root where there is one.
    pub file: Option<String>,
    /// The line: of the innermost function the instruction's, of the others the call's.
    pub line: Option<u32>,
    /// The column.
    pub column: Option<u32>,
    /// Inlined into the next.
    pub inlined: bool,
    /// Its arguments and locals in scope, in the order of their declaration; absent where there are
    /// none, nobody asked for them (`--args`), or the guest has found the frame.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    /// How many more it has: more than are looked at, or without a name that can be read; absent
    /// for none.
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
    /// Its name. Of several with the same one, the last is what the source means.
    pub name: String,
    /// Parameter or local.
    pub kind: VariableKind,
    /// The name of its type; null where the image has none.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Its value as the source would have it: numbers in decimal, pointers as `symbol+0x10` or in
    /// hexadecimal, enumerators by name, strings quoted, and `{Type}` for what has parts. Where it
    /// is not known, why, in angle brackets.
    pub value: String,
    /// Whether it is known.
    pub availability: Availability,
}

/// What a variable is to its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VariableKind {
    /// A parameter.
    Parameter,
    /// A local variable.
    Local,
}

/// Whether the value of a variable is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// It is.
    Known,
    /// There is none at this address: the compiler did not keep it.
    OptimizedOut,
    /// There is one, in a register or in memory that could not be had.
    Unavailable,
}
