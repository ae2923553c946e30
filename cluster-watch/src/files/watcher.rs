//! `Watcher`: waits until the kernel tells of a change that matters.
//!
//! A file that is being written is waited for, since half of a manifest may look like a whole one: inotify tells when
//! it changes and when it is closed. Only where inotify is not to be had (too many watches, an odd file system) is
//! the time waited for instead. What must not go in here: reading files.

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

use crate::files::place::{Interest, places};

/// How often files are read where inotify is impossible.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long a file that was changed and not closed counts as being written.
const WRITE_MAX: Duration = Duration::from_secs(2);
/// How long a new file counts as being written if nothing is written to it.
const CREATE_MAX: Duration = Duration::from_millis(50);

/// Why waiting has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Changed,
    TimedOut,
    Stopped,
}

/// Waits for changes.
pub(super) struct Watcher {
    /// None: it is impossible here.
    inotify: Option<Inotify>,
    stopped: PipeReader,
    watched: HashMap<WatchDescriptor, (PathBuf, Interest)>,
    /// Something cannot be watched: the time has to do.
    is_blind: bool,
    has_changed: bool,
    /// Files that are being written, and until when that is believed.
    written: HashMap<(WatchDescriptor, OsString), Instant>,
}

impl Watcher {
    pub(super) fn new(stopped: PipeReader) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let is_blind = inotify.is_none();
        let (watched, written) = (HashMap::new(), HashMap::new());
        Self { inotify, stopped, watched, is_blind, has_changed: false, written }
    }

    /// Watches what these paths lead to now; true if that has places which were not watched before.
    pub(super) fn cover(&mut self, paths: &[&Path]) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let before = std::mem::take(&mut self.watched);
        self.is_blind = false;
        for (folder, interest) in places(paths) {
            match inotify.add_watch(&folder, flags(&interest)) {
                Ok(watch) => {
                    let (path, known) = self.watched.entry(watch).or_default();
                    known.all |= interest.all;
                    known.names.extend(interest.names);
                    known.files.extend(interest.files);
                    // A folder that is mounted twice has one watch, whose flags are those of the last call.
                    let _ = inotify.add_watch(&folder, flags(known));
                    *path = folder;
                }
                // What is not there, or may not be looked at, is watched for from the folder above it.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) if !interest.has_files() => {}
                Err(_) => self.is_blind = true,
            }
        }
        let is_known = |watch: &WatchDescriptor| before.contains_key(watch);
        let has_new = self.watched.keys().any(|watch| !is_known(watch));
        for watch in before.keys().filter(|watch| !self.watched.contains_key(watch)) {
            // It may be gone with its folder.
            let _ = inotify.rm_watch(*watch);
        }
        self.written.retain(|(watch, _), _| self.watched.contains_key(watch));
        has_new
    }

    /// Whether a file that is read is being written at this moment.
    pub(super) fn is_being_written(&mut self) -> bool {
        self.take_events();
        let now = Instant::now();
        self.written.retain(|_, until| *until > now);
        !self.written.is_empty()
    }

    /// Waits until nobody writes.
    pub(super) fn written(&mut self) -> Woken {
        while self.is_being_written() {
            let until = self.written.values().min().copied();
            if self.wait_once(until) == Woken::Stopped {
                return Woken::Stopped;
            }
        }
        Woken::Changed
    }

    /// Waits for a change, until the given time at most, and then until nobody writes.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> Woken {
        let poll = self.is_blind.then(|| Instant::now() + POLL_INTERVAL);
        let until = [until, poll].into_iter().flatten().min();
        let woken = loop {
            self.take_events();
            if std::mem::take(&mut self.has_changed) {
                break Woken::Changed;
            }
            let writing = self.written.values().min().copied();
            match self.wait_once([until, writing].into_iter().flatten().min()) {
                Woken::Stopped => return Woken::Stopped,
                Woken::TimedOut if !self.is_being_written() => break Woken::TimedOut,
                Woken::TimedOut | Woken::Changed => {}
            }
        };
        if self.written() == Woken::Stopped { Woken::Stopped } else { woken }
    }

    /// Waits for the time, whatever changes meanwhile: what is to be read will be read.
    pub(super) fn rest(&mut self, until: Instant) -> Woken {
        while Instant::now() < until {
            let mut fds = [PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout(Some(until))).is_ok_and(|ready| ready > 0) {
                return Woken::Stopped;
            }
        }
        self.take_events();
        self.has_changed = false;
        self.written()
    }

    fn wait_once(&self, until: Option<Instant>) -> Woken {
        let mut fds = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout(until)) {
            Ok(0) => Woken::TimedOut,
            Ok(_) if fds[0].any().unwrap_or(true) => Woken::Stopped,
            Ok(_) | Err(_) => Woken::Changed,
        }
    }

    fn take_events(&mut self) {
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: InotifyEvent) {
        let InotifyEvent { wd, mask, cookie: _, name } = event;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.written.clear();
            self.has_changed = true;
            return;
        }
        let Some((folder, interest)) = self.watched.get(&wd) else { return };
        let Some(name) = name else {
            self.has_changed = true;
            return;
        };
        if !interest.is_in(&name) {
            return;
        }
        let is_read = interest.is_read(&name) && !mask.contains(AddWatchFlags::IN_ISDIR);
        if is_read && mask.contains(AddWatchFlags::IN_MODIFY) {
            self.written.insert((wd, name), Instant::now() + WRITE_MAX);
        } else if is_read && mask.contains(AddWatchFlags::IN_CREATE) && is_plain(&folder.join(&name)) {
            self.written.insert((wd, name), Instant::now() + CREATE_MAX);
            self.has_changed = true;
        } else if !mask.contains(AddWatchFlags::IN_MODIFY) {
            self.written.remove(&(wd, name));
            self.has_changed = true;
        }
    }
}

/// A file under one name, which whoever has made it is about to write; a link is complete as it comes.
fn is_plain(path: &Path) -> bool {
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

fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    // Rounded up, or the last millisecond would be spent in a loop.
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
