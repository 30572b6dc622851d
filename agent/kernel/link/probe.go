package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeName is the link that the probe makes and removes at once. One left over by a crash is
// removed by Diff.
const probeName = "weftx"

// Answer is what a probe found.
type Answer int

// The answers. Unknown is the zero value: who has not asked does not know.
const (
	Unknown Answer = iota
	Yes
	No
)

// String is the answer in words.
func (a Answer) String() string {
	switch a {
	case Yes:
		return "yes"
	case No:
		return "no"
	case Unknown:
	}
	return "could not tell"
}

// Probe is an answer and the reason for it, as a person would want to read it in a condition.
type Probe struct {
	Answer Answer
	Reason string
}

// String is the answer and its reason.
func (p Probe) String() string { return fmt.Sprintf("%s: %s", p.Answer, p.Reason) }

// ProbeWireGuard finds out whether the kernel has WireGuard, by making a WireGuard link, which also
// loads the module where there is one. The link is gone again when it returns.
func (k *Kernel) ProbeWireGuard(ctx context.Context) Probe {
	if err := ctx.Err(); err != nil {
		return Probe{Unknown, err.Error()}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = probeName
	l := &netlink.Wireguard{LinkAttrs: attrs}
	err := k.nl.LinkAdd(l)
	if err == nil || errors.Is(err, unix.EEXIST) {
		if err := k.remove(probeName); err != nil {
			return Probe{Yes, fmt.Sprintf("kernel %s makes WireGuard links, but the probe's could not be removed: %v", release(), err)}
		}
	}
	return probeResult(err)
}

func probeResult(err error) Probe {
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return Probe{Yes, fmt.Sprintf("kernel %s makes WireGuard links", release())}
	case errors.Is(err, unix.EOPNOTSUPP):
		return Probe{No, fmt.Sprintf("kernel %s has no WireGuard (part of Linux since 5.6, as the module wireguard)", release())}
	case errors.Is(err, unix.EPERM):
		return Probe{Unknown, "not allowed to make links: CAP_NET_ADMIN is missing"}
	}
	return Probe{Unknown, fmt.Sprintf("make a WireGuard link: %v", err)}
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}
