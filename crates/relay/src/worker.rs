//! `Worker`: a thread that serves connections of all network namespaces.
//!
//! Each worker has its own listeners in each network namespace, and a connection stays on its worker, so the copying
//! of bytes needs no locks.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netns_nft::NetnsId;
use proxy_core::portal::PortalKey;
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::connection::serve;
use crate::copy_bidirectional::Buffers;
use crate::emergency_fd::EmergencyFd;
use crate::limits::Limits;
use crate::listener_sockets::ListenerSockets;
use crate::pod_relay::PodRelay;
use crate::relay::PortalUse;
use crate::udp_listener;

/// The delay after an accept or receive that failed.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(20);

/// A command to a worker.
pub(crate) enum WorkerCommand {
    /// Serve a network namespace.
    OpenNetns(Arc<PodRelay>, ListenerSockets),
    /// Close the listeners and all connections of a network namespace.
    CloseNetns(NetnsId),
    /// Close all listeners, and stop when the last connection has ended.
    ShutDown,
    /// Close everything, and stop.
    Abort,
}

/// The state that the connections of a worker share.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) buffers: Buffers,
    pub(crate) limits: Arc<Limits>,
    emergency_fd: EmergencyFd,
    uses: Sender<PortalUse>,
}

impl WorkerContext {
    /// Reports to the agent that a connection to a portal arrived, unless the address was reported a moment ago.
    pub(crate) fn report_use(&self, pod: &PodRelay, key: PortalKey) {
        if pod.should_report_use(key.address, Instant::now()) {
            // If the channel is full or closed, a later connection reports the use again.
            let _ = self.uses.try_send(PortalUse { netns: pod.id, key });
        }
    }
}

/// A handle to the thread of a worker.
#[derive(Debug)]
pub(crate) struct Worker {
    commands: UnboundedSender<WorkerCommand>,
    _thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(
        number: usize,
        limits: Arc<Limits>,
        pipes_max: usize,
        uses: Sender<PortalUse>,
    ) -> io::Result<Self> {
        let (commands, mut receiver) = unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            let emergency_fd = EmergencyFd::default();
            let buffers = Buffers::new(pipes_max);
            let context = Rc::new(WorkerContext { buffers, limits, emergency_fd, uses });
            // The `LocalSet` drops all connections that are left. Only then the channel is closed, which `join` awaits.
            LocalSet::new().block_on(&runtime, run(context, &mut receiver));
            drop(receiver);
        };
        let thread = thread::Builder::new().name(format!("relay-{number}")).spawn(work)?;
        Ok(Self { commands, _thread: thread })
    }

    /// Sends a command. It has no effect after the worker has stopped.
    pub(crate) fn send(&self, command: WorkerCommand) {
        let _ = self.commands.send(command);
    }

    /// Waits until the worker has stopped.
    pub(crate) async fn join(&self) {
        self.commands.closed().await;
    }
}

async fn run(context: Rc<WorkerContext>, commands: &mut UnboundedReceiver<WorkerCommand>) {
    let (shutdown_sender, shutdown) = watch::channel(false);
    let mut tasks: HashMap<NetnsId, JoinSet<()>> = HashMap::new();
    loop {
        let is_shutting_down = *shutdown.borrow();
        let command = tokio::select! {
            command = commands.recv() => command,
            () = join_all(&mut tasks), if is_shutting_down => return,
        };
        match command {
            Some(WorkerCommand::OpenNetns(..)) if is_shutting_down => {}
            Some(WorkerCommand::OpenNetns(pod, ListenerSockets { streams, datagram })) => {
                let tasks = tasks.entry(pod.id).or_default();
                let shared = || (Rc::clone(&context), Arc::clone(&pod));
                if let Some(datagram) = datagram {
                    let (context, pod) = shared();
                    tasks.spawn_local(udp_listener::listen(context, pod, datagram, shutdown.clone()));
                }
                for stream in streams {
                    let (context, pod) = shared();
                    tasks.spawn_local(listen(context, pod, stream, shutdown.clone()));
                }
            }
            Some(WorkerCommand::CloseNetns(netns)) => drop(tasks.remove(&netns)),
            Some(WorkerCommand::ShutDown) => drop(shutdown_sender.send(true)),
            Some(WorkerCommand::Abort) | None => return,
        }
    }
}

async fn join_all(tasks: &mut HashMap<NetnsId, JoinSet<()>>) {
    for tasks in tasks.values_mut() {
        while tasks.join_next().await.is_some() {}
    }
}

/// Accepts connections until the shutdown begins, and then waits for the last one to end.
async fn listen(
    context: Rc<WorkerContext>,
    pod: Arc<PodRelay>,
    socket: OwnedFd,
    mut shutdown: watch::Receiver<bool>,
) {
    let Ok(listener) = TcpListener::from_std(socket.into()) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    connections.spawn_local(serve(Rc::clone(&context), Arc::clone(&pod), client, peer));
                }
                Err(error) => on_accept_error(&context, &listener, &error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = shutdown.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Resets the first pending connection if no file descriptor or memory is left, so that its client does not wait.
async fn on_accept_error(context: &WorkerContext, listener: &TcpListener, error: &io::Error) {
    let errno = Errno::from_io_error(error);
    if !matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) {
        return;
    }
    if context.emergency_fd.reset_pending(listener).await {
        context.limits.count_no_socket();
    } else {
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
