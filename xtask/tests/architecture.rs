//! Which crate may know which, and which may hold unsafe code.

use std::fs;
use std::path::Path;

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// What a crate of the library may depend on. Every crate that is not named here is an application:
/// it may depend on the library crates, and none of these on it.
const LIBRARY: [(&str, &[&str]); 5] = [
    ("underpass-devices", &[]),
    ("underpass-dpdk-sys", &[]),
    ("underpass-drivers", &["underpass-devices", "underpass-dpdk-sys", "underpass-protocols"]),
    ("underpass-protocols", &["underpass-devices"]),
    ("underpass", &["underpass-devices", "underpass-protocols"]),
];

#[test]
fn the_arrows_between_crates_do_not_turn_round() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    assert!(packages.iter().any(|p| p.name.as_str() == "underpass"));
    for package in &packages {
        let allowed = LIBRARY.iter().find(|(name, _)| *name == package.name.as_str());
        for dependency in &package.dependencies {
            // Tests, too: a driver that is tested through the stack knows the stack.
            let ours = packages.iter().any(|p| p.name.as_str() == dependency.name);
            let name = dependency.name.as_str();
            // To switch a feature on in its own tests.
            let itself = package.name.as_str() == name;
            let is_allowed = match allowed {
                Some((_, allowed)) => allowed.contains(&name),
                None => LIBRARY.iter().any(|(library, _)| *library == name),
            };
            assert!(!ours || itself || is_allowed, "{} must not depend on {name}", package.name);
        }
    }
}

#[test]
fn only_the_stack_and_its_comparisons_know_smoltcp() {
    for package in metadata().workspace_packages() {
        let knows = package.dependencies.iter().any(|d| d.name == "smoltcp");
        let may = matches!(package.name.as_str(), "underpass" | "underpass-benches");
        assert!(!knows || may, "{} must not depend on smoltcp", package.name);
    }
}

#[test]
fn unsafe_code_is_in_the_drivers_alone() {
    let metadata = metadata();
    let drivers = metadata.workspace_root.join("drivers");
    for package in metadata.workspace_packages() {
        if package.manifest_path.starts_with(&drivers) {
            continue;
        }
        for root in crate_roots(package) {
            let text = fs::read_to_string(root).unwrap();
            let forbids = text.lines().any(|line| line == "#![forbid(unsafe_code)]");
            assert!(forbids, "{}: lacks #![forbid(unsafe_code)]", root.display());
        }
    }
}

/// The root file of the library and of each program of a crate. Tests and examples are covered by
/// the crates they use.
fn crate_roots(package: &Package) -> impl Iterator<Item = &Path> {
    package
        .targets
        .iter()
        .filter(|target| target.is_lib() || target.is_bin())
        .map(|target| target.src_path.as_std_path())
}

fn metadata() -> Metadata {
    MetadataCommand::new().current_dir(env!("CARGO_MANIFEST_DIR")).no_deps().exec().unwrap()
}
