//! The ACPI tables a guest needs to find its CPUs: RSDP, XSDT and MADT.
//!
//! Owns their bytes and checksums; refuses to own any other table (there is no FADT: the machine
//! has no ACPI hardware) and the pointer to the RSDP (`pvh`). Called by `boot::load`.
//!
//! Written by hand: of three tables the MADT is the only one with content, and the `acpi_tables`
//! crate has neither its x2APIC nor its interrupt override entries. Sections are those of ACPI 6.5.

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;

const OEM_ID: &[u8; 6] = b"NMISCP";

/// The xAPIC's broadcast id; CPUs from here on are x2APIC entries (5.2.12.12).
const FIRST_X2APIC_ID: u32 = 255;

/// Flag of a MADT CPU entry: the processor is ready for use (table 5.22).
const ENABLED: u32 = 1;

/// Writes the three tables to their places in `layout`.
pub(super) fn write(memory: &GuestMemoryMmap, cpus: u32) -> Result<(), GuestMemoryError> {
    memory.write_slice(&rsdp(layout::XSDT), layout::RSDP)?;
    memory.write_slice(&xsdt(&[layout::MADT]), layout::XSDT)?;
    memory.write_slice(&madt(cpus), layout::MADT)
}

/// Root System Description Pointer, revision 2 (5.2.5.3).
fn rsdp(xsdt: GuestAddress) -> Vec<u8> {
    let mut table = Vec::with_capacity(36);
    table.extend_from_slice(b"RSD PTR ");
    table.push(0); // checksum of the first 20 bytes
    table.extend_from_slice(OEM_ID);
    table.push(2);
    table.extend_from_slice(&0u32.to_le_bytes()); // no RSDT
    table.extend_from_slice(&36u32.to_le_bytes());
    table.extend_from_slice(&xsdt.raw_value().to_le_bytes());
    table.extend_from_slice(&[0; 4]); // checksum of all, reserved
    table[8] = checksum(&table[..20]);
    table[32] = checksum(&table);
    table
}

/// Extended System Description Table (5.2.8): the list of the other tables.
fn xsdt(tables: &[GuestAddress]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|at| at.raw_value().to_le_bytes()).collect();
    table(b"XSDT", 1, &body)
}

/// Multiple APIC Description Table (5.2.12).
fn madt(cpus: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&(layout::LOCAL_APIC.raw_value() as u32).to_le_bytes());
    body.extend_from_slice(&1u32.to_le_bytes()); // PCAT_COMPAT: there are two 8259s as well
    for id in 0..cpus {
        push_cpu(&mut body, id);
    }
    push_ioapic(&mut body);
    push_pit_override(&mut body);
    table(b"APIC", 5, &body)
}

fn push_cpu(body: &mut Vec<u8>, id: u32) {
    if id < FIRST_X2APIC_ID {
        // Processor Local APIC (5.2.12.2): uid, APIC id, flags.
        body.extend_from_slice(&[0, 8, id as u8, id as u8]);
        body.extend_from_slice(&ENABLED.to_le_bytes());
    } else {
        // Processor Local x2APIC (5.2.12.12): reserved, x2APIC id, flags, uid.
        body.extend_from_slice(&[9, 16, 0, 0]);
        for word in [id, ENABLED, id] {
            body.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// I/O APIC (5.2.12.3): id 0, address, and GSI 0 as its first input.
fn push_ioapic(body: &mut Vec<u8>) {
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&(layout::IOAPIC.raw_value() as u32).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
}

/// Interrupt Source Override (5.2.12.5): ISA IRQ 0 arrives at [`layout::PIT_GSI`], with the bus's own
/// polarity and trigger mode.
fn push_pit_override(body: &mut Vec<u8>) {
    body.extend_from_slice(&[2, 10, 0, 0]);
    body.extend_from_slice(&layout::PIT_GSI.to_le_bytes());
    body.extend_from_slice(&0u16.to_le_bytes());
}

/// A System Description Table: the common header (5.2.6), then `body`.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    const HEADER: usize = 36;
    let mut table = Vec::with_capacity(HEADER + body.len());
    table.extend_from_slice(signature);
    table.extend_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
    table.extend_from_slice(&[revision, 0]);
    table.extend_from_slice(OEM_ID);
    table.extend_from_slice(b"NMISCOPE");
    table.extend_from_slice(&1u32.to_le_bytes()); // OEM revision
    table.extend_from_slice(b"NMIS"); // creator
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(body);
    table[9] = checksum(&table);
    table
}

/// The byte that makes all of them add up to 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_checksum_adds_up_to_zero() {
        let rsdp = rsdp(layout::XSDT);
        assert_eq!((rsdp.len(), sum(&rsdp[..20]), sum(&rsdp)), (36, 0, 0));
        assert_eq!(sum(&xsdt(&[layout::MADT])), 0);
        assert_eq!(sum(&madt(512)), 0);
    }

    #[test]
    fn a_madt_of_two_cpus_matches_the_specification() {
        let madt = madt(2);
        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(u32::from_le_bytes(madt[4..8].try_into().unwrap()) as usize, madt.len());
        let expected = [
            0, 0, 0xe0, 0xfe, 1, 0, 0, 0, // LAPIC at 0xfee00000, PCAT_COMPAT
            0, 8, 0, 0, 1, 0, 0, 0, // CPU 0
            0, 8, 1, 1, 1, 0, 0, 0, // CPU 1
            1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0, // IOAPIC at 0xfec00000, GSI 0
            2, 10, 0, 0, 2, 0, 0, 0, 0, 0, // ISA IRQ 0 is GSI 2
        ];
        assert_eq!(madt[36..], expected);
    }

    #[test]
    fn cpus_from_255_on_are_x2apic_entries() {
        let madt = madt(257);
        let cpus = &madt[44..];
        assert_eq!(cpus[254 * 8..][..4], [0, 8, 254, 254]);
        let x2apic = &cpus[255 * 8..];
        assert_eq!(x2apic[..16], [9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
        assert_eq!(x2apic[16..32], [9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn tables_for_the_most_cpus_do_not_overlap() {
        let end = |at: GuestAddress, table: Vec<u8>| at.raw_value() + table.len() as u64;
        assert!(end(layout::RSDP, rsdp(layout::XSDT)) <= layout::XSDT.raw_value());
        assert!(end(layout::XSDT, xsdt(&[layout::MADT])) <= layout::MADT.raw_value());
        assert!(end(layout::MADT, madt(crate::MAX_VCPUS)) <= layout::PVH_START_INFO.raw_value());
    }
}
