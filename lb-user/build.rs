//! Builds the XDP programs for the BPF target and leaves them in `OUT_DIR` to be embedded.

fn main() -> anyhow::Result<()> {
    // SAFETY: a build script has one thread here, so nobody reads the environment meanwhile.
    // The variable lets the pinned stable compiler use `-Zbuild-std=core`; it is set only for this
    // script's children, so that no other crate believes that it is built by a nightly.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    let features: &[&str] = if std::env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() {
        &["log"]
    } else {
        &[]
    };
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "lb-ebpf",
            root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf"),
            features,
            ..Default::default()
        }],
        aya_build::Toolchain::Custom("1.95.0"),
    )
}
