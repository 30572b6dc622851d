// Package node runs a Kubernetes node in namespaces: its first process, its
// disk, its containerd, kubelet and kube-proxy, and its images.
package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/weftnet/weftnet/test/testbed/layout"
)

// Config is what a node depends on.
type Config struct {
	Layout layout.Layout
	Node   layout.Node
	Family layout.Family
	// Addrs are the node's addresses on the underlay.
	Addrs []netip.Prefix
	// KubeProxy runs kube-proxy in nftables mode.
	KubeProxy bool
	// StorageLimits has kubelet evict Pods above their limit of ephemeral storage.
	StorageLimits bool
	// SandboxImage is the name of the pause image.
	SandboxImage string
	// CA, Cert and Key are kubelet's certificate files.
	CA, Cert, Key string
	// Kubeconfig gives the file of a component's client configuration.
	Kubeconfig func(name string) string
	// AwaitAPI is how long kubelet holds back for the API server.
	AwaitAPI time.Duration
}

const (
	containerdSocket = "/run/containerd/containerd.sock"
	listenerWait     = 30 * time.Second
)

// dir is a place on the node's disk.
func (c Config) dir(names ...string) string { return c.Layout.NodeDir(c.Node.String(), names...) }

// disk maps the node's disk to the folders that programs and Pods on a node
// expect; the machine's own such folders stay untouched.
var disk = []struct{ from, to string }{
	{"kubelet", "/var/lib/kubelet"},
	{"cni-state", "/var/lib/cni"},
	{"weftnet", "/var/lib/weftnet"},
	{"etc-cni", "/etc/cni"},
	{"opt-cni", "/opt/cni"},
	{"pods", "/var/log/pods"},
	{"containers", "/var/log/containers"},
}

// MountPoints are the folders that must exist on the machine for a node.
func MountPoints() []string {
	var out []string
	for _, d := range disk {
		out = append(out, d.to)
	}
	return out
}

// dirs are the folders to make on the node's disk.
func (c Config) dirs() []string {
	out := []string{c.dir("containerd"), c.dir("opt"), c.dir("etc")}
	for _, d := range disk {
		out = append(out, c.dir(d.from))
	}
	return append(out, c.dir("etc-cni", "net.d"), c.dir("opt-cni", "bin"))
}

// NewPlan is the plan of the node's first process.
func NewPlan(c Config, bootFile string) Plan {
	plan := Plan{
		Hostname: c.Node.String(),
		Cgroup:   c.Node.String() + "/system",
		Dirs:     []string{"/run/netns", "/run/weftnet", "/run/wireguard", "/run/lock", "/run/containerd"},
		Services: []Service{c.containerd(), c.kubelet()},
	}
	for _, d := range disk {
		plan.Binds = append(plan.Binds, Bind{From: c.dir(d.from), To: d.to})
	}
	// A boot is told from the one before by this file.
	plan.Binds = append(plan.Binds, Bind{From: bootFile, To: "/proc/sys/kernel/random/boot_id"})
	if c.KubeProxy {
		plan.Services = append(plan.Services, c.kubeProxy())
	}
	return plan
}

func (c Config) service(name string, after []Dial, args ...string) Service {
	return Service{
		Name: name, Path: c.Layout.Path("bin", name), Args: args, After: after,
		Env: []string{"PATH=" + c.Layout.BinDir() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Log: c.Layout.Log(c.Node.String() + "-" + name),
	}
}

func (c Config) containerd() Service {
	return c.service("containerd", nil, "--config", c.dir("containerd.toml"))
}

func (c Config) kubelet() Service {
	after := []Dial{{Network: "unix", Address: containerdSocket, Max: listenerWait}}
	if c.AwaitAPI > 0 {
		after = append(after, c.api(c.AwaitAPI))
	}
	return c.service("kubelet", after,
		"--config="+c.dir("kubelet.yaml"),
		"--kubeconfig="+c.Kubeconfig(c.Node.String()),
		"--hostname-override="+c.Node.String(),
		"--node-ip="+layout.Join(addrs(c.Addrs)),
		"--root-dir=/var/lib/kubelet",
		"-v=2")
}

func (c Config) api(most time.Duration) Dial {
	return Dial{Network: "tcp", Address: layout.APIServer(c.Family).String(), Max: most}
}

func (c Config) kubeProxy() Service {
	return c.service("kube-proxy", []Dial{c.api(listenerWait)},
		"--kubeconfig="+c.Kubeconfig("kube-proxy"),
		"--hostname-override="+c.Node.String(),
		"--proxy-mode=nftables",
		"--cluster-cidr="+layout.Join(layout.PodCIDRs(c.Family)),
		// The machine's conntrack limits are not a node's to change.
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0",
		"--conntrack-tcp-timeout-close-wait=0")
}

func addrs(prefixes []netip.Prefix) []netip.Addr {
	out := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		out[i] = p.Addr()
	}
	return out
}

var templates = template.Must(template.New("").Parse(`
{{define "containerd"}}version = 3
root = "{{.Root}}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{{.Socket}}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{{.Opt}}"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{{.Sandbox}}"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE a lower score cannot be given.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
{{end}}
{{define "kubelet"}}apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
# One root per node, or kubelets end each other's Pods.
cgroupRoot: /{{.Node}}
cgroupsPerQOS: true
enforceNodeAllocatable: [none]
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: {{.CA}}}
authorization: {mode: Webhook}
tlsCertFile: {{.Cert}}
tlsPrivateKeyFile: {{.Key}}
clusterDNS: [{{.DNS}}]
clusterDomain: {{.Domain}}
containerRuntimeEndpoint: unix://{{.Socket}}
resolvConf: {{.ResolvConf}}
volumePluginDir: /var/lib/kubelet/volumeplugins
failSwapOn: false
localStorageCapacityIsolation: {{.StorageLimits}}
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "50Mi"}
address: "{{.Listen}}"
# Everything here shares few cores; Pods are to start and stop promptly.
serializeImagePulls: false
registryPullQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
nodeStatusUpdateFrequency: 5s
# Tests kill the same programs again and again, within minutes.
crashLoopBackOff: {maxContainerRestartPeriod: 3s}
{{end}}`))

func (c Config) render(name string) (string, error) {
	// The IPv6 wildcard listens to both families.
	listen := "::"
	if c.Family == layout.IPv4 {
		listen = "0.0.0.0"
	}
	values := map[string]string{
		"Listen": listen,
		"Root":   c.dir("containerd"), "Opt": c.dir("opt"), "Socket": containerdSocket, "Sandbox": c.SandboxImage,
		"Node": c.Node.String(), "CA": c.CA, "Cert": c.Cert, "Key": c.Key,
		"DNS":    layout.DNS(c.Family)[0].String(),
		"Domain": layout.Domain, "ResolvConf": c.dir("etc", "resolv.conf"),
		"StorageLimits": strconv.FormatBool(c.StorageLimits),
	}
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, name, values); err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return out.String(), nil
}

// baseline is the CNI configuration of the reference plugins: a routed veth
// pair per Pod, as Weftnet makes them, but in the clear.
func baseline(n layout.Node, family layout.Family) ([]byte, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, p := range n.BaselinePods(family) {
		ranges = append(ranges, []object{{"subnet": p.String()}})
		everything := "0.0.0.0/0"
		if p.Addr().Is6() {
			everything = "::/0"
		}
		routes = append(routes, object{"dst": everything})
	}
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "baseline",
		"plugins": []object{
			{"type": "ptp", "ipMasq": false, "ipam": object{
				"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": ranges, "routes": routes,
			}},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
}

// resolvConf keeps the name servers that a Pod could reach: a loopback
// address means another machine in every namespace.
func resolvConf(text string) string {
	keep := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			return false
		}
		addr, err := netip.ParseAddr(fields[1])
		return err != nil || addr.IsLoopback()
	})
	return strings.Join(keep, "\n")
}
