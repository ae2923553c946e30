//! `ConfFile`: the configuration that a runtime uses, found as the runtime finds it, and put back changed.
//!
//! What must not go in here: what is changed in it.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::cni_conf::{configurations, is_hidden, is_list};
use crate::install::conflist::Conflist;
use crate::install::replace::{Like, replace};

/// A file, as it was read.
#[derive(Debug)]
pub(crate) struct ConfFile {
    /// As the runtime knows it.
    pub(crate) path: PathBuf,
    /// Where it lies: a link stays a link to it.
    real: PathBuf,
    pub(super) text: String,
    metadata: Metadata,
}

impl ConfFile {
    /// The file of the network of that name, or the one that runtimes take, which is the first by name.
    pub(crate) fn find(folder: &Path, network: Option<&str>) -> anyhow::Result<Self> {
        let shown = folder.display();
        let paths = configurations(folder)
            .with_context(|| format!("read {shown}; --cni-conf-dir says where the runtime looks"))?;
        if let Some(network) = network {
            return Self::of_network(folder, &paths, network);
        }
        let Some(path) = paths.first() else {
            bail!(
                "{shown} has no CNI configuration yet; a CNI has to be installed first, ours is chained behind it"
            );
        };
        let shown = path.display();
        ensure!(!is_hidden(path), "{shown} is hidden, but runtimes take it first: move it away");
        ensure!(
            is_list(path),
            "{shown} is taken first and holds one plugin alone, so nothing can be chained behind it: make it a \
             .conflist with a list \"plugins\"; where it is another program's that has pods attached to a second \
             network, name that one by --network"
        );
        Self::read(path)
    }

    fn of_network(folder: &Path, paths: &[PathBuf], network: &str) -> anyhow::Result<Self> {
        let mut unreadable = Vec::new();
        for path in paths.iter().filter(|path| is_list(path) && !is_hidden(path)) {
            let file = Self::read(path);
            match file.and_then(|file| Ok((file.conflist()?.name == network, file))) {
                Ok((true, file)) => return Ok(file),
                Ok((false, _)) => {}
                Err(error) => unreadable.push(format!("; {error:#}")),
            }
        }
        bail!("{} has no .conflist of the network {network}{}", folder.display(), unreadable.concat())
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let real = fs::canonicalize(path).with_context(|| match fs::read_link(path) {
            Ok(target) => format!("{shown} is a link to {}, which is not here", target.display()),
            Err(_) => format!("read {shown}"),
        })?;
        let read = || Ok::<_, std::io::Error>((fs::metadata(&real)?, fs::read(&real)?));
        let (metadata, bytes) = read().with_context(|| format!("read {shown}"))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{shown} is left as it is"))?;
        Ok(Self { path: path.to_owned(), real, text, metadata })
    }

    pub(crate) fn conflist(&self) -> anyhow::Result<Conflist<'_>> {
        Conflist::parse(&self.text).with_context(|| format!("{} is left as it is", self.path.display()))
    }

    /// The folder in which it lies.
    pub(super) fn real_folder(&self) -> Option<&Path> {
        self.real.parent()
    }

    /// Puts another text in its place, unless somebody has just done so.
    pub(super) fn put(&self, text: &str) -> anyhow::Result<()> {
        let is_unchanged = |_: &Path| {
            let now = fs::read(&self.real).with_context(|| format!("read {}", self.path.display()))?;
            ensure!(now == self.text.as_bytes(), "somebody has just changed {}", self.path.display());
            Ok(())
        };
        replace(&self.real, text.as_bytes(), &Like::old(&self.metadata), is_unchanged)
    }
}
