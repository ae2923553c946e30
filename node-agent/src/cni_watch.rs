//! Tells when the folders change in which attachments are found that nobody brought.
//!
//! Pods that started before the plugin's entry was in the CNI configuration are to be adopted as soon as it is there, not
//! at the next audit. What exactly changed is found by looking, so events, an overflow and a folder that comes into being
//! are all the same. What must not go in here: what is looked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc::UnboundedSender;

use crate::event_loop::Message;

/// Whoever writes one file often writes some more.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// After a look the next one begins no sooner than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// So many folders of drop-ins are watched; others are seen at the next audit.
const DROP_IN_FOLDERS_MAX: usize = 64;

/// Told when a look is over, by being dropped.
pub(crate) type ScanDone = SyncSender<()>;

/// Watches the folder of CNI configurations and that of CNI results, on a thread that ends with the driver.
pub(crate) fn watch(conf: PathBuf, cache: PathBuf, sender: UnboundedSender<Message>) -> std::io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let follow = move || {
        cover(&inotify, &conf, &cache);
        while matches!(inotify.read_events(), Ok(_) | Err(Errno::EINTR)) {
            thread::sleep(DEBOUNCE);
            // What comes from here on makes another look.
            cover(&inotify, &conf, &cache);
            let (looked, over) = sync_channel(0);
            if sender.send(Message::Look(looked)).is_err() {
                return;
            }
            // Nothing is ever sent: the end of the look closes the channel.
            let _ = over.recv();
            thread::sleep(LOOK_INTERVAL);
        }
    };
    thread::Builder::new().name("adopt".to_owned()).spawn(follow).map(drop)
}

/// Watches these folders as they are now, or the nearest folder above that is there.
fn cover(inotify: &Inotify, conf: &Path, cache: &Path) {
    let folders = fs::read_dir(conf).into_iter().flatten().flatten();
    let drop_ins = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let drop_ins: Vec<PathBuf> = drop_ins.take(DROP_IN_FOLDERS_MAX).map(|entry| entry.path()).collect();
    for folder in [conf, cache].into_iter().chain(drop_ins.iter().map(PathBuf::as_path)) {
        cover_one(inotify, folder);
    }
}

fn cover_one(inotify: &Inotify, folder: &Path) {
    use AddWatchFlags as Flags;
    let of_files = Flags::IN_CLOSE_WRITE | Flags::IN_MOVED_TO | Flags::IN_CREATE | Flags::IN_DELETE_SELF;
    let of_folders = Flags::IN_MOVED_TO | Flags::IN_CREATE;
    // A folder that comes into being beside this look was not there when the folder above it began to be watched.
    let mut missing = None;
    for at in folder.ancestors() {
        let flags = if at == folder { of_files } else { of_folders };
        if inotify.add_watch(at, flags).is_ok() {
            if missing.is_some_and(Path::exists) {
                cover_one(inotify, folder);
            }
            return;
        }
        missing = Some(at);
    }
}
