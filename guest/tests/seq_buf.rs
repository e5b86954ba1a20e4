//! The append-only buffer against a plain list of messages.
#![cfg(not(loom))]

use std::fmt;

use nmiscope_guest::printk::SeqBuf;
use proptest::prelude::*;

/// A message, as the pieces that its `fmt` implementation writes.
#[derive(Debug, Clone)]
struct Message {
    pieces: Vec<String>,
    fails: bool,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| f.write_str(piece))?;
        if self.fails { Err(fmt::Error) } else { Ok(()) }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Message),
    Wipe,
}

fn message() -> impl Strategy<Value = Message> {
    (prop::collection::vec("[a-zä€\n]{0,12}", 0..4), prop::bool::weighted(0.05))
        .prop_map(|(pieces, fails)| Message { pieces, fails })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![15 => message().prop_map(Step::Append), 1 => Just(Step::Wipe)]
}

/// Model of a buffer: the messages kept since the last wipe, and the count of those lost after them.
#[derive(Default)]
struct Model {
    kept: Vec<String>,
    lost: u32,
}

impl Model {
    fn append(&mut self, message: &Message, size: usize) -> usize {
        let text = message.pieces.concat();
        let used: usize = self.kept.iter().map(String::len).sum();
        if self.lost > 0 || message.fails || used + text.len() > size {
            self.lost += 1;
            return 0;
        }
        self.kept.push(text);
        self.kept.last().map_or(0, String::len)
    }
}

fn buffer_equals_model<const SIZE: usize>(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut buf, mut model) = (SeqBuf::<SIZE>::new(), Model::default());
    for step in steps {
        match step {
            Step::Append(message) => {
                let added = buf.append(format_args!("{message}"));
                prop_assert_eq!(added, model.append(message, SIZE));
            }
            Step::Wipe => {
                buf.wipe();
                model = Model::default();
            }
        }
        let kept = model.kept.concat();
        prop_assert_eq!(buf.as_bytes(), kept.as_bytes());
        prop_assert_eq!(buf.lost(), model.lost);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_buffer_behaves_like_a_list_of_messages(steps in prop::collection::vec(step(), 0..80)) {
        buffer_equals_model::<0>(&steps)?;
        buffer_equals_model::<1>(&steps)?;
        buffer_equals_model::<100>(&steps)?;
        buffer_equals_model::<4096>(&steps)?;
    }
}

#[test]
fn a_message_that_fits_exactly_is_kept() {
    let mut buf = SeqBuf::<4>::new();
    assert_eq!(buf.append(format_args!("ab{}", "cd")), 4);
    assert_eq!((buf.as_bytes(), buf.lost()), (&b"abcd"[..], 0));
}

#[test]
fn after_a_lost_message_a_shorter_one_is_lost_too() {
    let mut buf = SeqBuf::<4>::new();
    buf.append(format_args!("ab"));
    assert_eq!(buf.append(format_args!("cde")), 0);
    assert_eq!(buf.append(format_args!("f")), 0);
    assert_eq!((buf.as_bytes(), buf.lost()), (&b"ab"[..], 2));
}

#[test]
fn an_overflow_hidden_by_the_argument_is_a_lost_message() {
    struct Hides;
    impl fmt::Display for Hides {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let _ = f.write_str("too long");
            f.write_str("ok")
        }
    }
    let mut buf = SeqBuf::<4>::new();
    assert_eq!(buf.append(format_args!("{Hides}")), 0);
    assert_eq!((buf.as_bytes(), buf.lost()), (&b""[..], 1));
}
