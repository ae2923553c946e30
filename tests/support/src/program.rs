//! The programs of this workspace that cargo has built next to a test, and the root of the repository.

use std::path::PathBuf;

/// Returns the path of a program, which the script that starts the test has built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // Tests and benchmarks are in `deps`, next to the programs.
    let path = test.ancestors().nth(2).expect("the target directory").join(name);
    assert!(path.exists(), "{} is not built: see the header of tests/support/src/program.rs", path.display());
    path
}

/// Returns the root of the repository at run time: clones that share a target directory share the tests.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo starts the tests");
    let package = PathBuf::from(package);
    let root = package.ancestors().find(|path| path.join("Cargo.lock").exists());
    root.expect("the package is in the repository").to_owned()
}
