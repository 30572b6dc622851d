// Command balancer is the testbed's cloud, as far as Services of type LoadBalancer are concerned: it hands out addresses and
// forwards what comes for them to the nodes, with the client's address kept. It runs in a network namespace of its own, between
// the machine and the nodes. The Service side is the controller that every cloud's own controller manager uses.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/cloud-provider/controllers/service"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/metrics/prometheus/controllers"
)

const (
	workers    = 4
	checkEvery = 500 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kubeconfig := flag.String("kubeconfig", "", "the way into the cluster")
	ranges := flag.String("ranges", "", "the ranges of addresses to hand out, with commas between")
	flag.Parse()
	if err := run(ctx, *kubeconfig, *ranges); err != nil {
		fmt.Fprintln(os.Stderr, "balancer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, ranges string) error {
	var pools []netip.Prefix
	for text := range strings.SplitSeq(ranges, ",") {
		pool, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("read the ranges: %w", err)
		}
		pools = append(pools, pool.Masked())
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	lb := newBalancer(pools)
	factory := informers.NewSharedInformerFactory(client, 0)
	core := factory.Core().V1()
	controller, err := service.New(cloud{lb: lb}, client, core.Services(), core.Nodes(), "testbed", featuregate.NewFeatureGate())
	if err != nil {
		return fmt.Errorf("make the service controller: %w", err)
	}
	factory.Start(ctx.Done())
	go wait.UntilWithContext(ctx, lb.check, checkEvery)
	controller.Run(ctx, workers, controllers.NewControllerManagerMetrics("balancer"))
	return nil
}
