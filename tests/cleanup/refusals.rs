//! Why `nodectl cleanup` says no, the name that waives it, what becomes of files, and words that make no sense.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture::FLANNEL_PARTS;
use nodectl_lab::terminal::on_terminal;
use support::{Ground, comes};

fn ground(script: &str) -> Ground {
    let ground = Ground::with("");
    ground.build(&format!("{FLANNEL_PARTS}\n{script}"));
    ground
}

/// Names of the refusals that a dry run tells.
fn refusals(ground: &Ground, args: &[&str]) -> Vec<String> {
    let said = ground.would(args);
    let standing = said["refusals"].as_array().unwrap().iter().filter(|r| r["waived"] == false);
    standing.map(|r| r["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn living_pods_are_not_cut_off_unless_told_to() {
    let ground = ground(
        "subnet_env; vxlan 1 8472; pod 1; pod 2; lose 2; await_one() { while [ $(ip -o link show master cni0 | grep -c veth) != 1 ]; do sleep 0.02; done; }; await_one",
    );
    // The runtime answers and knows of no such pod: its device is a leftover.
    assert!(refusals(&ground, &["--flannel"]).is_empty());
    ground.node().stop_unit("containerd.service").unwrap();
    let before = ground.snapshot();
    assert_eq!(refusals(&ground, &["--flannel"]), ["pods-depend"]);
    let done = ground.must(&["--flannel", "--yes"], 3);
    assert!(done.stderr.contains("[pods-depend] 1 pod of flannel would lose their network: veth"), "{}", done.stderr);
    assert!(done.stderr.contains("To fix it: "), "{}", done.stderr);
    assert!(before.diff(&ground.snapshot()).is_empty());
    ground.must(&["--flannel", "--yes", "--force", "pods-depend"], 0);
    assert_eq!(ground.would(&["--flannel"])["outcome"], "nothing-to-do");
    assert_eq!(ground.node().sh("ip -o link | grep -cE 'veth|cni0|flannel' || true").unwrap(), "0\n");
}

#[test]
fn connections_of_the_host_are_not_cut_unless_told_to() {
    let ground =
        ground("subnet_env; ip link add cni0 type bridge; ip address add 10.244.1.1/24 dev cni0; ip link set cni0 up");
    assert!(refusals(&ground, &["--flannel"]).is_empty());
    // To a pod that was re-plumbed; here both ends are the host's.
    let perl = "$l = IO::Socket::INET->new(Listen => 1, LocalAddr => '10.244.1.1:7070') or die; \
        $c = IO::Socket::INET->new(PeerAddr => '10.244.1.1:7070', LocalAddr => '10.244.1.1') or die; \
        open($f, '>', '/run/connected'); sleep 1000";
    let running = ground.node().spawn(&["perl", "-MIO::Socket::INET", "-e", perl]).unwrap();
    ground.build("until [ -e /run/connected ]; do sleep 0.02; done");
    assert_eq!(refusals(&ground, &["--flannel"]), ["connections-depend"]);
    let done = ground.must(&["--flannel", "--yes"], 3);
    assert!(done.stderr.contains("2 TCP connections of this host would end: 2 of 10.244.1.1"), "{}", done.stderr);
    ground.must(&["--flannel", "--yes", "--force", "connections-depend"], 0);
    drop(running);
}

#[test]
fn an_agent_that_runs_and_the_active_cni_are_refused_each_by_its_name() {
    let ground = ground("subnet_env; vxlan 1 8472");
    let running = [ground.process("flanneld", &[]), ground.process("kubelet", &[])];
    assert_eq!(refusals(&ground, &["--flannel"]), ["agent-runs", "cni-active"]);
    assert_eq!(refusals(&ground, &["--flannel", "--force", "agent-runs"]), ["cni-active"]);
    let done = ground.must(&["--flannel", "--yes", "--force", "cni-active"], 3);
    assert!(done.stderr.contains("[agent-runs] flanneld (pid "), "{}", done.stderr);
    ground.must(&["--flannel", "--yes", "--force", "cni-active", "--force", "agent-runs"], 0);
    drop(running);
    // Where no kubelet runs nobody makes pods, and a first configuration is a leftover.
    ground.build(&format!("{FLANNEL_PARTS}\nsubnet_env"));
    assert!(refusals(&ground, &["--flannel"]).is_empty());
}

#[test]
fn bird_of_calicos_is_an_agent_and_an_administrators_is_none() {
    let ground = Ground::with("");
    ground.build(
        "mkdir -p /var/lib/calico; ip route add blackhole 10.244.1.0/26 proto bird\n\
         ipset create cali40all-ipam-pools hash:net; ipset add cali40all-ipam-pools 10.244.0.0/16",
    );
    let own = ground.process("bird", &["-c", "/etc/bird/bird.conf"]);
    assert!(refusals(&ground, &["--calico"]).is_empty());
    // It may have learned the route itself.
    let would = ground.would(&["--calico"]);
    assert!(would["undecided"].to_string().contains("blackhole 10.244.1.0/26"), "{would:#}");
    assert!(would["counts"]["routes"].is_null(), "{would:#}");
    drop(own);
    assert_eq!(ground.would(&["--calico"])["counts"]["routes"], 1);
    let calicos = ground.process("bird", &["-c", "/etc/calico/confd/config/bird.cfg"]);
    assert_eq!(refusals(&ground, &["--calico"]), ["agent-runs"]);
    drop(calicos);
}

#[test]
fn an_open_run_cannot_be_waived() {
    let ground = ground("subnet_env; mkdir -p /var/lib/nodectl; echo 20261121T020000-1a2b > /var/lib/nodectl/open");
    assert_eq!(refusals(&ground, &["--flannel"]), ["open-run"]);
    let done = ground.must(&["--flannel", "--yes", "--force", "open-run"], 64);
    assert!(done.stderr.contains("use one of agent-runs, pods-depend, connections-depend"), "{}", done.stderr);
}

#[test]
fn files_wait_in_a_backup_for_root_alone_or_are_purged() {
    let ground = ground("subnet_env");
    ground.must(&["--flannel", "--yes", "--reason", "moved away"], 0);
    let kept = ground.node().sh("cd /var/lib/nodectl; stat -c %a . backup; cat backup/*/files/etc/cni/net.d/10-flannel.conflist; ls backup/*/files/run/flannel; grep -c 'moved away' cleanups/*.json").unwrap();
    let lines: Vec<&str> = kept.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3], lines[4]), ("700", "700", "subnet.env", "1"), "{kept}");
    assert!(lines[2].starts_with(r#"{"name":"cbr0""#), "{kept}");
    ground.build(&format!("{FLANNEL_PARTS}\nrm -rf /var/lib/nodectl; subnet_env"));
    ground.must(&["--flannel", "--yes", "--purge"], 0);
    assert_eq!(ground.node().sh("find /var/lib/nodectl/backup -type f 2>/dev/null | wc -l").unwrap(), "0\n");
    ground.must_be_as_others_left_it();
}

#[test]
fn what_was_shown_at_the_prompt_is_what_goes() {
    let ground = ground("subnet_env");
    let ask = |meanwhile: &str, answer| {
        let change = || {
            ground.build(meanwhile);
            Ok(())
        };
        on_terminal(ground.node(), "nodectl cleanup --flannel", change, answer).unwrap()
    };
    let before = ground.snapshot();
    assert_eq!(ask("true", "n\n").code, 3);
    assert!(before.diff(&ground.snapshot()).is_empty());
    // While somebody thinks, flannel's device comes, and then its agent.
    for (change, undo, named) in [
        (format!("{FLANNEL_PARTS}\nvxlan 1 8472"), "ip link del flannel.1", "+ link flannel.1"),
        (
            format!(
                "cp /bin/sh /run/flanneld; setsid /run/flanneld -c 'sleep 1000; :' >/dev/null 2>&1 &\n{}",
                comes("flanneld")
            ),
            "true",
            "+ [agent-runs]",
        ),
    ] {
        let done = ask(&change, "y\n");
        let refused = done.stdout.contains("this node is not as it was when the question was asked");
        assert!(done.code == 3 && refused && done.stdout.contains(named), "{}", done.all());
        assert_eq!(ground.node().sh("ls /run/flannel").unwrap(), "subnet.env\n");
        ground.build(undo);
    }
    ground
        .build("for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" != flanneld ] || kill -9 ${p#/proc/}; done");
    assert_eq!(ask("true", "yes\n").code, 0);
    assert_eq!(ground.would(&["--flannel"])["outcome"], "nothing-to-do");
}

#[test]
fn words_that_make_no_sense_are_usage() {
    let ground = ground("subnet_env");
    let before = ground.snapshot();
    for args in [
        &[][..],
        &["--calico", "--flannel"],
        &["--flannel", "--network", "10.244"],
        &["--flannel", "--network", "0.0.0.0/0"],
        &["--flannel", "--subnet", "::/0"],
        &["--calico", "--interface-prefix", ""],
        &["--flannel", "--force", "everything"],
        &["--flannel", "--detailed-exitcode"],
    ] {
        ground.must(args, 64);
    }
    // Nobody to ask, and nobody said yes.
    let done = ground.must(&["--flannel"], 64);
    assert!(done.stderr.contains("add --yes"), "{}", done.stderr);
    assert!(before.diff(&ground.snapshot()).is_empty());
}

#[test]
fn a_damaged_record_of_a_cleanup_is_named_with_its_remedy() {
    let ground = ground("subnet_env; vxlan 1 8472; install -d -m 700 /var/lib/nodectl/cleanups");
    let record = "/var/lib/nodectl/cleanups/20240101t000000z-1.open.json";
    for (text, why) in [("{", "EOF"), ("{\"format\": 1}", "missing field"), ("{\"format\": 9}", "has format 9")] {
        ground.build(&format!("echo '{text}' > {record}"));
        let before = ground.snapshot();
        let done = ground.must(&["--flannel", "--yes"], 1);
        assert!(done.stderr.contains(record) && done.stderr.contains(why), "{}", done.stderr);
        assert_eq!(done.stderr.matches("To fix it: ").count(), 1, "{}", done.stderr);
        assert!(before.diff(&ground.snapshot()).is_empty());
    }
    ground.build(&format!("rm {record}"));
    ground.must(&["--flannel", "--yes"], 0);
}

#[test]
fn what_could_not_be_looked_at_is_not_taken_for_clean() {
    let ground = Ground::with("");
    ground.must(&["--flannel", "--yes"], 0);
    ground.build("mount --bind /bin/false /usr/sbin/xtables-nft-multi");
    let done = ground.must(&["--flannel", "--yes"], 3);
    assert!(done.stdout.starts_with("Nothing of flannel was seen on this node."), "{}", done.stdout);
    assert!(done.stderr.contains("[unobserved] ") && done.stderr.contains("iptables: "), "{}", done.stderr);
    ground.must(&["--flannel", "--yes", "--force", "unobserved"], 0);
    ground.build("umount /usr/sbin/xtables-nft-multi");
    ground.must(&["--flannel", "--yes"], 0);
}
