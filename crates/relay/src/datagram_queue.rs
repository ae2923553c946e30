//! `DatagramQueue`: the datagrams that wait for a UDP session, with a limit on the bytes of all queues.
//!
//! A session may wait for its first backend, for as long as its portal holds connections, and there may be thousands
//! of sessions. A full queue drops new datagrams.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The maximum number of datagrams in one queue.
const QUEUED_MAX: usize = 16;
/// The maximum number of bytes in all queues of one network namespace and worker.
pub(crate) const QUEUED_BYTES_MAX: usize = 1 << 20;

/// The number of bytes in all queues of one network namespace and worker.
pub(crate) type QueuedBytes = Rc<Cell<usize>>;

/// A datagram that counts towards `QueuedBytes` until it is dropped.
#[derive(Debug)]
pub(crate) struct QueuedDatagram {
    bytes: Box<[u8]>,
    queued: QueuedBytes,
}

impl Deref for QueuedDatagram {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for QueuedDatagram {
    fn drop(&mut self) {
        self.queued.set(self.queued.get().saturating_sub(self.bytes.len()));
    }
}

/// The sending end of the queue of one session.
#[derive(Debug)]
pub(crate) struct DatagramQueue(Sender<QueuedDatagram>);

impl DatagramQueue {
    /// Returns an empty queue and its receiving end.
    pub(crate) fn new() -> (Self, Receiver<QueuedDatagram>) {
        let (sender, receiver) = channel(QUEUED_MAX);
        (Self(sender), receiver)
    }

    /// Whether the session has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Appends a datagram, or drops it if the queue is full. Returns false if the session has ended.
    pub(crate) fn push(&self, bytes: &[u8], queued: &QueuedBytes) -> bool {
        let total = queued.get() + bytes.len();
        if total > QUEUED_BYTES_MAX {
            return !self.is_closed();
        }
        queued.set(total);
        let datagram = QueuedDatagram { bytes: bytes.into(), queued: Rc::clone(queued) };
        !matches!(self.0.try_send(datagram), Err(TrySendError::Closed(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_rejects_until_drained() {
        let (queued, half) = (QueuedBytes::default(), vec![0; QUEUED_BYTES_MAX / 2]);
        let ((first, mut datagrams), (second, receiver)) = (DatagramQueue::new(), DatagramQueue::new());
        assert!(first.push(&half, &queued) && second.push(&half, &queued));
        assert!(first.push(&[1], &queued), "it is dropped, but the session has not ended");
        assert_eq!(queued.get(), QUEUED_BYTES_MAX);
        let datagram = datagrams.try_recv().expect("the first datagram");
        assert_eq!(datagram.len(), QUEUED_BYTES_MAX / 2);
        assert!(datagrams.try_recv().is_err(), "the second datagram was dropped");
        drop(datagram);
        assert_eq!(queued.get(), QUEUED_BYTES_MAX / 2);
        drop(receiver);
        assert_eq!(queued.get(), 0, "a session that ends releases its bytes");
        assert!(second.is_closed() && !second.push(&[1], &queued));
        (0..100).for_each(|_| assert!(first.push(&[1], &queued)));
        assert_eq!(queued.get(), QUEUED_MAX);
    }
}
