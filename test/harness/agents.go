package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/testbed/proc"
)

// agentAddress is where an agent tells, on its node, whether it is ready (agent.metricsPort of the chart).
const agentAddress = "127.0.0.1:9871"

// WaitAgents waits until the agents of these nodes run and are ready. They are asked themselves: a Pod is called
// ready for a while after its agent was killed, and what an agent has told of its node stands until
// the next one tells, which may be long: kubelet holds back a container that has died often.
func (c *Cluster) WaitAgents(ctx context.Context, limit time.Duration, nodes ...string) error {
	return Eventually(ctx, limit, "the agents are ready", func(ctx context.Context) error { return agentsReady(ctx, nodes) })
}

func agentsReady(ctx context.Context, nodes []string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range nodes {
		group.Go(func() error {
			if err := agentReady(ctx, node); err != nil {
				return fmt.Errorf("agent of %s: %w", node, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func agentReady(ctx context.Context, node string) error {
	inNode := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = proc.InNetNS(node, func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: inNode}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agentAddress+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
