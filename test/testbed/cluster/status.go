package cluster

import (
	"context"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
)

// Status is a table of what runs: part, state, details.
func (c *Cluster) Status(ctx context.Context) ([][]string, error) {
	state, err := c.State()
	if err != nil {
		return nil, err
	}
	lines := [][]string{{"PART", "STATE", "DETAILS"}}
	for _, name := range control.Names() {
		lines = append(lines, []string{name, running(state.Control[name]), "process " + strconv.Itoa(state.Control[name].PID)})
	}
	ready := c.nodesReady(ctx)
	for _, n := range state.NodeList() {
		entry := state.Nodes[n.String()]
		lines = append(lines, []string{n.String(), running(entry.Init), nodeDetails(n, entry, state, ready)})
	}
	if state.Audit.PID != 0 {
		lines = append(lines, []string{"leak audit", running(state.Audit), ""})
	}
	for _, r := range state.Faults {
		lines = append(lines, []string{"fault", "in force", r.String()})
	}
	return lines, nil
}

func running(p proc.Process) string {
	if p.Alive() {
		return "running"
	}
	return "stopped"
}

func nodeDetails(n layout.Node, entry record.Node, state record.State, ready map[string]string) string {
	text := layout.Join(n.Addrs(state.Options.Family)) + " " + ready[n.String()]
	if entry.NAT != "" {
		text += ", behind a " + entry.NAT + " nat"
	}
	if entry.LinkDown {
		text += ", link down"
	}
	return text
}

// nodesReady tells what the API server says; without one, that.
func (c *Cluster) nodesReady(ctx context.Context) map[string]string {
	out := map[string]string{}
	client, err := c.Client()
	if err != nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return out
	}
	for _, n := range list.Items {
		out[n.Name] = "not ready"
		if isReady(n) {
			out[n.Name] = "ready"
		}
	}
	return out
}

// Enter is the command that runs another inside a node's namespaces. The
// node's first process must run.
func (c *Cluster) Enter(name string, command ...string) ([]string, error) {
	state, err := c.State()
	if err != nil {
		return nil, err
	}
	entry, ok := state.Nodes[name]
	if !ok || !entry.Init.Alive() {
		return nil, fmt.Errorf("enter %s: no such node runs", name)
	}
	pid := strconv.Itoa(entry.Init.PID)
	return append([]string{"nsenter", "--target", pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--"}, command...), nil
}
