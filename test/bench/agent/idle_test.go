//go:build linux && bench

package agent

import (
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/bench/lab"
)

// cost of a process: the most memory that was seen, in MiB, and CPU seconds a minute.
type cost struct {
	rss, private, cpu float64
}

// watch gives the means over the nodes.
func watch(t *testing.T, nodes []*lab.Node) (agent, tunnel cost) {
	t.Helper()
	var pids []int
	for _, node := range nodes {
		pids = append(pids, node.AgentPID(), node.TunnelPID())
	}
	costs := make([]cost, len(pids))
	began, first := time.Now(), usages(t, pids)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for elapsed := time.Duration(0); elapsed < idle; {
		<-second.C
		elapsed = time.Since(began)
		for i, u := range usages(t, pids) {
			costs[i].rss, costs[i].private = max(costs[i].rss, u.RSS), max(costs[i].private, u.Private)
			costs[i].cpu = (u.CPU - first[i].CPU).Seconds() / elapsed.Minutes()
		}
	}
	for i, c := range costs {
		into := []*cost{&agent, &tunnel}[i%2]
		n := float64(len(nodes))
		*into = cost{into.rss + c.rss/n, into.private + c.private/n, into.cpu + c.cpu/n}
	}
	return agent, tunnel
}

func usages(t *testing.T, pids []int) []lab.Usage {
	t.Helper()
	out := make([]lab.Usage, len(pids))
	for i, pid := range pids {
		var err error
		if out[i], err = lab.UsageOf(pid); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
