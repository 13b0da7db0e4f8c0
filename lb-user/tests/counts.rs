//! How large the XDP programs are: instructions and stack of each of their functions, as the compiler left them,
//! beside what `counts.txt` says. Time depends on the machine, these depend on the sources alone; so a change that
//! makes the packet path longer is seen here, by everybody.
//!
//! `MQLB_RECORD_COUNTS=1 cargo test -p lb-user --test counts` writes the file anew. The commit that does so says why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// By how much all programs together may grow without a word: another patch release of LLVM may do it.
const TOLERANCE: f64 = 0.01;
/// Bytes of an instruction.
const SIZE: usize = 8;
const RECORD: &str = "MQLB_RECORD_COUNTS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    instructions: usize,
    /// Bytes below the frame pointer that are used.
    stack: usize,
}

type Counts = BTreeMap<String, Count>;

/// Of all functions in the object file.
fn measured() -> Counts {
    let file = object::File::parse(mqlb::PROGRAMS).expect("an ELF file");
    let mut counts = Counts::new();
    for symbol in file.symbols() {
        let Some(section) = symbol.section_index() else {
            continue;
        };
        if symbol.kind() != SymbolKind::Text || symbol.size() == 0 {
            continue;
        }
        let section = file
            .section_by_index(section)
            .expect("the symbol's section");
        let start = usize::try_from(symbol.address() - section.address()).expect("a small file");
        let length = usize::try_from(symbol.size()).expect("a small file");
        let code = &section.data().expect("code")[start..start + length];
        let count = Count {
            instructions: length / SIZE,
            stack: stack(code),
        };
        let mangled = symbol.name().expect("a name");
        // Without the hash, which changes with everything.
        let name = format!("{:#}", rustc_demangle::demangle(mangled));
        // Instances of the same generic function: the last number of their names is their order in the file.
        let mut key = name.clone();
        for n in 2.. {
            if !counts.contains_key(&key) {
                break;
            }
            key = format!("{name} ({n})");
        }
        counts.insert(key, count);
    }
    counts
}

/// The deepest place of its stack that a function reaches: by an access relative to the frame pointer, or by
/// a pointer that is made from it (`rX = r10; rX += -n`).
fn stack(code: &[u8]) -> usize {
    /// The frame pointer.
    const R10: u8 = 10;
    /// `dst = src` and `dst += imm`, of 64 bits (linux/bpf.h: BPF_ALU64, BPF_MOV, BPF_ADD).
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    let mut deepest = 0_i64;
    // Registers that hold the frame pointer itself.
    let mut copies = [false; 16];
    for instruction in code.chunks_exact(SIZE) {
        let [operation, registers, low, high, immediate @ ..] = instruction else {
            continue;
        };
        let (target, source) = (registers & 15, registers >> 4);
        let offset = i64::from(i16::from_le_bytes([*low, *high]));
        let immediate = <[u8; 4]>::try_from(immediate).map_or(0, i32::from_le_bytes);
        // Classes LDX: from src; ST and STX: to dst.
        let base = match operation & 7 {
            1 => Some(source),
            2 | 3 => Some(target),
            _ => None,
        };
        if base == Some(R10) {
            deepest = deepest.min(offset);
        }
        match *operation {
            MOVE => copies[usize::from(target)] = source == R10,
            ADD if copies[usize::from(target)] => {
                deepest = deepest.min(immediate.into());
                copies[usize::from(target)] = false;
            }
            _ => {}
        }
    }
    usize::try_from(-deepest).expect("not above the frame")
}

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counts.txt")
}

fn write(counts: &Counts) -> String {
    let mut text = format!(
        "# Instructions and bytes of stack of each function of the XDP programs; written by {RECORD}=1, see counts.rs.\n"
    );
    for (name, count) in counts {
        let _ = writeln!(text, "{:>6} {:>4}  {name}", count.instructions, count.stack);
    }
    text
}

fn read(text: &str) -> Counts {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let mut fields = line.trim_start().splitn(2, ' ');
        let instructions = fields.next()?.parse().ok()?;
        let (stack, name) = fields.next()?.trim_start().split_once("  ")?;
        let stack = stack.parse().ok()?;
        let count = Count {
            instructions,
            stack,
        };
        Some((name.to_owned(), count))
    });
    let parsed: Option<Counts> = parsed.collect();
    parsed.expect("counts.txt has lines of instructions, stack and name")
}

/// All instructions, and the deepest function.
fn totals(counts: &Counts) -> Count {
    Count {
        instructions: counts.values().map(|count| count.instructions).sum(),
        stack: counts.values().map(|count| count.stack).max().unwrap_or(0),
    }
}

/// Functions that differ, those that grew most first.
fn differences(before: &Counts, now: &Counts) -> String {
    const NONE: Count = Count {
        instructions: 0,
        stack: 0,
    };
    let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let mut lines: Vec<_> = names
        .into_iter()
        .filter_map(|name| {
            let [old, new] = [before, now].map(|counts| *counts.get(name).unwrap_or(&NONE));
            let grown = new.instructions as i64 - old.instructions as i64;
            (old != new).then(|| {
                let line = format!(
                    "{grown:>+6} instructions ({} → {}), stack {} → {}  {name}",
                    old.instructions, new.instructions, old.stack, new.stack
                );
                (-grown, line)
            })
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

/// What is wrong with `now`; `None`: nothing.
fn complaint(before: &Counts, now: &Counts) -> Option<String> {
    let [old, new] = [before, now].map(totals);
    let most = old.instructions as f64 * (1.0 + TOLERANCE);
    let longer = new.instructions as f64 > most;
    let deeper = new.stack > old.stack;
    (longer || deeper).then(|| {
        format!(
            "the XDP programs have {} instructions and their deepest function uses {} bytes of stack; \
             counts.txt says {} (and {:.0} % more is allowed) and {}.\n\
             Make them smaller, or, if it is worth it, write the file anew with {RECORD}=1 and say why in \
             the commit.\n\n{}",
            new.instructions,
            new.stack,
            old.instructions,
            100.0 * TOLERANCE,
            old.stack,
            differences(before, now)
        )
    })
}

#[test]
fn the_programs_have_not_grown() {
    let now = measured();
    if std::env::var_os(RECORD).is_some() {
        std::fs::write(file(), write(&now)).expect("counts.txt can be written");
        return;
    }
    let text = std::fs::read_to_string(file()).expect("counts.txt is part of the repository");
    let before = read(&text);
    if let Some(complaint) = complaint(&before, &now) {
        panic!("{complaint}");
    }
    if before != now {
        // Shown by --nocapture and where another test fails.
        println!("counts.txt differs:\n{}", differences(&before, &now));
    }
}

#[test]
fn the_functions_are_found() {
    let now = measured();
    for program in ["mqlb", "mqlb_empty"] {
        assert!(now.contains_key(program), "{program}: {:?}", now.keys());
    }
    // `r0 = 2; exit` and the like.
    assert!(now["mqlb_empty"].instructions < 5);
    assert!(totals(&now).instructions > 1000);
    // The kernel allows 512 bytes, over all functions of a chain of calls.
    let stack = totals(&now).stack;
    assert!(0 < stack && stack <= 512, "{stack}");
    assert_eq!(read(&write(&now)), now);
}

#[test]
fn growth_is_refused_and_shrinking_is_not() {
    let of = |instructions, stack| {
        let count = Count {
            instructions,
            stack,
        };
        Counts::from([("f".into(), count)])
    };
    assert_eq!(complaint(&of(1000, 64), &of(1010, 64)), None);
    assert_eq!(complaint(&of(1000, 64), &of(500, 32)), None);
    assert!(complaint(&of(1000, 64), &of(1011, 64)).is_some());
    let deeper = complaint(&of(1000, 64), &of(1000, 72)).expect("refused");
    assert!(deeper.contains("stack 64 → 72  f"), "{deeper}");
}

#[test]
fn the_stack_is_what_is_reached_below_the_frame_pointer() {
    // *(u64 *)(r10 - 16) = r1; r2 = r10; r2 += -40; r3 = 5; r3 += -100; exit
    let code = [
        [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],
        [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
        [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff],
        [0xb7, 0x03, 0, 0, 5, 0, 0, 0],
        [0x07, 0x03, 0, 0, 0x9c, 0xff, 0xff, 0xff],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(stack(&code.concat()), 40);
    assert_eq!(stack(&code[..1].concat()), 16);
    assert_eq!(stack(&code[5..].concat()), 0);
}
