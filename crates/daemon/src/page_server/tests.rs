//! Requests of honest and of hostile clients over loopback.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct OnePage;

impl Pages for OnePage {
    async fn page(&self, path: &str) -> Option<Page> {
        (path == "/page").then(|| Page::line(StatusCode::OK, "text"))
    }
}

const LIMITS: ConnectionLimits = ConnectionLimits { total: 8, of_a_peer: 4 };

/// Starts a server, and returns its address.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve_pages(listener, PageConnections::new(LIMITS), Arc::new(OnePage)));
    address
}

/// Sends these bytes, and returns all that the server sends until it closes the connection.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    // The server can close the connection before it has read everything.
    let _ = stream.write_all(request).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8(response).expect("text")
}

#[tokio::test]
async fn page_has_its_status_headers_and_body_and_ends_the_connection() {
    let address = server().await;
    let response = exchange(address, b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(
        response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\ntext\n"),
        "{response}"
    );
    for header in ["content-type: text/plain; charset=utf-8", "x-content-type-options: nosniff"] {
        assert!(response.contains(header), "{response}");
    }
}

#[tokio::test]
async fn unknown_paths_and_other_methods_are_refused() {
    let address = server().await;
    let unknown = exchange(address, b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    let post = exchange(address, b"POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
}

#[tokio::test]
async fn request_with_too_long_a_head_is_refused() {
    let address = server().await;
    let request = format!("GET /page HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
    let response = exchange(address, request.as_bytes()).await;
    assert!(!response.contains("200 OK"), "{response}");
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_out() {
    let address = server().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.expect("connect"));
    }
    let response = exchange(address, b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    // The oldest connections of the peer were closed.
    let mut first = [0];
    assert!(matches!(silent[0].read(&mut first).await, Ok(0) | Err(_)));
}

#[tokio::test(start_paused = true)]
async fn silent_client_is_disconnected_after_the_timeout() {
    let address = server().await;
    let mut silent = TcpStream::connect(address).await.expect("connect");
    let start = tokio::time::Instant::now();
    let mut first = [0];
    assert!(matches!(silent.read(&mut first).await, Ok(0) | Err(_)));
    assert!((HEAD_TIMEOUT..=CONNECTION_TIMEOUT).contains(&start.elapsed()), "{:?}", start.elapsed());
}
