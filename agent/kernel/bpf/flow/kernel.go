//go:build linux

package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// Wanted is the full wanted state.
type Wanted struct {
	// Links that lead into the fast path, by the kernel's numbers, sorted.
	Links []int
	// Pods that it leads to, and whose packets it takes, sorted.
	Pods  []state.FlowPod
	Fresh state.FlowFresh
}

// Kernel is the fast path in the kernel. Forget and VoidEchoes may be called at any time, the others one by one.
type Kernel struct {
	nl *netlink.Handle

	mu      sync.Mutex
	objects *objects // nil until Apply has something to attach
	pods    []state.FlowPod
	// forgotten are the links named since the last Observe.
	forgotten map[string]bool
}

// Open works in the network namespace of the calling thread, and changes nothing yet.
func Open() (*Kernel, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink handle: %w", err)
	}
	return &Kernel{nl: nl, forgotten: map[string]bool{}}, nil
}

// Close gives the descriptors back. The programs go on in their places.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nl.Close()
	if k.objects != nil {
		k.objects.Close()
	}
	return nil
}

// Observe lists the host ends of Pods, sorted by number. What is wanted has to be decided after it.
func (k *Kernel) Observe(ctx context.Context) ([]state.FlowLink, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	clear(k.forgotten)
	k.mu.Unlock()
	all, err := observe(k.nl)
	out := make([]state.FlowLink, 0, len(all))
	for _, s := range all {
		out = append(out, s.FlowLink)
	}
	slices.SortFunc(out, func(a, b state.FlowLink) int { return a.Index - b.Index })
	return out, err
}

// Forget takes a Pod that is about to go out of the fast path, at once. It stays out until after the
// next Observe, whatever is wanted: that was decided when the Pod was still there.
func (k *Kernel) Forget(a state.Attachment) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgotten[a.HostLink] = true
	if k.objects == nil {
		return nil
	}
	var faults []error
	for _, ip := range a.Addresses {
		faults = append(faults, k.objects.remove(ip.Unmap()))
	}
	k.pods = slices.DeleteFunc(k.pods, func(p state.FlowPod) bool { return slices.Contains(a.Addresses, p.Addr) })
	return errors.Join(append(faults, k.objects.voidEchoes())...)
}

// VoidEchoes has every echo ask the rules again that took the fast path: what is allowed has changed. The rules have to
// be in force, and connection tracking to be marked, before. It may be called at any time.
func (k *Kernel) VoidEchoes() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects == nil {
		return nil
	}
	return k.objects.voidEchoes()
}

// Apply makes the fast path what is wanted. What is refused for one Pod does not hold up the others.
func (k *Kernel) Apply(ctx context.Context, w Wanted) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := k.ensure(w); err != nil || k.objects == nil {
		return err
	}
	all, err := observe(k.nl)
	if err != nil {
		return err
	}
	faults := []error{k.objects.setFresh(w.Fresh), k.keep(w.Pods)}
	for _, c := range plan(all, w.Links, k.objects.programs) {
		switch c.act {
		case attach:
			faults = append(faults, all[c.link].attach(k.nl, c.hook, k.objects))
		case detach:
			faults = append(faults, all[c.link].detach(k.nl, c.hook))
		}
	}
	return errors.Join(append(faults, k.add(w.Pods))...)
}

// ensure loads the program when it is wanted for the first time.
func (k *Kernel) ensure(w Wanted) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects != nil || len(w.Links) == 0 {
		return nil
	}
	o, err := load()
	k.objects = o
	return err
}

// keep removes the addresses that are not wanted as they are.
func (k *Kernel) keep(wanted []state.FlowPod) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var faults []error
	before := len(k.pods)
	k.pods = slices.DeleteFunc(k.pods, func(p state.FlowPod) bool {
		if slices.Contains(wanted, p) {
			return false
		}
		err := k.objects.remove(p.Addr)
		faults = append(faults, err)
		return err == nil
	})
	if len(k.pods) < before { // an address may be another Pod's next
		faults = append(faults, k.objects.voidEchoes())
	}
	return errors.Join(faults...)
}

// add puts in the addresses that are not there.
func (k *Kernel) add(wanted []state.FlowPod) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var faults []error
	for _, p := range wanted {
		if k.forgotten[p.Link] || slices.ContainsFunc(k.pods, func(have state.FlowPod) bool { return have.Addr == p.Addr }) {
			continue
		}
		if err := k.objects.put(p); err != nil {
			faults = append(faults, err)
			continue
		}
		k.pods = append(k.pods, p)
	}
	return errors.Join(faults...)
}

// Clear takes the programs out of all their places, whoever put it there.
func (k *Kernel) Clear() error {
	all, err := observe(k.nl)
	if err != nil {
		return err
	}
	var faults []error
	for _, c := range plan(all, nil, programs{}) {
		faults = append(faults, all[c.link].detach(k.nl, c.hook))
	}
	return errors.Join(faults...)
}

// Stats reads the counters, which begin with the agent.
func (k *Kernel) Stats() (Stats, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Stats{Pods: len(k.pods)}
	if k.objects == nil {
		return s, nil
	}
	s.NoEchoes = k.objects.noEchoes != nil
	var err1, err2 error
	s.Fast, err1 = k.objects.count(0)
	s.Ordinary, err2 = k.objects.count(1)
	return s, errors.Join(err1, err2)
}
