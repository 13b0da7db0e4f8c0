//! A build of mqlb whose XDP programs differ, without another compilation.
//!
//! In a copy of the binary, `r = 0` of 64 bits becomes `r = 0` of 32 bits throughout the embedded BPF object. They
//! mean the same (32-bit operations clear the upper half, RFC 9669, section 4.1), but to the kernel these are
//! other programs, with other tags.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::process::copy_program;

/// ELF, 64 bits, little endian.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
/// `e_machine`, at this offset: EM_BPF.
const MACHINE: (usize, [u8; 2]) = (18, [247, 0]);
/// `BPF_ALU64 | BPF_MOV | BPF_K` and `BPF_ALU | BPF_MOV | BPF_K`.
const MOV: (u8, u8) = (0xb7, 0xb4);

/// Writes the other build of `binary` to `copy`.
///
/// # Errors
/// There is no BPF object in it, or it has nothing to change.
pub fn write(binary: &Path, copy: &Path) -> Result<()> {
    let mut bytes = std::fs::read(binary)?;
    let starts = |bytes: &[u8]| {
        bytes.starts_with(MAGIC) && bytes.get(MACHINE.0..MACHINE.0 + 2) == Some(&MACHINE.1[..])
    };
    let object = (0..bytes.len())
        .step_by(8)
        .find(|at| starts(&bytes[*at..]))
        .context("no BPF object in the binary")?;
    let mut changed = 0;
    // The programs, and the functions that they call.
    for name in ["xdp\0", ".text\0"] {
        let (offset, length) = section(&bytes[object..], name.as_bytes())
            .with_context(|| format!("no section {name} in the object"))?;
        for instruction in bytes[object + offset..][..length].chunks_exact_mut(8) {
            // Register 0 to 10 in the low half; no source register, offset or value.
            if instruction[0] == MOV.0 && instruction[1] <= 10 && instruction[2..] == [0; 6] {
                instruction[0] = MOV.1;
                changed += 1;
            }
        }
    }
    ensure!(changed > 0, "nothing to change in the programs");
    let part = copy.with_extension("part");
    std::fs::write(&part, bytes)?;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o755))?;
    copy_program(&part, copy)?;
    std::fs::remove_file(part)?;
    Ok(())
}

/// Offset and length of a section (ELF-64: section headers of 64 bytes). `wanted` ends with a NUL.
fn section(object: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize, size: usize| {
        let bytes = object.get(at..at + size)?;
        let value = bytes
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let (headers, count, names) = (number(40, 8)?, number(60, 2)?, number(62, 2)?);
    let header = |n: usize| headers + n * 64;
    let strings = number(header(names) + 24, 8)?;
    (0..count).find_map(|n| {
        let name = strings + number(header(n), 4)?;
        let found = object.get(name..)?.starts_with(wanted);
        found.then_some((number(header(n) + 24, 8)?, number(header(n) + 32, 8)?))
    })
}
