//! Arguments and local variables of a frame.
//!
//! Owns which variables a frame has, where the debug information says each of them is, and how much
//! of that is looked at. Owns no types: `types` knows those. Called by whatever shows frames.
//!
//! Compilers keep a variable where they need it and only as long: in optimized code many have no
//! location at the address in question, and that is said and not guessed. A caller's registers are
//! those that the unwinder could restore, so an argument that was passed in RDI is gone as soon as
//! the function calls another one.
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

use crate::dwarf::{Budget, Dwarf, DwarfError, Entry, Scope, Unit, follow, read, string};
use crate::expression::ExpressionError;
use crate::types::{TypeError, Types};
use crate::unwind::UnwoundFrame;
use location::{Location, Locator};
use render::Renderer;

/// Variables that one frame may have, those of inlined calls included.
const MAX_VARIABLES: usize = 256;
/// References (abstract origin) that lead to a variable's name.
const MAX_REFERENCES: usize = 16;
/// Entries of location lists that one frame's variables may read.
const MAX_LOCATIONS: u64 = 1 << 16;

/// What a variable is to its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VariableKind {
    /// A parameter.
    Parameter,
    /// A local variable.
    Local,
}

/// The value of a variable, as far as it is known.
///
/// Shown as the source would have it. Text from the guest has its control characters escaped; names
/// of types and symbols are as the image has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableValue {
    /// Numbers in decimal, pointers as `symbol+0x10` or hexadecimal, enumerators by name, strings
    /// and characters quoted, and `{Type}` for what has parts.
    Text(String),
    /// It has no value at this address: `<optimized out>`.
    OptimizedOut,
    /// It has one, but not one that could be read: `<unavailable: why>`.
    Unavailable(ValueError),
}

/// Why a value could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Where it is cannot be computed, or is not known: a register that was not restored.
    #[error(transparent)]
    Location(#[from] ExpressionError),
    /// What it is cannot be found out, or memory cannot be read.
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

/// One parameter or local variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name. Several can share one: the last of them is what the source means.
    pub name: String,
    /// Parameter or local.
    pub kind: VariableKind,
    /// Its type's name; `None` where the debug information has no type.
    pub type_name: Option<String>,
    /// Its value.
    pub value: VariableValue,
}

/// The variables of one function in a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionVariables {
    /// In the order of their declaration.
    pub variables: Vec<Variable>,
    /// How many more there are: a function has at most 64 here, a frame 256. Those whose very name
    /// cannot be read count too.
    pub omitted: usize,
}

/// Reads the arguments and local variables of frames.
#[derive(Clone, Copy)]
pub struct Variables<'t> {
    types: &'t Types<'t>,
    bias: u64,
}

impl<'t> Variables<'t> {
    /// For a guest that runs the image where it was linked.
    pub fn new(types: &'t Types<'_>) -> Self {
        Self { types, bias: 0 }
    }

    /// For a guest that runs it `bias` bytes above, as in [`Unwinder::with_bias`].
    ///
    /// [`Unwinder::with_bias`]: crate::Unwinder::with_bias
    #[must_use]
    pub fn with_bias(self, bias: u64) -> Self {
        Self { bias, ..self }
    }

    /// The variables in scope in a frame, for each of its functions: element for element those of
    /// [`Image::frames`](crate::Image::frames) at the frame's PC, innermost inlined call first.
    /// Empty where the debug information has no function.
    ///
    /// # Errors
    /// [`TypeError::Malformed`] when the function itself cannot be read. What is wrong with one
    /// variable is its [`VariableValue::Unavailable`].
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
        let budget = Budget::new("the locations of one frame's variables", MAX_LOCATIONS);
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

    /// `None` for one without a name, which the source does not have.
    fn variable(
        &self,
        unit: &Rc<Unit<'t>>,
        offset: UnitOffset,
        locator: &mut Locator<'_, 't>,
        renderer: &Renderer<'_, 't>,
    ) -> Result<Option<Variable>, TypeError> {
        let entry = unit.entry(offset).map_err(read("a variable"))?;
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

    /// The name of a variable, its own or that of the entry it is an instance of, and the constant
    /// that the latter may have.
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
                return Ok((name, constant));
            }
            let Some((other, offset)) = follow(debug, dwarf, &unit, &entry)? else { break };
            if let Some(other) = other {
                unit = Rc::new(other);
            }
            entry = unit.entry(offset).map_err(read("a variable"))?;
        }
        Ok((None, None))
    }
}
