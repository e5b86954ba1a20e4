//! Typed reads of the test binary's own statics: expected values come from the compiler (addresses,
//! `offset_of!`, `size_of`) and from the values themselves, read through `/proc/self/mem`.

mod common;

use std::cell::UnsafeCell;
use std::fs::File;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use common::{load_bias, own_image};
use nmiscope_machine::{PhysicalAddress, ReadError, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{Encoding, Image, TypeError, TypeKind, Types};

#[repr(C, align(64))]
struct CacheLine<T>(T);

struct PerCpu<T> {
    value: UnsafeCell<MaybeUninit<T>>,
    owner: PhantomData<*const T>,
}

// SAFETY: nothing ever accesses the cell; the test only looks at its layout and bytes.
unsafe impl<T> Sync for PerCpu<T> {}

#[repr(u8)]
#[derive(Clone, Copy)]
enum State {
    #[allow(dead_code, reason = "its name is what is looked up")]
    Idle = 3,
    Stuck = 7,
}

struct SeqBuf {
    len: AtomicU64,
    lost: AtomicI32,
    #[allow(dead_code, reason = "only the debug information's reader looks at it")]
    state: State,
    flag: bool,
    buffer: [u8; 24],
    pair: (u16, u64),
}

mod printk {
    use super::*;

    pub static LOG: CacheLine<SeqBuf> = CacheLine(SeqBuf {
        len: AtomicU64::new(0x0123_4567_89ab_cdef),
        lost: AtomicI32::new(-5),
        state: State::Stuck,
        flag: true,
        buffer: *b"cpu 1: it hangs here....",
        pair: (17, 1 << 40),
    });
}

// Used at run time, so that the optimizer makes no constants of statics without a write.
#[used]
static OFFSETS: [AtomicU64; 4] =
    [AtomicU64::new(10), AtomicU64::new(11), AtomicU64::new(12), AtomicU64::new(13)];

static PER_CPU: PerCpu<[u32; 2]> =
    PerCpu { value: UnsafeCell::new(MaybeUninit::new([21, 22])), owner: PhantomData };

#[used]
static POINTER: AtomicPtr<u64> = AtomicPtr::new(std::ptr::null_mut());

#[unsafe(no_mangle)]
static nmi_print_flag_of_this_test: AtomicU64 = AtomicU64::new(99);

/// This process's own memory; addresses are the image's.
struct Own {
    memory: File,
    bias: u64,
}

impl VirtualMemory for Own {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        self.memory.read_exact_at(buffer, address.0.wrapping_add(self.bias)).map_err(|error| {
            let address = PhysicalAddress(address.0);
            ReadError::Target { address, length, reason: error.to_string() }
        })
    }
}

fn with_types(test: impl FnOnce(&Types<'_>, &Own)) {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let memory = File::open("/proc/self/mem").expect("procfs");
    test(&types, &Own { memory, bias: load_bias() });
}

fn linked<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).addr() as u64 - load_bias()
}

#[test]
fn a_static_is_found_by_its_plain_name_and_by_its_path() {
    with_types(|types, _| {
        for name in ["LOG", "own_types::printk::LOG"] {
            let log = types.variable(name).expect(name);
            assert_eq!(log.address().0, linked(&printk::LOG), "{name}");
            assert_eq!(log.ty().size(), Some(size_of::<CacheLine<SeqBuf>>() as u64));
        }
        let flag = types.variable("nmi_print_flag_of_this_test").expect("a static");
        assert_eq!(flag.address().0, linked(&nmi_print_flag_of_this_test));
    });
}

#[test]
fn members_are_found_through_wrappers() {
    with_types(|types, _| {
        let log = types.variable("own_types::printk::LOG").expect("a static");
        let inner = &printk::LOG.0;
        for (path, address) in [
            ("len", linked(&inner.len)),
            ("__0.len", linked(&inner.len)),
            ("0.lost", linked(&inner.lost)),
            ("buffer", linked(&inner.buffer)),
            ("pair.1", linked(&inner.pair.1)),
        ] {
            assert_eq!(log.field(path).expect(path).address().0, address, "{path}");
        }
        let seq_buf = types.type_named("own_types::SeqBuf").expect("a type");
        let flag = seq_buf.member("flag").expect("a member");
        assert_eq!(flag.offset, offset_of!(SeqBuf, flag) as u64);
        assert_eq!(flag.ty.kind(), TypeKind::Base(Encoding::Boolean));
    });
}

#[test]
fn values_are_read_through_wrappers() {
    with_types(|types, memory| {
        let log = types.variable("LOG").expect("a static");
        let number = |path| log.field(path).and_then(|place| place.read_unsigned(memory));
        assert_eq!(number("len"), Ok(0x0123_4567_89ab_cdef));
        assert_eq!(number("flag"), Ok(1));
        assert_eq!(number("pair.0"), Ok(17));
        assert_eq!(number("lost"), Ok(u64::from((-5_i32).cast_unsigned())));
        assert_eq!(log.field("lost").and_then(|place| place.read_signed(memory)), Ok(-5));
        let buffer = log.field("buffer").expect("a member");
        assert_eq!(buffer.read_bytes(memory, 24).as_deref(), Ok(&b"cpu 1: it hangs here...."[..]));
        assert!(matches!(
            buffer.read_bytes(memory, 23),
            Err(TypeError::TooLarge { size: 24, limit: 23, .. })
        ));
        let state = log.field("state").expect("a member");
        assert_eq!(state.ty().kind(), TypeKind::Enumeration);
        let value = state.read_unsigned(memory).expect("a value");
        assert_eq!(state.ty().enumerator(value).expect("an enumeration").as_deref(), Some("Stuck"));
        assert_eq!(state.ty().enumerator(3).expect("an enumeration").as_deref(), Some("Idle"));
        assert_eq!(state.ty().enumerator(4), Ok(None));
    });
}

#[test]
fn arrays_are_indexed_within_their_bounds() {
    with_types(|types, memory| {
        let offsets = types.variable("own_types::OFFSETS").expect("a static");
        assert_eq!(offsets.ty().count(), Ok(Some(4)));
        for index in 0..4 {
            let element = offsets.index(index).expect("an element");
            assert_eq!(element.read_unsigned(memory), Ok(10 + index));
        }
        assert!(matches!(offsets.index(4), Err(TypeError::OutOfBounds { index: 4, count: 4, .. })));
        let per_cpu = types.variable("own_types::PER_CPU").expect("a static");
        assert_eq!(per_cpu.peel().expect("a wrapper").ty().kind(), TypeKind::Array);
        assert_eq!(per_cpu.index(1).and_then(|place| place.read_unsigned(memory)), Ok(22));
        let moved = per_cpu.offset_by(4);
        assert_eq!(moved.index(0).and_then(|place| place.read_unsigned(memory)), Ok(22));
    });
    assert_eq!(OFFSETS[3].load(Ordering::Relaxed), 13);
    std::hint::black_box((&PER_CPU, PER_CPU.owner, PER_CPU.value.get()));
}

#[test]
fn a_pointer_is_followed() {
    let target = Box::new(4711_u64);
    POINTER.store(std::ptr::from_ref(&*target).cast_mut(), Ordering::Relaxed);
    with_types(|types, memory| {
        let pointer = types.variable("own_types::POINTER").expect("a static");
        let place = pointer.deref(memory).expect("a pointer");
        let absolute = Own { memory: File::open("/proc/self/mem").expect("procfs"), bias: 0 };
        assert_eq!(place.read_unsigned(&absolute), Ok(4711));
    });
}

#[test]
fn missing_names_give_an_error_that_names_them() {
    with_types(|types, memory| {
        let name = "no_such_variable".to_owned();
        assert_eq!(types.variable(&name).err(), Some(TypeError::NotFound { name }));
        let log = types.variable("LOG").expect("a static");
        let error = log.field("no_such_member").expect_err("no member");
        assert!(error.to_string().contains("no_such_member"), "{error}");
        let error = log.read_unsigned(memory).expect_err("a structure is no number");
        assert!(matches!(error, TypeError::Unsuitable { .. }));
        let nowhere = nmiscope_symbolizer::Place::new(
            VirtualAddress(0_u64.wrapping_sub(memory.bias)),
            log.field("len").expect("a member").ty().clone(),
        );
        assert!(matches!(nowhere.read_unsigned(memory), Err(TypeError::Read(_))));
    });
    assert_eq!(nmi_print_flag_of_this_test.load(Ordering::Relaxed), 99);
}
