//! `ThreadPools`: a limited number of threads for each kind of blocking work.
//!
//! A pod that starts waits until it is attached, so no other kind of work uses the threads for attaches. Within a kind,
//! work starts in order.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Threads that program pods that are starting.
const ATTACH_THREADS: usize = 8;
/// Threads that update running pods.
const CHANGE_THREADS: usize = 8;
/// Threads that audit and repair tables: pods can make this slow, and no client waits for it.
const AUDIT_THREADS: usize = 2;
/// Threads that delete conntrack entries of stale UDP flows: each clean-up walks the node-wide conntrack table.
const CLEANUP_THREADS: usize = 2;
/// Threads that read and write files.
const FILE_THREADS: usize = 2;

/// Threads for libraries, for example to resolve the name of the API server.
const OTHER_THREADS: usize = 4;

/// The number of threads of the runtime for blocking work.
pub(crate) const THREADS: usize =
    ATTACH_THREADS + CHANGE_THREADS + AUDIT_THREADS + CLEANUP_THREADS + FILE_THREADS + OTHER_THREADS;

/// A kind of blocking work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkKind {
    /// Program a pod that is starting.
    Attach,
    /// Update a running pod.
    Change,
    /// Audit or repair a table.
    Audit,
    /// Delete conntrack entries of stale UDP flows.
    Cleanup,
    /// Read or write files.
    File,
}

/// The pools of all kinds.
#[derive(Debug)]
pub(crate) struct ThreadPools {
    attach: Arc<Semaphore>,
    change: Arc<Semaphore>,
    audit: Arc<Semaphore>,
    cleanup: Arc<Semaphore>,
    file: Arc<Semaphore>,
}

impl ThreadPools {
    /// Pools without work; the runtime starts threads when needed.
    pub(crate) fn new() -> Self {
        let permits = |threads| Arc::new(Semaphore::new(threads));
        Self {
            attach: permits(ATTACH_THREADS),
            change: permits(CHANGE_THREADS),
            audit: permits(AUDIT_THREADS),
            cleanup: permits(CLEANUP_THREADS),
            file: permits(FILE_THREADS),
        }
    }

    /// Runs the work as soon as a thread of its kind is free.
    pub(crate) fn run(&self, kind: WorkKind, work: impl FnOnce() + Send + 'static) {
        let permits = Arc::clone(match kind {
            WorkKind::Attach => &self.attach,
            WorkKind::Change => &self.change,
            WorkKind::Audit => &self.audit,
            WorkKind::Cleanup => &self.cleanup,
            WorkKind::File => &self.file,
        });
        tokio::spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            // The panic hook has logged a panic; it does not affect other work.
            let _ = tokio::task::spawn_blocking(work).await;
        });
    }

    /// Drops optional work that has not started: audits and clean-ups.
    pub(crate) fn cancel_optional(&self) {
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
    fn attach_runs_while_all_other_pools_are_busy() {
        let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(THREADS).build();
        let runtime = runtime.expect("a runtime");
        let _inside = runtime.enter();
        let (pools, (done, finished)) = (ThreadPools::new(), channel());
        let (hold, held) = channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for kind in [WorkKind::Change, WorkKind::Audit, WorkKind::Cleanup, WorkKind::File] {
            for _ in 0..1_000 {
                let held = Arc::clone(&held);
                pools.run(kind, move || assert!(held.lock().expect("not poisoned").recv().is_err()));
            }
        }
        pools.run(WorkKind::Attach, move || done.send(()).expect("the test waits"));
        finished.recv_timeout(TIMEOUT).expect("the attach ran");
        drop(hold);
    }

    #[test]
    fn optional_work_is_dropped_at_the_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(THREADS).build();
        let runtime = runtime.expect("a runtime");
        let _inside = runtime.enter();
        let (pools, (done, finished)) = (ThreadPools::new(), channel());
        pools.cancel_optional();
        for kind in [WorkKind::Audit, WorkKind::Cleanup, WorkKind::Change] {
            let done = done.clone();
            pools.run(kind, move || done.send(kind).expect("the test waits"));
        }
        drop(done);
        assert_eq!(finished.iter().collect::<Vec<_>>(), [WorkKind::Change]);
    }
}
