//! `portico install --watch`: restores the installation if another program on the node changes it.
//!
//! Other CNI installers write their configuration when they start, without Portico's entry. Runtimes would then start
//! pods without portals, and nothing would report it. inotify events trigger a check, and a periodic check covers
//! changes without an event.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use daemon::Shutdown;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::Notify;

use crate::install_lock::InstallLock;
use crate::installation::{InstallOutcome, Installation};

/// The minimum time between two writes, so that two installers that revert each other do not use a whole CPU.
const WRITE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The maximum time until the next attempt after a failure, if there is no event.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The maximum time between two checks, if there is no event.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Guards an installation until SIGTERM or SIGINT. The installation stays then, because pods must also get portals
/// while the agent is upgraded.
pub fn watch(installation: &Installation) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start the event loop")?.block_on(async {
        let shutdown = Shutdown::listen()?;
        let mut changes = ChangeWatcher::new(installation)?;
        let mut guard =
            InstallGuard { installation, lock: None, last_conf_file: None, reverts: 0, last_error: None };
        loop {
            let next = guard.check(&mut changes);
            // An event does not shorten the minimum delay.
            let delay = tokio::time::sleep(next.delay_min);
            tokio::select! {
                () = shutdown.requested() => break,
                () = delay => {}
            }
            tokio::select! {
                () = shutdown.requested() => break,
                () = changes.changed.notified() => {}
                () = tokio::time::sleep(next.delay_max.saturating_sub(next.delay_min)) => {}
            }
        }
        tracing::info!("stopping; installation left in place");
        Ok(())
    })
}

/// When the next check is due.
struct NextCheck {
    delay_min: Duration,
    /// The delay if there is no event.
    delay_max: Duration,
}

struct InstallGuard<'a> {
    installation: &'a Installation,
    lock: Option<InstallLock>,
    /// The configuration that contained the entry at the last successful check.
    last_conf_file: Option<PathBuf>,
    /// How often another process reverted the entry.
    reverts: u64,
    /// The last error that was logged, until a check succeeds.
    last_error: Option<String>,
}

impl InstallGuard<'_> {
    fn check(&mut self, changes: &mut ChangeWatcher) -> NextCheck {
        changes.watch_dirs();
        let start = Instant::now();
        let result = self.ensure_locked().and_then(|()| self.installation.reconcile());
        match result {
            Ok(outcome) => {
                if self.last_error.take().is_some() {
                    tracing::info!("installation recovered");
                }
                let has_written = outcome.is_plugin_new || outcome.is_entry_new;
                self.log(&outcome);
                let delay_min = if has_written {
                    WRITE_INTERVAL_MIN.saturating_sub(start.elapsed())
                } else {
                    Duration::ZERO
                };
                // A directory that was not watched may have changed since it was read.
                let is_covered = changes.dirs == outcome.watched_dirs;
                let delay_max = if is_covered { CHECK_INTERVAL } else { delay_min };
                changes.dirs = outcome.watched_dirs;
                self.last_conf_file = Some(outcome.conf_file);
                NextCheck { delay_min, delay_max }
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.last_error.as_ref() != Some(&error) {
                    tracing::error!(error, "install failed; will retry");
                }
                self.last_error = Some(error);
                // The failed attempt itself may have caused events.
                NextCheck { delay_min: WRITE_INTERVAL_MIN, delay_max: RETRY_INTERVAL }
            }
        }
    }

    /// Acquires the lock, unless it is held and still covers the directories.
    fn ensure_locked(&mut self) -> anyhow::Result<()> {
        let dirs = self.installation.dirs();
        if !self.lock.as_ref().is_some_and(|lock| lock.covers(&dirs)) {
            self.lock = None;
            let lock = InstallLock::try_acquire(&dirs)?;
            self.lock = Some(lock.context("another portico install manages these directories; standing by")?);
        }
        Ok(())
    }

    fn log(&mut self, outcome: &InstallOutcome) {
        let plugin = self.installation.bin_dir.display();
        let (entry, file) = (outcome.entry.display(), outcome.conf_file.display());
        match &self.last_conf_file {
            None => {
                tracing::info!(%plugin, %entry, new = outcome.is_plugin_new || outcome.is_entry_new, "installed");
            }
            Some(previous) if outcome.is_entry_new && *previous == outcome.conf_file => {
                self.reverts += 1;
                // One revert is a CNI that starts. Repeated ones are a conflict, which is logged at 1, 2, 4, 8, ...
                if self.reverts.is_power_of_two() {
                    let times = self.reverts;
                    tracing::warn!(%file, times, "CNI entry was reverted; restored");
                }
            }
            Some(previous) if *previous != outcome.conf_file => {
                tracing::warn!(previous = %previous.display(), %file, "active CNI configuration changed");
            }
            Some(_) => {}
        }
        if self.last_conf_file.is_some() && outcome.is_plugin_new {
            tracing::warn!(%plugin, "plugin binary was missing or modified; restored");
        }
    }
}

/// Notifies of changes in some directories.
struct ChangeWatcher {
    inotify: Arc<Inotify>,
    changed: Arc<Notify>,
    dirs: Vec<PathBuf>,
}

impl ChangeWatcher {
    /// Starts a thread that reads inotify events until the process ends.
    fn new(installation: &Installation) -> anyhow::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC);
        let inotify = Arc::new(
            inotify.context("failed to create inotify instance (see fs.inotify.max_user_instances)")?,
        );
        let changed = Arc::new(Notify::new());
        let (events, notify) = (Arc::clone(&inotify), Arc::clone(&changed));
        thread::spawn(move || {
            // The content of the events is irrelevant: the check reads everything.
            while matches!(events.read_events(), Ok(_) | Err(Errno::EINTR)) {
                notify.notify_one();
            }
        });
        let dirs = installation.dirs().map(Path::to_owned).into();
        Ok(Self { inotify, changed, dirs })
    }

    /// Watches the directories. One that does not exist is added at a later check.
    fn watch_dirs(&self) {
        use AddWatchFlags as Flags;
        let flags = Flags::IN_CLOSE_WRITE | Flags::IN_MOVE | Flags::IN_DELETE | Flags::IN_ATTRIB;
        for dir in &self.dirs {
            let _ = self.inotify.add_watch(dir, flags | Flags::IN_DELETE_SELF | Flags::IN_MOVE_SELF);
        }
    }
}
