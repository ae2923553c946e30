//! `Watcher`: waits for changes of files, with inotify.
//!
//! It also waits until files are completely written, because half of a manifest can look like a whole one: inotify
//! reports each write and the close of a file. If inotify is unavailable (too many watches, an unsupported file system),
//! the watcher wakes up periodically. Reading files does not belong here.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::PipeReader;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::files::watched_paths::{Interest, watched_paths};

/// The interval between readings if inotify is unavailable.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The maximum time for which a file that was written and not closed counts as being written.
const WRITE_MAX: Duration = Duration::from_secs(2);
/// The time for which a new file counts as being written although nothing was written to it.
const CREATE_MAX: Duration = Duration::from_millis(50);

/// The reason why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WakeReason {
    Changed,
    TimedOut,
    Stopped,
}

/// Waits for changes.
pub(super) struct Watcher {
    /// `None` if inotify is unavailable.
    inotify: Option<Inotify>,
    /// Closed by the owner of the watch to stop it.
    stop: PipeReader,
    watched: HashMap<WatchDescriptor, (PathBuf, Interest)>,
    /// Whether a directory cannot be watched, so that all must be polled.
    needs_polling: bool,
    has_changed: bool,
    /// Files that are being written, and the time after which they count as complete.
    being_written: HashMap<(WatchDescriptor, OsString), Instant>,
}

impl Watcher {
    pub(super) fn new(stop: PipeReader) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let needs_polling = inotify.is_none();
        let (watched, being_written) = (HashMap::new(), HashMap::new());
        Self { inotify, stop, watched, needs_polling, has_changed: false, being_written }
    }

    /// Watches the directories along these paths as they are now. Returns whether any of them was not watched before.
    pub(super) fn update_watches(&mut self, paths: &[&Path]) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let before = std::mem::take(&mut self.watched);
        self.needs_polling = false;
        for (directory, interest) in watched_paths(paths) {
            match inotify.add_watch(&directory, flags(&interest)) {
                Ok(watch) => {
                    let (path, combined) = self.watched.entry(watch).or_default();
                    combined.all |= interest.all;
                    combined.names.extend(interest.names);
                    combined.files.extend(interest.files);
                    // A directory that is mounted twice has one watch, with the flags of the last call.
                    let _ = inotify.add_watch(&directory, flags(combined));
                    *path = directory;
                }
                // The watch on its parent directory reports when it appears.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) if !interest.has_files() => {}
                Err(_) => self.needs_polling = true,
            }
        }
        let has_new = self.watched.keys().any(|watch| !before.contains_key(watch));
        for watch in before.keys().filter(|watch| !self.watched.contains_key(watch)) {
            // Fails if the kernel removed the watch together with its directory.
            let _ = inotify.rm_watch(*watch);
        }
        self.being_written.retain(|(watch, _), _| self.watched.contains_key(watch));
        has_new
    }

    /// Whether another process is writing a file that is read.
    pub(super) fn is_being_written(&mut self) -> bool {
        self.take_events();
        let now = Instant::now();
        self.being_written.retain(|_, until| *until > now);
        !self.being_written.is_empty()
    }

    /// Waits until no file is being written.
    pub(super) fn wait_for_writers(&mut self) -> WakeReason {
        while self.is_being_written() {
            let until = self.being_written.values().min().copied();
            if self.wait_once(until) == WakeReason::Stopped {
                return WakeReason::Stopped;
            }
        }
        WakeReason::Changed
    }

    /// Waits for a change, at most until the deadline, and then until no file is being written.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> WakeReason {
        let poll = self.needs_polling.then(|| Instant::now() + POLL_INTERVAL);
        let deadline = [deadline, poll].into_iter().flatten().min();
        let reason = loop {
            self.take_events();
            if std::mem::take(&mut self.has_changed) {
                break WakeReason::Changed;
            }
            let writing = self.being_written.values().min().copied();
            match self.wait_once([deadline, writing].into_iter().flatten().min()) {
                WakeReason::Stopped => return WakeReason::Stopped,
                WakeReason::TimedOut if !self.is_being_written() => break WakeReason::TimedOut,
                WakeReason::TimedOut | WakeReason::Changed => {}
            }
        };
        if self.wait_for_writers() == WakeReason::Stopped { WakeReason::Stopped } else { reason }
    }

    /// Sleeps until the given time, and then until no file is being written. The caller reads all files afterwards, so
    /// changes do not end the sleep.
    pub(super) fn sleep_until(&mut self, until: Instant) -> WakeReason {
        while Instant::now() < until {
            let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout(Some(until))).is_ok_and(|ready| ready > 0) {
                return WakeReason::Stopped;
            }
        }
        self.take_events();
        self.has_changed = false;
        self.wait_for_writers()
    }

    fn wait_once(&self, until: Option<Instant>) -> WakeReason {
        let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout(until)) {
            Ok(0) => WakeReason::TimedOut,
            // `any` returns `None` for bits that nix does not know. Any bit means that the other end is closed.
            Ok(_) if fds[0].any() != Some(false) => WakeReason::Stopped,
            Ok(_) | Err(_) => WakeReason::Changed,
        }
    }

    /// Handles all pending inotify events.
    fn take_events(&mut self) {
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: InotifyEvent) {
        let InotifyEvent { wd, mask, cookie: _, name } = event;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.being_written.clear();
            self.has_changed = true;
            return;
        }
        let Some((directory, interest)) = self.watched.get(&wd) else { return };
        let Some(name) = name else {
            self.has_changed = true;
            return;
        };
        if !interest.contains(&name) {
            return;
        }
        let is_read = interest.is_read(&name) && !mask.contains(AddWatchFlags::IN_ISDIR);
        if is_read && mask.contains(AddWatchFlags::IN_MODIFY) {
            self.being_written.insert((wd, name), Instant::now() + WRITE_MAX);
        } else if is_read && mask.contains(AddWatchFlags::IN_CREATE) && is_new_file(&directory.join(&name)) {
            self.being_written.insert((wd, name), Instant::now() + CREATE_MAX);
            self.has_changed = true;
        } else if !mask.contains(AddWatchFlags::IN_MODIFY) {
            self.being_written.remove(&(wd, name));
            self.has_changed = true;
        }
    }
}

/// Whether the path is a file with one name, whose content is written after its creation. Links are complete at once.
fn is_new_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

fn flags(interest: &Interest) -> AddWatchFlags {
    let mut flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    if interest.has_files() {
        flags |= AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
    }
    flags
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    // Round up: otherwise the callers would busy-wait during the last millisecond.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    // A deadline beyond the longest timeout wakes early, and the callers wait again.
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
