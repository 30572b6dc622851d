// Command demo brings up a real Kubernetes cluster on this machine, installs Weftnet into it as its
// only network, and shows that Pods reach each other and that the wire carries nothing but WireGuard.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	nodes := flag.Int("nodes", 3, "nodes of the cluster")
	proxy := flag.String("proxy", "none", "what the testbed brings to serve Services: kube-proxy, or none for Weftnet's own service proxy")
	familyName := flag.String("ip-family", string(layout.Dual), "the cluster's address families: dual, ipv4 or ipv6")
	flag.Parse()
	family, err := layout.ParseFamily(*familyName)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	if err := run(ctx, harness.Options{Nodes: *nodes, Proxy: *proxy, Family: family, Out: os.Stdout}); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		fmt.Fprintln(os.Stderr, "The cluster is left as it is, to look at: export KUBECONFIG=.testbed/kubeconfig. `make demo-down` ends it.")
		os.Exit(1)
	}
}

func run(ctx context.Context, options harness.Options) error {
	begin := time.Now()
	root, err := harness.Root()
	if err != nil {
		return err
	}
	heading(begin, "build the cluster's programs and Weftnet's images")
	if err := harness.Build(ctx, root, options); err != nil {
		return err
	}
	heading(begin, "bring up %d nodes (%s), without a network", options.Nodes, families(options.Family))
	cluster, err := harness.Up(ctx, root, options)
	if err != nil {
		return err
	}
	heading(begin, "listen on the wire, then install Weftnet with Helm")
	audit, err := cluster.StartAudit(ctx)
	if err != nil {
		return err
	}
	proof, err := installAndProve(ctx, cluster, options, begin)
	report, stopErr := audit.Stop(ctx)
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	proof.Leaks = report
	proof.print(os.Stdout, root, time.Since(begin))
	return proof.held()
}

func installAndProve(ctx context.Context, cluster *harness.Cluster, options harness.Options, begin time.Time) (*proof, error) {
	nodes := options.Nodes
	if err := cluster.Install(ctx, options.Values()...); err != nil {
		return nil, err
	}
	heading(begin, "wait until every node is connected to every other")
	if err := cluster.WaitNodes(ctx, nodes, 4*time.Minute); err != nil {
		return nil, err
	}
	heading(begin, "start a Pod on every node and let all talk to all")
	probes, err := cluster.StartProbes(ctx, nodes)
	if err != nil {
		return nil, err
	}
	return prove(ctx, cluster, probes, options)
}

func heading(begin time.Time, format string, args ...any) {
	elapsed := time.Since(begin).Round(time.Second)
	fmt.Printf("\n== %02d:%02d  %s\n", int(elapsed.Minutes()), int(elapsed.Seconds())%60, fmt.Sprintf(format, args...))
}
