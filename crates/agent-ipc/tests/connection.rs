//! Clients and the agent on a real socket: messages arrive unchanged, and anything else that a peer sends or fails to
//! send is rejected in time, with a reply that states the reason.

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use agent_ipc::{
    Attachment, AttachmentKey, Listener, MESSAGE_BYTES_MAX, Message, MessageError, PodName, ReceiveError,
    Reply, Request, RequestError, VERSION, send_request,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};
use test_support::temp_dir::TempDir;

/// No operation of these tests takes this long.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A wait that is expected to time out.
const SHORT: Duration = Duration::from_millis(50);

fn key() -> AttachmentKey {
    AttachmentKey { network: "net".into(), container_id: "c1".into(), interface: "eth0".into() }
}

fn attachment() -> Attachment {
    Attachment {
        key: key(),
        netns: "/run/netns/a".into(),
        pod: None,
        addresses: ["10.1.0.5", "fd00::5"].map(|address| address.parse().expect("an address")).into(),
        annotations: [("services".to_owned(), "a,b".to_owned())].into(),
        dns: None,
        notes: vec!["a note".to_owned()],
    }
}

/// What the agent receives on a connection whose peer runs this function.
fn receive_from(
    test: &str,
    peer: impl FnOnce(OwnedFd) + Send,
    timeout: Duration,
) -> Result<(Message<Request>, Option<OwnedFd>), ReceiveError> {
    let dir = TempDir::new(test);
    let listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
            let socket = socket.expect("a socket");
            connect(&socket, &SocketAddrUnix::new(dir.join("agent.sock")).expect("a short path"))
                .expect("connect");
            peer(socket);
        });
        let connection = listener.accept().expect("accept");
        let received = connection.receive(timeout);
        drop(connection);
        peer.join().expect("the peer does not panic");
        received
    })
}

fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).expect("send");
}

fn receive_reply(socket: &OwnedFd) -> Reply {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let (length, _) = recv(socket, &mut bytes[..], RecvFlags::empty()).expect("a reply");
    serde_json::from_slice::<Message<Reply>>(&bytes[..length]).expect("a reply is JSON").body
}

/// Sends bytes with file descriptors; the agent rejects them, and its reply contains these words.
#[track_caller]
fn assert_refused(test: &str, bytes: &[u8], descriptors: usize, words: &str) {
    let peer = |socket: OwnedFd| {
        let file = File::open("/dev/null").expect("open");
        send(&socket, bytes, &vec![file.as_fd(); descriptors]);
        match receive_reply(&socket) {
            Reply::Refused { message, transient: false } => assert!(message.contains(words), "{message}"),
            other => panic!("{other:?}"),
        }
    };
    receive_from(test, peer, TIMEOUT).expect_err("rejected");
}

#[test]
fn request_and_reply_arrive_with_their_file_descriptors() {
    let dir = TempDir::new("whole");
    let listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    let netns = File::open("/proc/self/ns/net").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let connection = listener.accept().expect("accept");
            let (message, descriptor) = connection.receive(TIMEOUT).expect("a request");
            assert_eq!(message, Message { version: VERSION, body: Request::Attach(attachment()) });
            let (got, sent) = (File::from(descriptor.unwrap()).metadata(), netns.metadata());
            assert_eq!(got.unwrap().ino(), sent.unwrap().ino());
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(b"everything").unwrap();
            connection.reply(&Reply::File, Some(reader.as_fd())).expect("reply");
        });
        let request = Request::Attach(attachment());
        let (reply, file) =
            send_request(&dir.join("agent.sock"), &request, Some(netns.as_fd()), TIMEOUT).expect("an answer");
        assert_eq!(reply, Reply::File);
        let mut text = String::new();
        File::from(file.expect("a file")).read_to_string(&mut text).unwrap();
        assert_eq!(text, "everything");
    });
}

#[test]
fn requests_of_all_kinds_arrive_unchanged() {
    let requests = [
        Request::Detach { key: key() },
        Request::Gc { network: "net".into(), valid: vec![key()] },
        Request::Ready,
        Request::status(),
        Request::Status { hits: true, pod: Some("default/web".into()) },
    ];
    for request in requests {
        let text = serde_json::to_vec(&Message { version: VERSION, body: request.clone() }).unwrap();
        let (message, descriptor) =
            receive_from("verb", |socket| send(&socket, &text, &[]), TIMEOUT).expect("accepted");
        assert!(message.body == request && descriptor.is_none(), "{message:?}");
    }
}

#[test]
fn messages_have_the_same_form_as_in_0_1_0() {
    let fields = r#""key":{"network":"net","containerId":"c1","interface":"eth0"},"netns":"/run/netns/a","pod":{"namespace":"shop","name":"web-0","uid":"u-1"},"addresses":["10.1.0.5","fd00::5"],"annotations":{"services":"a,b"},"notes":["a note"]"#;
    let pod = PodName { namespace: "shop".into(), name: "web-0".into(), uid: "u-1".into() };
    let attachment = Attachment { pod: Some(pod), ..attachment() };
    let key_text = r#"{"network":"net","containerId":"c1","interface":"eth0"}"#;
    let requests = [
        (format!(r#"{{"version":1,"verb":"attach",{fields}}}"#), Request::Attach(attachment.clone())),
        (format!(r#"{{"version":1,"verb":"check",{fields}}}"#), Request::Check(attachment)),
        (format!(r#"{{"version":1,"verb":"detach","key":{key_text}}}"#), Request::Detach { key: key() }),
        (
            format!(r#"{{"version":1,"verb":"gc","network":"net","valid":[{key_text}]}}"#),
            Request::Gc { network: "net".into(), valid: vec![key()] },
        ),
        (r#"{"version":1,"verb":"ready"}"#.to_owned(), Request::Ready),
        (r#"{"version":1,"verb":"status","hits":false}"#.to_owned(), Request::status()),
        (r#"{"version":1,"verb":"retire"}"#.to_owned(), Request::Handover),
    ];
    for (text, body) in requests {
        let message = Message { version: 1, body };
        assert_eq!(serde_json::from_str::<Message<Request>>(&text).expect("accepted"), message);
        assert_eq!(serde_json::to_string(&message).expect("JSON"), text);
    }
    let refused = Reply::Refused { message: "m".into(), transient: true };
    let replies = [
        (r#"{"version":1,"answer":"done"}"#, Reply::Done),
        (r#"{"version":1,"answer":"refused","message":"m","transient":true}"#, refused),
        (r#"{"version":1,"answer":"file"}"#, Reply::File),
    ];
    for (text, body) in replies {
        let message = Message { version: 1, body };
        assert_eq!(serde_json::from_str::<Message<Reply>>(text).expect("accepted"), message);
        assert_eq!(serde_json::to_string(&message).expect("JSON"), text);
    }
}

#[test]
fn next_version_is_accepted_with_its_additional_fields() {
    let text = format!(r#"{{"version":{},"verb":"ready","newer":[1]}}"#, VERSION + 1);
    let (message, _) =
        receive_from("neighbour", |socket| send(&socket, text.as_bytes(), &[]), TIMEOUT).expect("accepted");
    assert_eq!(message, Message { version: VERSION + 1, body: Request::Ready });
}

#[test]
fn status_request_without_hits_is_the_default_one() {
    let text = format!(r#"{{"version":{VERSION},"verb":"status"}}"#);
    let (message, _) =
        receive_from("plain", |socket| send(&socket, text.as_bytes(), &[]), TIMEOUT).expect("accepted");
    assert_eq!(message.body, Request::status());
}

#[test]
fn unsupported_version_is_rejected_with_both_versions() {
    let text = br#"{"version":9,"verb":"dance"}"#;
    assert_refused("version", text, 0, "unsupported protocol version 9 (supported: 1 to 3)");
}

#[test]
fn reply_of_an_unsupported_version_is_not_an_absent_agent() {
    let dir = TempDir::new("theirs");
    let listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    thread::scope(|scope| {
        scope.spawn(|| {
            let connection = rustix::net::accept(&listener).unwrap();
            recv(&connection, &mut [0; 100][..], RecvFlags::empty()).unwrap();
            send(&connection, br#"{"version":7,"answer":"sung"}"#, &[]);
        });
        let error =
            send_request(&dir.join("agent.sock"), &Request::Ready, None, TIMEOUT).expect_err("not accepted");
        assert!(matches!(error, RequestError::Failed { source: MessageError::Version { theirs: 7 }, .. }));
        assert!(!error.is_agent_down() && !error.is_transient(), "{error:?}");
    });
}

#[test]
fn malformed_message_is_rejected_with_the_reason() {
    assert_refused("json", b"{", 0, "malformed message");
    assert_refused("utf8", b"{\"version\":1,\"verb\":\"\xff\xfe\"}", 0, "malformed message");
    assert_refused("verb-unknown", br#"{"version":1,"verb":"dance"}"#, 0, "malformed message");
    assert_refused("no-version", br#"{"verb":"ready"}"#, 0, "missing field `version`");
    let cut = &serde_json::to_vec(&Message { version: VERSION, body: Request::Ready }).unwrap();
    assert_refused("cut", &cut[..cut.len() - 1], 0, "malformed message");
}

#[test]
fn message_of_64_kib_is_accepted_and_a_larger_one_rejected() {
    let padded = |length: usize| {
        let mut text = br#"{"version":1,"verb":"ready"}"#.to_vec();
        text.resize(length, b' ');
        text
    };
    assert_refused("large", &padded(MESSAGE_BYTES_MAX + 1), 0, "exceeds 65536 bytes");
    let fits = padded(MESSAGE_BYTES_MAX);
    receive_from("fits", |socket| send(&socket, &fits, &[]), TIMEOUT).expect("it fits");
}

#[test]
fn too_large_request_is_not_sent() {
    let dir = TempDir::new("unsent");
    let _listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    let request = Request::Gc { network: "n".into(), valid: vec![key(); 2_000] };
    let error = send_request(&dir.join("agent.sock"), &request, None, TIMEOUT).expect_err("too large");
    assert!(error.is_too_large() && !error.is_transient(), "{error:?}");
}

#[test]
fn attach_request_requires_exactly_one_file_descriptor() {
    let text =
        serde_json::to_vec(&Message { version: VERSION, body: Request::Attach(attachment()) }).unwrap();
    assert_refused("no-descriptor", &text, 0, "request carried no netns file descriptor");
    assert_refused("two-descriptors", &text, 2, "expected at most one file descriptor");
}

#[test]
fn rejected_file_descriptors_are_closed() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let peer = |socket: OwnedFd| {
        send(&socket, b"{}", &[writer.as_fd(), writer.as_fd()]);
        receive_reply(&socket);
        drop(writer);
    };
    receive_from("closed", peer, TIMEOUT).expect_err("two are rejected");
    // The pipe ends once all file descriptors of its other end are closed.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn silent_client_times_out() {
    let start = Instant::now();
    let peer = |socket: OwnedFd| assert!(matches!(receive_reply(&socket), Reply::Refused { .. }));
    let error = receive_from("silent", peer, SHORT).expect_err("timed out");
    assert!(matches!(error, ReceiveError::Message(MessageError::TimedOut)), "{error:?}");
    assert!(start.elapsed() < TIMEOUT);
}

#[test]
fn closed_connection_is_not_a_request() {
    let error = receive_from("gone", drop, TIMEOUT).expect_err("no agent");
    assert!(matches!(error, ReceiveError::Message(MessageError::Closed)), "{error:?}");
}

#[test]
fn silent_agent_times_out() {
    let dir = TempDir::new("slow");
    let _listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    let error = send_request(&dir.join("agent.sock"), &Request::Ready, None, SHORT).expect_err("no answer");
    assert!(matches!(error, RequestError::Failed { source: MessageError::TimedOut, .. }), "{error:?}");
    assert!(error.is_transient() && !error.is_agent_down());
}

#[test]
fn connection_closed_by_the_agent_is_a_transient_error() {
    let dir = TempDir::new("closes");
    let listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    thread::scope(|scope| {
        scope.spawn(|| drop(listener.accept().expect("accept")));
        let error =
            send_request(&dir.join("agent.sock"), &Request::Ready, None, TIMEOUT).expect_err("no answer");
        assert!(matches!(error, RequestError::Failed { source: MessageError::Closed, .. }), "{error:?}");
        assert!(error.is_transient() && !error.is_agent_down());
    });
}

#[test]
fn missing_listener_means_that_the_agent_is_down() {
    let dir = TempDir::new("absent");
    let down = |path: PathBuf| send_request(&path, &Request::Ready, None, TIMEOUT).expect_err("no agent");
    assert!(down(dir.join("agent.sock")).is_agent_down());
    drop(Listener::bind(&dir.join("agent.sock")).expect("listen"));
    assert!(dir.join("agent.sock").exists(), "left by a killed agent");
    assert!(down(dir.join("agent.sock")).is_agent_down());
    assert!(!down(dir.join(&"long".repeat(30))).is_agent_down(), "the path is too long");
}

#[test]
fn socket_of_a_stopped_agent_is_replaced_and_that_of_a_running_one_is_not() {
    let dir = TempDir::new("place");
    let path = dir.join("made/for/it/agent.sock");
    let first = Listener::bind(&path).expect("listen in a new directory");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let error = Listener::bind(&path).expect_err("the first one is running");
    assert!(error.to_string().contains("an agent is already listening on"), "{error}");
    drop(first);
    Listener::bind(&path).expect("the first one has stopped");
}

#[test]
fn file_in_place_of_the_socket_is_kept() {
    let dir = TempDir::new("file");
    fs::write(dir.join("agent.sock"), "precious").unwrap();
    let error = Listener::bind(&dir.join("agent.sock")).expect_err("a file is in the way");
    assert!(error.to_string().contains("is not a socket"), "{error}");
    assert_eq!(fs::read(dir.join("agent.sock")).unwrap(), b"precious");
}
