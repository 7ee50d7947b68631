//! Clusters with IPv4 and IPv6: what prepare writes of the second family, and that abort takes it away again.

use nodectl_lab::objects::{calico, flannel};
use serde_json::json;

use super::fixture::Cluster;

#[test]
fn both_families_are_prepared_once_and_abort_leaves_nothing_of_them() {
    let cluster = Cluster::dual_stack(2);
    cluster.settle();
    let before = cluster.dump();
    cluster.run(&["prepare"]).exits(0);
    let resource = |name: &str| cluster.admin().list(&format!("/apis/crd.projectcalico.org/v1/{name}")).unwrap();
    let pools = resource("ippools");
    let pool = pools.iter().find(|p| p["metadata"]["name"] == "default-ipv6-ippool").unwrap();
    assert_eq!((&pool["spec"]["cidr"], &pool["spec"]["blockSize"]), (&json!("fd00:10:244::/56"), &json!(122)));
    let claimed = |node: &str| {
        let of_node = |a: &&serde_json::Value| a["spec"]["node"] == node && a["spec"]["state"] == "confirmed";
        let affinities = resource("blockaffinities");
        let cidrs: Vec<String> =
            affinities.iter().filter(of_node).map(|a| a["spec"]["cidr"].as_str().unwrap().to_owned()).collect();
        (cidrs.iter().filter(|c| !c.contains(':')).count(), cidrs.iter().filter(|c| c.contains(':')).count())
    };
    assert_eq!(claimed("node2"), (4, 8), "256 addresses of IPv4, 512 of IPv6");
    let annotations = &cluster.node(2)["metadata"]["annotations"];
    assert_eq!(annotations["projectcalico.org/IPv6Address"], "fd00:77::2/128");
    assert_eq!(annotations["projectcalico.org/IPv6VXLANTunnelAddr"], "fd00:10:244:2::");
    assert_eq!(annotations["projectcalico.org/VXLANTunnelMACAddrV6"], "0e:00:00:00:06:02");
    let again = cluster.run(&["prepare"]).exits(0).json();
    assert_eq!(again["changed"], false);
    cluster.run(&["abort"]).exits(0);
    cluster.settle();
    assert_eq!(cluster.dump(), before);
}

#[test]
fn calicos_manifest_is_made_to_carry_both_families() {
    let cluster = Cluster::dual_stack(1);
    let alone = calico::Calico::default();
    let file = cluster.fixture.path("manifest.yaml");
    let documents: Vec<String> = calico::manifests(&alone).iter().map(|m| format!("---\n{}\n", m.object)).collect();
    std::fs::write(&file, documents.concat()).unwrap();
    let safe = cluster.run(&["manifest", file.to_str().unwrap()]).exits(0).json();
    let objects = safe["objects"].as_array().unwrap();
    let find =
        |kind: &str, name: &str| objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).unwrap();
    let template = find("ConfigMap", "calico-config")["data"]["cni_network_config"].as_str().unwrap();
    assert!(template.contains(r#""assign_ipv6": "true""#), "{template}");
    let env = &find("DaemonSet", "calico-node")["spec"]["template"]["spec"]["containers"][0]["env"];
    let variable = |name: &str| env.as_array().unwrap().iter().find(|v| v["name"] == name).unwrap()["value"].clone();
    assert_eq!(variable("FELIX_IPV6SUPPORT"), "true");
    assert_eq!(variable("IP6"), "autodetect");
    assert_eq!(variable("CALICO_IPV6POOL_CIDR"), "fd00:10:244::/56");
    // As it was delivered, prepare refuses it by name.
    let client = cluster.admin();
    client.delete("/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node").unwrap();
    client.create("/apis/apps/v1/namespaces/kube-system/daemonsets", &calico::daemon_set(&alone)).unwrap();
    assert_eq!(cluster.run(&["prepare"]).exits(3).refusals(), ["calico-ipv6"]);
    // flannel's own, with another IPv6 network than the cluster runs on, is refused too.
    let other = flannel::Flannel { network_v6: Some("fd00:99::/56".into()), ..flannel::Flannel::default() };
    std::fs::write(
        &file,
        flannel::config_map(&other).to_string() + "\n---\n" + &flannel::daemon_set(&other).to_string(),
    )
    .unwrap();
    cluster.run(&["manifest", file.to_str().unwrap()]).exits(3);
}
