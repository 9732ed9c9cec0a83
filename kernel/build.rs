//! Links an image with the layout in linker.ld; the host's stand-in needs none. Every image's package uses it.

fn main() {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let above = std::path::Path::new(&package).ancestors();
    let mut scripts = above.map(|directory| directory.join("linker.ld"));
    let script = scripts.find(|script| script.exists()).unwrap();
    let script = script.display();
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        for arg in [
            &format!("-T{script}"),
            "--gc-sections",
            "-no-pie",
            "-zmax-page-size=16",
        ] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
