//! Reading and writing objects, identities, budgets, and coming back after a kill.

use std::time::Duration;

use nodectl_lab::apiserver::{Regime, Server};
use nodectl_lab::client::{Client, Patch};
use nodectl_lab::objects;
use nodectl_lab::wait::{eventually, within};
use serde_json::{Value, json};

use super::support::{Fixture, code, make_ready, play_kubelet, pod, pods};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[test]
fn compare_and_swap_loses_with_409_and_creating_twice_too() {
    let fixture = Fixture::bare();
    let admin = &fixture.admin;
    let first = admin.create(MAPS, &map("a", json!({"x": "1"}))).unwrap();
    assert!(first["metadata"]["uid"].is_string() && first["metadata"]["creationTimestamp"].is_string());
    let error = admin.create(MAPS, &map("a", json!({}))).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (409, "AlreadyExists"));
    let path = format!("{MAPS}/a");
    let mut changed = first.clone();
    changed["data"]["x"] = json!("2");
    let second = admin.update(&path, &changed).unwrap();
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let error = admin.update(&path, &changed).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    // The same content again is no write.
    assert_eq!(admin.update(&path, &second).unwrap(), second);
    let error = admin.patch(&path, Patch::Merge, &json!({"metadata": {"uid": "other"}})).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (422, "Invalid"));
    let error = admin.delete_with(&path, &json!({"preconditions": {"uid": "other"}})).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
}

#[test]
fn lists_are_paged_and_selected() {
    let fixture = Fixture::bare();
    for number in 0..7 {
        let mut object = map(&format!("m{number}"), json!({}));
        object["metadata"]["labels"] = json!({"odd": (number % 2 == 1).to_string()});
        fixture.admin.create(MAPS, &object).unwrap();
    }
    assert_eq!(fixture.admin.list(&format!("{MAPS}?labelSelector=odd%3Dtrue")).unwrap().len(), 3);
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = fixture.admin.get(&format!("{MAPS}?limit=3&continue={token}")).unwrap();
        names.extend(page["items"].as_array().unwrap().iter().map(|object| object["metadata"]["name"].clone()));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_string();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 7);
    assert_eq!(code(fixture.admin.get(&format!("{MAPS}?limit=3&continue=bogus"))), 400);
}

#[test]
fn custom_resources_come_with_their_definition_and_take_no_strategic_patch() {
    let fixture = Fixture::bare();
    let pools = format!("{}/ippools", objects::calico::GROUP);
    assert_eq!(code(fixture.admin.get(&pools)), 404);
    objects::install(&fixture.admin, &objects::calico_crds::manifests()).unwrap();
    let pool = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.244.0.0/16"}});
    fixture.admin.create(&pools, &pool).unwrap();
    let nameless = json!({"metadata": {"name": "q"}, "spec": {"cidr": "10.245.0.0/16"}});
    assert_eq!(code(fixture.admin.create(&pools, &nameless)), 400);
    // Items of custom resources say what they are, those of built-in ones do not.
    assert_eq!(fixture.admin.list(&pools).unwrap()[0]["kind"], "IPPool");
    assert_eq!(fixture.admin.list("/api/v1/namespaces").unwrap()[0]["kind"], Value::Null);
    let path = format!("{pools}/p");
    assert_eq!(code(fixture.admin.patch(&path, Patch::Strategic, &json!({"spec": {}}))), 415);
    // A PUT of a custom resource must say which version it replaces.
    assert_eq!(code(fixture.admin.update(&path, &pool)), 422);
    let patched = fixture.admin.patch(&path, Patch::Merge, &json!({"spec": {"disabled": true}})).unwrap();
    assert_eq!((&patched["spec"]["disabled"], &patched["metadata"]["generation"]), (&json!(true), &json!(2)));
    let groups = fixture.admin.get("/apis").unwrap();
    assert!(groups.to_string().contains("crd.projectcalico.org/v1"));
}

#[test]
fn status_and_spec_are_written_apart() {
    let fixture = Fixture::bare();
    let admin = &fixture.admin;
    admin.create("/api/v1/nodes", &objects::node("n1", "192.168.77.1")).unwrap();
    let node = "/api/v1/nodes/n1";
    let both = json!({"spec": {"unschedulable": true}, "status": {"phase": "x"}});
    let after = admin.patch(node, Patch::Merge, &both).unwrap();
    assert_eq!((&after["spec"]["unschedulable"], &after["status"]["phase"]), (&json!(true), &Value::Null));
    let after = admin
        .patch(
            &format!("{node}/status"),
            Patch::Merge,
            &json!({"spec": {"unschedulable": null}, "status": {"phase": "y"}}),
        )
        .unwrap();
    assert_eq!((&after["spec"]["unschedulable"], &after["status"]["phase"]), (&json!(true), &json!("y")));
    let cidr = |text: &str| json!({"spec": {"podCIDR": text, "podCIDRs": [text]}});
    admin.patch(node, Patch::Merge, &cidr("10.244.1.0/24")).unwrap();
    assert_eq!(code(admin.patch(node, Patch::Merge, &cidr("10.244.2.0/24"))), 422);
}

#[test]
fn dry_run_changes_nothing() {
    let fixture = Fixture::bare();
    let admin = &fixture.admin;
    admin.create(&format!("{MAPS}?dryRun=All"), &map("ghost", json!({}))).unwrap();
    assert!(admin.find(&format!("{MAPS}/ghost")).unwrap().is_none());
    admin.create(MAPS, &map("a", json!({"x": "1"}))).unwrap();
    let path = format!("{MAPS}/a?dryRun=All");
    let shown = admin.patch(&path, Patch::Merge, &json!({"data": {"x": "2"}})).unwrap();
    assert_eq!(shown["data"]["x"], "2");
    admin.delete(&path).unwrap();
    assert_eq!(admin.get(&format!("{MAPS}/a")).unwrap()["data"]["x"], "1");
}

#[test]
fn a_bound_pod_stays_until_its_kubelet_lets_it_go_and_a_finalizer_holds_too() {
    let fixture = Fixture::bare();
    let admin = &fixture.admin;
    admin.create(&pods(""), &pod("free", "")).unwrap();
    admin.delete(&pods("free")).unwrap();
    assert!(admin.find(&pods("free")).unwrap().is_none());
    admin.create(&pods(""), &pod("bound", "node1")).unwrap();
    let deleted = admin.delete(&pods("bound")).unwrap();
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 30);
    admin.delete_with(&pods("bound"), &json!({"gracePeriodSeconds": 0})).unwrap();
    assert!(admin.find(&pods("bound")).unwrap().is_none());
    let mut held = map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["a.example/b"]);
    admin.create(MAPS, &held).unwrap();
    let path = format!("{MAPS}/held");
    assert!(admin.delete(&path).unwrap()["metadata"]["deletionTimestamp"].is_string());
    admin.patch(&path, Patch::Merge, &json!({"metadata": {"finalizers": null}})).unwrap();
    assert!(admin.find(&path).unwrap().is_none());
}

#[test]
fn credentials_that_are_missing_foreign_or_out_of_date() {
    let fixture = Fixture::bare();
    let url = fixture.server.url();
    let ca = fixture.server.pki.ca().unwrap();
    let nobody = Client::new(&nodectl_lab::client::Credentials {
        server: url.clone(),
        ca: Some(ca.clone()),
        ..Default::default()
    })
    .unwrap();
    let error = nobody.get("/api/v1/nodes").unwrap_err();
    assert!(error.code == 403 && error.message.contains("system:anonymous"), "{error}");
    assert!(nobody.get("/readyz").is_ok());
    let expired = fixture.identity(&fixture.server.pki.client("system:node:node1", &["system:nodes"], -1).unwrap());
    assert_eq!(code(expired.get("/api/v1/nodes")), 401);
    let other = Fixture::bare();
    let foreign = fixture.identity(&other.server.pki.admin().unwrap());
    assert_eq!(code(foreign.get("/api/v1/nodes")), 401);
    assert_eq!(code(Client::from_token(&url, &ca, "a.b.c").unwrap().get("/api/v1/nodes")), 401);
    let elsewhere = Client::from_token(&url, &other.server.pki.ca().unwrap(), "x").unwrap();
    assert_eq!(code(elsewhere.get("/readyz")), 0);
}

#[test]
fn service_accounts_may_what_their_manifests_say() {
    let fixture = Fixture::bare();
    objects::install(&fixture.admin, &objects::flannel::manifests(&objects::flannel::Flannel::default())).unwrap();
    objects::install(&fixture.admin, &objects::calico_crds::manifests()).unwrap();
    objects::install(&fixture.admin, &objects::calico::manifests(&objects::calico::Calico::default())).unwrap();
    fixture.admin.create("/api/v1/nodes", &objects::node("n1", "192.168.77.1")).unwrap();
    let flannel = fixture.account("kube-flannel", "flannel");
    let annotation = json!({"metadata": {"annotations": {"flannel.alpha.coreos.com/public-ip": "192.168.77.1"}}});
    eventually("the role is in force", || flannel.list("/api/v1/nodes").is_ok_and(|nodes| nodes.len() == 1));
    flannel.patch("/api/v1/nodes/n1/status", Patch::Strategic, &annotation).unwrap();
    assert_eq!(code(flannel.patch("/api/v1/nodes/n1", Patch::Strategic, &annotation)), 403);
    let plugin = fixture.account("kube-system", "calico-cni-plugin");
    let pools = format!("{}/ippools", objects::calico::GROUP);
    // A real server learns of roles and bindings a moment after it stored them.
    eventually("the role is in force", || plugin.list(&pools).is_ok());
    assert_eq!(code(plugin.list("/api/v1/nodes")), 403);
    assert_eq!(code(plugin.get(&format!("{}/felixconfigurations/default", objects::calico::GROUP))), 403);
    let agent = fixture.account("kube-system", "calico-node");
    eventually("the role is in force", || agent.token("kube-system", "calico-cni-plugin", 86400).is_ok());
    agent.patch("/api/v1/nodes/n1/status", Patch::Strategic, &annotation).unwrap();
    assert_eq!(
        code(agent.patch("/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node", Patch::Merge, &json!({}))),
        403
    );
}

#[test]
fn a_role_can_let_nodes_read_all_nodes() {
    let Some(fixture) = Fixture::of(Regime::V1_36) else { return };
    let node = fixture.node("node1");
    assert_eq!(code(node.list("/api/v1/nodes")), 403);
    const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";
    let role =
        json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]});
    fixture.admin.create(&format!("{GROUP}/clusterroles"), &role).unwrap();
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "Group", "name": "system:nodes"}]});
    fixture.admin.create(&format!("{GROUP}/clusterrolebindings"), &binding).unwrap();
    eventually("the role is in force", || node.list("/api/v1/nodes").is_ok());
}

/// A Deployment of three, running on one node, behind a budget.
fn guarded(bound: Value) -> Fixture {
    let fixture = Fixture::with(|_| {});
    fixture.admin.create("/api/v1/nodes", &objects::node("n1", "192.168.77.1")).unwrap();
    make_ready(&fixture.admin, "n1");
    objects::install(
        &fixture.admin,
        &[objects::workloads::deployment("db", 3), objects::workloads::budget("db", &bound)],
    )
    .unwrap();
    let policy = fixture.server.regime.policy();
    let budget = format!("/apis/policy/{policy}/namespaces/default/poddisruptionbudgets/db");
    eventually("three pods are healthy", || {
        play_kubelet(&fixture.admin);
        fixture.admin.get(&budget).unwrap()["status"]["currentHealthy"] == 3
    });
    fixture
}

#[test]
fn a_budget_lets_as_many_go_as_it_may_and_no_more() {
    let fixture = guarded(json!({"maxUnavailable": 1}));
    let policy = fixture.server.regime.policy();
    let names: Vec<String> = fixture
        .admin
        .list(&pods(""))
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_string())
        .collect();
    fixture.admin.evict("default", &names[0], policy, &json!({"dryRun": ["All"]})).unwrap();
    fixture.admin.evict("default", &names[0], policy, &Value::Null).unwrap();
    let error = fixture.admin.evict("default", &names[1], policy, &Value::Null).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(error.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = &error.status["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    // From 1.32 on it depends on whether the controller has counted by now: before, three are healthy still.
    let counted = "The disruption budget db needs 2 healthy pods and has ";
    let expected: &[&str] = match fixture.server.regime {
        Regime::V1_20 => &[counted],
        Regime::V1_36 => &[counted, "The disruption budget db does not allow evicting pods currently"],
    };
    let message = cause["message"].as_str().unwrap();
    assert!(expected.iter().any(|start| message.starts_with(start)), "{cause}");
    assert!(error.status["details"]["retryAfterSeconds"].is_null());
    eventually("the replacement serves and the next one may go", || {
        play_kubelet(&fixture.admin);
        fixture.admin.evict("default", &names[1], policy, &Value::Null).is_ok()
    });
}

#[test]
fn an_eviction_of_another_pod_of_that_name_uses_the_budget_up_all_the_same() {
    let fixture = guarded(json!({"maxUnavailable": 1}));
    let policy = fixture.server.regime.policy();
    let name = fixture.admin.list(&pods("")).unwrap()[0]["metadata"]["name"].as_str().unwrap().to_string();
    let nameless = json!({"apiVersion": format!("policy/{policy}"), "kind": "Eviction", "metadata": {"name": "other"}});
    assert_eq!(code(fixture.admin.create(&format!("{}/eviction", pods(&name)), &nameless)), 400);
    let other = json!({"preconditions": {"uid": "other"}});
    let error = fixture.admin.evict("default", &name, policy, &other).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert!(error.message.contains("recreated") || error.message.contains("UID in precondition: other"), "{error}");
    let error = fixture.admin.evict("default", &name, policy, &Value::Null).unwrap_err();
    assert_eq!(error.code, 429);
}

#[test]
fn two_budgets_on_one_pod_are_a_server_error_for_good() {
    let fixture = guarded(json!({"minAvailable": 1}));
    let mut second = objects::workloads::budget("db", &json!({"minAvailable": "10%"}));
    second.object["metadata"]["name"] = json!("second");
    objects::install(&fixture.admin, &[second]).unwrap();
    let name = fixture.admin.list(&pods("")).unwrap()[0]["metadata"]["name"].as_str().unwrap().to_string();
    let error = fixture.admin.evict("default", &name, fixture.server.regime.policy(), &Value::Null).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (500, ""));
}

#[test]
fn discovery_names_the_eviction_of_its_time() {
    for (regime, expected) in [(Regime::V1_20, "v1beta1"), (Regime::V1_36, "v1")] {
        let Some(fixture) = Fixture::of(regime) else { continue };
        let list = fixture.admin.get("/api/v1").unwrap();
        let eviction =
            list["resources"].as_array().unwrap().iter().find(|row| row["name"] == "pods/eviction").unwrap().clone();
        assert_eq!((&eviction["group"], &eviction["version"]), (&json!("policy"), &json!(expected)));
        fixture.admin.create(&pods(""), &pod("a", "")).unwrap();
        let wrong = if regime == Regime::V1_20 { "v1" } else { "v9" };
        assert_eq!(code(fixture.admin.evict("default", "a", wrong, &Value::Null)), 400);
        fixture.admin.evict("default", "a", expected, &Value::Null).unwrap();
    }
}

#[test]
fn objects_outlive_the_server_and_its_watch_history_does_not() {
    let fixture = tempfile::tempdir().unwrap();
    let state = fixture.path().join("state");
    let mut options = nodectl_lab::apiserver::Options::new(fixture.path().join("pki"));
    options.assets = nodectl_lab::cluster::assets();
    options.state = Some(state.clone());
    options.no_controllers = true;
    let start = || {
        let server = Server::start(&options).unwrap();
        let admin = server.admin().unwrap();
        (server, admin)
    };
    let (server, admin) = start();
    admin.create(MAPS, &map("a", json!({"x": "1"}))).unwrap();
    let seen = admin.get(MAPS).unwrap()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let kept = admin.create(MAPS, &map("b", json!({}))).unwrap();
    admin.delete(&format!("{MAPS}/a")).unwrap();
    let watch = format!("{MAPS}?resourceVersion={seen}&timeoutSeconds=1");
    let kinds: Vec<String> = admin.watch(&watch).unwrap().map(|event| event.unwrap().kind).collect();
    assert_eq!(kinds, ["ADDED", "DELETED"]);
    let newest: u64 = admin.get(MAPS).unwrap()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let torn = !server.is_real();
    drop(server);
    if torn {
        // A line that a kill has torn.
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(&state).unwrap();
        file.write_all(b"{\"rv\": 99, \"key\": [\"conf").unwrap();
    }
    let (server, admin) = start();
    assert_eq!(admin.get(&format!("{MAPS}/b")).unwrap(), kept);
    assert!(admin.find(&format!("{MAPS}/a")).unwrap().is_none());
    let error = admin.watch(&watch).unwrap().next().unwrap().unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (410, "Expired"));
    let again: u64 = admin.get(MAPS).unwrap()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(again >= newest, "{again} {newest}");
    drop(server);
    let (_server, admin) = start();
    assert_eq!(admin.get(&format!("{MAPS}/b")).unwrap(), kept);
}

/// The same as a program, killed as `kill -9` does.
#[test]
fn a_killed_server_program_comes_back_with_its_objects() {
    let Some(binary) = option_env!("CARGO_BIN_EXE_nodectl-lab") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let start = || {
        let _ = std::fs::remove_file(path("ports"));
        let child = std::process::Command::new(binary)
            .args(["apiserver", "--no-controllers", "--regime", "1.20", "--pki"])
            .arg(path("pki"))
            .args(nodectl_lab::cluster::assets().map(|folder| format!("--assets={}", folder.display())))
            .arg("--state")
            .arg(path("state"))
            .arg("--port-file")
            .arg(path("ports"))
            .spawn()
            .unwrap();
        within(Duration::from_secs(120), "the server answers", || path("ports").exists());
        let url = format!("https://{}", std::fs::read_to_string(path("ports")).unwrap().trim());
        let pki = nodectl_lab::pki::Pki::open_or_create(&path("pki")).unwrap();
        (child, Client::from_text(&pki.admin_kubeconfig(&url).unwrap()).unwrap())
    };
    let (mut child, admin) = start();
    for number in 0..50 {
        admin.create(MAPS, &map(&format!("m{number}"), json!({}))).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, admin) = start();
    assert_eq!(admin.list(MAPS).unwrap().len(), 50);
    let version = admin.get("/version").unwrap()["gitVersion"].clone();
    assert!(version == "v1.20.2" || nodectl_lab::cluster::assets().is_some(), "{version}");
    child.kill().unwrap();
    child.wait().unwrap();
}
