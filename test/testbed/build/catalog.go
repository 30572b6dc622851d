package build

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Target is one program.
type Target struct {
	Name    string        // of the file in the output directory
	Set     string        // when it is needed, see Sets
	Module  string        // folder under tools/ whose go.mod pins it
	Package string        // import path of its main package, or of the package whose test binary it is
	Test    bool          // built by `go test -c`
	Cold    time.Duration // rough time of a first build on 2 cores, for the announcement
}

// Sets in the order in which they are built.
const (
	SetCluster  = "cluster"  // a running cluster and what is installed into it
	SetUpstream = "upstream" // the end-to-end suite of Kubernetes
	SetBench    = "bench"    // rivals of the benchmarks, and cnitool
	SetDev      = "dev"      // generators and linters; only built when asked for
)

// module says how the programs of one folder under tools/ are built.
type module struct {
	versionOf string   // the module whose pinned version they carry
	tags      string   // build tags
	stamps    []string // -X flags; {version}, {major} and {minor} are filled in
}

const (
	kubernetes = "k8s.io/kubernetes"
	containerd = "github.com/containerd/containerd/v2"
	plugins    = "github.com/containernetworking/plugins/plugins"
)

var modules = map[string]module{
	"kubernetes": {versionOf: kubernetes, stamps: slices.Concat(kubernetesStamps("k8s.io/component-base"), kubernetesStamps("k8s.io/client-go/pkg"))},
	// btrfs needs cgo; the testbed's snapshotter is overlayfs.
	"containerd": {versionOf: containerd, tags: "no_btrfs", stamps: []string{containerd + "/version.Version={version}", containerd + "/version.Revision={version}"}},
	"coredns":    {versionOf: "github.com/coredns/coredns"},
	"helm":       {versionOf: "helm.sh/helm/v4", stamps: []string{"helm.sh/helm/v4/internal/version.version={version}"}},
	"cni":        {versionOf: "github.com/containernetworking/plugins"},
	"dev": {versionOf: "sigs.k8s.io/controller-tools", stamps: []string{
		"sigs.k8s.io/controller-tools/pkg/version.version={version}", // ends up in the generated CRDs
	}},
}

func kubernetesStamps(prefix string) []string {
	p := prefix + "/version."
	return []string{p + "gitVersion={version}", p + "gitMajor={major}", p + "gitMinor={minor}", p + "gitTreeState=archive"}
}

// Targets lists every program in the order of building. Times are from a 2-core machine; within a module the later ones profit from
// what the earlier ones compiled.
func Targets() []Target {
	return []Target{
		{Name: "kube-apiserver", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/cmd/kube-apiserver", Cold: 5 * time.Minute},
		{Name: "kubelet", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/cmd/kubelet", Cold: 90 * time.Second},
		{Name: "kube-controller-manager", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/cmd/kube-controller-manager", Cold: time.Minute},
		{Name: "kube-scheduler", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/cmd/kube-scheduler", Cold: 20 * time.Second},
		{Name: "kube-proxy", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/cmd/kube-proxy", Cold: 10 * time.Second},
		{Name: "kubectl", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/cmd/kubectl", Cold: 30 * time.Second},
		{Name: "etcd", Set: SetCluster, Module: "kubernetes", Package: "go.etcd.io/etcd/server/v3", Cold: 20 * time.Second},
		{Name: "agnhost", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/test/images/agnhost", Cold: 20 * time.Second},
		// A server that sends packets out of the window, for a test of connection tracking; in the image of agnhost.
		{Name: "regression-issue-74839", Set: SetCluster, Module: "kubernetes", Package: kubernetes + "/test/images/regression-issue-74839", Cold: 5 * time.Second},
		{Name: "containerd", Set: SetCluster, Module: "containerd", Package: containerd + "/cmd/containerd", Cold: 90 * time.Second},
		{Name: "containerd-shim-runc-v2", Set: SetCluster, Module: "containerd", Package: containerd + "/cmd/containerd-shim-runc-v2", Cold: 15 * time.Second},
		{Name: "ctr", Set: SetCluster, Module: "containerd", Package: containerd + "/cmd/ctr", Cold: 15 * time.Second},
		{Name: "coredns", Set: SetCluster, Module: "coredns", Package: ".", Cold: 90 * time.Second},
		{Name: "helm", Set: SetCluster, Module: "helm", Package: "helm.sh/helm/v4/cmd/helm", Cold: 100 * time.Second},
		{Name: "ginkgo", Set: SetUpstream, Module: "kubernetes", Package: "github.com/onsi/ginkgo/v2/ginkgo", Cold: 10 * time.Second},
		{Name: "balancer", Set: SetUpstream, Module: "kubernetes", Package: "./balancer", Cold: 10 * time.Second},
		{Name: "e2e.test", Set: SetUpstream, Module: "kubernetes", Package: kubernetes + "/test/e2e", Test: true, Cold: 270 * time.Second},
		{Name: "cnitool", Set: SetBench, Module: "cni", Package: "github.com/containernetworking/cni/cnitool", Cold: 5 * time.Second},
		{Name: "ptp", Set: SetBench, Module: "cni", Package: plugins + "/main/ptp", Cold: 5 * time.Second},
		{Name: "loopback", Set: SetBench, Module: "cni", Package: plugins + "/main/loopback", Cold: time.Second},
		{Name: "host-local", Set: SetBench, Module: "cni", Package: plugins + "/ipam/host-local", Cold: time.Second},
		{Name: "portmap", Set: SetBench, Module: "cni", Package: plugins + "/meta/portmap", Cold: time.Second},
		{Name: "bandwidth", Set: SetBench, Module: "cni", Package: plugins + "/meta/bandwidth", Cold: time.Second},
		{Name: "controller-gen", Set: SetDev, Module: "dev", Package: "sigs.k8s.io/controller-tools/cmd/controller-gen", Cold: 30 * time.Second},
		{Name: "golangci-lint", Set: SetDev, Module: "dev", Package: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint", Cold: 5 * time.Minute},
	}
}

// Sets returns the names of the sets.
func Sets() []string { return []string{SetCluster, SetUpstream, SetBench, SetDev} }

// Select returns the targets named by only, each the name of a target or of a set. Empty means everything but the dev set.
func Select(only []string) ([]Target, error) {
	if len(only) == 0 {
		only = []string{SetCluster, SetUpstream, SetBench}
	}
	targets := Targets()
	known := slices.Clone(Sets())
	for _, t := range targets {
		known = append(known, t.Name)
	}
	for _, name := range only {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("find target %q: have %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(targets, func(t Target) bool {
		return !slices.Contains(only, t.Name) && !slices.Contains(only, t.Set)
	}), nil
}
