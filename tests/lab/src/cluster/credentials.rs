//! The files with which a node's programs speak to the API server.

use anyhow::{Context, Result};

use super::ApiServer;
use crate::client::Client;
use crate::objects::{self, Manifest};
use crate::pki::kubelet_kubeconfig;

const CA: &str = "/etc/kubernetes/pki/ca.crt";
const KUBELET: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// ServiceAccounts whose programs the lab runs on nodes: (namespace, name).
const ACCOUNTS: [(&str, &str); 2] = [("kube-flannel", "flannel"), ("kube-system", "calico-node")];

/// Makes the namespaces and accounts that credentials are made for, and the CA that pods get.
pub fn prepare(api: &ApiServer, client: &Client) -> Result<()> {
    let accounts = ACCOUNTS.map(|(namespace, name)| objects::service_account(namespace, name));
    objects::install(client, &[objects::namespace("kube-flannel")])?;
    objects::install(client, &accounts)?;
    let ca = api.pki.ca()?;
    for namespace in ["default", "kube-system", "kube-flannel"] {
        let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt", "namespace": namespace}, "data": {"ca.crt": ca}});
        objects::install(client, &[Manifest::new(format!("/api/v1/namespaces/{namespace}/configmaps"), map)])?;
    }
    Ok(())
}

/// The files of one node: (path, text).
pub fn files(api: &ApiServer, client: &Client, node: &str) -> Result<Vec<(String, String)>> {
    let url = api.node_url();
    let mut files = vec![
        (CA.to_owned(), api.pki.ca()?),
        (KUBELET.to_owned(), api.pki.node(node)?.one_file()),
        ("/etc/kubernetes/kubelet.conf".to_owned(), kubelet_kubeconfig(&url, CA, KUBELET)?),
    ];
    for (namespace, name) in ACCOUNTS {
        let token = client
            .token(namespace, name, 365 * 24 * 3600)
            .with_context(|| format!("no token for {namespace}/{name}"))?;
        files.push((format!("/etc/kubernetes/lab/{name}.conf"), api.pki.token_kubeconfig(&url, name, &token)?));
    }
    Ok(files)
}
