//! `ConfFile`: a CNI configuration file, selected as runtimes select it, and written back after an edit.
//!
//! A write fails if another process changed the file since it was read. The edit itself is in `conflist`.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::atomic_write::{FileAttributes, atomic_write};
use crate::conf_dir::{configurations, is_hidden, is_list};
use crate::conflist::Conflist;

/// The content of a file and its metadata, as they were read.
#[derive(Debug)]
pub struct ConfFile {
    /// The path by which the runtime finds it.
    pub path: PathBuf,
    /// The path with symbolic links resolved, so that a write keeps the link.
    real_path: PathBuf,
    text: String,
    metadata: Metadata,
}

impl ConfFile {
    /// Reads the file of this network, or otherwise the one that runtimes use: the first by name.
    pub fn find(dir: &Path, network: Option<&str>) -> anyhow::Result<Self> {
        let dir_name = dir.display();
        let paths = configurations(dir).with_context(|| {
            format!("failed to read {dir_name} (--cni-conf-dir: the runtime's configuration directory)")
        })?;
        if let Some(network) = network {
            return Self::find_network(dir, &paths, network);
        }
        let Some(path) = paths.first() else {
            bail!(
                "no CNI configuration in {dir_name} yet; install a CNI plugin first, portico-cni is chained after it"
            );
        };
        let file_name = path.display();
        ensure!(!is_hidden(path), "{file_name} is hidden, but runtimes use it first: move it away");
        ensure!(
            is_list(path),
            "{file_name} is used first and contains a single plugin, so nothing can be chained after it: convert it \
             to a .conflist with a list \"plugins\"; if it belongs to a program that attaches pods to a second \
             network, select that network with --network"
        );
        Self::read(path)
    }

    fn find_network(dir: &Path, paths: &[PathBuf], network: &str) -> anyhow::Result<Self> {
        let mut unreadable = Vec::new();
        for path in paths.iter().filter(|path| is_list(path) && !is_hidden(path)) {
            let file = Self::read(path);
            match file.and_then(|file| Ok((file.conflist()?.name == network, file))) {
                Ok((true, file)) => return Ok(file),
                Ok((false, _)) => {}
                Err(error) => unreadable.push(format!("; {error:#}")),
            }
        }
        bail!("no .conflist of network {network} in {}{}", dir.display(), unreadable.concat())
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file_name = path.display();
        let real_path = fs::canonicalize(path).with_context(|| match fs::read_link(path) {
            Ok(target) => format!("{file_name} is a link to {}, which does not exist", target.display()),
            Err(_) => format!("failed to read {file_name}"),
        })?;
        let read = || Ok::<_, std::io::Error>((fs::metadata(&real_path)?, fs::read(&real_path)?));
        let (metadata, bytes) = read().with_context(|| format!("failed to read {file_name}"))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{file_name} left unchanged"))?;
        Ok(Self { path: path.to_owned(), real_path, text, metadata })
    }

    /// Parses the file as a list of plugins.
    pub fn conflist(&self) -> anyhow::Result<Conflist<'_>> {
        Conflist::parse(&self.text).with_context(|| format!("{} left unchanged", self.path.display()))
    }

    /// The directory of the file, with symbolic links resolved.
    pub fn real_dir(&self) -> Option<&Path> {
        self.real_path.parent()
    }

    /// Replaces the content, unless another process changed the file after it was read.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        let is_unchanged = |_: &Path| {
            let now = fs::read(&self.real_path)
                .with_context(|| format!("failed to read {}", self.path.display()))?;
            ensure!(now == self.text.as_bytes(), "another process changed {}", self.path.display());
            Ok(())
        };
        atomic_write(&self.real_path, text.as_bytes(), &FileAttributes::of(&self.metadata), is_unchanged)
    }
}
