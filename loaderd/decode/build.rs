//! Compiles `src/jpeg.c` against the libjpeg-turbo that `turbojpeg-sys` built, so
//! that the libjpeg API and its `setjmp` stay on the C side.

fn main() {
    println!("cargo::rerun-if-changed=src/jpeg.c");
    println!("cargo::rerun-if-env-changed=DEP_TURBOJPEG_INCLUDE");
    let include = std::env::var("DEP_TURBOJPEG_INCLUDE").expect(
        "DEP_TURBOJPEG_INCLUDE is unset: turbojpeg-sys must build libjpeg-turbo itself (its `cmake` feature; TURBOJPEG_SOURCE must not be `explicit`)",
    );
    let mut build = cc::Build::new();
    build.file("src/jpeg.c").warnings(true).std("c11");
    for folder in include.split(',') {
        build.include(folder);
    }
    build.compile("loaderd_jpeg");
}
