//go:build linux

package wire

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noop is a message that the kernel only acknowledges.
func noop(seq uint32) []byte { return Frame(nil, unix.NLMSG_NOOP, unix.NLM_F_ACK, seq, nil) }

// TestExchangePromptly : answers are the same as those of an ordinary exchange, and a fault is told at once.
func TestExchangePromptly(t *testing.T) {
	c, err := Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	for name, exchange := range map[string]func(uint32, func(uint32) []byte, func(syscall.NetlinkMessage) bool) error{
		"ordinary": c.Exchange, "prompt": c.ExchangePromptly,
	} {
		answers := 0
		err := exchange(1, noop, func(m syscall.NetlinkMessage) bool {
			answers++
			return m.Header.Type == unix.NLMSG_ERROR && Errno(m) == 0
		})
		if err != nil || answers != 1 {
			t.Errorf("%s: %d answers, %v", name, answers, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.ExchangePromptly(1, noop, func(syscall.NetlinkMessage) bool { return true }); !errors.Is(err, unix.EBADF) {
		t.Errorf("on a closed socket: %v", err)
	}
}

// TestPromptExchangeThatTakesLong is the last for a while. The time between the looks at the clock is what counts, and
// here nothing else is in it than that the clock is ahead.
func TestPromptExchangeThatTakesLong(t *testing.T) {
	c, err := Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := func(syscall.NetlinkMessage) bool { return true }
	began := time.Now()
	now := []time.Time{began, began.Add(promptLimit + 1)}
	c.clock = func() time.Time {
		first := now[0]
		if len(now) > 1 {
			now = now[1:]
		}
		return first
	}
	if err := c.ExchangePromptly(1, noop, done); err != nil {
		t.Fatal(err)
	}
	if c.eager.may(1, began.Add(promptLimit+2)) {
		t.Error("the next is sent promptly, too")
	}
	if err := c.ExchangePromptly(1, noop, done); err != nil {
		t.Error(err)
	}
}
