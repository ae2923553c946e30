//! A request to any server, and its complete response.

use std::path::Path;

use http::Request;
use http_body_util::BodyExt;
use kube_source::client;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// A response of a server.
#[derive(Debug, Clone)]
pub struct ApiResponse {
    pub status: u16,
    /// The texts of its Warning headers.
    pub warnings: Vec<String>,
    pub object: Value,
}

/// Sends requests over persistent connections.
pub struct Sender {
    /// Boxed, since the type of the client is private to another crate.
    ask: Box<dyn Fn(Request<Vec<u8>>) -> ApiResponse + Send>,
}

impl Sender {
    pub fn new(kubeconfig: &Path) -> Self {
        let runtime: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(client(Some(kubeconfig))).expect("a client for the kubeconfig");
        let ask = move |request: Request<Vec<u8>>| {
            runtime.block_on(async {
                let response = client.send(request.map(Into::into)).await.expect("a response");
                let (head, body) = response.into_parts();
                let warnings = head.headers.get_all("Warning").iter();
                let warnings =
                    warnings.filter_map(|value| value.to_str().ok()?.split('"').nth(1)).map(str::to_owned);
                let warnings = warnings.collect();
                let body = body.collect().await.expect("a complete response").to_bytes();
                let object = serde_json::from_slice(&body).unwrap_or(Value::Null);
                ApiResponse { status: head.status.as_u16(), warnings, object }
            })
        };
        Self { ask: Box::new(ask) }
    }

    pub fn send(&self, method: &str, path: &str, content_type: &str, object: &Value) -> ApiResponse {
        let body = if object.is_null() { Vec::new() } else { object.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("Content-Type", content_type);
        (self.ask)(request.body(body).expect("a request"))
    }
}

/// Sends one request, from any thread.
pub fn send(kubeconfig: &Path, method: &str, path: &str, content_type: &str, object: &Value) -> ApiResponse {
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| Sender::new(kubeconfig).send(method, path, content_type, object));
        sent.join().expect("a response")
    })
}
