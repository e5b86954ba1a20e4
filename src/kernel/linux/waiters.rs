//! Lists of waiters: from the waiter on a task's stack to the thing that the task waits for.
//!
//! Owns the search of a stack and the walk along a list (include/linux/list.h). Refuses to own which function sleeps on
//! what (`waits`). A waiter is in the frame of the function that sleeps, at a place that differs between builds: it is
//! known by the task that it names and by its part in a list. The list's head, in the thing that is waited for, is its
//! only node that is on no waiter's stack.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use nmiscope_machine::{VirtualAddress, VirtualMemory};

/// The most bytes of a stack that are searched for a waiter. The waiter is a few hundred bytes from the stack's end.
const MAX_SEARCH: u64 = 4 << 10;
/// The most waiters that are passed in all: no list has more than there are tasks, and each is passed once.
const MAX_WAITERS: usize = 1 << 18;
/// The most bytes from the lowest address of a stack to its end: THREAD_SIZE is 16 KiB, and twice that with KASAN
/// (arch/x86/include/asm/page_64_types.h).
const MAX_STACK: u64 = 32 << 10;

/// Places of a list's head in the thing that is waited for, and of the link and the task in a waiter, in bytes from
/// the beginning of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListPlaces {
    pub(super) head: u64,
    pub(super) link: u64,
    pub(super) task: u64,
}

/// The tasks of a moment, and the memory that they are in. Addresses are guest-virtual.
pub(super) struct Tasks<'a> {
    /// Numbers of the tasks, by the address of their `task_struct`.
    pub(super) numbers: &'a HashMap<u64, u32>,
    /// Offset of the lowest address of a task's stack in `struct task_struct`; `None` if it is not known.
    pub(super) stack: Option<u64>,
    pub(super) memory: &'a dyn VirtualMemory,
    /// Heads by the links of lists that have been followed; `None` for links of no list.
    followed: RefCell<HashMap<u64, Option<u64>>>,
}

impl<'a> Tasks<'a> {
    pub(super) fn new(
        numbers: &'a HashMap<u64, u32>,
        stack: Option<u64>,
        memory: &'a dyn VirtualMemory,
    ) -> Self {
        Self { numbers, stack, memory, followed: RefCell::default() }
    }

    /// Finds the thing that a task waits for by a waiter in a range of its stack; `None` if there is no waiter.
    pub(super) fn waited_for(
        &self,
        task: u64,
        stack: Range<u64>,
        places: ListPlaces,
    ) -> Option<u64> {
        let length = stack.end.checked_sub(stack.start)?.min(MAX_SEARCH) & !7;
        let mut bytes = vec![0; length as usize];
        self.memory.read(VirtualAddress(stack.start), &mut bytes).ok()?;
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let names_task = (0..).step_by(8).zip(words).filter(|(_, word)| *word == task);
        let links = names_task.map(|(at, _)| {
            stack.start.wrapping_add(at).wrapping_sub(places.task).wrapping_add(places.link)
        });
        let mut heads = links.filter_map(|link| self.head(link, places));
        Some(heads.next()?.wrapping_sub(places.head))
    }

    /// Returns the head of the list that a link is part of; `None` if it is part of none, or of one without a head of
    /// its own. The links of a list are followed once for all tasks that wait in it.
    fn head(&self, link: u64, places: ListPlaces) -> Option<u64> {
        if let Some(head) = self.followed.borrow().get(&link) {
            return *head;
        }
        let mut passed = vec![link];
        let head = self.follow(link, places, &mut passed);
        self.followed.borrow_mut().extend(passed.into_iter().map(|link| (link, head)));
        head
    }

    fn follow(&self, link: u64, places: ListPlaces, passed: &mut Vec<u64>) -> Option<u64> {
        let (mut last, mut head) = (link, None);
        let left = MAX_WAITERS.saturating_sub(self.followed.borrow().len());
        for _ in 0..left {
            let next = self.word(last)?;
            // A list is linked in both directions.
            if self.word(next.wrapping_add(8))? != last {
                return None;
            }
            if next == link {
                return head;
            }
            if !self.is_waiter(next, places) && head.replace(next).is_some() {
                return None;
            }
            passed.push(next);
            last = next;
        }
        None
    }

    /// Returns true for a link that belongs to a waiter on the stack of the task that the waiter names.
    fn is_waiter(&self, link: u64, places: ListPlaces) -> bool {
        let task = self.word(link.wrapping_sub(places.link).wrapping_add(places.task));
        let Some(task) = task.filter(|task| self.numbers.contains_key(task)) else { return false };
        let stack = self.stack.and_then(|offset| self.word(task.wrapping_add(offset)));
        stack.is_some_and(|stack| link.wrapping_sub(stack) < MAX_STACK)
    }

    /// Reads a word of eight bytes.
    pub(super) fn word(&self, at: u64) -> Option<u64> {
        self.memory.read_u64(VirtualAddress(at)).ok()
    }
}

#[cfg(test)]
mod tests {
    use nmiscope_machine::{PhysicalAddress, ReadError};

    use super::*;

    /// Memory of words at chosen addresses; all others are zero, and address 0 is not mapped.
    struct Words(HashMap<u64, u64>);

    impl VirtualMemory for Words {
        fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
            if address.0 < 4096 {
                let length = buffer.len();
                return Err(ReadError::Unbacked { address: PhysicalAddress(address.0), length });
            }
            for (at, word) in (address.0..).step_by(8).zip(buffer.chunks_mut(8)) {
                let bytes = self.0.get(&at).copied().unwrap_or(0).to_le_bytes();
                word.copy_from_slice(&bytes[..word.len()]);
            }
            Ok(())
        }
    }

    const PLACES: ListPlaces = ListPlaces { head: 16, link: 0, task: 16 };
    const STACK: u64 = 32;
    /// Two tasks with their stacks, and a lock.
    const TASKS: [(u64, u64); 2] = [(0x10_0000, 0x20_0000), (0x11_0000, 0x21_0000)];
    const LOCK: u64 = 0x30_0000;

    /// Two tasks that wait for the lock: the first one's waiter is 0x100 bytes into its stack, the second one's 0x80.
    fn waiting() -> HashMap<u64, u64> {
        let links = [TASKS[0].1 + 0x100, TASKS[1].1 + 0x80, LOCK + PLACES.head];
        let mut words = HashMap::new();
        for (at, link) in links.into_iter().enumerate() {
            words.insert(link, links[(at + 1) % 3]);
            words.insert(link + 8, links[(at + 2) % 3]);
        }
        for ((task, stack), link) in TASKS.into_iter().zip(links) {
            words.insert(link + PLACES.task, task);
            words.insert(task + STACK, stack);
        }
        words
    }

    fn waited_for(task: usize, words: HashMap<u64, u64>) -> Option<u64> {
        let numbers = TASKS.into_iter().map(|(task, _)| task).zip(0..).collect();
        let memory = Words(words);
        let tasks = Tasks::new(&numbers, Some(STACK), &memory);
        let (task, stack) = TASKS[task];
        tasks.waited_for(task, stack..stack + 0x400, PLACES)
    }

    #[test]
    fn each_waiter_leads_to_the_lock() {
        assert_eq!(waited_for(0, waiting()), Some(LOCK));
        assert_eq!(waited_for(1, waiting()), Some(LOCK));
    }

    #[test]
    fn word_that_only_equals_the_task_is_no_waiter() {
        let mut words = waiting();
        // Below the waiter, as the frames of its callees have it.
        words.insert(TASKS[0].1 + 0x40, TASKS[0].0);
        assert_eq!(waited_for(0, words.clone()), Some(LOCK));
        words.retain(|at, _| *at != TASKS[0].1 + 0x100 + PLACES.task);
        assert_eq!(waited_for(0, words), None);
    }

    #[test]
    fn damaged_list_leads_nowhere() {
        let first = TASKS[0].1 + 0x100;
        // A link back that is wrong, a link to nothing, and a ring that does not come back to its start.
        for (at, word) in [(LOCK + PLACES.head + 8, 1 << 40), (first, 0), (first, first + 0x800)] {
            let mut words = waiting();
            words.insert(at, word);
            words.insert(first + 0x808, first);
            words.insert(first + 0x800, first + 0x800);
            assert_eq!(waited_for(0, words), None, "{at:x}");
        }
        // A ring of waiters alone, and one with two nodes that may be the head.
        let mut words = waiting();
        let second = TASKS[1].1 + 0x80;
        words.extend([(first + 8, second), (second, first)]);
        assert_eq!(waited_for(0, words), None);
        let mut words = waiting();
        words.insert(TASKS[1].0 + STACK, 0x50_0000);
        assert_eq!(waited_for(0, words), None);
    }
}
