package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/weftnet/weftnet/test/testbed/cgroup"
	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/pki"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
)

// kubeconfig is the file of a component's or a node's client configuration.
func (s *session) kubeconfig(name string) string {
	return s.Layout.Path("pki", name+".kubeconfig")
}

// certificates issues what the control plane and the nodes need.
func (s *session) certificates(state record.State) error {
	family := state.Options.Family
	if err := s.pki.ServiceAccountKey("sa"); err != nil {
		return err
	}
	for name, subject := range control.Subjects(family) {
		if err := s.pki.Issue(name, subject); err != nil {
			return err
		}
	}
	clients := []string{control.ControllerManager, control.Scheduler, "kube-proxy"}
	for _, n := range state.NodeList() {
		if err := s.pki.Issue(n.String(), nodeSubject(n, family)); err != nil {
			return err
		}
		clients = append(clients, n.String())
	}
	for _, name := range clients {
		if err := s.pki.Kubeconfig(s.kubeconfig(name), name, layout.APIServer(family)); err != nil {
			return err
		}
	}
	return s.pki.Kubeconfig(s.Layout.Kubeconfig(), "admin", layout.APIServer(family))
}

func nodeSubject(n layout.Node, family layout.Family) pki.Subject {
	subject := pki.Subject{Name: "system:node:" + n.String(), Groups: []string{"system:nodes"}, DNS: []string{n.String()}}
	for _, p := range append(n.Addrs(family), n.MovedAddrs(family)...) {
		subject.IPs = append(subject.IPs, p.Addr())
	}
	return subject
}

// startControlPlane starts what does not run of the control plane, each part
// when what it needs is there.
func (s *session) startControlPlane(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.startControl(control.Etcd); err != nil {
		return err
	}
	if err := s.startControl(control.APIServer); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	s.say("API server ready at https://%s", layout.APIServer(s.rec.State().Options.Family))
	for _, name := range []string{control.ControllerManager, control.Scheduler} {
		if err := s.startControl(name); err != nil {
			return err
		}
	}
	return nil
}

// startControl starts one program in the first node's network namespace.
func (s *session) startControl(name string) error {
	state := s.rec.State()
	if state.Control[name].Alive() {
		return nil
	}
	data := s.Layout.Path("etcd")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("make etcd's folder: %w", err)
	}
	if err := errors.Join(cgroup.Ensure(layout.ControlGroup), cgroup.Weigh(layout.ControlGroup, layout.MachineWeight)); err != nil {
		return err
	}
	p, err := proc.Start(proc.Spec{
		Path: s.Layout.Path("bin", name),
		Args: control.Args(name, control.Config{
			Family: state.Options.Family, PKI: s.pki, Data: data, Kubeconfig: s.kubeconfig,
		}),
		Dir:   "/",
		Log:   s.Layout.Log(name),
		NetNS: layout.Node(1).String(),
	})
	if err != nil {
		return err
	}
	if err := s.rec.Update(func(state *record.State) { state.Control[name] = p }); err != nil {
		return err
	}
	if err := cgroup.Enter(layout.ControlGroup, p.PID); err != nil && p.Alive() {
		return err
	}
	return nil
}

// awaitReady waits for the API server, and not for one that has ended.
func (s *session) awaitReady(ctx context.Context) error {
	client, err := s.Client()
	if err != nil {
		return err
	}
	err = proc.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		for _, name := range []string{control.Etcd, control.APIServer} {
			if !s.rec.State().Control[name].Alive() {
				return false, fmt.Errorf("%s has ended; see %s", name, s.Layout.Log(name))
			}
		}
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).DoRaw(ctx)
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	return nil
}

// stopControl ends programs of the control plane, the last one first. The API
// server may take a minute over open watches: it gets the grace period.
func (s *session) stopControl(ctx context.Context, grace time.Duration, names ...string) error {
	running := s.rec.State().Control
	var errs []error
	for _, name := range slices.Backward(control.Names()) {
		if !slices.Contains(names, name) {
			continue
		}
		if err := running[name].Stop(ctx, grace); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
