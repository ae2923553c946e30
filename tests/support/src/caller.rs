//! `Caller`: a client that calls the webhook like an API server, over one persistent connection.
//!
//! It writes HTTP itself, so that a test can be slow, malformed or silent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};

/// A TLS connection.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Accepts any certificate. Tests with an API server cover the verification.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate and its key, PEM.
pub struct CertificateAndKey {
    pub certificate: String,
    pub key: String,
}

/// Connects with this server name, optionally with a client certificate, and offers these protocols.
pub fn connect_tls(
    address: SocketAddr,
    name: &str,
    own: Option<&CertificateAndKey>,
    protocols: &[&[u8]],
) -> io::Result<Stream> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_safe_default_protocol_versions().expect("TLS");
    let config =
        config.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)));
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(CertificateAndKey { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            config.with_client_auth_cert(chain, key).expect("a certificate with its key")
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let connection = ClientConnection::new(Arc::new(config), name);
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(connection.expect("a client"), stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// A connection to the webhook.
pub struct Caller(BufReader<Stream>);

impl Caller {
    /// Connects with this server name.
    pub fn new(address: SocketAddr, name: &str) -> io::Result<Self> {
        Self::with_certificate(address, name, None)
    }

    /// Connects with this server name and optionally with a client certificate.
    pub fn with_certificate(
        address: SocketAddr,
        name: &str,
        own: Option<&CertificateAndKey>,
    ) -> io::Result<Self> {
        Ok(Self(BufReader::new(connect_tls(address, name, own, &[])?)))
    }

    /// Connects like an API server on the same machine.
    pub fn local(address: SocketAddr) -> io::Result<Self> {
        Self::new(address, "127.0.0.1")
    }

    /// The certificate of the server.
    pub fn server_certificate(&self) -> Vec<u8> {
        self.0.get_ref().conn.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)?;
        self.0.get_mut().flush()
    }

    /// The head of a request whose body has this length.
    pub fn head(method: &str, path: &str, len: usize) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        )
    }

    /// Sends a request and reads the status, the head and the body of the response.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, String, Vec<u8>)> {
        self.send(&[Self::head(method, path, body.len()).as_bytes(), body].concat())?;
        self.read_response()
    }

    /// Sends a review like the API server, and returns the response, which must have status 200.
    pub fn review(&mut self, body: &[u8]) -> io::Result<Value> {
        let (status, head, body) = self.request("POST", "/mutate?timeout=10s", body)?;
        assert_eq!(status, 200, "{head}{}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body).expect("JSON"))
    }

    /// Reads the next response.
    pub fn read_response(&mut self) -> io::Result<(u16, String, Vec<u8>)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let len = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; len.unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        Ok((status, head, body))
    }

    /// Waits until the server closes the connection.
    pub fn wait_until_closed(&mut self) {
        let _ = self.0.get_mut().sock.set_read_timeout(Some(Duration::from_secs(60)));
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}
