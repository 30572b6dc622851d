//go:build linux

package nft

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
)

// Subscribe tells on the channel when another program has changed or deleted our table, or when
// events were lost; several at once are told as one. Our own transactions are known by the port of
// their socket, which the kernel writes into each event. It ends, and closes the channel, with ctx.
// Only one subscription may run at a time.
func (k *Kernel) Subscribe(ctx context.Context) (<-chan struct{}, error) {
	out, err := k.events.Subscribe(ctx, k.concerns, func() {
		k.strangers.Add(1)
		k.forget()
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to nftables events: %w", err)
	}
	return out, nil
}

// concerns finds a stranger's change of our table. In every nftables message the first attribute
// type names the table. A stranger's change of any table is one that a transaction of ours may have to wait for.
func (k *Kernel) concerns(m wire.Message) bool {
	if m.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Port == k.conn.Port() {
		return false
	}
	k.conn.Patiently()
	return m.Type&0xff != unix.NFT_MSG_NEWGEN && len(m.Data) > netfilterHeader && m.Data[0] == families[k.family] &&
		wire.String(wire.Find(payload(m.Data), unix.NFTA_TABLE_NAME)) == k.name
}
