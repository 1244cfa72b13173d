//! The crate edges of ARCHITECTURE.md, kept.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each of our crates may depend on, as ARCHITECTURE.md draws it.
const EDGES: [(&str, &[&str]); 11] = [
    ("loaderd-names", &[]),
    ("loaderd-plan", &[]),
    ("loaderd-read", &[]),
    ("loaderd-kernels", &[]),
    ("loaderd-decode", &["loaderd-kernels"]),
    ("loaderd-wire", &[]),
    ("loaderd-pagemap", &[]),
    ("loaderd-gpu", &["loaderd-decode", "loaderd-kernels"]),
    (
        "loaderd-snapshot",
        &["loaderd-names", "loaderd-pagemap", "loaderd-read"],
    ),
    (
        "loaderd",
        &[
            "loaderd-decode",
            "loaderd-gpu",
            "loaderd-names",
            "loaderd-plan",
            "loaderd-read",
            "loaderd-snapshot",
            "loaderd-wire",
        ],
    ),
    ("loaderd-python", &["loaderd-wire"]),
];

/// The workspace's own packages, which may use any of these; what is not published has no place
/// in the drawing.
const WORKSPACE: [&str; 6] = [
    "loaderd-tests",
    "loaderd-benches",
    "loaderd-measure",
    "loaderd-rings",
    "loaderd-cutread",
    "loaderd-gpucheck",
];

/// Crates that only one of ours may name.
const OWNERS: [(&str, &[&str]); 8] = [
    ("lance", &["loaderd-snapshot", "loaderd-benches"]),
    ("tokio", &["loaderd-snapshot", "loaderd-benches"]),
    ("io-uring", &["loaderd-read"]),
    ("libloading", &["loaderd-gpu", "loaderd-python"]),
    ("tokio-uring", &["loaderd-rings"]),
    ("turbojpeg-sys", &["loaderd-decode"]),
    ("rusqlite", &["loaderd"]),
    ("pyo3", &["loaderd-python"]),
];

/// Dependencies of every package of the workspace, development ones left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_string();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let named = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(name)
                .collect();
            (name(package), named)
        })
        .collect()
}

#[test]
fn crates_know_only_whom_the_architecture_says() {
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in EDGES {
        let found: BTreeSet<&str> = dependencies[name]
            .iter()
            .map(String::as_str)
            .filter(|dependency| ours.contains(dependency))
            .collect();
        assert_eq!(found, allowed.iter().copied().collect(), "edges of {name}");
    }
    let unnamed: Vec<&String> = dependencies
        .keys()
        .filter(|name| !ours.contains(name.as_str()))
        .filter(|name| !WORKSPACE.contains(&name.as_str()))
        .collect();
    assert!(unnamed.is_empty(), "crates without a place: {unnamed:?}");
}

#[test]
fn the_comparison_of_rings_builds_without_lance() {
    let found = &dependencies()["loaderd-rings"];
    let ours: Vec<&String> = (found.iter())
        .filter(|name| name.starts_with("loaderd"))
        .collect();
    assert_eq!(ours, ["loaderd-measure", "loaderd-read"]);
}

#[test]
fn foreign_crates_have_one_owner() {
    for (package, named) in dependencies() {
        for (foreign, owners) in OWNERS {
            let prefix = format!("{foreign}-");
            let uses = named
                .iter()
                .any(|name| name == foreign || (foreign == "lance" && name.starts_with(&prefix)));
            assert!(
                !uses || owners.contains(&package.as_str()),
                "{package} names {foreign}, which belongs to {owners:?}"
            );
        }
    }
}
