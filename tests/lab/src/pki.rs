//! Keys, certificates and kubeconfig files of a lab cluster.

use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Names and addresses that the API server answers for.
const SERVER_NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
const SERVER_ADDRESSES: &[[u8; 4]] = &[[127, 0, 0, 1], [192, 168, 77, 254], [10, 96, 0, 1]];

/// The certificates of a cluster, kept in one directory.
#[derive(Debug, Clone)]
pub struct Pki {
    directory: PathBuf,
}

/// A client's certificate and key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The key, PEM: SEC1 ("EC PRIVATE KEY"), as the kubelet keeps it.
    pub key: String,
}

impl Identity {
    /// Certificate, then key: the kubelet's `kubelet-client-current.pem`.
    pub fn one_file(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

impl Pki {
    /// The certificates in a directory; makes them if they are not there.
    pub fn open_or_create(directory: &Path) -> anyhow::Result<Self> {
        let pki = Self { directory: directory.to_path_buf() };
        if !pki.path("ca.crt").exists() {
            pki.create().with_context(|| format!("making certificates in {}", directory.display()))?;
        }
        Ok(pki)
    }

    /// Path of a file: ca.crt, ca.key, apiserver.crt, apiserver.key.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The CA certificate, PEM.
    pub fn ca(&self) -> anyhow::Result<String> {
        self.read("ca.crt")
    }

    /// The CA certificate, DER.
    pub fn ca_chain(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        certificates(&self.read("ca.crt")?)
    }

    /// The API server's certificate and key.
    pub fn server_identity(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let key = PrivateKeyDer::from_pem_slice(self.read("apiserver.key")?.as_bytes())
            .context("apiserver.key holds no private key")?;
        Ok((certificates(&self.read("apiserver.crt")?)?, key))
    }

    /// A secret for signing tokens.
    pub fn token_secret(&self) -> anyhow::Result<Vec<u8>> {
        Ok(Sha256::digest(self.read("ca.key")?).to_vec())
    }

    /// The files with the key that a real kube-apiserver signs tokens with: private, public. Made when first asked for.
    pub fn account_key(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        let files = (self.path("sa.key"), self.path("sa.pub"));
        if !files.1.exists() {
            let key = KeyPair::generate()?;
            self.write("sa.key", &key.serialize_pem())?;
            self.write("sa.pub", &key.public_key_pem())?;
        }
        Ok(files)
    }

    /// A client certificate for a user in groups, valid from an hour ago for `hours`; negative: expired already.
    pub fn client(&self, user: &str, groups: &[&str], hours: i64) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = self.params(hours)?;
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        Ok(Identity { certificate: certificate.pem(), key: sec1_pem(&key)? })
    }

    /// A kubelet's certificate.
    pub fn node(&self, name: &str) -> anyhow::Result<Identity> {
        self.client(&format!("system:node:{name}"), &["system:nodes"], 24 * 365)
    }

    /// The administrator's.
    pub fn admin(&self) -> anyhow::Result<Identity> {
        self.client("kubernetes-admin", &["system:masters"], 24 * 365)
    }

    /// The kubeconfig of an administrator, with everything inline, as kubeadm writes admin.conf.
    pub fn admin_kubeconfig(&self, server: &str) -> anyhow::Result<String> {
        self.inline_kubeconfig(server, "kubernetes-admin", &self.admin()?)
    }

    /// A kubeconfig with certificate and key inline.
    pub fn inline_kubeconfig(&self, server: &str, user: &str, identity: &Identity) -> anyhow::Result<String> {
        let data = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let cluster = json!({"server": server, "certificate-authority-data": data(&self.ca()?)});
        let credentials =
            json!({"client-certificate-data": data(&identity.certificate), "client-key-data": data(&identity.key)});
        kubeconfig("kubernetes", cluster, user, credentials)
    }

    /// The kubeconfig of a ServiceAccount, as Calico's installer writes it.
    pub fn token_kubeconfig(&self, server: &str, user: &str, token: &str) -> anyhow::Result<String> {
        let ca = base64::engine::general_purpose::STANDARD.encode(self.ca()?);
        kubeconfig("local", json!({"server": server, "certificate-authority-data": ca}), user, json!({"token": token}))
    }

    fn create(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        std::fs::set_permissions(&self.directory, std::fs::Permissions::from_mode(0o700))?;
        let key = KeyPair::generate()?;
        let ca = self.ca_params()?.self_signed(&key)?;
        self.write("ca.key", &key.serialize_pem())?;
        let server_key = KeyPair::generate()?;
        let server = self.server_params()?.signed_by(&server_key, &Issuer::new(self.ca_params()?, &key))?;
        self.write("apiserver.key", &server_key.serialize_pem())?;
        self.write("apiserver.crt", &server.pem())?;
        self.write("ca.crt", &ca.pem())
    }

    /// Also describes the CA to certificates that it signs later: only name and usages matter for that.
    fn ca_params(&self) -> anyhow::Result<CertificateParams> {
        let mut params = self.params(24 * 3650)?;
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        Ok(params)
    }

    fn server_params(&self) -> anyhow::Result<CertificateParams> {
        let mut params = self.params(24 * 365)?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        for name in SERVER_NAMES {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        for address in SERVER_ADDRESSES {
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::from(*address)));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(params)
    }

    fn params(&self, hours: i64) -> anyhow::Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Kubernetes' own certificates start a little in the past too: clocks differ.
        let now = std::time::SystemTime::now();
        let hour = std::time::Duration::from_secs(3600);
        let end = if hours < 0 { now - hour / 2 } else { now + hour * u32::try_from(hours)? };
        params.not_before = (now - hour).into();
        params.not_after = end.into();
        let serial = Sha256::digest(KeyPair::generate()?.public_key_raw());
        params.serial_number = Some(SerialNumber::from_slice(&serial[..8]));
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn issuer(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        Ok(Issuer::new(self.ca_params()?, KeyPair::from_pem(&self.read("ca.key")?)?))
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        use std::io::Write;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(self.path(name))?;
        Ok(file.write_all(text.as_bytes())?)
    }
}

/// The kubelet's kubeconfig, with paths, as its TLS bootstrap writes it: one file holds certificate and key.
pub fn kubelet_kubeconfig(server: &str, ca_path: &str, pem_path: &str) -> anyhow::Result<String> {
    let cluster = json!({"certificate-authority": ca_path, "server": server});
    let credentials = json!({"client-certificate": pem_path, "client-key": pem_path});
    kubeconfig("default-cluster", cluster, "default-auth", credentials)
}

fn kubeconfig(cluster_name: &str, cluster: Value, user: &str, credentials: Value) -> anyhow::Result<String> {
    let context = if cluster_name == "default-cluster" {
        "default-context".to_string()
    } else {
        format!("{user}@{cluster_name}")
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster_name, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": cluster_name, "user": user, "namespace": "default"}}],
        "current-context": context,
        "preferences": {},
    });
    Ok(yaml_serde::to_string(&config)?)
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.context("not a PEM certificate")?;
    if found.is_empty() {
        bail!("no certificate in the PEM file");
    }
    Ok(found)
}

/// A P-256 key as RFC 5915 has it. The form inside PKCS#8 leaves out the curve, which OpenSSL and Go need here.
fn sec1_pem(key: &KeyPair) -> anyhow::Result<String> {
    const BEFORE_SECRET: &[u8] = &[0x02, 0x01, 0x01, 0x04, 0x20];
    let pkcs8 = key.serialized_der();
    let at = pkcs8.windows(BEFORE_SECRET.len()).position(|window| window == BEFORE_SECRET);
    let start = at.context("the generated key is not a P-256 key")? + BEFORE_SECRET.len();
    let secret = pkcs8.get(start..start + 32).context("the generated key is too short")?;
    let mut der = vec![0x30, 0x77];
    der.extend_from_slice(BEFORE_SECRET);
    der.extend_from_slice(secret);
    der.extend_from_slice(&[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    der.extend_from_slice(&[0xa1, 0x44, 0x03, 0x42, 0x00]);
    der.extend_from_slice(key.public_key_raw());
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Ok(format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n")))
}
