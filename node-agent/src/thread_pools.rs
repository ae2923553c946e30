//! `ThreadPools`: the threads that do blocking work, apart by what waits for it.
//!
//! A pod that starts waits for its attach, so no other kind of work may use the threads of attaches. Each kind is
//! first come, first served. What must not go in here: which kind a piece of work is.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Threads that program pods that are starting.
const ATTACH_THREADS: usize = 8;
/// Threads that send changes to pods that run.
const CHANGE_THREADS: usize = 8;
/// Threads that read what pods hold, and repair it: pods may have written much there, and nobody waits for it.
const AUDIT_THREADS: usize = 2;
/// Threads that delete stale UDP flows: each clean-up walks the node-wide connection table.
const CLEANUP_THREADS: usize = 2;
/// Threads that read and write files of the agent's own.
const FILE_THREADS: usize = 2;

/// Threads for what libraries do, such as resolving the API server's name.
const OTHER_THREADS: usize = 4;

/// Threads that the runtime needs for everything together.
pub(crate) const THREADS: usize =
    ATTACH_THREADS + CHANGE_THREADS + AUDIT_THREADS + CLEANUP_THREADS + FILE_THREADS + OTHER_THREADS;

/// A kind of blocking work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkKind {
    /// Program a pod that is starting.
    Attach,
    /// Change a pod that runs.
    Change,
    /// Read what a pod holds, or replace what it should not hold.
    Audit,
    /// Delete stale UDP flows.
    Cleanup,
    /// Read or write files of the agent's own.
    File,
}

/// The threads of each kind.
#[derive(Debug)]
pub(crate) struct ThreadPools {
    attach: Arc<Semaphore>,
    change: Arc<Semaphore>,
    audit: Arc<Semaphore>,
    cleanup: Arc<Semaphore>,
    file: Arc<Semaphore>,
}

impl ThreadPools {
    /// ThreadPools without any work; the runtime starts threads when they are needed.
    pub(crate) fn new() -> Self {
        let of = |threads| Arc::new(Semaphore::new(threads));
        Self {
            attach: of(ATTACH_THREADS),
            change: of(CHANGE_THREADS),
            audit: of(AUDIT_THREADS),
            cleanup: of(CLEANUP_THREADS),
            file: of(FILE_THREADS),
        }
    }

    /// Runs the work as soon as a thread of its kind is free; work that has not begun when its kind is dismissed is
    /// dropped.
    pub(crate) fn run(&self, kind: WorkKind, work: impl FnOnce() + Send + 'static) {
        let free = Arc::clone(match kind {
            WorkKind::Attach => &self.attach,
            WorkKind::Change => &self.change,
            WorkKind::Audit => &self.audit,
            WorkKind::Cleanup => &self.cleanup,
            WorkKind::File => &self.file,
        });
        tokio::spawn(async move {
            let Ok(_permit) = free.acquire_owned().await else { return };
            // A panic was printed already, and ends this piece of work alone.
            let _ = tokio::task::spawn_blocking(work).await;
        });
    }

    /// Drops the work that nobody waits for and that has not begun.
    pub(crate) fn dismiss(&self) {
        self.audit.close();
        self.cleanup.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn an_attach_runs_while_all_other_threads_are_busy() {
        let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(THREADS).build();
        let runtime = runtime.expect("a runtime");
        let _inside = runtime.enter();
        let (pools, (tell, told)) = (ThreadPools::new(), channel());
        let (hold, held) = channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for kind in [WorkKind::Change, WorkKind::Audit, WorkKind::Cleanup, WorkKind::File] {
            for _ in 0..1_000 {
                let held = Arc::clone(&held);
                pools.run(kind, move || assert!(held.lock().expect("not poisoned").recv().is_err()));
            }
        }
        pools.run(WorkKind::Attach, move || tell.send(()).expect("the test waits"));
        told.recv_timeout(TIMEOUT).expect("the attach ran");
        drop(hold);
    }

    #[test]
    fn work_that_nobody_waits_for_is_dropped_at_the_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(THREADS).build();
        let runtime = runtime.expect("a runtime");
        let _inside = runtime.enter();
        let (pools, (tell, told)) = (ThreadPools::new(), channel());
        pools.dismiss();
        for kind in [WorkKind::Audit, WorkKind::Cleanup, WorkKind::Change] {
            let tell = tell.clone();
            pools.run(kind, move || tell.send(kind).expect("the test waits"));
        }
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), [WorkKind::Change]);
    }
}
