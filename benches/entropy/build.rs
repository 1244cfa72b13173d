//! Compiles `reference.c` against the libjpeg-turbo that the decoder is linked with.

fn main() {
    println!("cargo::rerun-if-changed=reference.c");
    println!("cargo::rerun-if-env-changed=DEP_TURBOJPEG_INCLUDE");
    let include = std::env::var("DEP_TURBOJPEG_INCLUDE")
        .expect("DEP_TURBOJPEG_INCLUDE is unset: turbojpeg-sys must build libjpeg-turbo itself");
    let mut build = cc::Build::new();
    build.file("reference.c").warnings(true).std("c11");
    for folder in include.split(',') {
        build.include(folder);
    }
    build.compile("loaderd_entropy_reference");
}
