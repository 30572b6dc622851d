//go:build linux

package cniserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weftnet/agent/ipam"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
)

// Error codes beyond those of the specification; 100 and up are a plugin's own.
const (
	codeExhausted    = 100
	codeHostPortUsed = 101
)

// result words what ADD made, in the version that was asked for.
func result(r request, a state.Attachment, mtu int) ([]byte, error) {
	hostMAC, podMAC := pod.MACs(a.HostLink)
	const podInterface = 1
	res := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: a.HostLink, Mac: hostMAC.String(), Mtu: mtu},
			{Name: a.IfName, Mac: podMAC.String(), Mtu: mtu, Sandbox: r.Netns},
		},
		DNS: r.conf.DNS,
	}
	for _, ip := range a.Addresses {
		gateway := pod.Gateway(ip).AsSlice()
		zero := netip.PrefixFrom(ip, 0).Masked()
		res.IPs = append(res.IPs, &types100.IPConfig{
			Interface: types100.Int(podInterface), Address: ipNet(netip.PrefixFrom(ip, ip.BitLen())), Gateway: gateway,
		})
		res.Routes = append(res.Routes, &types.Route{Dst: ipNet(zero), GW: gateway})
	}
	asked, err := res.GetAsVersion(r.conf.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("word the result in CNI version %s: %w", r.conf.CNIVersion, err)
	}
	out, err := json.MarshalIndent(asked, "", "    ")
	if err != nil {
		return nil, fmt.Errorf("format the result: %w", err)
	}
	return append(out, '\n'), nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// previous reads the addresses of a result that the runtime hands back on CHECK.
func previous(r request) ([]netip.Addr, *types.Error) {
	if len(r.conf.PrevResult) == 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult in the configuration", "")
	}
	var prev struct {
		IPs []struct {
			Address string `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(r.conf.PrevResult, &prev); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult is not a CNI result", err.Error())
	}
	var out []netip.Addr
	for _, ip := range prev.IPs {
		p, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "prevResult has a bad address", err.Error())
		}
		out = append(out, p.Addr().Unmap())
	}
	return out, nil
}

// cniError words an error for the runtime. What the agent cannot do now but may soon is code 11: the
// kubelet tries again either way, and says why.
func cniError(doing string, err error) *types.Error {
	var known *types.Error
	if errors.As(err, &known) {
		return known
	}
	var exhausted *ipam.ExhaustedError
	var conflict *conflictError
	switch {
	case errors.Is(err, ErrTryAgain):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	case errors.As(err, &exhausted) && exhausted.Cooling > 0:
		return types.NewError(types.ErrTryAgainLater, err.Error(), "released addresses rest before their next pod")
	case errors.As(err, &exhausted):
		return types.NewError(codeExhausted, err.Error(), "the node's pod CIDRs are full: delete pods, or give the node another block (IPPool blockSize)")
	case errors.As(err, &conflict):
		return types.NewError(codeHostPortUsed, err.Error(), "")
	case errors.Is(err, ipam.ErrNoBlocks):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "the Weftnet operator has not allocated any, or this agent has not heard of it")
	case errors.Is(err, pod.ErrInUse):
		return types.NewError(types.ErrInvalidNetNS, doing+": "+err.Error(), "")
	default:
		return types.NewError(types.ErrInternal, doing+": "+err.Error(), "")
	}
}
