# Prints nothing on a node that is clean of flannel. NET, NET6 and POD are its network and this node's part, NETNAME its name.
# Operators' lists go on with leases of containers that the runtime does not know (doctor's leaked-leases), and with Nodes'
# annotations and conditions, DaemonSets and ConfigMaps, which are the cluster's (`nodectl cluster finish`).
pgrep -x flanneld || true
pgrep -af charon | grep -i flannel || true
ip -o link | awk -F': ' '{split($2,a,"@");print a[1]}' | grep -xE 'cni0|flannel[0-9]+|flannel(-v6)?\.[0-9]+|flannel-wg(-v6)?|flannel\.ipip' || true
bridge link show 2>/dev/null | grep 'master cni0' || true
ip -4 route show table all root "$NET" proto boot | grep -v ' dev cali' | grep -vE "$USERS" || true
ip -6 route show table all root "$NET6" proto boot | grep -v ' dev cali' | grep -vE "$USERS" || true
ip route show table all type blackhole exact "$POD" proto boot
ip neigh show nud permanent | grep flannel || true
bridge fdb show | grep -E 'flannel(-v6)?\.[0-9]' || true
dump | grep -E 'FLANNEL|flanneld ' | grep -vE "$USERS" || true
dump | grep -E -- "^-A (POSTROUTING|FORWARD) .*(-s|-d) $NET" | grep -vE 'cali|KUBE-' | grep -vE "$USERS" || true
dump | grep -F "name: \\\"$NETNAME\\\"" || true
nft list tables 2>/dev/null | grep -E 'flannel-ipv[46]' || true
nft list table inet cni_plugins_masquerade 2>/dev/null | grep "net: $NETNAME," || true
ip -o link show type ifb | grep -o 'bwp[0-9a-f]*' || true
ip xfrm policy | grep -A3 "$NET" | grep 'reqid 11' || true
ss -Hlun | grep -E ':(8472|8285|51820|51821)\s' || true
ls -A /run/flannel /var/lib/cni/flannel "/var/lib/cni/networks/$NETNAME" 2>/dev/null || true
ls /var/lib/cni/results /var/lib/cni/cache/results 2>/dev/null | grep "^$NETNAME-" || true
ls -A /etc/cni/net.d /var/lib/rancher/k3s/agent/etc/cni/net.d 2>/dev/null | grep -i flannel || true
