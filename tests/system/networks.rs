//! Network configurations for a runtime, and what CRI says of the one in use.

use nodectl_lab::cri;
use nodectl_lab::kubelet::Cri;

/// A conflist of one plugin with this subnet.
pub fn conflist(name: &str, plugin: &str, subnet: &str) -> String {
    format!(
        r#"{{"cniVersion":"0.4.0","name":"{name}","plugins":[{{"type":"{plugin}","bridge":"cni0","isDefaultGateway":true,
        "ipam":{{"type":"host-local","ranges":[[{{"subnet":"{subnet}"}}]]}}}}]}}"#
    )
}

/// The network condition: true, or its message.
pub fn network(cri: &Cri) -> Result<(), String> {
    let conditions = cri.status().unwrap().status.unwrap().conditions;
    let condition = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    if condition.status { Ok(()) } else { Err(condition.message) }
}

/// The network in use besides loopback; none while containerd, just restarted, says that its server is not initialized yet.
pub fn network_name(cri: &Cri) -> String {
    let Ok(cri::StatusResponse { info, .. }) = cri.status() else {
        return String::new();
    };
    let config: serde_json::Value = serde_json::from_str(&info["cniconfig"]).unwrap();
    config["Networks"][1]["Config"]["Name"].as_str().unwrap_or_default().to_owned()
}
