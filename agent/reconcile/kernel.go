//go:build linux

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/node"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/kernel/route"
	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/state"
)

// RealKernel is the kernel of the network namespace in which OpenKernel was called.
type RealKernel struct {
	node   *node.Kernel
	link   *link.Kernel
	wg     *wg.Kernel
	route  *route.Kernel
	nft    *nft.Kernel
	sysctl *sysctl.Kernel
	pods   *pod.Kernel
}

// OpenKernel opens every socket in the network namespace of the calling thread. It changes nothing.
func OpenKernel(procSysNet string) (*RealKernel, error) {
	k := &RealKernel{}
	var errs [7]error
	k.node, errs[0] = node.New(procSysNet)
	k.link, errs[1] = link.New()
	k.wg, errs[2] = wg.New()
	k.route, errs[3] = route.New()
	k.nft, errs[4] = nft.New()
	k.sysctl, errs[5] = sysctl.New(procSysNet)
	k.pods, errs[6] = pod.New(pod.Config{ProcSysNet: procSysNet})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("open the kernel: %w", err)
	}
	return k, nil
}

// Close gives the sockets back and changes nothing.
func (k *RealKernel) Close() error {
	k.node.Close()
	k.link.Close()
	return errors.Join(k.wg.Close(), k.route.Close(), k.nft.Close(), k.pods.Close())
}

// Kernel is what the loop works on.
func (k *RealKernel) Kernel() Kernel {
	return Kernel{Node: k.node, Pods: k.pods, Link: k.link, WG: k.wg, Route: k.route, NFT: k.nft, Sysctl: settings{k.sysctl}}
}

// Acquaint tells the mesh's table and others of this agent of each other, so that none hears what another writes.
func (k *RealKernel) Acquaint(others ...*nft.Kernel) error {
	return nft.Acquaint(append(others, k.nft)...)
}

// Dropped tells, by name of each mesh link, the packets that it did not take.
func (k *RealKernel) Dropped(ctx context.Context) (map[string]uint64, error) {
	return k.link.Dropped(ctx)
}

// Counters reads the counters of the fail-closed table.
func (k *RealKernel) Counters(ctx context.Context) (map[string]nft.Counter, error) {
	return k.nft.Counters(ctx)
}

type settings struct{ *sysctl.Kernel }

func (s settings) Ensure(ctx context.Context, want []state.Sysctl) (Change, error) {
	return s.Kernel.Ensure(ctx, want)
}

// Watch subscribes to the events of links, routes and the table. When one subscription ends, all
// are ended and the loop is told, which then calls Watch again.
func (k *RealKernel) Watch(ctx context.Context, wake func(Kind)) error {
	ctx, cancel := context.WithCancel(ctx)
	links, err := k.link.Subscribe(ctx)
	if err != nil {
		cancel()
		return err
	}
	routes, err := k.route.Subscribe(ctx)
	if err != nil {
		cancel()
		return err
	}
	table, err := k.nft.Subscribe(ctx)
	if err != nil {
		cancel()
		return err
	}
	// Once, though all three end together: a second Watch would meet the subscriptions of the first.
	ended := sync.OnceFunc(func() {
		if ctx.Err() == nil {
			wake(KindBroken)
		}
		cancel()
	})
	go relay(links, kindOf, wake, ended)
	go relay(routes, func(struct{}) Kind { return KindRoutes }, wake, ended)
	go relay(table, func(struct{}) Kind { return KindTable }, wake, ended)
	return nil
}

// kindOf is what a change of links may have changed. Where only Pods' have, the mesh need not look
// at its own.
func kindOf(e link.Event) Kind {
	if len(e.Links) == 0 && !e.Lost {
		return KindRoutes
	}
	return KindLinks | KindRoutes
}

func relay[E any](events <-chan E, kind func(E) Kind, wake func(Kind), ended func()) {
	for e := range events {
		wake(kind(e))
	}
	ended()
}
