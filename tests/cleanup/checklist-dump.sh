# dump: the rules of both families in both backends; a legacy tool is run only where the kernel has its tables, for it would load them.
dump() {
	for s in iptables ip6tables; do
		for v in -legacy -nft; do
			case $s$v in
			iptables-legacy) [ -s /proc/net/ip_tables_names ] || continue ;;
			ip6tables-legacy) [ -s /proc/net/ip6_tables_names ] || continue ;;
			esac
			$s$v-save 2>/dev/null
		done
	done
}
