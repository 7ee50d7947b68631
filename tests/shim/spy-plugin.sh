#!/bin/sh
# Notes what a CNI plugin is given, then is that plugin. A link to it, <world>/spy/<type>, stands before <world>/real/<type>.
# Each call is logged as by fake-plugin.sh; with <world>/spy as CNI_PATH, also those that plugins make of plugins.
world=${0%/spy/*}
kind=${0##*/}
call=$$-$kind-$CNI_COMMAND
mkdir -p "$world/calls/$call"
cat > "$world/calls/$call/stdin"
env > "$world/calls/$call/env"
echo "$kind $CNI_COMMAND $CNI_CONTAINERID $call" >> "$world/log"
exec "$world/real/$kind" < "$world/calls/$call/stdin"
