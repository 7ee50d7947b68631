#!/bin/sh
# A CNI plugin that does as it is told. A link to it, <world>/bin/<type>, makes it a plugin of that type.
#
# Each call is logged in <world>/log ("type VERB container-id call") and in <world>/calls/<call>/{stdin,env}. Then
# <world>/do/<type>.<VERB>, if there is one, says what to do; without one, or if that does not exit, the call succeeds.
# The type "flannel" keeps a scratch file as the real one does, and loses it on a failed DEL as the real one does.
world=${0%/bin*/*}
kind=${0##*/}
stdin=$(cat)
call=$$-$kind-$CNI_COMMAND
mkdir -p "$world/calls/$call"
printf '%s' "$stdin" > "$world/calls/$call/stdin"
env > "$world/calls/$call/env"
echo "$kind $CNI_COMMAND $CNI_CONTAINERID $call" >> "$world/log"

rest=${stdin#*\"cniVersion\":\"}
version=${rest%%\"*}
if [ "$CNI_COMMAND" = VERSION ]; then
    echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
    exit 0
fi
scratch=$world/root/var/lib/cni/flannel/$CNI_CONTAINERID
case $kind.$CNI_COMMAND in
flannel.ADD) echo '{"name":"cbr0","type":"bridge","cniVersion":"0.3.1"}' > "$scratch" ;;
flannel.DEL) [ -e "$scratch" ] || exit 0; rm -f "$scratch" ;;
esac

# The test's own file calls it.
# shellcheck disable=SC2317
fail() { # code message details
    printf '{"code":%s,"msg":"%s","details":"%s"}' "$1" "$2" "$3"
    exit 1
}
if [ -f "$world/do/$kind.$CNI_COMMAND" ]; then
    # shellcheck source=/dev/null
    . "$world/do/$kind.$CNI_COMMAND"
fi
if [ "$CNI_COMMAND" = ADD ]; then
    case $version in
    0.*) family='"version":"4",' dns=',"dns":{}' ;;
    *) family='' dns='' ;;
    esac
    printf '{"cniVersion":"%s","interfaces":[{"name":"eth0","sandbox":"%s"}],' "$version" "$CNI_NETNS"
    printf '"ips":[{%s"address":"10.244.1.5/24","gateway":"10.244.1.1","interface":0}]%s}\n' "$family" "$dns"
fi
exit 0
