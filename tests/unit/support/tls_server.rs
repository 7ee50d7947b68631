//! A small HTTPS server whose answers a test writes down, with the certificates that go with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub sec1_key: String,
}

/// A request as the server saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Common name of the client's certificate.
    pub client: Option<String>,
}

/// What the server answers: status, extra header lines, body. Status 0 closes the connection without an answer.
pub type Answer = (u16, Vec<String>, String);

/// A running server; its threads end with the test's process.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, common_name: &str, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let sec1_key = pem("EC PRIVATE KEY", &sec1(&key.serialize_der()));
        Identity { certificate, key: key.serialize_pem(), sec1_key }
    }
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

impl Server {
    /// Starts a server on 127.0.0.1 that answers the n-th request, counted from 0, as `answer` says.
    pub fn start(
        authority: &Authority,
        name: &str,
        answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Server {
        Server::start_on("127.0.0.1:0", authority, name, answer)
    }

    /// The same, on another address.
    pub fn start_on(
        address: &str,
        authority: &Authority,
        name: &str,
        answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let identity = authority.issue("server", &[name]);
        let config = Arc::new(server_config(authority, &identity));
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, log, answer) = (Arc::clone(&config), Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, config, &log, &*answer));
            }
        });
        Server { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

/// Writes a kubeconfig with this cluster entry and user entry (in JSON, which is YAML too).
pub fn kubeconfig(directory: &Path, cluster: serde_json::Value, user: serde_json::Value) -> PathBuf {
    let path = directory.join("kubeconfig");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "it",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

pub fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

pub fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code,
    });
    (code, Vec::new(), body.to_string())
}

pub fn ok(body: serde_json::Value) -> Answer {
    (200, Vec::new(), body.to_string())
}

fn server_config(authority: &Authority, identity: &Identity) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    // kube-apiserver too asks for a certificate and does not insist.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap())
        .unwrap()
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    log: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(usize, &Seen) -> Answer + Send + Sync),
) {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream));
    while let Some(seen) = read_request(&mut stream) {
        let number = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        let (code, headers, body) = answer(number, &seen);
        if code == 0 {
            return;
        }
        let mut head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n", body.len());
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        let text = format!("{head}\r\n{body}");
        if stream.get_mut().write_all(text.as_bytes()).and_then(|()| stream.get_mut().flush()).is_err() {
            return;
        }
    }
}

fn read_request(stream: &mut BufReader<StreamOwned<ServerConnection, TcpStream>>) -> Option<Seen> {
    let mut seen = Seen::default();
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    (seen.method, seen.target) = (words.next()?.to_owned(), words.next()?.to_owned());
    loop {
        line.clear();
        stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = seen.header("content-length").map_or(0, |v| v.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).unwrap();
    let chain = stream.get_ref().conn.peer_certificates();
    seen.client = chain.map(|chain| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    });
    Some(seen)
}

/// The ECPrivateKey (SEC1) inside a PKCS#8 key: the octet string after version and algorithm.
fn sec1(pkcs8: &[u8]) -> Vec<u8> {
    fn value(der: &[u8]) -> (&[u8], &[u8]) {
        let (start, length) = match der[1] {
            short @ 0..=0x7f => (2, usize::from(short)),
            0x81 => (3, usize::from(der[2])),
            _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        };
        der[start..].split_at(length)
    }
    let (_version, rest) = value(value(pkcs8).0);
    let (_algorithm, rest) = value(rest);
    value(rest).0.to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}
