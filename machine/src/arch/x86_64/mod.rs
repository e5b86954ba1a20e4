//! x86-64: registers, execution states and page tables (Intel SDM volumes 1 and 3).
//!
//! | file | owns |
//! |---|---|
//! | `register` | the general registers' names and DWARF numbers |
//! | `registers` | a vCPU's registers, and those of a task that does not run |
//! | `frame_registers` | the registers of one frame, as far as they are known |
//! | `user_registers` | registers in the order of Linux's NT_PRSTATUS |
//! | `execution` | what a vCPU with these registers is doing |
//! | `level`, `page_walk` | one translation |
//! | `mappings` | everything that page tables map |

mod execution;
mod frame_registers;
mod level;
mod mappings;
mod page_walk;
mod register;
mod registers;
mod user_registers;

pub use execution::{Execution, MpState};
pub use frame_registers::UnwindRegisters;
pub use level::Level;
pub use mappings::{Mapping, MappingLimits, Mappings, Overrun};
pub use page_walk::{PageSize, PageTables, PagingError, Translation};
pub use register::Register;
pub use registers::{Registers, Segment, TaskRegisters};
pub use user_registers::UserRegisters;
