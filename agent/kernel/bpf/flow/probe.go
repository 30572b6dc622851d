//go:build linux

package flow

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
)

// Probe finds out whether this kernel takes the programs, by loading them.
func Probe() link.Probe {
	o, err := load()
	if err != nil {
		return answer(err)
	}
	defer o.Close()
	p := answer(nil)
	if o.noEchoes != nil {
		p.Reason = fmt.Sprintf("tried, and it works, but for echoes of ICMP (%s): %v", neededByEchoes, o.noEchoes)
	}
	return p
}

const needed = "Linux 5.18 with CONFIG_NF_CONNTRACK, CONFIG_DEBUG_INFO_BTF and CONFIG_NET_CLS_BPF is needed, and the module nf_conntrack"

const neededByEchoes = "Linux 6.2 is needed"

func answer(err error) link.Probe {
	var refused *ebpf.VerifierError
	switch {
	case err == nil:
		return link.Probe{Answer: link.Yes, Reason: "tried, and it works"}
	case errors.Is(err, unix.EPERM) && !errors.As(err, &refused):
		return link.Probe{Answer: link.Unknown, Reason: fmt.Sprintf("not allowed to try (CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or CAP_SYS_ADMIN, are needed): %v", err)}
	}
	return link.Probe{Answer: link.No, Reason: fmt.Sprintf("this kernel does not take the program (%s): %v", needed, err)}
}
