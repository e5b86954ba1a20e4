//! DWARF for a function with arguments and locals in every kind of place, laid out by hand:
//!
//! ```text
//! fn hang(...)      TEXT+0x100 .. TEXT+0x200, frame base: the CFA, or RBP
//!     { early }     TEXT+0x100 .. TEXT+0x140
//!     { late }      TEXT+0x140 .. TEXT+0x200
//!         wait()    TEXT+0x150 .. TEXT+0x160, inlined
//! ```

use gimli::write::{
    Address, AttributeValue, DwarfUnit, EndianVec, Expression, Location, LocationList, Sections,
    UnitEntryId,
};
use gimli::{DwAt, DwTag, Encoding, Format, LittleEndian, X86_64};

use crate::elf::{Section, TEXT};

type Attributes = Vec<(DwAt, AttributeValue)>;

struct Writer {
    dwarf: DwarfUnit,
}

pub fn expression(write: impl FnOnce(&mut Expression)) -> Expression {
    let mut expression = Expression::new();
    write(&mut expression);
    expression
}

fn fbreg(offset: i64) -> AttributeValue {
    AttributeValue::Exprloc(expression(|at| at.op_fbreg(offset)))
}

fn exprloc(write: impl FnOnce(&mut Expression)) -> AttributeValue {
    AttributeValue::Exprloc(expression(write))
}

fn range(begin: u64, end: u64) -> Attributes {
    vec![
        (gimli::DW_AT_low_pc, AttributeValue::Address(Address::Constant(TEXT + begin))),
        (gimli::DW_AT_high_pc, AttributeValue::Udata(end - begin)),
    ]
}

impl Writer {
    fn add(&mut self, parent: UnitEntryId, tag: DwTag, attributes: Attributes) -> UnitEntryId {
        let entry = self.dwarf.unit.add(parent, tag);
        for (name, value) in attributes {
            self.dwarf.unit.get_mut(entry).set(name, value);
        }
        entry
    }

    fn named(&mut self, tag: DwTag, name: &str, attributes: Attributes) -> UnitEntryId {
        let root = self.dwarf.unit.root();
        self.named_in(root, tag, name, attributes)
    }

    fn named_in(
        &mut self,
        parent: UnitEntryId,
        tag: DwTag,
        name: &str,
        attributes: Attributes,
    ) -> UnitEntryId {
        let entry = self.add(parent, tag, attributes);
        let name = AttributeValue::String(name.into());
        self.dwarf.unit.get_mut(entry).set(gimli::DW_AT_name, name);
        entry
    }

    fn base(&mut self, name: &str, size: u64, encoding: gimli::DwAte) -> UnitEntryId {
        let encoding = (gimli::DW_AT_encoding, AttributeValue::Encoding(encoding));
        self.named(gimli::DW_TAG_base_type, name, vec![bytes(size), encoding])
    }

    fn variable(
        &mut self,
        parent: UnitEntryId,
        name: &str,
        ty: UnitEntryId,
        location: Option<AttributeValue>,
    ) -> UnitEntryId {
        let mut attributes = vec![type_ref(ty)];
        attributes.extend(location.map(|location| (gimli::DW_AT_location, location)));
        self.named_in(parent, gimli::DW_TAG_variable, name, attributes)
    }

    fn list(&mut self, locations: Vec<(u64, u64, Expression)>) -> AttributeValue {
        // Offsets count from the unit's low PC, which is TEXT.
        let locations = locations.into_iter().map(|(begin, end, data)| Location::OffsetPair {
            begin,
            end,
            data,
        });
        let list = LocationList(locations.collect());
        AttributeValue::LocationListRef(self.dwarf.unit.locations.add(list))
    }
}

fn type_ref(ty: UnitEntryId) -> (DwAt, AttributeValue) {
    (gimli::DW_AT_type, AttributeValue::UnitRef(ty))
}

fn bytes(size: u64) -> (DwAt, AttributeValue) {
    (gimli::DW_AT_byte_size, AttributeValue::Udata(size))
}

fn at(offset: u64) -> (DwAt, AttributeValue) {
    (gimli::DW_AT_data_member_location, AttributeValue::Udata(offset))
}

/// `by_rbp`: the frame base is RBP and not the CFA. `crowd`: so many more variables in `hang`.
pub fn sections(version: u16, by_rbp: bool, crowd: usize) -> Vec<Section> {
    let encoding = Encoding { format: Format::Dwarf32, version, address_size: 8 };
    let mut w = Writer { dwarf: DwarfUnit::new(encoding) };
    let root = w.dwarf.unit.root();
    for (name, value) in range(0, 0x1000) {
        w.dwarf.unit.get_mut(root).set(name, value);
    }
    let u64_ = w.base("u64", 8, gimli::DW_ATE_unsigned);
    let u128_ = w.base("u128", 16, gimli::DW_ATE_unsigned);
    let i16_ = w.base("i16", 2, gimli::DW_ATE_signed);
    let bool_ = w.base("bool", 1, gimli::DW_ATE_boolean);
    let char_ = w.base("char", 4, gimli::DW_ATE_UTF);
    let c_char = w.base("c_char", 1, gimli::DW_ATE_signed_char);
    let f64_ = w.base("f64", 8, gimli::DW_ATE_float);
    let unit = w.base("()", 0, gimli::DW_ATE_unsigned);
    let pointer = w.named(gimli::DW_TAG_pointer_type, "&u64", vec![type_ref(u64_)]);
    let state = w.named(gimli::DW_TAG_enumeration_type, "State", vec![bytes(1)]);
    for (name, value) in [("Idle", 3), ("Stuck", 7)] {
        let value = (gimli::DW_AT_const_value, AttributeValue::Udata(value));
        w.named_in(state, gimli::DW_TAG_enumerator, name, vec![value]);
    }
    let str_ = w.named(gimli::DW_TAG_structure_type, "&str", vec![bytes(16)]);
    w.named_in(str_, gimli::DW_TAG_member, "data_ptr", vec![type_ref(pointer), at(0)]);
    w.named_in(str_, gimli::DW_TAG_member, "length", vec![type_ref(u64_), at(8)]);
    let pair = w.named(gimli::DW_TAG_structure_type, "Pair", vec![bytes(16)]);
    w.named_in(pair, gimli::DW_TAG_member, "a", vec![type_ref(u64_), at(0)]);
    w.named_in(pair, gimli::DW_TAG_member, "b", vec![type_ref(u64_), at(8)]);
    let cpu = w.named(gimli::DW_TAG_structure_type, "Cpu", vec![bytes(8)]);
    w.named_in(cpu, gimli::DW_TAG_member, "__0", vec![type_ref(u64_), at(0)]);
    let marker = w.named(gimli::DW_TAG_structure_type, "Marker", vec![bytes(0)]);

    let wait = w.named(gimli::DW_TAG_subprogram, "wait", vec![]);
    let wait_for = w.named_in(wait, gimli::DW_TAG_formal_parameter, "cpu", vec![type_ref(cpu)]);
    let constant = (gimli::DW_AT_const_value, AttributeValue::Sdata(-1));
    let wait_limit =
        w.named_in(wait, gimli::DW_TAG_variable, "limit", vec![type_ref(i16_), constant]);

    let base = exprloc(|at| match by_rbp {
        true => at.op_reg(X86_64::RBP),
        false => at.op(gimli::DW_OP_call_frame_cfa),
    });
    let mut attributes = range(0x100, 0x200);
    attributes.push((gimli::DW_AT_frame_base, base));
    let hang = w.named(gimli::DW_TAG_subprogram, "hang", attributes);
    let parameter = |w: &mut Writer, name: &str, ty, location| {
        w.named_in(
            hang,
            gimli::DW_TAG_formal_parameter,
            name,
            vec![type_ref(ty), (gimli::DW_AT_location, location)],
        );
    };
    parameter(&mut w, "on_stack", u64_, fbreg(-0x20));
    parameter(&mut w, "in_register", u64_, exprloc(|at| at.op_reg(X86_64::RBX)));
    parameter(&mut w, "lost", u64_, exprloc(|at| at.op_reg(X86_64::RDI)));
    let text = exprloc(|at| {
        at.op_reg(X86_64::R12);
        at.op_piece(8);
        at.op_constu(5);
        at.op(gimli::DW_OP_stack_value);
        at.op_piece(8);
    });
    parameter(&mut w, "text", str_, text);
    let listed = w.list(vec![
        (0x100, 0x140, expression(|at| at.op_reg(X86_64::RSI))),
        (0x140, 0x180, expression(|at| at.op_breg(X86_64::RBX, 8))),
    ]);
    w.variable(hang, "listed", u64_, Some(listed));
    let entry_value = expression(|at| {
        at.op_entry_value(expression(|at| at.op_reg(X86_64::RDI)));
        at.op(gimli::DW_OP_stack_value);
    });
    let entry_value = if version >= 5 { entry_value } else { Expression::new() };
    w.variable(hang, "at_entry", u64_, Some(AttributeValue::Exprloc(entry_value)));
    w.variable(hang, "nowhere", u64_, None);
    let half = exprloc(|at| {
        at.op_piece(8);
        at.op_reg(X86_64::RBX);
        at.op_piece(8);
    });
    w.variable(hang, "half_gone", str_, Some(half));
    let first_half = exprloc(|at| {
        at.op_reg(X86_64::R12);
        at.op_piece(8);
    });
    w.variable(hang, "no_length", str_, Some(first_half));
    let number = |w: &mut Writer, name: &str, ty, number: u64| {
        let location = exprloc(|at| {
            at.op_constu(number);
            at.op(gimli::DW_OP_stack_value);
        });
        w.variable(hang, name, ty, Some(location));
    };
    number(&mut w, "negative", i16_, 0xffff_fffe);
    number(&mut w, "yes", bool_, 1);
    number(&mut w, "odd_bool", bool_, 2);
    number(&mut w, "letter", char_, 0xdf);
    number(&mut w, "no_letter", char_, 0xd800);
    number(&mut w, "c_letter", c_char, 0x1b);
    number(&mut w, "half", f64_, 0x3fe0_0000_0000_0000);
    number(&mut w, "state", state, 7);
    number(&mut w, "odd_state", state, 9);
    number(&mut w, "to_table", pointer, TEXT + 0x410);
    number(&mut w, "to_text", pointer, TEXT + 0x100);
    number(&mut w, "to_nothing", pointer, 0x1234);
    number(&mut w, "newtype", cpu, 3);
    number(&mut w, "too_wide", u128_, 3);
    w.variable(hang, "pair", pair, Some(fbreg(-0x40)));
    w.variable(hang, "unmapped", u64_, Some(fbreg(-0x8000)));
    w.variable(hang, "nothing", unit, None);
    w.variable(hang, "marker", marker, None);
    let endless = exprloc(|at| {
        at.op(gimli::DW_OP_nop);
        let skip = at.op_skip();
        at.set_target(skip, 0);
    });
    w.variable(hang, "endless", u64_, Some(endless));
    let constant = (gimli::DW_AT_const_value, AttributeValue::Block(vec![9; 16]));
    w.named_in(hang, gimli::DW_TAG_variable, "block", vec![type_ref(u128_), constant]);
    w.named_in(hang, gimli::DW_TAG_variable, "typeless", vec![]);
    for index in 0..crowd {
        w.variable(hang, &format!("crowd{index}"), u64_, None);
    }
    let early = w.add(hang, gimli::DW_TAG_lexical_block, range(0x100, 0x140));
    w.variable(early, "early", u64_, Some(fbreg(-0x20)));
    let late = w.add(hang, gimli::DW_TAG_lexical_block, range(0x140, 0x200));
    w.variable(late, "late", u64_, Some(fbreg(-0x20)));
    let origin = |of| (gimli::DW_AT_abstract_origin, AttributeValue::UnitRef(of));
    let mut attributes = range(0x150, 0x160);
    attributes.push(origin(wait));
    let call = w.add(late, gimli::DW_TAG_inlined_subroutine, attributes);
    let location = (gimli::DW_AT_location, exprloc(|at| at.op_reg(X86_64::RBX)));
    w.add(call, gimli::DW_TAG_formal_parameter, vec![origin(wait_for), location]);
    w.add(call, gimli::DW_TAG_variable, vec![origin(wait_limit)]);
    w.variable(late, "after_call", u64_, Some(fbreg(-0x18)));

    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    w.dwarf.write(&mut sections).expect("DWARF");
    let mut written = Vec::new();
    sections
        .for_each(|id, data| {
            if !data.slice().is_empty() {
                written.push((id.name(), data.slice().to_vec()));
            }
            Ok::<_, gimli::Error>(())
        })
        .expect("sections");
    written
}
