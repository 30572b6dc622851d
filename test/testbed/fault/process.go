package fault

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Program turns a part's short name into its program's: agent is
// weftnet-agent. Any other name stands for itself (coredns, kubelet, ...).
func Program(part string) string {
	switch part {
	case "agent", "operator", "wireguard":
		return "weftnet-" + part
	default:
		return part
	}
}

// Processes lists the processes of a program on a node. A node's processes,
// those in Pods too, are in the cgroup of its name.
func Processes(node layout.Node, program string) ([]proc.Process, error) {
	return proc.Select(func(pid int) bool {
		return proc.Program(pid) == program && proc.InCgroup(pid, "/"+node.String())
	})
}

// killPatience is how long a killed process may take to end, on a busy machine.
const killPatience = 30 * time.Second

// Signal sends a signal to every process of a program on the nodes and says
// how many there were; none is an error. Those that it kills have ended when it returns.
func Signal(nodes []layout.Node, program string, sig syscall.Signal) (int, error) {
	count := 0
	var killed []proc.Process
	for _, node := range nodes {
		found, err := Processes(node, program)
		if err != nil {
			return count, err
		}
		for _, p := range found {
			if err := p.Signal(sig); err != nil {
				return count, fmt.Errorf("send %v to %s (process %d) on %s: %w", sig, program, p.PID, node, err)
			}
			count++
			if sig == syscall.SIGKILL {
				killed = append(killed, p)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	for _, p := range killed {
		if err := p.Wait(ctx); err != nil {
			return count, fmt.Errorf("wait for the end of %s (process %d): %w", program, p.PID, err)
		}
	}
	if count == 0 {
		return 0, fmt.Errorf("find %s on %v: no such process", program, nodes)
	}
	return count, nil
}

// ResumeHeld lets every held process of a node go on.
func ResumeHeld(node layout.Node) error {
	held, err := proc.Select(func(pid int) bool { return proc.Held(pid) && proc.InCgroup(pid, "/"+node.String()) })
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range held {
		errs = append(errs, p.Signal(syscall.SIGCONT))
	}
	return errors.Join(errs...)
}
