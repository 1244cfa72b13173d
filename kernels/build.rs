//! Compiles `src/cuda/twin.c`, which runs the kernels' arithmetic on the CPU.

fn main() {
    println!("cargo::rerun-if-changed=src/cuda");
    cc::Build::new()
        .file("src/cuda/twin.c")
        .warnings(true)
        .std("c11")
        // A product and the sum that follows it are rounded one by one, as on the GPU.
        .flag("-ffp-contract=off")
        .compile("loaderd_twin");
}
