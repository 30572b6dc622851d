//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weftnet/agent/state"
)

// Config says where the balancer works.
type Config struct {
	// CgroupRoot is the cgroup (version 2) that holds the processes of the node and its Pods; see
	// FindCgroup.
	CgroupRoot string
	// PinDir is a folder on a bpf file system, ours alone; it is made where it is missing.
	PinDir string
}

// Kernel is the balancer in the kernel. Its methods may be called from several goroutines.
type Kernel struct {
	config  Config
	refuses bool

	mu      sync.Mutex
	cgroup  cgroup
	lasting map[string]*ebpf.Map
	book    *book
	ledger  *ledger
	synced  bool
	tables  *tables // nil before the first Sync that succeeds
	doubt   error   // why the tables must be made anew
}

var _ Balancer = (*Kernel)(nil)

// ErrNotSynced says that the full wanted state is not known yet.
var ErrNotSynced = errors.New("the full state has not been given yet")

// Open makes ready, and changes nothing of what balances: that begins with the first Sync.
func Open(c Config) (*Kernel, error) {
	k := &Kernel{config: c, book: newBook(), ledger: newLedger(), refuses: canRefuse()}
	var err error
	if k.cgroup, err = openCgroup(c.CgroupRoot); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.PinDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for pins: %w", err)
	}
	if err := onBPFFS(c.PinDir); err != nil {
		return nil, err
	}
	if k.lasting, err = openLasting(c.PinDir); err != nil {
		return nil, err
	}
	return k, nil
}

// Close gives the descriptors back. The programs go on.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	closeMaps(k.lasting)
	if k.tables != nil {
		k.tables.Close()
	}
	return nil
}

// Sync is the Balancer's.
func (k *Kernel) Sync(ctx context.Context, all []Wanted) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed, fault := k.book.reset(all)
	k.synced = true
	return errors.Join(fault, k.follow(ctx, changed))
}

// Set is the Balancer's.
func (k *Kernel) Set(ctx context.Context, wanted ...Wanted) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.synced {
		return ErrNotSynced
	}
	var changed []netip.AddrPort
	var faults []error
	for _, w := range wanted {
		touched, err := k.book.set(w)
		changed, faults = append(changed, touched...), append(faults, err)
	}
	return errors.Join(append(faults, k.follow(ctx, changed))...)
}

// Observe is the Balancer's.
func (k *Kernel) Observe(ctx context.Context) ([]state.SocketFrontend, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tables == nil {
		return nil, ErrNotSynced
	}
	return k.tables.read(ctx)
}

// Check makes sure that the programs are where they were put and that their tables are not in doubt,
// and puts it right. It returns what it found to be wrong, repaired or not.
func (k *Kernel) Check(ctx context.Context) (found, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.synced {
		return nil, nil
	}
	if g, err := openCgroup(k.config.CgroupRoot); err == nil {
		k.cgroup = g // removed and made again, it is another one
	}
	if k.tables == nil {
		return k.doubt, k.renew(ctx)
	}
	found = k.doubt
	for _, h := range hooks {
		found = errors.Join(found, attached(k.cgroup, h, k.tables.Programs[h.program], k.pin(h.program)))
	}
	if found == nil {
		return nil, nil
	}
	return found, k.renew(ctx)
}

func (k *Kernel) pin(name string) string { return filepath.Join(k.config.PinDir, name) }

// follow brings the tables to the book at some frontends. The ledger is ahead of the tables when
// writing fails, so then, and when the tables are too small, all of it is made anew.
func (k *Kernel) follow(ctx context.Context, changed []netip.AddrPort) error {
	if k.doubt != nil || k.tables == nil {
		return k.renew(ctx)
	}
	c := k.ledger.plan(changed, k.book.held)
	if c.empty() {
		return nil
	}
	if !c.peak.fits(k.tables.room) {
		return k.renew(ctx)
	}
	if err := k.tables.write(ctx, c); err != nil {
		return errors.Join(err, k.renew(ctx))
	}
	return nil
}

// renew makes tables of the right size, fills them, and lets the programs that read them take the
// place of the present ones. When that fails, those must not go on: they would lead to endpoints that
// are gone, and nobody would correct them. The rules in nftables serve until it succeeds.
func (k *Kernel) renew(ctx context.Context) error {
	err := k.replace(ctx)
	k.doubt = err
	if err == nil || ctx.Err() != nil { // an agent that ends leaves things as they are
		return err
	}
	for _, h := range hooks {
		detach(k.pin(h.program))
		_ = os.Remove(k.pin(h.program))
	}
	return fmt.Errorf("balancing at the socket is switched off until it can be set right: %w", err)
}

func (k *Kernel) replace(ctx context.Context) error {
	fresh := newLedger()
	c := fresh.plan(k.book.byOwner(), k.book.held)
	t, err := makeTables(roomFor(c.peak), k.refuses, k.lasting)
	if err != nil {
		return err
	}
	if err := errors.Join(t.write(ctx, c), k.makeDir()); err != nil {
		t.Close()
		return err
	}
	for _, h := range hooks {
		anew, err := attach(k.cgroup, h, t.Programs[h.program], k.pin(h.program))
		if err == nil && anew && h == release {
			err = forget(k.lasting[tableOrigins])
		}
		if err != nil {
			t.Close() // those that are attached already keep what they read
			return err
		}
	}
	if k.tables != nil {
		k.tables.Close()
	}
	k.tables, k.ledger = t, fresh
	return nil
}

// makeDir makes the folder again where somebody took it away, with the lasting tables in it.
func (k *Kernel) makeDir() error {
	if err := os.MkdirAll(k.config.PinDir, 0o700); err != nil {
		return fmt.Errorf("make the folder for pins: %w", err)
	}
	for name, m := range k.lasting {
		if _, err := os.Stat(k.pin(name)); err == nil {
			continue
		}
		if err := m.Pin(k.pin(name)); err != nil {
			return fmt.Errorf("pin table %s: %w", name, err)
		}
	}
	return nil
}
