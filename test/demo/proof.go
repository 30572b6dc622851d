package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/cli/overview"
	"github.com/weftnet/weftnet/cli/view"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/testbed/audit"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

// proof is what the demo saw.
type proof struct {
	Nodes  int
	Family layout.Family
	Mesh   *view.Mesh
	Probes *harness.Probes
	// Hops by their kind: Pod to Pod, node to Pod, Pod to node.
	Hops  map[string][]harness.Hop
	Leaks audit.Report
}

const (
	podToPod  = "Pod to Pod"
	nodeToPod = "node to Pod"
	podToNode = "Pod to node"
)

// agentPatience is how long an agent may take to tell its handshakes.
const agentPatience = 5 * time.Second

func prove(ctx context.Context, cluster *harness.Cluster, probes *harness.Probes, options harness.Options) (*proof, error) {
	p := &proof{Nodes: options.Nodes, Family: options.Family, Probes: probes, Hops: map[string][]harness.Hop{}}
	for kind, ask := range map[string]func(context.Context, *harness.Probes) ([]harness.Hop, error){
		podToPod: cluster.PodHops, nodeToPod: cluster.NodeToPodHops, podToNode: cluster.PodToNodeHops,
	} {
		var err error
		if p.Hops[kind], err = ask(ctx, probes); err != nil {
			return nil, err
		}
	}
	source := view.Source{Client: cluster.Mesh, Typed: cluster.Client, Patience: agentPatience}
	mesh, err := source.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the mesh: %w", err)
	}
	p.Mesh = mesh
	return p, nil
}

// held joins everything that did not hold.
func (p *proof) held() error {
	var faults []error
	for kind, hops := range p.Hops {
		faults = append(faults, p.whole(kind, hops))
		for _, hop := range hops {
			if !hop.Seen.IsValid() {
				faults = append(faults, fmt.Errorf("%s: %s got no answer from %s (%s)", kind, hop.From, hop.Target, hop.To))
			}
		}
	}
	for _, hop := range slices.Concat(p.Hops[podToPod], p.Hops[podToNode]) {
		if hop.Seen.IsValid() && !slices.Contains(addressesOf(p.Probes.Pods, hop.From), hop.Seen) {
			faults = append(faults, fmt.Errorf("%s was seen by %s as %s, which is not its own address", hop.From, hop.To, hop.Seen))
		}
	}
	return errors.Join(append(faults, p.Leaks.Err())...)
}

// whole requires a request between every two, in each family that the cluster has and in no other.
func (p *proof) whole(kind string, hops []harness.Hop) error {
	made := map[bool]int{}
	for _, hop := range hops {
		made[hop.Target.Addr().Is4()]++
	}
	want := p.Nodes * p.Nodes
	for _, is4 := range []bool{true, false} {
		switch {
		case has(p.Family, is4) && made[is4] != want:
			return fmt.Errorf("%s: %d requests over %s were made, want %d", kind, made[is4], familyOf(is4), want)
		case !has(p.Family, is4) && made[is4] != 0:
			return fmt.Errorf("%s: %d requests over %s were made in a cluster without it", kind, made[is4], familyOf(is4))
		}
	}
	return nil
}

func has(family layout.Family, is4 bool) bool {
	return family == layout.Dual || (family == layout.IPv4) == is4
}

func familyOf(is4 bool) layout.Family {
	if is4 {
		return layout.IPv4
	}
	return layout.IPv6
}

// families names them as a person writes them.
func families(family layout.Family) string {
	return map[layout.Family]string{layout.Dual: "IPv4 and IPv6", layout.IPv4: "IPv4", layout.IPv6: "IPv6"}[family]
}

func addressesOf(pods []corev1.Pod, name string) []netip.Addr {
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return harness.Addresses(&pods[i])
}

func (p *proof) print(out io.Writer, root string, took time.Duration) {
	fmt.Fprintln(out, "\nTHE MESH, as `weft status` tells it")
	if err := overview.Write(out, p.Mesh); err != nil {
		fmt.Fprintln(out, err)
	}
	fmt.Fprintln(out, "\nREQUESTS ACROSS NODES (source address as the far side saw it)")
	p.printSamples(out)
	fmt.Fprintf(out, "\nEVERYONE TO EVERYONE, %s\n", families(p.Family))
	for _, kind := range []string{podToPod, nodeToPod, podToNode} {
		answered := 0
		for _, hop := range p.Hops[kind] {
			if hop.Seen.IsValid() {
				answered++
			}
		}
		fmt.Fprintf(out, "  %-12s %d of %d answered\n", kind, answered, len(p.Hops[kind]))
	}
	fmt.Fprintf(out, "\nTHE WIRE\n%s", p.Leaks)
	verdict := "All of it held."
	if p.held() != nil {
		verdict = "NOT all of it held; the reasons follow."
	}
	fmt.Fprintf(out, "\n%s (%s)\n", verdict, took.Round(time.Second))
	fmt.Fprintf(out, farewell, filepath.Join(root, ".testbed", "kubeconfig"))
}

const farewell = `
The cluster stays up.
  export KUBECONFIG=%s
  export PATH=$PWD/.testbed/bin:$PATH
Try next:
  kubectl get meshnodes,ippools -o wide    what the operator gave and what the agents see
  kubectl get pods -A -o wide              every Pod has its own address
  go run ./cli status                      the mesh at one glance
  .testbed/bin/testbed fault --help        cut links, reboot nodes, stop the API server: it keeps working
Stop it:
  make demo-down
`

// printSamples shows one request of each family between two nodes.
func (p *proof) printSamples(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	defer table.Flush()
	for _, is4 := range []bool{true, false} {
		for _, hop := range p.Hops[podToPod] {
			if hop.From != hop.To && hop.Target.Addr().Is4() == is4 {
				fmt.Fprintf(table, "  %s\t-> %s (%s)\tseen as %s\t%s\n", hop.From, hop.Target, hop.To, hop.Seen, hop.Took.Round(10*time.Microsecond))
				break
			}
		}
	}
}
