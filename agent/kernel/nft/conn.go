//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
)

// message is one step of a transaction.
type message struct {
	typ    uint16 // NFT_MSG_*
	flags  uint16 // beyond NLM_F_REQUEST
	family byte
	data   []byte
	// what tells a person which step this is, should the kernel refuse it; which does so in place of it
	// where the text costs something to make.
	what  string
	which func() string
}

func (m message) String() string {
	if m.which != nil {
		return m.which()
	}
	return m.what
}

// large tells whether the kernel may have very much to do for a step, however short it is: a chain or a set goes with all that is
// in it. For an element it has little, but where that is of a verdict map (it looks through the table's chains, 1 ms for 250)
// or of a set of ranges (it copies the set, 1 ms for 20,000).
func (m message) large() bool {
	return m.typ != unix.NFT_MSG_NEWSETELEM && m.typ != unix.NFT_MSG_DELSETELEM
}

// conn is a netlink socket to nf_tables.
type conn struct{ *wire.Conn }

func dial() (*conn, error) {
	c, err := wire.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &conn{c}, nil
}

// netfilter puts netfilter's own header before the attributes.
func netfilter(family byte, resource uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	return append(b, data...)
}

const netfilterHeader = 4

// payload takes the attributes of a reply apart.
func payload(reply []byte) []wire.Attr {
	if len(reply) < netfilterHeader {
		return nil
	}
	return wire.Parse(reply[netfilterHeader:])
}

func nftType(msg uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | msg }

// batch sends the messages as one transaction and waits for its outcome. The kernel reports every
// message that it refuses, and answers the last one in any case.
func (c *conn) batch(msgs []message) error {
	if len(msgs) == 0 {
		return nil
	}
	const frame = 2 // begin and end
	last := uint32(len(msgs))
	var begin uint32
	var errs []error
	exchange := c.Exchange
	if !slices.ContainsFunc(msgs, message.large) {
		exchange = c.ExchangePromptly
	}
	err := exchange(last+frame, func(first uint32) []byte {
		begin = first
		return encodeBatch(msgs, first)
	}, func(r syscall.NetlinkMessage) bool {
		if r.Header.Type != unix.NLMSG_ERROR {
			return false
		}
		step := r.Header.Seq - begin
		if errno := wire.Errno(r); errno != 0 {
			what := "commit"
			if step > 0 && step <= last {
				what = msgs[step-1].String()
			}
			errs = append(errs, fmt.Errorf("%s: %w", what, errno))
		}
		return step == 0 || step == last
	})
	return errors.Join(append(errs, err)...)
}

func encodeBatch(msgs []message, seq uint32) []byte {
	edge := netfilter(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	b := wire.Frame(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, seq, edge)
	for i, m := range msgs {
		seq++
		flags := m.flags
		if i == len(msgs)-1 {
			flags |= unix.NLM_F_ACK
		}
		b = wire.Frame(b, nftType(m.typ), flags, seq, netfilter(m.family, 0, m.data))
	}
	return wire.Frame(b, unix.NFNL_MSG_BATCH_END, 0, seq+1, edge)
}

// query sends a request and returns its replies. With dump it lists.
func (c *conn) query(typ uint16, family byte, dump bool, request ...wire.Attr) ([][]byte, error) {
	flags := uint16(0)
	if dump {
		flags = unix.NLM_F_DUMP
	}
	return c.Do(nftType(typ), flags, netfilter(family, 0, wire.Put(nil, request...)))
}
