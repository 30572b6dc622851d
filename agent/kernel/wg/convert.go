package wg

import (
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weftnet/agent/state"
)

func peerFrom(raw *wgtypes.Peer) state.Peer {
	p := state.Peer{
		PublicKey:    state.PublicKey(raw.PublicKey),
		Endpoint:     addrPort(raw.Endpoint),
		Keepalive:    raw.PersistentKeepaliveInterval,
		PresharedKey: state.NewPresharedKey(raw.PresharedKey),
		AllowedIPs:   make([]netip.Prefix, 0, len(raw.AllowedIPs)),
	}
	for _, n := range raw.AllowedIPs {
		if prefix, ok := prefixFrom(n); ok {
			p.AllowedIPs = append(p.AllowedIPs, prefix)
		}
	}
	return p
}

// addrPort drops the IPv4-in-IPv6 form, which net.UDPAddr does not tell apart from IPv4.
func addrPort(a *net.UDPAddr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func prefixFrom(n net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones), ok && bits == addr.BitLen()
}

func ipNets(prefixes []netip.Prefix) []net.IPNet {
	nets := make([]net.IPNet, len(prefixes))
	for i, p := range prefixes {
		nets[i] = net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	}
	return nets
}

// configFrom lists the peers that gain before those that lose, and removals last: an allowed IP
// that moves is taken over by its new peer, and at no time without one.
func configFrom(change Change) wgtypes.Config {
	var config wgtypes.Config
	if !change.PrivateKey.IsZero() {
		key := wgtypes.Key(change.PrivateKey.Reveal())
		config.PrivateKey = &key
	}
	if change.ListenPort != 0 {
		port := int(change.ListenPort)
		config.ListenPort = &port
	}
	config.Peers = make([]wgtypes.PeerConfig, 0, len(change.Set)+len(change.Remove))
	for _, losing := range []bool{false, true} {
		for i := range change.Set {
			if c := &change.Set[i]; (c.ReplaceAllowedIPs && !c.Create) == losing {
				config.Peers = append(config.Peers, peerConfig(c))
			}
		}
	}
	for _, key := range change.Remove {
		config.Peers = append(config.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true, UpdateOnly: true})
	}
	return config
}

func peerConfig(c *PeerChange) wgtypes.PeerConfig {
	config := wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(c.PublicKey),
		// A peer that somebody removes meanwhile must not come back with half of its settings.
		UpdateOnly:        !c.Create,
		ReplaceAllowedIPs: c.ReplaceAllowedIPs,
		AllowedIPs:        ipNets(c.AllowedIPs),
	}
	if c.Endpoint.IsValid() {
		config.Endpoint = net.UDPAddrFromAddrPort(c.Endpoint)
	}
	if c.SetKeepalive {
		keepalive := c.Keepalive.Truncate(time.Second)
		config.PersistentKeepaliveInterval = &keepalive
	}
	if c.SetPresharedKey {
		key := wgtypes.Key(c.PresharedKey.Reveal())
		config.PresharedKey = &key
	}
	return config
}
