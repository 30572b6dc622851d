// Package debian sees to the programs that the testbed takes from the operating system. On Debian and its relatives, as root, it installs
// what is missing; elsewhere it says exactly what is missing and how to get it.
package debian

import (
	"fmt"
	"slices"
	"strings"
)

// Need is a Debian package and the file or program that shows it is there, on any distribution.
type Need struct {
	Package string
	Probe   string // a program to find in PATH or, if it has a slash, a file
	For     string
}

// Purposes select needs.
const (
	Cluster = "cluster" // bring up a cluster, run the tests
	Kernel  = "kernel"  // boot a kernel with WireGuard in a virtual machine
	// Generate compiles the eBPF programs; without it the committed ones are taken as they are.
	Generate = "generate"
)

// Purposes lists them all.
func Purposes() []string { return []string{Cluster, Kernel, Generate} }

var needs = map[string][]Need{
	Cluster: {
		{"runc", "runc", "runs the containers; built without libseccomp it refuses the runtime's seccomp profile"},
		{"debootstrap", "debootstrap", "makes the root file system of the end-to-end suite's images"},
		{"iproute2", "ip", "looks into network namespaces"},
		{"nftables", "nft", "shows rules in tests and faults"},
		{"conntrack", "conntrack", "shows connections in tests"},
		{"iputils-ping", "ping", "probes paths in tests"},
		{"iperf3", "iperf3", "sends streams in benchmarks"},
		{"procps", "sysctl", "reads kernel parameters"},
		{"mount", "mount", "kubelet mounts volumes with it"},
		{"util-linux", "nsenter", "enters a node's namespaces"},
		{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "lets Go download modules"},
	},
	Generate: {
		{"clang-14", "clang-14", "compiles the eBPF programs; another version makes another object"},
		{"llvm-14", "llvm-objcopy-14", "takes what is not needed out of the compiled object"},
		{"libbpf-dev", "/usr/include/bpf/bpf_helpers.h", "declares the kernel's functions to eBPF programs"},
		{"linux-libc-dev", "/usr/include/linux/bpf.h", "declares the kernel's structures to eBPF programs"},
	},
	Kernel: {
		{"qemu-system-x86", "qemu-system-x86_64", "emulates the machine"},
		{"cpio", "cpio", "packs the initial file system"},
		{"kmod", "modprobe", "lists what a kernel module needs"},
	},
}

// Needs returns the needs of the purposes, by package name.
func Needs(purposes ...string) ([]Need, error) {
	var out []Need
	for _, p := range purposes {
		list, ok := needs[p]
		if !ok {
			return nil, fmt.Errorf("find purpose %q: have %s", p, strings.Join(Purposes(), ", "))
		}
		out = append(out, list...)
	}
	slices.SortFunc(out, func(a, b Need) int { return strings.Compare(a.Package, b.Package) })
	return slices.Compact(out), nil
}

// Missing returns the needs that present does not confirm.
func Missing(all []Need, present func(probe string) bool) []Need {
	return slices.DeleteFunc(slices.Clone(all), func(n Need) bool { return present(n.Probe) })
}

// advice is what a user can do about missing needs that we cannot install.
func advice(missing []Need, reason string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d prerequisites are missing and cannot be installed here (%s):\n", len(missing), reason)
	var packages []string
	for _, n := range missing {
		fmt.Fprintf(&b, "  %-16s %s\n", n.Probe, n.For)
		packages = append(packages, n.Package)
	}
	fmt.Fprintf(&b, "On Debian or Ubuntu:  sudo apt-get update && sudo apt-get install -y --no-install-recommends %s\n", strings.Join(packages, " "))
	b.WriteString("Elsewhere install the packages that bring these programs; their names are mostly the same.")
	return b.String()
}

// isDebian reads an os-release file.
func isDebian(osRelease string) bool {
	for line := range strings.Lines(osRelease) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name != "ID" && name != "ID_LIKE" {
			continue
		}
		if slices.Contains(strings.Fields(strings.Trim(value, `"'`)), "debian") {
			return true
		}
	}
	return false
}
