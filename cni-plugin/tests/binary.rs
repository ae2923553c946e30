//! The installed binary is small, so that it starts fast, and static, so that it runs on any node.

use std::fs;
use std::process::Command;

const BYTES_MAX: usize = 2 << 20;
/// The type of a program header in an ELF file that contains the path of a dynamic loader (PT_INTERP).
const INTERPRETER: u32 = 3;

#[test]
fn installed_binary_is_static_and_at_most_2_mb() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let built = Command::new("scripts/build-plugin").arg("--offline").current_dir(root).output();
    let built = built.expect("run scripts/build-plugin");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let text = String::from_utf8(built.stdout).expect("a path");
    let elf = fs::read(text.lines().last().expect("a path")).expect("read the binary");
    assert!(elf.len() <= BYTES_MAX, "{} bytes, at most {BYTES_MAX}", elf.len());
    assert!(!program_headers(&elf).contains(&INTERPRETER), "it needs a dynamic loader");
}

/// The types of the program headers of a 64-bit ELF file.
fn program_headers(elf: &[u8]) -> Vec<u32> {
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at + bytes).expect("an ELF file");
        field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, entry, entries) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(entries > 0, "an executable has program headers");
    (0..entries).map(|index| u32::try_from(number(table + index * entry, 4)).expect("32 bits")).collect()
}
