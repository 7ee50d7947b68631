//! `cluster manifest`: what Calico delivers, made safe, applied, and prepared for.

use nodectl_lab::objects::{calico, flannel};
use serde_json::{Value, json};

use super::fixture::{Cluster, Done};

/// Calico's DaemonSet as its own manifest has it.
fn delivered() -> Value {
    let mut daemon_set = calico::daemon_set(&calico::Calico::default());
    let pod = &mut daemon_set["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    let upgrade = json!({"name": "upgrade-ipam", "image": "lab/install-cni:v3.31.0", "command": ["/opt/cni/bin/calico-ipam", "-upgrade"]});
    pod["initContainers"].as_array_mut().unwrap().insert(0, upgrade);
    let node = &mut pod["containers"][0];
    node["env"] = json!([
        {"name": "CALICO_NETWORKING_BACKEND", "valueFrom": {"configMapKeyRef": {"name": "calico-config", "key": "calico_backend"}}},
        {"name": "IP", "value": "autodetect"},
        {"name": "CALICO_IPV4POOL_IPIP", "value": "Always"},
        {"name": "FELIX_VXLANVNI", "value": "4096"},
        {"name": "FELIX_HEALTHENABLED", "value": "true"}]);
    node["readinessProbe"] = json!({"exec": {"command": ["/bin/calico-node", "-felix-ready", "-bird-ready"]}});
    node["livenessProbe"] = json!({"exec": {"command": ["/bin/calico-node", "-felix-live", "-bird-live"]}});
    daemon_set
}

fn config() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "calico-config", "namespace": "kube-system"},
        "data": {"calico_backend": "bird", "typha_service_name": "none", "veth_mtu": "0", "cni_network_config": calico::CONFLIST}})
}

/// Runs the command on these documents.
fn made(cluster: &Cluster, documents: &[Value]) -> Done {
    let text: String = documents.iter().map(|d| format!("---\n{d}\n")).collect();
    let file = cluster.fixture.path("manifest.yaml");
    std::fs::write(&file, format!("# a comment\n{text}---\n")).unwrap();
    cluster.run(&["manifest", file.to_str().unwrap()])
}

#[test]
fn calicos_own_manifest_becomes_one_that_prepare_takes() {
    let cluster = Cluster::start(2);
    let set = "/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node";
    cluster.admin().delete(set).unwrap();
    cluster.admin().delete("/api/v1/namespaces/kube-system/configmaps/calico-config").unwrap();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other", "namespace": "kube-system"}});
    let safe = made(&cluster, &[config(), account.clone(), delivered()]).exits(0).json();
    let objects = safe["objects"].as_array().unwrap();
    assert_eq!(objects.len(), 3);
    assert_eq!(objects[1], account, "what is neither agent's stays as it is");
    assert_eq!(
        (&objects[0]["data"]["calico_backend"], &objects[0]["data"]["veth_mtu"]),
        (&json!("vxlan"), &json!("1450"))
    );
    let pod = &objects[2]["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux", "nodectl.io/cni": "calico"}));
    assert_eq!(pod["initContainers"].as_array().unwrap().len(), 1);
    let node = &pod["containers"][0];
    let variable = |name: &str| node["env"].as_array().unwrap().iter().find(|v| v["name"] == name).cloned();
    assert_eq!(variable("IP_AUTODETECTION_METHOD").unwrap()["value"], "kubernetes-internal-ip");
    assert_eq!(variable("CALICO_IPV4POOL_IPIP").unwrap()["value"], "Never");
    assert_eq!(variable("CALICO_IPV4POOL_CIDR").unwrap()["value"], "10.244.0.0/16");
    assert_eq!(variable("FELIX_VXLANVNI"), None);
    assert!(variable("CALICO_NETWORKING_BACKEND").unwrap()["valueFrom"].is_object());
    assert_eq!(node["readinessProbe"]["exec"]["command"], json!(["/bin/calico-node", "-felix-ready"]));
    assert_eq!(node["livenessProbe"]["exec"]["command"], json!(["/bin/calico-node", "-felix-live"]));
    // It is taken as it is, and runs nowhere yet.
    for object in objects {
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let api = if object["apiVersion"] == "v1" { "/api/v1" } else { "/apis/apps/v1" };
        cluster.admin().ensure(&format!("{api}/namespaces/kube-system/{plural}"), object).unwrap();
    }
    cluster.run(&["prepare"]).exits(0);
    let pods = cluster.admin().list("/api/v1/namespaces/kube-system/pods").unwrap();
    assert!(pods.iter().all(|p| p["metadata"]["labels"]["k8s-app"] != "calico-node"));
}

#[test]
fn the_text_is_yaml_that_can_be_piped_on() {
    let cluster = Cluster::start(1);
    let file = cluster.fixture.path("manifest.yaml");
    std::fs::write(&file, delivered().to_string()).unwrap();
    let mut command = cluster.command(&["manifest", file.to_str().unwrap()]);
    let output = command.arg("--output").arg("text").output();
    // The fixture asks for JSON, which the later flag may not undo.
    assert_eq!(output.unwrap().status.code(), Some(64));
    let kubeconfig = cluster.fixture.path("admin.conf");
    let mut plain = std::process::Command::new(command.get_program());
    plain.args(["cluster", "manifest", "--kubeconfig"]).arg(kubeconfig).arg(&file).env_remove("KUBECONFIG");
    let text = String::from_utf8(plain.output().unwrap().stdout).unwrap();
    let first = "# kube-system/calico-node runs only where nodectl.io/cni=calico: after nodectl cluster finish this is not to be applied again\n";
    assert!(text.starts_with(first), "{text}");
    let again = cluster.fixture.path("again.yaml");
    std::fs::write(&again, &text).unwrap();
    let twice = cluster.run(&["manifest", again.to_str().unwrap()]).exits(0).json();
    let once = cluster.run(&["manifest", file.to_str().unwrap()]).exits(0).json();
    assert_eq!(twice["objects"], once["objects"]);
}

#[test]
fn flannels_manifest_gets_its_selector_and_must_not_change_the_network() {
    let cluster = Cluster::start(1);
    let flannel = flannel::Flannel::default();
    let safe = made(&cluster, &[flannel::config_map(&flannel), flannel::daemon_set(&flannel)]).exits(0).json();
    assert_eq!(safe["objects"][1]["spec"]["template"]["spec"]["nodeSelector"]["nodectl.io/cni"], "flannel");
    let other = flannel::Flannel { vni: 7, ..flannel };
    let refused = made(&cluster, &[flannel::config_map(&other), flannel::daemon_set(&other)]).exits(3);
    assert!(
        refused.stderr.contains("another net-conf.json") && refused.stderr.contains("To fix it"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_cannot_be_made_safe_is_refused() {
    let cluster = Cluster::start(1);
    let installation =
        json!({"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "metadata": {"name": "default"}});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "flannel-migration"},
        "spec": {"template": {"spec": {"containers": [{"env": [{"name": "ENABLED_CONTROLLERS", "value": "flannelmigration"}]}]}}}});
    let mut canal = delivered();
    canal["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "kube-flannel"}));
    for (document, said) in [
        (installation, "Tigera operator"),
        (job, "own migration"),
        (canal, "Canal"),
        (config(), "no DaemonSet that runs calico-node or flanneld"),
    ] {
        let refused = made(&cluster, &[document]).exits(3);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    // flannel uses another address than the one that Kubernetes knows.
    let address = |ip: &str| json!({"metadata": {"annotations": {"flannel.alpha.coreos.com/public-ip": ip}}});
    cluster.patch("/api/v1/nodes/node1", &address("10.9.8.7"));
    let safe = made(&cluster, &[delivered()]).exits(0).json();
    assert!(safe.to_string().contains("cidr=10.9.8.7/32"), "{safe}");
}
