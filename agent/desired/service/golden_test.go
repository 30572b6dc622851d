package service_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// examples are named Services, each in a golden file with its elements.
func examples() map[string]object {
	return map[string]object{
		"cluster-ip":       web(),
		"no-endpoints":     web(endpoints(), nodePort, externalIPs),
		"node-port":        web(nodePort),
		"external-local":   web(nodePort, loadBalancer, externalLocal),
		"no-local":         web(nodePort, externalLocal, remoteOnly()),
		"internal-local":   web(internalLocal),
		"source-ranges":    web(nodePort, loadBalancer, ranges("10.0.0.0/8", "10.1.0.0/16", "203.0.113.0/24", "2001:db8:9::/48")),
		"affinity":         web(affinity(time.Minute), func(o *object) { o.ClusterIPs = o.ClusterIPs[:1] }),
		"udp-external-ips": web(udp, externalIPs),
		"sctp-node-port":   web(sctp, nodePort, externalLocal),
		"terminating":      web(nodePort, externalLocal, endpoints(terminating(at("10.244.1.5", "node1")), at("10.244.2.5", "node2"))),
	}
}

func TestGolden(t *testing.T) {
	for name, o := range examples() {
		t.Run(name, func(t *testing.T) {
			w := o.wanted()
			var b strings.Builder
			b.WriteString(describe(o))
			for _, f := range w.Frontends {
				fmt.Fprintf(&b, "# frontend %s %s: inside %s, outside %s\n", f.Kind, f.FrontendKey, target(f.Inside), target(f.Outside))
			}
			table := service.Table(here(), w.Timeouts())
			sets := w.Sets()
			for _, s := range table.Sets {
				if s.Elements = sets[s.Name]; len(s.Elements) > 0 {
					b.WriteString("\n" + s.String())
				}
			}
			golden(t, name+".nft", b.String())
		})
	}
}

// TestGoldenTable shows of the chains that there are for many sizes those of one each.
func TestGoldenTable(t *testing.T) {
	table := service.Table(here(), nil)
	leftOut := func(name string) bool {
		_, size, sized := strings.Cut(name, "-")
		_, err := strconv.Atoi(size)
		return sized && err == nil && !slices.Contains([]string{"0", "1", "2", "64", "512"}, size)
	}
	table.Chains = slices.DeleteFunc(table.Chains, func(c state.Chain) bool { return leftOut(c.Name) })
	for i, s := range table.Sets {
		table.Sets[i].Elements = slices.DeleteFunc(slices.Clone(s.Elements), func(e state.Element) bool { return leftOut(e.Verdict.Chain) })
	}
	golden(t, "table.nft", table.String())
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and look at the change. Now:\n%s", path, got)
	}
}

// describe prints the input as comments.
func describe(o object) string {
	var b strings.Builder
	line := func(text string, args ...any) { fmt.Fprintf(&b, "# "+text+"\n", args...) }
	line("service %s clusterIPs %s", o.ServiceName, o.ClusterIPs)
	for _, p := range o.Ports {
		line("  port %s %d protocol %d nodePort %d", p.Name, p.Port, p.Protocol, p.NodePort)
	}
	if len(o.ExternalIPs)+len(o.LoadBalancerIPs)+len(o.SourceRanges) > 0 {
		line("  externalIPs %s loadBalancer %s sourceRanges %s", o.ExternalIPs, o.LoadBalancerIPs, o.SourceRanges)
	}
	if o.ExternalLocal || o.InternalLocal || o.Affinity > 0 {
		line("  externalTrafficPolicy Local %v, internalTrafficPolicy Local %v, affinity %s", o.ExternalLocal, o.InternalLocal, o.Affinity)
	}
	for _, s := range o.slices {
		line("slice %s ports %s", s.Name, ports(s))
		for _, e := range s.Endpoints {
			line("  %s on %s ready %v serving %v terminating %v", e.Addr, e.Node, e.Ready, e.Serving, e.Terminating)
		}
	}
	return b.String()
}

func ports(s snapshot.EndpointSlice) string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprintf("%s %d/%d", p.Name, p.Protocol, p.Port))
	}
	return strings.Join(out, ", ")
}
