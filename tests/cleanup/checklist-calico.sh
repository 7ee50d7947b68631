# Prints nothing on a node that is clean of Calico. POOL and POOL6 are its pools, NETNAME its network's name.
pgrep -x calico-node || true
pgrep -af 'bird6?' | grep /calico/ || true
ip -o link | awk -F': ' '{split($2,a,"@");print a[1]}' | grep -xE 'cali[0-9a-f]{11}|vxlan(-v6)?\.calico|wireguard\.cali|wg-v6\.cali|bpf(in|out)\.cali' || true
# Never by its name: asking for it would load its module again.
ip -4 -o address | awk '$2 == "tunl0"'
ip -4 route show table all root "$POOL" proto 80 | grep -vE "$USERS" || true
ip -6 route show table all root "$POOL6" proto 80 | grep -vE "$USERS" || true
ip -4 route show table all root "$POOL" proto bird
ip -6 route show table all root "$POOL6" proto bird
ip route show table all | grep -E 'dev cali[0-9a-f]{11}|dev (vxlan|tunl|wireguard|bpfin)' || true
for family in -4 -6; do ip $family rule show | grep -E '^99:.*not from all fwmark (0x[0-9a-f]+)/\1 ' || true; done
for family in -4 -6; do ip $family route show table all type throw; done
ip neigh show nud permanent | grep -E 'cali' || true
bridge fdb show | grep -E 'calico' || true
dump | grep -E '(^:| -[jg] )(cali-|califw-|felix-)|cali:[A-Za-z0-9_-]{16}' || true
nft list tables | grep -xE 'table (ip|ip6) calico|table arp calico-arp' || true
ipset list -n | grep -E '^(cali[46]0|cali[46]t[0-9]+$|felix-)' || true
find /sys/fs/bpf/tc/globals/cali_* /sys/fs/bpf/ctlb/calico_* /sys/fs/bpf/calico 2>/dev/null || true
for dev in /sys/class/net/*; do tc filter show dev "${dev##*/}" ingress 2>/dev/null; done | grep -E 'cali' || true
grep -E '/run/calico' /proc/mounts || true
ls -d /var/lib/calico /run/calico /var/run/calico /var/log/calico /run/nodeagent /etc/calico/csi 2>/dev/null || true
ls /opt/cni/bin | grep -xE 'calico(-ipam)?(\.tmp)?' || true
ls -A /etc/cni/net.d | grep -i calico || true
ls /etc/NetworkManager/conf.d | grep calico || true
ls -d "/var/lib/cni/networks/$NETNAME" 2>/dev/null || true
ls /var/lib/cni/results 2>/dev/null | grep "^$NETNAME-" || true
