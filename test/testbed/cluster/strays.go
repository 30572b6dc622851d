package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// endUnrecorded ends the nodes' first processes and the programs of the control plane that run although no record names
// them: a crash came between their start and the record. They would hold the ports and files of those that
// `up` is about to start. Whatever else runs in a node's network namespace is a user's.
func (s *session) endUnrecorded(ctx context.Context) error {
	state := s.rec.State()
	all, err := ownProcesses(state.NodeList())
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		if !recorded(state, p) {
			s.say("ending a process that an earlier command has left (%d)", p.PID)
			errs = append(errs, p.Stop(ctx, 0))
		}
	}
	return errors.Join(errs...)
}

func recorded(state record.State, p proc.Process) bool {
	known := slices.Collect(maps.Values(state.Control))
	for _, n := range state.Nodes {
		known = append(known, n.Init)
	}
	return slices.Contains(known, p)
}

// ownProcesses are those that the testbed itself starts in the nodes' network namespaces.
func ownProcesses(nodes []layout.Node) ([]proc.Process, error) {
	var out []proc.Process
	for _, n := range nodes {
		all, err := proc.InNamespace(underlay.NetNSFile(n.String()))
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if slices.Contains(control.Names(), proc.Program(p.PID)) || isInit(p.PID) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// isInit tells a node's first process by its arguments, and by being the first of its process namespace: what it starts has
// its arguments, too, until it runs a program of its own. One that is gone is none.
func isInit(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := bytes.Split(text, []byte{0})
	return err == nil && len(args) > 2 && string(args[1]) == node.InitCommand && isFirst(pid)
}

// isFirst reads the number that a process has in the innermost namespace that it is in (NSpid in proc_pid_status(5)).
func isFirst(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			all := strings.Fields(numbers)
			return len(all) > 1 && all[len(all)-1] == "1"
		}
	}
	return false
}
