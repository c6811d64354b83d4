# What the scripts of this folder share. Sourced with the work tree's root as the current folder.
# shellcheck shell=bash

cluster=$PWD/.cluster
# shellcheck disable=SC2034 # the scripts that source this use it
kind_cluster=chartroom

# provider prints what the cluster of this work tree is: existing, kind or node; nothing when there is none.
provider() {
  cat "$cluster/provider" 2>/dev/null || true
}

# node runs one command of the node that is built from source.
node() {
  if ! command -v go >/dev/null; then
    echo "cluster: the node is built from source, and there is no go on the PATH" >&2
    return 3
  fi
  # Chained, because a caller that looks at the result switches the shell's own check off.
  mkdir -p "$cluster/bin" &&
    go build -o "$cluster/bin/node.$$" ./hack/cluster/node &&
    mv "$cluster/bin/node.$$" "$cluster/bin/node" &&
    "$cluster/bin/node" "$@"
}

# docker_runs tells whether there is a Docker daemon that answers.
docker_runs() {
  command -v docker >/dev/null && timeout 20 docker info >/dev/null 2>&1
}

# kind prints the path of kind: the one that is installed, else one built from source.
kind_program() {
  command -v kind || hack/tool kind
}
