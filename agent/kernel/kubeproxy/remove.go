//go:build linux

package kubeproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// perTransaction bounds the chains that one transaction flushes or deletes: the kernel takes a
// batch only as large as the socket's buffer.
const perTransaction = 400

// Remove removes what was found. The jumps of a table go in one transaction, so that kube-proxy's
// rules end at one moment; what is then dead is cleared away in pieces. What is gone already is
// fine, and what cannot be removed does not keep the rest from going.
func (f *Finder) Remove(ctx context.Context, found Rules) error {
	var faults []error
	for _, t := range found.tables {
		faults = append(faults, wrap(fmt.Sprintf("delete table %s %s", familyName(t.Family), t.Name), f.commit(ctx, func() { f.nft.DelTable(t) })))
	}
	for _, s := range found.shared {
		faults = append(faults, wrap(fmt.Sprintf("clear table %s %s", familyName(s.table.Family), s.table.Name), f.removeShared(ctx, s)))
	}
	if found.link != nil {
		faults = append(faults, wrap("delete link "+ipvsLink, f.nl.LinkDel(found.link)))
	}
	return errors.Join(faults...)
}

func (f *Finder) removeShared(ctx context.Context, s shared) error {
	err := f.commit(ctx, func() {
		for _, r := range s.jumps {
			_ = f.nft.DelRule(r) // errs only on a rule without a handle, and these were listed
		}
	})
	if err != nil {
		return fmt.Errorf("delete the jumps: %w", err)
	}
	// Chains lead to each other: all are emptied before the first goes.
	for some := range slices.Chunk(s.chains, perTransaction) {
		if err := f.commit(ctx, func() { each(some, f.nft.FlushChain) }); err != nil {
			return fmt.Errorf("flush chains: %w", err)
		}
	}
	for some := range slices.Chunk(s.chains, perTransaction) {
		if err := f.commit(ctx, func() { each(some, f.nft.DelChain) }); err != nil {
			return fmt.Errorf("delete chains: %w", err)
		}
	}
	return nil
}

func each(chains []*nftables.Chain, do func(*nftables.Chain)) {
	for _, c := range chains {
		do(c)
	}
}

func (f *Finder) commit(ctx context.Context, fill func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fill()
	return f.nft.Flush()
}
