//go:build linux && apiserver

package cleanup

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/kubeproxy"
)

// TestTakeOver runs a real kube-proxy, opens connections through a Service, ends kube-proxy, and
// removes its rules.
func TestTakeOver(t *testing.T) {
	server := apiserver.Start(t)
	api := apiserver.Client(t, server.Config)
	_, host, _ := strings.Cut(server.Config.Host, "://")
	makeNode(t, api)
	addresses := makeService(t, api)
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	config := kubeproxy.Config{
		Bin: filepath.Join(root, ".testbed", "bin"), Node: nodeName, ClusterCIDR: "10.244.0.0/16,fd00:10:244::/48",
		Kubeconfig: server.Kubeconfig(t, "kube-proxy", "system:masters"),
	}
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			if _, err := exec.LookPath("iptables-nft-save"); mode == "iptables" && err != nil {
				t.Skip("iptables is not on this machine, and kube-proxy's iptables mode runs it")
			}
			l := newLab(t)
			l.node.Relay(t, strings.TrimSuffix(host, "/"))
			others(t, l, mode)
			config.Mode = mode
			before := l.reference(t, config, addresses)
			takeOver(t, l, config, addresses)
			if after := l.ruleset(t); after != before {
				t.Errorf("the rules of others have changed, or something of kube-proxy's is left.\nbefore:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func takeOver(t *testing.T, l *lab, config kubeproxy.Config, addresses []netip.AddrPort) {
	proxy := kubeproxy.Start(t, l.node, config)
	var open []*line
	for _, a := range addresses {
		open = append(open, l.eventuallyDial(t, a))
	}
	l.refused(t, ErrKubeProxyRuns)
	proxy.Stop(t)
	l.refused(t, ErrNoServices)
	// As ours does, it keeps the hooks of NAT and, by a rule that translates, those of connection tracking in use.
	l.nft(t, "add table inet weftnet-service",
		"add chain inet weftnet-service prerouting { type nat hook prerouting priority dstnat; }",
		"add chain inet weftnet-service output { type nat hook output priority -100; }",
		"add chain inet weftnet-service postrouting { type nat hook postrouting priority srcnat; }",
		"add rule inet weftnet-service prerouting tcp dport 9 dnat ip to 127.0.0.1",
		"add rule inet weftnet-service prerouting tcp dport 9 dnat ip6 to ::1")

	if told, err := l.cleanup(t, "--dry-run"); err != nil || !strings.Contains(told, "would remove") {
		t.Errorf("dry run: %v, told %q", err, told)
	}
	l.dial(t, addresses[0]).echo(t, "the dry run removed nothing")

	if told, err := l.cleanup(t); err != nil || !strings.Contains(told, "remove ") {
		t.Fatalf("cleanup: %v, told %q", err, told)
	}
	for _, o := range open {
		o.echo(t, "still here")
	}
	for _, a := range addresses {
		if _, err := l.tryDial(t, a); err == nil {
			t.Errorf("a new connection to %s was translated by rules that should be gone", a)
		}
	}
	if told, err := l.cleanup(t); err != nil || !strings.Contains(told, "nothing of kube-proxy") {
		t.Errorf("a second time: %v, told %q", err, told)
	}
	l.nft(t, "delete table inet weftnet-service")
}

// reference is what kube-proxy's own cleanup leaves, which runs the programs nft and iptables.
func (l *lab) reference(t *testing.T, config kubeproxy.Config, addresses []netip.AddrPort) string {
	t.Helper()
	proxy := kubeproxy.Start(t, l.node, config)
	for _, a := range addresses {
		_ = l.eventuallyDial(t, a).Close()
	}
	proxy.Stop(t)
	l.run(t, filepath.Join(config.Bin, "kube-proxy"), "--cleanup")
	return l.ruleset(t)
}

// others makes what must stay: a person's own rules, and what the kubelet makes.
func others(t *testing.T, l *lab, mode string) {
	t.Helper()
	l.nft(t, "add table ip mine", "add chain ip mine KUBE-SERVICES { type filter hook input priority 5; }", "add table inet kube-proxy", "add table ip6 kube-proxy-mine")
	if mode != "iptables" {
		return
	}
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		l.run(t, program, "-w", "-t", "filter", "-N", "KUBE-FIREWALL")
		l.run(t, program, "-w", "-t", "filter", "-A", "INPUT", "-j", "KUBE-FIREWALL")
		l.run(t, program, "-w", "-t", "filter", "-A", "KUBE-FIREWALL", "-p", "tcp", "--dport", "1", "-m", "comment", "--comment", "kubelet's", "-j", "DROP")
		l.run(t, program, "-w", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
		l.run(t, program, "-w", "-t", "nat", "-A", "POSTROUTING", "-p", "tcp", "--dport", "2", "-j", "MASQUERADE")
		// Its built-in chains are there once any rule is.
		for table, chains := range map[string][]string{"nat": {"PREROUTING", "OUTPUT", "INPUT"}, "filter": {"FORWARD", "OUTPUT"}} {
			for _, chain := range chains {
				l.run(t, program, "-w", "-t", table, "-A", chain, "-p", "udp", "--dport", "3", "-j", "ACCEPT")
			}
		}
	}
}

// TestLinkOfIPVSGoes has the link's name alone: this mode needs modules that few kernels carry.
func TestLinkOfIPVSGoes(t *testing.T) {
	l := newLab(t)
	l.node.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "kube-ipvs0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Error(err)
		}
	})
	told, err := l.cleanup(t, "--force")
	if err != nil || !strings.Contains(told, "remove link kube-ipvs0") || !strings.Contains(told, "stays: ip sets KUBE-*") {
		t.Errorf("cleanup: %v, told %q", err, told)
	}
	l.node.Do(t, func() {
		if _, err := netlink.LinkByName("kube-ipvs0"); err == nil {
			t.Error("the link is still there")
		}
	})
}
