//! Asks bpf-linker for unaligned loads and stores: packet headers are at odd offsets by nature, and
//! every kernel whose architecture has efficient unaligned access takes them (x86-64, arm64).

fn main() {
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access,+alu32");
}
