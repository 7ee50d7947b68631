//! TLS: a client certificate is asked for, not required, and judged by the server itself.
//!
//! As kube-apiserver does, so that a missing one means anonymous (403) and a foreign or expired one means 401.

use std::sync::Arc;

use anyhow::Context;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::identity::User;
use crate::pki::Pki;

/// The server's side of TLS.
pub struct Tls {
    /// For the acceptor.
    pub config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What a client showed.
#[derive(Debug, Clone)]
pub enum Certificate {
    /// Nothing.
    Absent,
    /// One that this CA signed and that is in time.
    Valid(User),
    /// Any other.
    Invalid,
}

impl Tls {
    /// From the cluster's certificates.
    pub fn new(pki: &Pki) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in pki.ca_chain()? {
            roots.add(certificate).context("the cluster CA's certificate is not usable")?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .context("the cluster CA cannot verify clients")?;
        let (chain, key) = pki.server_identity()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AskOnly(verifier.clone())))
            .with_single_cert(chain, key)
            .context("the server's certificate and key do not fit")?;
        Ok(Self { config: Arc::new(config), verifier })
    }

    /// Judges the certificates of a connection.
    pub fn judge(&self, chain: Option<&[CertificateDer<'static>]>) -> Certificate {
        let Some((leaf, intermediates)) = chain.and_then(<[_]>::split_first) else {
            return Certificate::Absent;
        };
        let verified = self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok();
        match User::from_certificate(leaf).filter(|_| verified) {
            Some(user) => Certificate::Valid(user),
            None => Certificate::Invalid,
        }
    }
}

/// Lets every certificate through the handshake, once the client has proven that it holds the key.
#[derive(Debug)]
struct AskOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
