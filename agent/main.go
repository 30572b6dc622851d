//go:build linux

// Weftnet-agent makes the network of one node: its keys, peers, routes, Pod interfaces and
// fail-closed rules, and reports what it found. Ending it changes nothing on the wire.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/weftnet/weftnet/agent/source"
	"github.com/weftnet/weftnet/version"
)

type options struct {
	node, stateDir, runDir, procSysNet, binDir, confDir string
	plugin, metrics, backend                            string
	socketLB, cgroupMount, cgroup, bpfDir, fastPath     string
	connection                                          source.Connection
	level                                               slog.Level
	profile, disableOthers, policy, serviceProxy        bool
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.level}))
	klog.SetSlogLogger(log)
	if err := coarseTimers(); err != nil {
		log.Warn("the agent's timers stay as exact as the kernel makes them, which costs CPU time", "error", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log.Info("start", "version", version.Version, "node", o.node, "memoryLimit", limitMemory(os.Getenv))
	if err := run(ctx, o, log); err != nil {
		log.Error("stop", "error", err)
		os.Exit(1)
	}
	log.Info("stop; the data plane is left standing")
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("weftnet-agent", flag.ContinueOnError)
	f.StringVar(&o.node, "node-name", os.Getenv("NODE_NAME"), "name of this node's Node object")
	f.StringVar(&o.connection.Server, "api-server", "", "host:port of the API server; must be reachable without the mesh, a Service or the cluster's DNS")
	f.StringVar(&o.connection.Kubeconfig, "kubeconfig", "", "kubeconfig to use instead of the Pod's ServiceAccount")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/weftnet", "directory for key, address records and peer cache; must survive a reboot")
	f.StringVar(&o.runDir, "run-dir", "/run/weftnet", "directory for the CNI socket and requests to the wireguard process")
	f.StringVar(&o.procSysNet, "proc-sys-net", "/proc/sys/net", "where the host's /proc/sys/net is mounted writable")
	f.StringVar(&o.binDir, "cni-bin-dir", "/opt/cni/bin", "directory to install the CNI plugin in; empty installs nothing")
	f.StringVar(&o.confDir, "cni-conf-dir", "/etc/cni/net.d", "directory to install the CNI configuration in")
	f.StringVar(&o.plugin, "cni-plugin", "/weftnet-cni", "the CNI plugin's binary to install")
	f.BoolVar(&o.disableOthers, "cni-disable-others", true, "set other plugins' CNI configurations aside once Weftnet is in force")
	f.BoolVar(&o.serviceProxy, "service-proxy", true, "serve Services in place of kube-proxy; false removes what an earlier run served")
	f.StringVar(&o.socketLB, "socket-lb", "auto", "auto chooses endpoints when local processes connect over TCP, where the kernel can; off leaves it to nftables")
	f.StringVar(&o.cgroupMount, "cgroup-mount", "/sys/fs/cgroup", "where the node's cgroups are mounted")
	f.StringVar(&o.cgroup, "cgroup", "", "the cgroup (version 2) of the node's processes and Pods, below the root; empty is the root")
	f.StringVar(&o.bpfDir, "bpf-dir", "/sys/fs/bpf/weftnet", "folder on a bpf file system to pin programs in; must survive the agent")
	f.StringVar(&o.fastPath, "fast-path", "off", "auto hands the packets of established connections between Pods of this node straight to the other Pod, where the kernel can; off sends all through routing and rules")
	f.BoolVar(&o.policy, "policy", true, "enforce NetworkPolicy and ClusterNetworkPolicy; false removes what an earlier run enforced")
	// Every interface: kubelet probes it and Prometheus scrapes it at the node's address, which may change.
	f.StringVar(&o.metrics, "metrics-address", ":9871", "address for /metrics, /healthz and /readyz")
	f.StringVar(&o.backend, "backend", "", "Kernel or Userspace; empty leaves it to the MeshConfig")
	f.BoolVar(&o.profile, "pprof", false, "serve /debug/pprof on the metrics address")
	f.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	return o, o.validate()
}

// validate joins all faults.
func (o options) validate() error {
	var errs []error
	if o.node == "" {
		errs = append(errs, errors.New("--node-name is missing"))
	}
	if o.connection == (source.Connection{}) {
		errs = append(errs, errors.New("--api-server is missing (or --kubeconfig)"))
	}
	for flagName, dir := range map[string]string{"state-dir": o.stateDir, "run-dir": o.runDir, "proc-sys-net": o.procSysNet} {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("--%s: want an absolute path, got %q", flagName, dir))
		}
	}
	if !slices.Contains([]string{"auto", "off"}, o.socketLB) {
		errs = append(errs, fmt.Errorf("--socket-lb: want auto or off, got %q", o.socketLB))
	}
	if !slices.Contains([]string{"auto", "off"}, o.fastPath) {
		errs = append(errs, fmt.Errorf("--fast-path: want auto or off, got %q", o.fastPath))
	}
	if !slices.Contains([]string{"", "Kernel", "Userspace"}, o.backend) {
		errs = append(errs, fmt.Errorf("--backend: want Kernel, Userspace or nothing, got %q", o.backend))
	}
	return errors.Join(errs...)
}
