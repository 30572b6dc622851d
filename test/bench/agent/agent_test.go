//go:build linux && bench

// Package agent measures what the agent costs while nothing happens, and how soon a node that joins
// is connected: in a mesh of three nodes, and in one of five hundred.
package agent

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/bench/table"
)

const (
	// residents are real nodes, each with agent and wireguard process.
	residents = 3
	// total is how many MeshNodes there are in the end; those that are not real are simulated.
	total = 500
	// idle is how long the processes are watched while nothing happens.
	idle = 20 * time.Second
	// joins of a new node are measured in each mesh.
	joins = 8
)

func TestAgent(t *testing.T) {
	l := lab.New(t)
	nodes := startResidents(t, l)
	small := measure(t, l, nodes, residents, total)
	simulate(t, l, nodes)
	large := measure(t, l, nodes, total, total+joins)
	title := fmt.Sprintf("Agent: idle for %v, means of %d nodes; %d joins of a node, seen from each of the %d", idle, residents, joins, residents)
	table.Print(os.Stdout, title, fmt.Sprintf("%d MeshNodes", total), fmt.Sprintf("%d MeshNodes", residents), compare(large, small))
}

func startResidents(t *testing.T, l *lab.Lab) []*lab.Node {
	t.Helper()
	var nodes []*lab.Node
	for number := range residents {
		if err := l.Allocate(t.Context(), number); err != nil {
			t.Fatal(err)
		}
		node := l.NewNode(t, number)
		node.Start(t)
		nodes = append(nodes, node)
	}
	return nodes
}

// figures are what is measured of one mesh.
type figures struct {
	agent, tunnel cost
	// published is from the start of a joining node's processes to its status, connected from there
	// to the handshake on each resident; in milliseconds.
	published, connected []float64
}

// measure waits until all are connected, watches, and lets nodes join, with numbers from joining on.
func measure(t *testing.T, l *lab.Lab, nodes []*lab.Node, members, joining int) figures {
	t.Helper()
	for _, node := range nodes {
		l.WaitMesh(t, node.Number, members-1, members-1, time.Minute)
	}
	var f figures
	f.agent, f.tunnel = watch(t, nodes)
	for i := range joins {
		published, connected := join(t, l, nodes, joining+i)
		f.published, f.connected = append(f.published, published), append(f.connected, connected...)
	}
	return f
}

// compare makes the rows: how what is measured grows with the mesh.
func compare(large, small figures) []table.Row {
	row := func(name, unit string, of func(figures) float64) table.Row {
		return table.Row{Name: name, Unit: unit, LessIsBetter: true, Ours: []float64{of(large)}, Theirs: []float64{of(small)}}
	}
	return []table.Row{
		row("agent, memory", "MiB", func(f figures) float64 { return f.agent.rss }),
		row("of it not of files", "MiB", func(f figures) float64 { return f.agent.private }),
		row("agent, CPU", "s/min", func(f figures) float64 { return f.agent.cpu }),
		row("wireguard, memory", "MiB", func(f figures) float64 { return f.tunnel.rss }),
		row("of it not of files", "MiB", func(f figures) float64 { return f.tunnel.private }),
		row("wireguard, CPU", "s/min", func(f figures) float64 { return f.tunnel.cpu }),
		row("start to published, p50", "ms", func(f figures) float64 { return table.Median(f.published) }),
		row("published to handshake, p50", "ms", func(f figures) float64 { return table.Median(f.connected) }),
		row("published to handshake, p99", "ms", func(f figures) float64 { return table.Quantile(f.connected, 0.99) }),
	}
}
