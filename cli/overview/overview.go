// Package overview writes what is known of a mesh as tables for a terminal. It computes nothing
// that another package decides; the same Mesh always gives the same text.
package overview

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/cli/view"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

const none = "-"

// Write writes the nodes, the pools, and what is wrong.
func Write(w io.Writer, m *view.Mesh) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tREADY\tBACKEND\tPOD CIDRS\tENDPOINTS\tPEERS\tLAST HANDSHAKE\tMTU")
	for _, name := range m.Names() {
		fmt.Fprintln(t, strings.Join(nodeRow(m, name), "\t"))
	}
	if len(m.Pools) > 0 {
		fmt.Fprintln(t, "\nPOOL\tREADY\tRANGE\tBLOCKS USED\tFREE")
	}
	for i := range m.Pools {
		for _, row := range poolRows(&m.Pools[i]) {
			fmt.Fprintln(t, strings.Join(row, "\t"))
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the overview: %w", err)
	}
	for _, line := range Troubles(m) {
		if _, err := fmt.Fprintln(w, "!", line); err != nil {
			return fmt.Errorf("write the overview: %w", err)
		}
	}
	for _, u := range m.Unasked {
		if u.Forbidden { // the same for all of them, and no fault of theirs
			if _, err := fmt.Fprintln(w, "handshakes are not known:", u.Why); err != nil {
				return fmt.Errorf("write the overview: %w", err)
			}
			break
		}
	}
	return nil
}

func nodeRow(m *view.Mesh, name string) []string {
	n := m.MeshNode(name)
	if n == nil {
		return []string{name, "no MeshNode", none, none, none, none, none, none}
	}
	return []string{
		name,
		readiness(n.Status.Conditions),
		orNone(string(n.Status.Backend)),
		list(n.Spec.PodCIDRs),
		list(n.Status.Endpoints),
		fmt.Sprintf("%d/%d", n.Status.Peers.Connected, n.Status.Peers.Expected),
		lastHandshake(m, name),
		orNone(number(n.Status.MTU)),
	}
}

func lastHandshake(m *view.Mesh, name string) string {
	unasked, silent := m.Unasked[name]
	if _, asked := m.Links[name]; !asked {
		if silent && !unasked.Forbidden {
			return "no answer"
		}
		return "unknown"
	}
	age, known := m.LastHandshake(name)
	if !known {
		return none
	}
	return age.Round(time.Second).String() + " ago"
}

func poolRows(pool *v1alpha1.IPPool) [][]string {
	var rows [][]string
	for _, r := range pool.Spec.CIDRs {
		row := []string{pool.Name, readiness(pool.Status.Conditions), r.CIDR, none, none}
		for _, usage := range pool.Status.Usage {
			if usage.CIDR == r.CIDR {
				row[3], row[4] = fmt.Sprint(usage.Allocated), fmt.Sprint(usage.Free)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// Troubles are the conditions that do not hold, and the Pods that are not ready or do not answer, a line each.
func Troubles(m *view.Mesh) []string {
	var lines []string
	for i := range m.MeshNodes {
		lines = append(lines, unmet("node "+m.MeshNodes[i].Name, m.MeshNodes[i].Status.Conditions)...)
	}
	for i := range m.Pools {
		lines = append(lines, unmet("pool "+m.Pools[i].Name, m.Pools[i].Status.Conditions)...)
	}
	if m.Config != nil {
		lines = append(lines, unmet("MeshConfig "+m.Config.Name, m.Config.Status.Conditions)...)
	}
	for _, name := range m.Names() {
		if line := agentTrouble(m, name); line != "" {
			lines = append(lines, line)
		}
	}
	for _, o := range m.Operators {
		if !o.Ready {
			lines = append(lines, fmt.Sprintf("operator %s: %s", o.Pod, o.Why))
		}
	}
	return lines
}

// agentTrouble says what is wrong with a node's agent; empty when nothing is.
func agentTrouble(m *view.Mesh, name string) string {
	agent, there := m.Agents[name]
	if !there {
		if m.Node(name) == nil {
			return ""
		}
		return fmt.Sprintf("node %s has no agent", name)
	}
	var what []string
	if !agent.Ready {
		what = append(what, agent.Why)
	}
	if u, silent := m.Unasked[name]; silent && !u.Forbidden {
		what = append(what, "it does not answer: "+u.Why)
	}
	if len(what) == 0 {
		return ""
	}
	return fmt.Sprintf("agent %s on %s: %s", agent.Pod, name, strings.Join(what, "; "))
}

func unmet(about string, conditions []metav1.Condition) []string {
	var lines []string
	for _, c := range conditions {
		if !view.Holds(c) {
			lines = append(lines, fmt.Sprintf("%s: %s is %s: %s: %s", about, c.Type, c.Status, c.Reason, c.Message))
		}
	}
	return lines
}

func readiness(conditions []metav1.Condition) string {
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	switch {
	case c == nil:
		return "Unknown"
	case c.Status == metav1.ConditionTrue:
		return "True"
	default:
		return string(c.Status) + " (" + c.Reason + ")"
	}
}

func list(items []string) string { return orNone(strings.Join(items, ",")) }

func number(n int32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}
