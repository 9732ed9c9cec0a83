//! Links the image with the layout in linker.ld; the host's stand-in needs none.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let script = format!("{root}/../linker.ld");
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        for arg in [
            &format!("-T{script}"),
            "--gc-sections",
            "-no-pie",
            "-zmax-page-size=4096",
        ] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
