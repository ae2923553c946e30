//! The programs of a release.
//!
//! `cargo xtask release` builds them; tests compare them with the images and the bills of materials.

/// A program that is released.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The package that contains it.
    pub package: &'static str,
    /// The name of the binary.
    pub name: &'static str,
    /// The profile in the root Cargo.toml with which it is built.
    pub profile: &'static str,
}

/// Each program of a release.
pub const PROGRAMS: [Program; 3] = [
    Program { package: "cli", name: "portico", profile: "shipped" },
    Program { package: "webhook", name: "portico-webhook", profile: "shipped" },
    Program { package: "cni-plugin", name: "portico-cni", profile: "plugin" },
];
