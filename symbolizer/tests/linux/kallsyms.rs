//! Symbol tables in each order and with each kind of address, and broken ones.

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::linux::{Kallsyms, KallsymsError};
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8160_0000;
/// Bytes of the image before the tables.
const CODE: usize = 0x10000;
const COUNT: usize = 600;

/// The order of the table's parts, and the kind of its addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Offsets before the names, per-CPU symbols absolute: 6.1.
    OffsetsFirst,
    /// Offsets behind the tokens, with a base: 6.12.
    OffsetsLast,
    /// Offsets behind the tokens, each relative to its own place: 7.2.
    Relative,
}

/// Makes the tokens: each character is its own, but for one that stands for `fn_`.
fn tokens() -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens[0] = b"zero".to_vec();
    tokens[1] = b"fn_".to_vec();
    tokens
}

/// Returns the name and address of a symbol. The first ten are per-CPU offsets in the order that has them.
fn symbol(number: usize, order: Order) -> (String, u64) {
    let address = match order {
        Order::OffsetsFirst if number < 10 => 0x100 * number as u64,
        _ => BASE + 0x40 * number as u64,
    };
    (format!("fn_{number:04}"), address)
}

struct Image(Vec<u8>);

impl Image {
    fn align(&mut self, alignment: usize) {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
    }

    fn add(&mut self, alignment: usize, bytes: &[u8]) {
        self.align(alignment);
        self.0.extend_from_slice(bytes);
    }

    fn offsets(&mut self, order: Order, alignment: usize) {
        self.align(alignment);
        for number in 0..COUNT {
            let (_, address) = symbol(number, order);
            let place = BASE + self.0.len() as u64;
            let offset = match order {
                Order::OffsetsFirst if address < BASE => address as i32,
                Order::OffsetsFirst => (BASE as i64 - 1 - address as i64) as i32,
                Order::OffsetsLast => (address - BASE) as i32,
                Order::Relative => (address as i64 - place as i64) as i32,
            };
            self.0.extend_from_slice(&offset.to_le_bytes());
        }
        if order != Order::Relative {
            self.add(8, &BASE.to_le_bytes());
        }
    }
}

fn image(order: Order) -> Vec<u8> {
    let alignment = if order == Order::Relative { 4 } else { 8 };
    let mut image = Image(vec![0xcc; CODE]);
    if order == Order::OffsetsFirst {
        image.offsets(order, alignment);
    }
    image.add(alignment, &(COUNT as u32).to_le_bytes());
    image.align(alignment);
    let (begin, mut markers) = (image.0.len(), Vec::new());
    for number in 0..COUNT {
        if number % 256 == 0 {
            markers.extend_from_slice(&((image.0.len() - begin) as u32).to_le_bytes());
        }
        // The type, the token for `fn_`, and four digits.
        let (name, _) = symbol(number, order);
        let digits = &name.as_bytes()[3..];
        let kind = if number == 7 { b'D' } else { b'T' };
        image.0.extend_from_slice(&[&[6, kind, 1][..], digits].concat());
    }
    image.add(alignment, &markers);
    if order == Order::OffsetsFirst {
        // `kallsyms_seqs_of_names`: no zero byte and no padding is between its last number and the tokens.
        let numbers = (0..COUNT as u32).flat_map(|number| number.to_be_bytes().into_iter().skip(1));
        image.add(alignment, &numbers.collect::<Vec<u8>>());
        assert!(image.0.len().is_multiple_of(alignment) && image.0.last() != Some(&0));
    }
    let mut index = Vec::new();
    image.align(alignment);
    let begin = image.0.len();
    for token in tokens() {
        index.extend_from_slice(&((image.0.len() - begin) as u16).to_le_bytes());
        image.0.extend_from_slice(&token);
        image.0.push(0);
    }
    image.add(alignment, &index);
    if order != Order::OffsetsFirst {
        image.offsets(order, alignment);
    }
    image.align(4096);
    image.0
}

const ORDERS: [Order; 3] = [Order::OffsetsFirst, Order::OffsetsLast, Order::Relative];

#[test]
fn symbols_of_each_order_have_their_names_and_addresses() {
    for order in ORDERS {
        let kallsyms = Kallsyms::find(&image(order), VirtualAddress(BASE));
        let kallsyms = kallsyms.unwrap_or_else(|error| panic!("{order:?}: {error}"));
        assert_eq!(kallsyms.len(), COUNT);
        for number in 0..COUNT {
            let (name, address) = symbol(number, order);
            assert_eq!(kallsyms.address_of(&name), Some(VirtualAddress(address)), "{order:?}");
            let found = kallsyms.containing(VirtualAddress(address + 0x3f)).expect("a symbol");
            assert_eq!((found.name, found.address.0), (name, address), "{order:?}");
            assert_eq!(found.kind, if number == 7 { 'D' } else { 'T' });
        }
        assert_eq!(kallsyms.address_of("fn_"), None);
        let first = kallsyms.iter().next().expect("a symbol").address.0;
        let below = first.checked_sub(1).map(VirtualAddress);
        assert_eq!(below.and_then(|below| kallsyms.containing(below)), None);
    }
}

#[test]
fn places_are_all_that_the_table_is_found_by() {
    for order in ORDERS {
        let image = image(order);
        let whole = Kallsyms::find(&image, VirtualAddress(BASE)).expect("symbols");
        let mut parts = vec![0; image.len()];
        for place in whole.places() {
            let place = (place.start - BASE) as usize..(place.end - BASE) as usize;
            parts[place.clone()].copy_from_slice(&image[place]);
        }
        assert!(parts.len() - parts.iter().filter(|byte| **byte != 0).count() > CODE);
        let found = Kallsyms::find(&parts, VirtualAddress(BASE)).expect("symbols");
        assert!(found.iter().eq(whole.iter()), "{order:?}");
        assert_eq!(found.places(), whole.places(), "{order:?}");
    }
}

#[test]
fn extent_is_the_distance_to_the_next_symbol() {
    let kallsyms =
        Kallsyms::find(&image(Order::OffsetsLast), VirtualAddress(BASE)).expect("symbols");
    let extents: Vec<_> = kallsyms.iter().map(|symbol| symbol.extent).collect();
    assert_eq!(extents[..COUNT - 1], [Some(0x40); COUNT - 1]);
    assert_eq!(extents[COUNT - 1], None);
}

#[test]
fn missing_parts_are_named() {
    let find = |image: &[u8]| {
        Kallsyms::find(image, VirtualAddress(BASE)).map(|_| ()).expect_err("no symbols")
    };
    assert_eq!(find(&[0; 4096]), KallsymsError::NoTokens);
    let whole = image(Order::OffsetsLast);
    let mut without_names = whole.clone();
    without_names[CODE..CODE + 64].fill(0);
    assert_eq!(find(&without_names), KallsymsError::NoNames);
    let mut without_addresses = whole;
    let first_offsets = [0u32, 0x40, 0x80].map(u32::to_le_bytes).concat();
    let offsets = without_addresses.windows(12).position(|bytes| bytes == first_offsets);
    for (byte, number) in without_addresses[offsets.expect("offsets")..].iter_mut().zip(0u32..) {
        *byte = (number.wrapping_mul(2_654_435_761) >> 24) as u8;
    }
    assert_eq!(find(&without_addresses), KallsymsError::NoAddresses);
}

proptest! {
    #[test]
    fn damaged_tables_are_read_or_refused(
        order in prop::sample::select(ORDERS.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut image = image(order);
        for (at, byte) in edits {
            let at = CODE + at.index(image.len() - CODE);
            image[at] = byte;
        }
        image.truncate(CODE + cut.index(image.len() - CODE));
        if let Ok(kallsyms) = Kallsyms::find(&image, VirtualAddress(BASE)) {
            prop_assert!(kallsyms.iter().count() == kallsyms.len());
            kallsyms.containing(VirtualAddress(BASE + 0x100));
            kallsyms.address_of("fn_0001");
        }
    }
}
