# shellcheck shell=sh
# Debian's archive of a release of our choice, beside the machine's own apt, whose sources and lists are not touched. Sourced by
# tests/provision and tests/apiserver.
#
# archive_open RELEASE FOLDER [with-sources]: reads that release's package lists into FOLDER; fails with a sentence on standard error.
# archive GET...: apt-get on it, for instance `archive download PACKAGE`; it writes into the current folder.

archive_open() {
    archive_mirror=$(sed -n 's/^URIs: *\(http[^ ]*\).*/\1/p; s/^deb  *\(\[[^]]*\] *\)\{0,1\}\(http[^ ]*\).*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null | grep -v security | head -n 1)
    if [ -z "$archive_mirror" ]; then
        echo "the machine's apt sources name no Debian mirror. To fix it: add one to /etc/apt/sources.list.d/debian.sources" >&2
        return 1
    fi
    archive_folder=$2
    mkdir -p "$archive_folder/lists/partial" "$archive_folder/archives/partial" "$archive_folder/parts"
    signed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive_mirror $1 main"
    echo "deb $signed" >"$archive_folder/sources.list"
    [ "${3:-}" != with-sources ] || echo "deb-src $signed" >>"$archive_folder/sources.list"
    archive update || {
        echo "the package lists of $1 could not be read. To fix it: let the machine reach its Debian mirror, $archive_mirror" >&2
        return 1
    }
}

# Everything that apt would read or write, moved into the private folder.
archive() {
    apt-get -qq -o Dir::Etc::sourcelist="$archive_folder/sources.list" -o Dir::Etc::sourceparts="$archive_folder/parts" \
        -o Dir::Etc::preferencesparts="$archive_folder/parts" -o Dir::State::lists="$archive_folder/lists" \
        -o Dir::Cache="$archive_folder" -o Dir::Cache::archives="$archive_folder/archives" -o APT::Sandbox::User=root \
        -o APT::Get::List-Cleanup=0 "$@"
}
