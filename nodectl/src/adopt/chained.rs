//! What the plugins behind a pod's former CNI have left, which its DEL must still take away under their network's name. Pure.

use cni_spec::chain::{DelList, PluginCall};

/// The lists of a record without `agents`, and without those plugins that have nothing of this pod.
pub fn rest(del: &[DelList], agents: &[&str]) -> Vec<DelList> {
    let stays =
        |list: &DelList, plugin: &PluginCall| !agents.contains(&plugin.kind.as_str()) && has_something(list, plugin);
    let rest = del.iter().cloned().filter_map(|mut list| {
        let mut plugins = std::mem::take(&mut list.plugins);
        plugins.retain(|plugin| stays(&list, plugin));
        (!plugins.is_empty()).then_some(DelList { plugins, ..list })
    });
    rest.collect()
}

/// portmap and bandwidth pass a pod on as it is that has no port and no limit (their cmdAdd); of others nothing is known.
fn has_something(list: &DelList, plugin: &PluginCall) -> bool {
    let given = |key: &str| {
        list.runtime_config.get(key).is_some_and(|value| !value.is_null() && *value != serde_json::json!([]))
    };
    match plugin.kind.as_str() {
        "portmap" => given("portMappings"),
        "bandwidth" => {
            given("bandwidth") || ["ingressRate", "egressRate"].iter().any(|key| plugin.config.contains_key(*key))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn list(kinds: &[&str], runtime_config: &Value) -> DelList {
        let call = |kind: &&str| PluginCall { kind: (*kind).into(), path: "/x".into(), config: Map::new() };
        DelList {
            network: "cbr0".into(),
            cni_version: "0.3.1".into(),
            plugins: kinds.iter().map(call).collect(),
            runtime_config: runtime_config.as_object().cloned().unwrap_or_default(),
            args: String::new(),
            disable_check: false,
        }
    }

    fn left(list: DelList) -> Vec<String> {
        rest(&[list], &["flannel"]).into_iter().flat_map(|list| list.plugins).map(|plugin| plugin.kind).collect()
    }

    #[test]
    fn only_what_has_something_of_the_pod_stays() {
        let all = ["flannel", "portmap", "bandwidth", "tuning"];
        assert_eq!(left(list(&all, &json!({}))), ["tuning"]);
        assert_eq!(left(list(&all, &json!({"portMappings": [], "bandwidth": null}))), ["tuning"]);
        assert_eq!(left(list(&all, &json!({"portMappings": [{"hostPort": 80}]}))), ["portmap", "tuning"]);
        assert_eq!(left(list(&all, &json!({"bandwidth": {"ingressRate": 1}}))), ["bandwidth", "tuning"]);
        assert_eq!(left(list(&["flannel", "portmap"], &json!({}))), [""; 0]);
        let mut limited = list(&["bandwidth"], &json!({}));
        limited.plugins[0].config.insert("egressRate".into(), json!(1000));
        assert_eq!(left(limited), ["bandwidth"]);
    }
}
