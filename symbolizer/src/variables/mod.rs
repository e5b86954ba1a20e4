//! Arguments and local variables of a frame.
//!
//! Owns the list of a frame's variables, the locations that the debug information gives for them, and the
//! bounds on both. Owns no types: `types` knows those. Called by everything that shows frames.
//!
//! Compilers keep a variable where they need it and only as long: in optimized code many have no location
//! at the address in question, which is reported and not guessed. A caller's registers are the ones that
//! the unwinder could restore, so an argument that was passed in RDI is lost as soon as the function calls
//! another one.
//!
//! | file | owns |
//! |---|---|
//! | `location` | from an entry to bytes, or the reason for their absence |
//! | `render` | from bytes and a type to text |

mod location;
mod render;

use std::fmt;
use std::rc::Rc;

use gimli::UnitOffset;
use nmiscope_machine::VirtualMemory;

use crate::dwarf::{Budget, Dwarf, DwarfError, Entry, Scope, Unit, follow, read_entry, string};
use crate::expression::ExpressionError;
use crate::types::{TypeError, Types};
use crate::unwind::UnwoundFrame;
use location::{Location, Locator};
use render::Renderer;

/// Variables that are read for a frame, those of inlined calls included.
const MAX_VARIABLES: usize = 256;
/// References (abstract origin) that are followed to a variable's name.
const MAX_REFERENCES: usize = 16;
/// Entries of location lists that a frame's variables may read.
const MAX_LOCATIONS: u64 = 1 << 16;

/// The role of a variable in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VariableKind {
    /// A parameter of the function.
    Parameter,
    /// A local variable of the function.
    Local,
}

/// The value of a variable, as far as it is known.
///
/// Rendered in the notation of the source. Text from the guest has its control characters escaped; names of
/// types and symbols are as the image has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableValue {
    /// Numbers in decimal, pointers as `symbol+0x10` or hexadecimal, enumerators by name, strings
    /// and characters quoted, and `{Type}` for what has parts.
    Text(String),
    /// The variable has no value at this address: `<optimized out>`.
    OptimizedOut,
    /// The variable has a value that could not be read: `<unavailable: why>`.
    Unavailable(ValueError),
}

/// The reason why a value could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The location cannot be computed, or needs a register that was not restored.
    #[error(transparent)]
    Location(#[from] ExpressionError),
    /// The type of the value is not known, or its memory cannot be read.
    #[error(transparent)]
    Value(#[from] TypeError),
}

impl fmt::Display for VariableValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::OptimizedOut => f.write_str("<optimized out>"),
            Self::Unavailable(error) => {
                write!(f, "<unavailable: {error}")?;
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                f.write_str(">")
            }
        }
    }
}

/// A parameter or local variable of a function, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The variable's name. Several variables can share a name: the last of them is the one that the source
    /// means.
    pub name: String,
    /// The role of the variable: parameter or local.
    pub kind: VariableKind,
    /// The name of the type; `None` where the debug information has no type.
    pub type_name: Option<String>,
    /// The value, or the reason for its absence.
    pub value: VariableValue,
}

/// The variables of a single function in a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionVariables {
    /// The variables in the order of their declaration.
    pub variables: Vec<Variable>,
    /// Number of further variables that were left out: a function has at most 64 here, a frame 256.
    /// Variables whose very name cannot be read count too.
    pub omitted: usize,
}

/// A reader of the arguments and local variables of frames.
#[derive(Clone, Copy)]
pub struct Variables<'t> {
    types: &'t Types<'t>,
    bias: u64,
}

impl<'t> Variables<'t> {
    /// Makes a reader for a guest that runs the image where it was linked.
    pub fn new(types: &'t Types<'_>) -> Self {
        Self { types, bias: 0 }
    }

    /// Sets the bias of a guest that runs the image elsewhere, as in [`Unwinder::with_bias`].
    ///
    /// [`Unwinder::with_bias`]: crate::Unwinder::with_bias
    #[must_use]
    pub fn with_bias(self, bias: u64) -> Self {
        Self { bias, ..self }
    }

    /// Reads the variables in scope in a frame, for each of its functions: the result matches
    /// [`Image::frames`](crate::Image::frames) at the frame's PC element by element, innermost inlined call
    /// first. Empty where the debug information has no function.
    ///
    /// # Errors
    /// [`TypeError::Malformed`] when the function itself cannot be read. A fault in a single variable is
    /// its [`VariableValue::Unavailable`].
    pub fn in_frame(
        &self,
        frame: &UnwoundFrame,
        memory: &dyn VirtualMemory,
    ) -> Result<Vec<FunctionVariables>, TypeError> {
        let (_, debug, dwarf) = self.types.parts();
        let address = frame.pc.lookup_address().0.wrapping_sub(self.bias);
        let Some(found) = debug.scopes(dwarf, address)? else {
            return Ok(Vec::new());
        };
        let unit = self.types.unit(found.unit)?;
        let what = "the locations of one frame's variables";
        let budget = Budget::new(dwarf.work(), what, MAX_LOCATIONS);
        let mut locator = Locator::new(dwarf, &unit, address, frame, memory, self.bias, budget);
        locator.find_frame_base(found.function);
        let renderer = Renderer { types: self.types, memory, bias: self.bias };
        let mut left = MAX_VARIABLES;
        let each = |scope: &Scope| {
            let mut function = FunctionVariables { omitted: scope.omitted, variables: Vec::new() };
            for &offset in &scope.variables {
                match left.checked_sub(1) {
                    None => function.omitted += 1,
                    Some(rest) => {
                        left = rest;
                        match self.variable(&unit, offset, &mut locator, &renderer) {
                            Ok(variable) => function.variables.extend(variable),
                            Err(_) => function.omitted += 1,
                        }
                    }
                }
            }
            function
        };
        Ok(found.scopes.iter().map(each).collect())
    }

    /// Reads a variable. `None` for one without a name, which the source does not have.
    fn variable(
        &self,
        unit: &Rc<Unit<'t>>,
        offset: UnitOffset,
        locator: &mut Locator<'_, 't>,
        renderer: &Renderer<'_, 't>,
    ) -> Result<Option<Variable>, TypeError> {
        let entry = read_entry(locator.work(), unit, offset, "a variable")?;
        let (name, origin_value) = self.name(unit, &entry)?;
        let Some(name) = name else { return Ok(None) };
        let kind = match entry.tag() {
            gimli::DW_TAG_formal_parameter => VariableKind::Parameter,
            _ => VariableKind::Local,
        };
        let ty = self.types.type_of(unit, &entry);
        let type_name = ty.as_ref().ok().map(|ty| render::bounded(ty.name()));
        let location = match locator.locate(&entry) {
            Ok(Location::None) => origin_value.map_or(Location::None, Location::Constant),
            Ok(other) => other,
            Err(error) => {
                let value = VariableValue::Unavailable(error.into());
                return Ok(Some(Variable { name, kind, type_name, value }));
            }
        };
        let value = match ty {
            Ok(ty) => renderer.value(&ty, locator, &location),
            Err(error) => VariableValue::Unavailable(error.into()),
        };
        Ok(Some(Variable { name, kind, type_name, value }))
    }

    /// The name of a variable, its own or that of the entry it is an instance of, and the constant that the
    /// latter may have.
    fn name(
        &self,
        unit: &Rc<Unit<'t>>,
        entry: &Entry<'t>,
    ) -> Result<(Option<String>, Option<location::Constant<'t>>), DwarfError> {
        let (_, debug, dwarf): (_, _, &Dwarf<'t>) = self.types.parts();
        let mut unit = Rc::clone(unit);
        let mut entry = entry.clone();
        for _ in 0..MAX_REFERENCES {
            let constant = location::constant(&entry);
            if let Some(name) = entry.attr_value(gimli::DW_AT_name) {
                let name = string(dwarf, &unit, name).map(std::borrow::Cow::into_owned);
                let length = name.as_ref().map_or(0, String::len);
                dwarf.work().spend_text(length, "the names of variables")?;
                return Ok((name, constant));
            }
            let Some((other, offset)) = follow(debug, dwarf, &unit, &entry)? else { break };
            if let Some(other) = other {
                unit = Rc::new(other);
            }
            entry = read_entry(dwarf.work(), &unit, offset, "a variable")?;
        }
        Ok((None, None))
    }
}
