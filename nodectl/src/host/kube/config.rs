//! A kubeconfig file and what it comes to: the server, how to trust it, and the credentials, read anew each time since they
//! rotate. The fields and their precedence are client-go's (tools/clientcmd).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::host::files;

/// What a context of a kubeconfig comes to. It has no `Debug`: it holds secrets.
pub(super) struct Settings {
    /// URL of the server with no slash at its end.
    pub server: String,
    /// Name to verify the server's certificate by, where it differs from the URL's.
    pub server_name: Option<String>,
    /// URL of a proxy.
    pub proxy: Option<String>,
    /// Certificate authorities in PEM; `None` means the system's.
    pub authority: Option<Vec<u8>>,
    /// The server's certificate is not verified.
    pub insecure: bool,
    /// Client certificate chain and key in PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// Value of the Authorization header.
    pub authorization: Option<String>,
    /// Every file that this was read from.
    pub files: Vec<Stamp>,
    /// Command that gives credentials, if nothing else does.
    pub exec: Option<Exec>,
    /// Impersonation headers.
    pub headers: Vec<(String, String)>,
    /// The context's cluster as given to an exec plugin that asks for it.
    pub cluster_info: serde_json::Value,
}

/// Where a kubeconfig lies, and below which root the paths in it are.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub path: PathBuf,
    pub context: Option<String>,
    pub root: PathBuf,
}

/// A file as it was when it was read, by what a replacement cannot share with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    found: Option<(u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: PathBuf) -> Stamp {
        Stamp { found: identity(&path), path }
    }

    /// Whether another file lies there now. One that is away may be in the middle of a rotation: what was read still holds.
    pub fn is_outdated(&self) -> bool {
        identity(&self.path).is_some_and(|now| Some(now) != self.found)
    }
}

fn identity(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// A file is missing or does not fit another one, which may be a rotation caught half way.
#[derive(Debug)]
pub(super) struct Unsettled(pub String);

impl std::fmt::Display for Unsettled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsettled {}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    clusters: Option<Vec<Named>>,
    users: Option<Vec<Named>>,
    contexts: Option<Vec<Named>>,
    #[serde(rename = "current-context")]
    current_context: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    cluster: Option<Cluster>,
    user: Option<User>,
    context: Option<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    cluster: String,
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: Option<String>,
    tls_server_name: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
    as_uid: Option<String>,
    as_groups: Option<Vec<String>>,
    as_user_extra: Option<BTreeMap<String, Vec<String>>>,
    exec: Option<Exec>,
    auth_provider: Option<serde_json::Value>,
}

/// An exec credential plugin (client.authentication.k8s.io).
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exec {
    pub api_version: String,
    pub command: String,
    pub args: Option<Vec<String>>,
    pub env: Option<Vec<ExecVariable>>,
    #[serde(default)]
    pub provide_cluster_info: bool,
    pub interactive_mode: Option<String>,
}

/// A variable for an exec credential plugin.
#[derive(Deserialize, Clone)]
pub(super) struct ExecVariable {
    pub name: String,
    pub value: String,
}

impl Source {
    /// Reads the file and everything it points to.
    pub fn load(&self) -> Result<Settings> {
        let shown = self.path.display();
        let own = Stamp::of(self.path.clone());
        let text = files::read_text_optional(&self.path)?.with_context(|| format!("there is no kubeconfig {shown}"))?;
        // Where, but not what: the parser's own words quote what it met, and that may be a token.
        let file: File = yaml_serde::from_str(&text).map_err(|e| match e.location() {
            Some(at) => {
                anyhow!("the kubeconfig {shown} does not parse: see line {}, column {}", at.line(), at.column())
            }
            None => anyhow!("the kubeconfig {shown} does not parse"),
        })?;
        let mut settings = self.settle(file).with_context(|| format!("the kubeconfig {shown} cannot be used"))?;
        settings.files.push(own);
        Ok(settings)
    }

    fn settle(&self, file: File) -> Result<Settings> {
        let wanted = self.context.clone().or(file.current_context).filter(|c| !c.is_empty());
        let wanted = wanted.context("it names no current context")?;
        let context = find(file.contexts, &wanted).and_then(|c| c.context);
        let context = context.with_context(|| format!("it has no context {wanted:?}"))?;
        let cluster = find(file.clusters, &context.cluster).and_then(|c| c.cluster);
        let cluster = cluster.with_context(|| format!("it has no cluster {:?}", context.cluster))?;
        let user = match context.user.filter(|u| !u.is_empty()) {
            Some(name) => {
                find(file.users, &name).with_context(|| format!("it has no user {name:?}"))?.user.unwrap_or_default()
            }
            None => User::default(),
        };
        self.combine(cluster, user)
    }

    fn combine(&self, cluster: Cluster, user: User) -> Result<Settings> {
        // Before they are read: what changes meanwhile is read again.
        let named = [&cluster.certificate_authority, &user.client_certificate, &user.client_key, &user.token_file];
        let files = named.into_iter().flatten().filter(|p| !p.as_os_str().is_empty());
        let files = files.map(|p| Stamp::of(self.resolve(p))).collect();
        let authority = self.bytes(
            "certificate-authority",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        if cluster.insecure_skip_tls_verify && authority.is_some() {
            bail!("it has both insecure-skip-tls-verify and a certificate authority");
        }
        let certificate = self.certificate(&user)?;
        let authorization = self.authorization(&user)?;
        if user.auth_provider.is_some() && authorization.is_none() && certificate.is_none() {
            bail!(
                "its user has an auth-provider, which Kubernetes removed in 1.26. To fix it: use an exec plugin, a token or a client certificate"
            );
        }
        let secure = authority.is_some() || cluster.insecure_skip_tls_verify || certificate.is_some();
        let server = server_url(cluster.server.as_deref().unwrap_or_default(), secure)?;
        let exec = user.exec.clone().filter(|_| authorization.is_none() && certificate.is_none());
        Ok(Settings {
            cluster_info: cluster_info(&server, &cluster, authority.as_deref()),
            server,
            server_name: cluster.tls_server_name.filter(|n| !n.is_empty()),
            proxy: cluster.proxy_url.filter(|p| !p.is_empty()),
            authority,
            insecure: cluster.insecure_skip_tls_verify,
            certificate,
            authorization,
            files,
            exec: exec.map(|e| self.locate(e)),
            headers: impersonation(&user),
        })
    }

    fn certificate(&self, user: &User) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let certificate = self.bytes(
            "client-certificate",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = self.bytes("client-key", user.client_key_data.as_deref(), user.client_key.as_deref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => bail!("its user has a client-certificate but no client-key"),
            (None, Some(_)) => bail!("its user has a client-key but no client-certificate"),
        }
    }

    fn authorization(&self, user: &User) -> Result<Option<String>> {
        let given = user.token.clone().filter(|t| !t.is_empty());
        let token = match &user.token_file {
            // The file wins: it is the one that is kept fresh.
            Some(path) => match files::read_text_optional(&self.resolve(path))? {
                Some(text) => Some(text.trim().to_owned()),
                None if given.is_some() => given,
                None => bail!("its tokenFile {} is not there", path.display()),
            },
            None => given,
        };
        let basic = user.username.as_deref().filter(|name| !name.is_empty());
        match (token, basic) {
            (Some(_), Some(_)) => bail!("its user has both a token and a user name"),
            (Some(token), None) => Ok(Some(format!("Bearer {token}"))),
            (None, Some(name)) => {
                let password = user.password.as_deref().unwrap_or_default();
                Ok(Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))))
            }
            (None, None) => Ok(None),
        }
    }

    /// Inline data, which wins, or the contents of a file.
    fn bytes(&self, what: &str, data: Option<&str>, path: Option<&Path>) -> Result<Option<Vec<u8>>> {
        if let Some(data) = data.filter(|d| !d.trim().is_empty()) {
            let compact: String = data.split_whitespace().collect();
            let bytes = STANDARD.decode(compact);
            return Ok(Some(bytes.with_context(|| format!("its {what}-data is not base64"))?));
        }
        let Some(path) = path.filter(|p| !p.as_os_str().is_empty()) else { return Ok(None) };
        match files::read_optional(&self.resolve(path))? {
            Some(bytes) => Ok(Some(bytes)),
            None => bail!(Unsettled(format!("its {what} {} is not there", path.display()))),
        }
    }

    fn locate(&self, mut exec: Exec) -> Exec {
        if exec.command.contains('/') && !exec.command.starts_with('/') {
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            exec.command = directory.join(&exec.command).to_string_lossy().into_owned();
        }
        exec
    }

    /// Relative paths are relative to the kubeconfig, absolute ones to the node's root.
    fn resolve(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(inside) => self.root.join(inside),
            Err(_) => self.path.parent().unwrap_or(Path::new("/")).join(path),
        }
    }
}

fn find(list: Option<Vec<Named>>, name: &str) -> Option<Named> {
    list.unwrap_or_default().into_iter().find(|entry| entry.name == name)
}

fn cluster_info(server: &str, cluster: &Cluster, authority: Option<&[u8]>) -> serde_json::Value {
    let mut info = serde_json::json!({"server": server});
    if let Some(name) = &cluster.tls_server_name {
        info["tls-server-name"] = name.as_str().into();
    }
    if let Some(pem) = authority {
        info["certificate-authority-data"] = STANDARD.encode(pem).into();
    }
    if cluster.insecure_skip_tls_verify {
        info["insecure-skip-tls-verify"] = true.into();
    }
    info
}

fn impersonation(user: &User) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    if let Some(name) = user.impersonate.as_deref().filter(|n| !n.is_empty()) {
        add("Impersonate-User", name);
    }
    if let Some(uid) = user.as_uid.as_deref().filter(|u| !u.is_empty()) {
        add("Impersonate-Uid", uid);
    }
    for group in user.as_groups.iter().flatten() {
        add("Impersonate-Group", group);
    }
    for (key, values) in user.as_user_extra.iter().flatten() {
        for value in values {
            add(&format!("Impersonate-Extra-{}", super::http::encode(key)), value);
        }
    }
    headers
}

/// The server's URL in a form that a URL parser takes: with a scheme, without query, fragment and slash at the end, and
/// without the brackets that older installers of Calico put round an IPv4 address.
fn server_url(text: &str, secure: bool) -> Result<String> {
    let text = text.trim();
    if text.is_empty() {
        bail!("its cluster has no server");
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => bail!("its server has the scheme {scheme:?}, which is neither http nor https"),
        None => (if secure { "https" } else { "http" }, text),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if authority.is_empty() || authority.contains('@') {
        bail!("its server names no host, or a user");
    }
    let authority = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, port)) if host.parse::<std::net::Ipv4Addr>().is_ok() => format!("{host}{port}"),
        _ => authority.to_owned(),
    };
    Ok(format!("{scheme}://{authority}{path}"))
}

#[cfg(test)]
mod tests {
    use super::server_url;

    #[test]
    fn servers_take_the_forms_found_in_the_field() {
        for (given, secure, wanted) in [
            ("https://10.0.0.1:6443/", true, "https://10.0.0.1:6443"),
            ("https://[10.96.0.1]:443", true, "https://10.96.0.1:443"),
            ("https://[fd00::1]:6443", true, "https://[fd00::1]:6443"),
            ("api.example:6443", true, "https://api.example:6443"),
            ("localhost:8080", false, "http://localhost:8080"),
            ("https://rancher/k8s/clusters/c-1?x=y#z", true, "https://rancher/k8s/clusters/c-1"),
        ] {
            assert_eq!(server_url(given, secure).expect(given), wanted);
        }
        for bad in ["", "ftp://x", "https://user@host", "https:///path"] {
            assert!(server_url(bad, true).is_err(), "{bad}");
        }
    }
}
