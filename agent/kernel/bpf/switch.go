//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/state"
)

// SwitchConfig says where a Switch looks and whether it may.
type SwitchConfig struct {
	// On allows balancing where the kernel can; otherwise what an earlier agent left is removed.
	On bool
	// CgroupMount is where the node's cgroups are mounted, of both versions or of the second alone.
	CgroupMount string
	// Cgroup is the group below the root of version 2 that holds the node's processes and Pods; empty
	// for the root itself.
	Cgroup string
	PinDir string
}

// Switch is the balancer of a node that may have none: where it is switched off or the kernel cannot,
// it takes everything and does nothing, and the rules in nftables serve.
type Switch struct {
	config SwitchConfig

	mu     sync.Mutex
	asked  bool
	probe  link.Probe
	kernel *Kernel
	last   error // of the latest call
}

var _ Balancer = (*Switch)(nil)

// NewSwitch does nothing yet: the first Sync looks, since until then what an earlier agent left goes on.
func NewSwitch(c SwitchConfig) *Switch { return &Switch{config: c} }

// Sync is the Balancer's. The first one finds out whether there can be a balancer, for good.
func (s *Switch) Sync(ctx context.Context, all []Wanted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		s.last = s.ask()
		s.asked = true
	}
	if s.kernel != nil {
		s.last = s.kernel.Sync(ctx, all)
	}
	return s.last
}

// Set is the Balancer's.
func (s *Switch) Set(ctx context.Context, wanted ...Wanted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		return ErrNotSynced
	}
	if s.kernel != nil {
		s.last = s.kernel.Set(ctx, wanted...)
	}
	return s.last
}

// Observe is the Balancer's.
func (s *Switch) Observe(ctx context.Context) ([]state.SocketFrontend, error) {
	if k := s.open(); k != nil {
		return k.Observe(ctx)
	}
	return nil, nil
}

// Check is Kernel's.
func (s *Switch) Check(ctx context.Context) (found, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		return nil, nil
	}
	found, err = s.kernel.Check(ctx)
	if found != nil {
		s.last = err
	}
	return found, err
}

// Close gives descriptors back; what balances goes on.
func (s *Switch) Close() error {
	if k := s.open(); k != nil {
		return k.Close()
	}
	return nil
}

func (s *Switch) open() *Kernel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kernel
}

// ask finds out, and removes what is pinned where nobody would keep it up to date.
func (s *Switch) ask() error {
	c, err := s.find()
	switch {
	case !s.config.On:
		s.probe = link.Probe{Answer: link.Unknown, Reason: "switched off"}
	case err != nil:
		s.probe = link.Probe{Answer: link.No, Reason: err.Error()}
	default:
		s.probe = Probe(c)
	}
	if s.probe.Answer == link.Yes {
		if s.kernel, err = Open(c); err == nil {
			return nil
		}
		s.probe = link.Probe{Answer: link.Unknown, Reason: err.Error()}
	}
	if _, err := Remove(s.config.PinDir); err != nil {
		return fmt.Errorf("remove the balancer of an earlier agent: %w", err)
	}
	return nil
}

func (s *Switch) find() (Config, error) {
	root, err := FindCgroup(s.config.CgroupMount)
	return Config{CgroupRoot: filepath.Join(root, s.config.Cgroup), PinDir: s.config.PinDir}, err
}

// Report is what a Switch does, for status and metrics.
type Report struct {
	// Asked says that the answer is known.
	Asked bool
	// On says that connections are balanced at the socket; Allowed that they may be.
	On, Allowed bool
	// Reason says why, in words; Failing that it should be on and is not in order, for Err.
	Reason  string
	Failing bool
	Err     error
	Stats
}

// Report tells what is going on.
func (s *Switch) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Report{Asked: s.asked, Allowed: s.config.On, Reason: s.probe.String()}
	if !s.config.On {
		r.Reason = s.probe.Reason
	}
	err := s.last
	if s.kernel != nil {
		var fault error
		r.Stats, fault = s.kernel.Stats()
		err = errors.Join(err, fault)
		r.On = s.kernel.inForce()
	}
	if err != nil {
		r.Failing, r.Err, r.Reason = true, err, err.Error()
	}
	return r
}

// inForce says that the programs work with tables that are as wanted.
func (k *Kernel) inForce() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tables != nil && k.doubt == nil
}
