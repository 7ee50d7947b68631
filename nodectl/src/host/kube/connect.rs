//! How connections to a server come about: ureq's own chain, but for the name that a certificate is verified by.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::unversioned::resolver::{ArrayVec, DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector, SocksConnector, TcpConnector,
    Transport,
};

use super::config::Settings;

/// The links of ureq's default chain, with [`NamedTls`] in the place of its TLS.
pub(super) fn chain(settings: &Settings) -> Result<impl Connector<Out = impl Transport>> {
    let name = settings.server_name.as_deref().map(verified_name).transpose();
    let name = name.context("the kubeconfig's tls-server-name is neither a name nor an address")?;
    let server: Uri = settings.server.parse().context("the kubeconfig's server is not a URL")?;
    let tls = NamedTls { tls: RustlsConnector::default(), server: server.authority().cloned(), name };
    Ok(
        ().chain(SocksConnector::default())
            .chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(tls),
    )
}

/// ureq verifies a server by the URL that it is reached by: so this is one with the other name in it.
fn verified_name(name: &str) -> Result<Uri> {
    let authority = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    Ok(Uri::builder().scheme("https").authority(authority).path_and_query("/").build()?)
}

/// TLS that verifies the server by the kubeconfig's tls-server-name. Everything else (the connection, what a proxy is asked
/// for, the Host header) goes by the server's address, as with client-go.
#[derive(Debug)]
struct NamedTls {
    tls: RustlsConnector,
    server: Option<Authority>,
    name: Option<Uri>,
}

impl<In: Transport> Connector<In> for NamedTls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        // The chain is also run for the proxy's own URL, whose certificate has the proxy's name.
        let name = self.name.as_ref().filter(|_| details.uri.authority() == self.server.as_ref());
        let Some(uri) = name else { return self.tls.connect(details, chained) };
        let named = ConnectionDetails {
            uri,
            addrs: details.resolver.empty(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.tls.connect(&named, chained)
    }
}

/// Looks names up, but takes no thread for an address, which needs no looking up.
#[derive(Debug, Default)]
pub(super) struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(address) = uri.authority().and_then(|a| a.as_str().parse::<SocketAddr>().ok()) else {
            return self.0.resolve(uri, config, timeout);
        };
        let mut found = ArrayVec::from_fn(|_| address);
        found.push(address);
        Ok(found)
    }
}
