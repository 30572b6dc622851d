// Package build makes the programs of the testbed from the Go modules under tools/: Kubernetes and etcd, containerd, CoreDNS, Helm, the
// reference CNI plugins and the development tools. The go.mod files there are the one place where versions are pinned.
//
// What is built is kept in the user's cache under a key of everything that went into it, so only the first run on a machine is slow.
package build
