//! What the dependencies may be: their licences, where they come from, what is kept out.
//!
//! Advisories are no part of it: their database is fetched from the network.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Of each package one of these must be enough, by its licence expression.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    // libzmq, as a library of its own.
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// TLS has no place in a daemon on a Unix socket.
const BANNED: [&str; 3] = ["native-tls", "openssl-sys", "openssl"];

/// `cargo metadata` of all that is built on Linux, development dependencies included.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
});

fn packages() -> &'static [Value] {
    METADATA["packages"].as_array().expect("packages")
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

/// Why a package with this licence field may not be used.
fn refusal(licence: Option<&str>) -> Option<String> {
    let Some(licence) = licence else {
        return Some("names no licence".to_string());
    };
    // Lax, because older packages write "MIT/Apache-2.0".
    let expression = match Expression::parse_mode(licence, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("has a licence that can't be read: {error}")),
    };
    let enough = expression.evaluate(|requirement| {
        let id = requirement.license.id().map(|id| id.name);
        id.is_some_and(|id| LICENCES.contains(&id))
    });
    (!enough).then(|| format!("is under {licence}"))
}

#[test]
fn licences_are_among_those_that_are_allowed() {
    assert!(packages().len() > 100, "all packages are seen");
    let refused: Vec<String> = packages()
        .iter()
        .filter_map(|package| {
            let why = refusal(package["license"].as_str())?;
            Some(format!("{} {why}", name(package)))
        })
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn a_licence_that_is_not_allowed_is_refused() {
    for licence in [
        None,
        Some("GPL-3.0-only"),
        Some("MIT AND AGPL-3.0-only"),
        Some("no licence at all"),
    ] {
        assert!(refusal(licence).is_some(), "{licence:?}");
    }
    for licence in ["MIT", "MIT/Apache-2.0", "GPL-2.0-only OR Zlib"] {
        assert_eq!(refusal(Some(licence)), None, "{licence}");
    }
}

#[test]
fn packages_are_ours_or_of_one_registry_and_none_is_banned() {
    let sources: BTreeSet<&str> = packages()
        .iter()
        .filter_map(|package| package["source"].as_str())
        .collect();
    assert_eq!(sources.len(), 1, "one registry: {sources:?}");
    assert!(sources.iter().all(|source| source.starts_with("registry+")));
    let banned: Vec<&str> = packages()
        .iter()
        .map(name)
        .filter(|name| BANNED.contains(name))
        .collect();
    assert!(banned.is_empty(), "{banned:?}");
}

#[test]
fn lance_is_built_without_its_default_features() {
    let lance = packages()
        .iter()
        .find(|package| name(package) == "lance")
        .expect("lance is a dependency");
    let nodes = METADATA["resolve"]["nodes"].as_array().expect("nodes");
    let node = nodes
        .iter()
        .find(|node| node["id"] == lance["id"])
        .expect("lance was resolved");
    let features = node["features"].as_array().expect("features");
    assert!(!features.contains(&Value::from("default")), "{features:?}");
}
