//! `Queue`: datagrams that wait for their flow's turn, and how much room all of them may take.
//!
//! A flow may have no backend yet, for as long as its portal holds it, and there may be thousands of flows. What must
//! not go in here: where datagrams go.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// So many datagrams of one flow wait; what comes then is dropped.
const WAITING_MAX: usize = 16;
/// So many bytes of all flows that a worker carries for one network namespace wait; what comes then is dropped.
pub(crate) const WAITING_BYTES_MAX: usize = 1 << 20;

/// How much room is taken.
pub(crate) type Taken = Rc<Cell<usize>>;

/// A datagram that takes room as long as it is there.
#[derive(Debug)]
pub(crate) struct Datagram {
    bytes: Box<[u8]>,
    taken: Taken,
}

impl Deref for Datagram {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Datagram {
    fn drop(&mut self) {
        self.taken.set(self.taken.get().saturating_sub(self.bytes.len()));
    }
}

/// The way to a flow.
#[derive(Debug)]
pub(crate) struct Queue(Sender<Datagram>);

impl Queue {
    /// A queue, and its other end.
    pub(crate) fn new() -> (Self, Receiver<Datagram>) {
        let (sender, receiver) = channel(WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Whether the flow is over.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_closed()
    }

    /// Puts a datagram in. Where there is no room it is lost, as datagrams may be. False: the flow is over.
    pub(crate) fn put(&self, bytes: &[u8], taken: &Taken) -> bool {
        let after = taken.get() + bytes.len();
        if after > WAITING_BYTES_MAX {
            return !self.is_over();
        }
        taken.set(after);
        let datagram = Datagram { bytes: bytes.into(), taken: Rc::clone(taken) };
        !matches!(self.0.try_send(datagram), Err(TrySendError::Closed(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_takes_no_more_and_what_is_taken_out_makes_room() {
        let (taken, half) = (Taken::default(), vec![0; WAITING_BYTES_MAX / 2]);
        let ((one, mut ones), (other, others)) = (Queue::new(), Queue::new());
        assert!(one.put(&half, &taken) && other.put(&half, &taken));
        assert!(one.put(&[1], &taken), "lost, but the flow is not over");
        assert_eq!(taken.get(), WAITING_BYTES_MAX);
        let first = ones.try_recv().expect("the first");
        assert_eq!(first.len(), WAITING_BYTES_MAX / 2);
        assert!(ones.try_recv().is_err(), "the second found no room");
        drop(first);
        assert_eq!(taken.get(), WAITING_BYTES_MAX / 2);
        drop(others);
        assert_eq!(taken.get(), 0, "a flow that ends leaves nothing behind");
        assert!(other.is_over() && !other.put(&[1], &taken));
        (0..100).for_each(|_| assert!(one.put(&[1], &taken)));
        assert_eq!(taken.get(), WAITING_MAX);
    }
}
