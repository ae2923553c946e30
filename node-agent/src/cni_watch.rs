//! Watches the directories of the CNI configuration and of the CNI result cache.
//!
//! Pods that started before the installation of the plugin must be managed as soon as its entry is in the CNI
//! configuration, not only at the next audit. Each change triggers a scan by `Recovery`, so the kinds of inotify events
//! do not matter, and an overflow is not an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc::UnboundedSender;

use crate::message::Message;

/// A change of one file is often followed by changes of others.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// The minimum time between two scans.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);
/// The maximum number of watched drop-in directories; changes in others are found at the next audit.
const DROP_IN_DIRS_MAX: usize = 64;

/// Dropped at the end of a scan.
pub(crate) type ScanGuard = SyncSender<()>;

/// Watches the directories on a thread that ends with the event loop.
pub(crate) fn watch(conf: PathBuf, cache: PathBuf, sender: UnboundedSender<Message>) -> std::io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let watch = move || {
        add_watches(&inotify, &conf, &cache);
        while matches!(inotify.read_events(), Ok(_) | Err(Errno::EINTR)) {
            thread::sleep(DEBOUNCE);
            // Later events trigger another scan.
            add_watches(&inotify, &conf, &cache);
            let (guard, done) = sync_channel(0);
            if sender.send(Message::CniChanged(guard)).is_err() {
                return;
            }
            // The end of the scan closes the channel; no message is sent.
            let _ = done.recv();
            thread::sleep(SCAN_INTERVAL);
        }
    };
    thread::Builder::new().name("cni-watch".to_owned()).spawn(watch).map(drop)
}

/// Adds watches for the directories, or for their nearest parents that exist.
fn add_watches(inotify: &Inotify, conf: &Path, cache: &Path) {
    let entries = fs::read_dir(conf).into_iter().flatten().flatten();
    let drop_ins = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let drop_ins: Vec<PathBuf> = drop_ins.take(DROP_IN_DIRS_MAX).map(|entry| entry.path()).collect();
    for dir in [conf, cache].into_iter().chain(drop_ins.iter().map(PathBuf::as_path)) {
        add_watch(inotify, dir);
    }
}

fn add_watch(inotify: &Inotify, dir: &Path) {
    use AddWatchFlags as Flags;
    let file_flags = Flags::IN_CLOSE_WRITE | Flags::IN_MOVED_TO | Flags::IN_CREATE | Flags::IN_DELETE_SELF;
    let dir_flags = Flags::IN_MOVED_TO | Flags::IN_CREATE;
    // A directory can be created after the attempt to watch it and before the watch of its parent.
    let mut missing = None;
    for ancestor in dir.ancestors() {
        let flags = if ancestor == dir { file_flags } else { dir_flags };
        if inotify.add_watch(ancestor, flags).is_ok() {
            if missing.is_some_and(Path::exists) {
                add_watch(inotify, dir);
            }
            return;
        }
        missing = Some(ancestor);
    }
}
