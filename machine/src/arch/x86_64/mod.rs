//! x86-64: registers, execution states and page tables (Intel SDM volumes 1 and 3).
//!
//! | file | owns |
//! |---|---|
//! | `register` | the general registers' names and DWARF numbers |
//! | `registers` | a vCPU's registers, and those of a task that is not running |
//! | `frame_registers` | the known registers of one frame |
//! | `user_registers` | registers in the order of Linux's NT_PRSTATUS |
//! | `execution` | execution states, derived from registers |
//! | `level`, `page_walk` | translation of one address |
//! | `mappings` | all mappings of an address space |

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
