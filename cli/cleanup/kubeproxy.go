package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	kernel "github.com/weftnet/weftnet/agent/kernel/kubeproxy"
	"github.com/weftnet/weftnet/agent/kubeproxy"
)

// KubeProxy says how to remove what kube-proxy has left on a node.
type KubeProxy struct {
	// DryRun only tells.
	DryRun bool
	// Force goes on although a kube-proxy answers, which would put everything back, or although
	// Weftnet's own rules for Services are not there, so that no Service would work.
	Force bool
	// Patience is how long to wait for kube-proxy to end and for Weftnet's rules to be in force.
	Patience time.Duration
}

// ServiceTable is that of Weftnet's own service proxy.
const ServiceTable = "weftnet-service"

// Why nothing was removed.
var (
	ErrKubeProxyRuns = errors.New("kube-proxy still runs on this node and would put everything back: remove it first (kubectl -n kube-system delete daemonset kube-proxy), or use --force")
	ErrNoServices    = errors.New("table inet " + ServiceTable + " of Weftnet is not on this node: without kube-proxy's rules no Service would work here, and established connections would lose their translation; " +
		"switch the service proxy on first (chart value serviceProxy.enabled), or use --force")
)

// Run removes, and tells each thing on w, what it cannot remove too. It goes on after what fails,
// and running it again is fine.
func (k KubeProxy) Run(ctx context.Context, w io.Writer) error {
	f, err := kernel.New()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	found, err := f.Find(ctx)
	if err != nil {
		return err
	}
	refusal := k.await(ctx, f)
	act := !k.DryRun && refusal == nil
	if err := tell(w, found, Node{DryRun: !act}.verb()); err != nil {
		return err
	}
	switch {
	case found.Empty() || k.DryRun:
		return nil
	case refusal != nil:
		return refusal
	default:
		return f.Remove(ctx, found)
	}
}

// tell writes before anything happens.
func tell(w io.Writer, found kernel.Rules, verb string) error {
	var lines []string
	for _, line := range found.Lines() {
		lines = append(lines, verb+" "+line)
	}
	if found.Empty() {
		lines = append(lines, "nothing of kube-proxy that netlink could remove is in this node's kernel")
	}
	for _, line := range found.Left() {
		lines = append(lines, "stays: "+line)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("tell of %s: %w", line, err)
		}
	}
	return nil
}

// await asks again until it is allowed, or the patience ends.
func (k KubeProxy) await(ctx context.Context, f *kernel.Finder) error {
	if k.DryRun {
		return k.allowed(ctx, f)
	}
	var refusal error
	err := wait.PollUntilContextTimeout(ctx, time.Second, max(k.Patience, time.Millisecond), true, func(context.Context) (bool, error) {
		refusal = k.allowed(ctx, f) // a question may outlast the patience, and its answer counts
		return refusal == nil, nil
	})
	if refusal == nil {
		return err
	}
	return refusal
}

func (k KubeProxy) allowed(ctx context.Context, f *kernel.Finder) error {
	if k.Force {
		return nil
	}
	seen, err := kubeproxy.Look(ctx, f)
	if err != nil {
		return err
	}
	if seen.Running {
		return ErrKubeProxyRuns
	}
	there, err := f.HasTable(ServiceTable)
	if err == nil && !there {
		return ErrNoServices
	}
	return err
}

// Args of the command that does the same on another node.
func (k KubeProxy) Args() []string {
	args := []string{"cleanup", "kube-proxy", "--patience=" + k.Patience.String()}
	if k.DryRun {
		args = append(args, "--dry-run")
	}
	if k.Force {
		args = append(args, "--force")
	}
	return args
}

// Folders of the node that it needs: none, the kernel is all.
func (k KubeProxy) Folders() []string { return nil }
