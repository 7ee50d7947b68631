//! TLS: which servers to trust and what certificate to show.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::config::{Settings, Unsettled};

/// Where distributions keep their bundle of certificate authorities, for a kubeconfig that names none.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Makes the client's configuration, and makes sure that ureq can use it.
pub(super) fn build(settings: &Settings, certificate: Option<&(Vec<u8>, Vec<u8>)>) -> Result<TlsConfig> {
    let roots = if settings.insecure { Vec::new() } else { authorities(settings)? };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut builder = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .disable_verification(settings.insecure)
        .root_certs(RootCerts::new_with_certs(
            &roots.iter().map(|c| Certificate::from_der(c.as_ref()).to_owned()).collect::<Vec<_>>(),
        ));
    if let Some((chain, key)) = certificate {
        let chain = identity(chain, key)?;
        let chain: Vec<_> = chain.iter().map(|c| Certificate::from_der(c.as_ref()).to_owned()).collect();
        let key = PrivateKey::from_pem(key).context("the client key cannot be used")?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(builder.build())
}

/// The subject's common name and organisations of a client certificate, e.g. `system:node:n1`.
pub(super) fn common_name(chain: &[u8]) -> Option<String> {
    let leaf = CertificateDer::pem_slice_iter(chain).next()?.ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

fn authorities(settings: &Settings) -> Result<Vec<CertificateDer<'static>>> {
    let pem = match &settings.authority {
        Some(pem) => pem.clone(),
        None if settings.server.starts_with("http:") => return Ok(Vec::new()),
        None => SYSTEM_BUNDLES
            .iter()
            .find_map(|path| crate::host::files::read_optional(Path::new(path)).ok()?)
            .context("the kubeconfig names no certificate authority, and this system has no bundle of them")?,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    // ureq leaves out what does not parse without a word, and would then trust nobody.
    let mut store = rustls::RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        bail!("the kubeconfig's certificate authority holds no certificate that can be used");
    }
    Ok(certificates)
}

/// The certificates of a chain, once it is certain that they and the key are of use. PEM is split by block type: kubelet
/// keeps its certificate and its key in one file.
fn identity(chain: &[u8], key: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).filter_map(Result::ok).collect();
    if chain.is_empty() {
        bail!("the client certificate holds no certificate in PEM");
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| anyhow!(key_problem(key)))?;
    // ureq would panic on what rustls refuses here: a key that is of another certificate (a rotation caught half way), or a
    // certificate of X.509 version 1.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .context("TLS cannot be set up")?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(chain.clone(), key)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                Unsettled("the client key does not belong to the client certificate".to_owned()).into()
            }
            other => anyhow!("the client certificate and key cannot be used: {other}"),
        })?;
    Ok(chain)
}

fn key_problem(pem: &[u8]) -> &'static str {
    let encrypted = String::from_utf8_lossy(pem).contains("ENCRYPTED");
    match <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).next() {
        _ if encrypted => "the client key is encrypted. To fix it: give one without a passphrase",
        Some(Ok(_)) => "the client key's PEM holds no private key of a known kind",
        _ => "the client key is not PEM",
    }
}
