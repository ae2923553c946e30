//! `portico install --watch`: what was installed stays installed, whoever else installs on this node.
//!
//! Other CNIs write their configuration anew when they start, without our entry; runtimes then start pods without
//! portals, and nobody says so. What must not go in here: what an installation is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::Notify;

use crate::agent::Stop;
use crate::install::claim::Claim;
use crate::install::installation::{Done, Installation};

/// At most so often something is put back: a fight that nobody wins must not cost a processor.
const PUT_INTERVAL: Duration = Duration::from_secs(1);
/// How soon what failed is tried again, also where nothing tells of a change.
const RETRY: Duration = Duration::from_secs(2);
/// How often all is looked at though nothing told of a change.
const LOOK: Duration = Duration::from_secs(30);

/// Looks after an installation until it is told to end. What is installed stays then: an update of the agent must not
/// have pods start without portals.
pub(super) fn watch(installation: &Installation) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the event loop")?.block_on(async {
        let stop = Stop::listen()?;
        let mut changes = Changes::new(installation)?;
        let mut keeper = Keeper { installation, claim: None, last: None, reverted: 0, trouble: None };
        loop {
            let pause = keeper.look(&mut changes);
            // Told changes are waited for only when the next look may come.
            let early = tokio::time::sleep(pause.least);
            tokio::select! {
                () = stop.asked() => break,
                () = early => {}
            }
            tokio::select! {
                () = stop.asked() => break,
                () = changes.told.notified() => {}
                () = tokio::time::sleep(pause.most.saturating_sub(pause.least)) => {}
            }
        }
        tracing::info!("asked to end; what is installed stays");
        Ok(())
    })
}

/// How long to wait for the next look.
struct Pause {
    least: Duration,
    most: Duration,
}

struct Keeper<'a> {
    installation: &'a Installation,
    claim: Option<Claim>,
    /// The configuration whose entry last was as it should be.
    last: Option<PathBuf>,
    /// How often somebody has taken it away from there.
    reverted: u64,
    /// What is wrong, as it was last told.
    trouble: Option<String>,
}

impl Keeper<'_> {
    fn look(&mut self, changes: &mut Changes) -> Pause {
        changes.cover();
        let began = Instant::now();
        let found = self.claimed().and_then(|()| self.installation.make());
        match found {
            Ok(done) => {
                if self.trouble.take().is_some() {
                    tracing::info!("all is well again");
                }
                let has_changed = done.is_plugin_new || done.is_entry_new;
                self.tell(&done);
                let least =
                    if has_changed { PUT_INTERVAL.saturating_sub(began.elapsed()) } else { Duration::ZERO };
                // What was not watched may have changed since it was looked at.
                let most = if changes.folders == done.folders { LOOK } else { least };
                changes.folders = done.folders;
                self.last = Some(done.file);
                Pause { least, most }
            }
            Err(error) => {
                let trouble = format!("{error:#}");
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(error = trouble, "not installed, tried again");
                }
                self.trouble = Some(trouble);
                // What it tried may be what is told next.
                Pause { least: PUT_INTERVAL, most: RETRY }
            }
        }
    }

    fn claimed(&mut self) -> anyhow::Result<()> {
        let folders = self.installation.folders();
        if !self.claim.as_ref().is_some_and(|claim| claim.holds(&folders)) {
            self.claim = None;
            let claim = Claim::attempt(&folders)?;
            self.claim =
                Some(claim.context("another portico install looks after these folders; this one waits")?);
        }
        Ok(())
    }

    fn tell(&mut self, done: &Done) {
        let plugin = self.installation.bin_dir.display();
        let (entry, file) = (done.entry.display(), done.file.display());
        match &self.last {
            None => {
                tracing::info!(%plugin, %entry, new = done.is_plugin_new || done.is_entry_new, "installed");
            }
            Some(before) if done.is_entry_new && *before == done.file => {
                self.reverted += 1;
                // Once is another CNI that starts; again and again is a fight, told ever more seldom.
                if self.reverted.is_power_of_two() {
                    let times = self.reverted;
                    tracing::warn!(%file, times, "somebody keeps reverting our entry, put back");
                }
            }
            Some(before) if *before != done.file => {
                tracing::warn!(before = %before.display(), %file, "runtimes take another configuration now");
            }
            Some(_) => {}
        }
        if self.last.is_some() && done.is_plugin_new {
            tracing::warn!(%plugin, "the plugin was gone or another one, put back");
        }
    }
}

/// What the kernel tells of changes in these folders.
struct Changes {
    inotify: Arc<Inotify>,
    told: Arc<Notify>,
    folders: Vec<PathBuf>,
}

impl Changes {
    /// A thread of its own waits for the kernel; it ends with the process.
    fn new(installation: &Installation) -> anyhow::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC);
        let inotify = Arc::new(inotify.context("watch files (fs.inotify.max_user_instances)")?);
        let told = Arc::new(Notify::new());
        let (kernel, tell) = (Arc::clone(&inotify), Arc::clone(&told));
        thread::spawn(move || {
            // What exactly has changed is found by looking.
            while matches!(kernel.read_events(), Ok(_) | Err(Errno::EINTR)) {
                tell.notify_one();
            }
        });
        let folders = installation.folders().map(Path::to_owned).into();
        Ok(Self { inotify, told, folders })
    }

    /// Watches these folders as they are now; those that are not there are looked at again in time.
    fn cover(&self) {
        use AddWatchFlags as Flags;
        let flags = Flags::IN_CLOSE_WRITE | Flags::IN_MOVE | Flags::IN_DELETE | Flags::IN_ATTRIB;
        for folder in &self.folders {
            let _ = self.inotify.add_watch(folder, flags | Flags::IN_DELETE_SELF | Flags::IN_MOVE_SELF);
        }
    }
}
