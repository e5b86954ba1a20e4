//! An address with a type: reading guest structures by the names of their parts.
//!
//! Owns the walk from a variable to a value. Every step is checked against the debug information,
//! every read against the guest's memory. Called by the adapters of the guest kernels.

use nmiscope_machine::{VirtualAddress, VirtualMemory};

use super::{Member, Type, TypeError, TypeKind};
use crate::types::Encoding;

/// Wrappers that are opened in search of a member.
const MAX_WRAPPERS: usize = 16;

/// The address and type of a value in the guest. Finding a part of it reads no guest memory; the `read_`
/// methods and [`deref`](Self::deref) do.
#[derive(Clone, Debug)]
pub struct Place<'t> {
    address: VirtualAddress,
    ty: Type<'t>,
}

impl<'t> Place<'t> {
    /// Places a value of type `ty` at `address`, which need not come from a variable.
    pub fn new(address: VirtualAddress, ty: Type<'t>) -> Self {
        Self { address, ty }
    }

    /// The guest-virtual address at which the value starts.
    pub fn address(&self) -> VirtualAddress {
        self.address
    }

    /// The type of the value.
    pub fn ty(&self) -> &Type<'t> {
        &self.ty
    }

    /// A value of the same type `offset` bytes further on, modulo 2^64: the instance of a per-CPU variable,
    /// given that CPU's offset.
    pub fn offset_by(&self, offset: u64) -> Self {
        Self { address: self.address.wrapping_add(offset), ty: self.ty.clone() }
    }

    /// Finds a part by its path, members separated by dots: `seq.len`. Where a structure has no member of
    /// that name but is a wrapper (see [`Type::peel`]), the search continues in what it wraps.
    ///
    /// # Errors
    /// [`TypeError::NoMember`] with the name of the outermost type, or as [`Type::member`].
    pub fn field(&self, path: &str) -> Result<Self, TypeError> {
        path.split('.').try_fold(self.clone(), |place, name| place.member(name))
    }

    fn member(&self, name: &str) -> Result<Self, TypeError> {
        let mut place = self.clone();
        for _ in 0..MAX_WRAPPERS {
            match place.ty.member(name) {
                Ok(member) => return place.part(member),
                Err(TypeError::NoMember { .. }) => {}
                Err(error) => return Err(error),
            }
            match place.ty.wrapped()? {
                Some(inner) => place = place.part(inner)?,
                None => break,
            }
        }
        Err(TypeError::NoMember { ty: self.ty.name(), member: name.to_owned() })
    }

    /// Element `index` of an array, or of an array inside wrappers.
    ///
    /// # Errors
    /// See [`Type::element`].
    pub fn index(&self, index: u64) -> Result<Self, TypeError> {
        let array = if self.ty.kind() == TypeKind::Array { self.clone() } else { self.peel()? };
        let element = array.ty.element(index)?;
        array.part(element)
    }

    /// The value below all wrappers.
    ///
    /// # Errors
    /// See [`Type::peel`].
    pub fn peel(&self) -> Result<Self, TypeError> {
        self.part(self.ty.peel()?)
    }

    /// Reads a pointer that lies here, or inside wrappers here, and returns the value that it points at.
    ///
    /// # Errors
    /// [`TypeError::Unsuitable`] for anything but a pointer, and for one to `void`; [`TypeError::Read`].
    pub fn deref(&self, memory: &impl VirtualMemory) -> Result<Self, TypeError> {
        let pointer = self.peel()?;
        let ty = pointer.ty.pointee()?;
        let ty = ty.ok_or_else(|| pointer.ty.unsuitable("a pointer to a type"))?;
        Ok(Self { address: VirtualAddress(pointer.read_unsigned(memory)?), ty })
    }

    /// Reads the number that lies here, or inside wrappers here: an integer, truth value, character,
    /// enumeration or pointer of up to 8 bytes, zero-extended.
    ///
    /// # Errors
    /// [`TypeError::Unsuitable`] for anything else; [`TypeError::Read`].
    pub fn read_unsigned(&self, memory: &impl VirtualMemory) -> Result<u64, TypeError> {
        let (bytes, _) = self.read_scalar(memory)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads the same numbers as [`read_unsigned`](Self::read_unsigned), sign-extended from their size,
    /// whatever the sign of their type.
    ///
    /// # Errors
    /// See [`read_unsigned`](Self::read_unsigned).
    pub fn read_signed(&self, memory: &impl VirtualMemory) -> Result<i64, TypeError> {
        let (bytes, size) = self.read_scalar(memory)?;
        let unused = 64 - 8 * size as u32;
        Ok(i64::from_le_bytes(bytes) << unused >> unused)
    }

    /// Reads all bytes of the value.
    ///
    /// # Errors
    /// [`TypeError::TooLarge`] if there are more than `limit`; [`TypeError::Unsuitable`] if the
    /// type has no size; [`TypeError::Read`].
    pub fn read_bytes(
        &self,
        memory: &impl VirtualMemory,
        limit: usize,
    ) -> Result<Vec<u8>, TypeError> {
        let size = self.ty.size().ok_or_else(|| self.ty.unsuitable("a type with a size"))?;
        match usize::try_from(size) {
            Ok(size) if size <= limit => {
                let mut bytes = vec![0; size];
                memory.read(self.address, &mut bytes)?;
                Ok(bytes)
            }
            _ => Err(TypeError::TooLarge { ty: self.ty.name(), size, limit: limit as u64 }),
        }
    }

    /// Reads the value's bytes, padded with zeros, and returns them with their number: 1 to 8.
    fn read_scalar(&self, memory: &impl VirtualMemory) -> Result<([u8; 8], usize), TypeError> {
        let place = self.peel()?;
        let is_scalar = match place.ty.kind() {
            TypeKind::Base(encoding) => !matches!(encoding, Encoding::Float | Encoding::Other),
            TypeKind::Pointer | TypeKind::Enumeration => true,
            TypeKind::Array | TypeKind::Structure | TypeKind::Union | TypeKind::Other => false,
        };
        match place.ty.size() {
            Some(size @ 1..=8) if is_scalar => {
                let size = size as usize;
                let mut bytes = [0; 8];
                memory.read(place.address, &mut bytes[..size])?;
                Ok((bytes, size))
            }
            _ => Err(self.ty.unsuitable("a number")),
        }
    }

    fn part(&self, member: Member<'t>) -> Result<Self, TypeError> {
        let address = self.address.checked_add(member.offset);
        let address = address.ok_or(TypeError::Wraps { address: self.address })?;
        Ok(Self { address, ty: member.ty })
    }
}
