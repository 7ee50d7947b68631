//! What a container runtime says of the network configuration that it has loaded.

use serde_json::Value;

/// What the runtime says of its network configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniStatus {
    /// NetworkReady.
    pub ready: bool,
    /// Name of the loaded network; `None` where the runtime does not tell.
    pub network: Option<String>,
    /// Types of its plugins; empty where the runtime does not tell.
    pub plugins: Vec<String>,
    /// Directory that it reads configurations from; `None` where the runtime does not tell.
    pub conf_dir: Option<String>,
    /// Directories that it looks for plugins in; empty where the runtime does not tell.
    pub bin_dirs: Vec<String>,
    /// containerd's max_conf_num; `None` where the runtime does not tell.
    pub max_conf_num: Option<u64>,
}

impl CniStatus {
    /// containerd's `cniconfig`: its loopback network comes first and is its own.
    pub(super) fn loaded(config: &Value) -> CniStatus {
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let told = CniStatus {
            conf_dir: config["PluginConfDir"].as_str().filter(|d| !d.is_empty()).map(str::to_owned),
            bin_dirs: strings(&config["PluginDirs"]),
            max_conf_num: config["PluginMaxConfNum"].as_u64(),
            ..CniStatus::default()
        };
        let networks = config["Networks"].as_array().cloned().unwrap_or_default();
        let Some(network) = networks.iter().map(|n| &n["Config"]).find(|c| c["Name"] != "cni-loopback") else {
            return told;
        };
        let plugins = network["Plugins"].as_array().cloned().unwrap_or_default();
        CniStatus {
            network: network["Name"].as_str().map(str::to_owned),
            plugins: plugins.iter().filter_map(|p| p["Network"]["type"].as_str().map(str::to_owned)).collect(),
            ..told
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_network_is_found_behind_the_loopback() {
        let config = serde_json::json!({"PluginConfDir": "/etc/cni/net.d", "PluginDirs": ["/opt/cni/bin"], "PluginMaxConfNum": 1, "Networks": [
            {"Config": {"Name": "cni-loopback", "Plugins": [{"Network": {"type": "loopback"}}]}},
            {"Config": {"Name": "cbr0", "Plugins": [{"Network": {"type": "flannel"}}, {"Network": {"type": "portmap"}}]}},
        ]});
        let status = CniStatus::loaded(&config);
        assert_eq!(status.network.as_deref(), Some("cbr0"));
        assert_eq!(status.plugins, ["flannel", "portmap"]);
        assert_eq!(
            (status.conf_dir.as_deref(), status.bin_dirs),
            (Some("/etc/cni/net.d"), vec!["/opt/cni/bin".to_owned()])
        );
        assert_eq!(CniStatus::loaded(&Value::Null), CniStatus::default());
    }
}
